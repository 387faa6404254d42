//! Every PDU parser on arbitrary bytes.
//!
//! Oracle: no panic; what parses is emitted as the same bytes, where all of them carry meaning, or parses to the same
//! value again; a layout that is accepted adds up to the PDU's length.

use nvme_tcp_pdu::{
    CapsuleCmd, CapsuleResp, CommonHeader, DataHeader, Digests, Flags, IcReq, IcResp, PduType, R2t,
    TermReq,
};

/// Runs one input.
///
/// # Panics
/// When the oracle is broken.
pub fn run(input: &[u8]) {
    let Some((choice, raw)) = input.split_first() else {
        return;
    };
    let digests = Digests::from_byte(*choice);
    let alignment = (u32::from(choice >> 2) % 32 + 1) * 4;
    if let Ok(req) = IcReq::parse(raw) {
        assert_eq!(IcReq::parse(&req.to_bytes()), Ok(req));
        assert!((4..=128).contains(&req.alignment()));
    }
    if let Ok(resp) = IcResp::parse(raw) {
        assert_eq!(IcResp::parse(&resp.to_bytes()), Ok(resp));
        assert!(resp.maxh2cdata >= 4096);
    }
    for pdu_type in [PduType::H2cTermReq, PduType::C2hTermReq] {
        if let Ok(term) = TermReq::parse(raw, pdu_type) {
            assert_eq!(TermReq::parse(&term.to_bytes(pdu_type), pdu_type), Ok(term));
        }
    }
    let Ok(common) = CommonHeader::parse(raw) else {
        return;
    };
    assert_eq!(common.to_bytes(), raw[..8]);
    if let Ok(layout) = common.layout(digests, alignment) {
        let digest = if layout.data_digest { 4 } else { 0 };
        let end = u64::from(layout.data_offset) + u64::from(layout.data_len) + digest;
        assert_eq!(end, u64::from(common.plen));
        assert!(layout.data_offset >= u32::from(common.hlen));
        assert!(!layout.data_digest || common.flags.has(Flags::DDGST));
    }
    match common.pdu_type {
        PduType::CapsuleCmd => {
            if let Ok(capsule) = CapsuleCmd::parse(raw) {
                assert_eq!(capsule.to_bytes(common), raw[..72]);
            }
        }
        PduType::CapsuleResp => {
            if let Ok(capsule) = CapsuleResp::parse(raw) {
                assert_eq!(CapsuleResp::parse(&capsule.to_bytes(common)), Ok(capsule));
            }
        }
        PduType::H2cData | PduType::C2hData => {
            if let Ok(data) = DataHeader::parse(raw) {
                assert_eq!(data.to_bytes(common)[..20], raw[..20]);
            }
        }
        PduType::R2t => {
            if let Ok(r2t) = R2t::parse(raw) {
                assert_eq!(r2t.to_bytes(common)[..20], raw[..20]);
            }
        }
        PduType::IcReq | PduType::IcResp | PduType::H2cTermReq | PduType::C2hTermReq => {}
    }
}
