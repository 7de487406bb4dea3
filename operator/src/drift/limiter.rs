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
    /// Records a correction if it may be made now; otherwise returns how long to wait.
    ///
    /// # Errors
    /// If the object was corrected so often that another client must be changing it.
    pub fn try_correct(&mut self, now: Instant, id: &ObjectId) -> Result<(), Duration> {
        let recent = self.recent.entry(id.clone()).or_default();
        while recent
            .front()
            .is_some_and(|first| now.duration_since(*first) >= CORRECTION_WINDOW)
        {
            recent.pop_front();
        }
        if let Some(last) = recent
            .back()
            .filter(|_| recent.len() >= MAX_IMMEDIATE_CORRECTIONS)
        {
            let since = now.duration_since(*last);
            if since < LIMITED_CORRECTION_INTERVAL {
                return Err(LIMITED_CORRECTION_INTERVAL - since);
            }
        }
        recent.push_back(now);
        Ok(())
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
            assert_eq!(limiter.try_correct(at(second), &id), Ok(()));
        }
        assert_eq!(limiter.try_correct(at(5), &id), Err(Duration::from_secs(29)));
        assert_eq!(
            limiter.try_correct(at(5), &other),
            Ok(()),
            "others are not affected"
        );
        assert_eq!(limiter.try_correct(at(34), &id), Ok(()));
        assert_eq!(limiter.try_correct(at(300), &id), Ok(()), "outside of the window");
        assert_eq!(limiter.try_correct(at(301), &id), Ok(()));
    }
}
