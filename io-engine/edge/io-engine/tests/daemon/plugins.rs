//! The daemon among bad plugins: it refuses those that cannot be loaded and serves, and comes back from one that crashes it.

use std::mem::offset_of;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use io_engine_perf::{Client, ClientError, HostIdentity, SessionOptions, Target};

use crate::identity;
use crate::support::{HOST_A, HOST_B, Setup, directory, disk, pattern, until};

/// Builds a plugin in C into `to`.
fn build_c(source: &str, defines: &[&str], to: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let built = Command::new("cc")
        .args(["-std=c11", "-O1", "-fPIC", "-fvisibility=hidden", "-shared"])
        .args(defines.iter().map(|define| format!("-D{define}")))
        .arg("-I")
        .arg(root.join("plugins/abi/include"))
        .arg("-o")
        .arg(to)
        .arg(root.join(source))
        .status()
        .expect("the C compiler starts");
    assert!(built.success());
}

const GOOD: &str = "plugins/examples/c-ram/ram.c";
const BAD: &str = "io-engine/io/plugin-host/tests/fixtures/bad.c";

/// A configuration file in `directory` with this `[plugins]`.
fn config(directory: &Path, plugins: &str) -> String {
    let path = directory.join("io-engine.toml");
    std::fs::write(&path, format!("[plugins]\n{plugins}\n")).expect("a file");
    path.to_str().expect("text").to_owned()
}

/// A directory of plugins: a good one, and one for each way to be refused before it is used, with the reason's beginning.
fn zoo(directory: &Path) -> Vec<(PathBuf, String)> {
    std::fs::create_dir(directory).expect("a directory");
    let good = directory.join("a_good.so");
    build_c(GOOD, &[], &good);
    let good = std::fs::read(good).expect("a plugin");
    let note = good.windows(8).position(|bytes| bytes == b"IOEPLUGN");
    let note = note.expect("a descriptor");
    let file = |name: &str, contents: &[u8]| {
        let path = directory.join(format!("{name}.so"));
        std::fs::write(&path, contents).expect("a file");
        path
    };
    let patched = |name: &str, at: usize, bytes: &[u8]| {
        let mut other = good.clone();
        other[at..at + bytes.len()].copy_from_slice(bytes);
        file(name, &other)
    };
    let built = |define: &str| {
        let path = directory.join(format!("{}.so", define.to_lowercase()));
        build_c(BAD, &[define], &path);
        path
    };
    let stamp = note + offset_of!(abi::IoeDescriptor, stamps);
    let len = good.len();
    let reasons: [(PathBuf, &str); 15] = [
        (
            file("text", b"#!/bin/sh\n"),
            "it is not an ELF file; this engine loads shared objects",
        ),
        (
            patched("bits", 4, &[1]),
            "it is ELF, 32 bit; this engine is ELF, 64 bit",
        ),
        (
            patched("machine", 18, &[243, 0]),
            "it is for RISC-V; this engine runs on ",
        ),
        (
            file("cut", &good[..len / 2]),
            "it is cut off: its headers speak of ",
        ),
        (
            patched("note", note - 12, b"x"),
            "it has no descriptor (ELF note '.note.io-engine'); this engine loads",
        ),
        (
            patched(
                "major",
                note + offset_of!(abi::IoeDescriptor, abi_major),
                &[2, 0],
            ),
            "it is built for ABI 2.1; this engine has ABI 1.1",
        ),
        (
            patched(
                "minor",
                note + offset_of!(abi::IoeDescriptor, needs_minor),
                &[9, 0],
            ),
            "it needs ABI 1.9 or newer; this engine has ABI 1.1",
        ),
        (
            patched("abort", note + offset_of!(abi::IoeDescriptor, flags), &[1]),
            "it is built with panic=abort",
        ),
        (
            patched("size", stamp + offset_of!(abi::IoeStamp, size), &[8]),
            "its table 'plugin' has 8 bytes and hash",
        ),
        (
            patched("hash", stamp + offset_of!(abi::IoeStamp, hash), &[0, 0, 0]),
            "its table 'plugin' has 56 bytes and hash",
        ),
        (
            file("twice", &good),
            "it brings scheme 'cram', which plugin 'example-c-ram' has",
        ),
        (
            built("CRASH_IN_CONSTRUCTOR"),
            "it crashed a child process that tried to load it (signal 6, SIGABRT)",
        ),
        (
            built("BLOCK_IN_CONSTRUCTOR"),
            "loading it took a child process longer than 5 s",
        ),
        (built("REFUSES"), "its entry answered status 16"),
        (
            built("NO_ENTRY"),
            "it has a descriptor but no entry 'io_engine_plugin_v1'",
        ),
    ];
    reasons
        .map(|(path, reason)| (path, reason.to_owned()))
        .to_vec()
}

#[test]
fn an_engine_among_plugins_it_cannot_load_names_each_and_serves() {
    let dir = directory();
    let refused = zoo(&dir.path().join("plugins"));
    let plugins = format!(
        "directories = [{:?}]\nload_timeout_s = 5",
        dir.path().join("plugins")
    );
    let config = config(dir.path(), &plugins);
    let daemon = Setup::new(&dir.path().join("state"))
        .with(&["--config", &config, "-F", "nocolor"])
        .start();
    for (path, reason) in &refused {
        daemon.until_logged(&format!("plugin {} refused: {reason}", path.display()));
    }
    let log = daemon.stderr();
    assert_eq!(log.matches(" refused: ").count(), refused.len(), "{log}");
    let nqn = daemon.serve("cram:///m?size_mb=8", &[]);
    let mut host = daemon.connect(&nqn, HOST_A);
    host.write(1, 0, &pattern(1, 4096)).unwrap();
    assert!(host.read(1, 0, 8).unwrap() == pattern(1, 4096));
    assert_eq!(daemon.stop(), Some(0));
}

/// A host that does not give up: what its connections lose is done again, what a controller refuses is an error.
struct Stubborn {
    target: Target,
    client: Option<Client>,
}

impl Stubborn {
    fn keep_at<T>(&mut self, mut work: impl FnMut(&mut Client) -> Result<T, ClientError>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "the engine does not come back");
            let done = match &mut self.client {
                Some(client) => work(client),
                None => {
                    let mut options = SessionOptions::new(HostIdentity::named(HOST_A));
                    options.timeout = Duration::from_secs(5);
                    match Client::connect(&self.target, options) {
                        Ok(client) => self.client = Some(client),
                        // Not there yet, or its device is not.
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                    continue;
                }
            };
            match done {
                Ok(done) => return done,
                Err(error) => {
                    assert!(
                        error.status().is_none(),
                        "the host is told of an error: {error}"
                    );
                    self.client = None;
                }
            }
        }
    }
}

/// Restarts the engine whenever it ends.
struct Supervisor {
    /// When each start began.
    starts: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Supervisor {
    fn of(setup: Setup, grpc: SocketAddr, nvmf: SocketAddr) -> Self {
        let (starts, stop) = (Arc::default(), Arc::default());
        let (begun, ended) = (Arc::clone(&starts), Arc::<AtomicBool>::clone(&stop));
        let run = move || {
            while !ended.load(Ordering::Relaxed) {
                let list: &Mutex<Vec<Instant>> = &begun;
                list.lock().expect("no panic").push(Instant::now());
                let mut daemon = setup.start_at(&grpc.to_string(), &nvmf.to_string());
                while !daemon.has_ended() && !ended.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        };
        Self {
            starts,
            stop,
            thread: Some(std::thread::spawn(run)),
        }
    }

    fn starts(&self) -> Vec<Instant> {
        self.starts.lock().expect("no panic").clone()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there is the reason the test fails already.
            let _ = thread.join();
        }
    }
}

/// Longest time from the beginning of a restart to an answered write, in the best of the rounds: a loaded machine may make
/// some of them longer.
const SERVING_AGAIN: Duration = Duration::from_secs(1);

#[test]
fn after_a_crash_in_a_plugin_the_engine_serves_again_within_a_second_and_hosts_see_no_error() {
    let dir = directory();
    let plugin = dir.path().join("crashing.so");
    build_c(BAD, &["CRASHES"], &plugin);
    let config = config(dir.path(), &format!("files = [{plugin:?}]"));
    let file = disk(dir.path(), "disk", 16);
    let gate = dir.path().join("gate");
    let setup = || Setup::new(&dir.path().join("state")).with(&["--config", &config]);
    let daemon = setup().start();
    let good = daemon.serve(&format!("aio://{}", file.display()), &[]);
    let bad = daemon.serve(&format!("bad://{}", gate.display()), &[]);
    let before = identity(&mut daemon.connect(&good, HOST_A));
    assert_eq!(daemon.stop(), Some(0));

    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let (grpc, nvmf) = (free().unwrap(), free().unwrap());
    let supervisor = Supervisor::of(setup(), grpc, nvmf);
    let mut host = Stubborn {
        target: Target::at(nvmf, &good),
        client: None,
    };
    let mut outages = Vec::new();
    for round in 0..3 {
        let data = pattern(round, 4096);
        host.keep_at(|client| {
            client
                .write(1, round * 8, &data)
                .and_then(|()| client.flush(1))
        });
        std::fs::write(&gate, "").unwrap();
        let starts = supervisor.starts().len();
        let mut options = SessionOptions::new(HostIdentity::named(HOST_B));
        options.timeout = Duration::from_secs(20);
        let mut other = Client::connect(&Target::at(nvmf, &bad), options).unwrap();
        assert!(
            other.write(1, 0, &pattern(9, 4096)).is_err(),
            "the engine is gone"
        );
        until("the engine is started again", || {
            supervisor.starts().len() > starts
        });
        host.keep_at(|client| client.write(1, 1024, &data));
        outages.push(supervisor.starts()[starts].elapsed());
        for earlier in 0..=round {
            let found = host.keep_at(|client| client.read(1, earlier * 8, 8));
            assert!(found == pattern(earlier, 4096), "round {round}");
        }
        let after = host.keep_at(|client| Ok(identity(client)));
        assert!(after == before, "another identity after round {round}");
        assert!(!gate.exists(), "the plugin crashed");
    }
    let best = outages.iter().min().expect("three rounds");
    assert!(*best <= SERVING_AGAIN, "{outages:?}");
}
