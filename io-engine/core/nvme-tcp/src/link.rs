//! What both roles have in common: phase, agreed digests, outgoing stream, deadline, how a connection ends, and the part of
//! their interface that is the same ([`stream_methods`]).

use crate::Want;
use crate::fault::{Fault, FaultKind};
use crate::limits::TERMINATE_TIMEOUT;
use crate::receive::Receive;
use crate::state::{self, Phase, Refusal, Role};
use crate::transmit::{DataToken, Transmit};
use nvme_tcp_pdu::{
    CommonHeader, DataHeader, Digests, FatalStatus, Flags, PduType, TermReq, crc32c,
};
use std::time::Instant;

/// What taking a header did; `E` is the role's event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step<E> {
    /// Bytes taken off the front; 0 if more are needed first (how many, `want` tells).
    pub taken: usize,
    /// What they meant.
    pub event: Option<E>,
}

impl<E> Step<E> {
    pub(crate) const MORE: Self = Self {
        taken: 0,
        event: None,
    };

    #[inline]
    pub(crate) fn took(bytes: u32, event: Option<E>) -> Self {
        Self {
            taken: bytes as usize,
            event,
        }
    }
}

/// The methods of a role that are the same for both, over its `link` and `rx`, its `header` and `data_arrived`.
macro_rules! stream_methods {
    ($event:ty) => {
        /// Takes a header, or a data digest, off the front of `bytes`, which holds what was received and not yet taken.
        ///
        /// Call it when [`Self::want`] says `Header`; at most one PDU's header is taken.
        ///
        /// # Errors
        /// A [`Fault`] ends the connection; `want` says `Flush` or `Close` from there on.
        #[inline]
        pub fn handle_header(
            &mut self,
            now: Instant,
            bytes: &[u8],
        ) -> Result<crate::Step<$event>, Fault> {
            if self.rx.is_at_digest() {
                let Some(arrived) = self.rx.data_digest(bytes) else {
                    return Ok(crate::Step::MORE);
                };
                let event = self.data_arrived(arrived);
                return Ok(crate::Step::took(nvme_tcp_pdu::DIGEST_LEN as u32, event));
            }
            self.header(bytes)
                .inspect_err(|fault| self.link.fail(now, fault, bytes))
        }

        /// Takes data that the adaptor has placed where [`Self::want`] said: the next `placed.len()` bytes, at most as
        /// many as were outstanding. The bytes are read only if data digests are used.
        ///
        /// # Panics
        /// If no data is wanted, or less.
        #[inline]
        pub fn handle_payload(&mut self, placed: &[u8]) -> Option<$event> {
            let arrived = self.rx.placed(placed)?;
            self.data_arrived(arrived)
        }

        /// When [`Self::handle_timeout`] is to be called.
        pub fn poll_timeout(&self) -> Option<Instant> {
            self.link.deadline
        }

        /// Acts on a deadline that has passed; does nothing before it.
        ///
        /// # Errors
        /// [`FaultKind::HandshakeTimeout`] if the peer took too long to set the connection up; it is closed.
        pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Fault> {
            self.link.handle_timeout(now)
        }

        /// The next data digest to compute. All are to be answered before [`Self::transmit`].
        #[inline]
        pub fn poll_digest_order(&mut self) -> Option<crate::DigestOrder> {
            self.link.tx.poll_order()
        }

        /// The CRC32C of the range `order` named.
        pub fn handle_digest(&mut self, order: crate::DigestOrder, digest: u32) {
            self.link.tx.handle_digest(order, digest);
        }

        /// Whether there is something to send.
        #[inline]
        pub fn has_transmit(&self) -> bool {
            !self.link.tx.is_empty()
        }

        /// Everything queued, in stream order, for one gathered send. What a data chunk's token names, the role says.
        ///
        /// # Panics
        /// If a digest order is open.
        #[inline]
        pub fn transmit(&self) -> crate::Chunks<'_> {
            self.link.tx.chunks()
        }
    };
}
pub(crate) use stream_methods;

#[derive(Debug)]
pub(crate) struct Link {
    role: Role,
    pub(crate) phase: Phase,
    pub(crate) digests: Digests,
    pub(crate) tx: Transmit,
    pub(crate) deadline: Option<Instant>,
}

impl Link {
    pub(crate) fn new(role: Role, deadline: Instant) -> Self {
        Self {
            role,
            phase: Phase::Initializing,
            digests: Digests::default(),
            tx: Transmit::with_capacity(1024, 32),
            deadline: Some(deadline),
        }
    }

    /// Whether PDUs are received.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        match self.phase {
            Phase::Initializing | Phase::Ready => true,
            Phase::Terminating | Phase::Closed => false,
        }
    }

    /// What to receive next: what `rx` needs, as long as the connection takes anything.
    #[inline]
    pub(crate) fn want<D: Copy + PartialEq>(&self, rx: &Receive<D>) -> Want<D> {
        match self.phase {
            Phase::Initializing | Phase::Ready => rx.want(),
            Phase::Terminating => Want::Flush,
            Phase::Closed => Want::Close,
        }
    }

    /// The phase after a PDU of `pdu_type`; `None` where nothing is received any more.
    #[inline]
    pub(crate) fn next(&self, pdu_type: PduType) -> Result<Option<Phase>, Fault> {
        match state::next(self.role, self.phase, pdu_type) {
            Ok(next) => Ok(Some(next)),
            Err(Refusal::NotReceiving) => Ok(None),
            Err(Refusal::UnexpectedPdu) => {
                let status = FatalStatus::SequenceError;
                Err(Fault::new(FaultKind::UnexpectedPdu, status, 0))
            }
        }
    }

    pub(crate) fn close(&mut self) {
        self.phase = Phase::Closed;
        self.deadline = None;
    }

    /// Ends the handshake deadline.
    pub(crate) fn established(&mut self) {
        match self.phase {
            Phase::Initializing | Phase::Ready => self.deadline = None,
            Phase::Terminating | Phase::Closed => {}
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), Fault> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let was = self.phase;
        self.close();
        match was {
            Phase::Initializing | Phase::Ready => Err(Fault::silent(FaultKind::HandshakeTimeout)),
            Phase::Terminating | Phase::Closed => Ok(()),
        }
    }

    #[inline]
    pub(crate) fn handle_sent(&mut self, sent: usize, released: impl FnMut(DataToken)) {
        self.tx.handle_sent(sent, released);
        if self.phase == Phase::Terminating && self.tx.is_empty() {
            self.close();
        }
    }

    /// Queues a header and, where used, its digest.
    #[inline]
    pub(crate) fn queue_header(&mut self, header: &[u8]) {
        self.tx.push_bytes(header);
        if self.digests.header {
            self.tx.push_bytes(&crc32c(header).to_le_bytes());
        }
    }

    /// The common header of a PDU without data.
    #[inline]
    pub(crate) fn header_without_data(&self, pdu_type: PduType) -> CommonHeader {
        let plen = pdu_type.header_len() + self.digests.header_len();
        CommonHeader::new(pdu_type, self.digests.flags(false), 0, plen as u32)
    }

    /// The common header of a PDU with `len` bytes of data at `data_offset`.
    #[inline]
    pub(crate) fn header_with_data(
        &self,
        pdu_type: PduType,
        flags: Flags,
        data_offset: u32,
        len: u32,
    ) -> CommonHeader {
        let plen = data_offset + len + self.digests.data_len() as u32;
        let flags = self.digests.flags(true).with(flags);
        CommonHeader::new(pdu_type, flags, data_offset as u8, plen)
    }

    /// Queues what follows the header of a PDU with data: padding, data, digest.
    #[inline]
    pub(crate) fn queue_payload(&mut self, common: &CommonHeader, payload: Payload) {
        let before = usize::from(common.hlen) + self.digests.header_len();
        let Payload { token, offset, len } = payload;
        self.tx.push_padding(usize::from(common.pdo) - before);
        self.tx.push_data(token, offset, len);
        if self.digests.data {
            self.tx.push_digest_order(token, offset, len);
        }
    }

    /// Queues an H2CData or C2HData PDU.
    #[inline]
    pub(crate) fn queue_data(&mut self, common: CommonHeader, data: DataHeader, payload: Payload) {
        self.queue_header(&data.to_bytes(common));
        self.queue_payload(&common, payload);
    }

    /// Ends the connection. What is queued stays in front of the terminate request, because a PDU may be half sent.
    #[cold]
    pub(crate) fn fail(&mut self, now: Instant, fault: &Fault, received: &[u8]) {
        let Some(status) = fault
            .status
            .filter(|_| fault.kind != FaultKind::PeerTerminated)
        else {
            self.close();
            return;
        };
        let header = offending(received);
        let term = TermReq {
            fes: status as u16,
            fei: fault.info,
            header_len: header.len() as u8,
        };
        let pdu_type = match self.role {
            Role::Controller => PduType::C2hTermReq,
            Role::Host => PduType::H2cTermReq,
        };
        self.tx.push_bytes(&term.to_bytes(pdu_type));
        self.tx.push_bytes(header);
        self.phase = Phase::Terminating;
        self.deadline = Some(now + TERMINATE_TIMEOUT);
    }
}

/// A range of data that travels in one PDU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    pub(crate) token: DataToken,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// The fault a terminate request of the peer stands for.
#[cold]
pub(crate) fn terminated(bytes: &[u8], pdu_type: PduType) -> Fault {
    match TermReq::parse(bytes, pdu_type) {
        Ok(term) => Fault {
            kind: FaultKind::PeerTerminated,
            status: FatalStatus::from_raw(term.fes),
            info: term.fei,
        },
        Err(_) => Fault::silent(FaultKind::PeerTerminated),
    }
}

/// Bytes of the offending header that a terminate request copies: the type's header, as far as it was received.
fn offending(bytes: &[u8]) -> &[u8] {
    let len = match bytes.first().map(|first| PduType::from_byte(*first)) {
        Some(Ok(pdu_type)) => pdu_type.header_len(),
        Some(Err(_)) | None => CommonHeader::LEN,
    };
    &bytes[..len.min(bytes.len())]
}
