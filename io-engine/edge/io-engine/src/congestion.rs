//! Whether the kernel gives the TCP congestion control that is asked for; found out by asking for it on a socket.
//!
//! The lists in `/proc` only supply the text: root loads a module by asking, so that the list does not decide.

use std::fs;

use engine_config::{Config, ConfigError};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket, sockopt};

const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Checks `nvmf.tcp_congestion`.
///
/// # Errors
/// The kernel has no such congestion control, or this user may not choose it; the line names those there are.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    let Some(name) = &config.nvmf.tcp_congestion else {
        return Ok(());
    };
    let name = name.as_str();
    let tried = socket(AddressFamily::INET, SocketType::STREAM, None)
        .and_then(|socket| sockopt::set_tcp_congestion(&socket, name));
    let problem = match tried {
        Ok(()) => return Ok(()),
        Err(Errno::PERM) => format!(
            "this user may not choose '{name}'; use one of {}, or let everybody (sysctl net.ipv4.\
             tcp_allowed_congestion_control)",
            names(ALLOWED)
        ),
        Err(Errno::NOENT) => format!(
            "'{name}' is not available; use one of {}, or load it (modprobe tcp_{name})",
            names(AVAILABLE)
        ),
        Err(error) => format!(
            "'{name}' is refused by the system ({error}); use one of {}",
            names(AVAILABLE)
        ),
    };
    Err(config.bad_value(&config.nvmf.tcp_congestion_origin, problem))
}

/// The names in a file of `/proc`, separated by commas.
pub(crate) fn available() -> String {
    names(AVAILABLE)
}

fn names(file: &str) -> String {
    let names = fs::read_to_string(file).unwrap_or_default();
    let names: Vec<&str> = names.split_whitespace().collect();
    match names.is_empty() {
        true => format!("those in {file}"),
        false => names.join(", "),
    }
}
