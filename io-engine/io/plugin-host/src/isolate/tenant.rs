//! A queue on its plugin's reactor, and its operations in flight.

use std::mem;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;

use sdk::block::{IoError, IoResult, IoTag, Op, Queue, Submitted};
use sdk::buf::Payload;
use sdk::host::{Host, Waker};

use super::loan::Return;
use super::queue::{Data, End, Lent};
use super::{QUEUE_SLOTS, Tenancy};

/// Where ends go.
pub(super) struct Home {
    pub(super) ends: SyncSender<End>,
    pub(super) waker: Option<Waker>,
}

/// What a queue has of one slot.
struct Slot {
    is_live: bool,
    /// Where the operation's buffer comes back to.
    buf: Rc<Return>,
}

/// A queue and its operations in flight. Fields are dropped in this order: the device may be closed when the tenancy ends.
pub(super) struct Tenant {
    pub(super) queue: Box<dyn Queue>,
    slots: Vec<Slot>,
    inflight: usize,
    /// Operations that ended while the plugin has their buffer.
    owing: Vec<(u32, Result<Data, IoError>)>,
    pub(super) home: Option<Home>,
    /// Ends were sent home since it was woken last.
    is_news: bool,
    /// Nobody wants its ends; it is closed when the last came.
    pub(super) is_closing: bool,
    _tenancy: Tenancy,
}

impl Tenant {
    pub(super) fn new(queue: Box<dyn Queue>, tenancy: Tenancy) -> Self {
        let slot = |_| Slot {
            is_live: false,
            buf: Rc::default(),
        };
        Self {
            queue,
            slots: (0..QUEUE_SLOTS).map(slot).collect(),
            inflight: 0,
            owing: Vec::new(),
            home: None,
            is_news: false,
            is_closing: false,
            _tenancy: tenancy,
        }
    }

    /// Starts an operation of the slot `number`.
    pub(super) fn submit(&mut self, host: &mut dyn Host, number: u32, lent: Lent) {
        let slot = &mut self.slots[number as usize];
        slot.is_live = true;
        self.inflight += 1;
        let op = match lent {
            Lent::Read { range, loan } => Op::Read {
                range,
                buf: Some(loan.open(&slot.buf)),
            },
            Lent::Write { range, loan, fua } => Op::Write {
                range,
                buf: loan.open(&slot.buf),
                fua,
            },
            Lent::WriteZeroes {
                range,
                deallocate,
                fua,
            } => Op::WriteZeroes {
                range,
                deallocate,
                fua,
            },
            Lent::Discard { range } => Op::Discard { range },
            Lent::Flush => Op::Flush,
        };
        if let Submitted::Done(result) = self.queue.submit(host, IoTag(number.into()), op) {
            self.end(number, result);
        }
    }

    /// Has the queue do what is due and sends its ends home. Tells whether it is busy.
    pub(super) fn tend(&mut self, host: &mut dyn Host) -> bool {
        if self.queue.poll_timeout().is_some_and(|at| at <= host.now()) {
            self.queue.handle_timeout(host);
        }
        let is_busy = self.queue.is_polled() && self.queue.handle_turn(host);
        while let Some((tag, result)) = self.queue.poll_completion() {
            // A number that is no slot is nobody's.
            if let Ok(number) = u32::try_from(tag.0) {
                self.end(number, result);
            }
        }
        for (number, result) in mem::take(&mut self.owing) {
            self.settle(number, result);
        }
        if mem::take(&mut self.is_news)
            && let Some(waker) = self.home.as_ref().and_then(|home| home.waker.as_ref())
        {
            waker.wake();
        }
        is_busy
    }

    /// Whether nothing is left of a queue nobody wants.
    pub(super) fn is_over(&self) -> bool {
        self.is_closing && self.inflight == 0
    }

    fn end(&mut self, number: u32, result: IoResult) {
        let Some(slot) = self.slots.get_mut(number as usize) else {
            return;
        };
        if !mem::replace(&mut slot.is_live, false) {
            return;
        }
        // What the payload holds goes back with it.
        let result = result.map(|payload| match payload {
            None => Data::None,
            Some(Payload::Buf(buf)) if slot.buf.is_of(&buf) => Data::InPlace,
            Some(other) => Data::Apart(other.pieces().flatten().copied().collect()),
        });
        self.settle(number, result);
    }

    /// Sends an end home once the plugin has let go of the operation's buffer. It does so with the end or right after; one
    /// that is gone never does.
    fn settle(&mut self, number: u32, result: Result<Data, IoError>) {
        let slot = &mut self.slots[number as usize];
        let is_back = slot.buf.is_back();
        if !is_back {
            if !matches!(result, Err(IoError::Gone)) {
                self.owing.push((number, result));
                return;
            }
            slot.buf = Rc::default();
        }
        self.inflight -= 1;
        if let Some(home) = &self.home {
            let end = End {
                slot: number,
                result,
                is_back,
            };
            // It has room for every operation in flight; a home that is gone wants no ends.
            let _ = home.ends.try_send(end);
            self.is_news = true;
        }
    }
}
