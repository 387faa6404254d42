//! The file-backed cases: a file served over TCP against `fio` on the same file, and against SPDK serving it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Run;
use super::cases::{FILE, Point};
use super::contender::{Contender, Driver, Server, Setup, SpdkDisk, start_engine, start_spdk};
use super::error::Error;
use super::load::{self, Initiator};
use super::machine::SERVER_CORE;
use super::process::{Process, Program};
use super::results::{Case, Measured, Results, Section};
use super::rounds::{alternate, give_turn};
use super::{note, report};

/// Size of the file: large enough that the disk below it does not answer from one spot.
const FILE_MIB: u32 = 1024;
/// How long the disk rests before each turn: disks of clouds are slowed down once a burst is spent.
const REST: Duration = Duration::from_millis(700);
/// How long writing it may take.
const WRITE_WITHIN: Duration = Duration::from_secs(300);

/// A file in the work directory, removed when dropped.
#[derive(Debug)]
struct ScratchFile(PathBuf);

impl ScratchFile {
    /// Writes the file from end to end, so that every block is allocated.
    fn create(setup: &Setup) -> Result<Self, Error> {
        let file = Self(setup.work.join("disk.img"));
        let program = Program::new(
            "fio-fill",
            "fio",
            SERVER_CORE,
            &[
                "--name=fill",
                "--rw=write",
                "--bs=1M",
                "--iodepth=8",
                "--ioengine=io_uring",
                "--direct=1",
                "--end_fsync=1",
            ],
        )
        .with(format!("--filename={}", file.0.display()))
        .with(format!("--size={FILE_MIB}M"));
        let mut fio = Process::start(&program, &setup.work)?;
        fio.wait(WRITE_WITHIN, &setup.interrupt)?;
        Ok(file)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        // It lies in the build directory; what cannot be removed here goes with `cargo clean`.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Measures the selected points with the engine on `driver`, adding a case each to `results`.
pub(crate) fn measure(run: &Run<'_>, driver: Driver, results: &mut Results) -> Result<(), Error> {
    let section = Section::File(driver);
    let selected: Vec<_> = FILE
        .iter()
        .filter(|point| run.options.selects(&section.case_name(**point)))
        .collect();
    if selected.is_empty() {
        return Ok(());
    }
    let file = ScratchFile::create(run.setup)?;
    let name = match driver {
        Driver::Uring => "file-uring",
        Driver::Epoll => "file-epoll",
    };
    let uri = format!("aio://{}?blk_size=512", file.path().display());
    let mut servers = vec![start_engine(run.setup, driver.contender(), name, &uri)?];
    if let Some(tree) = &run.setup.spdk {
        // A polling server must not burn the core while the next one starts.
        give_turn(&mut servers, None);
        servers.push(start_spdk(run.setup, tree, SpdkDisk::File(file.path()))?);
    }
    for point in selected {
        let case = Case {
            section,
            point: *point,
            prediction: None,
            measured: measure_point(run, &mut servers, file.path(), *point)?,
        };
        note(format_args!("{}", report::summary(&case)));
        results.cases.push(case);
    }
    Ok(())
}

/// The servers and `fio` in turn, all on the server's core. The engine has claimed the file, which keeps other engines
/// from it, and neither SPDK nor `fio`; while one runs, the others are frozen.
fn measure_point(
    run: &Run<'_>,
    servers: &mut [Server],
    file: &Path,
    point: Point,
) -> Result<Vec<Measured>, Error> {
    let samples = alternate(servers.len() + 1, run.options.pairs, |index| {
        let server = (index < servers.len()).then_some(index);
        give_turn(servers, None);
        std::thread::sleep(REST);
        give_turn(servers, server);
        match server {
            Some(server) => load::run(
                run.setup,
                Initiator::Ours,
                &servers[server],
                point,
                run.timing,
            ),
            None => load::run_fio(run.setup, file, point, run.timing),
        }
    })?;
    Ok(servers
        .iter()
        .map(|server| server.contender)
        .chain([Contender::Fio])
        .zip(samples)
        .map(|(contender, samples)| Measured {
            contender,
            samples,
            syscalls: None,
            allocations: None,
        })
        .collect())
}
