//! `cargo xtask test` and `cargo xtask vm`: everything CI runs, in one command, with one closing line.
//!
//! Decides: the order of steps, what is left out where the machine forbids it, and the counts.
//! Does not: hide anything. Each step's output is shown, each step left out is named with its reason and counted.

use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::packages;
use crate::shell::{cargo, refuse_rest, say, take_flag, take_value, target_dir, tee, workspace};

/// Environment variable by which tests of the engine pick the reactor's driver.
const DRIVER_VARIABLE: &str = "IO_ENGINE_TEST_DRIVER";

/// Scenarios that the tests run a second time with nothing linked into the engine: data through a file system, and a restart. The
/// whole set takes `cargo xtask vm --dynamic`.
const DYNAMIC_SCENARIOS: [&str; 2] = ["ext4", "crash"];

/// Counts over all steps; a step that is one program counts as one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Tests of the running program that said they skip themselves; its harness will count them as passed.
    skipping: usize,
}

impl Tally {
    fn add_step(&mut self, name: &str, succeeded: bool) {
        if succeeded {
            self.passed += 1;
        } else {
            say(&format!("FAILED: {name}"));
            self.failed += 1;
        }
    }

    fn skip(&mut self, name: &str, reason: &str) {
        say(&format!("skipped: {name}: {reason}"));
        self.skipped += 1;
    }

    /// Adds what a line of a test program says: `skipped: NAME: REASON` of a test that finds the machine unfit, libtest's
    /// result line, or the scenarios' closing line.
    fn add_line(&mut self, line: &str) {
        if line.starts_with("skipped: ") {
            self.skipping += 1;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let result = result.split_once(". ").map_or(result, |(_, counts)| counts);
            let skipping = std::mem::take(&mut self.skipping);
            self.passed += count_before(result, "passed").saturating_sub(skipping);
            self.failed += count_before(result, "failed");
            self.skipped += count_before(result, "ignored") + skipping;
        } else if is_closing_line(line) {
            self.passed += count_before(line, "passed");
            self.failed += count_before(line, "failed");
            self.skipped += count_before(line, "skipped");
        }
    }
}

/// Runs every test.
///
/// # Errors
/// A sentence, when arguments or packages are not as needed; a failing test is not an error but the exit code.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let mut arguments = arguments.to_vec();
    let quick = take_flag(&mut arguments, "--quick");
    let filter = take_value(&mut arguments, "--filter")?;
    refuse_rest(&arguments)?;
    if filter.is_none() {
        packages::require_components()?;
    }
    if !quick {
        packages::require().map_err(|reason| {
            format!("{reason}\nor leave the real kernel out: cargo xtask test --quick")
        })?;
    }
    let mut tally = Tally::default();
    let start = Instant::now();
    if filter.is_none() {
        step(
            &mut tally,
            "format",
            &mut cargo(&["fmt", "--all", "--check"]),
        )?;
        let clippy = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ];
        step(&mut tally, "lints", &mut cargo(&clippy))?;
    }
    let mut drivers = vec!["epoll"];
    match ring_refusal() {
        None => drivers.insert(0, "uring"),
        Some(reason) => tally.skip("tests on the io_uring driver", &reason),
    }
    for driver in drivers {
        cargo_tests(&mut tally, driver, filter.as_deref())?;
    }
    layout_tests(&mut tally, filter.as_deref())?;
    replay_corpora(&mut tally, filter.as_deref())?;
    if quick {
        tally.skip("real-kernel scenarios", "--quick");
    } else {
        let names = scenario_names(filter.as_deref())?;
        scenarios(&mut tally, &names)?;
        dynamic_scenarios(&mut tally, &names)?;
    }
    say(&format!("\nran for {} s", start.elapsed().as_secs()));
    Ok(close(&tally))
}

/// Runs the real-kernel scenarios alone; arguments go to the scenario runner.
///
/// # Errors
/// A sentence, when packages are missing or a program does not start.
pub(crate) fn vm(arguments: &[String]) -> Result<ExitCode, String> {
    let list = arguments.iter().any(|word| word == "--list");
    let dynamic = arguments.iter().any(|word| word == "--dynamic");
    if !list {
        packages::require()?;
        build_release(dynamic)?;
    }
    let succeeded = tee(vm_command().args(arguments), |_| {})?;
    Ok(if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn step(tally: &mut Tally, name: &str, command: &mut Command) -> Result<(), String> {
    say(&format!("\n== {name}"));
    let succeeded = tee(command, |_| {})?;
    tally.add_step(name, succeeded);
    Ok(())
}

/// The workspace's tests with one driver; a run that ends badly without a failed test (it did not build) counts.
fn cargo_tests(tally: &mut Tally, driver: &str, filter: Option<&str>) -> Result<(), String> {
    say(&format!("\n== tests, driver {driver}"));
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast", "--quiet"]);
    command.args(filter).env(DRIVER_VARIABLE, driver);
    count_tests(tally, &format!("tests, driver {driver}"), &mut command)
}

/// The check of plugins' root modules, which is a feature.
fn layout_tests(tally: &mut Tally, filter: Option<&str>) -> Result<(), String> {
    say("\n== layouts of plugins");
    let mut command = cargo(&[
        "test",
        "--quiet",
        "--package",
        "plugin-host",
        "--features",
        "layout",
    ]);
    command.args(["--test", "layout"]).args(filter);
    count_tests(tally, "layouts of plugins", &mut command)
}

/// Feeds every committed fuzz input to its target, on the stable toolchain.
fn replay_corpora(tally: &mut Tally, filter: Option<&str>) -> Result<(), String> {
    say("\n== fuzz corpora");
    let manifest = workspace().join("tests/fuzz/Cargo.toml");
    if !manifest.exists() {
        tally.skip("fuzz corpora", "tests/fuzz/Cargo.toml is not there");
        return Ok(());
    }
    let mut command = cargo(&["test", "--quiet", "--manifest-path"]);
    command.arg(manifest).args(filter);
    count_tests(tally, "fuzz corpora", &mut command)
}

fn count_tests(tally: &mut Tally, name: &str, command: &mut Command) -> Result<(), String> {
    let failed_before = tally.failed;
    let succeeded = tee(command, |line| tally.add_line(line))?;
    if !succeeded && tally.failed == failed_before {
        tally.add_step(name, false);
    }
    Ok(())
}

fn scenarios(tally: &mut Tally, names: &[String]) -> Result<(), String> {
    say("\n== real-kernel scenarios");
    if names.is_empty() {
        return Ok(());
    }
    build_release(false)?;
    count_tests(tally, "real-kernel scenarios", vm_command().args(names))
}

/// Those of [`DYNAMIC_SCENARIOS`] that are among `names`, on an engine whose devices and transports come from files.
fn dynamic_scenarios(tally: &mut Tally, names: &[String]) -> Result<(), String> {
    let step = "real-kernel scenarios, every plugin from a file";
    let chosen: Vec<&str> = DYNAMIC_SCENARIOS
        .into_iter()
        .filter(|name| names.iter().any(|other| other == name))
        .collect();
    if chosen.is_empty() {
        return Ok(());
    }
    say(&format!("\n== {step}"));
    build_release(true)?;
    count_tests(tally, step, vm_command().arg("--dynamic").args(chosen))
}

fn scenario_names(filter: Option<&str>) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let output = vm_command()
        .arg("--list")
        .output()
        .map_err(|e| format!("list scenarios: {e}"))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if filter.is_none_or(|text| name.contains(text)) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn vm_command() -> Command {
    let mut command = cargo(&["run", "--quiet", "--package", "vm-tests", "--"]);
    command.env("CARGO_TARGET_DIR", target_dir());
    command
}

/// Crates of the engine's own plugins as files.
const PLUGIN_CRATES: [&str; 5] = [
    "device-mem-plugin",
    "device-uring-plugin",
    "transport-nvmf-tcp-plugin",
    "transport-nbd-plugin",
    "device-fault-plugin",
];

/// Builds what the scenarios run: engine and client, and the plugins as files where they come from there.
fn build_release(dynamic: bool) -> Result<(), String> {
    if std::env::var_os("IO_ENGINE_BIN").is_some() {
        return Ok(());
    }
    let mut build = cargo(&["build", "--release", "--quiet"]);
    build.args(["-p", "io-engine", "-p", "io-engine-client"]);
    for name in PLUGIN_CRATES.into_iter().filter(|_| dynamic) {
        build.args(["-p", name]);
    }
    if tee(&mut build, |_| {})? {
        Ok(())
    } else {
        Err("the engine did not build".into())
    }
}

/// Why io_uring cannot be used on this machine; `None` when the kernel does not forbid it.
fn ring_refusal() -> Option<String> {
    let switch = "/proc/sys/kernel/io_uring_disabled";
    match std::fs::read_to_string(switch).as_deref().map(str::trim) {
        Ok("2") => Some(format!("{switch} is 2")),
        Ok("1") if !packages::is_root() => Some(format!("{switch} is 1 and this user is not root")),
        _ => None,
    }
}

fn close(tally: &Tally) -> ExitCode {
    say(&format!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    ));
    if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Number that stands before `word` in a line of counts; 0 when there is none.
fn count_before(line: &str, word: &str) -> usize {
    line.split([';', ',', ' '])
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .windows(2)
        .find(|pair| pair[1] == word)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

/// Whether a line is `N passed, N failed, N skipped` and nothing else.
fn is_closing_line(line: &str) -> bool {
    let words: Vec<_> = line.split(", ").collect();
    words.len() == 3
        && words
            .iter()
            .zip(["passed", "failed", "skipped"])
            .all(|(part, word)| {
                part.strip_suffix(word)
                    .is_some_and(|number| number.trim().parse::<usize>().is_ok())
            })
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn counts_add_up_over_test_programs_and_scenarios() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.1s",
            "16 passed, 1 failed, 4 skipped",
            "a line about 99 passed, 99 failed, 99 skipped",
            "skipped: a_disk: no loop device: losetup: Permission denied",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            tally.add_line(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 32,
                failed: 3,
                skipped: 6,
                skipping: 0,
            }
        );
    }
}
