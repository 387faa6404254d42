//! Reservation state of one namespace, as pure functions: nothing here knows queues or durability.
//!
//! A change is computed on a copy ([`Outcome::next`]), so that it can be made durable before it takes effect.
//!
//! Invariants: without a reservation nobody is holder; with an all-registrants type everybody registered is; with any other
//! type exactly one is.

use nvme_spec::Status;
use nvme_spec::reservation::{
    self as spec, EXCLUSIVE_ACCESS, EXCLUSIVE_ACCESS_ALL, EXCLUSIVE_ACCESS_REGISTRANTS, Keys,
    ReservationCommand, WRITE_EXCLUSIVE, WRITE_EXCLUSIVE_ALL, WRITE_EXCLUSIVE_REGISTRANTS,
};

use super::persisted::{PersistedRegistrant, PersistedReservations};
use crate::limits;

/// Host identifier; fabrics hosts always use the 128-bit form (Base 2.0c §5.27.1.25).
pub(crate) type HostId = [u8; 16];

/// Reservation type (figure 435).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rtype {
    WriteExclusive,
    ExclusiveAccess,
    WriteExclusiveRegistrants,
    ExclusiveAccessRegistrants,
    WriteExclusiveAll,
    ExclusiveAccessAll,
}

impl Rtype {
    pub(crate) const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrants,
        Self::ExclusiveAccessRegistrants,
        Self::WriteExclusiveAll,
        Self::ExclusiveAccessAll,
    ];

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|rtype| rtype.code() == code)
    }

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::WriteExclusive => WRITE_EXCLUSIVE,
            Self::ExclusiveAccess => EXCLUSIVE_ACCESS,
            Self::WriteExclusiveRegistrants => WRITE_EXCLUSIVE_REGISTRANTS,
            Self::ExclusiveAccessRegistrants => EXCLUSIVE_ACCESS_REGISTRANTS,
            Self::WriteExclusiveAll => WRITE_EXCLUSIVE_ALL,
            Self::ExclusiveAccessAll => EXCLUSIVE_ACCESS_ALL,
        }
    }

    const fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    const fn is_single_holder_only(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    const fn is_exclusive_access(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess | Self::ExclusiveAccessRegistrants | Self::ExclusiveAccessAll
        )
    }
}

/// What a host may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Registrant {
    pub(crate) host: HostId,
    pub(crate) key: u64,
    pub(crate) holder: bool,
}

/// Kinds of reservation notification (figure 262).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    RegistrationPreempted,
    ReservationReleased,
    ReservationPreempted,
}

impl Notice {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::RegistrationPreempted => 1,
            Self::ReservationReleased => 2,
            Self::ReservationPreempted => 3,
        }
    }
}

/// What a command leads to, once durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) next: Reservations,
    pub(crate) notices: Vec<(HostId, Notice)>,
    /// Hosts whose commands in flight are to be aborted.
    pub(crate) abort: Vec<HostId>,
}

impl Outcome {
    fn of(next: Reservations) -> Self {
        Self {
            next,
            notices: Vec::new(),
            abort: Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reservations {
    pub(crate) rtype: Option<Rtype>,
    pub(crate) generation: u32,
    /// Persist through power loss.
    pub(crate) ptpl: bool,
    pub(crate) registrants: Vec<Registrant>,
}

impl Reservations {
    /// State from a stored record. A record that contradicts itself (no holder, two holders, unknown type) keeps its
    /// registrants and loses its reservation.
    pub(crate) fn restore(record: Option<&PersistedReservations>) -> Self {
        let Some(record) = record else {
            return Self::default();
        };
        let mut state = Self {
            rtype: Rtype::from_code(record.rtype),
            generation: record.generation,
            ptpl: record.ptpl,
            registrants: record
                .registrants
                .iter()
                .take(limits::REGISTRANTS_MAX)
                .map(|entry| Registrant {
                    host: entry.host_id,
                    key: entry.key,
                    holder: entry.holder,
                })
                .collect(),
        };
        let holders = state.registrants.iter().filter(|r| r.holder).count();
        let is_sound = match state.rtype {
            None => holders == 0,
            Some(rtype) if rtype.is_all_registrants() => {
                holders == state.registrants.len() && holders > 0
            }
            Some(_) => holders == 1,
        };
        if !is_sound {
            state.drop_reservation();
        }
        state
    }

    /// The record to store: everything with PTPL, nothing without.
    pub(crate) fn record(&self) -> PersistedReservations {
        if !self.ptpl {
            return PersistedReservations::default();
        }
        PersistedReservations {
            rtype: self.rtype.map_or(0, Rtype::code),
            ptpl: true,
            generation: self.generation,
            registrants: self
                .registrants
                .iter()
                .map(|registrant| PersistedRegistrant {
                    key: registrant.key,
                    host_id: registrant.host,
                    extended: true,
                    holder: registrant.holder,
                })
                .collect(),
        }
    }

    /// Rights of `host` (figure 421).
    pub(crate) fn access(&self, host: &HostId) -> Access {
        let Some(rtype) = self.rtype else {
            return Access {
                read: true,
                write: true,
            };
        };
        let registrant = self.registrant(host);
        let is_in = if rtype.is_single_holder_only() {
            registrant.is_some_and(|r| r.holder)
        } else {
            registrant.is_some()
        };
        Access {
            read: is_in || !rtype.is_exclusive_access(),
            write: is_in,
        }
    }

    pub(crate) fn registrant(&self, host: &HostId) -> Option<&Registrant> {
        self.registrants.iter().find(|r| r.host == *host)
    }

    /// Reservation Register (§7.3, §8.19.3).
    pub(crate) fn register(
        &self,
        host: &HostId,
        command: ReservationCommand,
        keys: Keys,
    ) -> Result<Outcome, Status> {
        let mut next = self.clone();
        match command.cptpl {
            spec::PTPL_UNCHANGED => {}
            spec::PTPL_OFF => next.ptpl = false,
            spec::PTPL_ON => next.ptpl = true,
            _ => return Err(Status::INVALID_FIELD.dnr()),
        }
        let own = self.registrant(host).copied();
        let key_ok = own.is_some_and(|r| command.ignore_existing_key || r.key == keys.current);
        match (command.action, own) {
            (spec::REGISTER, Some(own)) if own.key == keys.other => Ok(Outcome::of(next)),
            (spec::REGISTER, Some(_)) => Err(Status::RESERVATION_CONFLICT.dnr()),
            (spec::REGISTER, None) => next.add(host, keys.other),
            (spec::UNREGISTER, Some(_)) if key_ok => Ok(next.unregister(host)),
            (spec::REPLACE, Some(_)) if key_ok => {
                next.generation = next.generation.wrapping_add(1);
                for registrant in next.registrants.iter_mut().filter(|r| r.host == *host) {
                    registrant.key = keys.other;
                }
                Ok(Outcome::of(next))
            }
            // With the existing key ignored there need not be one: replace is how a host (re)claims its registration
            // without knowing what an earlier life of it left behind.
            (spec::REPLACE, None) if command.ignore_existing_key => next.add(host, keys.other),
            (spec::UNREGISTER | spec::REPLACE, _) => Err(Status::RESERVATION_CONFLICT.dnr()),
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    /// Reservation Acquire (§7.2, §8.19.5, §8.19.7).
    pub(crate) fn acquire(
        &self,
        host: &HostId,
        command: ReservationCommand,
        keys: Keys,
    ) -> Result<Outcome, Status> {
        // §7.2, figure 428: IEKEY set to 1 is an error for Acquire.
        let rtype = Rtype::from_code(command.rtype).ok_or(Status::INVALID_FIELD.dnr())?;
        if command.ignore_existing_key || command.action > spec::PREEMPT_AND_ABORT {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let own = self.checked_registrant(host, keys.current)?;
        if command.action != spec::ACQUIRE {
            let mut outcome = self.preempt(host, rtype, keys.other)?;
            if command.action != spec::PREEMPT_AND_ABORT {
                outcome.abort.clear();
            }
            return Ok(outcome);
        }
        let mut next = self.clone();
        match self.rtype {
            None => {
                next.hold(host, rtype);
                Ok(Outcome::of(next))
            }
            Some(held) if own.holder && held == rtype => Ok(Outcome::of(next)),
            Some(_) => Err(Status::RESERVATION_CONFLICT.dnr()),
        }
    }

    /// Reservation Release (§7.5, §8.19.6, §8.19.8).
    pub(crate) fn release(
        &self,
        host: &HostId,
        command: ReservationCommand,
        keys: Keys,
    ) -> Result<Outcome, Status> {
        if command.ignore_existing_key || command.action > spec::CLEAR {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let own = self.checked_registrant(host, keys.current)?;
        let mut next = self.clone();
        if command.action == spec::CLEAR {
            next.generation = next.generation.wrapping_add(1);
            next.registrants.clear();
            next.rtype = None;
            let mut outcome = Outcome::of(next);
            outcome.notices = self.others(host, Notice::ReservationPreempted);
            return Ok(outcome);
        }
        let Some(held) = self.rtype else {
            return Ok(Outcome::of(next));
        };
        if !own.holder {
            return Ok(Outcome::of(next));
        }
        if command.rtype != held.code() {
            return Err(Status::INVALID_FIELD.dnr());
        }
        next.drop_reservation();
        let mut outcome = Outcome::of(next);
        if !held.is_single_holder_only() {
            outcome.notices = self.others(host, Notice::ReservationReleased);
        }
        Ok(outcome)
    }

    /// The registrant `host` with `key`.
    fn checked_registrant(&self, host: &HostId, key: u64) -> Result<Registrant, Status> {
        self.registrant(host)
            .filter(|registrant| registrant.key == key)
            .copied()
            .ok_or(Status::RESERVATION_CONFLICT.dnr())
    }

    fn others(&self, host: &HostId, notice: Notice) -> Vec<(HostId, Notice)> {
        self.registrants
            .iter()
            .filter(|registrant| registrant.host != *host)
            .map(|registrant| (registrant.host, notice))
            .collect()
    }

    fn add(mut self, host: &HostId, key: u64) -> Result<Outcome, Status> {
        if self.registrants.len() == limits::REGISTRANTS_MAX {
            return Err(Status::RESERVATION_CONFLICT);
        }
        self.generation = self.generation.wrapping_add(1);
        self.registrants.push(Registrant {
            host: *host,
            key,
            holder: self.rtype.is_some_and(Rtype::is_all_registrants),
        });
        Ok(Outcome::of(self))
    }

    /// §8.19.4: a holder that unregisters releases; with an all-registrants type the last one does.
    fn unregister(mut self, host: &HostId) -> Outcome {
        let was_holder = self.registrant(host).is_some_and(|r| r.holder);
        self.generation = self.generation.wrapping_add(1);
        self.registrants.retain(|r| r.host != *host);
        let mut notices = Vec::new();
        if let Some(rtype) = self.rtype
            && was_holder
            && !self.registrants.iter().any(|r| r.holder)
        {
            self.drop_reservation();
            if !rtype.is_single_holder_only() {
                notices = self.others(host, Notice::ReservationReleased);
            }
        }
        let mut outcome = Outcome::of(self);
        outcome.notices = notices;
        outcome
    }

    /// §8.19.7: unregisters the hosts with key `prkey` and, where they held the reservation, takes it over.
    fn preempt(&self, host: &HostId, rtype: Rtype, prkey: u64) -> Result<Outcome, Status> {
        let all_registrants = self.rtype.is_some_and(Rtype::is_all_registrants);
        if prkey == 0 && !all_registrants {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let is_target = |r: &Registrant| prkey == 0 || r.key == prkey;
        if !self.registrants.iter().any(is_target) {
            return Err(Status::RESERVATION_CONFLICT.dnr());
        }
        let takes_over = if all_registrants {
            prkey == 0
        } else {
            self.registrants.iter().any(|r| r.holder && is_target(r))
        };
        let mut next = self.clone();
        next.generation = next.generation.wrapping_add(1);
        // The preempting host keeps its registration, also when it preempts its own key.
        next.registrants
            .retain(|r| r.host == *host || !is_target(r));
        let mut outcome = Outcome::of(next);
        for gone in self
            .registrants
            .iter()
            .filter(|r| r.host != *host && is_target(r))
        {
            outcome
                .notices
                .push((gone.host, Notice::RegistrationPreempted));
            outcome.abort.push(gone.host);
        }
        if takes_over {
            outcome.next.drop_reservation();
            outcome.next.hold(host, rtype);
            if let Some(old) = self.rtype
                && old != rtype
                && !old.is_single_holder_only()
            {
                let remaining = outcome.next.others(host, Notice::ReservationReleased);
                outcome.notices.extend(remaining);
            }
        }
        Ok(outcome)
    }

    fn hold(&mut self, host: &HostId, rtype: Rtype) {
        self.rtype = Some(rtype);
        for registrant in &mut self.registrants {
            registrant.holder = rtype.is_all_registrants() || registrant.host == *host;
        }
    }

    fn drop_reservation(&mut self) {
        self.rtype = None;
        for registrant in &mut self.registrants {
            registrant.holder = false;
        }
    }
}

impl Reservations {
    /// Set Features, reservation persistence (§5.27.1.27).
    pub(crate) fn with_persistence(&self, ptpl: bool) -> Outcome {
        let mut next = self.clone();
        next.ptpl = ptpl;
        Outcome::of(next)
    }
}
