//! The command line: ours, and upstream's where it means something here.
//!
//! Upstream flags about things this engine does not have are refused by name with the reason. Accepting them silently
//! would leave an operator believing that they work.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use engine_config::{ConfigError, ConfigErrorKind, Overrides};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Request {
    /// Settings.
    pub(crate) overrides: Overrides,
    /// Check the surroundings and exit.
    pub(crate) doctor: bool,
    /// Deal with plugins and exit.
    pub(crate) plugin: Option<PluginRequest>,
}

/// What to do with plugins in place of serving.
#[derive(Debug)]
pub(crate) enum PluginRequest {
    /// An operator's command.
    Command(PluginCommand),
    /// Be the child of a probe.
    Probe,
}

/// Storage engine: serves disks, files and memory as NVMe/TCP namespaces.
#[derive(Debug, Parser)]
#[command(name = "io-engine", version = crate::VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// List, inspect and check plugins
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Load a plugin named on standard input, on behalf of another io-engine
    #[command(hide = true)]
    PluginProbe,
    /// Check limits, kernel, ports, state directory and memory; each finding comes with its fix
    Doctor(Box<Flags>),
}

/// What to do with plugins.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List the plugins this engine would start with
    List {
        /// Configuration file (TOML)
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print what a file says of itself, without loading it
    Info {
        /// The plugin
        file: PathBuf,
    },
    /// Load a file and run the conformance kit on a device of it, overwriting what is on the device
    Check {
        /// The plugin
        file: PathBuf,
        /// URI of a device of at least 4 MiB; without it the file is only loaded
        #[arg(long)]
        uri: Option<String>,
        /// The device forgets what is written
        #[arg(long)]
        discards_data: bool,
    },
}

#[derive(Debug, Args)]
struct Flags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the state store [default: /var/lib/io-engine as root, else $XDG_STATE_HOME/io-engine]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address of the gRPC server [default: [::]:10124]
    #[arg(long, value_name = "ADDR:PORT")]
    grpc: Option<String>,
    /// Address to serve NVMe/TCP on, repeatable [default: [::]:8420]
    #[arg(long, value_name = "ADDR:PORT")]
    nvmf: Vec<String>,
    /// Address of the Prometheus endpoint; none is served if not given
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<String>,
    /// How reactors wait and do file I/O: auto, uring or epoll
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// TCP congestion control of NVMe/TCP connections
    #[arg(long, value_name = "NAME")]
    tcp_congestion: Option<String>,
    /// CPUs to run reactors on, e.g. 1,2,10-20; overrides -m
    #[arg(short = 'l', value_name = "CPULIST")]
    cpus: Option<String>,
    /// CPUs to run reactors on, as a hexadecimal mask
    #[arg(short = 'm', value_name = "MASK")]
    mask: Option<String>,
    /// Name of this node
    #[arg(short = 'N', value_name = "NODE")]
    node_name: Option<String>,
    /// Log format: human, compact or json, with color, nocolor, date, nodate, host, nohost
    #[arg(short = 'F', value_name = "FORMAT")]
    log_format: Option<String>,
    /// Log filter, e.g. info or warn,engine=debug
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// Interface to serve NVMe/TCP on: name:eth0, mac:.., ip:.., subnet:.. or a bare name
    #[arg(short = 'T', long = "tgt-iface", value_name = "IFACE")]
    interface: Option<String>,
    /// Older form of --grpc
    #[arg(short = 'g', long, value_name = "IP[:PORT]")]
    grpc_endpoint: Option<String>,
    /// IP address of the gRPC server
    #[arg(
        long = "grpc-ip",
        value_name = "IP",
        conflicts_with = "grpc_ip_positional"
    )]
    grpc_ip: Option<String>,
    /// Port of the gRPC server
    #[arg(
        long = "grpc-port",
        value_name = "PORT",
        conflicts_with = "grpc_port_positional"
    )]
    grpc_port: Option<String>,
    /// As --grpc-ip
    #[arg(value_name = "GRPC_IP")]
    grpc_ip_positional: Option<String>,
    /// As --grpc-port
    #[arg(value_name = "GRPC_PORT")]
    grpc_port_positional: Option<String>,
    /// API versions to serve; only V1 is
    #[arg(long, value_name = "VERSIONS", hide = true)]
    api_versions: Option<String>,
}

/// A flag of upstream that means nothing here.
struct Refused {
    /// As it is written: `-R` or `--ptpl-dir`.
    name: &'static str,
    /// Takes a value.
    value: bool,
    reason: &'static str,
}

const fn refused(name: &'static str, value: bool, reason: &'static str) -> Refused {
    Refused {
        name,
        value,
        reason,
    }
}

const NO_SPDK: &str = "there is no SPDK underneath; leave it out";
const NO_HUGEPAGES: &str = "no hugepages are used; set memory.arena_mib in the configuration file";
const OWN_STORE: &str = "state and reservations are kept in the state directory; use --state-dir";
const NO_POOLS: &str = "this version has no pools or nexuses; leave it out";
const NO_STACKS: &str = "stacks of another process cannot be dumped; use gdb -p PID";
const OWN_FILE: &str = "the configuration is TOML; use --config FILE";

const REFUSED: [Refused; 28] = [
    refused(
        "-R",
        true,
        "this version does not register with a control plane; leave it out",
    ),
    refused("-L", true, "there are no SPDK log flags; use --log-level"),
    refused("-s", true, NO_HUGEPAGES),
    refused("-u", false, NO_SPDK),
    refused("-r", true, NO_SPDK),
    refused("-y", true, OWN_FILE),
    refused("-P", true, NO_POOLS),
    refused("-p", true, OWN_STORE),
    refused("-d", true, NO_STACKS),
    refused("--diagnose-stack", true, NO_STACKS),
    refused("--ptpl-dir", true, OWN_STORE),
    refused("--huge-dir", true, NO_HUGEPAGES),
    refused("--env-context", true, NO_SPDK),
    refused("--ps-timeout", true, OWN_STORE),
    refused("--ps-retries", true, OWN_STORE),
    refused(
        "--bdev-pool-size",
        true,
        "pools of I/O contexts are sized by nvmf.queue_depth_max; leave it out",
    ),
    refused("--nvme-ctl-pool-size", true, NO_POOLS),
    refused(
        "--tgt-crdt",
        true,
        "retry delays belong to nexus errors, and this version has no nexus; leave it out",
    ),
    refused(
        "--reactor-freeze-detection",
        false,
        "slow I/O is logged with its stages; set io.slow_io_ms",
    ),
    refused(
        "--reactor-freeze-timeout",
        true,
        "slow I/O is logged with its stages; set io.slow_io_ms",
    ),
    refused(
        "--events-url",
        true,
        "this version sends no events; leave it out",
    ),
    refused("--enable-lvm", false, NO_POOLS),
    refused("--enable-snapshot-rebuild", false, NO_POOLS),
    refused(
        "--enable-rdma",
        false,
        "this version serves TCP only; leave it out",
    ),
    refused(
        "--skip-sig-handler",
        false,
        "signals stop the engine in order; leave it out",
    ),
    refused("--enable-io-all-thrd-nexus-channels", false, NO_POOLS),
    refused(
        "--developer-delay",
        false,
        "an idle reactor sleeps by itself; leave it out",
    ),
    refused("--bs-cluster-unmap", false, NO_POOLS),
];

impl Refused {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name).hide(true);
        // A value may be missing: the flag is refused either way.
        let arg = match self.value {
            true => arg.num_args(0..=1).action(ArgAction::Append),
            false => arg.action(ArgAction::SetTrue),
        };
        match self.name.strip_prefix("--") {
            Some(long) => arg.long(long),
            None => arg.short(self.name.chars().nth(1)),
        }
    }
}

/// Parses the command line. `--help` and `--version` print and exit here.
///
/// # Errors
/// A flag nobody knows, that lacks its value, or that means nothing here.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, ConfigError> {
    match try_parse(arguments) {
        Ok(request) => request,
        Err(error) if error.use_stderr() => Err(usage(in_one_line(&error))),
        Err(help) => help.exit(),
    }
}

/// A command line that is wrong as a whole, not in one of its flags.
fn usage(problem: String) -> ConfigError {
    ConfigError::new(ConfigErrorKind::BadValue, "command line", "", problem)
}

/// The first paragraph of a usage error, which says what is wrong; the others are about usage in general.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let problem = first.strip_prefix("error: ").unwrap_or(first);
    let meant = match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => format!("; did you mean {flag}?"),
        _ => String::new(),
    };
    format!("{problem}{meant}; see io-engine --help")
}

fn command() -> Command {
    REFUSED.iter().fold(Cli::command(), |command, refused| {
        command.arg(refused.arg())
    })
}

fn try_parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Result<Request, ConfigError>, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    for refused in &REFUSED {
        if matches.value_source(refused.name) == Some(clap::parser::ValueSource::CommandLine) {
            let problem = format!("not served: {}", refused.reason);
            return Ok(Err(ConfigError::flag(refused.name, problem)));
        }
    }
    let cli = Cli::from_arg_matches(&matches)?;
    let (mut flags, mut doctor, mut plugin) = (cli.flags, false, None);
    match cli.command {
        Some(Sub::Doctor(given)) => (flags, doctor) = (*given, true),
        Some(Sub::Plugin(command)) => {
            if let PluginCommand::List { config } = &command {
                flags.config.clone_from(config);
            }
            plugin = Some(PluginRequest::Command(command));
        }
        Some(Sub::PluginProbe) => plugin = Some(PluginRequest::Probe),
        None => {}
    }
    Ok(flags.overrides().map(|overrides| Request {
        overrides,
        doctor,
        plugin,
    }))
}

impl Flags {
    fn overrides(self) -> Result<Overrides, ConfigError> {
        if let Some(versions) = &self.api_versions {
            let other = versions
                .split(',')
                .find(|version| !version.trim().eq_ignore_ascii_case("v1"));
            if let Some(version) = other {
                let problem = format!("'{version}' is not served; give V1 or leave the flag out");
                return Err(ConfigError::flag("--api-versions", problem));
            }
        }
        if let Some(word) = &self.grpc_ip_positional
            && word.parse::<IpAddr>().is_err()
        {
            let problem = format!(
                "'{word}' is neither a command (doctor, plugin) nor the IP address of the gRPC server; see io-engine --help"
            );
            return Err(usage(problem));
        }
        if let Some(word) = &self.grpc_port_positional
            && word.parse::<u16>().is_err()
        {
            let problem = format!(
                "'{word}', behind the IP address of the gRPC server, is not its port; see io-engine --help"
            );
            return Err(usage(problem));
        }
        Ok(Overrides {
            config: self.config,
            state_dir: self.state_dir,
            grpc: self.grpc,
            grpc_endpoint: self.grpc_endpoint,
            grpc_ip: self.grpc_ip.or(self.grpc_ip_positional),
            grpc_port: self.grpc_port.or(self.grpc_port_positional),
            nvmf: self.nvmf,
            interface: self.interface,
            metrics: self.metrics,
            driver: self.driver,
            tcp_congestion: self.tcp_congestion,
            cpus: self.cpus,
            mask: self.mask,
            node_name: self.node_name,
            log_format: self.log_format,
            log_level: self.log_level,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Result<Request, ConfigError> {
        let words = std::iter::once("io-engine")
            .chain(line.split_whitespace())
            .map(OsString::from);
        try_parse(words).expect("no usage error")
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn upstreams_spellings_are_understood() {
        let overrides = request(
            "--grpc-ip=10.0.0.1 --grpc-port 99 -N n1 -l 1,2 -F compact,nocolor --api-versions=V1",
        );
        let overrides = overrides.unwrap().overrides;
        assert_eq!(overrides.grpc_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(overrides.grpc_port.as_deref(), Some("99"));
        assert_eq!(overrides.cpus.as_deref(), Some("1,2"));
        let positional = request("10.0.0.1 99").unwrap().overrides;
        assert_eq!(
            (
                positional.grpc_ip.as_deref(),
                positional.grpc_port.as_deref()
            ),
            (Some("10.0.0.1"), Some("99"))
        );
        assert_eq!(
            request("--nvmf [::]:1 --nvmf 0.0.0.0:2")
                .unwrap()
                .overrides
                .nvmf
                .len(),
            2
        );
    }

    #[test]
    fn doctor_takes_the_same_flags() {
        let request = request("doctor --state-dir /srv/x").unwrap();
        assert!(request.doctor);
        assert_eq!(
            request.overrides.state_dir.unwrap(),
            PathBuf::from("/srv/x")
        );
    }

    #[test]
    fn flags_without_meaning_are_refused_by_name() {
        for (line, text) in [
            (
                "-s 1024",
                "command line: -s: not served: no hugepages are used; set memory.arena_mib in the configuration file",
            ),
            (
                "-p etcd:2379",
                "command line: -p: not served: state and reservations are kept in the state directory; use --state-dir",
            ),
            (
                "--enable-rdma",
                "command line: --enable-rdma: not served: this version serves TCP only; leave it out",
            ),
            (
                "--diagnose-stack 12",
                "command line: --diagnose-stack: not served: stacks of another process cannot be dumped; use gdb -p PID",
            ),
            (
                "--env-context",
                "command line: --env-context: not served: there is no SPDK underneath; leave it out",
            ),
            (
                "--api-versions V0,V1",
                "command line: --api-versions: 'V0' is not served; give V1 or leave the flag out",
            ),
        ] {
            assert_eq!(request(line).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn a_word_that_is_no_command_is_told_so() {
        for (line, text) in [
            (
                "frobnicate",
                "command line: 'frobnicate' is neither a command (doctor, plugin) nor the IP address of the gRPC \
                 server; see io-engine --help",
            ),
            (
                "10.0.0.1 start",
                "command line: 'start', behind the IP address of the gRPC server, is not its port; see io-engine --help",
            ),
        ] {
            assert_eq!(request(line).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn an_unknown_flag_is_a_usage_error() {
        for (word, line) in [
            (
                "--grcp",
                "command line: unexpected argument '--grcp' found; did you mean --grpc?; see io-engine --help",
            ),
            (
                "--config",
                "command line: a value is required for '--config <FILE>' but none was supplied; see io-engine --help",
            ),
        ] {
            let words = ["io-engine", word].map(OsString::from);
            assert_eq!(parse(words).unwrap_err().to_string(), line);
        }
    }
}
