//! Reactor threads: starting, calling and joining them.

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use block::DeviceConfig;
use nvme_target::{ControllerEvent, ControllerEventKind, TargetConfig};
use plugin_host::PluginHost;
use reactor::{DriverKind, Handle, Reactor, ReactorConfig, ReactorStats as Counters};
use sdk::fabric::{FabricDriver, FabricSettings};
use sdk::services::Services;
use tokio::sync::oneshot;
use transport_nvmf_tcp::TcpConfig;

use super::directory::Directory;
use super::persist::{self, ReservationStore};
use crate::control::dataplane::{Problem, ProblemKind, ReactorStats};
use crate::shard::{Message, PersistJob, Shard, ShardFigures, Surroundings};

/// How long a reactor may take to answer a call; it answers between two turns, so this means it is stuck.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Exit status after a panic of a reactor, that of a panic in `main`.
const EXIT_PANIC: i32 = 101;
/// Connections the kernel queues before they are accepted.
const LISTEN_BACKLOG: u32 = 1024;

/// The transport hosts come by.
const TRANSPORT: &str = "tcp";

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
    /// Limits of connections.
    pub tcp: TcpConfig,
    /// Deadlines of devices.
    pub device: DeviceConfig,
}

/// The reactor threads.
pub(super) struct Shards {
    running: Vec<Running>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listeners: Vec<SocketAddr>,
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
        plugins: &PluginHost,
    ) -> Result<Self, Problem> {
        let internal = |what: &str, error: &dyn std::fmt::Display| {
            Problem::new(ProblemKind::Internal, format!("{what}: {error}"))
        };
        let (persist_handles, receiver) = channel();
        let persist = persist::start(reservations, receiver)
            .map_err(|error| internal("the reservation thread does not start", &error))?;
        let Some(transport) = plugins.fabric(TRANSPORT) else {
            let detail = format!("no plugin brings the transport '{TRANSPORT}'");
            return Err(Problem::new(ProblemKind::Internal, detail));
        };
        let services = plugins.services("engine");
        let mut started = Vec::new();
        let mut threads = Vec::new();
        let mut listeners = Vec::new();
        for (index, cpu) in config.cpus.iter().copied().enumerate() {
            let (answer, answered) = channel();
            let seat = Seat {
                index,
                cpu,
                config: config.clone(),
                directory: Arc::clone(&directory),
                persist: persist.clone(),
                transport: Arc::clone(&transport),
                services: Arc::clone(&services),
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
        let _ = persist_handles.send(handles);
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
    persist: SyncSender<PersistJob>,
    transport: Arc<dyn FabricDriver>,
    services: Arc<dyn Services>,
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

    fn sit(self) -> Result<(Shard, Started), Problem> {
        let mut config = self.config.reactor.clone();
        config.cpu = self.cpu;
        let arena_bytes = config.arena_bytes;
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
        let (mut ids, mut listeners) = (Vec::new(), Vec::new());
        if self.index == 0 {
            for address in &self.config.nvmf {
                let (id, bound) = reactor.listen(*address, LISTEN_BACKLOG).map_err(|error| {
                    Problem::new(
                        ProblemKind::Busy,
                        format!("NVMe/TCP address {address}: {error}"),
                    )
                })?;
                ids.push(id);
                listeners.push(bound);
            }
        }
        let (counters, driver) = (reactor.stats(), reactor.driver());
        let settings = fabric_settings(&self.config.tcp);
        let fabric = self.transport.open(&settings, &self.services);
        let fabric = fabric.map_err(|error| {
            Problem::new(
                ProblemKind::Internal,
                format!("transport '{TRANSPORT}': {error}"),
            )
        })?;
        let (handles, handles_receiver) = channel();
        let surroundings = Box::new(Neighbours {
            directory: self.directory,
            persist: self.persist,
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
            arena_bytes,
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

/// Limits of connections, in the words every transport knows.
fn fabric_settings(tcp: &TcpConfig) -> FabricSettings {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    FabricSettings {
        connections_max: number(tcp.connections_max),
        in_capsule_bytes: tcp.in_capsule_bytes,
        transfer_bytes_max: tcp.transfer_bytes_max,
        queue_depth: number(tcp.queue_depth),
        header_digest: tcp.header_digest,
        data_digest: tcp.data_digest,
        handshake_timeout: tcp.handshake_timeout,
    }
}

/// The rest of the engine, as one shard sees it.
struct Neighbours {
    directory: Arc<Directory>,
    persist: SyncSender<PersistJob>,
    handles: std::cell::OnceCell<Vec<Handle<Message>>>,
    receiver: std::sync::mpsc::Receiver<Vec<Handle<Message>>>,
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
        self.persist.try_send(job).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(job)
            | std::sync::mpsc::TrySendError::Disconnected(job) => job,
        })
    }

    fn controller_event(&self, event: ControllerEvent) {
        let ControllerEvent {
            kind,
            subnqn,
            hostnqn,
            cntlid,
            ..
        } = event;
        match kind {
            ControllerEventKind::Connected => {
                tracing::info!(%subnqn, %hostnqn, cntlid, "host connected")
            }
            ControllerEventKind::Disconnected => {
                tracing::info!(%subnqn, %hostnqn, cntlid, "host disconnected")
            }
            ControllerEventKind::KeepAliveExpired => {
                tracing::warn!(%subnqn, %hostnqn, cntlid, "host sent no keep alive in time, disconnecting it");
            }
        }
    }
}
