//! The servers that are compared, and how each is brought up.
//!
//! Decides: command lines and device set-up of each contender. All serve 256 MiB of RAM in blocks of 512 bytes on
//! loopback, with one core. Both ends of every connection use [`CONGESTION_CONTROL`]: our programs are told so by flag;
//! SPDK has no such option, so the system's default is changed while it runs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Error;
use super::host::IdleHost;
use super::machine::{CONGESTION_CONTROL, INITIATOR_CORE, Interrupt, SERVER_CORE, Setting};
use super::process::{Process, Program};

/// Size of the RAM disk of every contender: larger than a last-level cache share, so that payload is cold.
pub(crate) const DISK_MIB: u32 = 256;
/// Data a command capsule may carry, for every contender: a 4 KiB write needs no second exchange.
const IN_CAPSULE_BYTES: u32 = 4096;
/// Slots of a queue, for every contender: a queue of 128 slots, the usual default, holds 127 commands.
const QUEUE_DEPTH: u32 = 256;
/// How long a server may take until it listens. SPDK touches all its hugepages first.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How long one set-up command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// Hugepages of 2 MiB for `nvmf_tgt` and `spdk_nvme_perf` together.
const HUGEPAGES: &str = "1024";
/// Memory of `nvmf_tgt` and of `spdk_nvme_perf`, in MiB.
const SPDK_TARGET_MIB: &str = "1024";
pub(crate) const SPDK_PERF_MIB: &str = "512";
/// Subsystem name of the SPDK target.
const SPDK_NQN: &str = "nqn.2016-06.io.spdk:bench";
/// Prefix of the subsystem names of the engine.
const ENGINE_NQN_PREFIX: &str = "nqn.2019-05.io.openebs:";

/// A server to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The engine on io_uring.
    Ours,
    /// The engine on its epoll driver.
    Epoll,
    /// The engine with nothing linked in: devices and transports from files.
    Dynamic,
    /// A bare TCP pair that moves the same bytes and does nothing else.
    Limit,
    /// SPDK's `nvmf_tgt`.
    Spdk,
    /// `fio` on the bare file; it is its own initiator.
    Fio,
    /// `nbdkit memory`.
    Nbdkit,
    /// `qemu-storage-daemon` with a file on tmpfs.
    Qemu,
}

impl Contender {
    /// Name in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Epoll => "epoll",
            Self::Dynamic => "dynamic",
            Self::Limit => "limit",
            Self::Spdk => "SPDK",
            Self::Fio => "fio",
            Self::Nbdkit => "nbdkit",
            Self::Qemu => "qemu",
        }
    }
}

/// Where things are, and what may stop the run.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Cores of this machine.
    pub(crate) cores: usize,
    /// Directory of the release binaries.
    pub(crate) binaries: PathBuf,
    /// Directory for state, outputs and the file of the file-backed cases.
    pub(crate) work: PathBuf,
    /// SPDK tree, where there is one.
    pub(crate) spdk: Option<PathBuf>,
    pub(crate) interrupt: Interrupt,
}

impl Setup {
    /// Path of one of our release binaries.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// Runs a short command to its end on the initiator's core and returns what it printed.
    pub(crate) fn command(&self, program: &Program) -> Result<String, Error> {
        let mut process = Process::start(program, &self.work)?;
        process.wait(COMMAND_WITHIN, &self.interrupt)?;
        Ok(process.printed())
    }
}

/// What an initiator connects to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Subsystem name; empty for the limit pair, which has none.
    pub(crate) nqn: String,
}

/// A server that is up.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) contender: Contender,
    pub(crate) process: Process,
    pub(crate) target: Target,
}

impl AsMut<Process> for Server {
    fn as_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Which loop the engine runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Uring,
    Epoll,
}

impl Driver {
    /// Name in the engine's configuration and in case names.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }

    /// The contender an engine on this driver is.
    pub(crate) const fn contender(self) -> Contender {
        match self {
            Self::Uring => Contender::Ours,
            Self::Epoll => Contender::Epoll,
        }
    }
}

/// Files of the engine's own plugins, as the release build makes them, in the order they are loaded.
pub(crate) const PLUGIN_FILES: [&str; 5] = [
    "libdevice_mem_plugin.so",
    "libdevice_uring_plugin.so",
    "libtransport_nvmf_tcp_plugin.so",
    "libtransport_nbd_plugin.so",
    "libdevice_fault_plugin.so",
];

/// An engine to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineSpec<'a> {
    /// `Ours`, `Epoll` or `Dynamic`.
    pub(crate) contender: Contender,
    /// Name of its files.
    pub(crate) name: &'static str,
    /// URI of a device it is to export over NVMe/TCP from its start on.
    pub(crate) device: Option<&'a str>,
    /// Socket it is to serve NBD at.
    pub(crate) nbd: Option<&'a Path>,
}

/// Where an engine listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) nvmf: SocketAddr,
    pub(crate) grpc: SocketAddr,
    metrics: SocketAddr,
}

impl Ports {
    fn free() -> Result<Self, Error> {
        Ok(Self {
            nvmf: free_address()?,
            grpc: free_address()?,
            metrics: free_address()?,
        })
    }
}

/// Starts an engine; it may not listen when this returns.
pub(crate) fn launch_engine(
    setup: &Setup,
    spec: &EngineSpec<'_>,
) -> Result<(Process, Ports), Error> {
    let state = setup.work.join(format!("{}.state", spec.name));
    renew_directory(&state)?;
    let ports = Ports::free()?;
    let config = setup.work.join(format!("{}.toml", spec.name));
    let files = PLUGIN_FILES.map(|file| setup.binary(file));
    let text = engine_config(spec, &state, ports, &files);
    fs::write(&config, text).map_err(|source| Error::Machine {
        operation: "write",
        path: config.clone(),
        source,
    })?;
    // The reactor pins itself to the server's core, and the engine keeps its control threads off the reactors' cores.
    let program = Program::new(
        spec.name,
        setup.binary("io-engine"),
        INITIATOR_CORE,
        &["--config"],
    )
    .with(config)
    .on_both_cores();
    Ok((Process::start(&program, &setup.work)?, ports))
}

/// Starts the engine that `contender` is with one device and exports it.
///
/// `device` is the URI the device is made from; `name` is its name and must be what the URI gives it.
pub(crate) fn start_engine(
    setup: &Setup,
    contender: Contender,
    name: &'static str,
    device: &str,
) -> Result<Server, Error> {
    let spec = EngineSpec {
        contender,
        name,
        device: Some(device),
        nbd: None,
    };
    let (mut process, ports) = launch_engine(setup, &spec)?;
    let target = Target {
        address: ports.nvmf,
        nqn: format!("{ENGINE_NQN_PREFIX}{}", exported_name(device)),
    };
    // Listening is not enough: the device may be exported a moment later.
    process.wait_until(START_WITHIN, &setup.interrupt, |_| {
        IdleHost::connect(&target).is_ok()
    })?;
    Ok(Server {
        contender,
        process,
        target,
    })
}

/// The name the engine gives the device of a URI: the path of a file, the bare name of a RAM disk.
fn exported_name(uri: &str) -> &str {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    let path = rest.split('?').next().unwrap_or_default();
    match scheme {
        "aio" | "uring" => path,
        _ => path.trim_start_matches('/'),
    }
}

/// Configuration of an engine under measurement: one reactor, defaults for the rest but the queue depth, which must hold
/// 128 commands at once. `files` are the plugins of one that has none linked in.
fn engine_config(spec: &EngineSpec<'_>, state: &Path, ports: Ports, files: &[PathBuf]) -> String {
    let Ports {
        nvmf,
        grpc,
        metrics,
    } = ports;
    let driver = match spec.contender {
        Contender::Epoll => Driver::Epoll,
        _ => Driver::Uring,
    };
    let driver = driver.name();
    let mut text = format!(
        "state_dir = {state:?}\n\
         [reactors]\ncpus = \"{SERVER_CORE}\"\ndriver = \"{driver}\"\n\
         [nvmf]\nlisten = [\"{nvmf}\"]\ntcp_congestion = \"{CONGESTION_CONTROL}\"\nqueue_depth_max = {QUEUE_DEPTH}\n\
         in_capsule_bytes = {IN_CAPSULE_BYTES}\n\
         [grpc]\nlisten = \"{grpc}\"\n\
         [metrics]\nlisten = \"{metrics}\"\n"
    );
    if spec.contender == Contender::Dynamic {
        text.push_str(&format!("[plugins]\nbuilt_in = false\nfiles = {files:?}\n"));
    }
    if let Some(socket) = spec.nbd {
        let address = format!("unix://{}", socket.display());
        text.push_str(&format!("[nbd]\nlisten = [{address:?}]\n"));
    }
    if let Some(device) = spec.device {
        text.push_str(&format!("[[device]]\nuri = {device:?}\nshare = true\n"));
    }
    text
}

/// URI of the RAM disk, for a device called `name`.
pub(crate) fn malloc_uri(name: &str) -> String {
    format!("malloc:///{name}?size_mb={DISK_MIB}&blk_size=512")
}

/// Starts the server half of the bare TCP pair.
pub(crate) fn start_limit(setup: &Setup) -> Result<Server, Error> {
    let address = free_address()?;
    let program = Program::new(
        "limit-server",
        setup.binary("io-engine-perf"),
        SERVER_CORE,
        &[
            "limit-server",
            "--busy-poll",
            "--congestion",
            CONGESTION_CONTROL,
        ],
    )
    .with("--listen")
    .with(address.to_string());
    let mut process = Process::start(&program, &setup.work)?;
    process.wait_listening(address, START_WITHIN, &setup.interrupt)?;
    Ok(Server {
        contender: Contender::Limit,
        process,
        target: Target {
            address,
            nqn: String::new(),
        },
    })
}

/// What SPDK needs of the machine; put back when dropped.
#[derive(Debug)]
pub(crate) struct SpdkMachine {
    congestion: Setting,
    // Fields are dropped in this order: a mount in use keeps pages, so it goes before the reservation.
    _mount: HugeMount,
    _hugepages: Setting,
}

impl SpdkMachine {
    /// Pins the system's congestion control, reserves hugepages and mounts them. Needs root.
    pub(crate) fn prepare(setup: &Setup) -> Result<Self, Error> {
        Ok(Self {
            _mount: HugeMount::ensure(setup)?,
            congestion: Setting::change(
                "/proc/sys/net/ipv4/tcp_congestion_control",
                CONGESTION_CONTROL,
            )?,
            _hugepages: Setting::change("/proc/sys/vm/nr_hugepages", HUGEPAGES)?,
        })
    }

    /// Congestion control the system had before.
    pub(crate) fn congestion_before(&self) -> &str {
        self.congestion.before()
    }
}

/// A mount of hugetlbfs, made only where there was none.
#[derive(Debug)]
struct HugeMount(Option<PathBuf>);

impl HugeMount {
    fn ensure(setup: &Setup) -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some("hugetlbfs"))
        {
            return Ok(Self(None));
        }
        let place = setup.work.join("hugepages");
        renew_directory(&place)?;
        let program = Program::new(
            "mount",
            "mount",
            INITIATOR_CORE,
            &["-t", "hugetlbfs", "hugetlbfs"],
        )
        .with(&place);
        setup.command(&program)?;
        Ok(Self(Some(place)))
    }
}

impl Drop for HugeMount {
    fn drop(&mut self) {
        let Some(place) = &self.0 else { return };
        // Not through `Setup::command`: this has to work after an interrupt as well.
        let ended = std::process::Command::new("umount").arg(place).status();
        if !ended.is_ok_and(|status| status.success()) {
            super::note(format_args!("unmount {} by hand", place.display()));
        }
    }
}

/// What SPDK serves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SpdkDisk<'a> {
    /// A RAM disk of [`DISK_MIB`].
    Ram,
    /// A file, opened with O_DIRECT by its `aio` device.
    File(&'a Path),
}

/// Starts `nvmf_tgt` and sets it up through its `rpc.py`.
pub(crate) fn start_spdk(setup: &Setup, tree: &Path, disk: SpdkDisk<'_>) -> Result<Server, Error> {
    let address = free_address()?;
    let socket = setup.work.join("spdk.sock");
    let program = Program::new(
        "nvmf_tgt",
        tree.join("build/bin/nvmf_tgt"),
        SERVER_CORE,
        &["-m", "0x1", "--huge-unlink", "-s", SPDK_TARGET_MIB, "-r"],
    )
    .with(&socket);
    let mut process = Process::start(&program, &setup.work)?;
    process.wait_until(START_WITHIN, &setup.interrupt, |_| socket.exists())?;
    let rpc = |line: &str| {
        // Ten connection attempts, 0.2 s apart: the socket's file is there a moment before anyone listens.
        let program = Program::new("rpc.py", "python3", INITIATOR_CORE, &[])
            .with(tree.join("scripts/rpc.py"))
            .with("-r")
            .with("10")
            .with("-s")
            .with(&socket);
        let program = line
            .split_whitespace()
            .fold(program, |program, word| program.with(word));
        setup.command(&program)
    };
    rpc(&format!(
        "nvmf_create_transport -t TCP -c {IN_CAPSULE_BYTES} -q {QUEUE_DEPTH}"
    ))?;
    match disk {
        SpdkDisk::Ram => rpc(&format!("bdev_malloc_create -b Disk0 {DISK_MIB} 512"))?,
        SpdkDisk::File(path) => rpc(&format!("bdev_aio_create {} Disk0 512", path.display()))?,
    };
    rpc(&format!("nvmf_create_subsystem {SPDK_NQN} -a -s SPDK1"))?;
    rpc(&format!("nvmf_subsystem_add_ns {SPDK_NQN} Disk0"))?;
    rpc(&format!(
        "nvmf_subsystem_add_listener {SPDK_NQN} -t tcp -a {} -s {}",
        address.ip(),
        address.port()
    ))?;
    Ok(Server {
        contender: Contender::Spdk,
        process,
        target: Target {
            address,
            nqn: SPDK_NQN.to_owned(),
        },
    })
}

/// An address of loopback that nothing listens on at this moment.
fn free_address() -> Result<SocketAddr, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::Machine {
            operation: "find a free port on",
            path: PathBuf::from("127.0.0.1"),
            source,
        })
}

/// Makes `directory` anew and empty.
pub(crate) fn renew_directory(directory: &Path) -> Result<(), Error> {
    let made = match fs::remove_dir_all(directory) {
        Ok(()) => fs::create_dir_all(directory),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => fs::create_dir_all(directory),
        Err(error) => Err(error),
    };
    made.map_err(|source| Error::Machine {
        operation: "make directory",
        path: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(contender: Contender, device: Option<&str>, nbd: Option<&Path>) -> String {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let ports = Ports {
            nvmf: address(1),
            grpc: address(2),
            metrics: address(3),
        };
        let spec = EngineSpec {
            contender,
            name: "disk",
            device,
            nbd,
        };
        engine_config(&spec, Path::new("/tmp/s t"), ports, &["/b/libx.so".into()])
    }

    fn has_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} in {text}");
        }
    }

    #[test]
    fn engine_is_told_everything_the_method_fixes() {
        let text = told(Contender::Epoll, Some(&malloc_uri("disk")), None);
        has_lines(
            &text,
            &[
                "state_dir = \"/tmp/s t\"",
                "cpus = \"0\"",
                "driver = \"epoll\"",
                "listen = [\"127.0.0.1:1\"]",
                "tcp_congestion = \"reno\"",
                "uri = \"malloc:///disk?size_mb=256&blk_size=512\"",
                "share = true",
            ],
        );
        assert!(!text.contains("plugins") && !text.contains("nbd"), "{text}");
    }

    #[test]
    fn the_dynamic_one_has_everything_from_files() {
        let text = told(Contender::Dynamic, None, Some(Path::new("/w/n.sock")));
        has_lines(
            &text,
            &[
                "driver = \"uring\"",
                "built_in = false",
                "files = [\"/b/libx.so\"]",
                "listen = [\"unix:///w/n.sock\"]",
            ],
        );
    }

    #[test]
    fn a_device_is_exported_under_its_path_or_bare_name() {
        assert_eq!(
            exported_name("aio:///tmp/disk.img?blk_size=512"),
            "/tmp/disk.img"
        );
        assert_eq!(exported_name(&malloc_uri("disk")), "disk");
    }

    #[test]
    fn a_free_address_can_be_listened_on() {
        let address = free_address().unwrap();
        TcpListener::bind(address).unwrap();
    }
}
