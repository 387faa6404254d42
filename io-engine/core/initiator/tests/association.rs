//! Bring-up, keep alive, timeouts and failures against a scripted controller, in virtual time.

use nvme_initiator::limits::READY_POLL_INTERVAL;
use nvme_initiator::{Command, Error, Event, Initiator, InitiatorConfig, Step, Transfer};
use nvme_spec::event::AsyncEvent;
use nvme_spec::fabrics::{ConnectCommand, ConnectData, PropertyCommand};
use nvme_spec::feature::QueueCounts;
use nvme_spec::identify::{IdentifyCommand, cns, namespace_list};
use nvme_spec::opcode::{FABRICS, admin, fabrics};
use nvme_spec::register::{self, Cap};
use nvme_spec::{Cqe, Status};
use std::time::{Duration, Instant};

const HOSTNQN: &str = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000001";
const SUBNQN: &str = "nqn.2019-05.io.openebs:disk";

/// A controller as far as bring-up sees it.
struct Script {
    now: Instant,
    initiator: Initiator,
    /// Looks at CSTS that still find it not ready.
    not_ready: u32,
    /// Answered with this status instead of success.
    refuse: Option<(u8, Status)>,
    /// Bytes missing from the data of every answer.
    short: usize,
    queues_granted: u32,
    nsids: Vec<u32>,
    /// Commands that stay unanswered: opcode.
    silent: Option<u8>,
    seen: Vec<u8>,
    events: Vec<Event>,
}

impl Script {
    fn new(config: InitiatorConfig) -> Self {
        Self {
            now: Instant::now(),
            initiator: Initiator::new(config),
            not_ready: 0,
            refuse: None,
            short: 0,
            queues_granted: 64,
            nsids: vec![1, 7],
            silent: None,
            seen: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Answers everything until nothing moves.
    fn run(&mut self) -> Result<(), Error> {
        loop {
            if let Some(command) = self.initiator.poll_command() {
                self.answer(&command)?;
            } else if let Some(event) = self.initiator.poll_event() {
                if let Event::OpenQueue(qid) = event {
                    self.initiator.handle_queue_open(self.now, qid);
                }
                self.events.push(event);
            } else {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, command: &Command) -> Result<(), Error> {
        let sqe = &command.sqe;
        self.seen.push(sqe.opcode());
        if self.silent == Some(sqe.opcode()) {
            return Ok(());
        }
        let mut cqe = Cqe::new(sqe.cid(), Status::SUCCESS);
        let mut data = Vec::new();
        match sqe.opcode() {
            FABRICS => cqe.result = self.fabrics(command),
            admin::IDENTIFY => data = self.identify(command),
            admin::SET_FEATURES => {
                cqe.result = u64::from(
                    QueueCounts {
                        submission: self.queues_granted,
                        completion: self.queues_granted,
                    }
                    .emit(),
                );
            }
            // An Asynchronous Event Request waits for an event.
            admin::ASYNC_EVENT_REQUEST => return Ok(()),
            _ => {}
        }
        if let Some((opcode, status)) = self.refuse
            && opcode == sqe.opcode()
        {
            cqe.status = status;
            data.clear();
        }
        data.truncate(data.len().saturating_sub(self.short));
        let qid = command.qid;
        self.initiator
            .handle_completion(self.now, qid, &cqe, &data, true)
    }

    fn fabrics(&mut self, command: &Command) -> u64 {
        let sqe = &command.sqe;
        match sqe.fctype() {
            fabrics::CONNECT => {
                let Transfer::Out(data) = &command.data else {
                    panic!("Connect without data");
                };
                let connect = ConnectCommand::parse(sqe);
                let data = ConnectData::parse(data.first_chunk().expect("1024 bytes"));
                assert_eq!(connect.qid, command.qid);
                assert!(connect.sq_flow_control_disabled);
                assert_eq!(data.subnqn(), Some(SUBNQN));
                assert_eq!(data.hostnqn(), Some(HOSTNQN));
                assert_eq!(data.host_id, [9; 16]);
                // Base 2.0c §6.3: any controller first, then the one of the association.
                let cntlid = if command.qid == 0 { 0xffff } else { 5 };
                assert_eq!(data.cntlid, cntlid);
                let kato_ms = if command.qid == 0 { 10_000 } else { 0 };
                assert_eq!(connect.kato_ms, kato_ms);
                5
            }
            fabrics::PROPERTY_GET => match PropertyCommand::parse(sqe).offset {
                register::CAP => Cap {
                    queue_entries_max: 64,
                    ready_timeout_500ms: 4,
                    ..Cap::parse(0)
                }
                .emit(),
                register::VS => 0x0002_0000,
                register::CSTS if self.not_ready > 0 => {
                    self.not_ready -= 1;
                    0
                }
                register::CSTS => 1,
                offset => panic!("property {offset:#x}"),
            },
            fabrics::PROPERTY_SET => {
                let property = PropertyCommand::parse(sqe);
                assert_eq!((property.offset, property.value & 1), (register::CC, 1));
                0
            }
            fctype => panic!("fabrics command {fctype}"),
        }
    }

    fn identify(&mut self, command: &Command) -> Vec<u8> {
        assert_eq!(command.data, Transfer::In(4096));
        let mut page = vec![0; 4096];
        match IdentifyCommand::parse(&command.sqe).cns {
            cns::CONTROLLER => {
                // MDTS 5: 128 KiB; IOCCSZ: 64 + 8192 bytes in units of 16 (Base 2.0c figure 275).
                page[77] = 5;
                page[1792..1796].copy_from_slice(&516_u32.to_le_bytes());
            }
            cns::ACTIVE_NAMESPACES => {
                page = namespace_list(self.nsids.iter().copied()).to_vec();
            }
            cns::NAMESPACE => {
                page[..8].copy_from_slice(&1000_u64.to_le_bytes());
                page[128 + 2] = 12;
            }
            cns::NAMESPACE_DESCRIPTORS => {
                page[..4].copy_from_slice(&[3, 16, 0, 0]);
                page[4..20].fill(0xab);
            }
            other => panic!("CNS {other}"),
        }
        page
    }

    fn wait(&mut self) -> Result<(), Error> {
        self.now = self.initiator.poll_timeout().expect("a timer");
        self.initiator.handle_timeout(self.now)?;
        self.run()
    }
}

fn config() -> InitiatorConfig {
    InitiatorConfig {
        io_queues: 4,
        ..InitiatorConfig::new(HOSTNQN, [9; 16], SUBNQN)
    }
}

#[test]
fn a_controller_comes_up_with_its_queues_and_namespaces() {
    let mut script = Script::new(config());
    script.run().expect("up");
    assert_eq!(script.initiator.step(), Step::Ready);
    let opened: Vec<_> = script
        .events
        .iter()
        .filter_map(|event| match event {
            Event::OpenQueue(qid) => Some(*qid),
            _ => None,
        })
        .collect();
    assert_eq!(opened, [0, 1, 2, 3, 4]);
    assert!(script.events.contains(&Event::Ready));
    let controller = script.initiator.controller();
    assert_eq!((controller.cntlid, controller.io_queues), (5, 4));
    // 128 were wanted, CAP.MQES allows 64.
    assert_eq!(controller.queue_entries, 64);
    assert_eq!(controller.in_capsule_max, 8192);
    assert_eq!(controller.transfer_max, Some(128 * 1024));
    let namespaces = script.initiator.namespaces();
    let ids: Vec<_> = namespaces.iter().map(|namespace| namespace.nsid).collect();
    assert_eq!(ids, [1, 7]);
    assert_eq!(
        (namespaces[0].blocks, namespaces[0].block_len),
        (1000, 4096)
    );
    assert_eq!(namespaces[1].descriptors.uuid, [0xab; 16]);
}

#[test]
fn fewer_queues_than_wanted_are_taken() {
    let mut script = Script::new(config());
    script.queues_granted = 2;
    script.run().expect("up");
    assert_eq!(script.initiator.controller().io_queues, 2);
}

#[test]
fn a_subsystem_without_namespaces_is_up_too() {
    let mut script = Script::new(config());
    script.nsids.clear();
    script.run().expect("up");
    assert_eq!(script.initiator.step(), Step::Ready);
    assert!(script.initiator.namespaces().is_empty());
}

#[test]
fn readiness_is_polled_and_given_up() {
    // Base 2.0c §3.5.1: wait for CSTS.RDY as long as CAP.TO says, here 2 s.
    let mut script = Script::new(config());
    script.not_ready = 3;
    script.run().expect("waits");
    let began = script.now;
    while script.initiator.step() == Step::AwaitReady {
        script.wait().expect("waits");
    }
    assert_eq!(script.now - began, 3 * READY_POLL_INTERVAL);
    assert_eq!(script.initiator.step(), Step::Ready);

    let mut script = Script::new(config());
    script.not_ready = u32::MAX;
    script.run().expect("waits");
    let began = script.now;
    let error = loop {
        if let Err(error) = script.wait() {
            break error;
        }
    };
    assert_eq!(error, Error::ControllerNotReady);
    assert_eq!(script.now - began, Duration::from_secs(2));
    assert_eq!(script.initiator.step(), Step::Failed);
}

#[test]
fn every_refusal_names_its_step() {
    for (opcode, step) in [
        (FABRICS, Step::ConnectAdmin),
        (admin::IDENTIFY, Step::IdentifyController),
        (admin::SET_FEATURES, Step::SetQueueCount),
    ] {
        let mut script = Script::new(config());
        let status = Status::INVALID_FIELD.dnr();
        script.refuse = Some((opcode, status));
        let error = script.run().expect_err("refused");
        assert!(
            matches!(error, Error::StepRefused { step: s, status: st, .. } if s == step && st == status),
            "{error}"
        );
        assert_eq!(script.initiator.error(), Some(error));
        assert_eq!(script.initiator.poll_timeout(), None);
    }
}

#[test]
fn short_data_is_not_taken_for_data() {
    let mut script = Script::new(config());
    script.short = 1;
    let error = script.run().expect_err("short");
    let step = Step::IdentifyController;
    assert_eq!(error, Error::StepDataInvalid { step });
}

#[test]
fn silence_ends_the_association() {
    let mut script = Script::new(config());
    script.silent = Some(admin::IDENTIFY);
    script.run().expect("waits");
    let began = script.now;
    // Keep alive is answered while Identify is not.
    let error = loop {
        if let Err(error) = script.wait() {
            break error;
        }
    };
    let step = Step::IdentifyController;
    assert_eq!(error, Error::StepTimeout { step });
    assert_eq!(script.now - began, Duration::from_secs(30));
}

#[test]
fn keep_alive_is_sent_at_half_its_time_and_must_be_answered() {
    // Base 2.0c §3.9.
    let mut script = Script::new(config());
    script.run().expect("up");
    let began = script.now;
    for _ in 0..3 {
        script.wait().expect("kept alive");
    }
    assert_eq!(script.now - began, Duration::from_secs(15));
    let sent = script.seen.iter().filter(|op| **op == admin::KEEP_ALIVE);
    assert_eq!(sent.count(), 3);
    script.silent = Some(admin::KEEP_ALIVE);
    let error = loop {
        if let Err(error) = script.wait() {
            break error;
        }
    };
    assert_eq!(error, Error::KeepAliveFailed);
}

#[test]
fn events_are_passed_on_and_asked_for_again() {
    let mut script = Script::new(config());
    script.run().expect("up");
    let posted = |script: &Script| {
        let count = script.seen.iter();
        count
            .filter(|op| **op == admin::ASYNC_EVENT_REQUEST)
            .count()
    };
    assert_eq!(posted(&script), 1);
    let mut cqe = Cqe::new(0, Status::SUCCESS);
    let event = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
    cqe.result = event.result();
    let now = script.now;
    script
        .initiator
        .handle_completion(now, 0, &cqe, &[], true)
        .expect("an event");
    script.run().expect("up");
    assert_eq!(script.events.last(), Some(&Event::AsyncEvent(event)));
    assert_eq!(posted(&script), 2);
}

#[test]
fn the_admin_queue_is_lent_within_its_depth() {
    let mut script = Script::new(config());
    script.run().expect("up");
    let now = script.now;
    let log = nvme_spec::log::GetLogPage {
        lid: nvme_spec::log::HEALTH,
        bytes: 512,
        ..Default::default()
    };
    let mut taken = 0;
    while script
        .initiator
        .submit_admin(now, taken, log.emit(0, 0), Transfer::In(512))
    {
        taken += 1;
        assert!(taken < 32);
    }
    // 31 entries: one is the event request, one stays free for Keep Alive.
    assert_eq!(taken, 29);
    let error = script.run().expect_err("answered without data");
    let step = Step::Ready;
    assert_eq!(error, Error::StepDataInvalid { step });
}

#[test]
fn a_completion_nobody_waits_for_is_an_error() {
    for (qid, cid) in [(0, 9), (0, 0xffff), (1, 0), (77, 3)] {
        let mut script = Script::new(config());
        script.run().expect("up");
        let cqe = Cqe::new(cid, Status::SUCCESS);
        let now = script.now;
        let outcome = script
            .initiator
            .handle_completion(now, qid, &cqe, &[], true);
        assert_eq!(outcome, Err(Error::CompletionUnknown { qid, cid }));
    }
}
