//! What a call through a plugin's table costs: the benchmark `line` of the plugin host, timed and counted.
//!
//! Decides: how the benchmark is built and run, and that instructions are those callgrind counts between a short and a long run,
//! so that setting up and loading fall out. Does not do the calls: that is the benchmark's part.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::contender::Setup;
use super::error::Error;
use super::machine::SERVER_CORE;
use super::process::{Process, Program};
use super::results::TableCall;
use super::{note, require_program};
use crate::shell::cargo;

/// How long the benchmark may take.
const WITHIN: Duration = Duration::from_secs(120);
/// How long a run under callgrind may take.
const COUNT_WITHIN: Duration = Duration::from_secs(120);
/// Operations of the short and of the long run under callgrind.
const COUNTS: [u32; 2] = [1_000, 11_000];

/// Times and counts each operation of the benchmark.
pub(crate) fn measure(setup: &Setup) -> Result<Vec<TableCall>, Error> {
    let program = build()?;
    let run = Program::new("line", &program, SERVER_CORE, &["--json"]);
    let mut process = Process::start(&run, &setup.work)?;
    process.wait(WITHIN, &setup.interrupt)?;
    let mut calls: Vec<TableCall> = process.printed().lines().filter_map(parse).collect();
    if calls.is_empty() {
        return Err(super::load::unreadable("line", process.output()));
    }
    if require_program("valgrind", "").is_err() {
        note(format_args!(
            "instructions of a table call are not counted: install valgrind"
        ));
        return Ok(calls);
    }
    for call in &mut calls {
        let count = |way| instructions(setup, &program, &call.operation, way);
        call.direct_instructions = Some(count("direct")?);
        call.tables_instructions = Some(count("tables")?);
    }
    Ok(calls)
}

/// Builds the benchmark; gives its path.
fn build() -> Result<PathBuf, Error> {
    let mut command = cargo(&[
        "bench",
        "--quiet",
        "-p",
        "plugin-host",
        "--bench",
        "line",
        "--no-run",
        "--message-format=json",
    ]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| Error::Start {
            program: PathBuf::from("cargo"),
            source,
        })?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let found = printed.lines().filter_map(executable).next_back();
    found.ok_or(Error::Missing {
        path: PathBuf::from("the benchmark `line`"),
        fix: "see what `cargo bench -p plugin-host --bench line --no-run` says",
    })
}

/// The program a message of Cargo's is about, if it is one of a finished benchmark.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    Some(PathBuf::from(message.get("executable")?.as_str()?))
}

/// A line of the benchmark's.
fn parse(line: &str) -> Option<TableCall> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some(TableCall {
        operation: value.get("operation")?.as_str()?.to_owned(),
        direct_ns: value.get("direct_ns")?.as_f64()?,
        tables_ns: value.get("tables_ns")?.as_f64()?,
        direct_instructions: None,
        tables_instructions: None,
    })
}

/// Instructions of one operation.
fn instructions(setup: &Setup, program: &Path, operation: &str, way: &str) -> Result<f64, Error> {
    let mut totals = [0.0; COUNTS.len()];
    for (total, count) in totals.iter_mut().zip(COUNTS) {
        let run = Program::new(
            "valgrind",
            "valgrind",
            SERVER_CORE,
            &["--tool=callgrind", "--callgrind-out-file=/dev/null"],
        )
        .with(program)
        .with("--instructions")
        .with(operation)
        .with(way)
        .with(count.to_string());
        let mut process = Process::start(&run, &setup.work)?;
        process.wait(COUNT_WITHIN, &setup.interrupt)?;
        *total = collected(&process.printed())
            .ok_or_else(|| super::load::unreadable("valgrind", process.output()))?;
    }
    let [short, long] = totals;
    Ok((long - short) / f64::from(COUNTS[1] - COUNTS[0]))
}

/// The number behind `Collected :` in what callgrind prints.
fn collected(printed: &str) -> Option<f64> {
    let line = printed.lines().find(|line| line.contains("Collected :"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_benchmark_and_of_callgrind_are_read() {
        let line = "{\"operation\":\"flush\",\"direct_ns\":2.5,\"tables_ns\":14.0}";
        let call = parse(line).unwrap();
        assert_eq!(
            (call.operation.as_str(), call.direct_ns, call.tables_ns),
            ("flush", 2.5, 14.0)
        );
        assert_eq!(parse("Compiling x"), None);
        let printed = "==7== Events    : Ir\n==7== Collected : 1238431\n==7==\n";
        assert_eq!(collected(printed), Some(1_238_431.0));
        assert_eq!(collected("==7== Events    : Ir\n"), None);
    }

    #[test]
    fn the_program_is_named_by_cargo() {
        let message = "{\"reason\":\"compiler-artifact\",\"executable\":\"/t/line-1\"}";
        assert_eq!(executable(message), Some(PathBuf::from("/t/line-1")));
        let library = "{\"reason\":\"compiler-artifact\",\"executable\":null}";
        assert_eq!(executable(library), None);
    }
}
