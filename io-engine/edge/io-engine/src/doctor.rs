//! `io-engine doctor`: what this machine allows, and what to change where it is not enough.
//!
//! Decides nothing for the engine; it tries what the start would need and says how it went. Each finding that is not in
//! order names its fix.

use std::fmt;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;

use engine::plane::{connections_within, too_few_descriptors};
use engine::store::Store;
use engine_config::{Config, Driver, Environment};
use rustix::process::{Resource, getrlimit};

use crate::{Fatal, VERSION, congestion, driver, holder};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    /// In order.
    Ok,
    /// The engine works, with the loss the text names.
    Warn,
    /// The engine would not start.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    grade: Grade,
    subject: &'static str,
    text: String,
}

impl Finding {
    fn new(grade: Grade, subject: &'static str, text: impl Into<String>) -> Self {
        Self {
            grade,
            subject,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        write!(f, "{grade:<5} {:<16} {}", self.subject, self.text)
    }
}

/// Prints every finding; exit status 1 if the engine would not start.
pub(crate) fn run(config: &Config, environment: &Environment) -> Result<ExitCode, Fatal> {
    let mut findings = vec![
        kernel(config, &reactor::probe()),
        memlock(config),
        descriptors(getrlimit(Resource::Nofile).maximum, config),
        cpu_quota(environment.cpu_quota),
        cpus(config, environment),
        memory(config, environment),
        tcp(config),
        state_dir(&config.state_dir),
        port("gRPC", config.grpc.address, "--grpc"),
    ];
    findings.extend(
        config
            .metrics
            .iter()
            .map(|listen| port("metrics", listen.address, "--metrics")),
    );
    findings.extend(
        config
            .nvmf
            .listen
            .iter()
            .map(|listen| port("NVMe/TCP", listen.address, "--nvmf")),
    );
    let mut text = format!("io-engine {VERSION}\n");
    for finding in &findings {
        text.push_str(&format!("{finding}\n"));
    }
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| Fatal::Other(format!("standard output: {error}")))?;
    let failed = findings.iter().any(|finding| finding.grade == Grade::Fail);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn kernel(config: &Config, report: &reactor::DriverReport) -> Finding {
    let subject = "kernel";
    let Some(fix) = driver::fix(&report.ring) else {
        return Finding::new(Grade::Ok, subject, report.to_string());
    };
    let forced = config.reactors.driver == Driver::Uring;
    let grade = if forced { Grade::Fail } else { Grade::Warn };
    let fix = if forced {
        format!("{fix}, or start with --driver epoll")
    } else {
        fix.to_owned()
    };
    Finding::new(grade, subject, format!("{report}; {fix}"))
}

/// Registered I/O memory counts against the limit; without registration each operation pins its pages anew.
fn memlock(config: &Config) -> Finding {
    let wanted = arena_bytes(config);
    let subject = "RLIMIT_MEMLOCK";
    match getrlimit(Resource::Memlock).current {
        Some(limit) if limit < wanted => Finding::new(
            Grade::Warn,
            subject,
            format!(
                "{} KiB, below the {} KiB of I/O memory: it stays unregistered, which costs a little speed; raise it \
                 with ulimit -l or LimitMEMLOCK=",
                limit / 1024,
                wanted / 1024
            ),
        ),
        Some(limit) => Finding::new(Grade::Ok, subject, format!("{} KiB", limit / 1024)),
        None => Finding::new(Grade::Ok, subject, "unlimited"),
    }
}

fn descriptors(hard: Option<u64>, config: &Config) -> Finding {
    let wanted = config.nvmf.connections_max.get();
    let reactors = config.reactors.cpus.as_slice().len();
    let subject = "RLIMIT_NOFILE";
    let Some(hard) = hard else {
        return Finding::new(Grade::Ok, subject, "unlimited");
    };
    if let Some(problem) = too_few_descriptors(hard, reactors) {
        return Finding::new(Grade::Fail, subject, problem);
    }
    let most = connections_within(hard, reactors);
    if most < wanted {
        let text = format!(
            "{hard} (hard limit): each of {reactors} reactors takes {most} connections at most, not the {wanted} of \
             nvmf.connections_max, and closes what comes beyond; raise the hard limit (LimitNOFILE=), or lower \
             nvmf.connections_max"
        );
        return Finding::new(Grade::Warn, subject, text);
    }
    let text = format!("{hard} (hard limit; the engine raises its own soft limit to it)");
    Finding::new(Grade::Ok, subject, text)
}

fn cpu_quota(quota: Option<f64>) -> Finding {
    let subject = "CPU quota";
    match quota {
        Some(cpus) => Finding::new(
            Grade::Warn,
            subject,
            format!(
                "{cpus:.2} CPUs by control group: reactors never spin, and are paused when the quota is used up; use \
                 whole CPUs (cpuset) without a quota"
            ),
        ),
        None => Finding::new(Grade::Ok, subject, "none"),
    }
}

fn cpus(config: &Config, environment: &Environment) -> Finding {
    let list = |cpus: &[u32]| {
        cpus.iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let reactors = config.reactors.cpus.as_slice();
    let others: Vec<u32> = environment
        .cpus
        .iter()
        .filter(|cpu| !reactors.contains(cpu))
        .copied()
        .collect();
    let subject = "CPUs";
    if others.is_empty() {
        let text = format!(
            "reactors on {}, and no CPU left for the control side: calls compete with I/O; allow the process one more, \
             or give reactors fewer (-l)",
            list(reactors)
        );
        return Finding::new(Grade::Warn, subject, text);
    }
    Finding::new(
        Grade::Ok,
        subject,
        format!(
            "reactors on {}, control side on {}",
            list(reactors),
            list(&others)
        ),
    )
}

fn arena_bytes(config: &Config) -> u64 {
    let reactors = config.reactors.cpus.as_slice().len() as u64;
    (u64::from(config.memory.arena_mib.get()) << 20) * reactors
}

/// The configuration was refused already if it did not fit; this shows by how much it does.
fn memory(config: &Config, environment: &Environment) -> Finding {
    let wanted = arena_bytes(config) >> 20;
    match environment.memory_bytes {
        Some(bytes) => {
            let text = format!(
                "{wanted} MiB of I/O memory and at most {} MiB of RAM disks, {} MiB usable by this process",
                config.memory.ram_disks_bytes_max.unwrap_or(0) >> 20,
                bytes >> 20
            );
            Finding::new(Grade::Ok, "memory", text)
        }
        None => {
            let text = format!(
                "{wanted} MiB of I/O memory; how much there is cannot be read; mount /proc"
            );
            Finding::new(Grade::Warn, "memory", text)
        }
    }
}

fn tcp(config: &Config) -> Finding {
    let subject = "TCP";
    match (congestion::check(config), &config.nvmf.tcp_congestion) {
        (Err(error), _) => Finding::new(Grade::Fail, subject, error.to_string()),
        (Ok(()), Some(name)) => Finding::new(
            Grade::Ok,
            subject,
            format!("congestion control {}", name.as_str()),
        ),
        (Ok(()), None) => Finding::new(
            Grade::Ok,
            subject,
            format!(
                "congestion control of the system; there are: {}",
                congestion::available()
            ),
        ),
    }
}

fn state_dir(dir: &Path) -> Finding {
    let subject = "state directory";
    match Store::open(dir).and_then(|store| store.load()) {
        Ok(contents) => {
            let counts = (contents.devices.len(), contents.subsystems.len());
            let text = format!(
                "{}: writable, {} devices, {} subsystems",
                dir.display(),
                counts.0,
                counts.1
            );
            Finding::new(Grade::Ok, subject, text)
        }
        Err(error) => Finding::new(Grade::Fail, subject, error.to_string()),
    }
}

fn port(what: &'static str, address: SocketAddr, flag: &str) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::new(Grade::Ok, "port", format!("{what} {address} is free")),
        Err(error) => {
            let by = holder::of(address)
                .map(|holder| format!(", held by {holder}"))
                .unwrap_or_default();
            let text =
                format!("{what} {address}: {error}{by}; choose another with {flag} ADDR:PORT");
            Finding::new(Grade::Fail, "port", text)
        }
    }
}

#[cfg(test)]
mod tests {
    use engine_config::Overrides;

    use super::*;

    fn config(overrides: Overrides) -> Config {
        let environment = Environment {
            home: Some("/home/u".into()),
            cpus: vec![0, 1],
            memory_bytes: Some(4 << 30),
            ..Environment::default()
        };
        Config::load(&overrides, &environment).unwrap()
    }

    #[test]
    fn a_quota_and_few_descriptors_are_warned_about_with_a_fix() {
        let finding = cpu_quota(Some(1.5));
        assert_eq!(finding.grade, Grade::Warn);
        assert!(finding.text.starts_with("1.50 CPUs"), "{finding}");
        assert_eq!(cpu_quota(None).grade, Grade::Ok);
        let finding = descriptors(Some(1024), &config(Overrides::default()));
        assert_eq!(finding.grade, Grade::Warn);
        assert!(finding.text.contains("LimitNOFILE="), "{finding}");
        assert!(
            finding
                .text
                .contains("takes 432 connections at most, not the 4096"),
            "{finding}"
        );
        let few = descriptors(Some(100), &config(Overrides::default()));
        assert_eq!(few.grade, Grade::Fail);
        let enough = descriptors(Some(8192), &config(Overrides::default()));
        assert_eq!(enough.grade, Grade::Ok);
        assert_eq!(
            descriptors(None, &config(Overrides::default())).grade,
            Grade::Ok
        );
    }

    #[test]
    fn what_would_stop_the_start_fails() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let finding = port("gRPC", taken.local_addr().unwrap(), "--grpc");
        assert_eq!(finding.grade, Grade::Fail);
        assert!(
            finding.text.contains("held by pid") && finding.text.contains("--grpc ADDR:PORT"),
            "{finding}"
        );

        let held = tempfile::tempdir().unwrap();
        let _store = Store::open(held.path()).unwrap();
        assert_eq!(state_dir(held.path()).grade, Grade::Fail);
        assert_eq!(state_dir(Path::new("/proc/nowhere")).grade, Grade::Fail);

        let overrides = Overrides {
            tcp_congestion: Some("nosuch".into()),
            ..Overrides::default()
        };
        assert_eq!(tcp(&config(overrides)).grade, Grade::Fail);
    }

    #[test]
    fn a_forbidden_ring_fails_only_where_it_was_asked_for() {
        let report = reactor::DriverReport {
            kernel: "6.1".into(),
            ring: reactor::RingState::Forbidden,
            chosen: reactor::DriverKind::Epoll,
        };
        assert_eq!(
            kernel(&config(Overrides::default()), &report).grade,
            Grade::Warn
        );
        let overrides = Overrides {
            driver: Some("uring".into()),
            ..Overrides::default()
        };
        let finding = kernel(&config(overrides), &report);
        assert_eq!(finding.grade, Grade::Fail);
        assert!(
            finding.text.ends_with("or start with --driver epoll"),
            "{finding}"
        );
    }
}
