//! A delay queue that holds each key at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Keys with the time at which each is due.
#[derive(Clone, Debug)]
pub struct DelayQueue<K> {
    due: BTreeMap<K, Instant>,
    queue: BTreeSet<(Instant, K)>,
}

impl<K: Ord> Default for DelayQueue<K> {
    fn default() -> Self {
        Self {
            due: BTreeMap::new(),
            queue: BTreeSet::new(),
        }
    }
}

impl<K: Clone + Ord> DelayQueue<K> {
    /// Inserts a key. A key that is queued already keeps the earlier time.
    pub fn insert(&mut self, key: K, at: Instant) {
        if self.due.get(&key).is_some_and(|before| *before <= at) {
            return;
        }
        self.remove(&key);
        self.queue.insert((at, key.clone()));
        self.due.insert(key, at);
    }

    /// Whether a key is queued.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.due.contains_key(key)
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &K) {
        if let Some(at) = self.due.remove(key) {
            self.queue.remove(&(at, key.clone()));
        }
    }

    /// Removes and returns the first key that is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, _) = self.queue.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        self.due.remove(&key);
        Some(key)
    }

    /// The time at which the first key is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_key_is_due_once_at_its_earliest_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = DelayQueue::default();
        for (key, seconds) in [("a", 3), ("b", 2), ("a", 1), ("b", 5), ("c", 0)] {
            queue.insert(key, at(seconds));
        }
        queue.remove(&"c");
        assert_eq!(queue.next_due(), Some(at(1)));
        assert_eq!(queue.pop_due(at(0)), None);
        assert_eq!(queue.pop_due(at(9)), Some("a"));
        assert_eq!(queue.pop_due(at(9)), Some("b"));
        assert_eq!((queue.pop_due(at(9)), queue.next_due()), (None, None));
    }
}
