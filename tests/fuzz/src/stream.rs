//! What the two `nvme-tcp` harnesses share: choices from the input, the bytes of the peer, and the receiving adaptor.
//!
//! Does: builds PDUs with the digests that were agreed, gives the core what it wants in the pieces that are there, and
//! checks that it makes progress.
//! Does not: know commands or payload; each harness checks those where [`Side`] tells it of them.
//!
//! Spec: NVMe TCP Transport 1.0c §3.6.2 (PDUs and their digests).

use nvme_tcp::{Chunk, Chunks, DataToken, Want};
use nvme_tcp_pdu::{CommonHeader, Digests, Flags, PduType, crc32c, data_offset};

/// Takes decisions from the input, 0 when it is used up.
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl Choices<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(b, r)| (*b, r));
        self.0 = rest;
        first
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// True for one value in 256: what a peer rarely does.
    pub(crate) fn is_rare(&mut self) -> bool {
        self.byte() == 255
    }
}

/// What the peer has sent and the core has not taken.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) bytes: Vec<u8>,
    /// As agreed when the connection was set up.
    pub(crate) digests: Digests,
}

impl Stream {
    /// Up to 31 bytes straight from the input.
    pub(crate) fn feed_raw(&mut self, choices: &mut Choices<'_>) {
        for _ in 0..choices.byte() % 32 {
            self.bytes.push(choices.byte());
        }
    }

    /// The common header of a PDU with `len` bytes of data, padding as small as the layout allows.
    pub(crate) fn common(&self, pdu_type: PduType, len: u32, flags: Flags) -> CommonHeader {
        let at = data_offset(pdu_type, self.digests, 4);
        let flags = self.digests.flags(len > 0).with(flags);
        if len > 0 {
            let plen = at + len + self.digests.data_len() as u32;
            CommonHeader::new(pdu_type, flags, at as u8, plen)
        } else {
            let plen = pdu_type.header_len() + self.digests.header_len();
            CommonHeader::new(pdu_type, flags, 0, plen as u32)
        }
    }

    /// A header and its digest, wrong by one bit if `flip`.
    pub(crate) fn feed_header(&mut self, raw: &[u8], flip: bool) {
        self.bytes.extend(raw);
        if self.digests.header {
            let digest = crc32c(raw) ^ u32::from(flip);
            self.bytes.extend(digest.to_le_bytes());
        }
    }

    /// `len` bytes of data and their digest, wrong by one bit if `flip`.
    pub(crate) fn feed_payload(&mut self, len: u32, flip: bool) {
        let at = self.bytes.len();
        self.bytes.resize(at + len as usize, 0x5a);
        if self.digests.data && len > 0 {
            let digest = crc32c(&self.bytes[at..]) ^ u32::from(flip);
            self.bytes.extend(digest.to_le_bytes());
        }
    }
}

/// One side of a connection under test, as the receiving adaptor sees it.
pub(crate) trait Side {
    /// A payload's destination.
    type Dst;
    /// What receiving leads to.
    type Event;

    fn stream(&mut self) -> &mut Stream;
    fn want(&self) -> Want<Self::Dst>;
    /// Hands header bytes over; bytes taken and what they led to, `None` on a fault.
    fn header(&mut self, bytes: &[u8]) -> Option<(usize, Option<Self::Event>)>;
    /// Checks that `offset` and `len` are inside what was asked for, then hands over `placed`, at most `len` bytes.
    fn payload(
        &mut self,
        dst: Self::Dst,
        offset: u32,
        len: u32,
        placed: &[u8],
    ) -> Option<Self::Event>;
    /// The core says that the peer does not read.
    fn congested(&self);
    fn event(&mut self, event: Self::Event);
}

/// Gives the core of `side` all it wants of what has arrived.
pub(crate) fn receive<S: Side>(side: &mut S) {
    let mut stream = std::mem::take(&mut side.stream().bytes);
    let mut at = 0;
    loop {
        let bytes = &stream[at..];
        let event = match side.want() {
            Want::Header(at_least) => {
                assert!(at_least <= 256);
                if bytes.len() < at_least {
                    break;
                }
                let Some((taken, event)) = side.header(bytes) else {
                    break;
                };
                let more = matches!(side.want(), Want::Header(n) if n > bytes.len());
                assert!(taken > 0 || more, "no progress");
                at += taken;
                event
            }
            Want::Payload { dst, offset, len } => {
                let part = bytes.len().min(len as usize);
                if part == 0 {
                    break;
                }
                at += part;
                side.payload(dst, offset, len, &bytes[..part])
            }
            Want::Congested => {
                side.congested();
                break;
            }
            Want::Flush => break,
            Want::Close => {
                at = stream.len();
                break;
            }
        };
        if let Some(event) = event {
            side.event(event);
        }
    }
    stream.drain(..at);
    side.stream().bytes = stream;
}

/// Bytes in `chunks`; `check` sees token, offset and length of each piece of payload.
pub(crate) fn queued(chunks: Chunks<'_>, check: impl Fn(DataToken, u32, u32)) -> usize {
    chunks
        .map(|chunk| match chunk {
            Chunk::Bytes(bytes) => bytes.len(),
            Chunk::Data { token, offset, len } => {
                check(token, offset, len);
                len as usize
            }
        })
        .sum()
}
