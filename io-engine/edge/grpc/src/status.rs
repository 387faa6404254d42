//! From problems to gRPC status codes: the one place where they are translated.

use engine::control::dataplane::{Problem, ProblemKind};
use tonic::Status;

/// What was being done. Opening a device answers as upstream does, whose clients tell only a few codes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Opening a device: whatever is not "missing" or "exists" is the caller's URI at fault.
    OpenDevice,
    /// Anything else.
    Other,
}

/// The status of a problem met while doing something. The message is the problem's sentence.
pub(crate) fn status(doing: Doing, problem: &Problem) -> Status {
    use ProblemKind as Kind;
    let text = problem.to_string();
    match (problem.kind(), doing) {
        (Kind::InvalidUri | Kind::InvalidArgument, _) => Status::invalid_argument(text),
        (Kind::NotFound, _) => Status::not_found(text),
        (Kind::AlreadyExists, _) => Status::already_exists(text),
        (
            Kind::Busy
            | Kind::PermissionDenied
            | Kind::ResourceExhausted
            | Kind::Unsupported
            | Kind::Timeout
            | Kind::Internal,
            Doing::OpenDevice,
        ) => Status::invalid_argument(text),
        // Whatever was asked for, it is not the request's fault.
        (Kind::NotStored, _) => Status::internal(text),
        (Kind::StoreFull, _) => Status::resource_exhausted(text),
        (Kind::Busy | Kind::Unsupported, Doing::Other) => Status::failed_precondition(text),
        (Kind::PermissionDenied, Doing::Other) => Status::permission_denied(text),
        (Kind::ResourceExhausted, Doing::Other) => Status::resource_exhausted(text),
        (Kind::Timeout, Doing::Other) => Status::deadline_exceeded(text),
        (Kind::Internal, Doing::Other) => Status::internal(text),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_store_that_cannot_be_written_is_not_the_callers_fault() {
        let code = |doing, kind| status(doing, &Problem::new(kind, "x")).code();
        for doing in [Doing::OpenDevice, Doing::Other] {
            assert_eq!(code(doing, ProblemKind::NotStored), Code::Internal);
            assert_eq!(code(doing, ProblemKind::StoreFull), Code::ResourceExhausted);
        }
        assert_eq!(
            code(Doing::OpenDevice, ProblemKind::Busy),
            Code::InvalidArgument
        );
    }
}
