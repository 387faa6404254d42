//! The states of a connection and what each PDU means in them, for both roles.
//!
//! | state | event | next |
//! |---|---|---|
//! | `Initializing` | the peer's ICReq (controller) or ICResp (host) | `Ready` |
//! | `Initializing`, `Ready` | a terminate request from the peer | `Closed` |
//! | `Initializing`, `Ready` | any PDU the table below refuses, or any other fault | `Terminating` |
//! | `Initializing` | handshake deadline | `Closed` |
//! | `Ready` | handshake deadline without a successful Connect | `Closed` |
//! | `Ready` | bytes owed for longer than the progress timeout | `Closed` |
//! | `Terminating` | the terminate request is sent, or its deadline | `Closed` |
//!
//! [`next`] is the part of the table that depends on a PDU; the rest has one source state each and lives with the
//! call that causes it. TCP Transport 1.0c §3.6.2 (PDU types and their directions).

use nvme_tcp_pdu::PduType;

/// Which end of the connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The end that answers commands.
    Controller,
    /// The end that sends commands.
    Host,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// ICReq and ICResp are not exchanged yet.
    Initializing,
    /// Capsules and data flow.
    Ready,
    /// Failed; the terminate request is queued and nothing is received.
    Terminating,
    /// Over; the socket is to be closed.
    Closed,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 4] = [
        Self::Initializing,
        Self::Ready,
        Self::Terminating,
        Self::Closed,
    ];
}

/// Why a PDU has no place in a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The type never travels in this direction, or not in this phase.
    UnexpectedPdu,
    /// Nothing is received any more.
    NotReceiving,
}

/// The phase after `pdu_type` arrived at `role` in `phase`.
///
/// # Errors
/// [`Refusal`] for every pair that is not allowed.
#[inline]
pub fn next(role: Role, phase: Phase, pdu_type: PduType) -> Result<Phase, Refusal> {
    match (phase, role, pdu_type) {
        (Phase::Terminating | Phase::Closed, ..) => Err(Refusal::NotReceiving),
        (Phase::Ready, Role::Controller, PduType::CapsuleCmd | PduType::H2cData)
        | (Phase::Ready, Role::Host, PduType::CapsuleResp | PduType::C2hData | PduType::R2t)
        | (Phase::Initializing, Role::Controller, PduType::IcReq)
        | (Phase::Initializing, Role::Host, PduType::IcResp) => Ok(Phase::Ready),
        (Phase::Initializing | Phase::Ready, Role::Controller, PduType::H2cTermReq)
        | (Phase::Initializing | Phase::Ready, Role::Host, PduType::C2hTermReq) => {
            Ok(Phase::Closed)
        }
        (
            Phase::Initializing | Phase::Ready,
            Role::Controller | Role::Host,
            PduType::IcReq
            | PduType::IcResp
            | PduType::H2cTermReq
            | PduType::C2hTermReq
            | PduType::CapsuleCmd
            | PduType::CapsuleResp
            | PduType::H2cData
            | PduType::C2hData
            | PduType::R2t,
        ) => Err(Refusal::UnexpectedPdu),
    }
}
