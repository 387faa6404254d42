//! What a connection has to send: header bytes it owns, and data the adaptor owns, in stream order.
//!
//! Invariants:
//! - The order of segments is the order of bytes in the stream; nothing is removed but from the front, by sending.
//! - Neighbouring header bytes are one segment, so that many small answers cost one gather entry.
//! - `bytes[head..]` is exactly the concatenation of the `Bytes` segments.

use std::collections::VecDeque;

use crate::limits::TX_COMPACT_MIN;

/// The adaptor's name for data it holds until it has been sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DataToken(pub u32);

/// A piece of the outgoing stream, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunk<'a> {
    /// Bytes of the connection.
    Bytes(&'a [u8]),
    /// `len` bytes at `offset` of the data behind `token`.
    Data {
        /// Whose data.
        token: DataToken,
        /// First byte, from the start of the token's data.
        offset: u32,
        /// Number of bytes, at least 1.
        len: u32,
    },
}

#[derive(Clone, Copy, Debug)]
enum Segment {
    Bytes(usize),
    Data {
        token: DataToken,
        offset: u32,
        len: u32,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Transmit {
    bytes: Vec<u8>,
    head: usize,
    segments: VecDeque<Segment>,
}

impl Transmit {
    /// Appends bytes.
    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.write(|out| out.extend_from_slice(bytes));
    }

    /// Appends what `emit` appends.
    #[inline]
    pub(crate) fn write(&mut self, emit: impl FnOnce(&mut Vec<u8>)) {
        self.compact();
        let before = self.bytes.len();
        emit(&mut self.bytes);
        let len = self.bytes.len() - before;
        if let Some(Segment::Bytes(last)) = self.segments.back_mut() {
            *last += len;
        } else if len > 0 {
            self.segments.push_back(Segment::Bytes(len));
        }
    }

    /// Appends `len` bytes of `token`'s data, at least 1, which are reported once they are sent.
    #[inline]
    pub(crate) fn push_data(&mut self, token: DataToken, len: u32) {
        self.segments.push_back(Segment::Data {
            token,
            offset: 0,
            len,
        });
    }

    #[inline]
    fn compact(&mut self) {
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
        } else if self.head >= TX_COMPACT_MIN {
            self.bytes.copy_within(self.head.., 0);
            self.bytes.truncate(self.bytes.len() - self.head);
            self.head = 0;
        }
    }

    pub(crate) fn chunks(&self) -> Chunks<'_> {
        Chunks {
            bytes: &self.bytes[self.head..],
            segments: self.segments.iter(),
        }
    }

    /// Takes `sent` bytes off the front, reporting token and length of each piece of data they completed.
    #[inline]
    pub(crate) fn handle_sent(
        &mut self,
        mut sent: usize,
        mut released: impl FnMut(DataToken, u32),
    ) {
        while sent > 0 {
            let Some(front) = self.segments.front_mut() else {
                panic!("more bytes sent than were queued");
            };
            match front {
                Segment::Bytes(len) => {
                    let part = sent.min(*len);
                    *len -= part;
                    self.head += part;
                    sent -= part;
                    if *len > 0 {
                        return;
                    }
                }
                Segment::Data { token, offset, len } => {
                    let part = sent.min(*len as usize);
                    *offset += part as u32;
                    *len -= part as u32;
                    sent -= part;
                    if *len > 0 {
                        return;
                    }
                    released(*token, *offset);
                }
            }
            self.segments.pop_front();
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Unsent header bytes.
    #[inline]
    pub(crate) fn bytes_queued(&self) -> usize {
        self.bytes.len() - self.head
    }
}

/// The outgoing stream, piece by piece.
#[derive(Debug)]
pub struct Chunks<'a> {
    bytes: &'a [u8],
    segments: std::collections::vec_deque::Iter<'a, Segment>,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        Some(match *self.segments.next()? {
            Segment::Bytes(len) => {
                let (piece, rest) = self.bytes.split_at(len);
                self.bytes = rest;
                Chunk::Bytes(piece)
            }
            Segment::Data { token, offset, len } => Chunk::Data { token, offset, len },
        })
    }
}
