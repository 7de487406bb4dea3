//! Which positions of a pool are used, as intervals that never touch each other: the first free position is one look
//! at the first interval, however full the pool is.

use std::collections::BTreeMap;

/// A set of numbers kept as disjoint intervals with a gap between any two.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// First to last, both included.
    intervals: BTreeMap<u128, u128>,
    len: u64,
}

impl Used {
    /// How many numbers are used.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether none is used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The lowest number that is not used; none when all 2^128 are.
    #[must_use]
    pub fn first_free(&self) -> Option<u128> {
        match self.intervals.first_key_value() {
            Some((0, last)) => last.checked_add(1),
            Some(_) | None => Some(0),
        }
    }

    /// Whether the number is used.
    #[must_use]
    pub fn contains(&self, number: u128) -> bool {
        self.around(number).is_some()
    }

    /// Marks a number as used; false when it was.
    pub fn insert(&mut self, number: u128) -> bool {
        if self.contains(number) {
            return false;
        }
        let mut first = number;
        let mut last = number;
        if let Some(below) = number.checked_sub(1)
            && let Some((start, _)) = self.around(below)
        {
            self.intervals.remove(&start);
            first = start;
        }
        if let Some(above) = number.checked_add(1)
            && let Some(end) = self.intervals.remove(&above)
        {
            last = end;
        }
        self.intervals.insert(first, last);
        self.len += 1;
        true
    }

    /// Marks a number as free; false when it was.
    pub fn remove(&mut self, number: u128) -> bool {
        let Some((first, last)) = self.around(number) else {
            return false;
        };
        self.intervals.remove(&first);
        if let Some(below) = number.checked_sub(1).filter(|below| *below >= first) {
            self.intervals.insert(first, below);
        }
        if let Some(above) = number.checked_add(1).filter(|above| *above <= last) {
            self.intervals.insert(above, last);
        }
        self.len -= 1;
        true
    }

    /// The interval that holds the number.
    fn around(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.intervals.range(..=number).next_back()?;
        (*last >= number).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one_interval_and_part_again() {
        let mut used = Used::default();
        for number in [1, 3, 2, 0] {
            assert!(used.insert(number));
        }
        assert_eq!(used.intervals, BTreeMap::from([(0, 3)]));
        assert_eq!(used.first_free(), Some(4));
        assert!(used.remove(1));
        assert_eq!(used.intervals, BTreeMap::from([(0, 0), (2, 3)]));
        assert_eq!(used.first_free(), Some(1));
    }

    #[test]
    fn the_very_last_number_is_no_special_case() {
        let mut used = Used::default();
        assert!(used.insert(u128::MAX));
        assert!(used.insert(u128::MAX - 1));
        assert!(!used.insert(u128::MAX));
        assert!(used.remove(u128::MAX));
        assert_eq!(used.len(), 1);
        used.intervals = BTreeMap::from([(0, u128::MAX)]);
        assert_eq!(used.first_free(), None);
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0u128..24), 0..200)) {
            let mut used = Used::default();
            let mut model = BTreeSet::new();
            for (insert, number) in steps {
                if insert {
                    prop_assert_eq!(used.insert(number), model.insert(number));
                } else {
                    prop_assert_eq!(used.remove(number), model.remove(&number));
                }
                prop_assert_eq!(used.len(), model.len() as u64);
                prop_assert_eq!(used.first_free(), (0..).find(|n| !model.contains(n)));
                for n in 0..24 {
                    prop_assert_eq!(used.contains(n), model.contains(&n));
                }
                let ends: Vec<_> = used.intervals.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| *pair[0].1 + 1 < *pair[1].0), "{:?}", ends);
            }
        }
    }
}
