//! The commands the README names: `cargo xtask run | test | vm | bench`.
//!
//! Does: puts the workspace's tools together, so that a user types two commands.
//! Does not: contain product logic, or do anything a person could not do by hand with the commands it prints.
//!
//! Invariants: exit code 0 means all was well, 1 that something failed, 2 that the command could not start.

use std::process::ExitCode;

mod bench;
mod packages;
mod run;
mod shell;
mod test;

const USAGE: &str = "\
cargo xtask <command>

  run   [--state-dir DIR] [--grpc ADDR:PORT] [--nvmf ADDR:PORT] [--size-mib N]
        build the engine, start it with a file disk of 1 GiB exported, print the command that connects to it
  test  [--quick] [--filter TEXT]
        format, lints, every test on both drivers, then the real-kernel scenarios; --quick leaves those out
  vm    [--list] [--keep] [--dynamic] [SCENARIO...]
        only the real-kernel scenarios; --dynamic runs them with every device and transport loaded from a plugin file
  bench [OPTIONS...]
        figures against the limit of this machine and against SPDK; see cargo xtask bench --help
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match command.as_str() {
        "run" => run::run(&rest),
        run::EXPORT_COMMAND => run::export(&rest),
        "test" => test::run(&rest),
        "vm" => test::vm(&rest),
        "bench" => bench::run(&rest)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| error.to_string()),
        "" | "help" | "--help" | "-h" => {
            shell::say(USAGE);
            Ok(ExitCode::SUCCESS)
        }
        other => Err(format!("unknown command {other}\n\n{USAGE}")),
    };
    result.unwrap_or_else(|reason| {
        shell::say(&format!("xtask: {reason}"));
        ExitCode::from(2)
    })
}
