//! Results of a run, and the goals they are held against.
//!
//! Decides: which ratios a case yields and what each should reach. Goals are printed, never asserted: a shared machine
//! does not fail a build.

use super::cases::{Point, Prediction};
use super::contender::{Contender, Driver};
use super::load::{Initiator, Sample};
use super::stats::{self, Median};

/// Everything measured on one contender in one case.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    pub(crate) contender: Contender,
    /// One a round, in the order of the rounds.
    pub(crate) samples: Vec<Sample>,
    /// System calls for one I/O, where they could be counted.
    pub(crate) syscalls: Option<f64>,
    /// Allocations for one I/O, where they could be counted.
    pub(crate) allocations: Option<f64>,
}

impl Measured {
    /// Median of one figure over the rounds.
    pub(crate) fn median(&self, figure: impl Fn(&Sample) -> f64) -> Option<Median> {
        let figures: Vec<f64> = self.samples.iter().map(figure).collect();
        stats::median(&figures)
    }

    fn rates(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.iops).collect()
    }

    fn costs(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.cpu_us).collect()
    }
}

/// Where a case belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// RAM disk, loaded by this initiator.
    Ram(Initiator),
    /// RAM disk, plugins linked in against plugins from files.
    Plugins,
    /// RAM disk over NBD, loaded by `fio`.
    Nbd,
    /// File served by the engine on this driver, against `fio`.
    File(Driver),
}

impl Section {
    /// First part of the names of its cases.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Ram(initiator) => format!("malloc/{}", initiator.name()),
            Self::Plugins => "plugins".to_owned(),
            Self::Nbd => "nbd".to_owned(),
            Self::File(driver) => format!("file/{}", driver.name()),
        }
    }

    /// The contender whose figures its cases are about.
    pub(crate) const fn subject(self) -> Contender {
        match self {
            Self::Ram(_) | Self::Nbd | Self::File(Driver::Uring) => Contender::Ours,
            Self::File(Driver::Epoll) => Contender::Epoll,
            Self::Plugins => Contender::Dynamic,
        }
    }

    /// Name of its case for `point`.
    pub(crate) fn case_name(self, point: Point) -> String {
        format!("{}/{point}", self.name())
    }
}

/// One point with everything measured on it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) section: Section,
    pub(crate) point: Point,
    pub(crate) prediction: Option<Prediction>,
    pub(crate) measured: Vec<Measured>,
}

impl Case {
    /// What was measured on `contender`, if it took part.
    pub(crate) fn of(&self, contender: Contender) -> Option<&Measured> {
        self.measured
            .iter()
            .find(|measured| measured.contender == contender)
    }

    /// Rate of `above` over rate of `below`, paired by round.
    pub(crate) fn ratio(&self, above: Contender, below: Contender) -> Option<Median> {
        let ratios = stats::pair_ratios(&self.of(above)?.rates(), &self.of(below)?.rates());
        stats::median(&ratios)
    }

    /// Processor time of the server for one I/O, `above` over `below`, paired by round.
    pub(crate) fn cpu_ratio(&self, above: Contender, below: Contender) -> Option<Median> {
        let ratios = stats::pair_ratios(&self.of(above)?.costs(), &self.of(below)?.costs());
        stats::median(&ratios)
    }

    /// Whoever of `contenders` has the highest median rate.
    pub(crate) fn best_of(&self, contenders: &[Contender]) -> Option<Contender> {
        let rate = |contender| {
            let median = self.of(contender)?.median(|sample| sample.iops)?;
            Some((median.value, contender))
        };
        let rates = contenders.iter().copied().filter_map(rate);
        rates
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .map(|(_, contender)| contender)
    }

    /// Mean latency of the served file less that of `fio`, paired by round, in µs.
    pub(crate) fn added_latency_us(&self) -> Option<Median> {
        let (ours, bare) = (self.of(self.section.subject())?, self.of(Contender::Fio)?);
        let added: Vec<f64> = ours
            .samples
            .iter()
            .zip(&bare.samples)
            .map(|(ours, bare)| ours.latency_us - bare.latency_us)
            .collect();
        stats::median(&added)
    }

    /// What the ratio of ours to `below` should reach here, where a goal is set.
    pub(crate) fn goal(&self, below: Contender) -> Option<f64> {
        let is_alone = self.point.depth == 1;
        match (self.section, below) {
            (Section::Ram(_), Contender::Spdk) if is_alone => Some(1.05),
            (Section::Ram(Initiator::Ours), Contender::Spdk) => Some(1.2),
            (Section::Ram(Initiator::Spdk), Contender::Spdk) => Some(1.1),
            (Section::Ram(Initiator::Ours), Contender::Limit) if is_alone => Some(0.8),
            (Section::File(Driver::Uring), Contender::Fio) if !is_alone => Some(0.95),
            // Of the better one; of the other it follows.
            (Section::Nbd, Contender::Nbdkit | Contender::Qemu) => Some(0.95),
            // That of `Plugins` is an interval, see [`PLUGINS_RATIO`].
            (Section::Ram(_) | Section::Plugins | Section::Nbd | Section::File(_), _) => None,
        }
    }
}

/// Between these the interval of the ratio of plugins from files to those linked in should lie.
pub(crate) const PLUGINS_RATIO: (f64, f64) = (0.95, 1.05);
/// Highest ratio of processor time for one I/O to that of the better NBD server.
pub(crate) const NBD_CPU_RATIO_MAX: f64 = 1.0;
/// Highest cost of a call through a table, in ns.
pub(crate) const TABLE_CALL_NS_MAX: f64 = 20.0;
/// Highest latency that serving a file may add at depth 1, in µs.
pub(crate) const FILE_ADDED_US_MAX: f64 = 20.0;
/// Highest share of a core for an idle engine with a connected host, in percent.
pub(crate) const IDLE_CPU_PERCENT_MAX: f64 = 1.0;
/// Highest resident memory of an engine, in MiB.
pub(crate) const IDLE_RESIDENT_MIB_MAX: f64 = 200.0;

/// A server that had nothing to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Idle {
    /// What was idle, such as "ours, one host connected".
    pub(crate) server: &'static str,
    /// Share of one core, in percent.
    pub(crate) cpu_percent: f64,
    /// Resident memory in MiB, hugepages included.
    pub(crate) resident_mib: f64,
    /// Whether it is held against the goals, which are the engine's.
    pub(crate) has_goal: bool,
}

/// All a run has measured so far.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Facts about the run that a reader of the tables must know.
    pub(crate) notes: Vec<String>,
    pub(crate) cases: Vec<Case>,
    pub(crate) idle: Vec<Idle>,
    pub(crate) table_calls: Vec<TableCall>,
}

/// An operation of a device as a trait object and through its tables.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableCall {
    /// Which, such as "lent read".
    pub(crate) operation: String,
    /// Time of one, in ns.
    pub(crate) direct_ns: f64,
    pub(crate) tables_ns: f64,
    /// Instructions of one, where they could be counted.
    pub(crate) direct_instructions: Option<f64>,
    pub(crate) tables_instructions: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cases::MALLOC;

    fn measured(contender: Contender, iops: &[f64]) -> Measured {
        Measured {
            contender,
            samples: iops
                .iter()
                .map(|iops| Sample {
                    iops: *iops,
                    latency_us: 1e6 / iops,
                    cpu_us: 1.0,
                })
                .collect(),
            syscalls: None,
            allocations: None,
        }
    }

    fn case(section: Section, index: usize, measured: Vec<Measured>) -> Case {
        Case {
            section,
            point: MALLOC[index].0,
            prediction: None,
            measured,
        }
    }

    #[test]
    fn ratio_is_the_median_of_pairs_not_the_ratio_of_medians() {
        let case = case(
            Section::Ram(Initiator::Ours),
            1,
            vec![
                measured(Contender::Ours, &[10.0, 200.0, 30.0]),
                measured(Contender::Spdk, &[5.0, 100.0, 60.0]),
            ],
        );
        // Pairs give 2, 2, 0.5; the medians 30 and 60 would give 0.5.
        let ratio = case.ratio(Contender::Ours, Contender::Spdk).unwrap();
        assert_eq!((ratio.value, ratio.samples), (2.0, 3));
        assert_eq!(case.ratio(Contender::Ours, Contender::Limit), None);
    }

    #[test]
    fn goals_are_those_of_the_issue() {
        let ours = |index| case(Section::Ram(Initiator::Ours), index, Vec::new());
        let spdk = |index| case(Section::Ram(Initiator::Spdk), index, Vec::new());
        assert_eq!(ours(0).goal(Contender::Spdk), Some(1.05));
        assert_eq!(ours(1).goal(Contender::Spdk), Some(1.2));
        assert_eq!(ours(8).goal(Contender::Spdk), Some(1.2));
        assert_eq!(spdk(0).goal(Contender::Spdk), Some(1.05));
        assert_eq!(spdk(3).goal(Contender::Spdk), Some(1.1));
        assert_eq!(ours(0).goal(Contender::Limit), Some(0.8));
        assert_eq!(ours(1).goal(Contender::Limit), None);
        assert_eq!(
            case(Section::File(Driver::Uring), 0, Vec::new()).goal(Contender::Fio),
            None
        );
        assert_eq!(
            case(Section::File(Driver::Uring), 1, Vec::new()).goal(Contender::Fio),
            Some(0.95)
        );
        let nbd = case(Section::Nbd, 0, Vec::new());
        assert_eq!(nbd.goal(Contender::Nbdkit), Some(0.95));
        assert_eq!(nbd.goal(Contender::Qemu), Some(0.95));
        let plugins = case(Section::Plugins, 0, Vec::new());
        assert_eq!(plugins.goal(Contender::Ours), None);
    }

    #[test]
    fn the_better_one_is_the_one_with_the_higher_rate() {
        let nbd = case(
            Section::Nbd,
            0,
            vec![
                measured(Contender::Ours, &[100.0]),
                measured(Contender::Nbdkit, &[20.0]),
                measured(Contender::Qemu, &[30.0]),
            ],
        );
        let others = [Contender::Nbdkit, Contender::Qemu];
        assert_eq!(nbd.best_of(&others), Some(Contender::Qemu));
        assert_eq!(nbd.best_of(&[Contender::Fio]), None);
        let cpu = nbd.cpu_ratio(Contender::Ours, Contender::Qemu).unwrap();
        assert_eq!(cpu.value, 1.0);
    }

    #[test]
    fn added_latency_is_paired() {
        let case = case(
            Section::File(Driver::Uring),
            0,
            vec![
                measured(Contender::Ours, &[10_000.0, 5_000.0]),
                measured(Contender::Fio, &[12_500.0, 5_263.157_894_736_842]),
            ],
        );
        let added = case.added_latency_us().unwrap();
        assert!((added.value - 15.0).abs() < 1e-6, "{added:?}");
    }
}
