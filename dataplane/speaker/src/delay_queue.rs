//! Things to do later, each at most once: a queue ordered by time that also knows its members.

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
    /// Enters a key; if it is there already, the earlier time counts.
    pub fn enter(&mut self, key: K, at: Instant) {
        if self.due.get(&key).is_some_and(|before| *before <= at) {
            return;
        }
        self.remove(&key);
        self.queue.insert((at, key.clone()));
        self.due.insert(key, at);
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &K) {
        if let Some(at) = self.due.remove(key) {
            self.queue.remove(&(at, key.clone()));
        }
    }

    /// Takes out the first key that is due, if there is one.
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        let (at, _) = self.queue.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        self.due.remove(&key);
        Some(key)
    }

    /// When the first key is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn keys_come_once_in_the_order_of_their_earliest_times() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = DelayQueue::default();
        for (key, seconds) in [("a", 3), ("b", 2), ("a", 1), ("b", 5), ("c", 0)] {
            queue.enter(key, at(seconds));
        }
        queue.remove(&"c");
        assert_eq!(queue.next(), Some(at(1)));
        assert_eq!(queue.pop(at(0)), None);
        assert_eq!(queue.pop(at(9)), Some("a"));
        assert_eq!(queue.pop(at(9)), Some("b"));
        assert_eq!((queue.pop(at(9)), queue.next()), (None, None));
    }
}
