//! Keeps the operator from writing without end when somebody else keeps undoing what it writes. Pure: time is an
//! argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::object_id::ObjectId;

/// Corrections of one object that are made at once within [`WINDOW`]; after that, one per [`PAUSE`].
const AT_ONCE: usize = 5;
/// How long a correction counts.
const WINDOW: Duration = Duration::from_secs(120);
/// Between corrections of an object that somebody keeps changing.
const PAUSE: Duration = Duration::from_secs(30);

/// The recent corrections of each object.
#[derive(Debug, Default)]
pub struct Conflicts {
    recent: BTreeMap<ObjectId, VecDeque<Instant>>,
}

impl Conflicts {
    /// An object is about to be corrected. `Err` tells how long to wait before that.
    ///
    /// # Errors
    /// When the object has been corrected so often lately that somebody else must be at work on it.
    pub fn correct(&mut self, now: Instant, id: &ObjectId) -> Result<(), Duration> {
        let recent = self.recent.entry(id.clone()).or_default();
        while recent
            .front()
            .is_some_and(|first| now.duration_since(*first) >= WINDOW)
        {
            recent.pop_front();
        }
        if let Some(last) = recent.back().filter(|_| recent.len() >= AT_ONCE) {
            let since = now.duration_since(*last);
            if since < PAUSE {
                return Err(PAUSE - since);
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
    fn drift_is_corrected_at_once_until_somebody_keeps_at_it() {
        let id = ObjectId::new(Kind::Deployment, "ns", "controller");
        let other = ObjectId::new(Kind::DaemonSet, "ns", "speaker");
        let mut conflicts = Conflicts::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..5 {
            assert_eq!(conflicts.correct(at(second), &id), Ok(()));
        }
        assert_eq!(conflicts.correct(at(5), &id), Err(Duration::from_secs(29)));
        assert_eq!(
            conflicts.correct(at(5), &other),
            Ok(()),
            "others are not affected"
        );
        assert_eq!(conflicts.correct(at(34), &id), Ok(()));
        assert_eq!(conflicts.correct(at(300), &id), Ok(()), "forgotten after a while");
        assert_eq!(conflicts.correct(at(301), &id), Ok(()));
    }
}
