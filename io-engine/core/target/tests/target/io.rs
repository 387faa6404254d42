//! Reads, writes and their kin: checks, data, the device, answers.

use nvme_spec::identify::cns;
use nvme_spec::io::{BlockCommand, DatasetManagement, DsmRange, NSID_ALL};
use nvme_spec::opcode::{admin, nvm};
use nvme_spec::{Sgl, Sqe, Status};
use nvme_target::{
    CmdId, DeviceKey, DisconnectReason, InCapsule, IoError, IoOp, NamespaceConfig, TargetConfig,
    limits,
};
use units::BlockRange;

use crate::world::{BLOCK, DISK_BLOCKS, HOST_A, World, namespace};

fn block(slba: u64, blocks: u32) -> BlockCommand {
    BlockCommand {
        slba,
        blocks,
        ..BlockCommand::default()
    }
}

#[test]
fn what_is_written_is_read() {
    // NVM Command Set 1.0c §3.2.4, §3.2.6.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let data: Vec<u8> = (0..4 * BLOCK).map(|n| n as u8).collect();
    assert_eq!(world.write(host.io, 8, &data), Status::SUCCESS);
    let reply = world.read(host.io, 8, 4);
    assert_eq!((reply.cqe.status, reply.data), (Status::SUCCESS, data));
    assert!(!reply.success_flag_allowed, "flow control is on");
}

#[test]
fn write_data_behind_a_transport_descriptor_are_fetched() {
    // NVMe/TCP 1.0c §3.2.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let data = vec![7; 64 * BLOCK];
    let cid = world.cid();
    let sqe = block(0, 64).emit(nvm::WRITE, cid, 1, Sgl::transport(data.len() as u32));
    world.hold_fetch = true;
    world.send(host.io, &sqe, &data);
    assert!(world.io_log.is_empty(), "no I/O before the data are there");
    let fetch = world.held_fetches.pop().unwrap();
    assert!(!fetch.3, "user data are not the target's to read");
    world.deliver(fetch);
    assert_eq!(world.status(host.io, cid), Some(Status::SUCCESS));
    assert_eq!(world.disk(1, 63)[0], 7);
}

#[test]
fn every_bad_field_has_its_status() {
    // NVM Command Set 1.0c §3.2, Base 2.0c §4.1.2, §5.17.2.1 (MDTS).
    let mut world = World::new();
    let host = world.host(HOST_A);
    let read = |world: &mut World, change: &dyn Fn(&mut Sqe)| {
        let mut sqe = world.block_sqe(nvm::READ, block(0, 1));
        change(&mut sqe);
        world.call(host.io, &sqe, &[]).cqe.status
    };
    type Change<'a> = &'a dyn Fn(&mut Sqe);
    let cases: [(Status, Change<'_>); 11] = [
        (Status::INVALID_NAMESPACE.dnr(), &|sqe| sqe.set_dword(1, 2)),
        (Status::INVALID_NAMESPACE.dnr(), &|sqe| sqe.set_dword(1, 0)),
        (Status::INVALID_NAMESPACE.dnr(), &|sqe| {
            sqe.set_dword(1, NSID_ALL)
        }),
        (Status::LBA_OUT_OF_RANGE.dnr(), &|sqe| {
            sqe.set_qword(10, DISK_BLOCKS)
        }),
        (Status::LBA_OUT_OF_RANGE.dnr(), &|sqe| {
            sqe.set_qword(10, u64::MAX)
        }),
        (Status::INVALID_FIELD.dnr(), &|sqe| {
            sqe.set_dword(12, 1 << 26)
        }),
        (Status::INVALID_FIELD.dnr(), &|sqe| sqe.set_flags(0)),
        (Status::SGL_TYPE_INVALID.dnr(), &|sqe| {
            sqe.set_sgl(Sgl::in_capsule(0, 512))
        }),
        (Status::DATA_SGL_LENGTH_INVALID.dnr(), &|sqe| {
            sqe.set_sgl(Sgl::transport(256))
        }),
        (Status::DATA_SGL_LENGTH_INVALID.dnr(), &|sqe| {
            sqe.set_sgl(Sgl::transport(1024))
        }),
        (Status::INVALID_OPCODE.dnr(), &|sqe| sqe.0[0] = 0x7d),
    ];
    for (expected, change) in cases {
        assert_eq!(read(&mut world, change), expected);
    }
    // Longer than MDTS (1 MiB is 2048 blocks).
    let long = world.block_sqe(nvm::READ, block(0, 2049));
    assert_eq!(
        world.call(host.io, &long, &[]).cqe.status,
        Status::INVALID_FIELD.dnr()
    );
    // In-capsule data with an offset, and fewer than the descriptor says.
    let mut offset = world.block_sqe(nvm::WRITE, block(0, 1));
    offset.set_sgl(Sgl::in_capsule(4, 512));
    assert_eq!(
        world.call(host.io, &offset, &[0; 512]).cqe.status,
        Status::SGL_OFFSET_INVALID.dnr()
    );
    let short = world.block_sqe(nvm::WRITE, block(0, 1));
    assert_eq!(
        world.call(host.io, &short, &[0; 100]).cqe.status,
        Status::DATA_SGL_LENGTH_INVALID.dnr()
    );
    assert!(world.io_log.is_empty(), "nothing reached the device");
    assert_eq!(world.target.commands_in_flight(), 0);
}

#[test]
fn a_damaged_capsule_fails_its_command_only() {
    // NVMe/TCP 1.0c §3.4: data digest errors.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let sqe = world.block_sqe(nvm::WRITE, block(0, 1));
    world.send_with(host.io, &sqe, &[1; 512], false);
    assert_eq!(
        world.status(host.io, sqe.cid()),
        Some(Status::TRANSIENT_TRANSPORT_ERROR)
    );
    assert_eq!(world.write(host.io, 0, &[1; 512]), Status::SUCCESS);
}

#[test]
fn device_errors_become_statuses() {
    // Base 2.0c figures 94 to 97.
    let mut world = World::new();
    let host = world.host(HOST_A);
    for (error, on_read, on_write) in [
        (
            IoError::Medium,
            Status::UNRECOVERED_READ_ERROR.dnr(),
            Status::WRITE_FAULT.dnr(),
        ),
        (
            IoError::NoSpace,
            Status::CAPACITY_EXCEEDED.dnr(),
            Status::CAPACITY_EXCEEDED.dnr(),
        ),
        (
            IoError::Gone,
            Status::NAMESPACE_NOT_READY.dnr(),
            Status::NAMESPACE_NOT_READY.dnr(),
        ),
        (
            IoError::Busy,
            Status::COMMAND_INTERRUPTED.with_crd(1),
            Status::COMMAND_INTERRUPTED.with_crd(1),
        ),
        (
            IoError::ReadOnly,
            Status::NAMESPACE_WRITE_PROTECTED.dnr(),
            Status::NAMESPACE_WRITE_PROTECTED.dnr(),
        ),
    ] {
        world.next_error = Some(error);
        assert_eq!(world.read(host.io, 0, 1).cqe.status, on_read);
        world.next_error = Some(error);
        assert_eq!(world.write(host.io, 0, &[0; 512]), on_write);
    }
}

#[test]
fn fua_reaches_the_device_and_a_fua_read_flushes_first() {
    // NVM Command Set 1.0c §3.2.4, §3.2.6.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let fua = BlockCommand {
        fua: true,
        ..block(0, 1)
    };
    let write = world.block_sqe(nvm::WRITE, fua);
    world.call(host.io, &write, &[3; 512]);
    let read = world.block_sqe(nvm::READ, fua);
    let reply = world.call(host.io, &read, &[]);
    assert_eq!(reply.data, [3; 512]);
    let range = BlockRange::new(0, 1);
    assert_eq!(
        world.io_log,
        [
            IoOp::Write { range, fua: true },
            IoOp::Flush,
            IoOp::Read { range }
        ]
    );
}

#[test]
fn a_read_only_namespace_says_so_and_takes_nothing_that_changes_it() {
    // NVM Command Set 1.0c §4.1.5.1, Base 2.0c §5.17.2.8: NSATTR bit 0.
    let mut world = World::new();
    let read_only = NamespaceConfig {
        read_only: true,
        ..namespace(3)
    };
    world
        .target
        .add_namespace(world.subsystem, read_only)
        .unwrap();
    let host = world.host(HOST_A);
    for (nsid, attributes) in [(1, 0), (3, 1)] {
        let reply = world.identify(host.admin, cns::NAMESPACE, nsid);
        assert_eq!(reply.data[99], attributes);
        let reply = world.identify(host.admin, cns::INDEPENDENT_NAMESPACE, nsid);
        assert_eq!(reply.data[8], attributes);
    }
    let refused = Status::NAMESPACE_WRITE_PROTECTED.dnr();
    let one = DatasetManagement {
        ranges: 1,
        deallocate: true,
    };
    let list = ranges(&[(0, 8)]);
    let block_of = |opcode, cid, sgl| block(0, 1).emit(opcode, cid, 3, sgl);
    let changes = [
        (
            block_of(nvm::WRITE, 1, Sgl::in_capsule(0, 512)),
            vec![1; 512],
        ),
        // Data that would have to be fetched are not.
        (block_of(nvm::WRITE, 2, Sgl::transport(512)), Vec::new()),
        (block_of(nvm::WRITE_ZEROES, 3, Sgl([0; 16])), Vec::new()),
        (one.emit(4, 3, Sgl::in_capsule(0, 16)), list),
    ];
    for (sqe, data) in changes {
        let status = world.call(host.io, &sqe, &data).cqe.status;
        assert_eq!(status, refused, "{sqe:?}");
    }
    assert!(world.io_log.is_empty(), "{:?}", world.io_log);
    let others = [
        (
            block_of(nvm::COMPARE, 5, Sgl::in_capsule(0, 512)),
            vec![0; 512],
        ),
        (block_of(nvm::READ, 6, Sgl::transport(512)), Vec::new()),
        (Sqe::new(nvm::FLUSH, 7, 3), Vec::new()),
    ];
    for (sqe, data) in others {
        let status = world.call(host.io, &sqe, &data).cqe.status;
        assert_eq!(status, Status::SUCCESS, "{sqe:?}");
    }
}

#[test]
fn flush_of_all_namespaces_flushes_each() {
    // Base 2.0c §7.1, VWC bits 2:1 = 11b.
    let mut world = World::new();
    world
        .target
        .add_namespace(world.subsystem, namespace(3))
        .unwrap();
    let host = world.host(HOST_A);
    world.hold_io = true;
    let cid = world.cid();
    world.send(host.io, &Sqe::new(nvm::FLUSH, cid, NSID_ALL), &[]);
    for device in [1, 3] {
        let held = world.held_io.pop().unwrap();
        assert_eq!((held.1, held.2), (DeviceKey(device), IoOp::Flush));
        assert_eq!(world.status(host.io, cid), None);
        world.perform(held);
    }
    assert_eq!(world.status(host.io, cid), Some(Status::SUCCESS));
}

#[test]
fn compare_tells_whether_blocks_are_equal() {
    // NVM Command Set 1.0c §3.2.1.
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.write(host.io, 5, &[9; 512]);
    let sqe = world.block_sqe(nvm::COMPARE, block(5, 1));
    assert_eq!(
        world.call(host.io, &sqe, &[9; 512]).cqe.status,
        Status::SUCCESS
    );
    let sqe = world.block_sqe(nvm::COMPARE, block(5, 1));
    assert_eq!(
        world.call(host.io, &sqe, &[8; 512]).cqe.status,
        Status::COMPARE_FAILURE.dnr()
    );
}

#[test]
fn a_long_write_zeroes_goes_in_steps() {
    // NVM Command Set 1.0c §3.2.8; WZSL 0, so that 65536 blocks of 4096 bytes are allowed.
    let mut world = World::new();
    let mut large = namespace(2);
    large.block_size = units::BlockSize::B4096;
    large.blocks = units::Blocks(1 << 20);
    world.target.add_namespace(world.subsystem, large).unwrap();
    let host = world.host(HOST_A);
    world.hold_io = true;
    let cid = world.cid();
    let zeroes = BlockCommand {
        deallocate: true,
        ..block(100, 65536)
    };
    let mut sqe = zeroes.emit(nvm::WRITE_ZEROES, cid, 2, Sgl([0; 16]));
    sqe.set_flags(0x40);
    world.send(host.io, &sqe, &[]);
    let step = limits::DISCARD_STEP_BYTES / 4096;
    let mut at = 100;
    while let Some((cmd, _, op)) = world.held_io.pop() {
        assert_eq!(
            op,
            IoOp::WriteZeroes {
                range: BlockRange::new(at, step),
                unmap: true,
                fua: false
            }
        );
        at += step;
        world.target.handle_io_done(world.now, cmd, Ok(()));
        world.pump();
    }
    assert_eq!(at, 100 + 65536);
    assert_eq!(world.status(host.io, cid), Some(Status::SUCCESS));
}

#[test]
fn no_step_reaches_past_the_end_of_a_namespace_that_shrank() {
    // NVM Command Set 1.0c §3.2: LBA Out of Range, whichever step of a command meets the new end.
    let size = 1 << 20;
    let long = (limits::DISCARD_STEP_BYTES / 4096) as u32 + 8;
    let flags = |mut sqe: Sqe| {
        sqe.set_flags(0x40);
        sqe
    };
    let fua = BlockCommand {
        fua: true,
        ..block(0, 8)
    };
    let command = DatasetManagement {
        ranges: 1,
        deallocate: true,
    };
    let list = ranges(&[(0, long)]);
    let cases: [(Sqe, &[u8], u64); 3] = [
        (
            flags(block(0, long).emit(nvm::WRITE_ZEROES, 1, 2, Sgl([0; 16]))),
            &[],
            u64::from(long),
        ),
        (
            command.emit(2, 2, Sgl::in_capsule(0, 16)),
            &list,
            u64::from(long),
        ),
        (fua.emit(nvm::READ, 3, 2, Sgl::transport(8 * 4096)), &[], 8),
    ];
    for (sqe, data, end) in cases {
        for (blocks, status) in [
            (end, Status::SUCCESS),
            (end - 1, Status::LBA_OUT_OF_RANGE.dnr()),
        ] {
            let mut world = World::new();
            let mut large = namespace(2);
            large.block_size = units::BlockSize::B4096;
            large.blocks = units::Blocks(size);
            world.target.add_namespace(world.subsystem, large).unwrap();
            let host = world.host(HOST_A);
            world.hold_io = true;
            world.send(host.io, &sqe, data);
            world
                .target
                .resize_namespace(world.subsystem, 2, units::Blocks(blocks))
                .unwrap();
            while let Some((cmd, ..)) = world.held_io.pop() {
                if let Some(IoOp::Read { .. }) = world.io_log.last() {
                    world.provide(cmd, vec![0; 8 * 4096]);
                }
                world.target.handle_io_done(world.now, cmd, Ok(()));
                world.pump();
            }
            assert_eq!(world.status(host.io, sqe.cid()), Some(status), "{sqe:?}");
            let steps = if status.is_success() { 2 } else { 1 };
            assert_eq!(world.io_log.len(), steps, "{:?}", world.io_log);
        }
    }
}

fn ranges(list: &[(u64, u32)]) -> Vec<u8> {
    list.iter()
        .flat_map(|(slba, blocks)| {
            DsmRange {
                attributes: 0,
                blocks: *blocks,
                slba: *slba,
            }
            .emit()
        })
        .collect()
}

#[test]
fn deallocate_takes_its_ranges_one_at_a_time() {
    // NVM Command Set 1.0c §3.2.3.
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.hold_io = true;
    let data = ranges(&[(0, 8), (100, 0), (200, 16)]);
    let cid = world.cid();
    let command = DatasetManagement {
        ranges: 3,
        deallocate: true,
    };
    world.send(
        host.io,
        &command.emit(cid, 1, Sgl::in_capsule(0, 48)),
        &data,
    );
    for range in [BlockRange::new(0, 8), BlockRange::new(200, 16)] {
        assert_eq!(world.held_io.len(), 1);
        let held = world.held_io.pop().unwrap();
        assert_eq!(held.2, IoOp::Discard { range });
        world.perform(held);
    }
    assert_eq!(world.status(host.io, cid), Some(Status::SUCCESS));
    // Ranges behind a transport descriptor are fetched by value; one outside fails before anything is done.
    let cid = world.cid();
    world.send(
        host.io,
        &command.emit(cid, 1, Sgl::transport(48)),
        &ranges(&[(0, 8), (0, 1), (DISK_BLOCKS, 1)]),
    );
    assert_eq!(
        world.status(host.io, cid),
        Some(Status::LBA_OUT_OF_RANGE.dnr())
    );
    assert!(world.held_io.is_empty());
    // Without "deallocate" the ranges are hints.
    let hint = DatasetManagement {
        ranges: 1,
        deallocate: false,
    };
    let cid = world.cid();
    let status = world
        .call(
            host.io,
            &hint.emit(cid, 1, Sgl::in_capsule(0, 16)),
            &ranges(&[(0, 8)]),
        )
        .cqe
        .status;
    assert_eq!(status, Status::SUCCESS);
}

#[test]
fn deallocate_ignores_what_lies_behind_its_ranges() {
    // NVM Command Set 1.0c §3.2.3: NR counts the ranges; Linux sends a whole list of 256 whatever NR is.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let mut list = ranges(&[(0, 8), (DISK_BLOCKS, 1)]);
    list.resize(4096, 0xff);
    let one = DatasetManagement {
        ranges: 1,
        deallocate: true,
    };
    let cases = [
        (Sgl::in_capsule(0, 4096), Status::SUCCESS),
        (Sgl::transport(4096), Status::SUCCESS),
        // Shorter than what NR says, and longer than any list.
        (Sgl::in_capsule(0, 8), Status::DATA_SGL_LENGTH_INVALID.dnr()),
        (Sgl::transport(4112), Status::DATA_SGL_LENGTH_INVALID.dnr()),
    ];
    for (sgl, status) in cases {
        let cid = world.cid();
        let len = (sgl.length() as usize).min(list.len());
        let sqe = one.emit(cid, 1, sgl);
        assert_eq!(
            world.call(host.io, &sqe, &list[..len]).cqe.status,
            status,
            "{sgl:?}"
        );
    }
}

#[test]
fn what_the_device_lacks_is_an_invalid_opcode() {
    let mut world = World::new();
    let mut poor = namespace(2);
    poor.capabilities.write_zeroes = false;
    poor.capabilities.discard = false;
    poor.capabilities.compare = false;
    world.target.add_namespace(world.subsystem, poor).unwrap();
    let host = world.host(HOST_A);
    for (opcode, sgl) in [
        (nvm::WRITE_ZEROES, Sgl([0; 16])),
        (nvm::COMPARE, Sgl::transport(512)),
        (nvm::DATASET_MANAGEMENT, Sgl::transport(16)),
    ] {
        let cid = world.cid();
        let sqe = block(0, 1).emit(opcode, cid, 2, sgl);
        let status = world.call(host.io, &sqe, &[]).cqe.status;
        assert_eq!(status, Status::INVALID_OPCODE.dnr());
    }
}

#[test]
fn more_commands_than_the_queue_holds_end_the_connection() {
    // Base 2.0c §3.3.1: a host does not overrun its queue.
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.hold_io = true;
    for _ in 0..32 {
        let sqe = world.block_sqe(nvm::READ, block(0, 1));
        world.send(host.io, &sqe, &[]);
    }
    assert!(world.disconnects.is_empty());
    let one_more = world.block_sqe(nvm::READ, block(0, 1));
    world.send(host.io, &one_more, &[]);
    assert_eq!(
        world.disconnects,
        [(host.io, DisconnectReason::QueueOverflow)]
    );
    world.target.handle_disconnected(world.now, host.io);
    // The device still has them: each is released when it comes back.
    assert_eq!(world.target.commands_in_flight(), 32);
    while let Some(held) = world.held_io.pop() {
        world.perform(held);
    }
    assert_eq!((world.released, world.target.commands_in_flight()), (32, 0));
    assert!(world.take(host.io, one_more.cid()).is_none());
}

#[test]
fn without_slots_io_is_retryable_and_admin_goes_on() {
    // Base 2.0c §3.3.3.2.1: Command Interrupted.
    let config = TargetConfig {
        commands_max: limits::ADMIN_RESERVE + 2,
        ..TargetConfig::default()
    };
    let mut world = World::with(config);
    let host = world.host(HOST_A);
    world.hold_io = true;
    for _ in 0..2 {
        let sqe = world.block_sqe(nvm::READ, block(0, 1));
        world.send(host.io, &sqe, &[]);
    }
    assert!(world.target.is_full());
    let sqe = world.block_sqe(nvm::READ, block(0, 1));
    assert_eq!(
        world.call(host.io, &sqe, &[]).cqe.status,
        Status::COMMAND_INTERRUPTED.with_crd(1)
    );
    let cid = world.cid();
    let alive = Sqe::new(admin::KEEP_ALIVE, cid, 0);
    assert_eq!(
        world.call(host.admin, &alive, &[]).cqe.status,
        Status::SUCCESS
    );
    let held = world.held_io.pop().unwrap();
    world.perform(held);
    assert!(!world.target.is_full());
}

#[test]
fn fetched_data_meet_the_namespace_as_it_is_then() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.hold_fetch = true;
    let send = |world: &mut World| {
        let cid = world.cid();
        let sqe = block(0, 1).emit(nvm::WRITE, cid, 1, Sgl::transport(512));
        world.send(host.io, &sqe, &[0; 512]);
        (cid, world.held_fetches.pop().unwrap())
    };
    let (cid, fetch) = send(&mut world);
    world.target.remove_namespace(world.subsystem, 1).unwrap();
    world
        .target
        .add_namespace(world.subsystem, namespace(1))
        .unwrap();
    world.deliver(fetch);
    assert_eq!(
        world.status(host.io, cid),
        Some(Status::INVALID_NAMESPACE.dnr())
    );
    assert!(world.io_log.is_empty());
}

#[test]
fn the_success_flag_needs_flow_control_off_or_leave() {
    // NVMe/TCP 1.0c §3.4.4: SUCCESS in C2HData.
    let mut strict = World::new();
    let (admin, cntlid) = strict.connect_admin(HOST_A, crate::world::NQN);
    strict.enable(admin);
    let qp = strict.connection();
    let command = nvme_spec::fabrics::ConnectCommand {
        sq_flow_control_disabled: true,
        ..strict.connect_sqe(1)
    };
    let data = nvme_spec::fabrics::ConnectData::new(
        crate::world::host_id(HOST_A),
        cntlid,
        crate::world::NQN,
        HOST_A,
    );
    strict.try_connect(qp, command, data);
    assert!(strict.read(qp, 0, 1).success_flag_allowed);
    assert!(!strict.read(qp, DISK_BLOCKS, 1).success_flag_allowed);

    let mut relaxed = World::with(TargetConfig {
        success_flag_with_flow_control: true,
        ..TargetConfig::default()
    });
    let host = relaxed.host(HOST_A);
    assert!(relaxed.read(host.io, 0, 1).success_flag_allowed);
}

#[test]
fn answers_for_handles_of_the_past_are_ignored() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.hold_io = true;
    let sqe = world.block_sqe(nvm::READ, block(0, 1));
    world.send(host.io, &sqe, &[]);
    let held = world.held_io.pop().unwrap();
    let stale: CmdId = held.0;
    world.perform(held);
    assert_eq!(world.status(host.io, sqe.cid()), Some(Status::SUCCESS));
    world.target.handle_io_done(world.now, stale, Ok(()));
    world.target.handle_data(world.now, stale, &[], true);
    world.target.handle_disconnected(world.now, host.io);
    let late = world.block_sqe(nvm::READ, block(0, 1));
    assert_eq!(
        world
            .target
            .handle_capsule(world.now, host.io, &late, InCapsule::None, true),
        None
    );
    world.pump();
    assert!(world.replies.is_empty());
}

#[test]
fn a_slot_is_not_reused_before_its_answer_is_taken() {
    // The engine keeps read data under the slot till it takes the response.
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.hold_io = true;
    let first = world.block_sqe(nvm::READ, block(0, 1));
    world.send(host.io, &first, &[]);
    let (cmd, _, _) = world.held_io.pop().unwrap();
    world.target.handle_io_done(world.now, cmd, Ok(()));
    let second = world.block_sqe(nvm::WRITE, block(0, 1));
    let capsule = |world: &mut World| {
        let data = InCapsule::Held(512);
        world
            .target
            .handle_capsule(world.now, host.io, &second, data, true)
            .unwrap()
    };
    let other = capsule(&mut world);
    assert_ne!(other.index(), cmd.index());
    while world.target.poll_output().is_some() {}
    assert_eq!(capsule(&mut world).index(), cmd.index());
}
