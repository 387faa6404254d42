//! The load: keeps every queue at its depth, measures, and in verify mode checks what it reads.
//!
//! A turn is, per queue: one receive, every completion taken and its successor queued, one gathered send. The clock is
//! read once per queue and turn; latency runs from the turn that queued a command to the turn that saw its completion.

mod lane;

use crate::address::Target;
use crate::report::{Interval, Report};
use crate::session::{Session, SessionError, SessionOptions};
use crate::socket;
use crate::verify::{Map, UNITS_MAX};
use lane::{Lane, Work};
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time between two looks at the admin queue and at overdue commands.
const SERVICE_INTERVAL: Duration = Duration::from_millis(10);

/// Time an I/O may take before its connection is given up; hosts allow 30 s (Linux `io_timeout`).
const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// First and longest pause between two attempts to reconnect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Order of addresses and kind of I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Reads at random addresses.
    RandRead,
    /// Writes at random addresses.
    RandWrite,
    /// Both at random addresses.
    RandRw,
    /// Reads in order.
    Read,
    /// Writes in order.
    Write,
}

impl Pattern {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::RandRw => "randrw",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// Reads of a hundred I/Os, where `mix` says it for mixed ones.
    pub const fn read_percent(self, mix: u8) -> u8 {
        match self {
            Self::RandRead | Self::Read => 100,
            Self::RandWrite | Self::Write => 0,
            Self::RandRw => mix,
        }
    }

    const fn is_random(self) -> bool {
        match self {
            Self::RandRead | Self::RandWrite | Self::RandRw => true,
            Self::Read | Self::Write => false,
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where.
    pub target: Target,
    /// How to connect; queue counts and buffers are set from the fields below.
    pub session: SessionOptions,
    /// Namespace, the first where `None`.
    pub nsid: Option<u32>,
    /// Order and kind.
    pub pattern: Pattern,
    /// Reads of a hundred I/Os for [`Pattern::RandRw`].
    pub mix: u8,
    /// Bytes per I/O, a multiple of the namespace's block size.
    pub block_len: u32,
    /// Commands outstanding per queue, 1 to 4096.
    pub depth: u32,
    /// I/O queues.
    pub queues: u16,
    /// Measured time.
    pub time: Duration,
    /// Time before it that is not measured.
    pub warmup: Duration,
    /// Bytes of the namespace used, from its start; all where `None`.
    pub range: Option<u64>,
    /// Seed of addresses and, in verify mode, of data.
    pub seed: u64,
    /// Write checkable data, check reads, and read everything written at the end.
    pub verify: bool,
    /// Write nothing; check everything the state file says was acknowledged.
    pub verify_only: bool,
    /// Where what was acknowledged is kept between runs.
    pub state: Option<PathBuf>,
    /// How long to try again after a lost connection; not at all where `None`.
    pub reconnect: Option<Duration>,
    /// Sleep where there is nothing to do; spin otherwise.
    pub sleep: bool,
    /// I/Os a second that all queues together begin, at most what the depth allows; as many as can be where `None`. Latency then
    /// runs from when an I/O was due, so that what waits behind a slow one counts.
    pub rate: Option<NonZeroU32>,
    /// Is told, a line each, what the target grants less of than was asked for; the run goes on with that.
    pub notice: fn(&str),
}

/// Why a run could not be done. Errors of single I/Os are in the report.
#[derive(Debug)]
pub enum LoadError {
    /// No association, or none any more.
    Session(SessionError),
    /// The subsystem has no such namespace.
    NamespaceUnknown,
    /// The block size does not fit the namespace, the range or the controller's largest transfer.
    BlockSizeUnfit,
    /// Verify mode would need to remember too much: use a smaller range or larger blocks.
    RangeTooLarge,
    /// The state file cannot be read or written.
    State(io::Error),
    /// The state file was made for another block size or range.
    StateUnfit,
    /// Commands stayed unanswered for 30 s.
    Overdue,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(error) => error.fmt(f),
            Self::NamespaceUnknown => f.write_str("no such namespace"),
            Self::BlockSizeUnfit => f.write_str(
                "block size is not a multiple of the namespace's, above the largest transfer, or above the range",
            ),
            Self::RangeTooLarge => {
                f.write_str("range too large to verify, use a smaller --range or a larger --block-size")
            }
            Self::State(error) => write!(f, "state file: {error}"),
            Self::StateUnfit => f.write_str("state file is of another block size or range"),
            Self::Overdue => f.write_str("commands unanswered for 30 s"),
        }
    }
}

impl std::error::Error for LoadError {}

impl<E: Into<SessionError>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Session(error.into())
    }
}

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Load, not measured.
    WarmUp,
    /// Load, measured.
    Measure,
    /// What is outstanding comes home.
    Drain,
    /// Everything written is read and checked.
    Check,
    /// Over.
    Done,
}

/// Runs a load to its end.
///
/// # Errors
/// [`LoadError`].
pub fn run(options: LoadOptions) -> Result<Report, LoadError> {
    let mut options = options;
    options.session.io_queues = options.queues;
    options.session.queue_entries = options.depth + 1;
    options.session.buffer_len = options.block_len as usize;
    options.session.placing = options.verify || options.verify_only;
    let mut session = Session::connect(&options.target, options.session.clone())?;
    let mut run = Run::new(&options, &mut session)?;
    loop {
        let lost = match run.drive(&mut session) {
            Ok(()) => break,
            Err(error) => error,
        };
        run.abandon();
        session = run.reconnect(lost)?;
        run.settle_in(&mut session);
    }
    run.save_state()?;
    Ok(run.report())
}

/// A run between its start and its end, over however many associations.
struct Run<'a> {
    options: &'a LoadOptions,
    work: Work,
    lanes: Vec<Lane>,
    phase: Phase,
    phase_began: Instant,
    next_service: Instant,
    measured: Option<Measured>,
    reconnects: u64,
    outage_max: Duration,
    /// System calls of associations that are gone.
    system_calls_past: u64,
}

/// Clocks at the begin of the measured interval.
struct Measured {
    began: Instant,
    cpu_ns: u64,
    system_calls: u64,
}

impl<'a> Run<'a> {
    fn new(options: &'a LoadOptions, session: &mut Session) -> Result<Self, LoadError> {
        let mut work = Work::new(options, session)?;
        work.map = open_map(options, &work)?;
        let now = Instant::now();
        let mut run = Self {
            options,
            work,
            lanes: Vec::new(),
            phase: Phase::WarmUp,
            phase_began: now,
            next_service: now,
            measured: None,
            reconnects: 0,
            outage_max: Duration::ZERO,
            system_calls_past: 0,
        };
        if options.verify_only {
            run.enter(Phase::Check, now, 0);
        }
        run.settle_in(session);
        run.tell_what_is_less();
        Ok(run)
    }

    /// What the run has less of than was asked for.
    fn tell_what_is_less(&self) {
        let options = self.options;
        let tell = |flag: &str, asked: u64, what: &str, got: u64| {
            if got < asked {
                (options.notice)(&format!(
                    "{flag} {asked}: {what} {got}, and so many are used"
                ));
            }
        };
        let depth = self.lanes.first().map_or(0, Lane::depth);
        let queues = self.lanes.len() as u64;
        tell(
            "--queues",
            options.queues.into(),
            "the target grants",
            queues,
        );
        tell(
            "--depth",
            options.depth.into(),
            "queues of the target hold",
            depth.into(),
        );
        if let Some(range) = options.range {
            let whole = self.work.namespace_bytes;
            tell("--range", range, "bytes of the namespace are", whole);
        }
    }

    /// Makes a lane per queue of a new association.
    fn settle_in(&mut self, session: &mut Session) {
        let depth = session
            .initiator()
            .controller()
            .queue_entries
            .min(self.options.depth);
        let queues = session.io().len() as u64;
        let units = self.work.units;
        self.lanes = (0..queues)
            .map(|index| Lane::new(depth, units * index / queues))
            .collect();
        for connection in session.io() {
            for cid in 0..depth as u16 {
                self.work.fill_noise(connection.buffer_mut(cid));
            }
        }
    }

    /// Turns until the run is over or the association is.
    fn drive(&mut self, session: &mut Session) -> Result<(), LoadError> {
        let mut now = Instant::now();
        while self.phase != Phase::Done {
            let mut is_idle = true;
            for (lane, connection) in self.lanes.iter_mut().zip(session.io()) {
                let received = connection.receive(now, &mut lane.events)?;
                now = Instant::now();
                is_idle &= !received;
                lane.turn(now, self.phase, connection, &mut self.work);
                connection.send(&mut lane.events)?;
            }
            if now >= self.next_service {
                self.next_service = now + SERVICE_INTERVAL;
                session.service(now)?;
                if self
                    .lanes
                    .iter()
                    .any(|lane| lane.is_overdue(now, IO_TIMEOUT))
                {
                    return Err(LoadError::Overdue);
                }
                while session.poll_event().is_some() {}
            }
            self.step_phase(now, session);
            if is_idle && self.options.sleep && self.lanes.iter().all(|l| l.events.is_empty()) {
                // What is due and was not begun has no free slot: a completion makes one.
                let due = self.work.pace.as_ref().map(|pace| pace.due(now));
                let due = due.filter(|due| !due.is_zero()).unwrap_or(SERVICE_INTERVAL);
                session.sleep(due.min(SERVICE_INTERVAL))?;
                now = Instant::now();
            }
        }
        Ok(())
    }

    /// Moves on when a phase is over.
    fn step_phase(&mut self, now: Instant, session: &mut Session) {
        let elapsed = now - self.phase_began;
        let is_still = self.lanes.iter().all(|lane| lane.in_flight() == 0);
        let next = match self.phase {
            Phase::WarmUp if elapsed >= self.options.warmup => Phase::Measure,
            Phase::Measure if elapsed >= self.options.time => Phase::Drain,
            Phase::Drain if is_still && self.options.verify => Phase::Check,
            Phase::Drain if is_still => Phase::Done,
            Phase::Check if is_still && self.work.is_checked() => Phase::Done,
            Phase::WarmUp | Phase::Measure | Phase::Drain | Phase::Check | Phase::Done => return,
        };
        let calls = session.io().iter().map(|c| c.system_calls()).sum::<u64>();
        self.enter(next, now, self.system_calls_past + calls);
    }

    fn enter(&mut self, phase: Phase, now: Instant, system_calls: u64) {
        let work = &mut self.work;
        match phase {
            Phase::Measure => {
                work.interval = Interval::default();
                self.measured = Some(Measured {
                    began: now,
                    cpu_ns: socket::process_cpu_ns(),
                    system_calls,
                });
            }
            Phase::Drain => {
                if let Some(measured) = &self.measured {
                    work.interval.length = now - measured.began;
                    work.interval.cpu_ns = socket::process_cpu_ns() - measured.cpu_ns;
                    work.interval.system_calls = system_calls - measured.system_calls;
                }
            }
            Phase::WarmUp | Phase::Check | Phase::Done => {}
        }
        self.phase = phase;
        self.phase_began = now;
    }

    /// The association is lost: what was in flight is uncertain.
    fn abandon(&mut self) {
        for lane in &mut self.lanes {
            lane.abandon(&mut self.work);
        }
    }

    fn reconnect(&mut self, lost: LoadError) -> Result<Session, LoadError> {
        let Some(patience) = self.options.reconnect else {
            self.save_state()?;
            return Err(lost);
        };
        let began = Instant::now();
        let mut pause = BACK_OFF.0;
        loop {
            match Session::connect(&self.options.target, self.options.session.clone()) {
                Ok(session) => {
                    self.reconnects += 1;
                    self.outage_max = self.outage_max.max(began.elapsed());
                    return Ok(session);
                }
                Err(error) if began.elapsed() + pause > patience => {
                    self.save_state()?;
                    return Err(error.into());
                }
                Err(_) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    fn save_state(&self) -> Result<(), LoadError> {
        match (&self.options.state, &self.work.map) {
            (Some(path), Some(map)) if !self.options.verify_only => {
                map.save(path).map_err(LoadError::State)
            }
            _ => Ok(()),
        }
    }

    fn report(&self) -> Report {
        let options = self.options;
        let mut workload = options.pattern.name().to_owned();
        if options.pattern == Pattern::RandRw {
            workload.push_str(&format!(" {}% reads", options.mix));
        }
        if options.verify {
            workload.push_str(", verified");
        }
        if options.verify_only {
            workload = "verify only".to_owned();
        }
        let depth = self.lanes.first().map_or(0, Lane::depth);
        let work = &self.work;
        let mut report = Report::new(
            workload,
            options.block_len.into(),
            depth,
            self.lanes.len() as u32,
            &work.interval,
        );
        report.errors = work.errors;
        report.first_error = work.first_error.map(|cqe| {
            let (opcode, cqe) = cqe;
            format!("opcode {opcode:#04x}, status {}", cqe.status)
        });
        report.reconnects = self.reconnects;
        report.outage_seconds_max = self.outage_max.as_secs_f64();
        report.verified = work.verified;
        report.corruptions = work.corruptions;
        report.first_corruption = work.first_corruption.map(|found| found.to_string());
        report
    }
}

/// The memory of acknowledged writes, from the state file if there is one.
fn open_map(options: &LoadOptions, work: &Work) -> Result<Option<Map>, LoadError> {
    if !options.verify && !options.verify_only {
        return Ok(None);
    }
    if work.units > UNITS_MAX {
        return Err(LoadError::RangeTooLarge);
    }
    let (block_len, unit_blocks) = (work.namespace_block_len, u64::from(work.unit_blocks));
    match &options.state {
        Some(path) if options.verify_only || path.exists() => {
            let map = Map::load(path).map_err(LoadError::State)?;
            if !map.fits(block_len, unit_blocks, work.units) {
                return Err(LoadError::StateUnfit);
            }
            Ok(Some(map))
        }
        Some(_) | None => Ok(Some(Map::new(
            options.seed,
            block_len,
            unit_blocks,
            work.units,
        ))),
    }
}
