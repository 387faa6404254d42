//! Commands in flight: one dense table, one list per queue pair threaded through it.

use nvme_spec::io::DsmRange;
use nvme_spec::reservation::Keys;
use nvme_spec::{Sqe, Status};

use crate::{CmdId, DeviceKey};

/// No entry, in the index fields below.
pub(crate) const NONE: u32 = u32::MAX;

/// What a command waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Slot not in use.
    Free,
    /// Ended, but the output that says so has not been taken: the engine still has the command's data under the slot.
    Ended,
    /// The host's data (an [`crate::Output::Fetch`] is out).
    Fetching,
    /// The other half of its fused pair, its own data being there.
    FusedReady,
    /// The second half's device operation, which answers this first half too.
    FusedJoined,
    /// The device (an [`crate::Output::Io`] is out).
    InDevice,
    /// Its turn among the reservation commands of the namespace.
    ReservationQueued,
    /// [`crate::Target::handle_persisted`].
    Persisting,
    /// Commands of preempted hosts to end ([`nvme_spec::reservation::PREEMPT_AND_ABORT`]).
    Draining,
    /// The command it aborts to end.
    Aborting,
    /// The engine's word on where a Connect belongs.
    Routing,
}

impl State {
    #[inline]
    const fn is_live(self) -> bool {
        !matches!(self, Self::Free | Self::Ended)
    }
}

/// Why a command will not be carried out although it is still in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doom {
    /// Nothing; it goes on.
    None,
    /// The host aborted it.
    AbortRequested,
    /// Its host was preempted from the namespace.
    Preempted,
    /// The second half of its fused pair did not come.
    SecondMissing,
    /// The other half of its fused pair failed.
    PartnerFailed,
}

impl Doom {
    /// The status the command ends with, if it is not to go on.
    pub(crate) const fn status(self) -> Option<Status> {
        match self {
            Self::None => None,
            Self::AbortRequested => Some(Status::ABORT_REQUESTED),
            Self::Preempted => Some(Status::ABORTED_PREEMPT),
            Self::SecondMissing => Some(Status::ABORTED_MISSING_FUSED),
            Self::PartnerFailed => Some(Status::ABORTED_FAILED_FUSED),
        }
    }
}

/// One command in flight.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) generation: u32,
    /// Queue pair, [`NONE`] once the connection is gone.
    pub(crate) qp: u32,
    /// Host the slot is charged to in [`crate::hosts::Hosts`], [`NONE`] for a Connect.
    pub(crate) host: u32,
    prev: u32,
    next: u32,
    pub(crate) cid: u16,
    pub(crate) opcode: u8,
    pub(crate) state: State,
    pub(crate) doom: Doom,
    pub(crate) fua: bool,
    pub(crate) deallocate: bool,
    /// Whether another command waits for this one's end.
    pub(crate) watched: bool,
    pub(crate) nsid: u32,
    /// Identity of the namespace when the command was accepted.
    pub(crate) ns_epoch: u64,
    pub(crate) device: DeviceKey,
    /// First block not done.
    pub(crate) start: u64,
    /// Blocks not done.
    pub(crate) blocks: u32,
    /// Bytes of data.
    pub(crate) bytes: u32,
    /// The other half of a fused pair, or [`NONE`].
    pub(crate) partner: u32,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What only rare commands carry.
#[derive(Debug)]
pub(crate) enum Extra {
    /// A command whose payload is read by value, while that is fetched.
    Sqe(Sqe),
    /// Deallocate ranges, those before `next` being done.
    Ranges {
        /// Where to go on.
        next: usize,
        /// All of them.
        ranges: Vec<DsmRange>,
    },
    /// A reservation command with its keys.
    Reservation {
        /// The command.
        sqe: Sqe,
        /// Keys from its payload.
        keys: Keys,
    },
    /// Set Features of a namespace's reservation persistence.
    Persistence {
        /// The value to set.
        ptpl: bool,
    },
    /// Commands in the device that have to end before this one is answered.
    Drain {
        /// Those that have not.
        waits_for: Vec<CmdId>,
    },
    /// The command an Abort waits for.
    Victim(CmdId),
    /// A command in the device whose connection was closed for a shutdown of its controller.
    Orphan {
        /// Table slot and generation of the controller.
        controller: (u32, u32),
    },
}

/// The table.
#[derive(Debug)]
pub(crate) struct Commands {
    slots: Vec<Command>,
    free: u32,
    used: u32,
    capacity: u32,
}

impl Commands {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            used: 0,
            capacity,
        }
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Slots left.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        self.capacity - self.used
    }

    /// A command of queue pair `qp`, whose list begins at `head`; the caller makes it the new head.
    #[inline]
    pub(crate) fn insert(&mut self, qp: u32, head: u32, cid: u16, opcode: u8) -> Option<u32> {
        let index = if self.free != NONE {
            let index = self.free;
            self.free = self.slots[index as usize].next;
            index
        } else if (self.slots.len() as u32) < self.capacity {
            self.slots.push(Command::unused());
            self.slots.len() as u32 - 1
        } else {
            return None;
        };
        self.used += 1;
        let slot = &mut self.slots[index as usize];
        slot.qp = qp;
        slot.host = NONE;
        slot.prev = NONE;
        slot.next = head;
        slot.cid = cid;
        slot.opcode = opcode;
        slot.doom = Doom::None;
        slot.fua = false;
        slot.deallocate = false;
        slot.watched = false;
        slot.partner = NONE;
        slot.nsid = 0;
        slot.ns_epoch = 0;
        slot.start = 0;
        slot.bytes = 0;
        if head != NONE {
            self.slots[head as usize].prev = index;
        }
        Some(index)
    }

    /// Takes `index` out of the list of its queue pair; answers the head of that list, `head` being the present one.
    #[inline]
    pub(crate) fn unlink(&mut self, index: u32, head: u32) -> u32 {
        let slot = &mut self.slots[index as usize];
        let (prev, next) = (slot.prev, slot.next);
        slot.prev = NONE;
        slot.next = NONE;
        if next != NONE {
            self.slots[next as usize].prev = prev;
        }
        if prev == NONE {
            next
        } else {
            self.slots[prev as usize].next = next;
            head
        }
    }

    /// Ends an unlinked command; its slot is freed when the engine has taken the output for it.
    #[inline]
    pub(crate) fn end(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Ended;
        slot.qp = NONE;
        slot.partner = NONE;
        if slot.extra.is_some() {
            slot.extra = None;
        }
    }

    /// Frees the slot of a command that ended.
    #[inline]
    pub(crate) fn free(&mut self, index: u32) {
        let head = self.free;
        let slot = &mut self.slots[index as usize];
        slot.state = State::Free;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = head;
        self.free = index;
        self.used -= 1;
    }

    /// Index of a command that is still in flight.
    #[inline]
    pub(crate) fn check(&self, id: CmdId) -> Option<u32> {
        let slot = self.slots.get(id.index as usize)?;
        (slot.generation == id.generation && slot.state.is_live()).then_some(id.index)
    }

    #[inline]
    pub(crate) fn id(&self, index: u32) -> CmdId {
        CmdId {
            index,
            generation: self.slots[index as usize].generation,
        }
    }

    /// Next command of the same queue pair, or [`NONE`].
    pub(crate) fn next(&self, index: u32) -> u32 {
        self.slots[index as usize].next
    }

    /// All commands in flight.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Command)> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.state.is_live())
            .map(|(index, slot)| (index as u32, slot))
    }
}

impl Command {
    const fn unused() -> Self {
        Self {
            generation: 0,
            qp: NONE,
            host: NONE,
            prev: NONE,
            next: NONE,
            cid: 0,
            opcode: 0,
            state: State::Free,
            doom: Doom::None,
            fua: false,
            deallocate: false,
            watched: false,
            nsid: 0,
            ns_epoch: 0,
            device: DeviceKey(0),
            start: 0,
            blocks: 0,
            bytes: 0,
            partner: NONE,
            extra: None,
        }
    }
}

impl core::ops::Index<u32> for Commands {
    type Output = Command;

    #[inline]
    fn index(&self, index: u32) -> &Command {
        &self.slots[index as usize]
    }
}

impl core::ops::IndexMut<u32> for Commands {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut Command {
        &mut self.slots[index as usize]
    }
}
