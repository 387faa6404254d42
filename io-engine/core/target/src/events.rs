//! Asynchronous events of a controller (Base 2.0c §5.2): requests, events waiting for one, masks.

use std::collections::VecDeque;

use nvme_spec::event::{AsyncEvent, config};
use nvme_spec::log::ReservationNotification;

use crate::limits;

/// Requests outstanding and what there is to tell.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Command ids of requests, oldest first.
    requests: VecDeque<u16>,
    /// Events not reported so far; each kind at most once.
    pending: VecDeque<AsyncEvent>,
    /// Kinds reported and not cleared by reading their log page: not reported again till then.
    masked: Vec<AsyncEvent>,
    /// Namespaces changed since the host read the list, in increasing order.
    pub(crate) changed_namespaces: Vec<u32>,
    /// Reservation notifications not read so far.
    pub(crate) notifications: VecDeque<ReservationNotification>,
    /// Running number of the last notification.
    pub(crate) notification_count: u64,
}

impl Events {
    /// Takes a request; `false` when there are as many as allowed.
    pub(crate) fn request(&mut self, cid: u16) -> bool {
        if self.requests.len() == limits::AERS_MAX {
            return false;
        }
        self.requests.push_back(cid);
        true
    }

    /// Whether `cid` is a request outstanding; it is forgotten then (Abort).
    pub(crate) fn withdraw(&mut self, cid: u16) -> bool {
        let before = self.requests.len();
        self.requests.retain(|request| *request != cid);
        self.requests.len() != before
    }

    /// Notes `event` unless it is already waiting or reported and not cleared.
    pub(crate) fn raise(&mut self, event: AsyncEvent) {
        if self.masked.contains(&event) || self.pending.contains(&event) {
            return;
        }
        if self.pending.len() < limits::EVENTS_PENDING_MAX {
            self.pending.push_back(event);
        }
    }

    /// The next event with the request that reports it.
    pub(crate) fn report(&mut self) -> Option<(u16, AsyncEvent)> {
        let event = *self.pending.front()?;
        let cid = self.requests.pop_front()?;
        self.pending.pop_front();
        self.masked.push(event);
        Some((cid, event))
    }

    /// The host read log page `lid` without retaining the event: it may be reported again (§5.2).
    pub(crate) fn clear(&mut self, lid: u8) {
        self.masked.retain(|event| event.log_page != lid);
        self.pending.retain(|event| event.log_page != lid);
    }

    /// Forgets requests and events (controller reset); answers the requests dropped.
    pub(crate) fn reset(&mut self) -> VecDeque<u16> {
        let dropped = core::mem::take(&mut self.requests);
        *self = Self {
            notification_count: self.notification_count,
            ..Self::default()
        };
        dropped
    }

    /// Notes that `nsid` changed (§5.16.1.5).
    pub(crate) fn namespace_changed(&mut self, nsid: u32) {
        if let Err(at) = self.changed_namespaces.binary_search(&nsid) {
            self.changed_namespaces.insert(at, nsid);
        }
    }

    /// Notes a reservation notification (§5.16.1.24); with a full queue the newest is dropped, its number is not.
    pub(crate) fn notify(&mut self, kind: u8, nsid: u32) {
        self.notification_count += 1;
        if self.notifications.len() < limits::RESERVATION_NOTIFICATIONS_MAX {
            self.notifications.push_back(ReservationNotification {
                count: self.notification_count,
                kind,
                available: 0,
                nsid,
            });
        }
    }
}

/// Notices an NVM controller can send (OAES).
pub(crate) const NVM_EVENTS: u32 = config::NAMESPACE_ATTRIBUTE;
/// The same with ANA reported.
pub(crate) const NVM_ANA_EVENTS: u32 = NVM_EVENTS | config::ANA_CHANGE;
/// Notices a discovery controller can send.
pub(crate) const DISCOVERY_EVENTS: u32 = config::DISCOVERY_CHANGE;
