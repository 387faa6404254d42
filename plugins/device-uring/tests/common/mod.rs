//! A file of its own for each test, and a queue on it driven by the test host.

use std::fs::{File, OpenOptions};

use conformance::host::{Driven as _, TestHost};
use sdk::block::{Device, IoResult, IoTag, Op, OpenError, Queue, Submitted};
use sdk::buf::Buf;
use sdk::uri::DeviceUri;
use tempfile::TempDir;
use units::BlockRange;

pub(crate) struct FileDisk {
    _directory: TempDir,
    path: String,
}

impl FileDisk {
    pub(crate) fn new(directory: &str, bytes: u64) -> Self {
        let directory = tempfile::tempdir_in(directory).unwrap();
        let path = directory.path().join("disk").display().to_string();
        File::create_new(&path).unwrap().set_len(bytes).unwrap();
        Self {
            _directory: directory,
            path,
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn uri(&self, query: &str) -> String {
        format!("uring://{}{query}", self.path)
    }

    pub(crate) fn set_len(&self, bytes: u64) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.set_len(bytes).unwrap();
    }
}

pub(crate) fn open(uri: &str) -> Result<Box<dyn Device>, OpenError> {
    device_uring::drivers()[0].open(DeviceUri::parse(uri).unwrap())
}

pub(crate) struct Driven {
    pub(crate) device: Box<dyn Device>,
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) host: TestHost,
    next_tag: u64,
}

impl Driven {
    pub(crate) fn open(uri: &str) -> Self {
        let mut device = open(uri).unwrap();
        let mut host = TestHost::new();
        let owner = host.owner();
        let queue = device.open_queue().unwrap().open(&mut host, owner).unwrap();
        Self {
            device,
            queue,
            host,
            next_tag: 1,
        }
    }

    pub(crate) fn reopen_queue(&mut self) {
        assert!(self.device.open_queue().is_err(), "one queue at a time");
        struct Nothing;
        impl Queue for Nothing {
            fn submit(&mut self, _: &mut dyn sdk::host::Host, _: IoTag, _: Op) -> Submitted {
                unreachable!("between two queues")
            }
            fn handle_file_done(&mut self, _: &mut dyn sdk::host::Host, _: sdk::host::FileDone) {}
            fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
                None
            }
            fn set_geometry(&mut self, _: sdk::block::Geometry) {}
            fn close(&mut self, _: &mut dyn sdk::host::Host) {}
        }
        self.queue.close(&mut self.host);
        self.queue = Box::new(Nothing);
        let owner = self.host.owner();
        let seed = self.device.open_queue().unwrap();
        self.queue = seed.open(&mut self.host, owner).unwrap();
    }

    pub(crate) fn submit(&mut self, op: Op) -> Submitted {
        self.next_tag += 1;
        self.queue.submit(&mut self.host, IoTag(self.next_tag), op)
    }

    /// Submits; the tag if it is pending.
    pub(crate) fn start(&mut self, op: Op) -> Result<u64, IoResult> {
        match self.submit(op) {
            Submitted::Pending => Ok(self.next_tag),
            Submitted::Done(result) => Err(result),
        }
    }

    /// The next completion, if one can come.
    pub(crate) fn next(&mut self) -> Option<(u64, IoResult)> {
        loop {
            if let Some((tag, result)) = self.queue.poll_completion() {
                return Some((tag.0, result));
            }
            let done = self.host.next_file_done()?;
            self.queue.handle_file_done(&mut self.host, done);
        }
    }

    pub(crate) fn run(&mut self, op: Op) -> IoResult {
        match self.start(op) {
            Err(result) => result,
            Ok(tag) => {
                let (done, result) = self.next().expect("a completion");
                assert_eq!(done, tag);
                result
            }
        }
    }

    pub(crate) fn close(mut self) {
        assert!(self.next().is_none(), "one completion too many");
        self.queue.close(&mut self.host);
        assert_eq!(self.host.open_files(), 0);
    }
}

pub(crate) fn read(range: BlockRange) -> Op {
    let buf = Some(Buf::from_heap(range.count.0 as usize * 512));
    Op::Read { range, buf }
}

pub(crate) fn write(range: BlockRange) -> Op {
    Op::Write {
        range,
        buf: Buf::from_heap(range.count.0 as usize * 512),
        fua: false,
    }
}

pub(crate) fn write_fua(range: BlockRange) -> Op {
    Op::Write {
        range,
        buf: Buf::from_heap(range.count.0 as usize * 512),
        fua: true,
    }
}

pub(crate) fn zeroes(range: BlockRange, deallocate: bool, fua: bool) -> Op {
    Op::WriteZeroes {
        range,
        deallocate,
        fua,
    }
}
