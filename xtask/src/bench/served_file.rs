//! The file-backed cases: a file served over TCP against `fio` on the same file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Run;
use super::cases::{FILE, Point};
use super::contender::{Contender, Driver, Server, Setup, start_engine};
use super::error::Error;
use super::load::{self, Initiator};
use super::machine::SERVER_CORE;
use super::process::{Process, Program};
use super::results::{Case, Measured, Results, Section};
use super::rounds::{alternate, give_turn};
use super::{note, report};

/// Size of the file: large enough that the disk below it does not answer from one spot.
const FILE_MIB: u32 = 1024;
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
    let mut servers = [start_engine(run.setup, driver.contender(), name, &uri)?];
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

/// The engine and `fio` in turn, both on the server's core. The engine has claimed the file, which keeps other engines
/// from it and not `fio`; while `fio` runs, the engine is frozen.
fn measure_point(
    run: &Run<'_>,
    servers: &mut [Server; 1],
    file: &Path,
    point: Point,
) -> Result<Vec<Measured>, Error> {
    let samples = alternate(2, run.options.pairs, |index| {
        if index == 0 {
            give_turn(servers, Some(0));
            load::run(run.setup, Initiator::Ours, &servers[0], point, run.timing)
        } else {
            give_turn(servers, None);
            load::run_fio(run.setup, file, point, run.timing)
        }
    })?;
    let contenders = [servers[0].contender, Contender::Fio];
    Ok(contenders
        .into_iter()
        .zip(samples)
        .map(|(contender, samples)| Measured {
            contender,
            samples,
            syscalls: None,
            allocations: None,
        })
        .collect())
}
