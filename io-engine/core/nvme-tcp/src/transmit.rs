//! What a connection has to send: header bytes it owns, and ranges of data the adaptor owns, in stream order.
//!
//! Invariants:
//! - The order of segments is the order of bytes in the stream; nothing is removed but from the front, by sending.
//! - Neighbouring header bytes are one segment, so that many response capsules cost one gather entry.
//! - `bytes[head..]` is exactly the concatenation of the `Bytes` segments.

use crate::limits::TX_COMPACT_MIN;
use std::collections::VecDeque;

/// The adaptor's name for data it holds until it has been sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DataToken(pub u32);

/// A piece of the outgoing stream, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunk<'a> {
    /// Bytes of the connection: headers, padding, digests.
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

/// A data digest the adaptor has to compute before the next gather: CRC32C over a range of a token's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestOrder {
    /// Whose data.
    pub token: DataToken,
    /// First byte, from the start of the token's data.
    pub offset: u32,
    /// Number of bytes.
    pub len: u32,
    /// Where the digest goes, in bytes since the connection began.
    at: u64,
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
    /// Header bytes dropped from the front of `bytes` so far.
    dropped: u64,
    segments: VecDeque<Segment>,
    orders: VecDeque<DigestOrder>,
    /// Orders handed out by `poll_order` and not answered.
    orders_open: usize,
    ranges: usize,
    /// Bytes sent since the connection began.
    sent: u64,
}

impl Transmit {
    pub(crate) fn with_capacity(bytes: usize, segments: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            segments: VecDeque::with_capacity(segments),
            ..Self::default()
        }
    }

    /// Appends header bytes.
    #[inline]
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        self.compact();
        self.bytes.extend_from_slice(bytes);
        self.extend_segment(bytes.len());
    }

    /// Appends `len` zero bytes.
    #[inline]
    pub(crate) fn push_padding(&mut self, len: usize) {
        if len > 0 {
            self.bytes.resize(self.bytes.len() + len, 0);
            self.extend_segment(len);
        }
    }

    /// Appends a range of `token`'s data, which is reported once it is sent.
    #[inline]
    pub(crate) fn push_data(&mut self, token: DataToken, offset: u32, len: u32) {
        self.ranges += 1;
        self.segments
            .push_back(Segment::Data { token, offset, len });
    }

    /// Appends room for the digest of a range of `token`'s data, to be filled by the adaptor.
    pub(crate) fn push_digest_order(&mut self, token: DataToken, offset: u32, len: u32) {
        let at = self.dropped + self.bytes.len() as u64;
        self.bytes.extend_from_slice(&[0; 4]);
        self.extend_segment(4);
        self.orders.push_back(DigestOrder {
            token,
            offset,
            len,
            at,
        });
    }

    #[inline]
    fn extend_segment(&mut self, len: usize) {
        if let Some(Segment::Bytes(last)) = self.segments.back_mut() {
            *last += len;
        } else {
            self.segments.push_back(Segment::Bytes(len));
        }
    }

    #[inline]
    fn compact(&mut self) {
        if self.head == self.bytes.len() {
            self.dropped += self.head as u64;
            self.bytes.clear();
            self.head = 0;
        } else if self.head >= TX_COMPACT_MIN {
            self.bytes.copy_within(self.head.., 0);
            self.bytes.truncate(self.bytes.len() - self.head);
            self.dropped += self.head as u64;
            self.head = 0;
        }
    }

    pub(crate) fn poll_order(&mut self) -> Option<DigestOrder> {
        let order = self.orders.pop_front()?;
        self.orders_open += 1;
        Some(order)
    }

    pub(crate) fn handle_digest(&mut self, order: DigestOrder, digest: u32) {
        assert!(self.orders_open > 0, "no digest was ordered");
        self.orders_open -= 1;
        let at = (order.at - self.dropped) as usize;
        self.bytes[at..at + 4].copy_from_slice(&digest.to_le_bytes());
    }

    pub(crate) fn chunks(&self) -> Chunks<'_> {
        assert!(
            self.orders.is_empty() && self.orders_open == 0,
            "a digest order was not answered before the gather"
        );
        Chunks {
            bytes: &self.bytes[self.head..],
            segments: self.segments.iter(),
        }
    }

    /// Takes `sent` bytes off the front, reporting the token of each range they completed.
    #[inline]
    pub(crate) fn handle_sent(&mut self, mut sent: usize, mut released: impl FnMut(DataToken)) {
        self.sent += sent as u64;
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
                    self.ranges -= 1;
                    released(*token);
                }
            }
            self.segments.pop_front();
        }
    }

    /// Forgets everything queued, reporting the token of each range among it.
    pub(crate) fn clear(&mut self, mut released: impl FnMut(DataToken)) {
        for segment in self.segments.drain(..) {
            match segment {
                Segment::Bytes(_) => {}
                Segment::Data { token, .. } => released(token),
            }
        }
        self.ranges = 0;
        self.orders.clear();
        self.orders_open = 0;
        self.head = self.bytes.len();
        self.compact();
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes sent since the connection began.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Unsent bytes, headers and data.
    pub(crate) fn queued(&self) -> u64 {
        let data = |segment: &Segment| match segment {
            Segment::Bytes(len) => *len as u64,
            Segment::Data { len, .. } => u64::from(*len),
        };
        self.segments.iter().map(data).sum()
    }

    /// Unsent header bytes.
    #[inline]
    pub(crate) fn bytes_queued(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Data ranges not yet sent.
    #[inline]
    pub(crate) fn ranges_queued(&self) -> usize {
        self.ranges
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
