//! Which objects have a write under way, or must not be written yet: after a conflict, until the watch has delivered
//! the newer object; after a failure, until a pause has passed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Pause after the first failure in a row; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The writes of one program, by object.
#[derive(Debug)]
pub struct Flights<T> {
    states: BTreeMap<T, State>,
    under_way: usize,
}

#[derive(Debug)]
enum State {
    /// Sent, based on this version of the object; after so long a pause if it was tried before.
    UnderWay {
        version: String,
        pause: Option<Duration>,
    },
    /// Not to be written as long as this version is what is known.
    Outdated { version: String },
    /// Not to be written before this time, unless the object changes.
    Pausing {
        version: String,
        until: Instant,
        pause: Duration,
    },
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self {
            states: BTreeMap::new(),
            under_way: 0,
        }
    }
}

impl<T: Clone + Ord> Flights<T> {
    /// How many writes are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether an object may be written, of which this version is known.
    #[must_use]
    pub fn may_write(&self, target: &T, known: &str, now: Instant) -> bool {
        match self.states.get(target) {
            None => true,
            Some(State::UnderWay { .. }) => false,
            Some(State::Outdated { version }) => version != known,
            Some(State::Pausing { version, until, .. }) => version != known || *until <= now,
        }
    }

    /// A write was sent.
    pub fn sent(&mut self, target: T, version: String) {
        let pause = match self.states.get(&target) {
            Some(State::Pausing { pause, .. }) => Some(*pause),
            Some(State::UnderWay { .. } | State::Outdated { .. }) | None => None,
        };
        self.states.insert(target, State::UnderWay { version, pause });
        self.under_way += 1;
    }

    /// It succeeded. Returns the version that it was based on.
    pub fn succeeded(&mut self, target: &T) -> Option<String> {
        self.landed(target).map(|(version, _)| version)
    }

    /// The object has changed meanwhile, or is gone: the watch will tell.
    pub fn outdated(&mut self, target: &T) {
        if let Some((version, _)) = self.landed(target) {
            self.states.insert(target.clone(), State::Outdated { version });
        }
    }

    /// It failed: try again after a pause.
    pub fn failed(&mut self, target: &T, now: Instant) {
        if let Some((version, pause)) = self.landed(target) {
            let pause = pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
            let until = now + pause;
            self.states.insert(
                target.clone(),
                State::Pausing {
                    version,
                    until,
                    pause,
                },
            );
        }
    }

    /// The object is gone.
    pub fn forget(&mut self, target: &T) {
        // One under way is still counted until it lands.
        if !matches!(self.states.get(target), Some(State::UnderWay { .. })) {
            self.states.remove(target);
        }
    }

    /// When the next pause ends that has not ended yet.
    #[must_use]
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        self.pauses()
            .map(|(_, until)| until)
            .filter(|until| *until > now)
            .min()
    }

    /// The objects whose pause has ended.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<T> {
        let due = self.pauses().filter(|(_, until)| *until <= now);
        due.map(|(target, _)| target.clone()).collect()
    }

    fn pauses(&self) -> impl Iterator<Item = (&T, Instant)> {
        self.states.iter().filter_map(|(target, state)| match state {
            State::Pausing { until, .. } => Some((target, *until)),
            State::UnderWay { .. } | State::Outdated { .. } => None,
        })
    }

    fn landed(&mut self, target: &T) -> Option<(String, Option<Duration>)> {
        match self.states.remove(target) {
            Some(State::UnderWay { version, pause }) => {
                self.under_way = self.under_way.saturating_sub(1);
                Some((version, pause))
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
    fn an_object_has_one_write_under_way_at_a_time() {
        let now = Instant::now();
        let mut flights = Flights::default();
        assert!(flights.may_write(&"a", "1", now));
        flights.sent("a", "1".to_owned());
        assert!(!flights.may_write(&"a", "2", now));
        assert!(flights.may_write(&"b", "1", now));
        assert_eq!(flights.under_way(), 1);
        assert_eq!(flights.succeeded(&"a").as_deref(), Some("1"));
        assert_eq!(flights.under_way(), 0);
    }

    #[test]
    fn after_a_conflict_nothing_is_written_until_the_newer_object_is_known() {
        let now = Instant::now();
        let mut flights = Flights::default();
        flights.sent("a", "1".to_owned());
        flights.outdated(&"a");
        assert!(!flights.may_write(&"a", "1", now));
        assert!(flights.may_write(&"a", "2", now));
        assert_eq!(
            flights.next_timeout(now),
            None,
            "there is nothing to wait for but the watch"
        );
    }

    #[test]
    fn failures_in_a_row_make_the_pause_longer() {
        let mut now = Instant::now();
        let mut flights = Flights::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            flights.sent("a", "1".to_owned());
            flights.failed(&"a", now);
            assert!(!flights.may_write(&"a", "1", now));
            let due = flights.next_timeout(now).unwrap();
            pauses.push((due - now).as_millis());
            now = due;
            assert_eq!(flights.due(now), ["a"]);
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert!(
            flights.may_write(&"a", "2", now - Duration::from_secs(1)),
            "a changed object is tried at once"
        );
    }
}
