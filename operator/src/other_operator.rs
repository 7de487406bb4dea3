//! Whether another operator manages the stack: `status.operator` names its Lease, which a running operator renews. Pure:
//! time is an argument, and no clock is compared with that of another host.

use std::time::{Duration, Instant};

use lb_crds::load_balancer_stack::OperatorLease;

/// How long a Lease must not change before its operator counts as gone. A new leader needs less time.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// How often its Lease is read.
pub const OBSERVATION_INTERVAL: Duration = Duration::from_secs(10);

/// The other operator, as observed.
#[derive(Debug, Default)]
pub struct OtherOperator {
    lease: OperatorLease,
    /// Version of the Lease; `None` if it does not exist.
    version: Option<String>,
    since: Option<Instant>,
    read_at: Option<Instant>,
}

impl OtherOperator {
    /// Whether its Lease should be read now. Every event starts a reconciliation, and few of them a read.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let age = self.read_at.map(|read| now.saturating_duration_since(read));
        let is_due = age.is_none_or(|age| age >= OBSERVATION_INTERVAL);
        if is_due {
            self.read_at = Some(now);
        }
        is_due
    }

    /// Records the present version of its Lease. Returns whether it is another operator than the last one.
    pub fn observe(&mut self, now: Instant, lease: &OperatorLease, version: Option<String>) -> bool {
        let is_new = self.since.is_none() || self.lease != *lease;
        if is_new || self.version != version {
            *self = Self {
                lease: lease.clone(),
                version,
                since: Some(now),
                read_at: self.read_at,
            };
        }
        is_new
    }

    /// Whether it may still run, by the observation that was just made.
    #[must_use]
    pub fn may_run(&self, now: Instant) -> bool {
        self.since
            .is_none_or(|since| now.saturating_duration_since(since) < GONE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(namespace: &str) -> OperatorLease {
        OperatorLease {
            namespace: namespace.to_owned(),
            name: "lb-operator".to_owned(),
        }
    }

    #[test]
    fn operator_that_renews_its_lease_runs() {
        let (mut other, start) = (OtherOperator::default(), Instant::now());
        assert!(other.observe(start, &lease("first"), Some("1".to_owned())));
        for renewal in 2..100_u32 {
            let now = start + Duration::from_secs(10) * renewal;
            assert!(!other.observe(now, &lease("first"), Some(renewal.to_string())));
            assert!(other.may_run(now));
        }
    }

    /// The Lease of an operator that was removed stays, unless its namespace is deleted.
    #[test]
    fn operator_whose_lease_does_not_change_is_gone_after_a_minute() {
        for version in [None, Some("1".to_owned())] {
            let (mut other, start) = (OtherOperator::default(), Instant::now());
            for second in [0, 10, 59, 60] {
                let now = start + Duration::from_secs(second);
                other.observe(now, &lease("first"), version.clone());
                assert_eq!(other.may_run(now), second < 60, "{version:?} {second}");
            }
        }
    }

    #[test]
    fn lease_is_read_every_ten_seconds() {
        let (mut other, start) = (OtherOperator::default(), Instant::now());
        for (second, due) in [(0, true), (0, false), (9, false), (10, true), (19, false)] {
            assert_eq!(other.is_due(start + Duration::from_secs(second)), due, "{second}");
        }
    }

    #[test]
    fn third_operator_is_observed_from_the_start() {
        let (mut other, start) = (OtherOperator::default(), Instant::now());
        other.observe(start, &lease("first"), None);
        let now = start + GONE_AFTER;
        assert!(!other.may_run(now));
        assert!(other.observe(now, &lease("third"), None));
        assert!(other.may_run(now));
    }
}
