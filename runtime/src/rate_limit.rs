//! Limits how often something happens per key: a burst at once, then one per interval. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Below this number, entries that are no longer needed are not looked for.
const MIN_CLEANUP: usize = 64;

/// A limit per key.
#[derive(Clone, Debug)]
pub struct RateLimiter<K> {
    burst: u32,
    interval: Duration,
    /// When the whole burst is available again. Keys whose time has passed may be absent.
    full_at: BTreeMap<K, Instant>,
    cleanup_at: usize,
}

impl<K: Clone + Ord> RateLimiter<K> {
    /// Allows `burst` at once, and one more after each `interval`.
    #[must_use]
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self {
            burst,
            interval,
            full_at: BTreeMap::new(),
            cleanup_at: MIN_CLEANUP,
        }
    }

    /// Counts one for this key.
    ///
    /// # Errors
    /// The limit is reached: when the next is allowed. It is not counted.
    pub fn admit(&mut self, now: Instant, key: &K) -> Result<(), Instant> {
        let full_at = self.full_at.get(key).copied().unwrap_or(now).max(now) + self.interval;
        let allowed_from = full_at.checked_sub(self.interval * self.burst);
        if let Some(at) = allowed_from.filter(|at| now < *at) {
            return Err(at);
        }
        if self.full_at.len() >= self.cleanup_at {
            self.full_at.retain(|_, at| now < *at);
            self.cleanup_at = (2 * self.full_at.len()).max(MIN_CLEANUP);
        }
        self.full_at.insert(key.clone(), full_at);
        Ok(())
    }

    /// The number of keys in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.full_at.len()
    }

    /// Whether no key is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full_at.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn burst_is_followed_by_one_per_interval() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(3, Duration::from_secs(10));
        let mut allowed = Vec::new();
        for second in 0..40 {
            if limiter.admit(start + Duration::from_secs(second), &"a").is_ok() {
                allowed.push(second);
            }
        }
        assert_eq!(allowed, [0, 1, 2, 10, 20, 30]);
        let now = start + Duration::from_secs(40);
        assert!(
            limiter.admit(now, &"b").is_ok(),
            "each key has a limit of its own"
        );
        assert!(limiter.admit(now, &"a").is_ok());
        assert_eq!(limiter.admit(now, &"a"), Err(start + Duration::from_secs(50)));
        let later = now + Duration::from_secs(100);
        assert!(
            (0..3).all(|_| limiter.admit(later, &"a").is_ok()),
            "the burst returns"
        );
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn keys_at_rest_are_forgotten() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(3, Duration::from_secs(10));
        for number in 0..10_000_u32 {
            let now = start + Duration::from_millis(100) * number;
            assert_eq!(limiter.admit(now, &number), Ok(()));
        }
        assert!(limiter.len() <= 300, "{} keys", limiter.len());
    }
}
