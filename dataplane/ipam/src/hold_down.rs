//! The positions of a pool that were released recently, in order of release.

use std::collections::BTreeMap;

/// Releases tracked per pool and family. Beyond that the oldest is dropped, and its position counts as never used.
const MAX_TRACKED_RELEASES: usize = 65_536;

/// Positions with their times of release. Each operation is O(log n).
#[derive(Clone, Debug, Default)]
pub(crate) struct ReleasedAddresses {
    /// Time of release and a sequence number for releases within one second, to position.
    by_age: BTreeMap<(i64, u64), u128>,
    by_position: BTreeMap<u128, (i64, u64)>,
    sequence: u64,
}

impl ReleasedAddresses {
    pub(crate) fn len(&self) -> u64 {
        self.by_age.len() as u64
    }

    pub(crate) fn contains(&self, position: u128) -> bool {
        self.by_position.contains_key(&position)
    }

    /// Adds a position that is not tracked yet. Returns the position that is dropped, if there are too many.
    pub(crate) fn add(&mut self, position: u128, since: i64) -> Option<u128> {
        self.sequence += 1;
        self.by_age.insert((since, self.sequence), position);
        self.by_position.insert(position, (since, self.sequence));
        let (oldest, _) = self
            .oldest()
            .filter(|_| self.by_age.len() > MAX_TRACKED_RELEASES)?;
        self.remove(oldest);
        Some(oldest)
    }

    /// Removes a position; false if it was not tracked.
    pub(crate) fn remove(&mut self, position: u128) -> bool {
        let age = self.by_position.remove(&position);
        age.is_some_and(|age| self.by_age.remove(&age).is_some())
    }

    /// The position that was released first, with its time.
    pub(crate) fn oldest(&self) -> Option<(u128, i64)> {
        let ((since, _), position) = self.by_age.first_key_value()?;
        Some((*position, *since))
    }

    /// Positions with their times of release, the earliest first.
    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = (u128, i64)> {
        self.by_age
            .iter()
            .map(|((since, _), position)| (*position, *since))
    }

    /// Positions with their times of release, the latest first.
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
    fn releases_keep_their_order_within_one_second() {
        let mut released = ReleasedAddresses::default();
        for position in [7, 3, 5] {
            assert_eq!(released.add(position, 100), None);
        }
        assert_eq!(released.oldest(), Some((7, 100)));
        assert!(released.remove(7) && !released.remove(7));
        assert_eq!(released.oldest(), Some((3, 100)));
        let all: Vec<_> = released.newest_first().map(|(position, _)| position).collect();
        assert_eq!(all, [5, 3]);
    }

    #[test]
    fn tracked_releases_are_bounded() {
        let mut released = ReleasedAddresses::default();
        for position in 0..MAX_TRACKED_RELEASES as u128 {
            released.add(position, 1);
        }
        assert_eq!(released.add(1 << 70, 1), Some(0));
        assert_eq!(released.len(), MAX_TRACKED_RELEASES as u64);
    }
}
