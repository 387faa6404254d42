//! Starting and stopping, in order.
//!
//! Start: state store (exclusive) → control listeners → reactors → devices and subsystems → gRPC and metrics → ready.
//! Stop: no further calls → hosts disconnected, device operations finished → store closed. SIGTERM, SIGHUP (unless the
//! engine was started with SIGHUP ignored, as by nohup) and SIGINT begin it. It takes [`CALL_DRAIN`] and the drain of the
//! devices at most, so nothing needs to hurry it: further SIGTERMs and SIGHUPs, which service managers and closing terminals
//! send in pairs, are ignored. A person who will not wait presses Ctrl-C again: a
//! SIGINT that comes [`SECOND_SIGNAL_MIN`] after the first signal, or later, ends the process at once, as a crash would.

use std::io::Write;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::control::dataplane::{DataPlane, ProblemKind};
use engine::control::{Engine, Options};
use engine::plane::{Plane, PlaneConfig, ReservationStore, too_few_descriptors};
use engine::store::{Store, StoreError};
use engine_config::{Config, Environment, ListenAddress};
use plugin_host::PluginHost;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{Fatal, VERSION, holder, metrics_server, notify, plugins};

/// Threads of the control side.
const CONTROL_THREADS: usize = 2;
/// Calls being served when the stop begins have this long to end.
const CALL_DRAIN: Duration = Duration::from_secs(5);
/// A SIGINT sooner than this after the first signal is taken for the same key press.
const SECOND_SIGNAL_MIN: Duration = Duration::from_secs(1);
/// Pause between two looks for what an operator should be warned about.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Runs the engine until a signal stops it.
pub(crate) fn run(config: &Config, environment: &Environment) -> Result<ExitCode, Fatal> {
    let descriptors = raise_descriptor_limit();
    let reactors = config.reactors.cpus.as_slice().len();
    if let Some(problem) = descriptors.and_then(|limit| too_few_descriptors(limit, reactors)) {
        return Err(Fatal::Other(problem));
    }
    if let Some(hostname) = &config.unfit_hostname {
        tracing::warn!(
            %hostname, node = config.node_name.as_str(),
            fix = "give a name of letters, digits, '-', '_' and '.' with -N or node_name",
            "the host name is no node name, and this engine has the name of any"
        );
    }
    let store = Store::open(&config.state_dir).map_err(|error| store_failed(config, &error))?;
    let runtime = control_runtime(config, environment)?;
    let outcome = runtime.block_on(serve(config, environment, Arc::new(store), descriptors));
    // A call that hangs in a device must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// A directory that cannot be used is a wrong setting; what is in one that can be is not.
fn store_failed(config: &Config, error: &StoreError) -> Fatal {
    match error {
        StoreError::Unusable { .. } => {
            Fatal::Config(config.bad_value(&config.state_dir_origin, error.to_string()))
        }
        StoreError::Held { .. }
        | StoreError::Database { .. }
        | StoreError::NotOurs { .. }
        | StoreError::Damaged { .. } => Fatal::Other(error.to_string()),
    }
}

async fn serve(
    config: &Config,
    environment: &Environment,
    store: Arc<Store>,
    descriptors: Option<u64>,
) -> Result<ExitCode, Fatal> {
    let mut signals = Signals::listen()?;
    let grpc = listen(config, &config.grpc, "--grpc")?;
    let metrics = config.metrics.as_ref();
    let metrics = metrics.map(|address| listen(config, address, "--metrics"));
    let metrics = metrics.transpose()?;
    for address in &config.nvmf.listen {
        // The reactors listen themselves; asked here, the line can name the setting.
        drop(try_listen(config, address, "--nvmf")?);
    }
    let reservations: Arc<dyn ReservationStore> = Arc::<Store>::clone(&store);
    let plugins = plugins::start(config, environment)?;
    let plane = start_plane(config, descriptors, reservations, &plugins)?;
    let data_plane: Arc<dyn DataPlane> = Arc::<Plane>::clone(&plane);
    let engine = Engine::start(Arc::clone(&store), data_plane, options(config)).await;
    let engine = engine.map_err(|error| Fatal::Other(error.to_string()))?;

    let grpc_address = address_of(&grpc)?;
    let metrics_address = metrics.as_ref().map(address_of).transpose()?;
    let (stop, stopped) = watch::channel(false);
    let mut grpc = tokio::spawn(engine_grpc::serve(
        Arc::clone(&engine),
        grpc,
        until(stopped.clone()),
    ));
    let metrics = metrics.map(|listener| {
        tokio::spawn(metrics_server::serve(
            Arc::clone(&engine),
            listener,
            until(stopped),
        ))
    });
    let warnings = tokio::spawn(look_for_warnings(Arc::clone(&engine)));
    announce(config, grpc_address, &engine.listening(), metrics_address);
    notify::notify(environment.notify_socket.as_deref(), "READY=1");

    let failed = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            None
        }
        ended = &mut grpc => Some(match ended {
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(())) | Err(_) => "gRPC server: ended by itself; see the log".to_owned(),
        }),
    };
    notify::notify(environment.notify_socket.as_deref(), "STOPPING=1");
    signals.exit_on_second_interrupt();
    // Fails only if the servers are gone already.
    let _ = stop.send(true);
    if failed.is_none() && tokio::time::timeout(CALL_DRAIN, grpc).await.is_err() {
        tracing::warn!("calls did not end in time and are cut off");
    }
    warnings.abort();
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    plane.stop().await;
    drop(engine);
    tracing::info!("stopped");
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some(text) => Err(Fatal::Other(text)),
    }
}

fn start_plane(
    config: &Config,
    descriptors: Option<u64>,
    reservations: Arc<dyn ReservationStore>,
    plugins: &PluginHost,
) -> Result<Arc<Plane>, Fatal> {
    let reactors = PlaneConfig::new(config, VERSION).within_descriptors(descriptors);
    let plane = Plane::start_from(reactors, reservations, plugins);
    plane.map_err(|problem| reactors_failed(config, &problem))
}

fn options(config: &Config) -> Options {
    Options {
        node_name: config.node_name.as_str().to_owned(),
        version: VERSION.to_owned(),
        advertise: config.nvmf.advertise,
        open_deadline: config.io.device_deadline(),
        declared: config.devices.clone(),
    }
}

/// Has devices looked at now and then; a device logs what it finds itself.
async fn look_for_warnings(engine: Arc<Engine>) {
    loop {
        tokio::time::sleep(WARNING_INTERVAL).await;
        engine.device_warnings().await;
    }
}

/// The one line on standard output.
fn announce(config: &Config, grpc: SocketAddr, nvmf: &[SocketAddr], metrics: Option<SocketAddr>) {
    let list: Vec<String> = nvmf.iter().map(SocketAddr::to_string).collect();
    let list = list.join(",");
    let mut line = format!("ready grpc={grpc} nvmf={list}");
    if let Some(metrics) = metrics {
        line.push_str(&format!(" metrics={metrics}"));
    }
    let mut stdout = std::io::stdout().lock();
    let printed = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if let Err(error) = printed {
        tracing::warn!(%error, "standard output is closed");
    }
    let state_dir = config.state_dir.display();
    tracing::info!(version = VERSION, node = config.node_name.as_str(), %grpc, nvmf = %list, metrics = metrics.map(tracing::field::display), %state_dir, "ready");
}

fn reactors_failed(config: &Config, problem: &engine::control::dataplane::Problem) -> Fatal {
    match (problem.kind(), config.nvmf.listen.first()) {
        (ProblemKind::Busy, Some(address)) => {
            let in_use = std::io::Error::from(std::io::ErrorKind::AddrInUse);
            let holder = holder::of(address.address);
            Fatal::Config(config.address_error(address, "--nvmf", &in_use, holder.as_deref()))
        }
        _ => Fatal::Other(problem.to_string()),
    }
}

fn try_listen(config: &Config, listen: &ListenAddress, flag: &str) -> Result<StdListener, Fatal> {
    StdListener::bind(listen.address).map_err(|error| {
        let holder = holder::of(listen.address);
        Fatal::Config(config.address_error(listen, flag, &error, holder.as_deref()))
    })
}

fn listen(config: &Config, listen: &ListenAddress, flag: &str) -> Result<TcpListener, Fatal> {
    let listener = try_listen(config, listen, flag)?;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener));
    listener.map_err(|error| Fatal::Other(format!("{flag}: {error}")))
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, Fatal> {
    listener
        .local_addr()
        .map_err(|error| Fatal::Other(format!("address of a listener: {error}")))
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// A descriptor a connection and a file: the soft limit is raised to the hard one, as a daemon should by itself. Answers what
/// holds then; `None` is no limit.
fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = ?limit.current, "the limit of open files could not be raised");
        return limit.current;
    }
    limit.maximum
}

/// The control side's threads, kept off the reactors' CPUs where there are others.
fn control_runtime(config: &Config, environment: &Environment) -> Result<Runtime, Fatal> {
    let reactors = config.reactors.cpus.as_slice();
    let mut others = CpuSet::new();
    for cpu in environment
        .cpus
        .iter()
        .filter(|cpu| !reactors.contains(cpu))
    {
        others.set(*cpu as usize);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all();
    if others.count() > 0 {
        builder.on_thread_start(move || {
            // Where the system refuses, the threads share the reactors' CPUs; slower, not wrong.
            let _ = sched_setaffinity(None, &others);
        });
    }
    builder
        .build()
        .map_err(|error| Fatal::Other(format!("the control threads do not start: {error}")))
}

/// SIGTERM, SIGINT and SIGHUP.
struct Signals {
    term: Signal,
    int: Signal,
    /// `None` where it is ignored.
    hangup: Option<Signal>,
}

impl Signals {
    fn listen() -> Result<Self, Fatal> {
        let listen = |kind| signal(kind).map_err(|error| Fatal::Other(format!("signals: {error}")));
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hangup: match is_hangup_ignored() {
                true => None,
                false => Some(listen(SignalKind::hangup())?),
            },
        })
    }

    async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }

    /// From here on SIGTERM and SIGHUP are ignored, and SIGINT ends the process at once unless it comes with the first signal.
    fn exit_on_second_interrupt(mut self) -> JoinHandle<()> {
        let first = Instant::now();
        tokio::spawn(async move {
            loop {
                let name = self.next().await;
                if name == "SIGINT" && first.elapsed() >= SECOND_SIGNAL_MIN {
                    crate::complain("SIGINT again: exiting at once");
                    std::process::exit(128 + SignalKind::interrupt().as_raw_value());
                }
                tracing::info!(
                    signal = name,
                    "stopping already; Ctrl-C (SIGINT) again exits at once"
                );
            }
        })
    }
}

/// Whether who started this process wants it to outlive the terminal (nohup(1)); proc(5) has the ignored signals as a mask.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = 1 << (SignalKind::hangup().as_raw_value() - 1);
    mask.is_some_and(|mask| mask & bit != 0)
}

#[cfg(test)]
mod tests {
    use engine_config::Overrides;

    use super::*;

    #[test]
    fn a_state_directory_that_is_none_is_a_wrong_setting_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("file");
        std::fs::write(&taken, "").unwrap();
        let environment = Environment {
            cpus: vec![0],
            ..Environment::default()
        };
        let place = dir.path().join("e.toml");
        let text = format!("node_name = \"n\"\nstate_dir = \"{}\"\n", taken.display());
        let config = Config::parse(&place, &text, &Overrides::default(), &environment).unwrap();
        let error = Store::open(&config.state_dir).unwrap_err();
        let Fatal::Config(error) = store_failed(&config, &error) else {
            panic!("{error}");
        };
        let line = error.to_string();
        let start = format!("{}:2: state_dir: ", place.display());
        assert!(line.starts_with(&start), "{line}");
        assert!(line.contains("give a writable directory"), "{line}");

        let _store = Store::open(&dir.path().join("state")).unwrap();
        let held = Store::open(&dir.path().join("state")).unwrap_err();
        assert!(matches!(store_failed(&config, &held), Fatal::Other(_)));
    }
}
