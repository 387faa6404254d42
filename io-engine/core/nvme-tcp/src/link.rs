//! What both roles have in common: phase, agreed digests, outgoing stream, deadline, and how a connection ends.

use crate::fault::{Fault, FaultKind};
use crate::limits::TERMINATE_TIMEOUT;
use crate::state::{self, Phase, Refusal, Role};
use crate::transmit::{DataToken, Transmit};
use nvme_tcp_pdu::{
    CommonHeader, DataHeader, Digests, FatalStatus, Flags, PduType, TermReq, crc32c,
};
use std::time::Instant;

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
