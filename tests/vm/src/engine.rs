//! The engine under test: its process, state directory, and client.
//!
//! Does: starts the release binary on free ports, waits for its ready line, runs the client, kills and restarts it.
//! Does not: know what the engine should answer; that is the scenarios' part.
//!
//! Invariants: ports stay the same over a restart; the process dies with its [`Engine`]; the state directory and disk
//! files live in the run's directory and stay there when a scenario fails.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::vm::tail;

/// How long the engine may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// How long the engine may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// The engine's own plugins as files, in the order they are loaded.
const PLUGIN_FILES: [&str; 5] = [
    "libdevice_mem_plugin.so",
    "libdevice_uring_plugin.so",
    "libtransport_nvmf_tcp_plugin.so",
    "libtransport_nbd_plugin.so",
    "libdevice_fault_plugin.so",
];

/// Programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `io-engine`.
    pub engine: PathBuf,
    /// `io-engine-client`.
    pub client: PathBuf,
    /// Files that devices and transports are loaded from; where there are none, those linked into the engine are used.
    pub plugins: Vec<PathBuf>,
}

impl Programs {
    /// From `IO_ENGINE_BIN` (the engine; the client and plugins lie beside it), or the workspace's release directory. `dynamic`
    /// has devices and transports loaded from files.
    ///
    /// # Errors
    /// A sentence naming the program that is not there.
    pub fn locate(target: &Path, dynamic: bool) -> Result<Self, String> {
        let engine = std::env::var_os("IO_ENGINE_BIN")
            .map_or_else(|| target.join("release/io-engine"), PathBuf::from);
        let client = engine.with_file_name("io-engine-client");
        let plugins = PLUGIN_FILES.map(|name| engine.with_file_name(name));
        let plugins = plugins.into_iter().filter(|_| dynamic);
        let plugins: Vec<PathBuf> = plugins.collect();
        for program in [&engine, &client].into_iter().chain(&plugins) {
            if !program.is_file() {
                return Err(format!(
                    "{} is not built; run: cargo build --release --workspace",
                    program.display()
                ));
            }
        }
        Ok(Self {
            engine,
            client,
            plugins,
        })
    }

    /// Text of the configuration that has the plugins loaded from `directory`, or from where they are; `None` where those linked
    /// in are used.
    pub(crate) fn config(&self, directory: Option<&Path>) -> Option<String> {
        let place = |file: &PathBuf| match directory {
            Some(directory) => directory.join(file.file_name().unwrap_or_default()),
            None => file.clone(),
        };
        let files: Vec<PathBuf> = self.plugins.iter().map(place).collect();
        (!files.is_empty()).then(|| format!("[plugins]\nbuilt_in = false\nfiles = {files:?}\n"))
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    programs: Programs,
    dir: PathBuf,
    arguments: Vec<String>,
    process: Child,
    grpc: String,
    nvmf: Vec<String>,
}

impl Engine {
    /// Starts an engine on free ports of 127.0.0.1 and ::1, keeping state, files and log in `dir`.
    ///
    /// `arguments` are passed on as they are. Panics when the engine does not say it is ready.
    pub fn start(programs: &Programs, dir: &Path, arguments: &[&str]) -> Self {
        fs::create_dir_all(dir.join("state"))
            .unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let listen = ["127.0.0.1:0", "[::1]:0"].map(str::to_owned);
        let (process, ready) = launch(programs, dir, "127.0.0.1:0", &listen, &arguments);
        Self {
            programs: programs.clone(),
            dir: dir.to_owned(),
            arguments,
            process,
            grpc: ready.grpc,
            nvmf: ready.nvmf,
        }
    }

    /// Runs the client against this engine; it must succeed. Gives its standard output without trailing newlines.
    pub fn client(&self, arguments: &[&str]) -> String {
        let output = self.try_client(arguments);
        assert!(
            output.0,
            "io-engine-client {}: {}\nengine log:\n{}",
            arguments.join(" "),
            output.1,
            self.log_tail()
        );
        output.1
    }

    /// Runs the client; gives whether it succeeded, and what it printed.
    pub fn try_client(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(&self.programs.client)
            .args(["-b", &format!("http://{}", self.grpc)])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("start {}: {e}", self.programs.client.display()));
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        (output.status.success(), text.trim_end().to_owned())
    }

    /// Creates a file-backed disk of `size_mib` and shares it to any host, or only to `hosts`.
    pub fn share_file(&self, name: &str, size_mib: u64, hosts: &[&str]) -> Share {
        let path = self.file(name, size_mib);
        let device = format!("aio://{}?blk_size=512", path.display());
        self.share(&device, hosts)
    }

    /// Creates the device of `uri` and shares it to any host, or only to `hosts`.
    pub fn share(&self, uri: &str, hosts: &[&str]) -> Share {
        let device = self.client(&["bdev", "create", uri]);
        let mut arguments = vec!["bdev", "share", device.as_str()];
        for host in hosts {
            arguments.extend(["--allowed-host", host]);
        }
        let uri = self.client(&arguments);
        let nqn = nqn_of(&uri)
            .unwrap_or_else(|| panic!("share printed no URI: {uri}"))
            .to_owned();
        Share { device, nqn }
    }

    /// Creates or grows a sparse file of `size_mib` in the engine's directory.
    pub fn file(&self, name: &str, size_mib: u64) -> PathBuf {
        let path = self.dir.join(format!("{name}.img"));
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .unwrap_or_else(|e| panic!("create {}: {e}", path.display()));
        file.set_len(size_mib << 20)
            .unwrap_or_else(|e| panic!("size {}: {e}", path.display()));
        path
    }

    /// Port of the IPv4 listener.
    pub fn port(&self) -> u16 {
        port_of(&self.nvmf[0])
    }

    /// Port of the IPv6 listener.
    pub fn port_v6(&self) -> u16 {
        port_of(&self.nvmf[1])
    }

    /// Ends the process with SIGKILL, as a crash would.
    pub fn kill9(&mut self) {
        self.process.kill().unwrap_or_else(|e| panic!("kill: {e}"));
        self.process.wait().unwrap_or_else(|e| panic!("wait: {e}"));
    }

    /// Starts a killed engine again: same state directory, same ports.
    pub fn restart(&mut self) {
        let (process, ready) = launch(
            &self.programs,
            &self.dir,
            &self.grpc,
            &self.nvmf,
            &self.arguments,
        );
        assert!(
            ready.nvmf == self.nvmf,
            "ports after restart: {:?}",
            ready.nvmf
        );
        self.process = process;
    }

    /// Asks the engine to end in order, with SIGTERM; it must end with status 0 in time.
    pub fn stop(&mut self) {
        let status = Command::new("kill")
            .args(["-TERM", &self.process.id().to_string()])
            .status()
            .unwrap_or_else(|e| panic!("kill: {e}"));
        assert!(status.success(), "kill -TERM ended with {status}");
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            let ended = self
                .process
                .try_wait()
                .unwrap_or_else(|e| panic!("wait: {e}"));
            if let Some(status) = ended {
                assert!(
                    status.success(),
                    "engine ended with {status}:\n{}",
                    self.log_tail()
                );
                return;
            }
            assert!(
                Instant::now() < deadline,
                "engine still running {STOP_LIMIT:?} after SIGTERM"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether the process is alive; a scenario whose engine died has failed whatever else it saw.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Last lines of the engine's log.
    pub fn log_tail(&self) -> String {
        tail(&self.dir.join("engine.log"), 30)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Errors here mean the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A device exported over NVMe/TCP.
#[derive(Clone, Debug)]
pub struct Share {
    /// Device name, as the client's commands take it.
    pub device: String,
    /// Subsystem name, as `nvme connect` takes it.
    pub nqn: String,
}

struct Ready {
    grpc: String,
    nvmf: Vec<String>,
}

fn launch(
    programs: &Programs,
    dir: &Path,
    grpc: &str,
    nvmf: &[String],
    arguments: &[String],
) -> (Child, Ready) {
    let log_path = dir.join("engine.log");
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .unwrap_or_else(|e| panic!("create {}: {e}", log_path.display()));
    let mut command = Command::new(&programs.engine);
    command
        .arg("--state-dir")
        .arg(dir.join("state"))
        .args(["--grpc", grpc]);
    for address in nvmf {
        command.args(["--nvmf", address]);
    }
    if let Some(text) = programs.config(None) {
        let config = dir.join("engine.toml");
        fs::write(&config, text).unwrap_or_else(|e| panic!("write {}: {e}", config.display()));
        command.arg("--config").arg(config);
    }
    let mut process = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("start {}: {e}", programs.engine.display()));
    let Some(stdout) = process.stdout.take() else {
        panic!("engine without standard output");
    };
    let (sender, receiver) = mpsc::channel();
    // Reads until the engine closes its end, so that it never blocks on a full pipe.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // The receiver leaves after the ready line; later lines are only drained.
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok(line) => {
                if let Some(ready) = parse_ready(&line) {
                    return (process, ready);
                }
            }
            Err(reason) => {
                // The panic below is the report.
                let _ = process.kill();
                let status = process.wait();
                panic!(
                    "engine not ready ({reason}, {status:?}):\n{}",
                    tail(&log_path, 30)
                );
            }
        }
    }
}

/// Reads `ready grpc=ADDR:PORT nvmf=ADDR:PORT,ADDR:PORT`.
fn parse_ready(line: &str) -> Option<Ready> {
    let mut grpc = None;
    let mut nvmf = None;
    for word in line.strip_prefix("ready ")?.split_whitespace() {
        match word.split_once('=')? {
            ("grpc", address) => grpc = Some(address.to_owned()),
            ("nvmf", list) => nvmf = Some(list.split(',').map(str::to_owned).collect()),
            _ => {}
        }
    }
    Some(Ready {
        grpc: grpc?,
        nvmf: nvmf?,
    })
}

/// Subsystem name in `nvmf+tcp://ADDR:PORT/NQN?…`; the name of a file's subsystem has slashes of its own.
fn nqn_of(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://")?;
    let (_, nqn) = rest.split_once('/')?;
    Some(nqn.split('?').next().unwrap_or(nqn))
}

fn port_of(address: &str) -> u16 {
    address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .unwrap_or_else(|| panic!("no port in {address}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Programs, nqn_of, parse_ready};

    #[test]
    fn a_subsystem_name_may_hold_a_path() {
        assert_eq!(
            nqn_of("nvmf+tcp://127.0.0.1:8420/nqn.2019-05.io.openebs:/tmp/a.img?uuid=1"),
            Some("nqn.2019-05.io.openebs:/tmp/a.img")
        );
        assert_eq!(nqn_of("nvmf+tcp://127.0.0.1:8420"), None);
    }

    #[test]
    fn the_ready_line_names_every_listener() {
        let ready =
            parse_ready("ready grpc=127.0.0.1:4 nvmf=127.0.0.1:1,[::1]:2").expect("a ready line");
        assert_eq!(ready.grpc, "127.0.0.1:4");
        assert_eq!(ready.nvmf, ["127.0.0.1:1", "[::1]:2"]);
        assert!(parse_ready("listening on 127.0.0.1:1").is_none());
        assert!(parse_ready("ready grpc=127.0.0.1:4").is_none());
    }

    #[test]
    fn plugins_from_files_leave_those_linked_in_out() {
        let mut programs = Programs {
            engine: "/b/io-engine".into(),
            client: "/b/io-engine-client".into(),
            plugins: Vec::new(),
        };
        assert_eq!(programs.config(None), None);
        programs.plugins = vec!["/b/liba.so".into()];
        assert_eq!(
            programs.config(Some(Path::new("/opt"))).as_deref(),
            Some("[plugins]\nbuilt_in = false\nfiles = [\"/opt/liba.so\"]\n")
        );
        assert!(
            programs
                .config(None)
                .is_some_and(|text| text.contains("/b/liba.so"))
        );
    }
}
