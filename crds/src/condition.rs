//! Conditions of an object's status, without a clock: time is an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Status of a condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// The status cannot be determined.
    Unknown,
}

impl ConditionStatus {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// The condition of the given type.
#[must_use]
pub fn find_condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Sets a condition; returns whether it changed and must be written.
///
/// `lastTransitionTime` is set to `now`, in whole seconds, only if the status changes. Other conditions and the order
/// of the list do not change.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: impl Into<ConditionStatus>,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> bool {
    let status = status.into();
    let mut desired = Condition {
        type_: type_.to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(generation),
        last_transition_time: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
    };
    let Some(present) = conditions.iter_mut().find(|condition| condition.type_ == type_) else {
        conditions.push(desired);
        return true;
    };
    if present.status == desired.status {
        desired.last_transition_time = present.last_transition_time.clone();
    }
    let changed = *present != desired;
    *present = desired;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn set(
        conditions: &mut Vec<Condition>,
        status: bool,
        message: &str,
        generation: i64,
        second: i64,
    ) -> bool {
        set_condition(
            conditions,
            "Valid",
            status,
            "Reason",
            message,
            generation,
            at(second),
        )
    }

    #[test]
    fn transition_time_changes_only_with_status() {
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, true, "fine", 1, 10));
        assert!(set(&mut conditions, true, "still fine", 2, 20));
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
        assert_eq!(conditions[0].message, "still fine");
        assert!(set(&mut conditions, false, "broken", 2, 30));
        assert_eq!(conditions[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn equal_condition_is_no_change() {
        let mut conditions = Vec::new();
        set(&mut conditions, true, "fine", 1, 10);
        let before = conditions.clone();
        assert!(!set(&mut conditions, true, "fine", 1, 20));
        assert_eq!(conditions, before);
    }

    #[test]
    fn new_generation_is_a_change() {
        let mut conditions = Vec::new();
        set(&mut conditions, true, "fine", 1, 10);
        assert!(set(&mut conditions, true, "fine", 2, 10));
    }

    #[test]
    fn other_conditions_do_not_change() {
        let mut conditions = Vec::new();
        set_condition(
            &mut conditions,
            "Other",
            ConditionStatus::Unknown,
            "R",
            "",
            1,
            at(1),
        );
        set(&mut conditions, true, "fine", 1, 10);
        assert_eq!(find_condition(&conditions, "Other").unwrap().status, "Unknown");
        assert_eq!(conditions.len(), 2);
    }
}
