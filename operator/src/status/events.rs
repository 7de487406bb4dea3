//! Events for changes of the status.

use lb_crds::LoadBalancerStackStatus;
use lb_crds::condition::find_condition;

use super::{adoption, preflight};
use crate::reasons::{Reason, StackEvent};

/// The events for the difference between two statuses.
#[must_use]
pub fn events(before: &LoadBalancerStackStatus, after: &LoadBalancerStackStatus) -> Vec<StackEvent> {
    let find_true = |status: &LoadBalancerStackStatus, type_: &str| {
        let found = find_condition(&status.conditions, type_);
        found.filter(|condition| condition.status == "True").cloned()
    };
    let mut events = Vec::new();
    for type_ in ["Degraded", "DeletionBlocked", super::heartbeats::HEARTBEATS_LOST] {
        let Some(now) = find_true(after, type_) else {
            continue;
        };
        let is_known = find_true(before, type_).is_some_and(|known| known.reason == now.reason);
        let reason = if type_ == "DeletionBlocked" {
            Some(Reason::DeletionBlocked)
        } else {
            // The state machine publishes the event of a rollback.
            Reason::parse(&now.reason).filter(|reason| *reason != Reason::RolledBack)
        };
        if let Some(reason) = reason.filter(|_| !is_known) {
            events.push(StackEvent::warning(reason, now.message));
        }
    }
    events.extend(preflight::events(before, after));
    events.extend(adoption::events(before, after));
    for (type_, default) in [
        ("Progressing", Reason::RollingOut),
        ("Ready", Reason::Ready),
        ("Paused", Reason::Paused),
    ] {
        if let Some(now) = find_true(after, type_)
            && find_true(before, type_).is_none()
        {
            let reason = match Reason::parse(&now.reason) {
                Some(own @ (Reason::Deleting | Reason::Adopting | Reason::Restoring)) => own,
                _ => default,
            };
            events.push(StackEvent::normal(reason, now.message));
        }
    }
    events
}
