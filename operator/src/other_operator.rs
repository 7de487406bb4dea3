//! Whether another operator manages the stack: `status.operator` names its Lease, which a running operator renews. Pure:
//! time is an argument, and no clock is compared with that of another host.

use std::time::{Duration, Instant};

use lb_crds::load_balancer_stack::OperatorLease;

/// How long a Lease must not change before its operator counts as gone. A new leader needs less time.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// The other operator, as observed.
#[derive(Debug, Default)]
pub struct OtherOperator {
    lease: OperatorLease,
    /// Version of the Lease; `None` if it does not exist.
    version: Option<String>,
    since: Option<Instant>,
}

impl OtherOperator {
    /// Records the present version of its Lease. Returns whether it is another operator than the last one.
    pub fn observe(&mut self, now: Instant, lease: &OperatorLease, version: Option<String>) -> bool {
        let is_new = self.since.is_none() || self.lease != *lease;
        if is_new || self.version != version {
            *self = Self {
                lease: lease.clone(),
                version,
                since: Some(now),
            };
        }
        is_new
    }

    /// Whether it may still run.
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
    fn third_operator_is_observed_from_the_start() {
        let (mut other, start) = (OtherOperator::default(), Instant::now());
        other.observe(start, &lease("first"), None);
        let now = start + GONE_AFTER;
        assert!(!other.may_run(now));
        assert!(other.observe(now, &lease("third"), None));
        assert!(other.may_run(now));
    }
}
