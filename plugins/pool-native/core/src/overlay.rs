//! Changes of maps and dead lists since a checkpoint, sorted by map and key.
//!
//! Invariant: the runs of one map do not overlap.

use std::collections::BTreeMap;

/// Where a block lies and when it was written: address and birth.
pub(crate) type Placed = (u64, u64);

#[derive(Clone, Copy, Debug)]
struct Run {
    len: u64,
    value: Option<Placed>,
    sequence: u64,
}

impl Run {
    fn tail(self, skip: u64) -> Self {
        Self {
            len: self.len - skip,
            value: self.value.map(|(address, birth)| (address + skip, birth)),
            sequence: self.sequence,
        }
    }
}

/// What an overlay knows about the keys from some key on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Segment {
    /// The next `len` keys are changed: to `value`, or to nothing.
    Changed {
        len: u64,
        value: Option<Placed>,
        sequence: u64,
    },
    /// The next `len` keys are not changed here.
    Unchanged { len: u64 },
}

/// One change, for a merge into a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) key: u64,
    pub(crate) len: u64,
    pub(crate) value: Option<Placed>,
}

#[derive(Default, Debug)]
pub(crate) struct Overlay {
    runs: BTreeMap<(u64, u64), Run>,
}

impl Overlay {
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Sets `len` keys; `value` grows by one address a key.
    pub(crate) fn insert(
        &mut self,
        map: u64,
        key: u64,
        len: u64,
        value: Option<Placed>,
        sequence: u64,
    ) {
        self.cut(map, key, len);
        let run = Run {
            len,
            value,
            sequence,
        };
        self.runs.insert((map, key), run);
    }

    fn cut(&mut self, map: u64, key: u64, len: u64) {
        let end = key + len;
        let before = self.runs.range((map, 0)..(map, key)).next_back();
        if let Some((&(_, start), &run)) = before
            && start + run.len > key
        {
            self.runs.insert(
                (map, start),
                Run {
                    len: key - start,
                    ..run
                },
            );
            if start + run.len > end {
                self.runs.insert((map, end), run.tail(end - start));
            }
        }
        while let Some((&at, &run)) = self.runs.range((map, key)..(map, end)).next() {
            self.runs.remove(&at);
            if at.1 + run.len > end {
                self.runs.insert((map, end), run.tail(end - at.1));
            }
        }
    }

    /// What is known about `key` and up to `max` keys from it; `max` is at least 1.
    pub(crate) fn segment(&self, map: u64, key: u64, max: u64) -> Segment {
        let before = self.runs.range((map, 0)..=(map, key)).next_back();
        if let Some((&(_, start), &run)) = before
            && start + run.len > key
        {
            let run = run.tail(key - start);
            return Segment::Changed {
                len: run.len.min(max),
                value: run.value,
                sequence: run.sequence,
            };
        }
        let next = self
            .runs
            .range((map, key)..(map, key.saturating_add(max)))
            .next();
        let len = next.map_or(max, |(&(_, start), _)| start - key);
        Segment::Unchanged { len }
    }

    /// Changes of one map, ascending.
    pub(crate) fn changes(&self, map: u64) -> Vec<Change> {
        self.runs
            .range((map, 0)..=(map, u64::MAX))
            .map(|(&(_, key), run)| Change {
                key,
                len: run.len,
                value: run.value,
            })
            .collect()
    }

    pub(crate) fn has(&self, map: u64) -> bool {
        self.runs.range((map, 0)..=(map, u64::MAX)).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_changes_cut_earlier_ones() {
        let mut overlay = Overlay::default();
        overlay.insert(1, 10, 10, Some((100, 1)), 1);
        overlay.insert(1, 13, 2, None, 2);
        assert_eq!(
            overlay.segment(1, 10, 50),
            Segment::Changed {
                len: 3,
                value: Some((100, 1)),
                sequence: 1
            }
        );
        assert_eq!(
            overlay.segment(1, 14, 50),
            Segment::Changed {
                len: 1,
                value: None,
                sequence: 2
            }
        );
        assert_eq!(
            overlay.segment(1, 16, 2),
            Segment::Changed {
                len: 2,
                value: Some((106, 1)),
                sequence: 1
            }
        );
        assert_eq!(overlay.segment(1, 20, 5), Segment::Unchanged { len: 5 });
        assert_eq!(overlay.segment(1, 5, 50), Segment::Unchanged { len: 5 });
        assert_eq!(overlay.segment(2, 10, 5), Segment::Unchanged { len: 5 });
        overlay.insert(1, 0, 100, Some((500, 2)), 3);
        assert_eq!(overlay.changes(1).len(), 1);
    }

    #[test]
    fn random_changes_agree_with_an_array() {
        let mut state = 7_u64;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let mut overlay = Overlay::default();
        let mut plain = vec![None; 64];
        for step in 0..5000_u64 {
            let key = random(60);
            let len = 1 + random(64 - key);
            let value = (random(3) > 0).then(|| (1000 * step, step));
            overlay.insert(3, key, len, value, step);
            for i in 0..len {
                plain[(key + i) as usize] = Some(value.map(|(a, b)| (a + i, b)));
            }
            for (key, expected) in plain.iter().enumerate() {
                let found = match overlay.segment(3, key as u64, 1) {
                    Segment::Changed { value, .. } => Some(value),
                    Segment::Unchanged { .. } => None,
                };
                assert_eq!(found, *expected);
            }
        }
    }
}
