//! The io-engine daemon.
//!
//! What it decides: the order of starting and stopping, what is printed where, exit statuses. What it does not: anything
//! about storage ([`engine`]), the API ([`engine_grpc`]) or what a setting may be ([`engine_config`]).
//!
//! Standard output carries one line, `ready grpc=ADDR:PORT nvmf=ADDR:PORT[,..]`, with `metrics=ADDR:PORT` where metrics
//! are served, once everything is served; logs go to standard error. Exit status: 0 after an orderly stop; 1 when the
//! engine could not start or failed; 2 when a setting is wrong (one line names place, key and fix); 130 when a further
//! SIGINT cut the stop short.

mod cli;
mod congestion;
mod doctor;
mod driver;
mod holder;
mod logging;
mod metrics_server;
mod notify;
mod plugins;
mod run;

use std::io::Write;
use std::process::ExitCode;

use engine::control::declared;
use engine_config::{Config, ConfigError, EXIT_CONFIG, Environment};

/// Version text, as it is printed and sent to clients.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why the daemon did not start or stopped by itself. Prints as one line.
#[derive(Debug)]
enum Fatal {
    /// A setting is wrong.
    Config(ConfigError),
    /// Something else.
    Other(String),
}

impl From<ConfigError> for Fatal {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(Fatal::Config(error)) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_CONFIG)
        }
        Err(Fatal::Other(text)) => {
            complain(&text);
            ExitCode::FAILURE
        }
    }
}

/// One line on standard error; there is nobody to tell when it is closed.
fn complain(text: &str) {
    let line: Vec<&str> = text.split_whitespace().collect();
    let _ = writeln!(std::io::stderr(), "io-engine: {}", line.join(" "));
}

fn start() -> Result<ExitCode, Fatal> {
    let request = cli::parse(std::env::args_os())?;
    if let Some(cli::PluginRequest::Probe) = request.plugin {
        return plugins::probe();
    }
    let environment = Environment::read();
    let config = Config::load(&request.overrides, &environment)?;
    if let Some(cli::PluginRequest::Command(command)) = &request.plugin {
        return plugins::run(command, &config);
    }
    declared::check(&config.devices, |uri| plugins::check_uri(&config, uri))
        .map_err(|mistake| config.bad_device(&mistake.key, mistake.problem))?;
    if request.doctor {
        return doctor::run(&config, &environment);
    }
    congestion::check(&config)?;
    driver::check(&config)?;
    logging::init(&config)?;
    run::run(&config, &environment)
}
