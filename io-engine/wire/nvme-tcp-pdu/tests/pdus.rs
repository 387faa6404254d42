//! Round trips and refusals of every PDU, with values from a seeded generator.

use nvme_spec::{Cqe, Sqe, Status};
use nvme_tcp_pdu::*;

/// SplitMix64: enough randomness for field values, the same on every run.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn digests(&mut self) -> Digests {
        Digests::from_byte(self.next() as u8)
    }
}

#[test]
fn digest_is_castagnoli() {
    // RFC 3720 B.4, the test vector shared by iSCSI and NVMe/TCP (TCP Transport 1.0c §3.6.1).
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let mut pieces = Digest::new();
    pieces.update(b"1234");
    pieces.update(b"");
    pieces.update(b"56789");
    assert_eq!(pieces.value(), 0xe306_9283);
}

#[test]
fn initialization_survives_a_round_trip() {
    let mut seeded = Seeded(1);
    for _ in 0..1000 {
        let req = IcReq {
            pfv: seeded.next() as u16,
            hpda_zb: (seeded.next() % 32) as u8,
            digests: seeded.digests(),
            maxr2t_zb: seeded.next() as u32,
        };
        assert_eq!(IcReq::parse(&req.to_bytes()), Ok(req));
        let resp = IcResp {
            pfv: seeded.next() as u16,
            cpda_zb: (seeded.next() % 32) as u8,
            digests: seeded.digests(),
            maxh2cdata: (seeded.next() as u32 | 0x1000) & !3,
        };
        assert_eq!(IcResp::parse(&resp.to_bytes()), Ok(resp));
    }
}

#[test]
fn initialization_fields_are_where_the_specification_draws_them() {
    // TCP Transport 1.0c §3.6.2.2 and §3.6.2.3.
    let req = IcReq {
        pfv: 0x0201,
        hpda_zb: 3,
        digests: Digests {
            header: true,
            data: true,
        },
        maxr2t_zb: 0x0807_0605,
    };
    let raw = req.to_bytes();
    assert_eq!(
        &raw[..16],
        &[0, 0, 128, 0, 128, 0, 0, 0, 1, 2, 3, 3, 5, 6, 7, 8]
    );
    assert_eq!(req.alignment(), 16);
    assert!(raw[16..].iter().all(|byte| *byte == 0));
}

#[test]
fn initialization_refuses_impossible_fields() {
    let good = IcReq {
        pfv: 0,
        hpda_zb: 0,
        digests: Digests::default(),
        maxr2t_zb: 0,
    }
    .to_bytes();
    let with = |at: usize, value: u8| {
        let mut raw = good;
        raw[at] = value;
        IcReq::parse(&raw)
    };
    assert_eq!(with(0, 1), Err(Malformed::UnknownType));
    assert_eq!(with(0, 8), Err(Malformed::UnknownType));
    assert_eq!(with(2, 127), Err(Malformed::HeaderLengthInvalid));
    assert_eq!(with(4, 127), Err(Malformed::PduLengthInvalid));
    assert_eq!(with(5, 1), Err(Malformed::PduLengthInvalid));
    assert_eq!(with(10, 32), Err(Malformed::FieldInvalid(10)));
    assert_eq!(IcReq::parse(&good[..127]), Err(Malformed::Truncated));
    let resp = |maxh2cdata| {
        IcResp {
            pfv: 0,
            cpda_zb: 0,
            digests: Digests::default(),
            maxh2cdata,
        }
        .to_bytes()
    };
    assert_eq!(IcResp::parse(&resp(4095)), Err(Malformed::FieldInvalid(12)));
    assert_eq!(IcResp::parse(&resp(4097)), Err(Malformed::FieldInvalid(12)));
    assert!(IcResp::parse(&resp(4096)).is_ok());
}

#[test]
fn data_phase_headers_survive_a_round_trip() {
    let mut seeded = Seeded(2);
    for _ in 0..1000 {
        let header = |pdu_type| CommonHeader::new(pdu_type, Flags::LAST, 24, 4120);
        let data = DataHeader {
            cccid: seeded.next() as u16,
            ttag: seeded.next() as u16,
            datao: seeded.next() as u32,
            datal: seeded.next() as u32,
        };
        let raw = data.to_bytes(header(PduType::H2cData));
        assert_eq!(DataHeader::parse(&raw), Ok(data));
        assert_eq!(CommonHeader::parse(&raw), Ok(header(PduType::H2cData)));
        let r2t = R2t {
            cccid: data.cccid,
            ttag: data.ttag,
            r2to: data.datao,
            r2tl: data.datal,
        };
        assert_eq!(R2t::parse(&r2t.to_bytes(header(PduType::R2t))), Ok(r2t));
        let mut sqe = Sqe::zeroed();
        sqe.0.fill_with(|| seeded.next() as u8);
        let cmd = CapsuleCmd { sqe };
        let raw = cmd.to_bytes(header(PduType::CapsuleCmd));
        assert_eq!(CapsuleCmd::parse(&raw), Ok(cmd));
        assert_eq!(CapsuleCmd::parse(&raw[..71]), Err(Malformed::Truncated));
        let resp = CapsuleResp {
            cqe: Cqe {
                result: seeded.next(),
                sqhd: seeded.next() as u16,
                sqid: 0,
                cid: seeded.next() as u16,
                status: Status(seeded.next() as u16 >> 1),
            },
        };
        let raw = resp.to_bytes(header(PduType::CapsuleResp));
        assert_eq!(CapsuleResp::parse(&raw), Ok(resp));
    }
}

#[test]
fn terminate_requests_survive_a_round_trip() {
    // TCP Transport 1.0c §3.6.2.4: FES at bytes 9:8, FEI at 13:10, the offending header from byte 24.
    for pdu_type in [PduType::H2cTermReq, PduType::C2hTermReq] {
        let term = TermReq {
            fes: 5,
            fei: 0x0403_0201,
            header_len: 72,
        };
        let raw = term.to_bytes(pdu_type);
        assert_eq!(&raw[4..14], &[96, 0, 0, 0, 5, 0, 1, 2, 3, 4]);
        assert_eq!(TermReq::parse(&raw, pdu_type), Ok(term));
        let mut long = raw;
        long[4] = 153;
        assert_eq!(
            TermReq::parse(&long, pdu_type),
            Err(Malformed::PduLengthInvalid)
        );
    }
    for raw in 0..=7 {
        assert_eq!(
            FatalStatus::from_raw(raw).map(|status| status as u16),
            (1..=6).contains(&raw).then_some(raw)
        );
    }
}

#[test]
fn layout_finds_header_padding_data_and_digests() {
    let both = Digests {
        header: true,
        data: true,
    };
    // TCP Transport 1.0c §3.6.1: 72 + 4 bytes of header rounded up to 16.
    assert_eq!(data_offset(PduType::CapsuleCmd, both, 16), 80);
    let header = CommonHeader::new(PduType::CapsuleCmd, both.flags(true), 80, 80 + 4096 + 4);
    assert_eq!(
        header.layout(both, 16),
        Ok(Layout {
            data_offset: 80,
            data_len: 4096,
            data_digest: true
        })
    );
    assert_eq!(header.layout(both, 32), Err(Malformed::DataOffsetInvalid));
    assert_eq!(
        header.layout(Digests::default(), 4),
        Err(Malformed::FlagsInvalid)
    );
    let header_only = Digests {
        header: true,
        data: false,
    };
    assert_eq!(header.layout(header_only, 4), Err(Malformed::FlagsInvalid));
}

#[test]
fn layout_refuses_what_cannot_be() {
    let none = Digests::default();
    let cmd = |pdo, plen| CommonHeader::new(PduType::CapsuleCmd, Flags::NONE, pdo, plen);
    assert_eq!(
        cmd(0, 72).layout(none, 4).map(|layout| layout.data_len),
        Ok(0)
    );
    assert_eq!(
        cmd(71, 100).layout(none, 4),
        Err(Malformed::DataOffsetInvalid)
    );
    assert_eq!(
        cmd(74, 100).layout(none, 4),
        Err(Malformed::DataOffsetInvalid)
    );
    assert_eq!(
        cmd(0, 100).layout(none, 4),
        Err(Malformed::DataOffsetInvalid)
    );
    assert_eq!(
        cmd(100, 100).layout(none, 4),
        Err(Malformed::PduLengthInvalid)
    );
    assert_eq!(
        cmd(252, u32::MAX).layout(none, 4).map(|l| l.data_len),
        Ok(u32::MAX - 252)
    );
    let resp = CommonHeader::new(PduType::CapsuleResp, Flags::NONE, 24, 28);
    assert_eq!(resp.layout(none, 4), Err(Malformed::PduLengthInvalid));
    let digests = Digests {
        header: true,
        data: true,
    };
    let short = CommonHeader::new(PduType::H2cData, digests.flags(true), 28, 32);
    assert_eq!(short.layout(digests, 4), Err(Malformed::PduLengthInvalid));
    let shorter = CommonHeader::new(PduType::R2t, digests.flags(false), 0, 24);
    assert_eq!(shorter.layout(digests, 4), Err(Malformed::PduLengthInvalid));
}

#[test]
fn layout_of_what_we_emit_is_what_we_meant() {
    let mut seeded = Seeded(3);
    for _ in 0..5000 {
        let digests = seeded.digests();
        let alignment = (seeded.next() % 32 + 1) as u32 * 4;
        let data_len = (seeded.next() % (1 << 20)) as u32 + 1;
        for pdu_type in [PduType::CapsuleCmd, PduType::H2cData, PduType::C2hData] {
            let offset = data_offset(pdu_type, digests, alignment);
            let plen = offset + data_len + digests.data_len() as u32;
            let header = CommonHeader::new(pdu_type, digests.flags(true), offset as u8, plen);
            assert_eq!(
                header.layout(digests, alignment),
                Ok(Layout {
                    data_offset: offset,
                    data_len,
                    data_digest: digests.data
                })
            );
        }
    }
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let mut seeded = Seeded(4);
    let mut raw = [0; 160];
    for round in 0..20_000 {
        raw.fill_with(|| seeded.next() as u8);
        let raw = &raw[..round % 161];
        if let Ok(header) = CommonHeader::parse(raw) {
            assert_eq!(header.to_bytes(), raw[..8]);
            let _ = header.layout(seeded.digests(), 4);
        }
        let _ = (IcReq::parse(raw), IcResp::parse(raw));
        let _ = (CapsuleCmd::parse(raw), CapsuleResp::parse(raw));
        let _ = (DataHeader::parse(raw), R2t::parse(raw));
        let _ = TermReq::parse(raw, PduType::H2cTermReq);
    }
}
