//! The timers of a session, and the pauses between attempts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A timer of a session. Of several that have expired, the first in this order is handled first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Timer {
    /// The router was silent for too long.
    Hold,
    /// The router accepted no data for too long.
    SendHold,
    /// The connection takes too long.
    Dial,
    /// The next attempt after a failed connection.
    Retry,
    /// The next attempt after an error in the protocol.
    ErrorHold,
    /// The next KEEPALIVE.
    Keepalive,
}

#[derive(Debug)]
pub(super) struct Timers {
    running: BTreeMap<Timer, Instant>,
    random: Random,
}

impl Timers {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            running: BTreeMap::new(),
            random: Random(seed),
        }
    }

    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.running.insert(timer, at);
    }

    /// Sets a timer to 75 to 100 % of the interval (RFC 4271 section 10).
    pub(super) fn set_jittered(&mut self, timer: Timer, now: Instant, interval: Duration) {
        let at = now + self.random.between(interval * 3 / 4, interval);
        self.set(timer, at);
    }

    pub(super) fn clear(&mut self) {
        self.running.clear();
    }

    pub(super) fn clear_one(&mut self, timer: Timer) {
        self.running.remove(&timer);
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.running.contains_key(&timer)
    }

    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Timer> {
        let (timer, _) = self.running.iter().find(|(_, at)| **at <= now)?;
        let timer = *timer;
        self.running.remove(&timer);
        Some(timer)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.running.values().min().copied()
    }
}

/// Nominal pauses that double up to a maximum; each is spread over a range of percents of its nominal value.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    percent: (u32, u32),
    nominal: Duration,
    random: Random,
}

impl Backoff {
    pub(super) fn new(first: Duration, max: Duration, percent: (u32, u32), seed: u64) -> Self {
        Self {
            first,
            max,
            percent,
            nominal: first.min(max),
            random: Random(seed),
        }
    }

    pub(super) fn next(&mut self) -> Duration {
        let (low, high) = self.percent;
        let pause = self
            .random
            .between(self.nominal * low / 100, self.nominal * high / 100);
        self.nominal = (self.nominal * 2).min(self.max);
        pause
    }

    pub(super) fn set_max(&mut self, max: Duration) {
        self.max = max;
        self.nominal = self.nominal.min(max);
    }

    pub(super) fn reset(&mut self) {
        self.nominal = self.first.min(self.max);
    }
}

/// SplitMix64: the same seed gives the same pauses.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let thousandths = u32::try_from(z % 1001).unwrap_or_default();
        from + to.saturating_sub(from) * thousandths / 1000
    }
}
