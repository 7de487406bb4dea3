//! A set of numbers as disjoint intervals, so that the lowest absent number is found in O(log n).

use std::collections::BTreeMap;

/// A set of numbers, stored as intervals with a gap between any two.
#[derive(Clone, Debug, Default)]
pub struct IntervalSet {
    /// First to last number of each interval, inclusive.
    intervals: BTreeMap<u128, u128>,
    len: u64,
}

impl IntervalSet {
    /// How many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The lowest number from `first` on that is not in the set; `None` if there is none below 2^128.
    #[must_use]
    pub fn lowest_absent_from(&self, first: u128) -> Option<u128> {
        match self.interval_of(first) {
            Some((_, last)) => last.checked_add(1),
            None => Some(first),
        }
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, number: u128) -> bool {
        self.interval_of(number).is_some()
    }

    /// Adds a number; false if it was in the set.
    pub fn insert(&mut self, number: u128) -> bool {
        if self.contains(number) {
            return false;
        }
        let mut first = number;
        let mut last = number;
        if let Some(below) = number.checked_sub(1)
            && let Some((start, _)) = self.interval_of(below)
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

    /// Removes a number; false if it was not in the set.
    pub fn remove(&mut self, number: u128) -> bool {
        let Some((first, last)) = self.interval_of(number) else {
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

    /// The interval that contains the number.
    fn interval_of(&self, number: u128) -> Option<(u128, u128)> {
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
    fn adjacent_numbers_merge_and_split() {
        let mut set = IntervalSet::default();
        for number in [1, 3, 2, 0] {
            assert!(set.insert(number));
        }
        assert_eq!(set.intervals, BTreeMap::from([(0, 3)]));
        assert_eq!(set.lowest_absent_from(0), Some(4));
        assert!(set.remove(1));
        assert_eq!(set.intervals, BTreeMap::from([(0, 0), (2, 3)]));
        assert_eq!(set.lowest_absent_from(0), Some(1));
    }

    #[test]
    fn largest_number_is_supported() {
        let mut set = IntervalSet::default();
        assert!(set.insert(u128::MAX));
        assert!(set.insert(u128::MAX - 1));
        assert!(!set.insert(u128::MAX));
        assert!(set.remove(u128::MAX));
        assert_eq!(set.len(), 1);
        set.intervals = BTreeMap::from([(0, u128::MAX)]);
        assert_eq!(set.lowest_absent_from(0), None);
    }

    proptest! {
        #[test]
        fn behaves_like_a_btree_set(steps in prop::collection::vec((any::<bool>(), 0u128..24), 0..200)) {
            let mut set = IntervalSet::default();
            let mut model = BTreeSet::new();
            for (insert, number) in steps {
                if insert {
                    prop_assert_eq!(set.insert(number), model.insert(number));
                } else {
                    prop_assert_eq!(set.remove(number), model.remove(&number));
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert_eq!(set.lowest_absent_from(0), (0..).find(|n| !model.contains(n)));
                for n in 0..24 {
                    prop_assert_eq!(set.contains(n), model.contains(&n));
                }
                let ends: Vec<_> = set.intervals.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| *pair[0].1 + 1 < *pair[1].0), "{:?}", ends);
            }
        }
    }
}
