//! From the shards' words to the control side's.

use std::time::{Instant, SystemTime};

use block::{CountedOp, Stage};
use nvme_target::ConfigError;
use sdk::block::{IoError, OpenError};
use uuid::Uuid;

use crate::control::dataplane::{ControllerInfo, DeviceHandle, InflightIo, Problem, ProblemKind};
use crate::shard::{ListedController, ListedIo, ShardError, WaitFor, Whereabouts};

/// Why a device did not open.
pub(super) fn open_problem(error: &OpenError) -> Problem {
    let kind = match error {
        OpenError::Uri(_) => ProblemKind::InvalidUri,
        OpenError::NotFound(_) => ProblemKind::NotFound,
        OpenError::InUse { .. } => ProblemKind::Busy,
        OpenError::Unsuitable { .. } => ProblemKind::InvalidArgument,
        OpenError::NoRoom { .. } => ProblemKind::ResourceExhausted,
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

/// A command in flight. `stages` ends with the one it is in.
pub(super) fn inflight(listed: ListedIo, device: Option<DeviceHandle>) -> InflightIo {
    let ListedIo {
        place, origin, now, ..
    } = listed;
    let (received, waits) = match &place {
        Whereabouts::Device(io) => (io.received, io.waits),
        Whereabouts::Waiting {
            received, waits, ..
        } => (*received, *waits),
    };
    let age = now.saturating_duration_since(received);
    let mut stages = Vec::new();
    // A command waits for a buffer first, and with that in hand for the host's data.
    if waits.buffer_us > 0 {
        stages.push(("buffer".to_owned(), waits.buffer()));
    }
    if waits.host_data_us > 0 {
        stages.push(("host_data".to_owned(), waits.buffer() + waits.host_data()));
    }
    let (operation, range) = match place {
        Whereabouts::Device(io) => {
            let submitted = io.submitted.saturating_duration_since(received);
            stages.push(("submitted".to_owned(), submitted));
            match io.stage {
                Stage::Waiting => stages.push(("waiting".to_owned(), age)),
                Stage::Device => {}
                Stage::Overdue => stages.push(("overdue".to_owned(), age)),
            }
            (io.op.name(), Some(io.range))
        }
        Whereabouts::Waiting { on, op, .. } => {
            let stage = match on {
                WaitFor::Buffer => "waits_for_buffer",
                WaitFor::HostData => "waits_for_host_data",
            };
            stages.push((stage.to_owned(), age));
            // Opcodes mean something else on an admin queue.
            let is_admin = origin.as_ref().is_some_and(|origin| origin.qid == 0);
            let op = op.filter(|_| !is_admin);
            (op.map_or("other", CountedOp::name), None)
        }
    };
    let origin = origin.unwrap_or_default();
    InflightIo {
        subnqn: origin.subnqn,
        hostnqn: origin.hostnqn,
        cntlid: origin.cntlid,
        qid: origin.qid,
        cid: origin.cid,
        nsid: origin.nsid,
        device,
        operation: operation.to_owned(),
        lba: range.map_or(0, |range| range.start.0),
        blocks: range.map_or(0, |range| u32::try_from(range.count.0).unwrap_or(u32::MAX)),
        stages,
        age,
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
