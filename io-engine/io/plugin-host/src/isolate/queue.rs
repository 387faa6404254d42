//! The queue of an isolated device as its reactor sees it: operations go out as messages, ends come in by a channel.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use sdk::block::{Geometry, IoError, IoResult, IoTag, Op, Queue, QueueSeed, Submitted};
use sdk::buf::{Buf, Payload};
use sdk::host::{FileDone, Host, OwnerId};
use units::BlockRange;

use super::QUEUE_SLOTS;
use super::loan::Loan;
use super::seat::{Order, Place, Seat};

/// An operation on its way to the plugin's reactor.
pub(super) enum Lent {
    Read {
        range: BlockRange,
        loan: Loan,
    },
    Write {
        range: BlockRange,
        loan: Loan,
        fua: bool,
    },
    WriteZeroes {
        range: BlockRange,
        deallocate: bool,
        fua: bool,
    },
    Discard {
        range: BlockRange,
    },
    Flush,
}

/// How an operation ended, on its way back.
pub(super) struct End {
    pub(super) slot: u32,
    pub(super) result: Result<Data, IoError>,
    /// Whether nobody on the plugin's side has the operation's buffer, if it had one.
    pub(super) is_back: bool,
}

/// Where the data of a read is.
pub(super) enum Data {
    /// There is none.
    None,
    /// In the operation's buffer, which is as long as the range.
    InPlace,
    /// Here: the plugin answered with memory of its own.
    Apart(Box<[u8]>),
}

/// An isolated queue on its way to the reactor it serves.
pub(super) struct IsolatedSeed {
    pub(super) seat: Arc<Seat>,
    pub(super) place: Place,
}

impl QueueSeed for IsolatedSeed {
    fn open(
        self: Box<Self>,
        host: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Queue>, IoError> {
        // A host without wakers is alone on its thread and looks for ends by itself.
        let waker = host.waker(owner);
        let (sender, ends) = sync_channel(QUEUE_SLOTS);
        let place = self.place.number();
        self.seat.order(Order::Attach {
            place,
            ends: sender,
            waker,
        });
        Ok(Box::new(IsolatedQueue {
            seat: self.seat,
            place: self.place,
            ends,
            flights: (0..QUEUE_SLOTS).map(|_| None).collect(),
            free: (0..QUEUE_SLOTS as u32).rev().collect(),
            gone: VecDeque::new(),
            is_dead: false,
        }))
    }
}

/// An operation the plugin has.
struct Flight {
    tag: IoTag,
    range: BlockRange,
    is_read: bool,
    /// Lent: not touched until its end.
    buf: Option<Buf>,
}

struct IsolatedQueue {
    seat: Arc<Seat>,
    place: Place,
    ends: Receiver<End>,
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// Operations that end because the plugin's reactor ended.
    gone: VecDeque<IoTag>,
    is_dead: bool,
}

impl IsolatedQueue {
    /// The end of an operation, if it is one: an isolated queue of another place could not send it.
    fn land(&mut self, end: End) -> Option<(IoTag, IoResult)> {
        let flight = self.flights.get_mut(end.slot as usize)?.take()?;
        self.free.push(end.slot);
        let buf = match flight.buf {
            Some(buf) if !end.is_back => {
                keep(buf);
                None
            }
            buf => buf,
        };
        let medium = Err(IoError::Medium(flight.range));
        let result = match end.result {
            Err(error) => Err(error),
            Ok(_) if !flight.is_read => Ok(None),
            Ok(Data::InPlace) => buf.map_or(medium, |buf| Ok(Some(Payload::Buf(buf)))),
            Ok(Data::Apart(bytes)) => match buf {
                Some(mut buf) if buf.len() == bytes.len() => {
                    buf.copy_from_slice(&bytes);
                    Ok(Some(Payload::Buf(buf)))
                }
                Some(_) | None => medium,
            },
            Ok(Data::None) => medium,
        };
        Some((flight.tag, result))
    }

    /// The plugin's reactor is gone, and with it what it had.
    #[cold]
    fn die(&mut self) {
        self.is_dead = true;
        for flight in self.flights.iter_mut().filter_map(Option::take) {
            self.gone.push_back(flight.tag);
            flight.buf.into_iter().for_each(keep);
        }
    }
}

/// Leaves a buffer out of use: a plugin may still write to it.
fn keep(buf: Buf) {
    mem::forget(buf);
}

impl Queue for IsolatedQueue {
    fn submit(&mut self, _: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        if self.is_dead {
            return Submitted::Done(Err(IoError::Gone));
        }
        let Some(slot) = self.free.pop() else {
            return Submitted::Done(Err(IoError::Busy));
        };
        let (lent, flight) = match lend(tag, op) {
            Ok(lent) => lent,
            Err(error) => {
                self.free.push(slot);
                return Submitted::Done(Err(error));
            }
        };
        match self.seat.submit(self.place.number(), slot, lent) {
            Ok(()) => {
                self.flights[slot as usize] = Some(flight);
                Submitted::Pending
            }
            Err(error) => {
                self.free.push(slot);
                Submitted::Done(Err(error))
            }
        }
    }

    /// It has no files: those of the plugin are its own reactor's.
    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        while !self.is_dead {
            match self.ends.try_recv() {
                Ok(end) => {
                    if let Some(landed) = self.land(end) {
                        return Some(landed);
                    }
                }
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => self.die(),
            }
        }
        self.gone.pop_front().map(|tag| (tag, Err(IoError::Gone)))
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        let place = self.place.number();
        self.seat.order(Order::Geometry { place, geometry });
    }

    /// Its place is given back when it is dropped.
    fn close(&mut self, _: &mut dyn Host) {}
}

impl Drop for IsolatedQueue {
    fn drop(&mut self) {
        let lent = self.flights.iter_mut().filter_map(Option::take);
        lent.filter_map(|flight| flight.buf).for_each(keep);
    }
}

/// What goes to the plugin, and what stays here meanwhile.
///
/// # Errors
/// `NotSupported` for a read without a buffer: nothing is lent across threads.
fn lend(tag: IoTag, op: Op) -> Result<(Lent, Flight), IoError> {
    let mut flight = Flight {
        tag,
        range: BlockRange::new(0, 0),
        is_read: false,
        buf: None,
    };
    let lent = match op {
        Op::Read { range, buf } => {
            let mut buf = buf.ok_or(IoError::NotSupported)?;
            let loan = Loan::of(&mut buf);
            (flight.range, flight.is_read, flight.buf) = (range, true, Some(buf));
            Lent::Read { range, loan }
        }
        Op::Write {
            range,
            mut buf,
            fua,
        } => {
            let loan = Loan::of(&mut buf);
            (flight.range, flight.buf) = (range, Some(buf));
            Lent::Write { range, loan, fua }
        }
        Op::WriteZeroes {
            range,
            deallocate,
            fua,
        } => {
            flight.range = range;
            Lent::WriteZeroes {
                range,
                deallocate,
                fua,
            }
        }
        Op::Discard { range } => {
            flight.range = range;
            Lent::Discard { range }
        }
        Op::Flush => Lent::Flush,
    };
    Ok((lent, flight))
}
