//! The handshake: every option, and what ends the connection.

mod support;

use std::time::Duration;

use nbd_server::{Event, ExportId, Fault, Want};
use nbd_wire::{
    ClientFlags, ExportReply, Info, MetaContext, MetaQueries, OptionHeader, OptionKind, ReplyKind,
    ServerEntry, TransmissionFlags,
};
use support::{World, choice, export};

fn queries(name: &str, all: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    MetaQueries::emit(name.as_bytes(), all, &mut data);
    data
}

fn kinds(replies: &[(ReplyKind, Vec<u8>)]) -> Vec<ReplyKind> {
    replies.iter().map(|(kind, _)| *kind).collect()
}

#[test]
fn exports_are_listed_with_their_descriptions() {
    // §Option types, NBD_OPT_LIST.
    let mut world = World::greeted(vec![export(2, "b"), export(1, "a")]);
    let replies = world.option(OptionKind::List, &[]);
    assert_eq!(
        kinds(&replies),
        [ReplyKind::Server, ReplyKind::Server, ReplyKind::Ack]
    );
    let entry = ServerEntry::parse(&replies[0].1).unwrap();
    assert_eq!((entry.name, entry.description), (&b"a"[..], &b"a disk"[..]));
    let refused = world.option(OptionKind::List, b"x");
    assert_eq!(kinds(&refused), [ReplyKind::ErrInvalid]);
}

#[test]
fn options_nobody_knows_are_refused_and_the_next_is_answered() {
    // §Baseline: unknown options are answered, and the one behind them is parsed.
    let mut world = World::greeted(vec![export(1, "disk")]);
    for option in [
        OptionKind::Unknown(4),
        OptionKind::Unknown(77),
        OptionKind::ExtendedHeaders,
    ] {
        let replies = world.option(option, b"anything");
        assert_eq!(kinds(&replies), [ReplyKind::ErrUnsup]);
    }
    // §NOTLS mode.
    assert_eq!(
        kinds(&world.option(OptionKind::StartTls, &[])),
        [ReplyKind::ErrUnsup]
    );
    assert_eq!(
        kinds(&world.option(OptionKind::StartTls, b"x")),
        [ReplyKind::ErrInvalid]
    );
    assert_eq!(
        kinds(&world.option(OptionKind::StructuredReply, b"x")),
        [ReplyKind::ErrInvalid]
    );
    assert_eq!(
        kinds(&world.option(OptionKind::StructuredReply, &[])),
        [ReplyKind::Ack]
    );
}

#[test]
fn info_tells_what_go_tells_and_stays() {
    // §Option types, NBD_OPT_INFO and NBD_OPT_GO.
    let mut world = World::greeted(vec![export(1, "disk")]);
    let told = world.option(OptionKind::Info, &choice("disk"));
    assert!(world.events.is_empty());
    let again = world.option(OptionKind::Go, &choice("disk"));
    assert_eq!(told, again);
    assert_eq!(world.events, [Event::Entered(ExportId(1))]);
    assert_eq!(world.core.export(), Some(ExportId(1)));
    let infos: Vec<_> = told[..told.len() - 1]
        .iter()
        .map(|(_, data)| Info::parse(data).unwrap())
        .collect();
    assert!(infos.contains(&Info::Name(b"disk")));
    assert!(infos.contains(&Info::Description(b"a disk")));
    let Info::Export(info) = infos[0] else {
        panic!("{infos:?}")
    };
    assert_eq!(info.size, 1 << 30);
    assert!(!info.flags.has(TransmissionFlags::SEND_DF));
    let Info::BlockSize(sizes) = infos[1] else {
        panic!("{infos:?}")
    };
    assert!(sizes.is_valid());
    assert_eq!((sizes.minimum, sizes.payload_max), (512, 1 << 20));
}

#[test]
fn flags_follow_what_the_export_does() {
    // §Transmission flags.
    let mut all = export(1, "disk");
    let flags_of = |export: nbd_server::Export| {
        let mut world = World::greeted(vec![export]);
        world.option(OptionKind::StructuredReply, &[]);
        let replies = world.option(OptionKind::Info, &choice("disk"));
        match Info::parse(&replies[0].1) {
            Ok(Info::Export(info)) => info.flags,
            other => panic!("{other:?}"),
        }
    };
    let flags = flags_of(all.clone());
    for flag in [
        TransmissionFlags::SEND_FLUSH,
        TransmissionFlags::SEND_FUA,
        TransmissionFlags::SEND_TRIM,
        TransmissionFlags::SEND_WRITE_ZEROES,
        TransmissionFlags::SEND_FAST_ZERO,
        TransmissionFlags::SEND_CACHE,
        TransmissionFlags::SEND_DF,
        TransmissionFlags::CAN_MULTI_CONN,
    ] {
        assert!(flags.has(flag), "{flag:?}");
    }
    assert!(!flags.has(TransmissionFlags::READ_ONLY));
    assert!(!flags.has(TransmissionFlags::SEND_RESIZE));
    all.abilities.shared_flush = false;
    all.abilities.trim = false;
    let flags = flags_of(all.clone());
    assert!(!flags.has(TransmissionFlags::CAN_MULTI_CONN));
    assert!(!flags.has(TransmissionFlags::SEND_TRIM));
    all.read_only = true;
    all.abilities.trim = true;
    let flags = flags_of(all);
    assert!(flags.has(TransmissionFlags::READ_ONLY | TransmissionFlags::CAN_MULTI_CONN));
    assert!(!flags.has(TransmissionFlags::SEND_TRIM));
    assert!(!flags.has(TransmissionFlags::SEND_WRITE_ZEROES));
    assert!(!flags.has(TransmissionFlags::SEND_FAST_ZERO));
}

#[test]
fn the_empty_name_is_that_of_the_only_export() {
    let mut world = World::greeted(vec![export(1, "disk")]);
    let replies = world.option(OptionKind::Info, &choice(""));
    assert_eq!(replies.last().unwrap().0, ReplyKind::Ack);
    let mut two = World::greeted(vec![export(1, "a"), export(2, "b")]);
    let replies = two.option(OptionKind::Go, &choice(""));
    assert_eq!(kinds(&replies), [ReplyKind::ErrUnknown]);
    let replies = two.option(OptionKind::Go, &choice("c"));
    assert_eq!(kinds(&replies), [ReplyKind::ErrUnknown]);
    assert_eq!(
        kinds(&two.option(OptionKind::Go, b"short")),
        [ReplyKind::ErrInvalid]
    );
    let replies = two.option(OptionKind::Go, &choice("b"));
    assert_eq!(replies.last().unwrap().0, ReplyKind::Ack);
    assert_eq!(two.events, [Event::Entered(ExportId(2))]);
}

#[test]
fn metadata_contexts_need_structured_replies_and_are_listed_and_set() {
    // §Metadata querying; §Option types, NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
    let mut world = World::greeted(vec![export(1, "disk")]);
    let all = queries("disk", &[b"base:allocation"]);
    let early = world.option(OptionKind::SetMetaContext, &all);
    assert_eq!(kinds(&early), [ReplyKind::ErrInvalid]);
    world.option(OptionKind::StructuredReply, &[]);
    let found = [ReplyKind::MetaContext, ReplyKind::Ack];
    let none = [ReplyKind::Ack];
    for (option, asked, expected) in [
        (OptionKind::ListMetaContext, &[][..], &found[..]),
        (OptionKind::ListMetaContext, &[&b"base:"[..]], &found),
        (OptionKind::ListMetaContext, &[b"qemu:x"], &none),
        (OptionKind::SetMetaContext, &[], &none),
        (OptionKind::SetMetaContext, &[b"base:"], &none),
        (
            OptionKind::SetMetaContext,
            &[b"x-a:b", b"base:allocation"],
            &found,
        ),
    ] {
        let replies = world.option(option, &queries("disk", asked));
        assert_eq!(kinds(&replies), expected, "{option:?} {asked:?}");
        if let Some((ReplyKind::MetaContext, data)) = replies.first() {
            let context = MetaContext::parse(data).unwrap();
            assert_eq!(context.name, b"base:allocation");
        }
    }
    let unknown = world.option(OptionKind::SetMetaContext, &queries("other", &[]));
    assert_eq!(kinds(&unknown), [ReplyKind::ErrUnknown]);
    let malformed = world.option(OptionKind::SetMetaContext, &all[..all.len() - 1]);
    assert_eq!(kinds(&malformed), [ReplyKind::ErrInvalid]);
}

#[test]
fn the_old_way_to_choose_is_answered_with_zeroes_unless_they_are_declined() {
    // §Newstyle negotiation.
    for declines in [true, false] {
        let mut world = World::new(vec![export(1, "disk")]);
        world.take(18);
        let flags = ClientFlags::FIXED_NEWSTYLE.with_if(declines, ClientFlags::NO_ZEROES);
        world.feed(&flags.to_bytes());
        let header = OptionHeader {
            option: OptionKind::ExportName,
            len: 4,
        };
        world.feed(&[&header.to_bytes()[..], b"disk"].concat());
        let zeroes = if declines { 0 } else { ExportReply::ZEROES };
        assert_eq!(world.output.len(), ExportReply::LEN + zeroes);
        let reply = ExportReply::parse(&world.take(10)).unwrap();
        assert_eq!(reply.size, 1 << 30);
        assert_eq!(world.core.want(), Want::Header(28));
    }
}

#[test]
fn what_cannot_be_answered_ends_the_connection() {
    let header = |option, len| OptionHeader { option, len }.to_bytes().to_vec();
    let unknown = [header(OptionKind::ExportName, 1), b"x".to_vec()].concat();
    for (bytes, fault) in [
        (vec![0; 16], Fault::BadMagic),
        (header(OptionKind::List, 2 << 20), Fault::OptionTooLong),
        (unknown, Fault::UnknownExport),
        (
            header(OptionKind::ExportName, 100_000),
            Fault::UnknownExport,
        ),
    ] {
        let mut world = World::greeted(vec![export(1, "disk")]);
        world.feed(&bytes);
        assert_eq!(world.fault, Some(fault));
    }
    // §Client flags.
    let mut world = World::new(vec![export(1, "disk")]);
    world.feed(&ClientFlags(4).to_bytes());
    assert_eq!(world.fault, Some(Fault::UnknownClientFlags));
}

#[test]
fn an_option_that_is_too_long_is_skipped_however_it_is_cut() {
    let mut world = World::greeted(vec![export(1, "disk")]);
    let header = OptionHeader {
        option: OptionKind::Go,
        len: 100_000,
    };
    world.feed(&header.to_bytes());
    assert_eq!(
        kinds(&world.replies(OptionKind::Go)),
        [ReplyKind::ErrTooBig]
    );
    for _ in 0..100 {
        world.feed(&[0xaa; 1000]);
    }
    assert_eq!(
        kinds(&world.option(OptionKind::List, &[])),
        [ReplyKind::Server, ReplyKind::Ack]
    );
}

#[test]
fn an_option_that_arrives_byte_by_byte_is_one_option() {
    let mut world = World::greeted(vec![export(1, "disk")]);
    let data = choice("disk");
    let header = OptionHeader {
        option: OptionKind::Info,
        len: data.len() as u32,
    };
    for byte in [&header.to_bytes()[..], &data].concat() {
        assert!(world.output.is_empty());
        world.feed(&[byte]);
    }
    let replies = world.replies(OptionKind::Info);
    assert_eq!(replies.last().unwrap().0, ReplyKind::Ack);
}

#[test]
fn an_abort_is_acknowledged_and_then_it_is_over() {
    // §Termination of the session during option haggling.
    let mut world = World::greeted(vec![export(1, "disk")]);
    let replies = world.option(OptionKind::Abort, b"data is ignored");
    assert_eq!(kinds(&replies), [ReplyKind::Ack]);
    assert_eq!(world.core.want(), Want::Ended);
    assert!(world.core.is_over());
}

#[test]
fn a_handshake_has_its_time() {
    let mut world = World::greeted(vec![export(1, "disk")]);
    let deadline = world.core.poll_timeout().unwrap();
    assert_eq!(deadline, world.now + Duration::from_secs(10));
    world.now += Duration::from_secs(9);
    world.option(OptionKind::List, &[]);
    assert_eq!(world.core.handle_timeout(world.now), Ok(()));
    world.now += Duration::from_secs(1);
    assert_eq!(
        world.core.handle_timeout(world.now),
        Err(Fault::HandshakeTimeout)
    );
    world.option(OptionKind::Go, &choice("disk"));
    assert_eq!(world.core.handle_timeout(world.now), Ok(()));
    assert_eq!(world.core.poll_timeout(), None);
}

#[test]
fn a_choice_of_an_export_elsewhere_is_answered_where_it_is() {
    for option in [OptionKind::Go, OptionKind::ExportName] {
        let mut away = export(7, "disk");
        away.is_here = false;
        let mut world = World::greeted(vec![away]);
        let data = match option {
            OptionKind::Go => choice("disk"),
            _ => b"disk".to_vec(),
        };
        let len = data.len() as u32;
        world.feed(&[&OptionHeader { option, len }.to_bytes()[..], &data].concat());
        assert_eq!(world.events, [Event::Away(ExportId(7))]);
        assert!(world.output.is_empty());
        assert!(world.core.is_away());
        assert_eq!(world.core.want(), Want::Stopped);
        world.exports = support::exports(vec![export(7, "disk")]);
        let event = world.core.handle_arrived(world.now, &world.exports);
        assert_eq!(event, Ok(Some(Event::Entered(ExportId(7)))));
        world.turn();
        assert!(!world.output.is_empty());
        assert!(!world.core.is_away());
    }
}

#[test]
fn an_export_that_vanishes_on_the_way_is_unknown() {
    let mut away = export(7, "disk");
    away.is_here = false;
    let mut world = World::greeted(vec![away.clone()]);
    assert!(world.option(OptionKind::Go, &choice("disk")).is_empty());
    world.exports = support::exports(vec![]);
    let event = world.core.handle_arrived(world.now, &world.exports);
    assert_eq!(event, Ok(None));
    world.turn();
    assert_eq!(
        kinds(&world.replies(OptionKind::Go)),
        [ReplyKind::ErrUnknown]
    );
    assert_eq!(
        kinds(&world.option(OptionKind::List, &[])),
        [ReplyKind::Ack]
    );
    let mut world = World::greeted(vec![away]);
    let header = OptionHeader {
        option: OptionKind::ExportName,
        len: 4,
    };
    world.feed(&[&header.to_bytes()[..], b"disk"].concat());
    world.exports = support::exports(vec![]);
    let event = world.core.handle_arrived(world.now, &world.exports);
    assert_eq!(event, Err(Fault::UnknownExport));
}
