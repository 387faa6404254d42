//! Command line client of the io-engine gRPC API.
//!
//! What it decides: commands, columns, units. What it does not: anything about storage; every command is one or two
//! calls of the API. Commands and columns of `bdev`, `controller`, `device`, `perf` and `stats` are those of the client
//! of OpenEBS Mayastor; `subsystem`, `inflight`, `reactors`, `plugin`, `bdev rescan`, `bdev state` and `stats device` are ours.
//!
//! Exit status: 0 done; 1 the engine refused or cannot be reached (one line on standard error with the gRPC status);
//! 2 the command line is wrong.

mod bdev;
mod cli;
mod context;
mod engine;
mod host;
mod output;
mod plugin;
mod stats;
mod subsystem;

use std::io::Write;
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::context::{Context, Failure};

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("cannot start", error.to_string()))
        .and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nothing is left to be done when standard error is closed.
            let _ = writeln!(std::io::stderr(), "io-engine-client: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what was asked for instead of a command (help, version), or in one line what is wrong with the command line.
fn misused(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NoCommand;
    if !error.use_stderr() || error.kind() == NoCommand {
        // Nothing is left to be done when the output is closed.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    // The first paragraph says what is wrong, the others are about usage in general.
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let problem = first.strip_prefix("error: ").unwrap_or(first);
    let problem: Vec<&str> = problem.split_whitespace().collect();
    let problem = problem.join(" ");
    let _ = writeln!(
        std::io::stderr(),
        "io-engine-client: {problem}; see io-engine-client --help"
    );
    ExitCode::from(2)
}

async fn run(cli: Cli) -> Result<(), Failure> {
    if cli.api_version != "v1" {
        return Err(Failure::new(
            "API_VERSION",
            format!(
                "'{}' is not served; set it to v1 or unset it",
                cli.api_version
            ),
        ));
    }
    let context = Context::connect(&cli).await?;
    match cli.command {
        Command::Bdev(command) => bdev::run(context, command).await,
        Command::Controller(command) => host::controller(context, command).await,
        Command::Device(command) => host::device(context, command).await,
        Command::Perf(command) => host::perf(context, command).await,
        Command::Stats(command) => stats::run(context, command).await,
        Command::Subsystem(command) => subsystem::run(context, command).await,
        Command::Inflight(filter) => engine::inflight(context, filter).await,
        Command::Reactors => engine::reactors(context).await,
        Command::Plugin(command) => plugin::run(context, command).await,
        Command::Info => host::info(context).await,
    }
}
