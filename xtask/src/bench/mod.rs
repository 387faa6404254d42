//! `cargo xtask bench`: ratios of the engine to its peers, measured in turn on one machine.
//!
//! Decides: which cases are run, with whom, and that what was measured is printed even when the run ends early. Does not
//! decide whether a figure is good enough: goals are printed beside the figures, nothing is asserted.
//!
//! Method: one server core, one initiator core. All contenders of a case are up at once and filled once; in each round
//! each has one run, the others frozen (SIGSTOP) meanwhile, because a polling one would burn the server's core. A ratio
//! is the median of the ratios of each round, so that what slows the whole machine for a while falls out of it.
//! System calls and allocations are counted in runs of their own.

mod cases;
mod contender;
mod counters;
mod error;
mod host;
mod idle;
mod load;
mod machine;
mod nbd;
mod options;
mod process;
mod procfs;
mod ram;
mod report;
mod results;
mod rounds;
mod served_file;
mod stats;
mod table_call;

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub(crate) use error::Error;

use cases::{FILE, MALLOC, NBD};
use contender::{Driver, Setup, SpdkMachine};
use counters::Counters;
use load::{Initiator, Timing};
use machine::{CONGESTION_CONTROL, Interrupt};
use options::{Options, Selectable, Wants};
use results::{Results, Section};

/// Runs the benchmark that `args` (the words after `bench`) ask for and prints the report to standard output.
///
/// # Errors
/// A wrong option, a machine or binary that is not there, a program that failed, an interrupt. What had been measured
/// before is printed all the same.
pub(crate) fn run(args: &[String]) -> Result<(), Error> {
    let options = Options::parse(args)?;
    match options.wants {
        Wants::Help => {
            print(options::HELP);
            return Ok(());
        }
        Wants::List => {
            print(&case_names(&options).join("\n"));
            return Ok(());
        }
        Wants::Run => {}
    }
    if case_names(&options).is_empty() {
        return Err(Error::NothingSelected);
    }
    let setup = prepare(&options)?;
    let mut results = Results::default();
    let outcome = measure(&setup, &options, &mut results);
    print(&report::markdown(&results));
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", report::samples(&results));
        fs::write(path, text).map_err(|source| Error::Machine {
            operation: "write",
            path: path.clone(),
            source,
        })?;
    }
    outcome
}

/// Names of all cases the options select.
fn case_names(options: &Options) -> Vec<String> {
    let ram = [
        Section::Ram(Initiator::Ours),
        Section::Ram(Initiator::Spdk),
        Section::Plugins,
    ];
    let ram = ram
        .iter()
        .flat_map(|section| MALLOC.iter().map(|(point, _)| section.case_name(*point)));
    let file = [Driver::Uring, Driver::Epoll].map(Section::File);
    let file = file
        .iter()
        .flat_map(|section| FILE.iter().map(|point| section.case_name(*point)));
    let nbd = NBD.iter().map(|point| Section::Nbd.case_name(*point));
    let others = IDLE_CASES.iter().chain(&[TABLE_CALL_CASE]);
    ram.chain(nbd)
        .chain(file)
        .chain(others.map(|name| (*name).to_owned()))
        .filter(|name| options.selects(name))
        .collect()
}

/// Names of the idle cases: the engine on either driver, and SPDK.
const IDLE_CASES: [&str; 3] = ["idle/uring", "idle/epoll", "idle/spdk"];

/// Name of the case of a call through a plugin's table.
const TABLE_CALL_CASE: &str = "table-call";

/// Checks that everything the run needs is there, before anything is started.
fn prepare(options: &Options) -> Result<Setup, Error> {
    let cores = machine::claim_cores()?;
    let target = target_directory();
    let binaries = target.join("release");
    for name in ["io-engine", "io-engine-perf"] {
        require(&binaries.join(name), "build it: cargo build --release")?;
    }
    for name in ["taskset", "setpriv"] {
        require_program(name, "install util-linux: apt-get install util-linux")?;
    }
    let names = case_names(options);
    let has = |section: &str| names.iter().any(|name| name.starts_with(section));
    if has("file/") {
        require_program("fio", "install it: apt-get install fio")?;
    }
    if has("nbd/") {
        for (name, fix) in nbd::PROGRAMS {
            require_program(name, fix)?;
        }
        let client = binaries.join("io-engine-client");
        require(&client, "build it: cargo build --release")?;
    }
    if has("plugins/") {
        for file in contender::PLUGIN_FILES {
            require(&binaries.join(file), "build it: cargo build --release")?;
        }
    }
    let spdk = spdk_tree(options)?;
    let work = target.join("bench");
    contender::renew_directory(&work)?;
    Ok(Setup {
        cores,
        binaries,
        work,
        spdk,
        interrupt: Interrupt::install()?,
    })
}

/// The SPDK tree named by `SPDK_DIR`, if SPDK is to be measured.
fn spdk_tree(options: &Options) -> Result<Option<PathBuf>, Error> {
    if !options.allows(Selectable::Spdk) {
        return Ok(None);
    }
    let fix = "set SPDK_DIR to a built SPDK tree, or leave SPDK out: --contenders ours,epoll,limit";
    let named = std::env::var_os("SPDK_DIR").filter(|tree| !tree.is_empty());
    match named.map(PathBuf::from) {
        Some(tree) => {
            for part in [
                "build/bin/nvmf_tgt",
                "build/bin/spdk_nvme_perf",
                "scripts/rpc.py",
            ] {
                require(&tree.join(part), fix)?;
            }
            Ok(Some(tree))
        }
        None if options.demands(Selectable::Spdk) => Err(Error::Missing {
            path: PathBuf::from("SPDK_DIR"),
            fix,
        }),
        None => Ok(None),
    }
}

/// The directory Cargo builds into: this program lies in a profile's directory below it.
fn target_directory() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|program| program.ancestors().nth(2).map(Path::to_owned))
        .unwrap_or_else(|| PathBuf::from("target"))
}

fn require(path: &Path, fix: &'static str) -> Result<(), Error> {
    if path.exists() {
        Ok(())
    } else {
        Err(Error::Missing {
            path: path.to_owned(),
            fix,
        })
    }
}

fn require_program(name: &str, fix: &'static str) -> Result<(), Error> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&paths).any(|directory| directory.join(name).exists()) {
        Ok(())
    } else {
        Err(Error::Missing {
            path: PathBuf::from(name),
            fix,
        })
    }
}

/// Runs every selected case, adding to `results` as it goes.
fn measure(setup: &Setup, options: &Options, results: &mut Results) -> Result<(), Error> {
    results.notes = facts(setup, options);
    let needs_spdk = setup.spdk.is_some()
        && case_names(options)
            .iter()
            .any(|name| !name.starts_with("idle/") || name == "idle/spdk");
    // Declared first, so that it is undone last: after the programs that use it have ended.
    let _spdk_machine = if needs_spdk {
        let prepared = SpdkMachine::prepare(setup)?;
        results.notes.push(format!(
            "SPDK has no option for congestion control: the system's default was changed from {} to \
             {CONGESTION_CONTROL} for this run",
            prepared.congestion_before()
        ));
        Some(prepared)
    } else {
        None
    };
    let counters = if options.has_counters {
        Counters::probe(std::process::id())
    } else {
        Counters::none()
    };
    let wanted = [
        ("system calls", &counters.syscalls),
        ("allocations", &counters.allocations),
    ];
    for (what, counter) in wanted.into_iter().filter(|_| options.has_counters) {
        if counter.is_none() {
            let note = format!("{what} were not counted: this takes root, tracepoints and `perf`");
            results.notes.push(note);
        }
    }
    let run = Run {
        setup,
        options,
        counters: &counters,
        timing: Timing {
            warm_up: options.warm_up,
            measure: options.measure,
        },
    };
    ram::measure(&run, Section::Ram(Initiator::Ours), results)?;
    if setup.spdk.is_some() {
        ram::measure(&run, Section::Ram(Initiator::Spdk), results)?;
    }
    ram::measure(&run, Section::Plugins, results)?;
    nbd::measure(&run, results)?;
    served_file::measure(&run, Driver::Uring, results)?;
    if options.allows(Selectable::Epoll) {
        served_file::measure(&run, Driver::Epoll, results)?;
    }
    measure_idle(&run, results)?;
    if options.selects(TABLE_CALL_CASE) {
        results.table_calls = table_call::measure(setup)?;
    }
    Ok(())
}

/// What every part of a run needs.
struct Run<'a> {
    setup: &'a Setup,
    options: &'a Options,
    counters: &'a Counters,
    timing: Timing,
}

fn measure_idle(run: &Run<'_>, results: &mut Results) -> Result<(), Error> {
    let [uring, epoll, spdk] = IDLE_CASES.map(|name| run.options.selects(name));
    if uring {
        results.idle.push(idle::engine(run.setup, Driver::Uring)?);
    }
    if epoll && run.options.allows(Selectable::Epoll) {
        results.idle.push(idle::engine(run.setup, Driver::Epoll)?);
    }
    if spdk {
        results.idle.extend(idle::spdk(run.setup)?);
    }
    Ok(())
}

/// Facts that belong beside the figures.
fn facts(setup: &Setup, options: &Options) -> Vec<String> {
    let mut facts = vec![
        machine::description(setup.cores),
        format!(
            "{} rounds of {:?} after {:?} of warm-up; ratios are medians of the rounds' ratios [95 % interval]",
            options.pairs, options.measure, options.warm_up
        ),
        format!(
            "server on core {}, initiator and control plane on core {}; TCP congestion control {CONGESTION_CONTROL} \
             on both ends of every contender; loopback, one queue pair, random I/O; RAM disks of {} MiB, written once",
            machine::SERVER_CORE,
            machine::INITIATOR_CORE,
            contender::DISK_MIB
        ),
    ];
    if let Some(load) = machine::load_average().filter(|load| *load > LOAD_NOTED) {
        facts.push(format!(
            "load average {load:.2} at the start: other programs were running, so the rates are low and the intervals wide"
        ));
    }
    facts
}

/// Load average from which it is worth a note.
const LOAD_NOTED: f64 = 0.5;

/// Prints to standard output, which may be a closed pipe.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Tells the user how far the run is, on standard error.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words).unwrap()
    }

    #[test]
    fn every_case_can_be_named_and_no_name_is_twice() {
        let names = case_names(&options(""));
        assert_eq!(
            names.len(),
            3 * MALLOC.len() + NBD.len() + 2 * FILE.len() + IDLE_CASES.len() + 1
        );
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} appears twice");
        }
        let one = case_names(&options("--only malloc/io-engine-perf/4k-read-d8"));
        assert_eq!(one, ["malloc/io-engine-perf/4k-read-d8"]);
    }

    #[test]
    fn a_filter_that_fits_nothing_is_refused() {
        let refused = run(&["--only".to_owned(), "no-such-case".to_owned()]);
        assert!(matches!(refused, Err(Error::NothingSelected)));
    }

    #[test]
    fn what_is_missing_is_named_with_its_fix() {
        let error = require(Path::new("/no/such/io-engine"), "build it: cargo build").unwrap_err();
        assert_eq!(
            error.to_string(),
            "/no/such/io-engine is missing; build it: cargo build"
        );
        assert!(require_program("sh", "").is_ok());
        assert!(require_program("no-such-program", "").is_err());
    }
}
