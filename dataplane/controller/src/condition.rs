//! The conditions of a Service. Here: whether it has the addresses that it asks for, and if not, why, so that
//! `kubectl wait --for=condition=lb-operator.io/AddressAssigned service/web` does what its user expects; and what is to be
//! written so that a condition says something else. Who announces the addresses is in
//! [`announced`](crate::announced).

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lb_crds::condition::find_condition;
use lb_ipam::{Assignment, Origin, Rejection};
use lb_runtime::text::truncate;
use serde_json::{Value, json};

/// The longest message, in bytes: as long as that of an event.
const LONGEST: usize = 1024;

/// What a Service in trouble was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// What kind of trouble it is in.
    pub trouble: Trouble,
    /// Why.
    pub reason: Rejection,
}

/// What is wrong with a Service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// It has no address, or lacks one of two that it requires.
    Failed,
    /// What it asks for cannot be understood; it keeps what it has.
    NotUnderstood,
    /// It has an address, and prefers to have another of the other family, which it cannot get.
    Incomplete,
}

/// What a condition says.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Says {
    holds: bool,
    reason: String,
    message: String,
}

/// What the condition of an object says: enough to see whether it has to be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shown {
    holds: bool,
    since: Timestamp,
    says: u64,
}

/// A change of the condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It says this, and its status has not changed since then.
    Set {
        /// What it says.
        says: Says,
        /// Its `lastTransitionTime`.
        since: Timestamp,
    },
    /// It goes: the Service is no load balancer any more, or has nothing that it could be about.
    Remove,
}

/// What is to be said about a Service that has this and was told that; nothing as long as nothing has been decided.
#[must_use]
pub fn says(has: Option<&Assignment>, told: Option<&Told>) -> Option<Says> {
    let words = |told: &Told| (camel(told.reason.word()), told.reason.lasting());
    let (holds, reason, message) = match (has, told) {
        (None, None) => return None,
        (None, Some(told)) => {
            let (reason, why) = words(told);
            (false, reason, why)
        }
        (Some(has), None) if is_outside(has) => (
            true,
            "OutsidePools".to_owned(),
            format!(
                "{}: it was there before and is kept, but no node announces what is of no pool: add it to an \
                 IPAddressPool, or ask for another in metallb.io/loadBalancerIPs",
                describe(has)
            ),
        ),
        (Some(has), None) => (true, "Assigned".to_owned(), describe(has)),
        (Some(has), Some(told)) => {
            let (reason, why) = words(told);
            match told.trouble {
                Trouble::Incomplete => (
                    true,
                    "Assigned".to_owned(),
                    format!("{}; no second address: {why}", describe(has)),
                ),
                Trouble::Failed | Trouble::NotUnderstood => {
                    (false, reason, format!("{why}; {} is kept", describe(has)))
                }
            }
        }
    };
    Some(Says::new(holds, &reason, message))
}

/// Whether an address is of no pool.
#[must_use]
pub fn is_outside(has: &Assignment) -> bool {
    has.parts()
        .any(|(_, origin)| matches!(origin, Origin::Outside(_)))
}

fn describe(has: &Assignment) -> String {
    let part = |(address, origin): (_, &Origin)| match origin {
        Origin::Pool(pool) => format!("{address} of pool {pool}"),
        Origin::Outside(_) => format!("{address} of no pool"),
    };
    has.parts().map(part).collect::<Vec<_>>().join(", ")
}

/// `noPool` as conditions want it: `NoPool`.
fn camel(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

impl Says {
    /// What a condition is to say.
    #[must_use]
    pub fn new(holds: bool, reason: &str, message: String) -> Self {
        Self {
            holds,
            reason: reason.to_owned(),
            message: truncate(message, LONGEST),
        }
    }

    /// Whether it says that addresses are of no pool.
    #[must_use]
    pub fn is_about_outside(&self) -> bool {
        self.reason == "OutsidePools"
    }

    /// The text.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Shown {
    /// What the condition of this type shows.
    #[must_use]
    pub fn read(conditions: &[Condition], type_: &str) -> Option<Self> {
        let condition = find_condition(conditions, type_)?;
        let says = Says {
            holds: condition.status == "True",
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        };
        Some(Self {
            holds: says.holds,
            since: condition.last_transition_time.0,
            says: says.digest(),
        })
    }

    /// What is shown after a change.
    #[must_use]
    pub fn after(change: &Change) -> Option<Self> {
        match change {
            Change::Set { says, since } => Some(Self {
                holds: says.holds,
                since: *since,
                says: says.digest(),
            }),
            Change::Remove => None,
        }
    }
}

/// Whether the condition says this.
#[must_use]
pub fn shows(shown: Option<Shown>, says: Option<&Says>) -> bool {
    says.is_some_and(|says| shown.is_some_and(|shown| shown.says == says.digest()))
}

/// What has to be done so that the condition says this, if anything.
#[must_use]
pub fn change(shown: Option<Shown>, wanted: Option<Says>, now: Timestamp) -> Option<Change> {
    let says = wanted?;
    let since = match shown {
        Some(shown) if shown.says == says.digest() => return None,
        Some(shown) if shown.holds == says.holds => shown.since,
        Some(_) | None => now,
    };
    Some(Change::Set { says, since })
}

impl Change {
    /// The element of a strategic merge patch of `status.conditions`, for the condition of this type.
    #[must_use]
    pub fn patch(&self, type_: &str) -> Value {
        match self {
            Self::Set { says, since } => json!({
                "type": type_,
                "status": if says.holds { "True" } else { "False" },
                "reason": says.reason,
                "message": says.message,
                // In whole seconds, as all times of objects are.
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

    fn failed(reason: Rejection) -> Option<Says> {
        let trouble = Trouble::Failed;
        says(None, Some(&Told { trouble, reason }))
    }

    #[test]
    fn it_is_written_when_it_says_something_new_and_keeps_its_time_while_its_status_stays() {
        let no_pools = failed(Rejection::NoPools);
        let first = change(None, no_pools.clone(), at(10)).unwrap();
        let shown = Shown::after(&first);
        assert_eq!(change(shown, no_pools, at(20)), None);
        let second = change(shown, failed(Rejection::NoAutoAssign), at(20)).unwrap();
        assert_eq!(
            second.patch(ADDRESS_ASSIGNED)["lastTransitionTime"],
            "1970-01-01T00:00:10Z"
        );
        assert_eq!(second.patch(ADDRESS_ASSIGNED)["reason"], "NoPool");
        assert_eq!(change(shown, None, at(30)), None, "nothing has been decided");
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let written = change(None, failed(Rejection::NoPools), at(10)).unwrap();
        let condition: Condition = serde_json::from_value(written.patch(ADDRESS_ASSIGNED)).unwrap();
        assert_eq!(
            Shown::read(&[condition], ADDRESS_ASSIGNED),
            Shown::after(&written)
        );
    }
}
