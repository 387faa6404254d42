//! A device queue that does what the test says, when it says so.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, DeviceConfig, IoStats, Request, Stamps, Waits};
use conformance::host::TestHost;
use sdk::block::{Capabilities, Geometry, IoError, IoResult, IoTag, Op, Queue, Submitted, Support};
use sdk::buf::{Buf, Payload};
use sdk::host::{FileDone, Host};
use units::{BlockRange, BlockSize, Blocks};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const INFLIGHT_MAX: usize = 100;
pub(crate) const OVERDUE_MAX: usize = 3;
const BLOCKS: u64 = 1 << 20;

/// What the queue has and what it is to say.
#[derive(Default)]
pub(crate) struct Script {
    /// Operations it has been given and not answered.
    pub(crate) held: Vec<(IoTag, Op)>,
    /// Answers to give at the next polls.
    pub(crate) answers: VecDeque<(IoTag, IoResult)>,
    /// Answers to give at once, in order; without one an operation is held.
    pub(crate) at_once: VecDeque<IoResult>,
    /// Every operation given, as text.
    pub(crate) log: Vec<String>,
}

#[derive(Clone, Default)]
struct ScriptedQueue(Rc<RefCell<Script>>);

impl Queue for ScriptedQueue {
    fn submit(&mut self, _: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        let mut script = self.0.borrow_mut();
        script.log.push(describe(&op));
        match script.at_once.pop_front() {
            Some(result) => Submitted::Done(result),
            None => {
                script.held.push((tag, op));
                Submitted::Pending
            }
        }
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        self.0.borrow_mut().answers.pop_front()
    }

    fn set_geometry(&mut self, _: Geometry) {}

    fn close(&mut self, _: &mut dyn Host) {}
}

fn describe(op: &Op) -> String {
    match op {
        Op::Read { range, .. } => format!("read {range}"),
        Op::Write { range, buf, fua } => {
            let zero = if buf.iter().all(|byte| *byte == 0) {
                " zeroes"
            } else {
                ""
            };
            format!("write{zero} {range}{}", if *fua { " fua" } else { "" })
        }
        Op::WriteZeroes { range, .. } => format!("zero {range}"),
        Op::Discard { range } => format!("discard {range}"),
        Op::Flush => "flush".to_owned(),
    }
}

/// A device over the scripted queue, its host, and the script.
pub(crate) struct Rig {
    pub(crate) device: BlockDevice,
    pub(crate) host: TestHost,
    script: Rc<RefCell<Script>>,
    next_tag: u64,
}

impl Rig {
    /// A device of 1 Mi blocks of 512 bytes that can do everything.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Capabilities)) -> Self {
        let queue = ScriptedQueue::default();
        let script = queue.0.clone();
        let mut capabilities = Capabilities {
            write_zeroes: Support::Native,
            discard: Support::Native,
            volatile_cache: true,
            lends_reads: false,
            atomic_blocks: 1,
            direct: None,
        };
        change(&mut capabilities);
        let geometry = Geometry {
            block_size: BlockSize::B512,
            blocks: Blocks(BLOCKS),
        };
        let config = DeviceConfig {
            name: "scripted".to_owned(),
            deadline: DEADLINE,
            slow_io: Duration::from_secs(1),
            inflight_max: INFLIGHT_MAX,
            overdue_max: OVERDUE_MAX,
        };
        Self {
            device: BlockDevice::new(Box::new(queue), geometry, capabilities, config),
            host: TestHost::new(),
            script,
            next_tag: 100,
        }
    }

    pub(crate) fn script(&self) -> std::cell::RefMut<'_, Script> {
        self.script.borrow_mut()
    }

    /// Submits a request; its tag and what was said at once.
    pub(crate) fn submit(&mut self, request: Request) -> (u64, Submitted) {
        self.next_tag += 1;
        let received = self.host.now();
        let stamps = Stamps {
            received,
            waits: Waits::default(),
        };
        let said = self
            .device
            .submit(&mut self.host, self.next_tag, request, stamps);
        (self.next_tag, said)
    }

    /// Submits a request that must be pending; its tag.
    pub(crate) fn start(&mut self, request: Request) -> u64 {
        match self.submit(request) {
            (tag, Submitted::Pending) => tag,
            (_, said) => panic!("{said:?}"),
        }
    }

    /// Submits a request that must be answered at once; the answer.
    pub(crate) fn answer(&mut self, request: Request) -> IoResult {
        match self.submit(request) {
            (_, Submitted::Done(result)) => result,
            (_, Submitted::Pending) => panic!("pending"),
        }
    }

    pub(crate) fn poll(&mut self) -> Option<(u64, IoResult)> {
        self.device.poll_completion(&mut self.host)
    }

    /// The device answers its oldest operation; reads give their buffer.
    pub(crate) fn device_answers(&mut self, error: Option<IoError>) {
        self.device_answers_nth(0, error);
    }

    pub(crate) fn device_answers_nth(&mut self, at: usize, error: Option<IoError>) {
        let mut script = self.script();
        let (tag, op) = script.held.remove(at);
        let result = match (error, op) {
            (Some(error), _) => Err(error),
            (None, Op::Read { buf, .. }) => Ok(buf.map(Payload::Buf)),
            (None, _) => Ok(None),
        };
        script.answers.push_back((tag, result));
    }

    /// The device answers a read with these bytes.
    pub(crate) fn device_reads(&mut self, bytes: &[u8]) {
        let mut script = self.script();
        let (tag, _) = script.held.remove(0);
        script
            .answers
            .push_back((tag, Ok(Some(Payload::Buf(filled(bytes))))));
    }

    /// The counters at the end of a turn of 1 µs.
    pub(crate) fn stats(&mut self) -> &IoStats {
        self.device.end_turn(Duration::from_micros(1));
        self.device.stats()
    }

    /// What the device was given since the last call.
    pub(crate) fn taken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.script().log)
    }
}

pub(crate) fn filled(bytes: &[u8]) -> Buf {
    let mut buf = Buf::from_heap(bytes.len());
    buf.copy_from_slice(bytes);
    buf
}

pub(crate) fn read(start: u64, count: u64) -> Request {
    Request::Read {
        range: BlockRange::new(start, count),
        buf: Some(Buf::from_heap(count as usize * 512)),
    }
}

pub(crate) fn write(start: u64, count: u64) -> Request {
    Request::Write {
        range: BlockRange::new(start, count),
        buf: filled(&vec![0xaa; count as usize * 512]),
        fua: false,
    }
}

pub(crate) fn zeroes(start: u64, count: u64) -> Request {
    Request::WriteZeroes {
        range: BlockRange::new(start, count),
        deallocate: false,
        fua: true,
    }
}

pub(crate) fn discard(start: u64, count: u64) -> Request {
    Request::Discard {
        range: BlockRange::new(start, count),
    }
}

pub(crate) fn compare_and_write(start: u64, old: &[u8], new: &[u8]) -> Request {
    Request::CompareAndWrite {
        range: BlockRange::new(start, old.len() as u64 / 512),
        compare: filled(old),
        write: filled(new),
        fua: false,
    }
}
