//! Features of a controller: stored values, and Get and Set Features (Base 2.0c §5.15, §5.27).
//!
//! Nothing is saveable: a value ends with its controller, but for reservation persistence, which is the namespace's.

use std::time::Instant;

use nvme_spec::event::config;
use nvme_spec::feature::{
    self as fid, CAPABILITY_CHANGEABLE, CAPABILITY_NS_SPECIFIC, FeatureCommand, HOST_BEHAVIOR_LEN,
    QueueCounts, SELECT_CURRENT, SELECT_DEFAULT, SELECT_SAVED, SELECT_SUPPORTED,
};
use nvme_spec::io::NSID_ALL;
use nvme_spec::{Sqe, Status};

use crate::command::{Extra, State};
use crate::controller::KeepAlive;
use crate::events::{DISCOVERY_EVENTS, NVM_ANA_EVENTS};
use crate::output::ReplyData;
use crate::subsystem::Kind;
use crate::target::{InCapsule, Target};
use crate::{CmdId, limits};

/// Values a host may set.
#[derive(Debug)]
pub(crate) struct Features {
    pub(crate) arbitration: u32,
    /// Workload hint; the power state is always 0.
    pub(crate) power: u32,
    /// Over- and under-temperature threshold of the composite sensor, kelvin.
    pub(crate) temperature_k: [u16; 2],
    pub(crate) write_atomicity: u32,
    /// Asynchronous event configuration.
    pub(crate) events: u32,
    /// What that is without the host having set it.
    pub(crate) events_default: u32,
    /// I/O queues granted.
    pub(crate) io_queues: u32,
    /// First bytes of the host behavior support structure: ACRE, ETDAS, LBAFEE.
    pub(crate) host_behavior: [u8; 3],
    /// Error recovery by namespace, where it is not 0.
    pub(crate) error_recovery: Vec<(u32, u32)>,
    /// Reservation notification mask by namespace, where it is not 0.
    pub(crate) reservation_mask: Vec<(u32, u32)>,
}

/// Dword 0 and data of Get Features.
type FeatureValue = (u32, Option<Box<[u8]>>);

/// Burst without limit.
const ARBITRATION_DEFAULT: u32 = 7;
/// 70 °C; the temperature reported is a constant far below.
const TEMPERATURE_OVER_DEFAULT_K: u16 = 343;
/// TMPSEL values that mean the composite sensor and every sensor.
const SENSOR_COMPOSITE: u32 = 0;
const SENSOR_ALL: u32 = 0xf;
/// Bits of the reservation notification mask: registration preempted, released, preempted.
const NOTICE_MASK: u32 = 0b1110;

impl Features {
    pub(crate) fn new(io_queues: u32, events_default: u32) -> Self {
        Self {
            arbitration: ARBITRATION_DEFAULT,
            power: 0,
            temperature_k: [TEMPERATURE_OVER_DEFAULT_K, 0],
            write_atomicity: 0,
            events: events_default,
            events_default,
            io_queues,
            host_behavior: [0; 3],
            error_recovery: Vec::new(),
            reservation_mask: Vec::new(),
        }
    }

    /// Values after a controller reset: as at the start (§5.27).
    pub(crate) fn reset(&mut self, io_queues: u16) {
        *self = Self::new(u32::from(io_queues), self.events_default);
    }
}

/// Value of a namespace-specific feature.
pub(crate) fn by_namespace(values: &[(u32, u32)], nsid: u32) -> u32 {
    values
        .iter()
        .find(|(id, _)| *id == nsid)
        .map_or(0, |(_, value)| *value)
}

/// Sets the value of a namespace-specific feature; there are at most as many values as namespaces.
fn set_by_namespace(values: &mut Vec<(u32, u32)>, nsid: u32, value: u32) {
    values.retain(|(id, _)| *id != nsid);
    if value != 0 && values.len() < limits::NAMESPACES_MAX as usize {
        values.push((nsid, value));
    }
}

/// What SEL 011b answers, `None` for a feature the controller does not have.
fn capabilities(feature: u8, kind: Kind) -> Option<u32> {
    match (feature, kind) {
        (fid::ASYNC_EVENT_CONFIG | fid::KEEP_ALIVE_TIMER, _) => Some(CAPABILITY_CHANGEABLE),
        (fid::HOST_IDENTIFIER, _) => Some(0),
        (
            fid::ERROR_RECOVERY | fid::RESERVATION_NOTIFICATION_MASK | fid::RESERVATION_PERSISTENCE,
            Kind::Nvm,
        ) => Some(CAPABILITY_CHANGEABLE | CAPABILITY_NS_SPECIFIC),
        (fid::VOLATILE_WRITE_CACHE, Kind::Nvm) => Some(0),
        (
            fid::ARBITRATION
            | fid::POWER_MANAGEMENT
            | fid::TEMPERATURE_THRESHOLD
            | fid::NUMBER_OF_QUEUES
            | fid::WRITE_ATOMICITY
            | fid::HOST_BEHAVIOR_SUPPORT,
            Kind::Nvm,
        ) => Some(CAPABILITY_CHANGEABLE),
        _ => None,
    }
}

impl Target {
    pub(crate) fn get_features(&mut self, q: u32, sqe: &Sqe) {
        let command = FeatureCommand::parse(sqe);
        let kind = self.controllers[self.qpairs[q].controller].kind;
        let answer = match capabilities(command.fid, kind) {
            None => Err(Status::INVALID_FIELD.dnr()),
            Some(bits) if command.select == SELECT_SUPPORTED => Ok((bits, None)),
            Some(_) => self.feature_value(q, sqe, &command),
        };
        match answer {
            Ok((value, data)) => {
                let data = data.map_or(ReplyData::None, ReplyData::Bytes);
                self.answer(q, sqe.cid(), Status::SUCCESS, u64::from(value), data);
            }
            Err(status) => self.refuse(q, sqe, status),
        }
    }

    /// Dword 0 and data of Get Features.
    fn feature_value(
        &self,
        q: u32,
        sqe: &Sqe,
        command: &FeatureCommand,
    ) -> Result<FeatureValue, Status> {
        let controller = &self.controllers[self.qpairs[q].controller];
        let fresh = Features::new(
            u32::from(self.config.io_queues_per_controller),
            controller.features.events_default,
        );
        let (values, is_current) = match command.select {
            SELECT_CURRENT => (&controller.features, true),
            // §5.15.1: a feature that is not saveable answers its default for the saved value.
            SELECT_DEFAULT | SELECT_SAVED => (&fresh, false),
            _ => return Err(Status::INVALID_FIELD.dnr()),
        };
        let subsystem = &self.subsystems[controller.subsystem];
        let nsid = sqe.nsid();
        let namespace = || {
            subsystem
                .namespace(nsid)
                .ok_or(Status::INVALID_NAMESPACE.dnr())
        };
        let value = match command.fid {
            fid::ARBITRATION => values.arbitration,
            fid::POWER_MANAGEMENT => values.power,
            fid::TEMPERATURE_THRESHOLD => {
                let sensor = command.value >> 16 & 0xf;
                let which = command.value >> 20 & 3;
                if sensor != SENSOR_COMPOSITE || which > 1 {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                u32::from(values.temperature_k[which as usize])
            }
            fid::ERROR_RECOVERY => {
                namespace()?;
                by_namespace(&values.error_recovery, nsid)
            }
            fid::VOLATILE_WRITE_CACHE => u32::from(subsystem.common_capabilities().volatile_cache),
            fid::NUMBER_OF_QUEUES => QueueCounts {
                submission: values.io_queues,
                completion: values.io_queues,
            }
            .emit(),
            fid::WRITE_ATOMICITY => values.write_atomicity,
            fid::ASYNC_EVENT_CONFIG => values.events,
            fid::KEEP_ALIVE_TIMER if is_current => controller.keep_alive.kato_ms,
            fid::KEEP_ALIVE_TIMER => 0,
            fid::HOST_BEHAVIOR_SUPPORT | fid::HOST_IDENTIFIER => {
                return feature_data(sqe, command, values, &controller.host.id);
            }
            fid::RESERVATION_NOTIFICATION_MASK => {
                namespace()?;
                by_namespace(&values.reservation_mask, nsid)
            }
            fid::RESERVATION_PERSISTENCE => {
                let ptpl = namespace()?.reservations.ptpl;
                u32::from(ptpl && is_current)
            }
            _ => return Err(Status::INVALID_FIELD.dnr()),
        };
        Ok((value, None))
    }

    pub(crate) fn set_features(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
    ) -> Option<CmdId> {
        let command = FeatureCommand::parse(sqe);
        let kind = self.controllers[self.qpairs[q].controller].kind;
        let refusal = match capabilities(command.fid, kind) {
            None => Some(Status::INVALID_FIELD.dnr()),
            Some(_) if command.save => Some(Status::FEATURE_NOT_SAVEABLE.dnr()),
            Some(_) => None,
        };
        if let Some(status) = refusal {
            self.refuse(q, sqe, status);
            return None;
        }
        match command.fid {
            fid::HOST_BEHAVIOR_SUPPORT => {
                return self.take_payload(now, q, sqe, data, HOST_BEHAVIOR_LEN as u32);
            }
            fid::RESERVATION_PERSISTENCE => return self.set_persistence(q, sqe, command.value),
            _ => {}
        }
        match self.set_feature(now, q, sqe, &command) {
            Ok(result) => self.answer(
                q,
                sqe.cid(),
                Status::SUCCESS,
                u64::from(result),
                ReplyData::None,
            ),
            Err(status) => self.refuse(q, sqe, status),
        }
        None
    }

    /// Sets a feature without data; answers dword 0 of the completion.
    fn set_feature(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        command: &FeatureCommand,
    ) -> Result<u32, Status> {
        let index = self.qpairs[q].controller;
        let controller = &mut self.controllers[index];
        let subsystem = &self.subsystems[controller.subsystem];
        let values = &mut controller.features;
        let value = command.value;
        let nsid = sqe.nsid();
        match command.fid {
            fid::ARBITRATION => values.arbitration = value,
            fid::POWER_MANAGEMENT => {
                // One power state (NPSS 0); bits 7:5 are the workload hint.
                if value & 0x1f != 0 {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                values.power = value & 0xe0;
            }
            fid::TEMPERATURE_THRESHOLD => {
                let (sensor, which) = (value >> 16 & 0xf, value >> 20 & 3);
                if !matches!(sensor, SENSOR_COMPOSITE | SENSOR_ALL) || which > 1 {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                values.temperature_k[which as usize] = value as u16;
            }
            fid::ERROR_RECOVERY => {
                for id in named_namespaces(subsystem, nsid)? {
                    // DULBE needs NSFEAT bit 2, which no namespace has.
                    if value & 1 << 16 != 0 {
                        return Err(Status::INVALID_FIELD.dnr());
                    }
                    set_by_namespace(&mut values.error_recovery, id, value & 0xffff);
                }
            }
            fid::VOLATILE_WRITE_CACHE => {
                let enabled = subsystem.common_capabilities().volatile_cache;
                if (value & 1 != 0) != enabled {
                    return Err(Status::FEATURE_NOT_CHANGEABLE.dnr());
                }
            }
            fid::NUMBER_OF_QUEUES => return self.set_queue_count(index, value),
            fid::WRITE_ATOMICITY => values.write_atomicity = value & 1,
            fid::ASYNC_EVENT_CONFIG => {
                let notices = match controller.kind {
                    Kind::Nvm => NVM_ANA_EVENTS,
                    Kind::Discovery => DISCOVERY_EVENTS,
                };
                if value & !(notices | config::SMART_MASK) != 0 {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                values.events = value;
            }
            fid::KEEP_ALIVE_TIMER => return self.set_keep_alive(now, index, value).map(|()| 0),
            // §5.27.1.25: on fabrics the identifier comes with Connect.
            fid::HOST_IDENTIFIER => return Err(Status::COMMAND_SEQUENCE_ERROR.dnr()),
            fid::RESERVATION_NOTIFICATION_MASK => {
                for id in named_namespaces(subsystem, nsid)? {
                    set_by_namespace(&mut values.reservation_mask, id, value & NOTICE_MASK);
                }
            }
            _ => return Err(Status::INVALID_FIELD.dnr()),
        }
        Ok(0)
    }

    /// §5.27.1.5: before any I/O queue exists; the answer says how many the host may connect.
    fn set_queue_count(&mut self, index: u32, value: u32) -> Result<u32, Status> {
        let most = u32::from(self.config.io_queues_per_controller);
        let controller = &mut self.controllers[index];
        let asked = QueueCounts::parse(value);
        if asked.submission > 0xffff || asked.completion > 0xffff {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if controller.qpairs().count() > 1 {
            return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        let granted = asked.submission.min(asked.completion).min(most);
        controller.features.io_queues = granted;
        let counts = QueueCounts {
            submission: granted,
            completion: granted,
        };
        Ok(counts.emit())
    }

    fn set_keep_alive(&mut self, now: Instant, index: u32, kato_ms: u32) -> Result<(), Status> {
        let most = self.config.kato_ms_max;
        if most != 0 && kato_ms > most {
            return Err(Status::KEEP_ALIVE_TIMEOUT_INVALID.dnr());
        }
        let granted = self.config.granted_kato_ms(kato_ms);
        let controller = &mut self.controllers[index];
        controller.keep_alive = KeepAlive::new(granted, controller.kind, now);
        if let Some(deadline) = controller.keep_alive.deadline {
            self.arm(deadline);
        }
        Ok(())
    }

    /// Data of a Set Features have arrived; host behavior support (§5.27.1.18) is the only feature with any.
    pub(crate) fn set_feature_data(&mut self, q: u32, data: &[u8]) -> Result<(), Status> {
        let behavior: [u8; 3] = data
            .first_chunk()
            .copied()
            .ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        if behavior.iter().any(|byte| *byte > 1) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let index = self.qpairs[q].controller;
        self.controllers[index].features.host_behavior = behavior;
        Ok(())
    }

    /// Reservation persistence (§5.27.1.27) changes the namespace, so it takes its turn among the reservation commands.
    fn set_persistence(&mut self, q: u32, sqe: &Sqe, value: u32) -> Option<CmdId> {
        let nsid = sqe.nsid();
        let subsystem = &self.subsystems[self.qpairs[q].subsystem];
        // FFFFFFFFh would have to be durable for all namespaces or none; the standard lets only Set of single ones through.
        if nsid == NSID_ALL || subsystem.namespace(nsid).is_none() {
            self.refuse(q, sqe, Status::INVALID_NAMESPACE.dnr());
            return None;
        }
        let index = self.allocate_or_interrupt(q, sqe, State::ReservationQueued)?;
        let id = self.commands.id(index);
        self.commands[index].nsid = nsid;
        let ptpl = value & 1 != 0;
        self.enter_reservation_queue(index, Extra::Persistence { ptpl });
        self.commands.check(id).map(|_| id)
    }
}

/// Data of the features that have some.
fn feature_data(
    sqe: &Sqe,
    command: &FeatureCommand,
    values: &Features,
    host_id: &[u8; 16],
) -> Result<FeatureValue, Status> {
    if command.fid == fid::HOST_BEHAVIOR_SUPPORT {
        Target::check_reply_buffer(sqe, HOST_BEHAVIOR_LEN as u64)?;
        let mut data = vec![0; HOST_BEHAVIOR_LEN];
        data[..3].copy_from_slice(&values.host_behavior);
        return Ok((0, Some(data.into_boxed_slice())));
    }
    // §5.27.1.25: fabrics hosts have 128-bit identifiers and ask for them (EXHID).
    if command.value & 1 == 0 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    Target::check_reply_buffer(sqe, 16)?;
    Ok((0, Some(Box::from(*host_id))))
}

/// The namespaces a namespace-specific Set names: one, or with FFFFFFFFh all (§5.27).
fn named_namespaces(
    subsystem: &crate::subsystem::Subsystem,
    nsid: u32,
) -> Result<Vec<u32>, Status> {
    if nsid == NSID_ALL {
        return Ok(subsystem.active().map(|(id, _)| id).collect());
    }
    if subsystem.namespace(nsid).is_none() {
        return Err(Status::INVALID_NAMESPACE.dnr());
    }
    Ok(vec![nsid])
}
