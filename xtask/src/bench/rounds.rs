//! Taking turns.
//!
//! Decides: the order in which contenders are measured, and that only the one whose turn it is may run. The order
//! rotates from round to round, so that what one leaves behind (heat, caches, a neighbour's burst) does not always meet
//! the same successor.

use super::error::Error;
use super::load::Sample;
use super::process::Process;

/// Measures `count` contenders over `rounds` rounds. `turn` measures the contender of the index it is given.
///
/// Returns one list a contender, each with one sample a round, in the order of the rounds.
///
/// # Errors
/// Those of `turn`; the run ends at the first.
pub(crate) fn alternate(
    count: usize,
    rounds: usize,
    mut turn: impl FnMut(usize) -> Result<Sample, Error>,
) -> Result<Vec<Vec<Sample>>, Error> {
    let mut samples = vec![Vec::with_capacity(rounds); count];
    for round in 0..rounds {
        for place in 0..count {
            let index = (round + place) % count;
            samples[index].push(turn(index)?);
        }
    }
    Ok(samples)
}

/// Thaws the server of `index` and freezes all others; `None` freezes all.
pub(crate) fn give_turn<S: AsMut<Process>>(servers: &mut [S], index: Option<usize>) {
    for (position, server) in servers.iter_mut().enumerate() {
        if Some(position) != index {
            server.as_mut().freeze();
        }
    }
    if let Some(server) = index.and_then(|index| servers.get_mut(index)) {
        server.as_mut().thaw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(iops: f64) -> Sample {
        Sample {
            iops,
            latency_us: 1.0,
            cpu_us: 1.0,
        }
    }

    #[test]
    fn everyone_has_one_turn_a_round_and_the_first_changes() {
        let mut order = Vec::new();
        let samples = alternate(3, 3, |index| {
            order.push(index);
            Ok(sample(order.len() as f64))
        })
        .unwrap();
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1]);
        let rates = |index: usize| -> Vec<f64> {
            samples[index].iter().map(|sample| sample.iops).collect()
        };
        assert_eq!(rates(0), [1.0, 6.0, 8.0]);
        assert_eq!(rates(2), [3.0, 5.0, 7.0]);
    }

    #[test]
    fn an_error_ends_the_rounds() {
        let mut turns = 0;
        let ended = alternate(2, 15, |_| {
            turns += 1;
            if turns == 3 {
                Err(Error::Interrupted)
            } else {
                Ok(sample(1.0))
            }
        });
        assert!(matches!(ended, Err(Error::Interrupted)));
        assert_eq!(turns, 3);
    }
}
