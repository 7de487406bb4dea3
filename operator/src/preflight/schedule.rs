//! When the cluster is looked at again, and what the last look says about the present spec. Pure: time is an argument.

use std::time::{Duration, Instant};

use lb_crds::load_balancer_stack::PreflightName;

use super::{Facts, Verdict, verdict};
use crate::desired::config::StackConfig;

/// Shortest pause between two looks while something waits for a check to pass: whoever puts it right looks at the stack next.
const WAITING: Duration = Duration::from_secs(5);
/// It grows with the time since it waits, by this part of it, and to the pause of what fails: a cluster that nobody puts right
/// is not to be read over and over.
const PATIENCE: u32 = 8;
/// Pause while a check fails and nothing waits for it.
const FAILING: Duration = Duration::from_secs(60);
/// Pause while all is well.
const RESTING: Duration = Duration::from_secs(300);

/// The last look, and when it was.
#[derive(Debug, Default)]
pub struct Turn {
    last: Option<(Instant, Facts)>,
    /// The first look for this generation at something that waits.
    waits_since: Option<Instant>,
    /// Whether a look is being taken.
    looks: bool,
}

impl Turn {
    /// A look is being taken.
    pub fn begin(&mut self) {
        self.looks = true;
    }

    /// This was seen.
    pub fn take(&mut self, now: Instant, facts: Facts) {
        self.looks = false;
        let before = self.last.take().map(|(_, before)| before);
        if before.as_ref().map(|before| before.generation) != Some(facts.generation) {
            self.waits_since = None;
        }
        self.last = Some((now, facts.after(before)));
    }

    /// What the last look says. What was seen for another generation says nothing: there may have been reasons to change
    /// the spec.
    #[must_use]
    pub fn verdict(&self, plan: &StackConfig, skip: &[PreflightName], generation: i64) -> Verdict {
        match &self.last {
            Some((_, facts)) if facts.generation == generation => verdict(plan, skip, facts),
            Some(_) | None => Verdict::pending(),
        }
    }

    /// How long to wait before the next look; zero if it is due. `None` while one is being taken.
    #[must_use]
    pub fn wait(&mut self, now: Instant, generation: i64, fails: bool, waits: bool) -> Option<Duration> {
        if self.looks {
            return None;
        }
        self.waits_since = self.waits_since.or(Some(now)).filter(|_| waits);
        let Some((last, _)) = self
            .last
            .as_ref()
            .filter(|(_, facts)| facts.generation == generation)
        else {
            return Some(Duration::ZERO);
        };
        let pause = match (waits, fails) {
            (true, _) => {
                let since = self.waits_since.unwrap_or(now);
                (now.saturating_duration_since(since) / PATIENCE).clamp(WAITING, FAILING)
            }
            (false, true) => FAILING,
            (false, false) => RESTING,
        };
        Some(pause.saturating_sub(now.saturating_duration_since(*last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::config::tests::mk_config;
    use crate::preflight::tests::mk_facts;

    #[test]
    fn a_look_is_due_at_first_and_for_each_generation_and_one_at_a_time() {
        let now = Instant::now();
        let mut turn = Turn::default();
        assert_eq!(turn.wait(now, 1, false, false), Some(Duration::ZERO));
        assert!(!turn.verdict(&mk_config(), &[], 1).is_known());
        assert!(turn.verdict(&mk_config(), &[], 1).blocks.is_some());
        turn.begin();
        assert_eq!(turn.wait(now, 1, false, false), None);
        turn.take(now, mk_facts());
        assert!(turn.verdict(&mk_config(), &[], 1).is_known());
        assert_eq!(turn.wait(now, 1, false, false), Some(RESTING));
        assert_eq!(turn.wait(now + RESTING, 1, false, false), Some(Duration::ZERO));
        assert_eq!(turn.wait(now, 2, false, false), Some(Duration::ZERO));
        assert!(turn.verdict(&mk_config(), &[], 2).blocks.is_some());
    }

    #[test]
    fn what_waits_is_looked_at_often() {
        let now = Instant::now();
        let mut turn = Turn::default();
        turn.take(now, mk_facts());
        assert_eq!(turn.wait(now, 1, true, true), Some(WAITING));
        let since = |turn: &mut Turn, seconds: u64| {
            let now = now + Duration::from_secs(seconds);
            turn.take(now, mk_facts());
            turn.wait(now, 1, true, true)
        };
        assert_eq!(since(&mut turn, 40), Some(WAITING));
        assert_eq!(since(&mut turn, 80), Some(WAITING * 2));
        assert_eq!(since(&mut turn, 4000), Some(FAILING));
        let then = now + Duration::from_secs(4000);
        assert_eq!(turn.wait(then, 1, true, false), Some(FAILING));
        assert_eq!(since(&mut turn, 4001), Some(WAITING), "it waits anew");
    }
}
