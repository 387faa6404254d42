//! Every message: known bytes, there and back, and what is refused.

use nbd_wire::{
    BlockSizeInfo, ChunkHeader, ChunkKind, ClientFlags, Command, CommandFlags, Descriptor,
    ErrorChunk, ErrorCode, ExportChoice, ExportInfo, ExportReply, Greeting, HandshakeFlags, Info,
    InfoKind, Malformed, MetaContext, MetaQueries, OptionHeader, OptionKind, OptionReply,
    ReplyKind, Request, ServerEntry, SimpleReply, TransmissionFlags,
};

#[test]
fn the_greeting_is_the_one_of_the_document() {
    // §Newstyle negotiation.
    let greeting = Greeting {
        flags: HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES,
    };
    let raw = greeting.to_bytes();
    assert_eq!(&raw[..16], b"NBDMAGICIHAVEOPT");
    assert_eq!(raw[16..], [0, 3]);
    assert_eq!(Greeting::parse(&raw), Ok(greeting));
    let mut oldstyle = raw;
    oldstyle[8..16].copy_from_slice(&0x0000_4202_8186_1253_u64.to_be_bytes());
    assert_eq!(Greeting::parse(&oldstyle), Err(Malformed::BadMagic));
    assert_eq!(Greeting::parse(&raw[..17]), Err(Malformed::TooShort));
}

#[test]
fn every_number_of_an_enumeration_comes_back() {
    for number in (0..300_u32).chain((1 << 31)..(1 << 31) + 20) {
        assert_eq!(OptionKind::from_number(number).number(), number);
        assert_eq!(ReplyKind::from_number(number).number(), number);
        let kind = ReplyKind::from_number(number);
        assert_eq!(kind.is_error(), number >= 1 << 31);
    }
    for number in 0..=u16::MAX {
        assert_eq!(Command::from_number(number).number(), number);
        assert_eq!(ChunkKind::from_number(number).number(), number);
        assert_eq!(InfoKind::from_number(number).number(), number);
    }
    // §Option reply types: errors have bit 31.
    assert_eq!(ReplyKind::from_number(0x8000_0006), ReplyKind::ErrUnknown);
}

#[test]
fn a_request_is_28_bytes_in_network_order() {
    // §Request message.
    let request = Request {
        flags: CommandFlags::FUA,
        command: Command::Write,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1000,
        len: 512,
    };
    let raw = request.to_bytes();
    let expected = [
        0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0,
        0, 2, 0,
    ];
    assert_eq!(raw, expected);
    assert_eq!(Request::parse(&raw), Ok(request));
    assert_eq!(Request::parse(&raw[..27]), Err(Malformed::TooShort));
    assert_eq!(Request::parse(&[0; 28]), Err(Malformed::BadMagic));
}

#[test]
fn fixed_messages_come_back() {
    let header = OptionHeader {
        option: OptionKind::Go,
        len: 77,
    };
    assert_eq!(OptionHeader::parse(&header.to_bytes()), Ok(header));
    let reply = OptionReply {
        option: OptionKind::List,
        kind: ReplyKind::ErrTooBig,
        len: 9,
    };
    assert_eq!(reply.to_bytes()[..8], 0x3_e889_0455_65a9_u64.to_be_bytes());
    assert_eq!(OptionReply::parse(&reply.to_bytes()), Ok(reply));
    let export = ExportReply {
        size: 1 << 40,
        flags: TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_TRIM,
    };
    assert_eq!(ExportReply::parse(&export.to_bytes()), Ok(export));
    let flags = ClientFlags::NO_ZEROES;
    assert_eq!(ClientFlags::parse(&flags.to_bytes()), Ok(flags));
    let simple = SimpleReply {
        error: ErrorCode::ENOSPC,
        cookie: 5,
    };
    assert_eq!(simple.to_bytes()[..4], [0x67, 0x44, 0x66, 0x98]);
    assert_eq!(SimpleReply::parse(&simple.to_bytes()), Ok(simple));
    let chunk = ChunkHeader {
        done: true,
        kind: ChunkKind::BlockStatus,
        cookie: u64::MAX,
        len: 12,
    };
    assert_eq!(chunk.to_bytes()[..4], [0x66, 0x8e, 0x33, 0xef]);
    assert_eq!(ChunkHeader::parse(&chunk.to_bytes()), Ok(chunk));
    let data = ChunkHeader::data(3, false, 4096, 512);
    let header = ChunkHeader::parse(&data).unwrap();
    assert_eq!(
        (header.len, header.done, header.kind),
        (520, false, ChunkKind::OffsetData)
    );
    assert_eq!(data[20..], 4096_u64.to_be_bytes());
    let descriptor = Descriptor {
        len: 4096,
        flags: nbd_wire::STATE_HOLE | nbd_wire::STATE_ZERO,
    };
    assert_eq!(Descriptor::parse(&descriptor.to_bytes()), Ok(descriptor));
    assert_eq!(Descriptor::parse(&[0; 8]), Err(Malformed::BadValue));
}

#[test]
fn a_choice_of_export_comes_back_and_must_fill_its_option() {
    let mut raw = Vec::new();
    let infos = [InfoKind::BlockSize, InfoKind::Unknown(99)];
    ExportChoice::emit(b"disk", &infos, &mut raw);
    let choice = ExportChoice::parse(&raw).unwrap();
    assert_eq!(choice.name, b"disk");
    assert_eq!(choice.infos.iter().collect::<Vec<_>>(), infos);
    assert!(choice.infos.contains(InfoKind::BlockSize));
    assert!(!choice.infos.contains(InfoKind::Name));
    for cut in 0..raw.len() {
        assert_eq!(ExportChoice::parse(&raw[..cut]), Err(Malformed::TooShort));
    }
    raw.push(0);
    assert_eq!(ExportChoice::parse(&raw), Err(Malformed::TooLong));
    let mut long = 4097_u32.to_be_bytes().to_vec();
    long.resize(5000, 0);
    assert_eq!(ExportChoice::parse(&long), Err(Malformed::StringTooLong));
    assert_eq!(
        ExportChoice::parse(&[0xff; 8]),
        Err(Malformed::StringTooLong)
    );
}

#[test]
fn queries_come_back_and_a_count_beyond_the_data_is_refused() {
    // §Option types, NBD_OPT_LIST_META_CONTEXT: a query that would be read beyond the option is invalid.
    let mut raw = Vec::new();
    let queries: [&[u8]; 3] = [b"base:", b"", b"x-y:z"];
    MetaQueries::emit(b"e", &queries, &mut raw);
    let parsed = MetaQueries::parse(&raw).unwrap();
    assert_eq!(parsed.name, b"e");
    assert_eq!(parsed.queries.iter().collect::<Vec<_>>(), queries);
    for cut in 0..raw.len() {
        assert!(MetaQueries::parse(&raw[..cut]).is_err());
    }
    raw[5..9].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(MetaQueries::parse(&raw), Err(Malformed::TooShort));
    raw[5..9].copy_from_slice(&2_u32.to_be_bytes());
    assert_eq!(MetaQueries::parse(&raw), Err(Malformed::TooLong));
}

#[test]
fn facts_come_back() {
    let facts = [
        Info::Export(ExportInfo {
            size: 7 << 30,
            flags: TransmissionFlags::HAS_FLAGS,
        }),
        Info::Name(b"name"),
        Info::Description(b""),
        Info::BlockSize(BlockSizeInfo {
            minimum: 512,
            preferred: 4096,
            payload_max: 1 << 20,
        }),
        Info::Unknown(40, b"abc"),
    ];
    for fact in facts {
        let mut raw = Vec::new();
        fact.emit(&mut raw);
        assert_eq!(raw.len() as u32, fact.len());
        assert_eq!(Info::parse(&raw), Ok(fact));
    }
    // §Size constraints: the minimum is a power of 2.
    let mut raw = Vec::new();
    Info::BlockSize(BlockSizeInfo {
        minimum: 513,
        preferred: 4096,
        payload_max: 1 << 20,
    })
    .emit(&mut raw);
    assert_eq!(Info::parse(&raw), Err(Malformed::BadValue));
}

#[test]
fn entries_contexts_and_errors_come_back() {
    let entry = ServerEntry {
        name: b"a",
        description: b"text",
    };
    let mut raw = Vec::new();
    entry.emit(&mut raw);
    assert_eq!(raw.len() as u32, entry.len());
    assert_eq!(ServerEntry::parse(&raw), Ok(entry));
    let context = MetaContext {
        id: 1,
        name: b"base:allocation",
    };
    let mut raw = Vec::new();
    context.emit(&mut raw);
    assert_eq!(MetaContext::parse(&raw), Ok(context));
    let error = ErrorChunk {
        error: ErrorCode::EIO,
        message: b"medium error",
    };
    let mut raw = Vec::new();
    error.emit(&mut raw);
    assert_eq!(raw.len() as u32, error.len());
    raw.extend(b"rest");
    assert_eq!(ErrorChunk::parse(&raw), Ok((error, &b"rest"[..])));
    raw[..4].fill(0);
    assert_eq!(ErrorChunk::parse(&raw), Err(Malformed::BadValue));
}

#[test]
fn no_bytes_make_a_parser_panic() {
    let mut state = 1_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for _ in 0..20_000 {
        let len = random() % 64;
        let mask = if random() % 2 == 0 { 0xff } else { 0x07 };
        let raw: Vec<u8> = (0..len).map(|_| random() as u8 & mask).collect();
        let _ = Greeting::parse(&raw);
        let _ = OptionHeader::parse(&raw);
        let _ = OptionReply::parse(&raw);
        let _ = Request::parse(&raw);
        let _ = SimpleReply::parse(&raw);
        let _ = ChunkHeader::parse(&raw);
        let _ = Descriptor::parse(&raw);
        let _ = ErrorChunk::parse(&raw);
        let _ = Info::parse(&raw);
        let _ = ServerEntry::parse(&raw);
        let _ = MetaContext::parse(&raw);
        if let Ok(choice) = ExportChoice::parse(&raw) {
            let infos: Vec<_> = choice.infos.iter().collect();
            let mut again = Vec::new();
            ExportChoice::emit(choice.name, &infos, &mut again);
            assert_eq!(again, raw);
        }
        if let Ok(parsed) = MetaQueries::parse(&raw) {
            let queries: Vec<_> = parsed.queries.iter().collect();
            let mut again = Vec::new();
            MetaQueries::emit(parsed.name, &queries, &mut again);
            assert_eq!(again, raw);
        }
    }
}
