//! Requests: what is refused and how, slices, limits, deadlines, the end.

mod support;

use nbd_server::limits::{BYTES_IN_FLIGHT_MAX, PROGRESS_TIMEOUT, RANGE_SLICE_BYTES};
use nbd_server::{ConnectionConfig, Failure, Fault, Span, Want, Work};
use nbd_wire::{
    ChunkHeader, ChunkKind, Command, CommandFlags, ErrorChunk, ErrorCode, OptionKind, Request,
    SimpleReply,
};
use support::{MIB, World, choice, config, content, export};
use units::{BlockRange, BlockSize};

const NONE: CommandFlags = CommandFlags::NONE;

/// The simple answer at the front of the output.
fn simple(world: &mut World) -> (u64, ErrorCode) {
    let reply = SimpleReply::parse(&world.take(SimpleReply::LEN)).expect("a simple reply");
    (reply.cookie, reply.error)
}

/// The chunk at the front of the output.
fn chunk(world: &mut World) -> (ChunkHeader, Vec<u8>) {
    let header = ChunkHeader::parse(&world.take(ChunkHeader::LEN)).expect("a chunk");
    let data = world.take(header.len as usize);
    (header, data)
}

fn error(world: &mut World) -> ErrorCode {
    let (header, data) = chunk(world);
    assert_eq!((header.kind, header.done), (ChunkKind::Error, true));
    let (error, rest) = ErrorChunk::parse(&data).expect("an error");
    assert!(rest.is_empty() && !error.message.is_empty());
    error.error
}

#[test]
fn every_refusal_has_its_error() {
    // §Error values, §Command flags, §Request types.
    use Command::*;
    let fua = CommandFlags::FUA;
    let end = 1_u64 << 30;
    let table = [
        (Read, NONE, 0, 0, ErrorCode::EINVAL),
        (Read, NONE, 1, 512, ErrorCode::EINVAL),
        (Read, NONE, 0, 513, ErrorCode::EINVAL),
        (Read, NONE, end, 512, ErrorCode::EINVAL),
        (Read, NONE, u64::MAX - 511, 512, ErrorCode::EINVAL),
        (Read, CommandFlags::NO_HOLE, 0, 512, ErrorCode::EINVAL),
        (Read, CommandFlags(1 << 9), 0, 512, ErrorCode::EINVAL),
        (Read, CommandFlags::DF, 0, 2 << 20, ErrorCode::EOVERFLOW),
        (Read, NONE, 0, 33 << 20, ErrorCode::EOVERFLOW),
        (WriteZeroes, NONE, end, 512, ErrorCode::ENOSPC),
        (WriteZeroes, CommandFlags::DF, 0, 512, ErrorCode::EINVAL),
        (
            WriteZeroes,
            CommandFlags::FAST_ZERO | CommandFlags::NO_HOLE,
            0,
            512,
            ErrorCode::ENOTSUP,
        ),
        (Trim, NONE, end - 512, 1024, ErrorCode::EINVAL),
        (Trim, NONE, 256, 512, ErrorCode::EINVAL),
        (Cache, NONE, end, 512, ErrorCode::EINVAL),
        (Cache, CommandFlags::REQ_ONE, 0, 512, ErrorCode::EINVAL),
        (Flush, NONE, 512, 0, ErrorCode::EINVAL),
        (Flush, fua, 0, 512, ErrorCode::EINVAL),
        (BlockStatus, NONE, end, 512, ErrorCode::EINVAL),
        (BlockStatus, NONE, 0, 0, ErrorCode::EINVAL),
        (Resize, NONE, 4096, 0, ErrorCode::EPERM),
        (Unknown(99), NONE, 0, 512, ErrorCode::EINVAL),
    ];
    let mut world = World::serving(true);
    for (command, flags, offset, len, expected) in table {
        world.request(command, flags, offset, len);
        assert!(world.ios.is_empty(), "{command:?} {offset}+{len}");
        assert_eq!(error(&mut world), expected, "{command:?} {offset}+{len}");
    }
}

#[test]
fn the_payload_of_a_refused_write_is_skipped() {
    let mut world = World::serving(true);
    for (offset, len, expected) in [
        (1 << 30, 512, ErrorCode::ENOSPC),
        (7, 512, ErrorCode::EINVAL),
        (0, 511, ErrorCode::EINVAL),
    ] {
        world.request(Command::Write, NONE, offset, len);
        for _ in 0..len {
            world.feed(&[9]);
        }
        assert_eq!(error(&mut world), expected);
    }
    world.request(Command::Flush, NONE, 0, 0);
    assert_eq!(world.execute(), Work::Flush);
    assert_eq!(simple(&mut world).1, ErrorCode::OK);
}

#[test]
fn a_read_only_export_refuses_what_writes() {
    let mut read_only = export(1, "disk");
    read_only.read_only = true;
    let mut world = World::serving_of(read_only, true);
    for command in [Command::WriteZeroes, Command::Trim] {
        world.request(command, NONE, 0, 512);
        assert_eq!(error(&mut world), ErrorCode::EPERM);
    }
    world.request(Command::Write, NONE, 0, 512);
    world.feed(&[0; 512]);
    assert_eq!(error(&mut world), ErrorCode::EPERM);
    world.request(Command::Read, NONE, 0, 512);
    assert_eq!(world.execute(), Work::Read(BlockRange::new(0, 1)));
}

#[test]
fn what_the_device_does_not_do_is_not_taken() {
    let mut poor = export(1, "disk");
    poor.abilities = nbd_server::Abilities::default();
    poor.block_size = BlockSize::B4096;
    let mut world = World::serving_of(poor, true);
    world.request(Command::Trim, NONE, 0, 4096);
    assert_eq!(error(&mut world), ErrorCode::EINVAL);
    world.request(Command::WriteZeroes, CommandFlags::FAST_ZERO, 0, 4096);
    assert_eq!(error(&mut world), ErrorCode::ENOTSUP);
    world.request(Command::Read, NONE, 512, 4096);
    assert_eq!(error(&mut world), ErrorCode::EINVAL);
    // A hint: there is no cache to fill.
    world.request(Command::Cache, NONE, 0, 1 << 30);
    assert_eq!(simple(&mut world).1, ErrorCode::OK);
    assert!(world.ios.is_empty());
}

#[test]
fn without_structured_replies_errors_are_numbers_and_status_is_refused() {
    let mut world = World::serving(false);
    let cookie = world.request(Command::BlockStatus, NONE, 0, 512);
    assert_eq!(simple(&mut world), (cookie, ErrorCode::EINVAL));
    let cookie = world.request(Command::Read, CommandFlags::DF, 0, 512);
    assert_eq!(simple(&mut world), (cookie, ErrorCode::EINVAL));
    let cookie = world.request(Command::Read, NONE, 0, 2 << 20);
    assert_eq!(simple(&mut world), (cookie, ErrorCode::EOVERFLOW));
    let cookie = world.request(Command::Read, NONE, 1024, 1024);
    world.execute();
    assert_eq!(simple(&mut world), (cookie, ErrorCode::OK));
    assert_eq!(world.take(1024), content(BlockRange::new(2, 2)));
    let cookie = world.request(Command::Read, NONE, 0, 512);
    world.fail(Failure::Medium);
    assert_eq!(simple(&mut world), (cookie, ErrorCode::EIO));
    assert!(world.output.is_empty(), "no data behind an error");
}

#[test]
fn a_large_read_comes_in_chunks_and_the_last_one_says_so() {
    let mut world = World::serving(true);
    let cookie = world.request(Command::Read, NONE, 512, 3 * MIB as u32 - 512);
    let mut at = 512_u64;
    for (blocks, done) in [(2048, false), (2048, false), (2047, true)] {
        let range = BlockRange::new(at >> 9, blocks);
        assert_eq!(world.ios.len(), 1, "one slice at a time");
        assert_eq!(world.execute(), Work::Read(range));
        let (header, data) = chunk(&mut world);
        assert_eq!((header.cookie, header.done), (cookie, done));
        assert_eq!(header.kind, ChunkKind::OffsetData);
        assert_eq!(data[..8], at.to_be_bytes());
        assert_eq!(data[8..], content(range));
        at += blocks << 9;
    }
    assert!(world.ios.is_empty() && world.output.is_empty());
    // The same in one piece where it fits.
    world.request(Command::Read, CommandFlags::DF, 0, MIB as u32);
    world.execute();
    assert!(chunk(&mut world).0.done);
}

#[test]
fn a_large_read_that_fails_on_the_way_ends_with_an_error() {
    let mut world = World::serving(true);
    world.request(Command::Read, NONE, 0, 3 * MIB as u32);
    world.execute();
    assert!(!chunk(&mut world).0.done);
    world.fail(Failure::Medium);
    assert_eq!(error(&mut world), ErrorCode::EIO);
    assert!(world.ios.is_empty());
}

#[test]
fn a_large_write_is_done_slice_by_slice() {
    let mut world = World::serving(true);
    let payload = content(BlockRange::new(0, 5120));
    let cookie = world.request(Command::Write, CommandFlags::FUA, 0, payload.len() as u32);
    world.feed(&payload);
    for (start, blocks) in [(0, 2048), (2048, 2048), (4096, 1024)] {
        assert!(world.output.is_empty());
        let range = BlockRange::new(start, blocks);
        assert_eq!(world.execute(), Work::Write { range, fua: true });
    }
    assert_eq!(simple(&mut world), (cookie, ErrorCode::OK));
    let written: Vec<u8> = world.written.values().flatten().copied().collect();
    assert!(written == payload);
    world.request(Command::Flush, NONE, 0, 0);
    world.execute();
    assert_eq!(simple(&mut world).1, ErrorCode::OK);
}

#[test]
fn a_large_write_that_fails_swallows_its_rest() {
    let mut world = World::serving(true);
    world.request(Command::Write, NONE, 0, 3 * MIB as u32);
    world.feed(&vec![1; MIB]);
    world.fail(Failure::NoSpace);
    assert_eq!(error(&mut world), ErrorCode::ENOSPC);
    world.feed(&vec![1; 2 * MIB]);
    assert!(world.ios.is_empty());
    world.request(Command::Flush, NONE, 0, 0);
    assert_eq!(world.execute(), Work::Flush);
}

#[test]
fn a_write_larger_than_the_protocol_wants_ends_the_connection() {
    // §Size constraints: 32 MiB are not an attack, more may be.
    let mut world = World::serving(true);
    world.request(Command::Write, NONE, 0, (32 << 20) + 512);
    assert_eq!(world.fault, Some(Fault::PayloadTooLong));
}

#[test]
fn a_long_trim_is_cut_and_made_durable_behind_its_last_piece() {
    let mut world = World::serving(true);
    let cookie = world.request(Command::Trim, CommandFlags::FUA, 0, 300 << 20);
    let slice = RANGE_SLICE_BYTES >> 9;
    for (start, blocks) in [(0, slice), (slice, slice), (2 * slice, 44 << 11)] {
        let range = BlockRange::new(start, blocks);
        assert_eq!(world.execute(), Work::Discard(range));
        assert!(world.output.is_empty());
    }
    assert_eq!(world.execute(), Work::Flush);
    assert_eq!(simple(&mut world), (cookie, ErrorCode::OK));
}

#[test]
fn zeroes_keep_their_flags() {
    let mut world = World::serving(true);
    for (flags, deallocate, fua) in [
        (NONE, true, false),
        (CommandFlags::NO_HOLE, false, false),
        (CommandFlags::FUA | CommandFlags::FAST_ZERO, true, true),
    ] {
        world.request(Command::WriteZeroes, flags, 0, 1024);
        let range = BlockRange::new(0, 2);
        assert_eq!(
            world.execute(),
            Work::WriteZeroes {
                range,
                deallocate,
                fua
            }
        );
        assert_eq!(simple(&mut world).1, ErrorCode::OK);
    }
}

#[test]
fn a_cache_request_reads_and_sends_nothing() {
    let mut world = World::serving(true);
    let cookie = world.request(Command::Cache, NONE, 0, 2 * MIB as u32);
    assert_eq!(world.execute(), Work::Read(BlockRange::new(0, 2048)));
    assert_eq!(world.execute(), Work::Read(BlockRange::new(2048, 2048)));
    assert_eq!(simple(&mut world), (cookie, ErrorCode::OK));
    assert!(world.output.is_empty() && world.sending.is_empty());
}

#[test]
fn block_status_joins_equal_extents_and_obeys_req_one() {
    // §Structured reply types, NBD_REPLY_TYPE_BLOCK_STATUS.
    let span = |bytes, hole, zero| Span { bytes, hole, zero };
    let spans = [
        span(512, false, false),
        span(512, false, false),
        span(0, true, false),
        span(1024, true, true),
        span(1 << 40, true, false),
    ];
    for (flags, expected) in [
        (NONE, &[(1024, 0), (1024, 3), (2048, 1)][..]),
        (CommandFlags::REQ_ONE, &[(1024, 0)]),
    ] {
        let mut world = World::serving(true);
        world.request(Command::BlockStatus, flags, 0, 4096);
        let io = world.ios.pop_front().unwrap();
        assert_eq!(io.work, Work::Extents(BlockRange::new(0, 8)));
        world
            .core
            .handle_extents(world.now, io.slot, spans.into_iter());
        world.turn();
        let (header, data) = chunk(&mut world);
        assert!(header.done);
        assert_eq!(header.kind, ChunkKind::BlockStatus);
        let words: Vec<u32> = data
            .chunks(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .collect();
        let found: Vec<_> = words[1..].chunks(2).map(|two| (two[0], two[1])).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn block_status_of_everything_is_cut_and_not_knowing_is_data() {
    let mut huge = export(1, "disk");
    huge.blocks = 1 << 40;
    let mut world = World::serving_of(huge, true);
    world.request(Command::BlockStatus, NONE, 0, u32::MAX - 511);
    let io = world.ios.pop_front().unwrap();
    assert_eq!(io.work, Work::Extents(BlockRange::new(0, 1 << 21)));
    let none = std::iter::empty();
    world.core.handle_extents(world.now, io.slot, none);
    world.turn();
    let (_, data) = chunk(&mut world);
    assert_eq!(data[4..], [0x40, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_device_that_gives_another_length_has_failed() {
    let mut world = World::serving(true);
    for (command, len) in [(Command::Read, 1024), (Command::Cache, 1024)] {
        world.request(command, NONE, 0, len);
        let io = world.ios.pop_front().unwrap();
        let token = nbd_server::DataToken(900);
        let data = nbd_server::Data { token, len: 512 };
        assert!(!world.core.handle_data(world.now, io.slot, data));
        // A second answer to the same I/O finds nothing.
        world.core.handle_done(world.now, io.slot, Ok(()));
        world.turn();
        assert_eq!(error(&mut world), ErrorCode::EIO);
        assert!(world.output.is_empty());
    }
    world.request(Command::Read, NONE, 0, 512);
    let io = world.ios.pop_front().unwrap();
    world.core.handle_done(world.now, io.slot, Ok(()));
    world.turn();
    assert_eq!(error(&mut world), ErrorCode::EIO);
}

#[test]
fn answers_come_in_any_order() {
    let mut world = World::serving(true);
    let first = world.request(Command::Read, NONE, 0, 512);
    let second = world.request(Command::Read, NONE, 512, 512);
    world.ios.swap(0, 1);
    world.execute_all();
    assert_eq!(chunk(&mut world).0.cookie, second);
    assert_eq!(chunk(&mut world).0.cookie, first);
}

#[test]
fn a_full_table_stops_receiving_until_an_answer() {
    let mut world = World::serving(true);
    for _ in 0..10 {
        world.request(Command::Read, NONE, 0, 512);
    }
    assert_eq!(world.ios.len(), 8);
    assert_eq!(world.core.want(), Want::Stopped);
    assert_eq!(world.input.len(), 2 * Request::LEN);
    world.execute();
    assert_eq!(world.ios.len(), 8);
    world.execute_all();
    assert_eq!(world.output.len(), 10 * (28 + 512));
}

#[test]
fn bytes_in_flight_are_bounded_while_the_client_does_not_read() {
    let requests = ConnectionConfig {
        requests_max: 64,
        ..config()
    };
    let mut world = World::with(requests, vec![export(1, "disk")]);
    world.feed(&nbd_wire::ClientFlags::NO_ZEROES.to_bytes());
    world.output.clear();
    world.option(OptionKind::StructuredReply, &[]);
    world.option(OptionKind::Go, &choice("disk"));
    world.sends = false;
    for at in 0..40 {
        world.request(Command::Read, NONE, at << 20, 4 * MIB as u32);
        world.execute_all();
    }
    let held: usize = world.sending.values().map(Vec::len).sum();
    assert_eq!(held, BYTES_IN_FLIGHT_MAX);
    assert_eq!(world.core.want(), Want::Stopped);
    // The client reads: everything arrives.
    world.sends = true;
    while !world.input.is_empty() || !world.ios.is_empty() || !world.sending.is_empty() {
        world.turn();
        world.execute_all();
    }
    assert_eq!(world.output.len(), 40 * (4 * MIB + 4 * 28));
}

#[test]
fn unread_answers_stop_receiving() {
    let mut world = World::serving(true);
    world.sends = false;
    for _ in 0..10_000 {
        world.request(Command::Unknown(99), NONE, 0, 0);
    }
    assert_eq!(world.core.want(), Want::Stopped);
    assert!(world.input.len() > 100_000);
    world.sends = true;
    while !world.input.is_empty() {
        world.turn();
    }
    let mut count = 0;
    while !world.output.is_empty() {
        error(&mut world);
        count += 1;
    }
    assert_eq!(count, 10_000);
}

#[test]
fn a_client_that_stands_still_loses_its_connection() {
    // In the middle of a payload.
    let mut world = World::serving(true);
    world.request(Command::Write, NONE, 0, 1024);
    world.feed(&[0; 512]);
    world.now += PROGRESS_TIMEOUT / 2;
    world.feed(&[0; 1]);
    world.now += PROGRESS_TIMEOUT / 2;
    assert_eq!(world.core.handle_timeout(world.now), Ok(()));
    world.now += PROGRESS_TIMEOUT / 2;
    assert_eq!(world.core.handle_timeout(world.now), Err(Fault::Stalled));
    // With answers unread.
    let mut world = World::serving(true);
    world.sends = false;
    world.request(Command::Read, NONE, 0, 4096);
    world.now += PROGRESS_TIMEOUT;
    assert_eq!(
        world.core.handle_timeout(world.now),
        Ok(()),
        "the device is slow, not the client"
    );
    world.execute();
    assert_eq!(world.core.handle_timeout(world.now), Ok(()));
    world.now += PROGRESS_TIMEOUT / 2;
    world.send(100);
    world.now += PROGRESS_TIMEOUT / 2;
    assert_eq!(world.core.handle_timeout(world.now), Ok(()));
    world.now += PROGRESS_TIMEOUT;
    assert_eq!(world.core.handle_timeout(world.now), Err(Fault::Stalled));
    // Idle for as long as it likes.
    world.send(usize::MAX);
    assert_eq!(world.core.poll_timeout(), None);
}

#[test]
fn a_goodbye_waits_for_what_is_outstanding() {
    // §Request types, NBD_CMD_DISC: outstanding requests are handled.
    let mut world = World::serving(true);
    world.request(Command::Read, NONE, 0, 4 * MIB as u32);
    world.request(Command::Disc, NONE, 0, 0);
    assert_eq!(world.core.want(), Want::Ended);
    assert!(!world.core.is_over());
    world.execute_all();
    assert!(world.core.is_over());
    assert_eq!(world.output.len(), 4 * (MIB + 28));
}

#[test]
fn a_size_that_changes_is_checked_from_then_on() {
    let mut world = World::serving(true);
    world.core.set_size(1 << 20);
    world.request(Command::Read, NONE, 1 << 20, 512);
    assert_eq!(error(&mut world), ErrorCode::EINVAL);
    world.core.set_size(2 << 20);
    world.request(Command::Read, NONE, 1 << 20, 512);
    world.execute();
    assert_eq!(chunk(&mut world).0.kind, ChunkKind::OffsetData);
}

#[test]
fn bytes_that_are_no_request_end_the_connection() {
    let mut world = World::serving(true);
    world.feed(&[0; 28]);
    assert_eq!(world.fault, Some(Fault::BadMagic));
}
