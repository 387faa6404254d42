//! Medians and their intervals.
//!
//! Decides: how a list of paired measurements becomes one ratio and how sure of it we may be. Does not decide what is
//! measured, nor what a ratio means. Assumes nothing about the distribution of the samples: the interval is the one that
//! order statistics give for a median, because runs on a shared machine have outliers on one side only.

/// A median and the order-statistics interval around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Median {
    /// The median; the mean of the middle two for an even count.
    pub(crate) value: f64,
    /// Interval that holds the true median with at least 95 %; `None` below six samples, where no such interval exists.
    pub(crate) interval: Option<(f64, f64)>,
    /// How many samples it rests on.
    pub(crate) samples: usize,
}

/// The probability that the interval of [`Median`] may miss the true median on one side.
const TAIL: f64 = 0.025;

/// The median of `samples` with its interval; `None` when there are none or one is not a number.
pub(crate) fn median(samples: &[f64]) -> Option<Median> {
    if samples.is_empty() || samples.iter().any(|sample| !sample.is_finite()) {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let value = f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]);
    let interval = interval_rank(count).map(|rank| (sorted[rank], sorted[count - 1 - rank]));
    Some(Median {
        value,
        interval,
        samples: count,
    })
}

/// Ratio `numerator / denominator` of each pair. Pairs with a denominator of zero are dropped: they measured nothing.
pub(crate) fn pair_ratios(numerator: &[f64], denominator: &[f64]) -> Vec<f64> {
    numerator
        .iter()
        .zip(denominator)
        .filter(|(_, below)| **below > 0.0)
        .map(|(above, below)| above / below)
        .collect()
}

/// Index of the lower end of the interval among `count` sorted samples (the upper end is as far from the other side).
///
/// The number of samples below the true median is Binomial(count, 1/2). The largest rank whose lower tail stays within
/// [`TAIL`] gives the narrowest symmetric interval.
fn interval_rank(count: usize) -> Option<usize> {
    let mut probability = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut tail = 0.0;
    let mut rank = None;
    for below in 0..count {
        tail += probability;
        if tail > TAIL {
            break;
        }
        rank = Some(below);
        probability *= (count - below) as f64 / (below + 1) as f64;
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).unwrap().value, 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).unwrap().value, 2.5);
    }

    #[test]
    fn nothing_measured_is_no_median() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn five_samples_carry_no_interval_and_six_do() {
        assert_eq!(median(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap().interval, None);
        let six = median(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]).unwrap();
        assert_eq!(six.interval, Some((1.0, 6.0)));
    }

    #[test]
    fn interval_ranks_are_those_of_the_binomial_table() {
        // Standard sign-test tables, two-sided 95 %: n = 15 gives the 4th and 12th, n = 20 the 6th and 15th,
        // n = 30 the 10th and 21st (ranks from one).
        assert_eq!(interval_rank(15), Some(3));
        assert_eq!(interval_rank(20), Some(5));
        assert_eq!(interval_rank(30), Some(9));
        let fifteen: Vec<f64> = (1..=15).map(f64::from).collect();
        let median = median(&fifteen).unwrap();
        assert_eq!(
            (median.value, median.interval, median.samples),
            (8.0, Some((4.0, 12.0)), 15)
        );
    }

    #[test]
    fn one_outlier_moves_neither_median_nor_interval() {
        let mut samples: Vec<f64> = (1..=15).map(f64::from).collect();
        let before = median(&samples).unwrap();
        samples[14] = 1e9;
        assert_eq!(median(&samples).unwrap(), before);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // A drift that hits both sides of a pair alike leaves the ratio alone.
        let ours = [120.0, 60.0, 240.0];
        let theirs = [100.0, 50.0, 200.0];
        let ratios = pair_ratios(&ours, &theirs);
        assert!(ratios.iter().all(|ratio| (ratio - 1.2).abs() < 1e-12));
        assert_eq!(pair_ratios(&[1.0, 2.0], &[0.0, 4.0]), [0.5]);
    }
}
