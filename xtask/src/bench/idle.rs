//! Servers with nothing to do: the engine with a connected host, and SPDK for comparison.

use std::time::{Duration, Instant};

use super::contender::{Driver, Setup, SpdkDisk, malloc_uri, start_engine, start_spdk};
use super::error::Error;
use super::host::{IdleHost, KEEP_ALIVE_EVERY};
use super::procfs::{CpuReading, resident_mib};
use super::results::Idle;

/// How long the engine is watched: four keep-alives.
const WATCH: Duration = Duration::from_secs(10);
/// How long SPDK is watched; its share does not vary.
const WATCH_SPDK: Duration = Duration::from_secs(2);
/// Time for start-up work to end before the watch begins.
const SETTLE: Duration = Duration::from_millis(500);

/// Watches an engine that exports a RAM disk to one idle host.
pub(crate) fn engine(setup: &Setup, driver: Driver) -> Result<Idle, Error> {
    let (name, server_name) = match driver {
        Driver::Uring => ("idle-uring", "ours, one host connected"),
        Driver::Epoll => ("idle-epoll", "ours on epoll, one host connected"),
    };
    let server = start_engine(setup, driver.contender(), name, &malloc_uri(name))?;
    let mut host = IdleHost::connect(&server.target)?;
    setup.interrupt.pause(SETTLE)?;
    let pid = server.process.id();
    let first = CpuReading::take(pid)?;
    let end = Instant::now() + WATCH;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        setup.interrupt.pause(left.min(KEEP_ALIVE_EVERY))?;
        host.keep_alive()?;
    }
    Ok(Idle {
        server: server_name,
        cpu_percent: first.share_until(CpuReading::take(pid)?) * 100.0,
        resident_mib: resident_mib(pid)?,
        has_goal: true,
    })
}

/// Watches an `nvmf_tgt` that nobody is connected to.
pub(crate) fn spdk(setup: &Setup) -> Result<Option<Idle>, Error> {
    let Some(tree) = &setup.spdk else {
        return Ok(None);
    };
    let server = start_spdk(setup, tree, SpdkDisk::Ram)?;
    setup.interrupt.pause(SETTLE)?;
    let pid = server.process.id();
    let first = CpuReading::take(pid)?;
    setup.interrupt.pause(WATCH_SPDK)?;
    Ok(Some(Idle {
        server: "SPDK, no host",
        cpu_percent: first.share_until(CpuReading::take(pid)?) * 100.0,
        resident_mib: resident_mib(pid)?,
        has_goal: false,
    }))
}
