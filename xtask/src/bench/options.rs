//! Options of `cargo xtask bench`.

use std::path::PathBuf;
use std::time::Duration;

use super::error::Error;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
cargo xtask bench [options]: ratios of this engine to its peers, measured in turn on this machine

  --pairs N          rounds for each ratio (default 15; below 6 no interval can be given)
  --seconds S        measured seconds of one run (default 1.0, at least 0.2)
  --quick            5 rounds of 0.5 s: to see that it works, not for publication
  --only NAME        only cases whose name contains NAME; may be given again (names: --list)
  --contenders LIST  of ours,epoll,limit,spdk (default: all that are there; ours is always measured)
  --no-counters      leave out system calls and allocations per I/O (they need root and `perf`)
  --json FILE        write every sample to FILE
  --list             print the names of the cases and stop
  --help             print this and stop

It measures the release binaries (`cargo build --release`) and takes about an hour with SPDK, on an otherwise idle
machine with two cores. Cases: malloc (RAM disk over NVMe/TCP), plugins (linked in against loaded from files; take --pairs
30), nbd (against nbdkit and qemu-storage-daemon), file, idle, table-call. SPDK_DIR in the environment names an SPDK tree with build/bin/nvmf_tgt and spdk_nvme_perf;
measuring it takes root: hugepages and the system's congestion control are changed for the run and put back.
";

/// Default number of rounds.
const PAIRS: usize = 15;
/// Most rounds accepted; beyond it a run takes days and means a slip of the finger.
const PAIRS_MAX: usize = 1000;
/// Shortest and longest measured part of one run, in seconds.
const SECONDS_MIN: f64 = 0.2;
const SECONDS_MAX: f64 = 600.0;
/// Time under load before the measured part of a run.
const WARM_UP: Duration = Duration::from_millis(300);

/// A contender that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selectable {
    Ours,
    Epoll,
    Limit,
    Spdk,
}

/// Parsed options.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    pub(crate) pairs: usize,
    /// Length of the measured part of one run.
    pub(crate) measure: Duration,
    pub(crate) warm_up: Duration,
    /// Parts of case names; empty selects all.
    pub(crate) only: Vec<String>,
    /// `None` stands for all that are there.
    pub(crate) contenders: Option<Vec<Selectable>>,
    pub(crate) has_counters: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) wants: Wants,
}

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    Run,
    Help,
    List,
}

impl Options {
    /// Parses the words after `bench`.
    ///
    /// # Errors
    /// `Option` for an unknown word, a missing value and one out of range.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, Error> {
        let mut options = Self {
            pairs: PAIRS,
            measure: Duration::from_secs(1),
            warm_up: WARM_UP,
            only: Vec::new(),
            contenders: None,
            has_counters: true,
            json: None,
            wants: Wants::Run,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--pairs" => options.pairs = parse_pairs(word, words.next())?,
                "--seconds" => options.measure = parse_seconds(word, words.next())?,
                "--quick" => {
                    options.pairs = 5;
                    options.measure = Duration::from_millis(500);
                }
                "--only" => options.only.push(value(word, words.next())?.to_owned()),
                "--contenders" => {
                    options.contenders = Some(parse_contenders(word, words.next())?);
                }
                "--no-counters" => options.has_counters = false,
                "--json" => options.json = Some(PathBuf::from(value(word, words.next())?)),
                "--list" => options.wants = Wants::List,
                "--help" | "-h" => options.wants = Wants::Help,
                _ => return Err(problem(word, "is not known")),
            }
        }
        Ok(options)
    }

    /// Whether the case `name` is to be measured.
    pub(crate) fn selects(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// Whether `contender` was left in, or asked for.
    pub(crate) fn allows(&self, contender: Selectable) -> bool {
        self.contenders
            .as_ref()
            .is_none_or(|contenders| contenders.contains(&contender))
    }

    /// Whether `contender` was asked for by name, so that its absence is an error.
    pub(crate) fn demands(&self, contender: Selectable) -> bool {
        self.contenders.is_some() && self.allows(contender)
    }
}

fn problem(option: &str, problem: &'static str) -> Error {
    Error::Option {
        option: option.to_owned(),
        problem,
    }
}

fn value<'a>(option: &str, value: Option<&'a String>) -> Result<&'a str, Error> {
    value
        .map(String::as_str)
        .ok_or_else(|| problem(option, "needs a value"))
}

fn parse_pairs(option: &str, text: Option<&String>) -> Result<usize, Error> {
    value(option, text)?
        .parse()
        .ok()
        .filter(|pairs| (1..=PAIRS_MAX).contains(pairs))
        .ok_or_else(|| problem(option, "needs a number from 1 to 1000"))
}

fn parse_seconds(option: &str, text: Option<&String>) -> Result<Duration, Error> {
    value(option, text)?
        .parse()
        .ok()
        .filter(|seconds| (SECONDS_MIN..=SECONDS_MAX).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| problem(option, "needs seconds from 0.2 to 600"))
}

fn parse_contenders(option: &str, text: Option<&String>) -> Result<Vec<Selectable>, Error> {
    value(option, text)?
        .split(',')
        .map(|name| match name {
            "ours" => Ok(Selectable::Ours),
            "epoll" => Ok(Selectable::Epoll),
            "limit" => Ok(Selectable::Limit),
            "spdk" => Ok(Selectable::Spdk),
            _ => Err(problem(option, "knows ours, epoll, limit and spdk")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Error> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn defaults_meet_the_method() {
        let options = parse("").unwrap();
        assert!(options.pairs >= 15);
        assert!(options.measure >= Duration::from_secs(1));
        assert!(options.selects("anything") && options.allows(Selectable::Spdk));
        assert!(
            !options.demands(Selectable::Spdk),
            "an absent SPDK is no error"
        );
    }

    #[test]
    fn values_are_taken() {
        let options =
            parse("--pairs 21 --seconds 0.5 --only d8 --only idle --json out.json").unwrap();
        assert_eq!(options.pairs, 21);
        assert_eq!(options.measure, Duration::from_millis(500));
        assert_eq!(options.json, Some(PathBuf::from("out.json")));
        assert!(options.selects("malloc/4k-read-d8") && options.selects("idle/uring"));
        assert!(!options.selects("malloc/4k-read-d1"));
    }

    #[test]
    fn named_contenders_are_demanded_and_others_left_out() {
        let options = parse("--contenders ours,spdk").unwrap();
        assert!(options.demands(Selectable::Spdk) && !options.allows(Selectable::Limit));
    }

    #[test]
    fn slips_are_refused_by_name() {
        for line in [
            "--pair 3",
            "--pairs",
            "--pairs 0",
            "--seconds 0.01",
            "--seconds soon",
            "--contenders ours,theirs",
        ] {
            let option = line.split_whitespace().next().unwrap();
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(option), "{message}");
        }
    }
}
