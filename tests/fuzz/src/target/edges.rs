//! The blocks round the end of each namespace, asked for on every queue that works when an input is over.
//!
//! Judged by the sizes the harness gave, whatever the input made of queues, reservations and namespaces: where the first
//! block is served, the last one is, the one behind it is out of range, and so is what lies behind a new, nearer end
//! that came while a command was under way.

use nvme_spec::io::{BlockCommand, DatasetManagement, DsmRange};

use super::{BlockRange, Engine, InCapsule, QpairId, Sgl, Sqe, Status, limits, nvm, range_of};

/// Command id of every probe; nothing else is in flight then.
const CID: u16 = 0xffee;

/// What became of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// The device is asked for these blocks.
    Device(BlockRange),
    /// The host is told that the range is not there.
    OutOfRange,
    /// Something that says nothing about the range: a reservation, no such namespace, a queue that is gone.
    Other,
}

/// How a probe's data travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    InCapsule,
    Fetched,
}

/// Asks every queue for the edges of every namespace.
pub(super) fn probe(engine: &mut Engine) {
    settle(engine);
    let namespaces: Vec<(u32, u64)> = engine.sizes.iter().map(|(id, size)| (*id, *size)).collect();
    for qp in engine.queues.clone() {
        for (nsid, size) in namespaces.iter().copied() {
            for (opcode, way) in [
                (nvm::READ, Way::Fetched),
                (nvm::COMPARE, Way::InCapsule),
                (nvm::WRITE, Way::InCapsule),
                (nvm::WRITE, Way::Fetched),
                (nvm::WRITE_ZEROES, Way::InCapsule),
                (nvm::DATASET_MANAGEMENT, Way::InCapsule),
            ] {
                let ask = Ask {
                    qp,
                    nsid,
                    opcode,
                    way,
                    fua: false,
                };
                ends(engine, ask, size);
            }
            second_of_two(engine, qp, nsid, size);
            shrinking(engine, qp, nsid, size);
            engine.resize_namespace(nsid, size);
            settle(engine);
        }
    }
}

/// Ends all that is in flight.
fn settle(engine: &mut Engine) {
    engine.drain();
    while !(engine.ios.is_empty() && engine.fetches.is_empty() && engine.persists.is_empty()) {
        if !engine.ios.is_empty() {
            engine.io_done(0, None);
        }
        if !engine.fetches.is_empty() {
            engine.data(0, true, 0);
        }
        if let Some(token) = engine.persists.pop() {
            engine.target.handle_persisted(engine.now, token, true);
            engine.drain();
        }
    }
}

/// A kind of command to one namespace on one queue.
#[derive(Clone, Copy)]
struct Ask {
    qp: QpairId,
    nsid: u32,
    opcode: u8,
    way: Way,
    fua: bool,
}

impl Ask {
    fn block_bytes(self) -> u32 {
        if self.nsid % 2 == 1 { 512 } else { 4096 }
    }

    /// Sends the command; it is left under way.
    fn send(self, engine: &mut Engine, slba: u64, blocks: u32) {
        if self.opcode == nvm::DATASET_MANAGEMENT {
            let range = DsmRange {
                attributes: 0,
                blocks,
                slba,
            };
            let command = DatasetManagement {
                ranges: 1,
                deallocate: true,
            };
            let sqe = command.emit(CID, self.nsid, Sgl::in_capsule(0, 16));
            return engine.capsule(self.qp, &sqe, InCapsule::Bytes(&range.emit()), true);
        }
        let command = BlockCommand {
            slba,
            blocks,
            fua: self.fua,
            ..BlockCommand::default()
        };
        let len = blocks * self.block_bytes();
        let has_data = matches!(self.opcode, nvm::WRITE | nvm::COMPARE);
        let (sgl, data) = match self.way {
            Way::InCapsule if has_data => (Sgl::in_capsule(0, len), InCapsule::Held(len)),
            Way::InCapsule => (Sgl([0; 16]), InCapsule::None),
            Way::Fetched => (Sgl::transport(len), InCapsule::None),
        };
        let mut sqe: Sqe = command.emit(self.opcode, CID, self.nsid, sgl);
        sqe.set_flags(0x40);
        engine.capsule(self.qp, &sqe, data, true);
    }

    /// What the last input made of the command.
    fn outcome(self, engine: &Engine) -> Outcome {
        if let Some((_, op)) = engine.operations.first() {
            return range_of(op).map_or(Outcome::Other, Outcome::Device);
        }
        let answer = engine
            .answers
            .iter()
            .find(|(qp, cid, _)| *qp == self.qp && *cid == CID);
        match answer {
            Some((.., status)) if *status == Status::LBA_OUT_OF_RANGE.dnr() => Outcome::OutOfRange,
            Some(_) | None => Outcome::Other,
        }
    }

    /// Sends the command, brings its data if they are asked for, and ends it.
    fn whole(self, engine: &mut Engine, slba: u64, blocks: u32) -> Outcome {
        self.send(engine, slba, blocks);
        if !engine.fetches.is_empty() {
            engine.data(0, true, 0);
        }
        let outcome = self.outcome(engine);
        settle(engine);
        outcome
    }
}

fn ends(engine: &mut Engine, ask: Ask, size: u64) {
    if ask.whole(engine, 0, 1) != Outcome::Device(BlockRange::new(0, 1)) {
        return;
    }
    let last = size - 1;
    assert_eq!(
        ask.whole(engine, last, 1),
        Outcome::Device(BlockRange::new(last, 1)),
        "the last block is served"
    );
    for (slba, blocks) in [(last, 2), (size, 1), (u64::MAX, 1), (u64::MAX, 2)] {
        assert_eq!(ask.whole(engine, slba, blocks), Outcome::OutOfRange);
    }
}

/// A deallocation of two ranges, the second one block too long: nothing of it is carried out.
fn second_of_two(engine: &mut Engine, qp: QpairId, nsid: u32, size: u64) {
    let range = |slba, blocks| {
        DsmRange {
            attributes: 0,
            blocks,
            slba,
        }
        .emit()
    };
    for (blocks, expected) in [
        (1, Outcome::Device(BlockRange::new(0, 1))),
        (2, Outcome::OutOfRange),
    ] {
        let list = [range(0, 1), range(size - 1, blocks)].concat();
        let command = DatasetManagement {
            ranges: 2,
            deallocate: true,
        };
        let sqe = command.emit(CID, nsid, Sgl::in_capsule(0, 32));
        engine.capsule(qp, &sqe, InCapsule::Bytes(&list), true);
        let ask = Ask {
            qp,
            nsid,
            opcode: nvm::DATASET_MANAGEMENT,
            way: Way::InCapsule,
            fua: false,
        };
        let outcome = ask.outcome(engine);
        settle(engine);
        if outcome == Outcome::Other {
            return;
        }
        assert_eq!(outcome, expected, "all ranges are checked before the first");
    }
}

/// Commands of two steps, the namespace shrinking between them: to their very end, and by one block more.
fn shrinking(engine: &mut Engine, qp: QpairId, nsid: u32, size: u64) {
    let ask = |opcode, way, fua| Ask {
        qp,
        nsid,
        opcode,
        way,
        fua,
    };
    let step =
        (limits::DISCARD_STEP_BYTES / u64::from(ask(0, Way::Fetched, false).block_bytes())) as u32;
    let flushed_read = ask(nvm::READ, Way::Fetched, true);
    let fetched_write = ask(nvm::WRITE, Way::Fetched, false);
    let discard = ask(nvm::DATASET_MANAGEMENT, Way::InCapsule, false);
    let zeroes = ask(nvm::WRITE_ZEROES, Way::InCapsule, false);
    for (ask, blocks) in [
        (flushed_read, 1),
        (fetched_write, 1),
        (discard, step + 1),
        (zeroes, step + 1),
    ] {
        let end = u64::from(blocks) + 1;
        // A Write Zeroes names at most 65,536 blocks, which may be less than a step.
        if size < end || ask.opcode == nvm::WRITE_ZEROES && blocks > 1 << 16 {
            continue;
        }
        for (shrunk, expected) in [
            (end, Outcome::Device(BlockRange::new(end - 1, 1))),
            (end - 1, Outcome::OutOfRange),
        ] {
            engine.resize_namespace(nsid, size);
            ask.send(engine, 1, blocks);
            let is_under_way = !engine.ios.is_empty() || !engine.fetches.is_empty();
            engine.resize_namespace(nsid, shrunk);
            if !engine.ios.is_empty() {
                engine.io_done(0, None);
            } else if !engine.fetches.is_empty() {
                engine.data(0, true, 0);
            }
            if is_under_way {
                assert_eq!(ask.outcome(engine), expected, "{:#x}", ask.opcode);
            }
            settle(engine);
        }
    }
}
