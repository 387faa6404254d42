//! Runs the scenarios: `vm-tests [--list] [--keep] [--dynamic] [SCENARIO…]`.
//!
//! With `--dynamic` nothing linked into the engine is used: its devices and transports are loaded from files.
//!
//! Exit code 0 when all passed, 1 when one failed, 2 when nothing could be run.

use std::path::PathBuf;
use std::process::ExitCode;

use vm_tests::{Accel, Programs, Runner, Scenario, Verdict, prepare, report};

#[path = "../scenarios/mod.rs"]
mod scenarios;

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(failed) => ExitCode::from(u8::from(failed > 0)),
        Err(reason) => {
            report(&format!("vm-tests: {reason}"));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Vec<String>) -> Result<usize, String> {
    let (options, names): (Vec<_>, Vec<_>) = arguments
        .into_iter()
        .partition(|word| word.starts_with("--"));
    if let Some(unknown) = options
        .iter()
        .find(|option| !["--list", "--keep", "--dynamic"].contains(&option.as_str()))
    {
        return Err(format!(
            "unknown option {unknown}; usage: vm-tests [--list] [--keep] [--dynamic] [SCENARIO…]"
        ));
    }
    let has = |name: &str| options.iter().any(|option| option == name);
    if has("--list") {
        for scenario in scenarios::ALL {
            report(&format!("{:<20} {}", scenario.name, scenario.about));
        }
        return Ok(0);
    }
    let chosen = choose(&names)?;
    let target = target_dir()?;
    let programs = Programs::locate(&target, has("--dynamic"))?;
    let artifacts = prepare(&target.join("vm"))?;
    let (accel, reason) = Accel::detect();
    report(&format!("guests run with {accel:?} ({reason})"));
    let dir = target.join(format!("vm/run-{}", std::process::id()));
    let keep = has("--keep");
    let mut runner = Runner::new(artifacts, accel, programs, &dir, keep);
    let failed = chosen
        .iter()
        .filter(|scenario| runner.run(scenario) == Verdict::Failed)
        .count();
    drop(runner);
    if failed == 0 && !keep {
        std::fs::remove_dir_all(&dir).map_err(|e| format!("remove {}: {e}", dir.display()))?;
    }
    report(&format!(
        "{} passed, {failed} failed, 0 skipped",
        chosen.len() - failed
    ));
    Ok(failed)
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>, String> {
    if names.is_empty() {
        return Ok(scenarios::ALL.to_vec());
    }
    names
        .iter()
        .map(|name| {
            scenarios::ALL
                .iter()
                .copied()
                .find(|scenario| scenario.name == name)
                .ok_or_else(|| format!("no scenario {name}; see --list"))
        })
        .collect()
}

fn target_dir() -> Result<PathBuf, String> {
    let dir = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    // Paths become device names and subsystem names, which have a length limit: no detours in them.
    std::fs::create_dir_all(&dir)
        .and_then(|()| dir.canonicalize())
        .map_err(|e| format!("{}: {e}", dir.display()))
}
