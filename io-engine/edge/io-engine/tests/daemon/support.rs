//! The real daemon as a child process, its API, and hosts that connect to it.
//!
//! Every wait is for a condition, with a bound far above what the slowest machine needs; no test decides by time. A
//! daemon is killed when it is dropped.
#![expect(
    unreachable_pub,
    reason = "a module of a test crate, which nothing outside can reach"
)]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use io_engine_perf::{Client, ClientError, HostIdentity, SessionOptions, Target};
pub use proto::io_engine::v1::Subsystem;
use proto::io_engine::v1::engine_rpc_client::EngineRpcClient;
use proto::io_engine::v1::subsystem_rpc_client::SubsystemRpcClient;
use proto::io_engine::v1::{
    AddNamespaceRequest, CommandDeviceRequest, Device, ListSubsystemsRequest, RescanDeviceRequest,
};
pub use proto::mayastor::v1::Bdev;
use proto::mayastor::v1::bdev_rpc_client::BdevRpcClient;
use proto::mayastor::v1::{
    BdevShareRequest, BdevUnshareRequest, CreateBdevRequest, DestroyBdevRequest, ListBdevOptions,
    ShareProtocol,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// The user `nobody` of every distribution.
const NOBODY: u32 = 65_534;
/// What a login of Debian 12 gets: 8 MiB of locked memory, 1024 descriptors.
const DEFAULT_LIMITS: &str = "ulimit -l 8192 && ulimit -n 1024 && exec \"$0\" \"$@\"";
/// Variables that would change what the daemon does.
const VARIABLES: [&str; 4] = ["RUST_LOG", "NVMF_TGT_IFACE", "MY_POD_IP", "NOTIFY_SOCKET"];

pub const HOST_A: &str = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-0000-0000-000000000001";
pub const HOST_B: &str = "nqn.2014-08.org.nvmexpress:uuid:bbbbbbbb-0000-0000-0000-000000000002";
pub const HOST_C: &str = "nqn.2014-08.org.nvmexpress:uuid:cccccccc-0000-0000-0000-000000000003";

/// A command line of the daemon.
pub struct Setup {
    state_dir: PathBuf,
    driver: String,
    extra: Vec<String>,
    is_nobody: bool,
    descriptors: Option<u32>,
    variables: Vec<(String, String)>,
    work_dir: Option<PathBuf>,
    program: PathBuf,
}

impl Setup {
    /// State in `state_dir`, ports of the system's choice, the driver the suite runs on (`IO_ENGINE_TEST_DRIVER`).
    #[expect(
        clippy::disallowed_methods,
        reason = "the variable belongs to the test suite, not to the program"
    )]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            driver: std::env::var("IO_ENGINE_TEST_DRIVER").unwrap_or_else(|_| "auto".to_owned()),
            extra: Vec::new(),
            is_nobody: false,
            descriptors: None,
            variables: Vec::new(),
            work_dir: None,
            program: PathBuf::from(env!("CARGO_BIN_EXE_io-engine")),
        }
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.extra
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// With so many open files at most (hard limit).
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// With this variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Started in this directory.
    pub fn working_in(mut self, dir: &Path) -> Self {
        self.work_dir = Some(dir.to_owned());
        self
    }

    pub fn driver(mut self, driver: &str) -> Self {
        self.driver = driver.to_owned();
        self
    }

    /// As a user without rights and with a login's limits. The program is put into `dir`, where that user can reach it.
    pub fn unprivileged(mut self, dir: &Path) -> Self {
        self.program = dir.join("io-engine");
        if !self.program.exists() {
            let built = env!("CARGO_BIN_EXE_io-engine");
            // A copy where the build is on another file system.
            std::fs::hard_link(built, &self.program)
                .or_else(|_| std::fs::copy(built, &self.program).map(drop))
                .expect("the program where anybody can start it");
        }
        self.is_nobody = true;
        self
    }

    fn command(&self) -> Command {
        let mut command = if self.is_nobody {
            let mut shell = Command::new("sh");
            shell.args(["-c", DEFAULT_LIMITS]).arg(&self.program);
            if is_root() {
                // Without groups, too: the standard library drops them with the user.
                shell.uid(NOBODY).gid(NOBODY);
            }
            shell
        } else if let Some(most) = self.descriptors {
            let mut shell = Command::new("sh");
            let limited = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
            shell.args(["-c", &limited]).arg(&self.program);
            shell
        } else {
            Command::new(&self.program)
        };
        if let Some(dir) = &self.work_dir {
            command.current_dir(dir);
        }
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
            .arg("--state-dir")
            .arg(&self.state_dir)
            .args(["--driver", &self.driver])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a daemon that is expected to refuse its start: exit code and what it wrote to standard error.
    pub fn refused(&self) -> (Option<i32>, String) {
        let mut child = Running(self.command().spawn().expect("the daemon starts"));
        let mut stderr = child.0.stderr.take().expect("a pipe");
        let status = child.wait("the refused daemon ends");
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("text");
        (status.code(), text)
    }

    /// Starts a daemon on free ports and waits until it is ready.
    pub fn start(&self) -> Daemon {
        self.start_at("127.0.0.1:0", "127.0.0.1:0")
    }

    /// As [`Setup::start`], on these addresses.
    pub fn start_at(&self, grpc: &str, nvmf: &str) -> Daemon {
        let mut command = self.command();
        command.args(["--grpc", grpc, "--nvmf", nvmf]);
        Daemon::start(&mut command).unwrap_or_else(|stderr| panic!("not ready:\n{stderr}"))
    }
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    fn wait(&mut self, what: &str) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "never happened: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon that is ready.
pub struct Daemon {
    child: Running,
    runtime: Runtime,
    channel: Channel,
    stderr: Arc<Mutex<String>>,
    nvmf: SocketAddr,
    metrics: Option<SocketAddr>,
}

impl Daemon {
    /// `Err` is what a daemon that did not become ready wrote to standard error.
    fn start(command: &mut Command) -> Result<Self, String> {
        let mut child = Running(command.spawn().expect("the daemon starts"));
        let stderr = Arc::new(Mutex::new(String::new()));
        let log = lines(child.0.stderr.take().expect("a pipe"));
        let text = Arc::clone(&stderr);
        let logged = std::thread::spawn(move || {
            for line in log {
                let mut text = text.lock().expect("no panic");
                text.push_str(&line);
                text.push('\n');
            }
        });
        let stdout = lines(child.0.stdout.take().expect("a pipe"));
        let ready = match stdout.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => {
                child.wait("the daemon ends after closing its output");
                logged.join().expect("no panic");
                return Err(stderr.lock().expect("no panic").clone());
            }
            Err(RecvTimeoutError::Timeout) => panic!("the daemon never became ready"),
        };
        let find = |key: &str| -> Option<SocketAddr> {
            let mut words = ready.split_whitespace();
            words.find_map(|word| word.strip_prefix(key)?.parse().ok())
        };
        let address = |key: &str| find(key).unwrap_or_else(|| panic!("no {key} in '{ready}'"));
        assert!(ready.starts_with("ready "), "{ready}");
        let (grpc, nvmf) = (address("grpc="), address("nvmf="));
        // With a thread of its own, so that the connection hears of the daemon's stop between two calls.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let endpoint = Endpoint::from_shared(format!("http://{grpc}")).expect("an address");
        let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
        let channel = runtime
            .block_on(endpoint.connect())
            .expect("the gRPC server answers");
        Ok(Self {
            child,
            runtime,
            channel,
            stderr,
            nvmf,
            metrics: find("metrics="),
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// What it has logged.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no panic").clone()
    }

    /// Waits until the log holds `text`: it arrives by another way than the answers.
    pub fn until_logged(&self, text: &str) {
        until(text, || self.stderr().contains(text));
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.0.kill().expect("a child");
        self.child.wait("the killed daemon ends");
    }

    /// SIGTERM; the exit code.
    pub fn stop(self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child.0), signal).expect("a child");
    }

    /// Waits for its end; the exit code.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait("the daemon ends after a signal").code()
    }

    /// Whether it is no more.
    pub fn has_ended(&mut self) -> bool {
        self.child.0.try_wait().expect("a child").is_some()
    }

    /// Where metrics are served, if they are.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// What it logs, also after its end.
    pub fn log(&self) -> Arc<Mutex<String>> {
        Arc::clone(&self.stderr)
    }

    /// A call that the server answers for as long as it runs.
    pub fn begin_endless_call(&self) {
        let mut client = HealthClient::new(self.channel.clone());
        let request = HealthCheckRequest::default();
        let answers = self.runtime.block_on(client.watch(request));
        let mut answers = answers.expect("an answer").into_inner();
        self.runtime.block_on(answers.message()).expect("a state");
        self.runtime
            .spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
    }

    pub fn create(&self, uri: &str) -> Result<Bdev, Status> {
        let mut client = BdevRpcClient::new(self.channel.clone());
        let request = CreateBdevRequest { uri: uri.into() };
        let reply = self.runtime.block_on(client.create(request))?;
        Ok(reply.into_inner().bdev.expect("a device"))
    }

    pub fn destroy(&self, uri: &str) -> Result<(), Status> {
        let mut client = BdevRpcClient::new(self.channel.clone());
        let request = DestroyBdevRequest { uri: uri.into() };
        self.runtime.block_on(client.destroy(request)).map(drop)
    }

    pub fn unshare(&self, name: &str) {
        let mut client = BdevRpcClient::new(self.channel.clone());
        let request = BdevUnshareRequest { name: name.into() };
        let reply = self.runtime.block_on(client.unshare(request));
        reply.expect("unshared");
    }

    pub fn add_namespace(&self, nqn: &str, bdev: &str) {
        let mut client = SubsystemRpcClient::new(self.channel.clone());
        let request = AddNamespaceRequest {
            nqn: nqn.into(),
            bdev: bdev.into(),
            nsid: None,
        };
        let reply = self.runtime.block_on(client.add_namespace(request));
        reply.expect("added");
    }

    /// Exports a device to `hosts`, or to everybody; gives its NQN.
    pub fn share(&self, name: &str, hosts: &[&str]) -> String {
        let mut client = BdevRpcClient::new(self.channel.clone());
        let request = BdevShareRequest {
            name: name.to_owned(),
            protocol: ShareProtocol::Nvmf as i32,
            allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        };
        let reply = self.runtime.block_on(client.share(request));
        let bdev = reply.expect("shared").into_inner().bdev.expect("a device");
        let target: Target = bdev.share_uri.parse().expect("a URI");
        target.nqn
    }

    /// Creates and exports; gives the NQN.
    pub fn serve(&self, uri: &str, hosts: &[&str]) -> String {
        let bdev = self.create(uri).expect("created");
        self.share(&bdev.name, hosts)
    }

    pub fn bdevs(&self) -> Vec<Bdev> {
        let mut client = BdevRpcClient::new(self.channel.clone());
        let reply = self
            .runtime
            .block_on(client.list(ListBdevOptions { name: None }));
        reply.expect("a list").into_inner().bdevs
    }

    pub fn devices(&self) -> Vec<Device> {
        let mut client = EngineRpcClient::new(self.channel.clone());
        let reply = self.runtime.block_on(client.list_devices(()));
        reply.expect("a list").into_inner().devices
    }

    pub fn rescan(&self, name: &str, accept_loss: bool) -> Result<Device, Status> {
        let mut client = EngineRpcClient::new(self.channel.clone());
        let request = RescanDeviceRequest {
            name: name.into(),
            accept_loss,
        };
        let reply = self.runtime.block_on(client.rescan_device(request));
        reply.map(tonic::Response::into_inner)
    }

    /// Gives a device a command of its own.
    pub fn command(&self, name: &str, command: &str) {
        let mut client = EngineRpcClient::new(self.channel.clone());
        let request = CommandDeviceRequest {
            name: name.into(),
            command: command.into(),
        };
        let reply = self.runtime.block_on(client.command_device(request));
        reply.expect("obeyed");
    }

    pub fn subsystem(&self, nqn: &str) -> Subsystem {
        let mut client = SubsystemRpcClient::new(self.channel.clone());
        let request = ListSubsystemsRequest {
            nqn: Some(nqn.to_owned()),
        };
        let reply = self.runtime.block_on(client.list(request));
        let mut subsystems = reply.expect("a list").into_inner().subsystems;
        subsystems.pop().expect("a subsystem")
    }

    /// Waits until a subsystem of an earlier run is served again: devices that open slowly come after `ready`.
    pub fn until_online(&self, nqn: &str) -> Subsystem {
        until("the subsystem is served again", || {
            self.subsystem(nqn).online
        });
        self.subsystem(nqn)
    }

    pub fn try_connect(&self, nqn: &str, host: &str) -> Result<Client, ClientError> {
        self.try_connect_for(nqn, host, Duration::ZERO)
    }

    /// With a keep-alive timeout.
    pub fn try_connect_for(
        &self,
        nqn: &str,
        host: &str,
        keep_alive: Duration,
    ) -> Result<Client, ClientError> {
        let mut options = SessionOptions::new(HostIdentity::named(host));
        options.timeout = PATIENCE;
        options.keep_alive = keep_alive;
        Client::connect(&Target::at(self.nvmf, nqn), options)
    }

    pub fn connect(&self, nqn: &str, host: &str) -> Client {
        self.try_connect(nqn, host)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.stderr()))
    }
}

/// The lines of a pipe, read by a thread so that the daemon never waits for a reader.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // The pipe is read to its end even when nobody listens.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Waits until `condition` holds; a test that waits in vain fails.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory that the user of [`Setup::unprivileged`] owns.
pub fn directory_of_nobody() -> TempDir {
    let directory = directory();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("an open directory");
    give_away(directory.path());
    directory
}

/// Makes `path` the property of the user of [`Setup::unprivileged`]. Without root, it is that user's already.
pub fn give_away(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("a new owner");
    }
}

/// A sparse file of `mib` MiB.
pub fn disk(directory: &Path, name: &str, mib: u64) -> PathBuf {
    let path = directory.join(name);
    std::fs::File::create(&path)
        .and_then(|file| file.set_len(mib << 20))
        .expect("a file");
    path
}

/// Bytes that differ by position and `seed`.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
