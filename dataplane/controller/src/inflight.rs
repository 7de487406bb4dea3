//! Writes in flight, and objects that must not be written yet: after a conflict until the watch has delivered the newer
//! object, after a failure until a delay has passed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_runtime::backoff::Backoff;

/// Delay after the first of several failures in a row; it doubles with each.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(500);
/// The longest delay after a failure.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);

/// The writes of one program, by object.
#[derive(Debug)]
pub struct InFlightWrites<T> {
    states: BTreeMap<T, WriteState>,
    in_flight: usize,
}

#[derive(Debug)]
enum WriteState {
    /// Sent, based on this version of the object; with the backoff of previous failures.
    InFlight {
        version: String,
        backoff: Option<Backoff>,
    },
    /// Not writable while this is the known version.
    Outdated { version: String },
    /// Not writable before this time, unless the object changes.
    BackingOff {
        version: String,
        until: Instant,
        backoff: Backoff,
    },
}

impl<T> Default for InFlightWrites<T> {
    fn default() -> Self {
        Self {
            states: BTreeMap::new(),
            in_flight: 0,
        }
    }
}

impl<T: Clone + Ord> InFlightWrites<T> {
    /// Number of writes in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether an object may be written, of which this version is known.
    #[must_use]
    pub fn may_write(&self, target: &T, known: &str, now: Instant) -> bool {
        match self.states.get(target) {
            None => true,
            Some(WriteState::InFlight { .. }) => false,
            Some(WriteState::Outdated { version }) => version != known,
            Some(WriteState::BackingOff { version, until, .. }) => version != known || *until <= now,
        }
    }

    /// Records a sent write.
    pub fn sent(&mut self, target: T, version: String) {
        let backoff = match self.states.remove(&target) {
            Some(WriteState::BackingOff { backoff, .. }) => Some(backoff),
            Some(WriteState::InFlight { .. } | WriteState::Outdated { .. }) | None => None,
        };
        self.states
            .insert(target, WriteState::InFlight { version, backoff });
        self.in_flight += 1;
    }

    /// Records a success. Returns the version that the write was based on.
    pub fn succeeded(&mut self, target: &T) -> Option<String> {
        self.end(target).map(|(version, _)| version)
    }

    /// Records a conflict: the object has changed or is gone, and the watch will deliver that.
    pub fn outdated(&mut self, target: &T) {
        if let Some((version, _)) = self.end(target) {
            self.states
                .insert(target.clone(), WriteState::Outdated { version });
        }
    }

    /// Records a failure; the next write has to wait.
    pub fn failed(&mut self, target: &T, now: Instant) {
        if let Some((version, backoff)) = self.end(target) {
            let mut backoff = backoff.unwrap_or_else(|| Backoff::new(FIRST_RETRY_DELAY, MAX_RETRY_DELAY));
            let until = now + backoff.next_delay();
            let state = WriteState::BackingOff {
                version,
                until,
                backoff,
            };
            self.states.insert(target.clone(), state);
        }
    }

    /// Forgets an object, unless a write is in flight.
    pub fn forget(&mut self, target: &T) {
        // A write in flight is counted until it ends.
        if !matches!(self.states.get(target), Some(WriteState::InFlight { .. })) {
            self.states.remove(target);
        }
    }

    /// The end of the next delay.
    #[must_use]
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        self.retries()
            .map(|(_, until)| until)
            .filter(|until| *until > now)
            .min()
    }

    /// The objects whose delay has ended.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<T> {
        let due = self.retries().filter(|(_, until)| *until <= now);
        due.map(|(target, _)| target.clone()).collect()
    }

    fn retries(&self) -> impl Iterator<Item = (&T, Instant)> {
        self.states.iter().filter_map(|(target, state)| match state {
            WriteState::BackingOff { until, .. } => Some((target, *until)),
            WriteState::InFlight { .. } | WriteState::Outdated { .. } => None,
        })
    }

    fn end(&mut self, target: &T) -> Option<(String, Option<Backoff>)> {
        match self.states.remove(target) {
            Some(WriteState::InFlight { version, backoff }) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                Some((version, backoff))
            }
            Some(other) => {
                self.states.insert(target.clone(), other);
                None
            }
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_has_one_write_at_a_time() {
        let now = Instant::now();
        let mut inflight = InFlightWrites::default();
        assert!(inflight.may_write(&"a", "1", now));
        inflight.sent("a", "1".to_owned());
        assert!(!inflight.may_write(&"a", "2", now));
        assert!(inflight.may_write(&"b", "1", now));
        assert_eq!(inflight.in_flight(), 1);
        assert_eq!(inflight.succeeded(&"a").as_deref(), Some("1"));
        assert_eq!(inflight.in_flight(), 0);
    }

    #[test]
    fn conflict_blocks_writes_until_newer_version() {
        let now = Instant::now();
        let mut inflight = InFlightWrites::default();
        inflight.sent("a", "1".to_owned());
        inflight.outdated(&"a");
        assert!(!inflight.may_write(&"a", "1", now));
        assert!(inflight.may_write(&"a", "2", now));
        assert_eq!(inflight.next_timeout(now), None, "only the watch ends the wait");
    }

    #[test]
    fn repeated_failures_double_the_delay() {
        let mut now = Instant::now();
        let mut inflight = InFlightWrites::default();
        let mut delays = Vec::new();
        for _ in 0..9 {
            inflight.sent("a", "1".to_owned());
            inflight.failed(&"a", now);
            assert!(!inflight.may_write(&"a", "1", now));
            let due = inflight.next_timeout(now).unwrap();
            delays.push((due - now).as_millis());
            now = due;
            assert_eq!(inflight.due(now), ["a"]);
        }
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert!(
            inflight.may_write(&"a", "2", now - Duration::from_secs(1)),
            "a changed object is written at once"
        );
    }
}
