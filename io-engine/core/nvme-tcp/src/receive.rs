//! Where a connection is inside the PDU it receives; shared by both roles.

use crate::Want;
use crate::fault::{Fault, FaultKind};
use nvme_tcp_pdu::{CommonHeader, DIGEST_LEN, Digest, Digests, FatalStatus, Layout, crc32c};

/// Position in the incoming stream: between PDUs, in data, or before a data digest.
#[derive(Debug)]
pub(crate) struct Receive<D> {
    /// Contiguous bytes needed to make progress on a header.
    header_want: usize,
    /// Data of the PDU whose header was handled last, if it has any.
    payload: Option<Payload<D>>,
    /// Headers, and data with its digest, that are complete; grows.
    parts: u64,
}

#[derive(Clone, Copy, Debug)]
struct Payload<D> {
    dst: D,
    /// Bytes of data in this PDU.
    total: u32,
    offset: u32,
    remaining: u32,
    digest: Option<Digest>,
}

/// The data of one PDU has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived<D> {
    pub(crate) dst: D,
    pub(crate) len: u32,
    pub(crate) data_ok: bool,
}

impl<D: Copy + PartialEq> Receive<D> {
    pub(crate) fn new() -> Self {
        Self {
            header_want: CommonHeader::LEN,
            payload: None,
            parts: 0,
        }
    }

    /// Headers, and data with its digest, that are complete.
    pub(crate) fn parts(&self) -> u64 {
        self.parts
    }

    /// Where the data being received goes, and bytes of its PDU placed so far.
    pub(crate) fn receiving(&self) -> Option<(D, u32)> {
        let payload = self.payload.as_ref()?;
        Some((payload.dst, payload.total - payload.remaining))
    }

    #[inline]
    pub(crate) fn want(&self) -> Want<D> {
        match &self.payload {
            None => Want::Header(self.header_want),
            Some(payload) if payload.remaining > 0 => Want::Payload {
                dst: payload.dst,
                offset: payload.offset,
                len: payload.remaining,
            },
            Some(_) => Want::Header(DIGEST_LEN),
        }
    }

    /// The common header in `bytes`, once it is there and its type's whole header with it.
    #[inline]
    pub(crate) fn common(&mut self, bytes: &[u8]) -> Result<Option<CommonHeader>, Fault> {
        if bytes.len() < CommonHeader::LEN {
            return Ok(None);
        }
        let common = CommonHeader::parse(bytes)?;
        Ok(self
            .is_there(bytes, usize::from(common.hlen))
            .then_some(common))
    }

    /// Checks header digest and layout; `None` until everything before the data is there.
    #[inline]
    pub(crate) fn head(
        &mut self,
        common: CommonHeader,
        bytes: &[u8],
        digests: Digests,
        alignment: u32,
    ) -> Result<Option<Layout>, Fault> {
        let layout = common.layout(digests, alignment)?;
        if !self.is_there(bytes, layout.data_offset as usize) {
            return Ok(None);
        }
        if digests.header && common.pdu_type.has_header_digest() {
            let (header, rest) = bytes.split_at(usize::from(common.hlen));
            let received = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
            if crc32c(header) != received {
                let status = FatalStatus::HeaderDigestError;
                return Err(Fault::new(FaultKind::HeaderDigest, status, received));
            }
        }
        self.header_want = CommonHeader::LEN;
        self.parts += 1;
        Ok(Some(layout))
    }

    #[inline]
    fn is_there(&mut self, bytes: &[u8], need: usize) -> bool {
        self.header_want = need;
        bytes.len() >= need
    }

    /// Expects the data of `layout` at `offset` of `dst`.
    #[inline]
    pub(crate) fn expect(&mut self, dst: D, offset: u32, layout: Layout) {
        debug_assert!(layout.data_len > 0);
        self.payload = Some(Payload {
            dst,
            total: layout.data_len,
            offset,
            remaining: layout.data_len,
            digest: layout.data_digest.then(Digest::new),
        });
    }

    /// Sends the rest of the data meant for `from` to `to`.
    pub(crate) fn redirect(&mut self, from: D, to: D) {
        if let Some(payload) = &mut self.payload
            && payload.dst == from
        {
            payload.dst = to;
        }
    }

    /// Whether the next bytes are a data digest.
    #[inline]
    pub(crate) fn is_at_digest(&self) -> bool {
        self.payload.is_some()
    }

    /// Takes data that was placed; the whole PDU's once nothing is left of it.
    #[inline]
    pub(crate) fn placed(&mut self, bytes: &[u8]) -> Option<Arrived<D>> {
        let payload = self.payload.as_mut().expect("data is handled when wanted");
        let len = u32::try_from(bytes.len()).expect("at most the wanted bytes");
        assert!(len <= payload.remaining, "at most the wanted bytes");
        payload.offset += len;
        payload.remaining -= len;
        if let Some(digest) = &mut payload.digest {
            digest.update(bytes);
            return None;
        }
        if payload.remaining > 0 {
            return None;
        }
        let arrived = Arrived {
            dst: payload.dst,
            len: payload.total,
            data_ok: true,
        };
        self.payload = None;
        self.parts += 1;
        Some(arrived)
    }

    /// Compares the data digest at the start of `bytes`; `None` until it is there.
    pub(crate) fn data_digest(&mut self, bytes: &[u8]) -> Option<Arrived<D>> {
        let received = u32::from_le_bytes(*bytes.first_chunk()?);
        let payload = self.payload.take()?;
        self.parts += 1;
        assert!(payload.remaining == 0, "data was wanted, not a header");
        Some(Arrived {
            dst: payload.dst,
            len: payload.total,
            data_ok: payload.digest.is_some_and(|d| d.value() == received),
        })
    }
}
