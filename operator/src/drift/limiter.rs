//! Limits how often drift of one object is corrected, in case another client keeps reverting the corrections. Pure:
//! time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::object_id::ObjectId;

/// Corrections of one object within [`CORRECTION_WINDOW`] that are not delayed; later ones wait for
/// [`LIMITED_CORRECTION_INTERVAL`].
const MAX_IMMEDIATE_CORRECTIONS: usize = 5;
const CORRECTION_WINDOW: Duration = Duration::from_secs(120);
const LIMITED_CORRECTION_INTERVAL: Duration = Duration::from_secs(30);

/// The recent corrections of each object.
#[derive(Debug, Default)]
pub struct DriftLimiter {
    recent: BTreeMap<ObjectId, VecDeque<Instant>>,
}

impl DriftLimiter {
    /// How long a correction has to wait; `None` if it may be made now. It waits if the object was corrected so often that
    /// another client must be changing it.
    #[must_use]
    pub fn waits(&self, now: Instant, id: &ObjectId) -> Option<Duration> {
        let recent = self.recent.get(id)?.iter();
        let mut recent = recent.filter(|at| now.duration_since(**at) < CORRECTION_WINDOW);
        if recent.clone().count() < MAX_IMMEDIATE_CORRECTIONS {
            return None;
        }
        let last = recent.next_back()?;
        let wait = LIMITED_CORRECTION_INTERVAL.checked_sub(now.duration_since(*last))?;
        (!wait.is_zero()).then_some(wait)
    }

    /// Records a correction. One that was refused does not count: nobody has reverted it.
    pub fn record(&mut self, now: Instant, id: &ObjectId) {
        let recent = self.recent.entry(id.clone()).or_default();
        while recent
            .front()
            .is_some_and(|first| now.duration_since(*first) >= CORRECTION_WINDOW)
        {
            recent.pop_front();
        }
        recent.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_id::Kind;

    #[test]
    fn repeated_corrections_are_delayed() {
        let id = ObjectId::new(Kind::Deployment, "ns", "controller");
        let other = ObjectId::new(Kind::DaemonSet, "ns", "speaker");
        let mut limiter = DriftLimiter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..5 {
            assert_eq!(limiter.waits(at(second), &id), None);
            limiter.record(at(second), &id);
        }
        assert_eq!(limiter.waits(at(5), &id), Some(Duration::from_secs(29)));
        assert_eq!(limiter.waits(at(5), &other), None, "others are not affected");
        assert_eq!(limiter.waits(at(34), &id), None);
        limiter.record(at(300), &id);
        assert_eq!(
            limiter.waits(at(301), &id),
            None,
            "the others are outside of the window"
        );
    }
}
