//! Which positions of a pool were released lately, in order of release.

use std::collections::BTreeMap;

/// How many are remembered. Beyond, the oldest are forgotten: they are taken for never used, and after so many others
/// that is nearly true.
const REMEMBERED: usize = 65_536;

/// Positions and when they were released. O(log n) each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resting {
    /// Time of release, a number that tells apart those of one second, and the position.
    by_age: BTreeMap<(i64, u64), u128>,
    by_position: BTreeMap<u128, (i64, u64)>,
    turn: u64,
}

impl Resting {
    pub(crate) fn len(&self) -> u64 {
        self.by_age.len() as u64
    }

    pub(crate) fn contains(&self, position: u128) -> bool {
        self.by_position.contains_key(&position)
    }

    /// Adds a position that is not in here. Returns the one that is forgotten for it, if there are too many.
    pub(crate) fn add(&mut self, position: u128, since: i64) -> Option<u128> {
        self.turn += 1;
        self.by_age.insert((since, self.turn), position);
        self.by_position.insert(position, (since, self.turn));
        let (oldest, _) = self.oldest().filter(|_| self.by_age.len() > REMEMBERED)?;
        self.remove(oldest);
        Some(oldest)
    }

    /// Takes a position out; false when it was not in here.
    pub(crate) fn remove(&mut self, position: u128) -> bool {
        let age = self.by_position.remove(&position);
        age.is_some_and(|age| self.by_age.remove(&age).is_some())
    }

    /// The position that was released first, and when.
    pub(crate) fn oldest(&self) -> Option<(u128, i64)> {
        let ((since, _), position) = self.by_age.first_key_value()?;
        Some((*position, *since))
    }

    /// Positions and when they were released, the last first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = (u128, i64)> {
        self.by_age
            .iter()
            .rev()
            .map(|((since, _), position)| (*position, *since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_be_released_is_the_oldest_also_within_one_second() {
        let mut resting = Resting::default();
        for position in [7, 3, 5] {
            assert_eq!(resting.add(position, 100), None);
        }
        assert_eq!(resting.oldest(), Some((7, 100)));
        assert!(resting.remove(7) && !resting.remove(7));
        assert_eq!(resting.oldest(), Some((3, 100)));
        let all: Vec<_> = resting.newest_first().map(|(position, _)| position).collect();
        assert_eq!(all, [5, 3]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut resting = Resting::default();
        for position in 0..REMEMBERED as u128 {
            resting.add(position, 1);
        }
        assert_eq!(resting.add(1 << 70, 1), Some(0));
        assert_eq!(resting.len(), REMEMBERED as u64);
    }
}
