//! What remains to be done for an I/O, and how a device's answers move it on. Decides; submits nothing.
//!
//! Plain reads, writes and flushes are one device operation. The others are steps:
//!
//! | request           | steps                                                                  |
//! |-------------------|------------------------------------------------------------------------|
//! | write zeroes      | pieces, natively or, if the device cannot, as writes of a zero buffer   |
//! | discard           | pieces; without support, none                                           |
//! | compare           | pieces of read, compare; one, as long as there is a buffer for it       |
//! | compare-and-write | (range locked) the same, then write                                     |

use sdk::block::{Capabilities, IoError, IoResult, Op, Support};
use sdk::buf::{Buf, Payload};
use sdk::host::Host;
use units::{BlockRange, BlockSize};

use crate::limits::{CLEAR_BYTES_MAX, COMPARE_BUF_BYTES, ZERO_BUF_BYTES};
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
    /// Reads whose data is compared: `done` blocks are equal, `piece` more are in the device. With `write`, written over
    /// if all are equal.
    Compare {
        expected: Buf,
        write: Option<(Buf, bool)>,
        done: u64,
        piece: u64,
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
                done: 0,
                piece: 0,
            },
            Request::CompareAndWrite {
                compare,
                write,
                fua,
                ..
            } => Self::Compare {
                expected: compare,
                write: Some((write, fua)),
                done: 0,
                piece: 0,
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
            Self::Compare { done, piece, .. } => {
                *piece = range.count.0 - *done;
                let buf = match abilities.lends {
                    true => None,
                    false => match compare_buf(host, *piece << abilities.block_size.shift()) {
                        Some(buf) => Some(buf),
                        None => return Next::Wait,
                    },
                };
                if let Some(buf) = &buf {
                    *piece = buf.len() as u64 >> abilities.block_size.shift();
                }
                Next::Op(Op::Read {
                    range: sub_range(range, *done, *piece),
                    buf,
                })
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
            (this @ Self::Compare { .. }, Ok(payload)) => {
                this.compare(abilities.block_size, range, payload)
            }
            (Self::Single | Self::Held(_), Ok(payload)) => Answer::Finished(Ok(payload)),
        }
    }

    fn compare(
        &mut self,
        block_size: BlockSize,
        range: BlockRange,
        payload: Option<Payload>,
    ) -> Answer {
        let Self::Compare {
            expected,
            write,
            done,
            piece,
        } = self
        else {
            return Answer::Finished(Err(IoError::Aborted));
        };
        let [from, to] =
            [*done, *done + *piece].map(|blocks| (blocks << block_size.shift()) as usize);
        let (Some(payload), Some(expected)) = (payload, expected.get(from..to)) else {
            return Answer::Finished(Err(IoError::Medium(range)));
        };
        // A device that answers a read with anything but the range has not read it.
        if payload.len() != expected.len() {
            return Answer::Finished(Err(IoError::Medium(range)));
        }
        if let Some(at) = first_difference(&payload, expected) {
            return Answer::Finished(Err(IoError::CompareFailed(from as u64 + at)));
        }
        *done += *piece;
        if *done < range.count.0 {
            return Answer::NextPiece;
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

/// A buffer for `bytes` to be compared, or for as many of them as there is memory for: the data they are compared with holds
/// memory already, and must not wait for as much again.
fn compare_buf(host: &mut dyn Host, bytes: u64) -> Option<Buf> {
    std::iter::once(bytes)
        .chain(COMPARE_BUF_BYTES.into_iter().filter(|size| *size < bytes))
        .find_map(|size| host.alloc(size as usize))
}

fn zero_buf(host: &mut dyn Host, block_size: BlockSize, blocks: u64) -> Option<Buf> {
    let bytes = blocks << block_size.shift();
    let mut buf = ZERO_BUF_BYTES
        .iter()
        .find_map(|size| host.alloc(bytes.min(*size) as usize))?;
    buf.fill(0);
    Some(buf)
}
