//! Flushes while the overlay holds something: write its blocks out, one piece after the other, then flush below.
//!
//! A flush makes durable what was complete when it came, so only blocks of that age or older are written. One flush at a
//! time; its operations on the device below go under its own tag, which the device below does not otherwise know yet.

use std::collections::VecDeque;

use sdk::block::{IoError, IoResult, IoTag, Op, Queue, Submitted};
use sdk::buf::Buf;
use sdk::host::Host;
use units::BlockSize;

use crate::limits::WRITEBACK_BYTES_MAX;
use crate::overlay::Piece;
use crate::shared::Shared;

/// A flush under way.
struct Current {
    tag: IoTag,
    /// Newest write it makes durable.
    upto: u64,
    /// Power cuts when it came.
    cuts: u64,
    cursor: u64,
    doing: Doing,
}

enum Doing {
    /// Nothing at the device below; the next piece is to be chosen.
    Choosing,
    Writing(Piece),
    Flushing,
}

/// See the module documentation.
#[derive(Default)]
pub(crate) struct Writeback {
    waiting: VecDeque<(IoTag, u64)>,
    current: Option<Current>,
    /// What the device below said last.
    result: Option<IoResult>,
    /// Another queue of the device is writing out.
    blocked: bool,
}

enum Chosen {
    Piece(Piece, Buf),
    Nothing,
    PowerCut,
    Blocked,
}

impl Writeback {
    /// A flush, or a durable write the overlay has taken in, that came after so many power cuts.
    pub(crate) fn push(&mut self, tag: IoTag, cuts: u64) {
        self.waiting.push_back((tag, cuts));
    }

    /// Whether nothing is to be flushed.
    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none() && self.waiting.is_empty()
    }

    /// Whether it can go on without the device below.
    pub(crate) fn is_ready(&self) -> bool {
        self.result.is_some()
    }

    /// Whether it waits for another queue.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Takes an answer of the device below, if it is one to this.
    pub(crate) fn absorb(&mut self, tag: IoTag, result: IoResult) -> Result<(), IoResult> {
        match &self.current {
            Some(current) if current.tag == tag => {
                self.result = Some(result);
                Ok(())
            }
            _ => Err(result),
        }
    }

    /// Goes on as far as it can. A result is the end of a flush; call again for the next one.
    pub(crate) fn step(
        &mut self,
        host: &mut dyn Host,
        below: &mut dyn Queue,
        shared: &Shared,
        size: BlockSize,
    ) -> Option<(IoTag, IoResult)> {
        self.blocked = false;
        loop {
            let mut current = match self.current.take() {
                Some(current) => current,
                None => begin(self.waiting.pop_front()?, shared),
            };
            let doing = std::mem::replace(&mut current.doing, Doing::Choosing);
            let op = match (doing, self.result.take()) {
                (Doing::Writing(piece), Some(result)) => {
                    shared.with(|state| state.overlay.end_piece(&piece, result.is_ok()));
                    if let Err(error) = result {
                        return Some((current.tag, Err(error)));
                    }
                    current.cursor = piece.range.start.0 + piece.range.count.0;
                    self.current = Some(current);
                    continue;
                }
                (Doing::Flushing, Some(result)) => {
                    return Some((current.tag, result.map(|_| None)));
                }
                (doing @ (Doing::Writing(_) | Doing::Flushing), None) => {
                    self.current = Some(Current { doing, ..current });
                    return None;
                }
                (Doing::Choosing, _) => match choose(&current, host, shared, size) {
                    Chosen::PowerCut => return Some((current.tag, Err(IoError::Aborted))),
                    Chosen::Blocked => {
                        self.blocked = true;
                        self.current = Some(current);
                        return None;
                    }
                    Chosen::Nothing => {
                        current.doing = Doing::Flushing;
                        Op::Flush
                    }
                    Chosen::Piece(piece, buf) => {
                        let range = piece.range;
                        current.doing = Doing::Writing(piece);
                        Op::Write {
                            range,
                            buf,
                            fua: false,
                        }
                    }
                },
            };
            let tag = current.tag;
            self.current = Some(current);
            match below.submit(host, tag, op) {
                Submitted::Done(result) => self.result = Some(result),
                Submitted::Pending => return None,
            }
        }
    }

    /// The queue closes: what was under way is not written as far as anybody knows.
    pub(crate) fn abandon(&mut self, shared: &Shared) {
        self.waiting.clear();
        self.result = None;
        if let Some(Current {
            doing: Doing::Writing(piece),
            ..
        }) = self.current.take()
        {
            shared.with(|state| state.overlay.end_piece(&piece, false));
        }
    }
}

fn begin((tag, cuts): (IoTag, u64), shared: &Shared) -> Current {
    Current {
        tag,
        upto: shared.with(|state| state.overlay.version()),
        cuts,
        cursor: 0,
        doing: Doing::Choosing,
    }
}

fn choose(current: &Current, host: &mut dyn Host, shared: &Shared, size: BlockSize) -> Chosen {
    shared.with(|state| {
        let overlay = &mut state.overlay;
        if overlay.cuts() != current.cuts {
            return Chosen::PowerCut;
        }
        if overlay.is_writing() {
            return Chosen::Blocked;
        }
        let blocks_max = WRITEBACK_BYTES_MAX >> size.shift();
        let Some(piece) = overlay.begin_piece(current.cursor, current.upto, blocks_max) else {
            return Chosen::Nothing;
        };
        let len = (piece.range.count.0 << size.shift()) as usize;
        // A flush must not wait for memory that may be held by those who wait for the flush.
        let mut buf = host.alloc(len).unwrap_or_else(|| Buf::from_heap(len));
        overlay.copy_piece(&piece, &mut buf);
        Chosen::Piece(piece, buf)
    })
}
