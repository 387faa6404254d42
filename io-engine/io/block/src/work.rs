//! What remains to be done for an I/O, and how a device's answers move it on. Decides; submits nothing.
//!
//! Plain reads, writes and flushes are one device operation. The others are steps:
//!
//! | request           | steps                                                                  |
//! |-------------------|------------------------------------------------------------------------|
//! | write zeroes      | pieces, natively or, if the device cannot, as writes of a zero buffer   |
//! | discard           | pieces; without support, none                                           |
//! | compare           | read, compare                                                           |
//! | compare-and-write | (range locked) read, compare, write                                     |

use sdk::block::{Capabilities, IoError, IoResult, Op, Support};
use sdk::buf::{Buf, Payload};
use sdk::host::Host;
use units::{BlockRange, BlockSize};

use crate::limits::{CLEAR_BYTES_MAX, ZERO_BUF_BYTES};
use crate::request::Request;

/// The rest of an I/O.
pub(crate) enum Work {
    /// One operation, which the device has.
    Single,
    /// One operation, held back.
    Held(Op),
    /// Pieces of write-zeroes: `done` blocks are zero, `piece` more are in the device.
    Zeroes {
        done: u64,
        piece: u64,
        deallocate: bool,
        fua: bool,
    },
    /// Pieces of discard.
    Discard { done: u64, piece: u64 },
    /// A read whose data is compared; with `write`, written over if equal.
    Compare {
        expected: Buf,
        write: Option<(Buf, bool)>,
    },
}

/// What to do next for an I/O.
pub(crate) enum Next {
    /// Submit this.
    Op(Op),
    /// Come back on a later turn: there is no buffer.
    Wait,
    /// Nothing is left.
    Finished(IoResult),
}

/// What an answer of the device means.
pub(crate) enum Answer {
    /// The I/O is complete.
    Finished(IoResult),
    /// The next step can go at once.
    Continue,
    /// The next piece can go; on a later turn if this one took no time in the device.
    NextPiece,
}

/// What is known about the device's optional operations; learns from refusals.
#[derive(Clone, Copy)]
pub(crate) struct Abilities {
    pub(crate) zeroes: bool,
    pub(crate) discard: bool,
    pub(crate) lends: bool,
    pub(crate) block_size: BlockSize,
}

impl Abilities {
    pub(crate) fn new(capabilities: &Capabilities, block_size: BlockSize) -> Self {
        Self {
            zeroes: capabilities.write_zeroes != Support::None,
            discard: capabilities.discard != Support::None,
            lends: capabilities.lends_reads,
            block_size,
        }
    }
}

impl Work {
    /// The work of a request that has not begun.
    pub(crate) fn new(request: Request) -> Self {
        match request {
            Request::Read { range, buf } => Self::Held(Op::Read { range, buf }),
            Request::Write { range, buf, fua } => Self::Held(Op::Write { range, buf, fua }),
            Request::Flush => Self::Held(Op::Flush),
            Request::WriteZeroes {
                deallocate, fua, ..
            } => Self::Zeroes {
                done: 0,
                piece: 0,
                deallocate,
                fua,
            },
            Request::Discard { .. } => Self::Discard { done: 0, piece: 0 },
            Request::Compare { buf, .. } => Self::Compare {
                expected: buf,
                write: None,
            },
            Request::CompareAndWrite {
                compare,
                write,
                fua,
                ..
            } => Self::Compare {
                expected: compare,
                write: Some((write, fua)),
            },
        }
    }

    /// The next operation for an I/O on `range`.
    pub(crate) fn next(
        &mut self,
        host: &mut dyn Host,
        abilities: &Abilities,
        range: BlockRange,
    ) -> Next {
        match self {
            Self::Single => Next::Finished(Err(IoError::Aborted)),
            Self::Held(_) => match std::mem::replace(self, Self::Single) {
                Self::Held(op) => Next::Op(op),
                other => {
                    *self = other;
                    Next::Wait
                }
            },
            Self::Discard { done, piece } => {
                *piece = clear_piece(abilities.block_size, range, *done);
                if *piece == 0 || !abilities.discard {
                    return Next::Finished(Ok(None));
                }
                Next::Op(Op::Discard {
                    range: sub_range(range, *done, *piece),
                })
            }
            Self::Zeroes {
                done,
                piece,
                deallocate,
                fua,
            } => {
                *piece = clear_piece(abilities.block_size, range, *done);
                if *piece == 0 {
                    return Next::Finished(Ok(None));
                }
                if abilities.zeroes {
                    return Next::Op(Op::WriteZeroes {
                        range: sub_range(range, *done, *piece),
                        deallocate: *deallocate,
                        fua: *fua,
                    });
                }
                let Some(buf) = zero_buf(host, abilities.block_size, *piece) else {
                    return Next::Wait;
                };
                *piece = buf.len() as u64 >> abilities.block_size.shift();
                Next::Op(Op::Write {
                    range: sub_range(range, *done, *piece),
                    buf,
                    fua: *fua,
                })
            }
            Self::Compare { expected, .. } => {
                let buf = match abilities.lends {
                    true => None,
                    false => match host.alloc(expected.len()) {
                        Some(buf) => Some(buf),
                        None => return Next::Wait,
                    },
                };
                Next::Op(Op::Read { range, buf })
            }
        }
    }

    /// Takes in the device's answer to the operation [`Work::next`] gave for `range`.
    pub(crate) fn absorb(
        &mut self,
        abilities: &mut Abilities,
        range: BlockRange,
        result: IoResult,
    ) -> Answer {
        match (self, result) {
            (Self::Zeroes { .. }, Err(IoError::NotSupported)) if abilities.zeroes => {
                abilities.zeroes = false;
                Answer::Continue
            }
            // A discard is advice; a device that cannot take it has lost nothing.
            (Self::Discard { .. }, Err(IoError::NotSupported)) => {
                abilities.discard = false;
                Answer::Finished(Ok(None))
            }
            (_, Err(error)) => Answer::Finished(Err(error)),
            (Self::Zeroes { done, piece, .. } | Self::Discard { done, piece }, Ok(_)) => {
                *done += *piece;
                if *done < range.count.0 {
                    Answer::NextPiece
                } else {
                    Answer::Finished(Ok(None))
                }
            }
            (this @ Self::Compare { .. }, Ok(payload)) => this.compare(range, payload),
            (Self::Single | Self::Held(_), Ok(payload)) => Answer::Finished(Ok(payload)),
        }
    }

    fn compare(&mut self, range: BlockRange, payload: Option<Payload>) -> Answer {
        let Self::Compare { expected, write } = self else {
            return Answer::Finished(Err(IoError::Aborted));
        };
        match payload {
            // A device that answers a read with anything but the range has not read it.
            None => return Answer::Finished(Err(IoError::Medium(range))),
            Some(payload) if payload.len() != expected.len() => {
                return Answer::Finished(Err(IoError::Medium(range)));
            }
            Some(payload) => {
                if let Some(at) = first_difference(&payload, expected) {
                    return Answer::Finished(Err(IoError::CompareFailed(at)));
                }
            }
        }
        match write.take() {
            None => Answer::Finished(Ok(None)),
            Some((buf, fua)) => {
                *self = Self::Held(Op::Write { range, buf, fua });
                Answer::Continue
            }
        }
    }
}

/// The first byte at which `payload` is not `expected`; both are equally long.
fn first_difference(payload: &Payload, expected: &[u8]) -> Option<u64> {
    let mut at = 0;
    for piece in payload.pieces() {
        let other = &expected[at..at + piece.len()];
        if piece != other {
            let within = piece.iter().zip(other).position(|(a, b)| a != b);
            return within.map(|within| (at + within) as u64);
        }
        at += piece.len();
    }
    None
}

fn clear_piece(block_size: BlockSize, range: BlockRange, done: u64) -> u64 {
    (range.count.0 - done).min(CLEAR_BYTES_MAX >> block_size.shift())
}

fn sub_range(range: BlockRange, done: u64, piece: u64) -> BlockRange {
    BlockRange::new(range.start.0 + done, piece)
}

fn zero_buf(host: &mut dyn Host, block_size: BlockSize, blocks: u64) -> Option<Buf> {
    let bytes = blocks << block_size.shift();
    let mut buf = ZERO_BUF_BYTES
        .iter()
        .find_map(|size| host.alloc(bytes.min(*size) as usize))?;
    buf.fill(0);
    Some(buf)
}
