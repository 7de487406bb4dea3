//! The conditions of a Service: their text, the change that a write makes, and condition
//! `lb-operator.io/AddressAssigned`. Condition `lb-operator.io/Announced` is in
//! module `announcements`.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lb_crds::condition::find_condition;
use lb_ipam::{Assignment, Origin, Rejection};
use lb_runtime::text::truncate;
use serde_json::{Value, json};

use crate::reason::Reason;

/// The longest message, in bytes: the same as of an event.
pub const MESSAGE_LIMIT: usize = 1024;

/// The problem that was reported for a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reported {
    /// Kind of the problem.
    pub problem: Problem,
    /// Its cause.
    pub rejection: Rejection,
}

/// Kinds of problems of a Service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Problem {
    /// It has no address, or lacks one of two that it requires.
    Failed,
    /// The request is invalid; the Service keeps its addresses.
    InvalidRequest,
    /// It has an address, but lacks the second of two that it prefers.
    Incomplete,
}

/// Status, reason and message of a condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConditionText {
    status: Truth,
    reason: Reason,
    message: String,
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    fn read(status: &str) -> Self {
        match status {
            "True" => Self::True,
            "False" => Self::False,
            _ => Self::Unknown,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition in an object, with a digest in place of its text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShownCondition {
    status: Truth,
    outside_pools: bool,
    since: Timestamp,
    digest: u64,
}

/// A change of a condition.
#[derive(Clone, Debug, PartialEq)]
pub enum ConditionChange {
    /// Adds or replaces the condition.
    Set {
        /// Its new text.
        text: ConditionText,
        /// Its `lastTransitionTime`.
        since: Timestamp,
    },
    /// Removes the condition: the Service is no load balancer, or has no address that the condition could be about.
    Remove,
}

/// Condition AddressAssigned of a Service with these addresses and this problem; `None` before the first decision.
#[must_use]
pub fn address_assigned(has: Option<&Assignment>, reported: Option<&Reported>) -> Option<ConditionText> {
    let outside = has.and_then(outside_pools);
    let is_outside = outside.is_some();
    let (status, reason, message) = match (has, reported) {
        (None, None) => return None,
        (None, Some(Reported { rejection, .. })) => (false, rejection.into(), rejection.stable_message()),
        (Some(has), None) => (true, Reason::Assigned, outside.unwrap_or_else(|| describe(has))),
        (Some(has), Some(Reported { problem, rejection })) => {
            let why = rejection.stable_message();
            match problem {
                Problem::Incomplete => (
                    true,
                    Reason::Assigned,
                    format!("{}; no second address: {why}", describe(has)),
                ),
                Problem::Failed | Problem::InvalidRequest => (
                    false,
                    rejection.into(),
                    format!("{why}; the Service keeps {}", describe(has)),
                ),
            }
        }
    };
    // The next leader keeps such an address because of this reason, also if there is another problem.
    let reason = if is_outside { Reason::OutsidePools } else { reason };
    Some(ConditionText::new(status, reason, message))
}

/// The message about addresses that are in no pool; `None` if there are no such addresses.
fn outside_pools(has: &Assignment) -> Option<String> {
    let outside = has
        .parts()
        .filter(|(_, origin)| matches!(origin, Origin::Outside(_)));
    let outside: Vec<_> = outside.map(|(address, _)| address.to_string()).collect();
    (!outside.is_empty()).then(|| {
        format!(
            "no pool contains {}: kept but not announced: add it to an IPAddressPool, or request another address in \
             metallb.io/loadBalancerIPs",
            outside.join(", ")
        )
    })
}

fn describe(has: &Assignment) -> String {
    let part = |(address, origin): (_, &Origin)| match origin {
        Origin::Pool(pool) => format!("{address} from pool {pool}"),
        Origin::Outside(_) => format!("{address} in no pool"),
    };
    has.parts().map(part).collect::<Vec<_>>().join(", ")
}

impl ConditionText {
    /// Truncates the message to [`MESSAGE_LIMIT`].
    #[must_use]
    pub fn new(status: bool, reason: Reason, message: String) -> Self {
        Self {
            status: if status { Truth::True } else { Truth::False },
            reason,
            message: truncate(message, MESSAGE_LIMIT),
        }
    }

    /// A condition that is neither true nor false.
    #[must_use]
    pub fn unknown(reason: Reason, message: String) -> Self {
        Self {
            status: Truth::Unknown,
            ..Self::new(false, reason, message)
        }
    }

    /// Whether the condition is true.
    #[must_use]
    pub fn status(&self) -> bool {
        self.status == Truth::True
    }

    /// Its reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Its message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    fn digest(&self) -> u64 {
        digest(self.status, self.reason.as_str(), &self.message)
    }
}

fn digest(status: Truth, reason: &str, message: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (status, reason, message).hash(&mut hasher);
    hasher.finish()
}

impl ShownCondition {
    /// The condition of a type.
    #[must_use]
    pub fn read(conditions: &[Condition], type_: &str) -> Option<Self> {
        let condition = find_condition(conditions, type_)?;
        let status = Truth::read(&condition.status);
        Some(Self {
            status,
            outside_pools: condition.reason == Reason::OutsidePools.as_str(),
            since: condition.last_transition_time.0,
            digest: digest(status, &condition.reason, &condition.message),
        })
    }

    /// The condition after a change.
    #[must_use]
    pub fn after(change: &ConditionChange) -> Option<Self> {
        match change {
            ConditionChange::Set { text, since } => Some(Self {
                status: text.status,
                outside_pools: text.reason == Reason::OutsidePools,
                since: *since,
                digest: text.digest(),
            }),
            ConditionChange::Remove => None,
        }
    }

    /// Whether the condition is true.
    #[must_use]
    pub fn status(self) -> bool {
        self.status == Truth::True
    }

    /// Whether its reason is [`Reason::OutsidePools`].
    #[must_use]
    pub fn is_outside_pools(self) -> bool {
        self.outside_pools
    }

    /// Whether the condition has this text.
    #[must_use]
    pub fn has_text(self, text: &ConditionText) -> bool {
        self.digest == text.digest()
    }
}

impl ConditionChange {
    /// The change that gives a condition this text, if one is needed. `lastTransitionTime` stays while the status does.
    #[must_use]
    pub fn to(shown: Option<ShownCondition>, text: ConditionText, now: Timestamp) -> Option<Self> {
        let since = match shown {
            Some(shown) if shown.has_text(&text) => return None,
            Some(shown) if shown.status == text.status => shown.since,
            Some(_) | None => now,
        };
        Some(Self::Set { text, since })
    }

    /// The element of a strategic merge patch of `status.conditions`, for the condition of this type.
    #[must_use]
    pub fn patch(&self, type_: &str) -> Value {
        match self {
            Self::Set { text, since } => json!({
                "type": type_,
                "status": text.status.as_str(),
                "reason": text.reason.as_str(),
                "message": text.message,
                // Kubernetes stores whole seconds.
                "lastTransitionTime": Timestamp::from_second(since.as_second()).unwrap_or(*since).to_string(),
            }),
            Self::Remove => json!({ "type": type_, "$patch": "delete" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_crds::names::ADDRESS_ASSIGNED;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn failed(rejection: Rejection) -> ConditionText {
        let problem = Problem::Failed;
        address_assigned(None, Some(&Reported { problem, rejection })).unwrap()
    }

    #[test]
    fn transition_time_changes_only_with_the_status() {
        let no_pools = failed(Rejection::NoPools);
        let first = ConditionChange::to(None, no_pools.clone(), at(10)).unwrap();
        let shown = ShownCondition::after(&first);
        assert_eq!(ConditionChange::to(shown, no_pools, at(20)), None);
        let second = ConditionChange::to(shown, failed(Rejection::NoAutoAssign), at(20)).unwrap();
        assert_eq!(
            second.patch(ADDRESS_ASSIGNED)["lastTransitionTime"],
            "1970-01-01T00:00:10Z"
        );
        assert_eq!(second.patch(ADDRESS_ASSIGNED)["reason"], "NoPool");
        assert_eq!(address_assigned(None, None), None, "nothing has been decided");
    }

    #[test]
    fn written_condition_reads_back_as_shown() {
        let written = ConditionChange::to(None, failed(Rejection::NoPools), at(10)).unwrap();
        let condition: Condition = serde_json::from_value(written.patch(ADDRESS_ASSIGNED)).unwrap();
        assert_eq!(
            ShownCondition::read(&[condition], ADDRESS_ASSIGNED),
            ShownCondition::after(&written)
        );
    }
}
