//! From the shards' words to the control side's.

use std::time::{Instant, SystemTime};

use block::Stage;
use nvme_target::ConfigError;
use sdk::block::{IoError, OpenError};
use uuid::Uuid;

use crate::control::dataplane::{ControllerInfo, DeviceHandle, InflightIo, Problem, ProblemKind};
use crate::shard::{ListedController, ListedIo, ShardError};

/// Why a device did not open.
pub(super) fn open_problem(error: &OpenError) -> Problem {
    let kind = match error {
        OpenError::Uri(_) => ProblemKind::InvalidUri,
        OpenError::NotFound(_) => ProblemKind::NotFound,
        OpenError::InUse { .. } => ProblemKind::Busy,
        OpenError::Unsuitable { .. } => ProblemKind::InvalidArgument,
        OpenError::System { source, .. } => match source.kind() {
            std::io::ErrorKind::PermissionDenied => ProblemKind::PermissionDenied,
            std::io::ErrorKind::NotFound => ProblemKind::NotFound,
            std::io::ErrorKind::OutOfMemory => ProblemKind::ResourceExhausted,
            _ => ProblemKind::Internal,
        },
        // OpenError may grow; a new kind is an internal error until it is mapped here.
        _ => ProblemKind::Internal,
    };
    Problem::new(kind, error.to_string())
}

/// Why a shard refused something about `object`.
pub(super) fn shard_problem(object: &str, error: ShardError) -> Problem {
    let (kind, reason) = match error {
        ShardError::Busy(count) => (
            ProblemKind::Busy,
            format!("{count} operations are in flight; try again when they have ended"),
        ),
        ShardError::Device(IoError::Busy) => (
            ProblemKind::ResourceExhausted,
            "the reactor's tables are full".to_owned(),
        ),
        ShardError::Device(error) => (ProblemKind::Internal, error.to_string()),
        ShardError::Target(error) => {
            let kind = match error {
                ConfigError::NqnExists | ConfigError::NsidExists => ProblemKind::AlreadyExists,
                ConfigError::SubsystemUnknown | ConfigError::NamespaceUnknown => {
                    ProblemKind::NotFound
                }
                ConfigError::SubsystemsFull | ConfigError::HostsTooMany => {
                    ProblemKind::ResourceExhausted
                }
                _ => ProblemKind::InvalidArgument,
            };
            (kind, error.to_string())
        }
    };
    Problem::new(kind, format!("'{object}': {reason}"))
}

/// An I/O in flight.
pub(super) fn inflight(listed: ListedIo, device: Option<DeviceHandle>) -> InflightIo {
    let ListedIo {
        io, origin, now, ..
    } = listed;
    let mut stages = Vec::new();
    // A command waits for a buffer first, and with that in hand for the host's data.
    if io.waits.buffer_us > 0 {
        stages.push(("buffer".to_owned(), io.waits.buffer()));
    }
    if io.waits.host_data_us > 0 {
        let at = io.waits.buffer() + io.waits.host_data();
        stages.push(("host_data".to_owned(), at));
    }
    stages.push((
        "submitted".to_owned(),
        io.submitted.saturating_duration_since(io.received),
    ));
    match io.stage {
        Stage::Waiting => stages.push((
            "waiting".to_owned(),
            now.saturating_duration_since(io.received),
        )),
        Stage::Device => {}
        Stage::Overdue => stages.push((
            "overdue".to_owned(),
            now.saturating_duration_since(io.received),
        )),
    }
    let origin = origin.unwrap_or_default();
    InflightIo {
        subnqn: origin.subnqn,
        hostnqn: origin.hostnqn,
        cntlid: origin.cntlid,
        qid: origin.qid,
        cid: origin.cid,
        nsid: origin.nsid,
        device,
        operation: io.op.name().to_owned(),
        lba: io.range.start.0,
        blocks: u32::try_from(io.range.count.0).unwrap_or(u32::MAX),
        stages,
        age: now.saturating_duration_since(io.received),
    }
}

/// A controller; `started` pairs the two clocks.
pub(super) fn controller(
    listed: ListedController,
    started: (Instant, SystemTime),
) -> ControllerInfo {
    let info = listed.info;
    ControllerInfo {
        subnqn: listed.subnqn,
        hostnqn: info.hostnqn,
        hostid: Uuid::from_bytes(info.hostid),
        cntlid: info.cntlid,
        io_queues: info.io_queues as u32,
        kato_ms: info.kato_ms,
        peer: listed.peer,
        since: started.1 + info.created.saturating_duration_since(started.0),
    }
}
