//! Why an association did not come up, or ended.

use crate::association::Step;
use nvme_spec::Status;

/// What went wrong, with the step it went wrong at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The controller completed the command of this step with an error.
    StepRefused {
        /// The step.
        step: Step,
        /// Its status.
        status: Status,
        /// Its result; for Connect it tells which parameter was refused.
        result: u64,
    },
    /// The controller sent fewer bytes than the data structure has, or they failed their digest.
    StepDataInvalid {
        /// The step.
        step: Step,
    },
    /// No completion within the command timeout.
    StepTimeout {
        /// The step.
        step: Step,
    },
    /// CSTS.RDY did not follow CC.EN in the time CAP.TO names.
    ControllerNotReady,
    /// CSTS.CFS: the controller reports a fatal status.
    ControllerFatal,
    /// The controller wants authentication, which this initiator does not speak.
    AuthenticationRequired,
    /// Keep Alive was refused or not answered: the association is over.
    KeepAliveFailed,
    /// A completion for a command that was not sent.
    CompletionUnknown {
        /// Its queue.
        qid: u16,
        /// Its command identifier.
        cid: u16,
    },
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::StepRefused {
                step,
                status,
                result,
            } => write!(
                f,
                "{}: refused with status {status}, result {result:#x}",
                step.name()
            ),
            Self::StepDataInvalid { step } => {
                write!(f, "{}: data is short or corrupt", step.name())
            }
            Self::StepTimeout { step } => write!(f, "{}: no answer in time", step.name()),
            Self::ControllerNotReady => f.write_str("controller did not become ready in time"),
            Self::ControllerFatal => f.write_str("controller reports a fatal status"),
            Self::AuthenticationRequired => f.write_str("controller requires authentication"),
            Self::KeepAliveFailed => f.write_str("keep alive failed"),
            Self::CompletionUnknown { qid, cid } => {
                write!(f, "completion of unknown command {cid} on queue {qid}")
            }
        }
    }
}

impl core::error::Error for Error {}
