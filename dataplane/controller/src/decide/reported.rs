//! The last problem reported for each Service, counted by reason.

use std::collections::BTreeMap;

use lb_runtime::ObjectKey;

use crate::condition::{Problem, Reported};

/// The problems, and how many Services lack an address for each reason.
#[derive(Debug, Default)]
pub(super) struct ReportedProblems {
    of: BTreeMap<ObjectKey, Reported>,
    unassigned: BTreeMap<&'static str, usize>,
}

impl ReportedProblems {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Reported> {
        self.of.get(key)
    }

    pub(super) fn insert(&mut self, key: ObjectKey, reported: Reported) {
        if let Some(reason) = unassigned_reason(&reported) {
            *self.unassigned.entry(reason).or_default() += 1;
        }
        let before = self.of.insert(key, reported);
        self.uncount(before.as_ref());
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) {
        let before = self.of.remove(key);
        self.uncount(before.as_ref());
    }

    /// How many Services lack an address, by reason of condition AddressAssigned. No entry is 0.
    pub(super) fn unassigned(&self) -> &BTreeMap<&'static str, usize> {
        &self.unassigned
    }

    fn uncount(&mut self, reported: Option<&Reported>) {
        let Some(reason) = reported.and_then(unassigned_reason) else {
            return;
        };
        if let Some(count) = self.unassigned.get_mut(reason) {
            *count -= 1;
            if *count == 0 {
                self.unassigned.remove(reason);
            }
        }
    }
}

/// A Service that keeps what it has, or that lacks an address which it only prefers, is served.
fn unassigned_reason(reported: &Reported) -> Option<&'static str> {
    match reported.problem {
        Problem::Failed => Some(reported.rejection.reason()),
        Problem::InvalidRequest | Problem::Incomplete => None,
    }
}

#[cfg(test)]
mod tests {
    use lb_ipam::Rejection;

    use super::*;

    #[test]
    fn each_service_counts_once() {
        let mut problems = ReportedProblems::default();
        let key = |name: &str| ObjectKey::new("shop", name);
        let reported = |problem, rejection| Reported { problem, rejection };
        problems.insert(key("a"), reported(Problem::Failed, Rejection::NoPools));
        problems.insert(key("a"), reported(Problem::Failed, Rejection::NoPools));
        problems.insert(key("b"), reported(Problem::Failed, Rejection::NoPools));
        problems.insert(key("c"), reported(Problem::Incomplete, Rejection::NoPools));
        let reason = Rejection::NoPools.reason();
        assert_eq!(problems.unassigned(), &BTreeMap::from([(reason, 2)]));
        problems.remove(&key("a"));
        problems.insert(key("b"), reported(Problem::InvalidRequest, Rejection::NoPools));
        assert!(problems.unassigned().is_empty());
    }
}
