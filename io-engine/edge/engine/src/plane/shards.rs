//! Reactor threads: starting, calling and joining them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use block::DeviceConfig;
use nvme_target::TargetConfig;
use reactor::{
    DriverKind, Handle, ListenError, ListenerId, Reactor, ReactorConfig, ReactorStats as Counters,
};
use tokio::sync::oneshot;
use transport_nvmf_tcp::TcpConfig;

use super::directory::Directory;
use super::persist::{self, ReservationStore};
use super::plugins::Transport;
use crate::control::dataplane::{Problem, ProblemKind, ReactorStats};
use crate::shard::{Message, PersistJob, Shard, ShardFigures, ShardLimits, Surroundings};

/// How long a reactor may take to answer a call; it answers between two turns, so this means it is stuck.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Exit status after a panic of a reactor, that of a panic in `main`.
const EXIT_PANIC: i32 = 101;
/// Connections the kernel queues before they are accepted.
const LISTEN_BACKLOG: u32 = 1024;

/// What the reactors are built from. One reactor is started for each entry of `cpus`.
#[derive(Clone)]
pub struct PlaneConfig {
    /// CPUs to pin reactors to; `None` lets one float. At least one entry.
    pub cpus: Vec<Option<usize>>,
    /// Every reactor; its `cpu` is replaced.
    pub reactor: ReactorConfig,
    /// Addresses to serve NVMe/TCP on; port 0 picks a free one.
    pub nvmf: Vec<SocketAddr>,
    /// Limits and identity of the target.
    pub target: TargetConfig,
    /// Connections one address may have on a reactor, whatever hosts they say they are of, at least 1; one more is closed when
    /// it arrives.
    pub address_connections_max: u32,
    /// Limits of connections.
    pub tcp: TcpConfig,
    /// Deadlines of devices.
    pub device: DeviceConfig,
    /// Where servers of other protocols listen, by protocol (`tcp://ADDRESS:PORT`, `unix:///PATH`).
    pub export_listen: BTreeMap<String, Vec<String>>,
    /// Where plugins may be loaded from while the engine runs.
    pub plugin_directories: Vec<PathBuf>,
}

/// The reactor threads.
pub(super) struct Shards {
    running: Vec<Running>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listeners: Vec<SocketAddr>,
    persist: SyncSender<persist::Job>,
}

struct Running {
    handle: Handle<Message>,
    counters: Arc<Counters>,
    cpu: Option<usize>,
    driver: DriverKind,
}

struct Started {
    handle: Handle<Message>,
    counters: Arc<Counters>,
    driver: DriverKind,
    listeners: Vec<SocketAddr>,
    handles: Sender<Vec<Handle<Message>>>,
}

impl Shards {
    /// Starts one thread a CPU. The first listens; connections move to the home of their subsystem.
    pub(super) fn start(
        config: PlaneConfig,
        directory: Arc<Directory>,
        reservations: Arc<dyn ReservationStore>,
        transport: &Arc<Transport>,
    ) -> Result<Self, Problem> {
        let internal = |what: &str, error: &dyn std::fmt::Display| {
            Problem::new(ProblemKind::Internal, format!("{what}: {error}"))
        };
        let (persist_homes, receiver) = channel();
        let persist = persist::start(reservations, receiver)
            .map_err(|error| internal("the reservation thread does not start", &error))?;
        let mut started = Vec::new();
        let mut threads = Vec::new();
        let mut listeners = Vec::new();
        let mut outcomes = Vec::new();
        for (index, cpu) in config.cpus.iter().copied().enumerate() {
            let (answer, answered) = channel();
            let (sender, persisted) = channel();
            outcomes.push(sender);
            let seat = Seat {
                index,
                cpu,
                config: config.clone(),
                directory: Arc::clone(&directory),
                persist: persist.clone(),
                persisted,
                transport: Arc::clone(transport),
            };
            let thread = std::thread::Builder::new()
                .name(format!("reactor-{index}"))
                .spawn(move || {
                    let _guard = EndWithPanic;
                    seat.run(&answer);
                })
                .map_err(|error| internal("a reactor thread does not start", &error))?;
            threads.push(thread);
            let outcome: Result<Started, Problem> = answered
                .recv()
                .map_err(|_| internal("a reactor", &"ended while starting"))?;
            let mut one = outcome?;
            listeners.append(&mut one.listeners);
            started.push((cpu, one));
        }
        let handles: Vec<Handle<Message>> =
            started.iter().map(|(_, one)| one.handle.clone()).collect();
        for (_, one) in &started {
            // A reactor that is gone already is noticed by the first call.
            let _ = one.handles.send(handles.clone());
        }
        let homes = handles.into_iter().zip(outcomes);
        let homes = homes.map(|(handle, outcomes)| persist::Home { handle, outcomes });
        let _ = persist_homes.send(homes.collect());
        let running = started
            .into_iter()
            .map(|(cpu, one)| Running {
                handle: one.handle,
                counters: one.counters,
                cpu,
                driver: one.driver,
            })
            .collect();
        Ok(Self {
            running,
            threads: Mutex::new(threads),
            listeners,
            persist,
        })
    }

    pub(super) fn count(&self) -> usize {
        self.running.len()
    }

    pub(super) fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// The shard that is home to the fewest of `homes`.
    pub(super) fn least_loaded(&self, homes: impl Iterator<Item = usize>) -> usize {
        let mut loads = vec![0usize; self.count()];
        for home in homes {
            loads[home] += 1;
        }
        loads
            .iter()
            .enumerate()
            .min_by_key(|(_, load)| **load)
            .map_or(0, |(at, _)| at)
    }

    /// Runs `work` on a shard and answers its result.
    pub(super) async fn call<R: Send + 'static>(
        &self,
        shard: usize,
        work: impl FnOnce(&mut Shard) -> R + Send + 'static,
    ) -> Result<R, Problem> {
        let stuck = || {
            let detail = format!(
                "reactor {shard} does not answer; see its log and 'io-engine-client inflight'"
            );
            Problem::new(ProblemKind::Timeout, detail)
        };
        let (answer, answered) = oneshot::channel();
        let mut message: Message = Box::new(move |shard| {
            // A caller that gave up does not want the answer.
            let _ = answer.send(work(shard));
        });
        let deadline = tokio::time::Instant::now() + CALL_TIMEOUT;
        while let Err(full) = self.running[shard].handle.send(message) {
            if self.running[shard].handle.is_gone() {
                return Err(Problem::new(
                    ProblemKind::Internal,
                    format!("reactor {shard} has stopped"),
                ));
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(stuck());
            }
            message = full.0;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Problem::new(
                ProblemKind::Internal,
                format!("reactor {shard} has stopped"),
            )),
            Err(_) => Err(stuck()),
        }
    }

    /// Waits until every reservation record that `shard` has asked for is stored, or was refused: one of a namespace that is
    /// gone would otherwise be written after its removal from the store, and believed of the next of that name.
    pub(super) async fn persisted(&self, shard: usize) -> Result<(), Problem> {
        // A record asked for in the turn of the removal is on its way when the turn is over.
        self.call(shard, |_| ()).await?;
        let deadline = tokio::time::Instant::now() + CALL_TIMEOUT;
        let (sender, passed) = oneshot::channel();
        let mut barrier = persist::Job::Barrier(sender);
        while let Err(TrySendError::Full(job)) = self.persist.try_send(barrier) {
            if tokio::time::Instant::now() >= deadline {
                return Err(store_stuck());
            }
            barrier = job;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // A thread that has ended writes nothing.
        tokio::time::timeout_at(deadline, passed)
            .await
            .map(|_| ())
            .map_err(|_| store_stuck())
    }

    /// Counters of one reactor.
    pub(super) fn reactor_stats(
        &self,
        shard: usize,
        figures: Option<&ShardFigures>,
    ) -> ReactorStats {
        use std::sync::atomic::Ordering::Relaxed;
        let running = &self.running[shard];
        let counters = &running.counters;
        ReactorStats {
            cpu: running.cpu.map(|cpu| cpu as u32),
            driver: running.driver.to_string(),
            busy_ns: counters.busy_ns.load(Relaxed),
            spin_ns: counters.spin_ns.load(Relaxed),
            sleep_ns: counters.sleep_ns.load(Relaxed),
            connections: figures.map_or(0, |figures| figures.connections),
            inflight: figures.map_or(0, |figures| figures.inflight),
            arena_bytes: counters.arena_bytes.load(Relaxed),
            arena_used_bytes: counters.arena_used_bytes.load(Relaxed),
            arena_quarantined_bytes: counters.overdue_bytes.load(Relaxed),
            memory_waits: figures.map_or(0, |figures| figures.memory_waits),
            memory_waiting: figures.map_or(0, |figures| figures.memory_waiting),
        }
    }

    /// Waits for every thread to end.
    pub(super) async fn join(&self) {
        let threads = std::mem::take(
            &mut *self
                .threads
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        );
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a reactor thread panicked");
                }
            }
        });
        let _ = joined.await;
    }
}

fn store_stuck() -> Problem {
    let detail =
        "the state store does not answer; see whether the disk of the state directory works";
    Problem::new(ProblemKind::Timeout, detail)
}

/// Ends the process when its thread panics: the engine would go on without serving, and nobody would restart it.
struct EndWithPanic;

impl Drop for EndWithPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "a reactor thread panicked; ending the process, so that it is restarted"
            );
            std::process::exit(EXIT_PANIC);
        }
    }
}

/// One thread's place.
struct Seat {
    index: usize,
    cpu: Option<usize>,
    config: PlaneConfig,
    directory: Arc<Directory>,
    persist: SyncSender<persist::Job>,
    persisted: Receiver<persist::Outcome>,
    transport: Arc<Transport>,
}

impl Seat {
    fn run(self, answer: &Sender<Result<Started, Problem>>) {
        match self.sit() {
            Ok((shard, started)) => {
                if answer.send(Ok(started)).is_ok() {
                    shard.run();
                }
            }
            Err(problem) => {
                // Nobody waiting means the engine gave up starting.
                let _ = answer.send(Err(problem));
            }
        }
    }

    fn limits(&self) -> ShardLimits {
        ShardLimits {
            arena_bytes: self.config.reactor.arena_bytes,
            address_connections_max: self.config.address_connections_max,
        }
    }

    /// Listens where the first reactor does.
    fn listen(
        &self,
        reactor: &mut Reactor<Message>,
    ) -> Result<(Vec<ListenerId>, Vec<SocketAddr>), Problem> {
        let (mut ids, mut listeners) = (Vec::new(), Vec::new());
        if self.index == 0 {
            for address in &self.config.nvmf {
                let (id, bound) = reactor.listen(*address, LISTEN_BACKLOG).map_err(|error| {
                    let kind = match &error {
                        ListenError::InUse(_) => ProblemKind::Busy,
                        ListenError::NotAvailable(_)
                        | ListenError::Denied(_)
                        | ListenError::TooMany
                        | ListenError::System(..) => ProblemKind::Internal,
                    };
                    let source = std::error::Error::source(&error)
                        .map(|source| format!(": {source}"))
                        .unwrap_or_default();
                    Problem::new(kind, format!("NVMe/TCP address {address}: {error}{source}"))
                })?;
                ids.push(id);
                listeners.push(bound);
            }
        }
        Ok((ids, listeners))
    }

    fn sit(self) -> Result<(Shard, Started), Problem> {
        let mut config = self.config.reactor.clone();
        config.cpu = self.cpu;
        let limits = self.limits();
        let (mut reactor, handle): (Reactor<Message>, _) =
            Reactor::new(config).map_err(|error| {
                let source = std::error::Error::source(&error)
                    .map(|source| format!(": {source}"))
                    .unwrap_or_default();
                Problem::new(
                    ProblemKind::Internal,
                    format!("reactor {}: {error}{source}", self.index),
                )
            })?;
        let (ids, listeners) = self.listen(&mut reactor)?;
        let (counters, driver) = (reactor.stats(), reactor.driver());
        let fabric = self.transport.open(&self.config.tcp)?;
        let (handles, handles_receiver) = channel();
        let surroundings = Box::new(Neighbours {
            directory: self.directory,
            persist: self.persist,
            persisted: self.persisted,
            handles: std::cell::OnceCell::new(),
            receiver: handles_receiver,
        });
        let seed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64)
            ^ (self.index as u64) << 56;
        let mut shard = Shard::new(
            self.index,
            reactor,
            fabric,
            self.config.target.clone(),
            limits,
            surroundings,
            seed,
        )
        .map_err(|error| {
            Problem::new(
                ProblemKind::InvalidArgument,
                format!("NVMe target limits: {error}"),
            )
        })?;
        shard.listens_on(ids);
        Ok((
            shard,
            Started {
                handle,
                counters,
                driver,
                listeners,
                handles,
            },
        ))
    }
}

/// The rest of the engine, as one shard sees it.
struct Neighbours {
    directory: Arc<Directory>,
    persist: SyncSender<persist::Job>,
    persisted: Receiver<persist::Outcome>,
    handles: std::cell::OnceCell<Vec<Handle<Message>>>,
    receiver: Receiver<Vec<Handle<Message>>>,
}

impl Surroundings for Neighbours {
    fn route(&self, subnqn: &str) -> Option<usize> {
        self.directory.home(subnqn)
    }

    fn send(&self, shard: usize, message: Message) -> Result<(), Message> {
        if self.handles.get().is_none()
            && let Ok(handles) = self.receiver.try_recv()
        {
            // Set once: the list is sent once.
            let _ = self.handles.set(handles);
        }
        match self.handles.get().and_then(|handles| handles.get(shard)) {
            Some(handle) => handle.send(message).map_err(|full| full.0),
            None => Err(message),
        }
    }

    fn persist(&self, job: PersistJob) -> Result<(), PersistJob> {
        let given_back = match self.persist.try_send(persist::Job::Save(job)) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
        };
        match given_back {
            persist::Job::Save(job) => Err(job),
            persist::Job::Barrier(_) => Ok(()),
        }
    }

    fn poll_persisted(&self) -> Option<(nvme_target::PersistToken, bool)> {
        self.persisted.try_recv().ok()
    }
}
