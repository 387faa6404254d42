//! Data through real sockets: every device kind, sizes from one block to the largest transfer, digests, several queues.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use crate::support::{Rig, pattern};
use nvme_spec::io::BlockCommand;
use nvme_spec::opcode::nvm;
use nvme_spec::{Sgl, Sqe, Status};

fn each_device(test: impl Fn(&mut Rig, &str)) {
    for kind in ["malloc", "file"] {
        let mut rig = Rig::new();
        let uri = match kind {
            "malloc" => "malloc:///m?size_mb=64".to_owned(),
            _ => format!("aio://{}", rig.file("disk", 64 << 20).display()),
        };
        test(&mut rig, &uri);
    }
}

#[test]
fn what_is_written_is_read_back_at_every_size_with_and_without_digests() {
    each_device(|rig, uri| {
        let nqn = rig.serve("d", &[uri]);
        for digests in [false, true] {
            let mut client = rig
                .connect_as(
                    &nqn,
                    "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111",
                    |options| {
                        options.header_digest = digests;
                        options.data_digest = digests;
                        options.buffer_len = 1 << 20;
                    },
                )
                .unwrap();
            for (at, len) in [512, 4096, 8192, 8704, 65_536, 131_072, 524_288]
                .into_iter()
                .enumerate()
            {
                let lba = 3 + at as u64 * 4096;
                let data = pattern(at as u64 + u64::from(digests) * 100, len);
                client.write(1, lba, &data).unwrap();
                assert!(
                    client.read(1, lba, (len / 512) as u32).unwrap() == data,
                    "{len} bytes on {uri}"
                );
            }
            client.flush(1).unwrap();
        }
    });
}

#[test]
fn zeroed_and_discarded_blocks_read_as_zeroes_and_their_neighbours_do_not() {
    each_device(|rig, uri| {
        let nqn = rig.serve("d", &[uri]);
        let mut client = rig.connect(&nqn);
        client.write(1, 0, &pattern(1, 64 * 512)).unwrap();
        client.write_zeroes(1, 8, 8, false).unwrap();
        client.write_zeroes(1, 24, 8, true).unwrap();
        client.deallocate(1, &[(40, 4), (48, 8)]).unwrap();
        let data = client.read(1, 0, 64).unwrap();
        let expected = pattern(1, 64 * 512);
        for block in 0..64 {
            let range = block * 512..(block + 1) * 512;
            let cleared = [8..16, 24..32, 40..44, 48..56]
                .iter()
                .any(|cleared| cleared.contains(&block));
            let wanted = if cleared {
                vec![0; 512]
            } else {
                expected[range.clone()].to_vec()
            };
            assert!(data[range] == wanted, "block {block} on {uri}");
        }
    });
}

#[test]
fn a_whole_disk_is_discarded_while_others_read() {
    each_device(|rig, uri| {
        let nqn = rig.serve("d", &[uri]);
        let mut client = rig.connect(&nqn);
        let mut other = rig.connect(&nqn);
        client.write(1, 100, &pattern(3, 4096)).unwrap();
        client
            .deallocate(1, &[(0, 65_536), (65_536, 65_536)])
            .unwrap();
        assert!(other.read(1, 100, 8).unwrap().iter().all(|byte| *byte == 0));
    });
}

#[test]
fn compare_and_write_changes_what_is_as_expected_and_nothing_else() {
    // NVM Command Set 1.0c §2.2: the fused pair compare, then write, of at most ACWU blocks.
    each_device(|rig, uri| {
        let nqn = rig.serve("d", &[uri]);
        let mut client = rig.connect(&nqn);
        let (old, new) = (pattern(1, 512), pattern(2, 512));
        client.write(1, 16, &old).unwrap();
        client.compare(1, 16, &old).unwrap();
        assert_eq!(
            client
                .compare(1, 16, &new)
                .unwrap_err()
                .status()
                .map(|s| (s.sct(), s.sc())),
            Some((2, 0x85))
        );
        let (compared, written) = client.fused_compare_write(1, 16, &new, &old).unwrap();
        assert_eq!((compared.status.sc(), compared.status.sct()), (0x85, 2));
        assert_eq!(written.status.sc(), Status::ABORTED_FAILED_FUSED.sc());
        assert!(client.read(1, 16, 1).unwrap() == old);
        let (compared, written) = client.fused_compare_write(1, 16, &old, &new).unwrap();
        assert!(compared.status.is_success() && written.status.is_success());
        assert!(client.read(1, 16, 1).unwrap() == new);
    });
}

#[test]
fn a_write_of_another_host_between_the_halves_of_a_pair_is_what_it_compares_with() {
    // NVM Command Set 1.0c §2.1.3: the pair is one operation, done when both halves are there.
    each_device(|rig, uri| {
        let nqn = rig.serve("d", &[uri]);
        let mut other = rig.connect(&nqn);
        let (old, new, theirs) = (pattern(1, 512), pattern(2, 512), pattern(3, 512));
        other.write(1, 16, &old).unwrap();
        let (_admin, cntlid) = crate::unread::admin_queue(rig, &nqn);
        let (mut stream, _) = crate::unread::queue(rig, &nqn, 1, cntlid);
        // Base 2.0c §3.3.3.1: FUSE is 01b in the first half and 10b in the second.
        let half = |opcode, cid, fuse: u8| {
            let command = BlockCommand {
                slba: 16,
                blocks: 1,
                ..BlockCommand::default()
            };
            let mut sqe = command.emit(opcode, cid, 1, Sgl::in_capsule(0, 512));
            sqe.0[1] |= fuse;
            sqe
        };
        let (first, second) = (half(nvm::COMPARE, 7, 1), half(nvm::WRITE, 8, 2));
        let mut send = |sqe: &Sqe, data: &[u8]| {
            let capsule = crate::unread::capsule(sqe, data);
            stream.write_all(&capsule).unwrap();
        };
        send(&first, &old);
        other.write(1, 16, &theirs).unwrap();
        send(&second, &new);
        let mut answers = BTreeMap::new();
        for _ in 0..2 {
            let mut answer = [0; 24];
            stream.read_exact(&mut answer).unwrap();
            let word = |at: usize| u16::from_le_bytes([answer[at], answer[at + 1]]);
            // The phase bit is none of the status.
            answers.insert(word(20), (word(22) >> 1) & 0x7ff);
        }
        assert_eq!(answers[&7], (2 << 8) | 0x85, "Compare Failure");
        assert_eq!(answers[&8], u16::from(Status::ABORTED_FAILED_FUSED.sc()));
        assert!(other.read(1, 16, 1).unwrap() == theirs, "{uri}");
    });
}

#[test]
fn pairs_of_several_hosts_on_one_block_are_not_torn() {
    // A counter in a block, which each host counts up by compare and write: a pair another host's write got into would
    // lose a count.
    const HOSTS: u64 = 3;
    const COUNTS: u64 = 100;
    each_device(|rig, uri| {
        let nqn = rig.serve("d", &[uri]);
        let block = |count: u64| {
            let mut block = pattern(count, 512);
            block[..8].copy_from_slice(&count.to_le_bytes());
            block
        };
        rig.connect(&nqn).write(1, 16, &block(0)).unwrap();
        let threads: Vec<_> = (0..HOSTS)
            .map(|host| {
                let name =
                    format!("nqn.2014-08.org.nvmexpress:uuid:33333333-3333-3333-3333-{host:012}");
                let mut client = rig.connect_as(&nqn, &name, |_| {}).unwrap();
                std::thread::spawn(move || {
                    let mut missed = 0;
                    for _ in 0..COUNTS {
                        loop {
                            let there = client.read(1, 16, 1).unwrap();
                            let count = u64::from_le_bytes(there[..8].try_into().unwrap());
                            assert!(there == block(count), "a torn block");
                            let next = block(count + 1);
                            let (compared, written) =
                                client.fused_compare_write(1, 16, &there, &next).unwrap();
                            assert_eq!(compared.status.is_success(), written.status.is_success());
                            if written.status.is_success() {
                                break;
                            }
                            missed += 1;
                        }
                    }
                    missed
                })
            })
            .collect();
        let missed: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
        let there = rig.connect(&nqn).read(1, 16, 1).unwrap();
        assert!(there == block(HOSTS * COUNTS), "{missed} missed on {uri}");
    });
}

#[test]
fn reads_past_the_end_are_refused_with_the_status_of_the_standard() {
    each_device(|rig, uri| {
        let nqn = rig.serve("d", &[uri]);
        let mut client = rig.connect(&nqn);
        let status = client
            .read(1, (64 << 20) / 512 - 1, 2)
            .unwrap_err()
            .status()
            .unwrap();
        assert_eq!((status.sct(), status.sc()), (0, 0x80), "LBA Out of Range");
        client.read(1, (64 << 20) / 512 - 2, 2).unwrap();
    });
}

#[test]
fn several_queues_and_hosts_work_on_one_disk() {
    each_device(|rig, uri| {
        let nqn = rig.serve("d", &[uri]);
        let threads: Vec<_> = (0..4u64)
            .map(|host| {
                let name =
                    format!("nqn.2014-08.org.nvmexpress:uuid:22222222-2222-2222-2222-{host:012}");
                let mut client = rig
                    .connect_as(&nqn, &name, |options| options.io_queues = 2)
                    .unwrap();
                std::thread::spawn(move || {
                    for round in 0..200u64 {
                        let lba = host * 16_384 + (round % 50) * 64;
                        let data = pattern(host * 1000 + round, 16_384);
                        client.write(1, lba, &data).unwrap();
                        assert!(client.read(1, lba, 32).unwrap() == data);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn two_files_of_one_subsystem_do_not_mix() {
    let mut rig = Rig::new();
    let (a, b) = (rig.file("a", 16 << 20), rig.file("b", 16 << 20));
    let nqn = rig.serve(
        "d",
        &[
            &format!("aio://{}", a.display()),
            &format!("uring://{}?blk_size=4096", b.display()),
        ],
    );
    let mut client = rig.connect(&nqn);
    client.write(1, 0, &pattern(1, 4096)).unwrap();
    client.write(2, 0, &pattern(2, 4096)).unwrap();
    client.flush(1).unwrap();
    client.flush(2).unwrap();
    assert!(client.read(1, 0, 8).unwrap() == pattern(1, 4096));
    assert!(client.read(2, 0, 1).unwrap() == pattern(2, 4096));
    assert!(std::fs::read(a).unwrap()[..4096] == pattern(1, 4096));
}

#[test]
fn hosts_of_the_discovery_service_are_listed_too() {
    use engine::control::dataplane::DataPlane;
    use nvme_spec::nqn::DISCOVERY_NQN;
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let _client = rig.connect(&nqn);
    let (discovery, cntlid) = crate::unread::admin_queue(&rig, DISCOVERY_NQN);
    let listed = rig.runtime.block_on(rig.plane.controllers());
    let found: Vec<_> = listed
        .iter()
        .map(|listed| (listed.subnqn.as_str(), listed.hostnqn.as_str()))
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.contains(&(DISCOVERY_NQN, crate::unread::HOST)),
        "{found:?}"
    );
    let its = listed.iter().find(|listed| listed.subnqn == DISCOVERY_NQN);
    let its = its.expect("just seen");
    assert_eq!((its.cntlid, its.io_queues), (cntlid, 0));
    assert_eq!(its.peer, discovery.local_addr().ok());
}
