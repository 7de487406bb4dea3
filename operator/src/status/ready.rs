//! Condition Ready: the spec is applied, and both components run the target version.

use lb_runtime::text::{LIST_LIMIT, list_first};

use super::{NewCondition, StatusInput, first_few, ratio};
use crate::desired::render::Component;
use crate::observe::workload_health::{StackHealth, WorkloadHealth};
use crate::reasons::Reason;

pub(super) fn condition(
    input: &StatusInput,
    degraded: &NewCondition,
    progressing: &NewCondition,
) -> NewCondition {
    let new = |status, reason, message| NewCondition::new("Ready", status, reason, message);
    if degraded.status {
        return new(false, degraded.reason, degraded.message.clone());
    }
    if progressing.status {
        return new(false, progressing.reason, progressing.message.clone());
    }
    if progressing.reason == Reason::WaitingForApproval {
        return new(false, progressing.reason, progressing.message.clone());
    }
    if !input.pending.is_empty() {
        let pending: Vec<_> = input.pending.iter().map(String::as_str).collect();
        let message = format!(
            "spec.paused is true; objects that differ from the spec: {}",
            first_few(&pending)
        );
        return new(false, Reason::Paused, message);
    }
    let health = &input.health;
    if !health.settled() {
        // Only while paused; otherwise Progressing is True.
        let counts = counts(health);
        return new(
            false,
            Reason::PodsNotReady,
            format!("some pods are not ready: {counts}"),
        );
    }
    let mut message = counts(health);
    let lost = health.speaker.lost;
    if lost > 0 {
        message.push_str(&format!(
            "; {lost} speakers are on unreachable nodes: {}; other nodes announce their addresses",
            list_first(&health.speaker.lost_nodes, LIST_LIMIT)
        ));
    }
    new(true, Reason::AsExpected, message)
}

fn counts(health: &StackHealth) -> String {
    let count = |state: &WorkloadHealth| {
        let plural = match state.component {
            Component::Controller => "controller",
            Component::Speaker => "speakers",
        };
        format!("{plural} {}", ratio(state))
    };
    format!("{}, {}", count(&health.controller), count(&health.speaker))
}
