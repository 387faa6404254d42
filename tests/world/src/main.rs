//! `play`: one seed again. `long`: many seeds, and what they covered. `cuts`: every moment of each metadata operation. `faults`: single faults.
//! `forge`: hostile images.

use std::process::ExitCode;

use pool_core::Mutation;
use world::cuts::{Explorer, METADATA, run};
use world::{Plan, play};

const MUTATIONS: [Mutation; 20] = [
    Mutation::ReuseBeforeDiscard,
    Mutation::SkipHostFlush,
    Mutation::SkipRootBarrier,
    Mutation::ReuseAtOnce,
    Mutation::InPlaceUnsettled,
    Mutation::InPlaceBeforeOpen,
    Mutation::InPlaceShared,
    Mutation::TrustTail,
    Mutation::SkipVoid,
    Mutation::SkipAdoption,
    Mutation::SealBeforePage,
    Mutation::TrimBeforeRoot,
    Mutation::ReuseNodesAtOnce,
    Mutation::ForgetOpenRegions,
    Mutation::ForgetDisplaced,
    Mutation::SnapshotWithoutDrain,
    Mutation::FreeShared,
    Mutation::MoveWithoutMirror,
    Mutation::ExchangeHalfCopied,
    Mutation::IgnoreReserve,
];

struct Arguments {
    seed: u64,
    seeds: u64,
    failures_max: u64,
    /// Most volatile blocks of which every subset is cut.
    subsets: usize,
    /// Replicas of a big pool, and snapshots of each.
    replicas: u64,
    snapshots: u64,
    /// Extents of a generated pool; 0 plays a small one.
    extents: u64,
    /// What is timed, and how often.
    operation: Option<String>,
    count: u64,
    plan: Plan,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seed: 1,
        seeds: 50_000,
        failures_max: 10,
        subsets: 12,
        replicas: 100,
        snapshots: 10,
        extents: 0,
        operation: None,
        count: 50_000,
        plan: Plan::default(),
    };
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|error| format!("{word} {value}: {error}"))
        };
        match word.as_str() {
            "--seed" => arguments.seed = number()?,
            "--seeds" => arguments.seeds = number()?,
            "--failures" => arguments.failures_max = number()?,
            "--lives" => arguments.plan.lives = number()?,
            "--events" => arguments.plan.events = number()?,
            "--side-cuts" => arguments.plan.side_cuts = number()?,
            "--trace" => arguments.plan.trace = value == "yes",
            "--errors" => arguments.plan.errors = number()?,
            "--stuck" => arguments.plan.stuck = number()?,
            "--replicas" => arguments.replicas = number()?,
            "--snapshots" => arguments.snapshots = number()?,
            "--extents" => arguments.extents = number()?,
            "--operation" => arguments.operation = Some(value.clone()),
            "--count" => arguments.count = number()?,
            "--mix" => arguments.plan.mix = number()?,
            "--subsets" => arguments.subsets = number()? as usize,
            "--disks" => arguments.plan.disks = number()?,
            "--mutation" => {
                let named = MUTATIONS
                    .into_iter()
                    .find(|mutation| format!("{mutation:?}") == value);
                arguments.plan.mutation = named.unwrap_or(Mutation::None);
            }
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(arguments)
}

/// A hundred single faults, or a hundred forged images, for each seed.
#[expect(
    clippy::print_stdout,
    reason = "a command: what it found is its output"
)]
fn hurt(command: &str, arguments: &Arguments) -> ExitCode {
    let (mut count, mut reported) = (0, 0);
    for seed in arguments.seed..arguments.seed + arguments.seeds {
        if command == "forge" {
            count += world::forge::forge(seed, 100);
            continue;
        }
        match world::faults::inject(seed, 100) {
            Ok(injected) => {
                (count, reported) = (count + injected.count, reported + injected.reported);
            }
            Err(what) => {
                println!("{what}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{count} images, {reported} with a block reported as lost, none wrong");
    ExitCode::SUCCESS
}

/// Every metadata operation cut at every moment, over subsets of what is volatile.
#[expect(
    clippy::print_stdout,
    reason = "a command: what it found is its output"
)]
fn cut(arguments: &Arguments) -> ExitCode {
    for disks in [1, 2] {
        let mutation = arguments.plan.mutation;
        let mut explorer = Explorer::new(arguments.subsets, arguments.seed, mutation);
        if let Err(what) = run(METADATA, disks, &mut explorer) {
            println!(
                "cuts --seed {} --subsets {}: {what}",
                arguments.seed, arguments.subsets
            );
            return ExitCode::FAILURE;
        }
        println!(
            "{disks} disks: {} cuts, moments in full by volatile blocks {:?}",
            explorer.cuts, explorer.in_full
        );
    }
    ExitCode::SUCCESS
}

/// A pool of 16 TiB on two disks: what opening it takes.
#[expect(
    clippy::print_stdout,
    reason = "a command: what it found is its output"
)]
fn big(arguments: &Arguments) -> ExitCode {
    let shape = (arguments.replicas, arguments.snapshots);
    let opened = match arguments.extents {
        0 => world::big::open_big(shape.0, shape.1).map(|opened| opened.to_string()),
        extents => world::huge::open_huge(shape, extents).map(|opened| opened.to_string()),
    };
    match opened {
        Ok(opened) => {
            println!("{opened}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("{what}");
            ExitCode::FAILURE
        }
    }
}

/// What operations cost the processor.
#[expect(
    clippy::print_stdout,
    reason = "a command: what it found is its output"
)]
fn cpu(arguments: &Arguments) -> ExitCode {
    let all = world::cpu::OPERATIONS.map(str::to_owned).to_vec();
    let wanted = arguments.operation.clone().map_or(all, |one| vec![one]);
    for operation in wanted {
        let count = match operation.as_str() {
            "snapshot" => arguments.count.min(2000),
            _ => arguments.count,
        };
        match world::cpu::time(&operation, count) {
            Ok(cost) => println!("{cost}"),
            Err(what) => {
                println!("{operation}: {what}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command: what it found is its output"
)]
fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let arguments = match parse(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let seeds = match command.as_str() {
        "faults" | "forge" => return hurt(&command, &arguments),
        "cuts" => return cut(&arguments),
        "big" => return big(&arguments),
        "cpu" => return cpu(&arguments),
        "play" => 1,
        "long" => arguments.seeds,
        _ => {
            eprintln!(
                "world play --seed N | cuts [--subsets N] | big [--replicas N --snapshots N --extents N] | cpu [--operation NAME --count N] | faults --seeds N | forge --seeds N | long --seeds N [--seed FIRST] [--lives N --events N --side-cuts N --disks N --errors N --stuck N --mutation NAME]"
            );
            return ExitCode::FAILURE;
        }
    };
    let (mut cuts, mut writes, mut failures) = (0, 0, 0);
    for seed in arguments.seed..arguments.seed + seeds {
        let mut plan = arguments.plan;
        if command == "long" && arguments.plan.disks == 1 {
            plan.disks = 1 + seed % 2;
        }
        match play(seed, plan) {
            Ok(played) => (cuts, writes) = (cuts + played.cuts, writes + played.writes),
            Err(failure) => {
                failures += 1;
                println!("{failure}");
                if failures >= arguments.failures_max {
                    break;
                }
            }
        }
    }
    println!("{seeds} seeds, {cuts} cuts, {writes} device writes, {failures} failures");
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
