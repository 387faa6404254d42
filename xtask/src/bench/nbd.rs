//! The NBD cases: the engine, `nbdkit memory` and `qemu-storage-daemon` side by side, loaded by `fio` over Unix sockets.
//!
//! Decides: command lines of the servers and of the client. Each serves 256 MiB of memory that was written once: the engine
//! its RAM disk, nbdkit its own, qemu a file that lies in memory (it has no disk of RAM that keeps what is written).

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Run;
use super::cases::{NBD, Operation, Point};
use super::contender::{Contender, DISK_MIB, EngineSpec, Setup, launch_engine, malloc_uri};
use super::error::Error;
use super::load::{self, Sample, Timing};
use super::machine::{INITIATOR_CORE, SERVER_CORE};
use super::process::{Process, Program};
use super::procfs::CpuReading;
use super::results::{Case, Measured, Results, Section};
use super::rounds::{alternate, give_turn};
use super::{note, report};

/// How long a server may take until it listens.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How long writing a disk once may take.
const FILL_WITHIN: Duration = Duration::from_secs(300);
/// What `fio` may take beyond warm-up and measured time.
const SLACK: Duration = Duration::from_secs(30);
/// Processor time a server has used once it is under load: much more than a connection costs.
const UNDER_LOAD: Duration = Duration::from_millis(5);
/// Programs these cases need, each with the fix for its absence.
pub(crate) const PROGRAMS: [(&str, &str); 3] = [
    ("fio", "install it: apt-get install fio libnbd0"),
    ("nbdkit", "install it: apt-get install nbdkit"),
    (
        "qemu-storage-daemon",
        "install it: apt-get install qemu-system-common",
    ),
];

/// An NBD server that is up.
struct NbdServer {
    contender: Contender,
    process: Process,
    /// What a client connects to.
    uri: String,
    /// Memory that qemu's disk is.
    _memory: Option<File>,
}

impl AsMut<Process> for NbdServer {
    fn as_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Measures the selected points, adding a case each to `results`.
pub(crate) fn measure(run: &Run<'_>, results: &mut Results) -> Result<(), Error> {
    let selected: Vec<_> = NBD
        .iter()
        .filter(|point| run.options.selects(&Section::Nbd.case_name(**point)))
        .collect();
    if selected.is_empty() {
        return Ok(());
    }
    let mut servers = Vec::new();
    for start in [start_ours, start_nbdkit, start_qemu] {
        servers.push(start(run.setup)?);
        give_turn(&mut servers, None);
    }
    for index in 0..servers.len() {
        give_turn(&mut servers, Some(index));
        let fill = fio(&servers[index].uri, "write", 1 << 20, 8);
        let mut filling = Process::start(&fill, &run.setup.work)?;
        filling.wait(FILL_WITHIN, &run.setup.interrupt)?;
    }
    for point in selected {
        let samples = alternate(servers.len(), run.options.pairs, |index| {
            give_turn(&mut servers, Some(index));
            load_once(run.setup, &servers[index], *point, run.timing)
        })?;
        let contenders = servers.iter().map(|server| server.contender);
        let measured = contenders
            .zip(samples)
            .map(|(contender, samples)| Measured {
                contender,
                samples,
                syscalls: None,
                allocations: None,
            });
        let case = Case {
            section: Section::Nbd,
            point: *point,
            prediction: None,
            measured: measured.collect(),
        };
        note(format_args!("{}", report::summary(&case)));
        results.cases.push(case);
    }
    Ok(())
}

/// The engine with a RAM disk, shared by its client.
fn start_ours(setup: &Setup) -> Result<NbdServer, Error> {
    let name = "nbd-ours";
    let socket = socket(setup, name)?;
    let spec = EngineSpec {
        contender: Contender::Ours,
        name,
        device: None,
        nbd: Some(&socket),
    };
    let (mut process, ports) = launch_engine(setup, &spec)?;
    process.wait_until(START_WITHIN, &setup.interrupt, |process| {
        process
            .printed()
            .lines()
            .any(|line| line.starts_with("ready "))
    })?;
    let client = |words: &[&str]| {
        let program = setup.binary("io-engine-client");
        let program = Program::new("io-engine-client", program, INITIATOR_CORE, &["-b"])
            .with(format!("http://{}", ports.grpc));
        let program = words
            .iter()
            .fold(program, |program, word| program.with(*word));
        setup.command(&program)
    };
    client(&["bdev", "create", &malloc_uri(name)])?;
    let uri = client(&["bdev", "share", name, "--protocol", "nbd"])?;
    Ok(NbdServer {
        contender: Contender::Ours,
        process,
        uri: uri.trim().to_owned(),
        _memory: None,
    })
}

fn start_nbdkit(setup: &Setup) -> Result<NbdServer, Error> {
    let socket = socket(setup, "nbdkit")?;
    let program = Program::new("nbdkit", "nbdkit", SERVER_CORE, &["--foreground", "--unix"])
        .with(&socket)
        .with("memory")
        .with(format!("{DISK_MIB}M"));
    let mut process = Process::start(&program, &setup.work)?;
    wait_listening(setup, &mut process, &socket)?;
    Ok(NbdServer {
        contender: Contender::Nbdkit,
        process,
        uri: uri("", &socket),
        _memory: None,
    })
}

fn start_qemu(setup: &Setup) -> Result<NbdServer, Error> {
    let socket = socket(setup, "qemu")?;
    let (memory, path) = memory_file()?;
    let program = Program::new(
        "qemu-storage-daemon",
        "qemu-storage-daemon",
        SERVER_CORE,
        &["--blockdev"],
    )
    .with(format!(
        "driver=file,node-name=disk,aio=io_uring,filename={}",
        path.display()
    ))
    .with("--nbd-server")
    .with(format!("addr.type=unix,addr.path={}", socket.display()))
    .with("--export")
    .with("type=nbd,id=disk,node-name=disk,name=disk,writable=on");
    let mut process = Process::start(&program, &setup.work)?;
    wait_listening(setup, &mut process, &socket)?;
    Ok(NbdServer {
        contender: Contender::Qemu,
        process,
        uri: uri("disk", &socket),
        _memory: Some(memory),
    })
}

/// A file of the disk's size that lies in memory wherever this machine's tmpfs is mounted and however small it is, and the path
/// other programs open it by while it is kept.
fn memory_file() -> Result<(File, PathBuf), Error> {
    let made = rustix::fs::memfd_create("nbd-disk", rustix::fs::MemfdFlags::CLOEXEC);
    let file = made
        .map_err(std::io::Error::from)
        .map(File::from)
        .and_then(|file| file.set_len(u64::from(DISK_MIB) << 20).map(|()| file));
    let file = file.map_err(|source| Error::Machine {
        operation: "make a file of",
        path: PathBuf::from("memory"),
        source,
    })?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    Ok((file, PathBuf::from(path)))
}

/// Path of the socket of a server; nothing is there.
fn socket(setup: &Setup, name: &str) -> Result<PathBuf, Error> {
    let path = setup.work.join(format!("{name}.sock"));
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Machine {
            operation: "remove",
            path,
            source,
        }),
        _ => Ok(path),
    }
}

fn wait_listening(setup: &Setup, process: &mut Process, socket: &Path) -> Result<(), Error> {
    process.wait_until(START_WITHIN, &setup.interrupt, |_| {
        UnixStream::connect(socket).is_ok()
    })
}

fn uri(export: &str, socket: &Path) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

/// `fio` on the initiator's core, over one connection to `uri`.
fn fio(uri: &str, operation: &str, block_bytes: u32, depth: u32) -> Program {
    Program::new(
        "fio",
        "fio",
        INITIATOR_CORE,
        &[
            "--name=bench",
            "--ioengine=nbd",
            "--norandommap",
            "--output-format=json",
        ],
    )
    .with(format!("--uri={uri}"))
    .with(format!("--rw={operation}"))
    .with(format!("--bs={block_bytes}"))
    .with(format!("--iodepth={depth}"))
}

/// Loads `server` once.
fn load_once(
    setup: &Setup,
    server: &NbdServer,
    point: Point,
    timing: Timing,
) -> Result<Sample, Error> {
    let operation = match point.operation {
        Operation::Read => "randread",
        Operation::Write => "randwrite",
    };
    let program = fio(&server.uri, operation, point.size_bytes(), point.depth)
        .with("--time_based")
        .with(format!("--ramp_time={}ms", timing.warm_up.as_millis()))
        .with(format!("--runtime={}ms", timing.measure.as_millis()));
    let within = timing.warm_up + timing.measure + SLACK;
    let pid = server.process.id();
    let before = CpuReading::take(pid)?;
    let mut process = Process::start(&program, &setup.work)?;
    // How long `fio` takes to begin differs; that the server works does not.
    process.wait_until(within, &setup.interrupt, |_| {
        CpuReading::take(pid).is_ok_and(|reading| before.used_until(reading) > UNDER_LOAD)
    })?;
    setup
        .interrupt
        .pause(timing.warm_up + timing.measure / 10)?;
    let first = CpuReading::take(pid)?;
    setup.interrupt.pause(timing.measure * 7 / 10)?;
    let share = first.share_until(CpuReading::take(pid)?);
    process.wait(within, &setup.interrupt)?;
    let sample = load::parse_fio(&process.printed(), point.operation)
        .ok_or_else(|| load::unreadable("fio", process.output()))?;
    Ok(Sample {
        cpu_us: share * 1e6 / sample.iops,
        ..sample
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_same_for_every_server_but_for_the_address() {
        let words = |uri: &str| -> Vec<String> {
            let program = fio(uri, "randread", 4096, 32);
            assert_eq!(program.cores, INITIATOR_CORE.to_string());
            let words = program.arguments.iter();
            words
                .map(|word| word.to_string_lossy().into_owned())
                .collect()
        };
        let uri = uri("disk", Path::new("/w/a.sock"));
        assert_eq!(uri, "nbd+unix:///disk?socket=/w/a.sock");
        assert_eq!(
            words(&uri).join(" "),
            "--name=bench --ioengine=nbd --norandommap --output-format=json \
             --uri=nbd+unix:///disk?socket=/w/a.sock --rw=randread --bs=4096 --iodepth=32"
        );
    }

    #[test]
    fn memory_can_be_opened_by_its_path() {
        let (_file, path) = memory_file().unwrap();
        let length = std::fs::metadata(path).unwrap().len();
        assert_eq!(length, u64::from(DISK_MIB) << 20);
    }
}
