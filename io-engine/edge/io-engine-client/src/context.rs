//! One connection, what to print, and the line a failure prints.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use serde::Serialize;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::cli::{Cli, Output};
use crate::output::{Table, Units};

/// Time to reach the engine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one answer; opening a device that hangs is given up by the engine before.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);
/// Characters of a command that are repeated in front of why it failed.
const WHAT_LEN_MAX: usize = 200;
/// Port of the engine's gRPC server.
const PORT: u16 = 10124;

/// A failed command: what was tried and why it did not work.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    why: String,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a server put into its message.
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let what = one_line(&self.what);
        match what.char_indices().nth(WHAT_LEN_MAX) {
            Some((end, _)) => write!(f, "{}..: {}", &what[..end], one_line(&self.why)),
            None => write!(f, "{what}: {}", one_line(&self.why)),
        }
    }
}

/// `NOT_FOUND`, as gRPC spells it.
fn code_name(status: &Status) -> String {
    let mut name = String::new();
    for (index, letter) in format!("{:?}", status.code()).chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The connection and what to print.
pub(crate) struct Context {
    channel: Channel,
    bind: String,
    pub(crate) units: Option<Units>,
    output: Output,
    quiet: bool,
    verbose: bool,
}

impl Context {
    pub(crate) async fn connect(cli: &Cli) -> Result<Self, Failure> {
        let bind = complete_uri(&cli.bind)
            .map_err(|why| Failure::new(format!("--bind {}", cli.bind), why))?;
        let bad = |error: tonic::transport::Error| {
            let mut why = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                why = error.to_string();
                source = error.source();
            }
            Failure::new(
                &bind,
                format!(
                    "cannot be reached ({}); is io-engine running there? name another with --bind",
                    plain(&why)
                ),
            )
        };
        let endpoint = Endpoint::from_shared(bind.clone()).map_err(bad)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        let channel = endpoint.connect().await.map_err(bad)?;
        Ok(Self {
            channel,
            bind: bind.clone(),
            units: cli.units,
            output: cli.output,
            quiet: cli.quiet,
            verbose: cli.verbose > 0,
        })
    }

    /// The connection, for a stub.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Awaits an answer; a refusal becomes a [`Failure`] about `what`.
    pub(crate) async fn call<T>(
        &self,
        what: impl fmt::Display,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        let answer = call.await;
        if self.verbose {
            let took = start.elapsed().as_secs_f64() * 1e3;
            let _ = writeln!(std::io::stderr(), "{}: {what}: {took:.1} ms", self.bind);
        }
        answer.map(Response::into_inner).map_err(|status| {
            let mut why = format!("{}: {}", code_name(&status), status.message());
            // Without a gRPC status of the server there is a reason on this side.
            if std::error::Error::source(&status).is_some() {
                why = format!(
                    "{why}: {} does not answer as a gRPC server; is that the engine's gRPC port? name another with --bind",
                    self.bind
                );
            }
            Failure::new(what.to_string(), why)
        })
    }

    /// Prints a reply: as JSON, or as the table `table` makes of it.
    pub(crate) fn table<T: Serialize>(
        &self,
        reply: &T,
        table: impl FnOnce(&T) -> Table,
    ) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(reply),
            Output::Default => print(&table(reply).render(!self.quiet)),
        }
    }

    /// Prints a reply: as JSON, or as the line `line` makes of it unless `--quiet`.
    pub(crate) fn line<T: Serialize>(
        &self,
        reply: &T,
        line: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.json(reply),
            Output::Default if self.quiet => Ok(()),
            Output::Default => print(&format!("{}\n", line(reply))),
        }
    }

    fn json<T: Serialize>(&self, reply: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(reply)
            .map_err(|error| Failure::new("output", error.to_string()))?;
        print(&format!("{text}\n"))
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        // The reader has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::new("output", error.to_string())),
    }
}

/// The operating system's words without its error number.
fn plain(text: &str) -> &str {
    text.split(" (os error").next().unwrap_or_default()
}

/// Fills in scheme and port; says what to write where that is not possible.
fn complete_uri(bind: &str) -> Result<String, String> {
    let (scheme, rest) = bind.split_once("://").unwrap_or(("http", bind));
    if scheme != "http" {
        return Err(format!(
            "'{scheme}' is not spoken; write http://HOST:{PORT}"
        ));
    }
    let rest = rest.trim_end_matches('/');
    let bare_v6 = rest.parse::<std::net::Ipv6Addr>().is_ok();
    let host = if bare_v6 {
        format!("[{rest}]")
    } else {
        rest.to_owned()
    };
    let after_host = host
        .rsplit_once(']')
        .map_or(host.as_str(), |(_, after)| after);
    match after_host.rsplit_once(':') {
        _ if host.is_empty() || host.starts_with(':') => Err(format!(
            "names no host; write HOST, HOST:PORT or http://HOST:{PORT}"
        )),
        None => Ok(format!("{scheme}://{host}:{PORT}")),
        Some((_, port)) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(format!("{scheme}://{host}")),
            _ => Err(format!(
                "'{port}' is not a port; give a number from 1 to 65535"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_and_port_are_filled_in() {
        for (given, uri) in [
            ("10.1.2.3", "http://10.1.2.3:10124"),
            ("10.1.2.3:99", "http://10.1.2.3:99"),
            ("http://node-1", "http://node-1:10124"),
            ("http://node-1:1/", "http://node-1:1"),
            ("::1", "http://[::1]:10124"),
            ("[::1]:99", "http://[::1]:99"),
            ("http://[::1]", "http://[::1]:10124"),
        ] {
            assert_eq!(complete_uri(given).as_deref(), Ok(uri));
        }
        for bad in [
            "",
            "http://",
            ":99",
            "https://node-1",
            "ftp://node-1",
            "h:99999",
            "h:0",
            "h:x",
        ] {
            assert!(complete_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_failure_is_one_line_with_the_grpc_code() {
        assert_eq!(code_name(&Status::not_found("x")), "NOT_FOUND");
        assert_eq!(
            code_name(&Status::invalid_argument("x")),
            "INVALID_ARGUMENT"
        );
        let failure = Failure::new("bdev share m", "NOT_FOUND: no\n such");
        assert_eq!(failure.to_string(), "bdev share m: NOT_FOUND: no such");
        let failure = Failure::new(format!("bdev create {}\nx", "ä".repeat(5000)), "no");
        let text = failure.to_string();
        assert!(
            text.ends_with("ä..: no") && text.chars().count() < 250,
            "{text}"
        );
    }
}
