//! `io-engine-perf`: command line of the load generator.

use clap::{Args, Parser, Subcommand, ValueEnum};
use io_engine_perf::address::{HostIdentity, Target, parse_len, parse_uuid};
use io_engine_perf::limit::{client, server};
use io_engine_perf::load::{self, LoadOptions, Pattern};
use io_engine_perf::report::Report;
use io_engine_perf::{SessionOptions, client::discover, socket};
use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Where the kernel lists its congestion control algorithms.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Why a verified run that only reads is refused.
const NOTHING_WRITTEN: &str = "--verify with nothing but reads checks nothing, as nothing is written: give --rw randwrite, \
                               write or randrw, or --state with the file of an earlier run";

/// Load generator for any NVMe/TCP target.
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    load: Load,
}

#[derive(Subcommand)]
enum Sub {
    /// List what a discovery service offers.
    Discover(Discover),
    /// The answering end of a bare TCP pair (see limit-client).
    #[command(hide = true)]
    LimitServer(LimitServer),
    /// The asking end of a bare TCP pair with the PDU sizes of NVMe/TCP.
    #[command(hide = true)]
    LimitClient(LimitClient),
}

#[derive(Clone, Copy, ValueEnum)]
enum Rw {
    Randread,
    Randwrite,
    Randrw,
    Read,
    Write,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What every kind of run has.
#[derive(Args)]
struct Common {
    /// TCP congestion control of our end, such as reno or cubic.
    #[arg(long)]
    congestion: Option<String>,
    /// CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Spin where there is nothing to do (the default).
    #[arg(long, conflicts_with = "sleep")]
    busy_poll: bool,
    /// Sleep where there is nothing to do.
    #[arg(long)]
    sleep: bool,
}

/// How long and how much, for a load and for the bare pair.
#[derive(Args)]
struct Shape {
    /// Bytes per I/O.
    #[arg(long, default_value = "4KiB", value_parser = block_len)]
    block_size: u32,
    /// I/Os outstanding per queue.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Measured seconds.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    time: f64,
    /// Seconds before that are not measured.
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    warmup: f64,
    /// How to report.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Who we are and what we ask for.
#[derive(Args)]
struct Association {
    /// NQN of this host; a random one by default.
    #[arg(long)]
    hostnqn: Option<String>,
    /// Host identifier, a UUID; by default from the NQN.
    #[arg(long, value_parser = uuid)]
    hostid: Option<Uuid>,
    /// Use header digests.
    #[arg(long)]
    header_digest: bool,
    /// Use data digests.
    #[arg(long)]
    data_digest: bool,
}

/// A host identifier.
#[derive(Clone, Copy)]
struct Uuid([u8; 16]);

#[derive(Args)]
struct Load {
    /// Subsystem: nvmf+tcp://host:port/nqn.
    #[arg(required = true)]
    target: Option<Target>,
    /// Kind and order of I/O.
    #[arg(long, value_enum, default_value_t = Rw::Randread)]
    rw: Rw,
    /// Reads of a hundred I/Os with --rw randrw.
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    mix: u8,
    /// I/O queues.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    queues: u16,
    /// Namespace id; the first by default.
    #[arg(long)]
    nsid: Option<u32>,
    /// Bytes of the namespace used, from its start.
    #[arg(long, value_parser = parse_len)]
    range: Option<u64>,
    /// Seed of addresses and of verified data.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write checkable data, check every read, read everything again at the end.
    #[arg(long)]
    verify: bool,
    /// Write nothing; check what the state file says was acknowledged.
    #[arg(long, requires = "state", conflicts_with = "verify")]
    verify_only: bool,
    /// File that keeps what was acknowledged between runs.
    #[arg(long)]
    state: Option<PathBuf>,
    /// I/Os a second that all queues begin together; latency runs from when an I/O was due. As many as can be by default.
    #[arg(long)]
    rate: Option<NonZeroU32>,
    /// Seconds to try again after a lost connection.
    #[arg(long, value_parser = seconds)]
    reconnect: Option<f64>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    association: Association,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Discover {
    /// Discovery service: nvmf+tcp://host:port.
    target: Target,
    #[command(flatten)]
    association: Association,
    /// How to report.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct LimitServer {
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct LimitClient {
    /// Address of the server.
    address: SocketAddr,
    /// Writes; reads otherwise.
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    common: Common,
}

fn block_len(text: &str) -> Result<u32, String> {
    let len = parse_len(text)?;
    match u32::try_from(len) {
        Ok(len) if (512..=1 << 20).contains(&len) => Ok(len),
        _ => Err("expected 512 B to 1 MiB".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=1e7).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds".to_owned()),
    }
}

fn uuid(text: &str) -> Result<Uuid, String> {
    parse_uuid(text)
        .map(Uuid)
        .ok_or_else(|| "expected a UUID".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Sub::Discover(args)) => run_discover(args),
        Some(Sub::LimitServer(args)) => run_limit_server(&args),
        Some(Sub::LimitClient(args)) => run_limit_client(args),
        None => run_load(cli.load),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "io-engine-perf: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<ExitCode, Box<dyn Error>>;

fn prepare(common: &Common) -> Result<(), String> {
    if let Some(cpu) = common.cpu {
        socket::pin(cpu).map_err(|error| {
            let refused = format!("--cpu {cpu}: this process cannot run there ({error})");
            format!("{refused}; use one of {}", list(&socket::allowed_cpus()))
        })?;
    }
    if let Some(name) = &common.congestion {
        socket::try_congestion(name).map_err(|error| {
            let refused = format!("--congestion {name}: the kernel refuses it ({error})");
            format!("{refused}; those it has are in {AVAILABLE}")
        })?;
    }
    Ok(())
}

/// `0-1, 4`.
fn list(cpus: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => runs.push((*cpu, *cpu)),
        }
    }
    let text = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(", ")
}

fn session(association: &Association) -> io::Result<SessionOptions> {
    let mut host = match &association.hostnqn {
        Some(nqn) => HostIdentity::named(nqn),
        None => HostIdentity::random()?,
    };
    if let Some(Uuid(id)) = association.hostid {
        host.id = id;
    }
    let mut options = SessionOptions::new(host);
    options.header_digest = association.header_digest;
    options.data_digest = association.data_digest;
    Ok(options)
}

fn print(report: &Report, format: Format) -> Outcome {
    let mut out = io::stdout().lock();
    match format {
        Format::Text => write!(out, "{report}")?,
        Format::Json => writeln!(out, "{}", serde_json::to_string(report)?)?,
    }
    out.flush()?;
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_load(args: Load) -> Outcome {
    prepare(&args.common)?;
    let mut session = session(&args.association)?;
    session.congestion = args.common.congestion;
    session.keep_alive = Duration::from_secs(10);
    let format = args.shape.format;
    let pattern = match args.rw {
        Rw::Randread => Pattern::RandRead,
        Rw::Randwrite => Pattern::RandWrite,
        Rw::Randrw => Pattern::RandRw,
        Rw::Read => Pattern::Read,
        Rw::Write => Pattern::Write,
    };
    if args.verify && args.state.is_none() && pattern.read_percent(args.mix) == 100 {
        return Err(NOTHING_WRITTEN.into());
    }
    let report = load::run(LoadOptions {
        target: args.target.ok_or("a target is needed, see --help")?,
        session,
        nsid: args.nsid,
        pattern,
        mix: args.mix,
        block_len: args.shape.block_size,
        depth: args.shape.depth,
        queues: args.queues,
        time: Duration::from_secs_f64(args.shape.time),
        warmup: Duration::from_secs_f64(args.shape.warmup),
        range: args.range,
        seed: args.seed,
        verify: args.verify,
        verify_only: args.verify_only,
        state: args.state,
        reconnect: args.reconnect.map(Duration::from_secs_f64),
        sleep: args.common.sleep,
        rate: args.rate,
        notice: |line| {
            // Nobody to tell where it is closed.
            let _ = writeln!(io::stderr(), "io-engine-perf: {line}");
        },
    })?;
    print(&report, format)
}

fn run_discover(args: Discover) -> Outcome {
    let entries = discover(&args.target, session(&args.association)?)?;
    let mut out = io::stdout().lock();
    let rows = entries.iter().map(|entry| {
        (
            entry.traddr().unwrap_or("?"),
            entry.trsvcid().unwrap_or("?"),
            entry.subnqn().unwrap_or("?"),
            match entry.subtype {
                1 => "referral",
                2 => "nvm",
                3 => "current discovery",
                _ => "unknown",
            },
        )
    });
    for (address, port, nqn, kind) in rows {
        match args.format {
            Format::Text => writeln!(out, "{address}\t{port}\t{kind}\t{nqn}")?,
            Format::Json => {
                let row = serde_json::json!({
                    "traddr": address, "trsvcid": port, "subtype": kind, "subnqn": nqn,
                });
                writeln!(out, "{row}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_limit_server(args: &LimitServer) -> Outcome {
    prepare(&args.common)?;
    let options = server::ServerOptions {
        congestion: args.common.congestion.clone(),
        sleep: args.common.sleep,
    };
    let listener = socket::listen(args.listen, options.congestion.as_deref())?;
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    server::serve(&listener, &options, || false)?;
    Ok(ExitCode::SUCCESS)
}

fn run_limit_client(args: LimitClient) -> Outcome {
    prepare(&args.common)?;
    let report = client::run(&client::ClientOptions {
        address: args.address,
        is_write: args.write,
        block_len: args.shape.block_size,
        depth: args.shape.depth,
        time: Duration::from_secs_f64(args.shape.time),
        warmup: Duration::from_secs_f64(args.shape.warmup),
        congestion: args.common.congestion,
        sleep: args.common.sleep,
    })?;
    print(&report, args.shape.format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn what_the_machine_does_not_have_is_one_line_with_the_flag() {
        let common = |cpu, congestion: Option<&str>| Common {
            congestion: congestion.map(str::to_owned),
            cpu,
            busy_poll: false,
            sleep: false,
        };
        for cpu in [socket::CPUS_MAX - 1, usize::MAX] {
            let line = prepare(&common(Some(cpu), None)).unwrap_err();
            let start = format!("--cpu {cpu}: this process cannot run there (");
            assert!(line.starts_with(&start), "{line}");
            assert!(line.contains("; use one of "), "{line}");
        }
        let line = prepare(&common(None, Some("nope"))).unwrap_err();
        assert!(
            line.starts_with("--congestion nope: the kernel refuses it ("),
            "{line}"
        );
        assert!(line.ends_with(AVAILABLE), "{line}");
        prepare(&common(None, Some("reno"))).unwrap();
        assert_eq!(list(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
    }

    #[test]
    fn a_verified_run_that_would_check_nothing_is_refused() {
        for flags in ["", " --rw randread", " --rw read", " --rw randrw --mix 100"] {
            let line = format!("perf nvmf+tcp://127.0.0.1:1/nqn --verify{flags}");
            let cli = Cli::try_parse_from(line.split(' ')).expect("a load");
            let refused = run_load(cli.load).unwrap_err().to_string();
            assert_eq!(refused, NOTHING_WRITTEN);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let line = "perf nvmf+tcp://h:1/nqn --rw randrw --verify --block-size 128KiB --depth 7";
        let cli = Cli::try_parse_from(line.split(' ')).expect("a load");
        let load = cli.load;
        assert!(cli.command.is_none() && load.verify && load.target.is_some());
        assert_eq!((load.shape.block_size, load.shape.depth), (131_072, 7));
        let line = "perf limit-client 127.0.0.1:9 --write --depth 2";
        let cli = Cli::try_parse_from(line.split(' ')).expect("a client");
        assert!(matches!(cli.command, Some(Sub::LimitClient(args)) if args.write));
        for line in [
            "perf",
            "perf http://h/nqn",
            "perf nvmf+tcp://h:1/nqn --verify-only",
            "perf nvmf+tcp://h:1/nqn --busy-poll --sleep",
            "perf nvmf+tcp://h:1/nqn --depth 0",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
