//! The command line.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::output::Units;

/// The engine spoken to if none is named.
const BIND: &str = "http://127.0.0.1:10124";
/// The version of the API spoken if none is named.
const API_VERSION: &str = "v1";

/// Client of the io-engine gRPC API.
#[derive(Debug, Parser)]
#[command(name = "io-engine-client", version)]
pub(crate) struct Cli {
    /// The engine; scheme and port are filled in if missing
    #[arg(
        short,
        long,
        env = "MY_POD_IP",
        default_value = BIND,
        global = true
    )]
    pub(crate) bind: String,
    /// Print neither headings nor confirmations
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print the engine's address and the time each call took, on standard error
    #[arg(short, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Print sizes with binary (i) or decimal (d) units; bytes if not given
    #[arg(short, long, global = true)]
    pub(crate) units: Option<Units>,
    /// What to print
    #[arg(short, long, value_enum, default_value = "default", global = true)]
    pub(crate) output: Output,
    /// Version of the API to speak; only v1 is served
    #[arg(
        long,
        env = "API_VERSION",
        default_value = API_VERSION,
        hide = true,
        global = true
    )]
    pub(crate) api_version: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads a command line and the environment, in which an empty variable counts as one that is not set.
    ///
    /// # Errors
    /// What is wrong with the command line, or what was asked for instead of a command.
    pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        let is_variable = |id: &str| matches.value_source(id) == Some(ValueSource::EnvVariable);
        if cli.bind.is_empty() && is_variable("bind") {
            cli.bind = BIND.to_owned();
        }
        if cli.api_version.is_empty() && is_variable("api_version") {
            cli.api_version = API_VERSION.to_owned();
        }
        Ok(cli)
    }
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns.
    Default,
    /// The gRPC reply as JSON.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Block devices of the engine
    #[command(subcommand)]
    Bdev(Bdev),
    /// NVMe controllers the engine has opened as initiator
    #[command(subcommand)]
    Controller(Controller),
    /// Disks and partitions of the node
    #[command(subcommand)]
    Device(Device),
    /// Resources of the process
    #[command(subcommand)]
    Perf(Perf),
    /// I/O counters
    #[command(subcommand)]
    Stats(Stats),
    /// NVMe-oF subsystems the engine serves
    #[command(subcommand)]
    Subsystem(Subsystem),
    /// Commands in a device, or waiting for memory or their host's data, oldest first
    Inflight(Inflight),
    /// Load of the reactors
    Reactors,
    /// Plugins the engine runs with
    #[command(subcommand)]
    Plugin(Plugin),
    /// Version and features of the engine
    Info,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// List them
    List,
    /// Load one from a plugin directory of the engine's configuration
    Load {
        /// Name of the file there
        file: String,
    },
    /// Take out one that was loaded and that nothing uses
    Unload {
        /// Its name
        name: String,
    },
    /// Everything about one
    Info {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bdev {
    /// All devices
    List,
    /// State of all devices, why faulted ones are, and how they do I/O
    State,
    /// Open or create a device
    Create {
        /// Device URI, e.g. malloc:///m0?size_mb=64 or aio:///dev/sdb
        uri: String,
    },
    /// Close a device
    Destroy {
        /// Name of the device, or the URI it was created from
        name: String,
    },
    /// Export a device over NVMe/TCP or another protocol
    Share {
        /// Name of the device
        name: String,
        /// Protocol
        #[arg(short, long, value_enum, default_value = "nvmf", ignore_case = true)]
        protocol: Protocol,
        /// NQN of a host that may connect; any host if not given; nvmf only
        #[arg(long = "allowed-host")]
        allowed_hosts: Vec<String>,
        /// Let nobody change its blocks
        #[arg(long)]
        read_only: bool,
    },
    /// Stop exporting a device
    Unshare {
        /// Name of the device
        name: String,
    },
    /// Give a device a command of its own, e.g. a fault device one of docs/device-fault.md
    Command {
        /// Name of the device
        name: String,
        /// The command; its words are put together
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Open a faulted device again, or take over a changed size
    Rescan {
        /// Name of the device
        name: String,
        /// Stop telling hosts, by a failed flush each, of writes that were lost with it before
        #[arg(long)]
        accept_loss: bool,
    },
}

/// How a device is exported.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Protocol {
    /// NVMe over fabrics.
    Nvmf,
    /// NBD, where the engine's configuration says.
    Nbd,
    /// Refused by the engine.
    Iscsi,
    /// Refused by the engine.
    None,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Controller {
    /// All controllers
    List,
    /// I/O counters of a controller
    Stats {
        /// Name of the controller
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Disks and partitions that are free to use
    List {
        /// Those in use too
        #[arg(short, long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Perf {
    /// Page faults and context switches
    Resource,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Stats {
    /// Of pools
    Pool {
        /// Only this pool
        name: Option<String>,
    },
    /// Of nexuses
    Nexus {
        /// Only this nexus
        name: Option<String>,
    },
    /// Of replicas
    Replica {
        /// Only this replica
        name: Option<String>,
    },
    /// Of devices and subsystems, each operation apart
    Device {
        /// Only the device of this name or the subsystem of this NQN
        name: Option<String>,
    },
    /// Set all counters to zero
    Reset,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Subsystem {
    /// All subsystems
    List,
    /// Replace the list of hosts that may connect; hosts no longer on it are disconnected
    Hosts {
        /// NQN of the subsystem
        nqn: String,
        /// NQN of a host that may connect
        #[arg(
            long = "allowed-host",
            required_unless_present = "any",
            conflicts_with = "any"
        )]
        allowed_hosts: Vec<String>,
        /// Let any host connect
        #[arg(long)]
        any: bool,
    },
    /// Namespaces of a subsystem
    #[command(subcommand)]
    Ns(Namespace),
    /// Hosts that are connected
    Controllers {
        /// Only those connected to this subsystem
        nqn: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Namespace {
    /// Add a device as a namespace
    Add {
        /// NQN of the subsystem
        nqn: String,
        /// Name of the device
        bdev: String,
        /// Namespace id; the lowest free one if not given
        #[arg(long)]
        nsid: Option<u32>,
    },
    /// Remove a namespace
    Remove {
        /// NQN of the subsystem
        nqn: String,
        /// Namespace id
        nsid: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Inflight {
    /// Only commands sent to this subsystem
    #[arg(long)]
    pub(crate) nqn: Option<String>,
    /// Only commands on this device
    #[arg(long)]
    pub(crate) bdev: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u32,
}
