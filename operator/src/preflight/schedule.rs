//! When facts are collected, and the report of the latest facts. Pure: time is an argument.

use std::time::{Duration, Instant};

use lb_crds::load_balancer_stack::PreflightName;

use super::{ClusterFacts, PreflightReport, run_checks};
use crate::desired::config::StackConfig;

/// Shortest collection interval while a change is blocked, so that a fix takes effect soon.
const MIN_BLOCKED_INTERVAL: Duration = Duration::from_secs(5);
/// While a change is blocked, the interval is this fraction of the time since then, between [`MIN_BLOCKED_INTERVAL`]
/// and [`FAILED_INTERVAL`].
const BLOCKED_INTERVAL_DIVISOR: u32 = 8;
/// Collection interval while a check fails and no change is blocked.
const FAILED_INTERVAL: Duration = Duration::from_secs(60);
/// Collection interval while no check fails.
const PASSED_INTERVAL: Duration = Duration::from_secs(300);

/// The latest facts and the time of the next collection.
#[derive(Debug, Default)]
pub struct PreflightSchedule {
    last: Option<(Instant, ClusterFacts)>,
    /// Since when a change of this generation is blocked.
    blocked_since: Option<Instant>,
    /// Whether a collection is in progress.
    collecting: bool,
}

impl PreflightSchedule {
    /// A collection has started.
    pub fn begin(&mut self) {
        self.collecting = true;
    }

    /// Stores collected facts.
    pub fn store(&mut self, now: Instant, facts: ClusterFacts) {
        self.collecting = false;
        let before = self.last.take().map(|(_, before)| before);
        if before.as_ref().map(|before| before.generation) != Some(facts.generation) {
            self.blocked_since = None;
        }
        self.last = Some((now, facts.or_known(before)));
    }

    /// The report for the latest facts; pending if those are about another generation.
    #[must_use]
    pub fn report(&self, config: &StackConfig, skip: &[PreflightName], generation: i64) -> PreflightReport {
        match &self.last {
            Some((_, facts)) if facts.generation == generation => run_checks(config, skip, facts),
            Some(_) | None => PreflightReport::pending(),
        }
    }

    /// How many nodes the cluster has, if that is known.
    #[must_use]
    pub fn nodes(&self) -> Option<usize> {
        let (_, facts) = self.last.as_ref()?;
        facts.nodes.as_ref().ok().map(Vec::len)
    }

    /// Time until the next collection, zero if it is due; `None` while one is in progress.
    #[must_use]
    pub fn wait(&mut self, now: Instant, generation: i64, fails: bool, blocked: bool) -> Option<Duration> {
        if self.collecting {
            return None;
        }
        self.blocked_since = self.blocked_since.or(Some(now)).filter(|_| blocked);
        let Some((last, _)) = self
            .last
            .as_ref()
            .filter(|(_, facts)| facts.generation == generation)
        else {
            return Some(Duration::ZERO);
        };
        let interval = match (blocked, fails) {
            (true, _) => {
                let since = self.blocked_since.unwrap_or(now);
                (now.saturating_duration_since(since) / BLOCKED_INTERVAL_DIVISOR)
                    .clamp(MIN_BLOCKED_INTERVAL, FAILED_INTERVAL)
            }
            (false, true) => FAILED_INTERVAL,
            (false, false) => PASSED_INTERVAL,
        };
        Some(interval.saturating_sub(now.saturating_duration_since(*last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::config::tests::mk_config;
    use crate::preflight::tests::mk_facts;

    #[test]
    fn facts_are_collected_once_per_generation() {
        let now = Instant::now();
        let mut schedule = PreflightSchedule::default();
        assert_eq!(schedule.wait(now, 1, false, false), Some(Duration::ZERO));
        assert!(!schedule.report(&mk_config(), &[], 1).is_known());
        assert!(schedule.report(&mk_config(), &[], 1).blocked_by.is_some());
        schedule.begin();
        assert_eq!(schedule.wait(now, 1, false, false), None);
        schedule.store(now, mk_facts());
        assert!(schedule.report(&mk_config(), &[], 1).is_known());
        assert_eq!(schedule.wait(now, 1, false, false), Some(PASSED_INTERVAL));
        assert_eq!(
            schedule.wait(now + PASSED_INTERVAL, 1, false, false),
            Some(Duration::ZERO)
        );
        assert_eq!(schedule.wait(now, 2, false, false), Some(Duration::ZERO));
        assert!(schedule.report(&mk_config(), &[], 2).blocked_by.is_some());
    }

    #[test]
    fn blocked_change_shortens_the_interval() {
        let now = Instant::now();
        let mut schedule = PreflightSchedule::default();
        schedule.store(now, mk_facts());
        assert_eq!(schedule.wait(now, 1, true, true), Some(MIN_BLOCKED_INTERVAL));
        let since = |schedule: &mut PreflightSchedule, seconds: u64| {
            let now = now + Duration::from_secs(seconds);
            schedule.store(now, mk_facts());
            schedule.wait(now, 1, true, true)
        };
        assert_eq!(since(&mut schedule, 40), Some(MIN_BLOCKED_INTERVAL));
        assert_eq!(since(&mut schedule, 80), Some(MIN_BLOCKED_INTERVAL * 2));
        assert_eq!(since(&mut schedule, 4000), Some(FAILED_INTERVAL));
        let then = now + Duration::from_secs(4000);
        assert_eq!(schedule.wait(then, 1, true, false), Some(FAILED_INTERVAL));
        assert_eq!(
            since(&mut schedule, 4001),
            Some(MIN_BLOCKED_INTERVAL),
            "blocked again"
        );
    }
}
