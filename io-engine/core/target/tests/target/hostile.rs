//! Peers that do as they please, from a seed: no panic, one answer a capsule, nothing left over. The fuzz target of the
//! same name goes further; this runs everywhere.

use nvme_spec::fabrics::{ConnectCommand, ConnectData};
use nvme_spec::{Sgl, Sqe};
use nvme_target::{IoError, QpairId};

use crate::world::{HOST_A, HOST_B, NQN, World, host_id};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % sides
    }

    fn sqe(&mut self, cid: u16) -> (Sqe, Vec<u8>) {
        const OPCODES: [u8; 20] = [
            0, 1, 1, 2, 2, 5, 8, 9, 0xd, 0xe, 0x11, 0x15, 0x7f, 6, 0xa, 0xc, 0x18, 0x2, 0x8, 0x7f,
        ];
        let mut sqe = Sqe::zeroed();
        for dword in 10..16 {
            let value = match self.roll(4) {
                0 => self.roll(1 << 32) as u32,
                1 => self.roll(300) as u32,
                _ => self.roll(8) as u32,
            };
            sqe.set_dword(dword, value);
        }
        sqe.0[0] = OPCODES[self.roll(20) as usize];
        sqe.set_cid(cid);
        sqe.set_flags(0x40 | [0, 0, 0, 0, 1, 2, 3][self.roll(7) as usize]);
        sqe.set_dword(1, [1, 1, 1, 1, 0, 2, u32::MAX][self.roll(7) as usize]);
        let len = [8, 16, 512, 512, 1024, 4096][self.roll(6) as usize];
        let sgl = match self.roll(6) {
            0..3 => Sgl::in_capsule(0, len),
            3..5 => Sgl::transport(len),
            _ => Sgl([self.roll(256) as u8; 16]),
        };
        sqe.set_sgl(sgl);
        (sqe, vec![self.roll(256) as u8; len as usize])
    }
}

fn run(seed: u64) {
    let mut dice = Dice(seed);
    let mut world = World::new();
    world.hold_io = true;
    world.hold_fetch = true;
    world.hold_persist = true;
    let mut queues: Vec<QpairId> = Vec::new();
    for host in [HOST_A, HOST_B] {
        let host = world.host(host);
        queues.extend([host.admin, host.io]);
    }
    world.replies.clear();
    let mut sent = 0u64;
    for step in 0..2000u16 {
        match dice.roll(12) {
            0 if queues.len() < 12 => queues.push(world.connection()),
            1 => {
                let host = [HOST_A, HOST_B][dice.roll(2) as usize];
                let command = ConnectCommand {
                    recfmt: 0,
                    qid: dice.roll(3) as u16,
                    queue_entries: 8,
                    sq_flow_control_disabled: dice.roll(2) == 0,
                    kato_ms: dice.roll(2000) as u32,
                };
                let cntlid = if command.qid == 0 {
                    0xffff
                } else {
                    dice.roll(6) as u16
                };
                let data = ConnectData::new(host_id(host), cntlid, NQN, host);
                let qp = queues[dice.roll(queues.len() as u64) as usize];
                world.send(
                    qp,
                    &command.emit(step, Sgl::in_capsule(0, 1024)),
                    &data.emit(),
                );
                sent += 1;
            }
            2 => {
                let qp = queues[dice.roll(queues.len() as u64) as usize];
                if dice.roll(4) == 0 {
                    world.target.handle_disconnected(world.now, qp);
                    world.pump();
                }
            }
            3 => {
                if !world.held_io.is_empty() {
                    let at = dice.roll(world.held_io.len() as u64) as usize;
                    let held = world.held_io.remove(at);
                    world.next_error = (dice.roll(3) == 0).then_some(IoError::Medium);
                    world.perform(held);
                }
            }
            4 => {
                if let Some(fetch) = world.held_fetches.pop() {
                    world.deliver(fetch);
                }
            }
            5 => {
                if let Some(held) = world.held_persists.pop() {
                    let ok = dice.roll(2) == 0;
                    world.store(held, ok);
                }
            }
            6 if dice.roll(20) == 0 => world.pass(std::time::Duration::from_millis(900)),
            _ => {
                let qp = queues[dice.roll(queues.len() as u64) as usize];
                let (sqe, data) = dice.sqe(step);
                let data_ok = dice.roll(30) != 0;
                world.send_with(qp, &sqe, &data, data_ok);
                sent += 1;
            }
        }
        assert!(world.replies.len() as u64 <= sent);
        let mut seen: Vec<(QpairId, u16)> =
            world.replies.iter().map(|r| (r.qp, r.cqe.cid)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(
            seen.len(),
            world.replies.len(),
            "two answers to one capsule"
        );
    }
    for qp in queues {
        world.target.handle_disconnected(world.now, qp);
    }
    world.pump();
    while let Some((cmd, _, _)) = world.held_io.pop() {
        world
            .target
            .handle_io_done(world.now, cmd, Err(IoError::Gone));
        world.pump();
    }
    while let Some(held) = world.held_persists.pop() {
        world.store(held, true);
    }
    assert_eq!(world.target.commands_in_flight(), 0);
    assert_eq!(world.target.qpairs(), 0);
    assert!(
        world
            .target
            .controllers(world.subsystem)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn arbitrary_peers_get_at_most_one_answer_and_leave_nothing_behind() {
    for seed in 0..150 {
        run(seed);
    }
}
