//! One reactor's share of the engine: its connections, its subsystems, its devices, its parts of other servers.
//!
//! Does: carry values between the fabric, the target core, the devices and the reactor, in the order they ask for it.
//! Does not: decide anything about NVMe (the target), TCP (the fabric) or devices (block).
//!
//! Invariants:
//! - Everything here is touched by one thread. Others reach it by a message, which is a closure run between turns.
//! - A command's buffers are reserved before its first step and freed with its answer.
//! - Waiting commands are served in the order they asked, except that a host over its share of the arena is passed by.

mod admission;
mod commands;
mod connections;
mod control;
mod devices;
mod exports;
mod logs;
mod origins;
mod replies;

use std::time::Instant;

use nvme_target::{Target, TargetConfig};
use reactor::{Event, ListenerId, LogLimit, Reactor};
use sdk::fabric::{Fabric, FabricEvent};
use sdk::host::Host;

pub(crate) use commands::WaitFor;
pub(crate) use control::{
    ListedController, ListedIo, ShardError, ShardFigures, SubsystemSetup, Unsettled, Whereabouts,
    Writers,
};
pub(crate) use devices::{DeviceSetup, Placed};
pub(crate) use exports::ServerKey;

use admission::Admission;
use commands::Commands;
use connections::Connections;
use devices::Devices;
use exports::Exports;

/// A closure run on a shard's thread between two turns.
pub(crate) type Message = Box<dyn FnOnce(&mut Shard) + Send>;

/// What a shard asks of the rest of the engine. Calls come from the reactor's thread and must not block.
pub(crate) trait Surroundings {
    /// The shard that is home to `subnqn`, if it is served.
    fn route(&self, subnqn: &str) -> Option<usize>;
    /// Sends a message to another shard; gives it back if its mailbox is full.
    fn send(&self, shard: usize, message: Message) -> Result<(), Message>;
    /// Makes a reservation record durable, then tells the shard the outcome by [`Surroundings::poll_persisted`]; gives the
    /// record back if too many wait.
    fn persist(&self, record: PersistJob) -> Result<(), PersistJob>;
    /// What became of a record given to [`Surroundings::persist`]: its token, and whether it is durable. A message is sent
    /// when there is one; it is to be asked after every message, until it has none.
    fn poll_persisted(&self) -> Option<(nvme_target::PersistToken, bool)>;
}

/// A reservation record on its way to the store.
pub(crate) struct PersistJob {
    /// Where the outcome goes.
    pub(crate) shard: usize,
    /// Subsystem NQN.
    pub(crate) nqn: String,
    /// Namespace id.
    pub(crate) nsid: u32,
    /// The record.
    pub(crate) bytes: Vec<u8>,
    /// Names the request to the target.
    pub(crate) token: nvme_target::PersistToken,
}

/// What hosts of one shard share, besides what the target limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShardLimits {
    /// Bytes of the arena.
    pub(crate) arena_bytes: usize,
    /// Connections one address may have.
    pub(crate) address_connections_max: u32,
}

/// See the module documentation.
pub(crate) struct Shard {
    index: usize,
    reactor: Reactor<Message>,
    fabric: Box<dyn Fabric>,
    target: Target,
    connections: Connections,
    commands: Commands,
    admission: Admission,
    /// Connections one address may have before their Connect.
    strangers_max: u32,
    /// Connections one address may have.
    address_connections_max: u32,
    log: LogLimit,
    /// Replies of the target that hosts have not read.
    replies: replies::Replies,
    devices: Devices,
    /// Of operations that outlive their commands.
    origins: origins::Origins,
    exports: Exports,
    control: control::Control,
    surroundings: Box<dyn Surroundings>,
    listeners: Vec<ListenerId>,
    stopping: bool,
}

impl Shard {
    /// A shard on the calling thread.
    ///
    /// # Errors
    /// When the target refuses `config`.
    pub(crate) fn new(
        index: usize,
        reactor: Reactor<Message>,
        fabric: Box<dyn Fabric>,
        config: TargetConfig,
        limits: ShardLimits,
        surroundings: Box<dyn Surroundings>,
        seed: u64,
    ) -> Result<Self, nvme_target::ConfigError> {
        let commands_max = config.commands_max as usize;
        let commands = Commands::new(commands_max);
        let strangers_max = config.host_qpairs_max;
        Ok(Self {
            index,
            reactor,
            fabric,
            target: Target::new(config, Instant::now(), seed)?,
            connections: Connections::default(),
            commands,
            admission: Admission::new(limits.arena_bytes),
            strangers_max,
            address_connections_max: limits.address_connections_max,
            log: LogLimit::new(logs::LINES_PER_SECOND),
            replies: replies::Replies::default(),
            devices: Devices::default(),
            origins: origins::Origins::default(),
            exports: Exports::new(commands_max),
            control: control::Control::default(),
            surroundings,
            listeners: Vec::new(),
            stopping: false,
        })
    }

    /// The listeners this shard accepts from, which it closes when it is quiesced.
    pub(crate) fn listens_on(&mut self, listeners: Vec<ListenerId>) {
        self.listeners = listeners;
    }

    /// Serves until told to stop.
    pub(crate) fn run(mut self) {
        let mut events = Vec::new();
        while !self.stopping {
            let until = self.next_timeout();
            self.reactor.turn(until, &mut events);
            for event in events.drain(..) {
                self.handle_event(event);
            }
            self.handle_timeouts();
            self.devices.handle_turn(&mut self.reactor);
            self.pump();
            self.flush();
            // Flushing frees buffers and resumes connections, which may have answers to send in turn.
            while self.pump() {
                self.flush();
            }
            let begun = self.reactor.now();
            self.devices.end_turn(|| begun.elapsed());
        }
        self.close_parts();
        self.devices.close_all(&mut self.reactor);
    }

    fn flush(&mut self) {
        self.fabric.flush(&mut self.reactor);
        self.flush_parts();
    }

    fn next_timeout(&self) -> Option<Instant> {
        if self.devices.wants_turn() {
            return Some(self.reactor.now());
        }
        // A connection or a command that waits for memory is tried again on the next turn that frees some; every such
        // turn has an event of its own (a completion, a sent buffer), so waiting alone needs no timer.
        [
            self.target.poll_timeout(),
            self.fabric.poll_timeout(),
            self.devices.poll_timeout(),
            self.exports.poll_timeout(),
            self.log.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn handle_event(&mut self, event: Event<Message>) {
        match event {
            Event::Accepted {
                stream,
                local,
                peer,
                ..
            } => self.handle_accepted(stream, local, peer),
            Event::Arrived {
                owner,
                listener,
                stream,
                peer,
            } => self.handle_arrived(owner, listener, stream, peer),
            Event::Readable(stream) => self.handle_readable(stream),
            Event::Writable(stream) => self.handle_writable(stream),
            Event::FileDone { owner, done } => {
                self.devices
                    .handle_file_done(&mut self.reactor, owner, done)
            }
            Event::Wake(owner) => self.devices.handle_wake(&mut self.reactor, owner),
            Event::Message(message) => {
                message(self);
                self.take_persisted();
            }
        }
    }

    fn handle_timeouts(&mut self) {
        let now = self.reactor.now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.target.poll_timeout()) {
            self.target.handle_timeout(now);
        }
        if due(self.fabric.poll_timeout()) {
            self.fabric.handle_timeout(&mut self.reactor);
        }
        if due(self.devices.poll_timeout()) {
            self.devices.handle_timeout(now);
        }
        if due(self.exports.poll_timeout()) {
            self.handle_part_timeouts(now);
        }
        if due(self.log.poll_timeout()) {
            self.log_summaries();
        }
    }

    /// Carries values round until nobody has anything to say. Tells whether anybody had.
    fn pump(&mut self) -> bool {
        let mut any = false;
        loop {
            self.take_sent();
            let mut moved = self.retry_waiting();
            while let Some(event) = self.fabric.poll_event() {
                self.handle_fabric_event(event);
                moved = true;
            }
            while let Some((tag, result)) = self.devices.poll_completion(&mut self.reactor) {
                let expired = self.devices.take_expired();
                if !expired.is_empty() {
                    self.keep_origins(expired);
                }
                self.finish_io(tag, result);
                moved = true;
            }
            while let Some(output) = self.target.poll_output() {
                self.perform(output);
                moved = true;
            }
            moved |= self.pump_parts();
            if !moved {
                return any;
            }
            any = true;
        }
    }

    fn handle_fabric_event(&mut self, event: FabricEvent) {
        match event {
            FabricEvent::Capsule {
                conn,
                sqe,
                data,
                data_ok,
            } => self.handle_capsule(conn, &sqe, data, data_ok),
            FabricEvent::Fetched {
                conn: _,
                token,
                buf,
                data_ok,
            } => self.handle_fetched(token, buf, data_ok),
            FabricEvent::Connected { conn, local, .. } => {
                // A connection without room is closed there.
                let _ = self.handle_connected(conn, local);
            }
            FabricEvent::Closed { conn, reason } => self.handle_closed(conn, reason),
        }
    }
}
