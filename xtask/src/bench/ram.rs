//! The RAM-disk cases: the engine on both drivers, the limit pair and SPDK, side by side; and the engine with its plugins
//! linked in beside the one that has them from files.

use std::time::Duration;

use super::Run;
use super::cases::{MALLOC, Operation, Point};
use super::contender::{
    Contender, DISK_MIB, Server, SpdkDisk, malloc_uri, start_engine, start_limit, start_spdk,
};
use super::error::Error;
use super::load::{self, Initiator, Sample, Timing};
use super::options::Selectable;
use super::results::{Case, Measured, Results, Section};
use super::rounds::{alternate, give_turn};
use super::{note, report};

/// The load that fills a disk: large random writes, long enough that no block stays unwritten.
const FILL: Point = Point {
    operation: Operation::Write,
    size_kib: 128,
    depth: 16,
};
/// At 4 GiB/s, which is less than any contender writes here, this covers the disk 48 times; a block stays unwritten with
/// a chance of e^-48.
const FILL_FOR: Duration = Duration::from_secs(3);
const _: () = assert!(DISK_MIB <= 256);

/// Measures the selected points of `section`, which is one of a RAM disk, adding a case each to `results`.
pub(crate) fn measure(run: &Run<'_>, section: Section, results: &mut Results) -> Result<(), Error> {
    let initiator = match section {
        Section::Ram(initiator) => initiator,
        Section::Plugins | Section::Nbd | Section::File(_) => Initiator::Ours,
    };
    let selected: Vec<_> = MALLOC
        .iter()
        .filter(|(point, _)| run.options.selects(&section.case_name(*point)))
        .collect();
    if selected.is_empty() {
        return Ok(());
    }
    let mut servers = start_all(run, section)?;
    fill(run, &mut servers)?;
    for (point, prediction) in selected {
        let case = Case {
            section,
            point: *point,
            prediction: Some(*prediction),
            measured: measure_point(run, initiator, &mut servers, *point)?,
        };
        note(format_args!("{}", report::summary(&case)));
        results.cases.push(case);
    }
    Ok(())
}

/// Starts the contenders of `section`, each left frozen.
fn start_all(run: &Run<'_>, section: Section) -> Result<Vec<Server>, Error> {
    let mut servers = Vec::new();
    let mut add = |server: Server| {
        servers.push(server);
        give_turn(&mut servers, None);
    };
    let start = |contender, name| start_engine(run.setup, contender, name, &malloc_uri(name));
    add(start(Contender::Ours, "ours")?);
    if section == Section::Plugins {
        add(start(Contender::Dynamic, "dynamic")?);
        return Ok(servers);
    }
    if section == Section::Ram(Initiator::Ours) {
        if run.options.allows(Selectable::Epoll) {
            add(start(Contender::Epoll, "epoll")?);
        }
        if run.options.allows(Selectable::Limit) {
            add(start_limit(run.setup)?);
        }
    }
    if let Some(tree) = &run.setup.spdk {
        add(start_spdk(run.setup, tree, SpdkDisk::Ram)?);
    }
    Ok(servers)
}

/// Writes every disk once, so that no read meets memory that was never touched.
fn fill(run: &Run<'_>, servers: &mut [Server]) -> Result<(), Error> {
    let timing = Timing {
        warm_up: Duration::ZERO,
        measure: FILL_FOR,
    };
    for index in 0..servers.len() {
        give_turn(servers, Some(index));
        // The limit pair has an area of its own, which it touches when it starts.
        if servers[index].contender != Contender::Limit {
            load::run(run.setup, Initiator::Ours, &servers[index], FILL, timing)?;
        }
    }
    Ok(())
}

fn measure_point(
    run: &Run<'_>,
    initiator: Initiator,
    servers: &mut [Server],
    point: Point,
) -> Result<Vec<Measured>, Error> {
    let samples = alternate(servers.len(), run.options.pairs, |index| {
        give_turn(servers, Some(index));
        load::run(run.setup, initiator, &servers[index], point, run.timing)
    })?;
    samples
        .into_iter()
        .enumerate()
        .map(|(index, samples)| count(run, initiator, servers, index, point, samples))
        .collect()
}

/// Adds what `perf` counts on the server of `index` to its samples.
fn count(
    run: &Run<'_>,
    initiator: Initiator,
    servers: &mut [Server],
    index: usize,
    point: Point,
    samples: Vec<Sample>,
) -> Result<Measured, Error> {
    give_turn(servers, Some(index));
    let server = &servers[index];
    let per_io = |counter: &Option<_>| {
        counter
            .as_ref()
            .map(|counter| load::count(run.setup, initiator, server, point, run.timing, counter))
            .transpose()
    };
    Ok(Measured {
        contender: server.contender,
        samples,
        syscalls: per_io(&run.counters.syscalls)?,
        allocations: per_io(&run.counters.allocations)?,
    })
}
