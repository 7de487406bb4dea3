//! The stack's status, derived from the previous status and the current input. Pure.
//!
//! | condition | True means |
//! | --- | --- |
//! | `Ready` | the spec is valid and applied, both components run the target version, no problem is known |
//! | `Progressing` | pods are being created or replaced |
//! | `Degraded` | something failed and needs a person |
//! | `PreflightPassed` | no check of `status.preflight` failed; absent before the checks have run |
//! | `Upgradeable` | the stack is ready, so the operator can be upgraded |
//! | `DeletionBlocked` | the deletion of the stack waits for a person; absent unless it is being deleted |
//! | `Adopted` | MetalLB is replaced; absent without an adoption |
//! | `Paused` | `spec.paused` is set: no changes are made; absent otherwise |
//!
//! A condition keeps its transition time while its status does not change. An unchanged status is not written: without
//! changes there are no writes.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lb_crds::condition::{find_condition, set_condition};
use lb_crds::load_balancer_stack::{AdoptionStep, PlanStatus, PreflightCheck, UpgradeStep, VersionCount};
use lb_crds::{ComponentStatus, LoadBalancerStackStatus};
use lb_runtime::text::{LIST_LIMIT, list_first, list_first_clauses, truncate};

use crate::adoption::AdoptionReport;
use crate::deletion::DeletionReport;
use crate::desired::render::Component;
use crate::observe::workload_health::{StackHealth, WorkloadHealth};
use crate::reasons::{Reason, StackEvent};
use crate::upgrade::UpgradeState;

mod adoption;
mod phase;
mod preflight;

/// Input of [`status`].
#[derive(Clone, Debug)]
pub struct StatusInput {
    /// `metadata.generation` of the stack.
    pub generation: i64,
    /// Version of the operator.
    pub operator_version: String,
    /// Version to run; `None` while the spec is invalid.
    pub target_version: Option<String>,
    /// `spec.paused`.
    pub paused: bool,
    /// Why the spec is invalid.
    pub invalid: Option<String>,
    /// Failed writes and other problems of this reconciliation.
    pub failures: Vec<(Reason, String)>,
    /// Objects that differ from the spec while the stack is paused.
    pub pending: Vec<String>,
    /// Health of both workloads.
    pub health: StackHealth,
    /// Results of the preflight checks; empty before they have run.
    pub preflight: Vec<PreflightCheck>,
    /// Why an installation or change is blocked.
    pub blocked: Option<String>,
    /// Progress of the stack's deletion.
    pub deletion: Option<DeletionReport>,
    /// Progress of the adoption of MetalLB.
    pub adoption: Option<AdoptionReport>,
    /// Progress of upgrades.
    pub upgrade: UpgradeInput,
}

/// Progress of upgrades.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpgradeInput {
    /// Stored state of the state machine.
    pub state: UpgradeState,
    /// The plan that waits for approval.
    pub plan: Option<PlanStatus>,
    /// Why the desired revision failed.
    pub rejected: Option<String>,
    /// Why the current upgrade cannot start.
    pub obstacle: Option<String>,
    /// Whether it cannot start because no revision is stored to roll back to.
    pub no_rollback: bool,
}

/// A condition to set.
struct NewCondition {
    type_: &'static str,
    status: bool,
    reason: Reason,
    message: String,
}

/// The new status.
#[must_use]
pub fn status(
    before: &LoadBalancerStackStatus,
    input: &StatusInput,
    now: Timestamp,
) -> LoadBalancerStackStatus {
    let mut status = before.clone();
    let health = &input.health;
    let degraded = degraded(input);
    let progressing = progressing(input);
    let ready = ready(input, &degraded, &progressing);
    let upgradeable = upgradeable(input, &ready);
    status.phase = Some(phase::phase(input, ready.status, degraded.status));
    let conditions = [ready, progressing, degraded, upgradeable];
    input.upgrade.state.write_to(&mut status);
    status.plan.clone_from(&input.upgrade.plan);
    for condition in &conditions {
        set(&mut status.conditions, condition, input.generation, now);
    }
    if !input.preflight.is_empty() {
        let condition = preflight::condition(&input.preflight);
        set(&mut status.conditions, &condition, input.generation, now);
        status.preflight.clone_from(&input.preflight);
    }
    if let Some(report) = &input.deletion {
        let condition = NewCondition {
            type_: "DeletionBlocked",
            status: report.blocked,
            reason: report.reason,
            message: report.message.clone(),
        };
        set(&mut status.conditions, &condition, input.generation, now);
    } else {
        status
            .conditions
            .retain(|condition| condition.type_ != "DeletionBlocked");
    }
    status.adoption = input.adoption.as_ref().map(adoption::line);
    match &input.adoption {
        Some(report) => set(
            &mut status.conditions,
            &adoption::condition(report),
            input.generation,
            now,
        ),
        None => status.conditions.retain(|condition| condition.type_ != "Adopted"),
    }
    if input.paused {
        let condition = NewCondition {
            type_: "Paused",
            status: true,
            reason: Reason::Paused,
            message: PAUSED.to_owned(),
        };
        set(&mut status.conditions, &condition, input.generation, now);
    } else {
        status.conditions.retain(|condition| condition.type_ != "Paused");
    }
    if matches!(&input.adoption, Some(report) if report.step == AdoptionStep::Restoring) {
        status.version = None;
    }
    status.observed_generation = Some(input.generation);
    status.operator_version = Some(input.operator_version.clone());
    if let Some(target) = &input.target_version {
        status.target_version = Some(target.clone());
        // The reported version changes only when all pods run it.
        let runs =
            |component: &WorkloadHealth| component.settled && component.version.as_ref() == Some(target);
        if health.components().into_iter().all(runs) {
            status.version = Some(target.clone());
        }
    }
    status.components = health.components().into_iter().map(component).collect();
    status.controller = Some(ratio(&health.controller));
    status.speakers = Some(ratio(&health.speaker));
    status
}

const PAUSED: &str = "spec.paused is true: no changes are made; set it to false to resume";

fn set(conditions: &mut Vec<Condition>, condition: &NewCondition, generation: i64, now: Timestamp) {
    set_condition(
        conditions,
        condition.type_,
        condition.status,
        condition.reason.as_str(),
        &condition.message,
        generation,
        now,
    );
}

fn component(state: &WorkloadHealth) -> ComponentStatus {
    ComponentStatus {
        name: state.component.name().to_owned(),
        desired: state.desired,
        ready: state.ready,
        updated: state.updated,
        version: state.version.clone(),
        versions: state
            .versions
            .iter()
            .map(|(version, pods)| VersionCount {
                version: version.clone(),
                pods: *pods,
            })
            .collect(),
    }
}

fn ratio(state: &WorkloadHealth) -> String {
    format!("{}/{}", state.ready, state.desired)
}

fn degraded(input: &StatusInput) -> NewCondition {
    let condition = |status, reason, message| NewCondition {
        type_: "Degraded",
        status,
        reason,
        message,
    };
    let health = &input.health;
    if let Some(invalid) = &input.invalid {
        let message = format!("{invalid}; running workloads are not changed");
        return condition(true, Reason::InvalidSpec, message);
    }
    if let Some(blocked) = &input.blocked {
        let message = format!("installation is blocked: {blocked}; running workloads are not changed");
        return condition(true, Reason::PreflightFailed, message);
    }
    if let Some(report) = input.adoption.as_ref().filter(|report| report.blocked) {
        return condition(true, Reason::AdoptionBlocked, report.message.clone());
    }
    if let Some((reason, message)) = failed_upgrade(&input.upgrade) {
        return condition(true, reason, message);
    }
    if let Some((reason, _)) = input.failures.first() {
        let messages: Vec<_> = input.failures.iter().map(|(_, text)| text.as_str()).collect();
        return condition(true, *reason, first_few(&messages));
    }
    if !health.problems.is_empty() {
        return condition(true, Reason::PodsFailing, health.problems.join("; "));
    }
    let stalled = health
        .components()
        .into_iter()
        .find_map(|component| component.stalled.as_ref());
    if let Some(stalled) = stalled {
        return condition(true, Reason::RolloutStalled, stalled.clone());
    }
    condition(false, Reason::AsExpected, "no problems detected".to_owned())
}

/// Longest message in a condition, in bytes: the API server's answer to an invalid object can fill pages and repeat
/// itself. The log has all of it.
const MESSAGE_LIMIT: usize = 400;
/// Messages listed in one condition.
const LISTED_MESSAGES: usize = 3;

fn first_few(messages: &[&str]) -> String {
    let messages = messages
        .iter()
        .map(|message| truncate((*message).to_owned(), MESSAGE_LIMIT));
    list_first_clauses(messages, LISTED_MESSAGES)
}

fn progressing(input: &StatusInput) -> NewCondition {
    let condition = |status, reason, message| NewCondition {
        type_: "Progressing",
        status,
        reason,
        message,
    };
    if input.invalid.is_some() {
        return condition(
            false,
            Reason::InvalidSpec,
            "invalid spec: see condition Degraded".to_owned(),
        );
    }
    if input.paused {
        return condition(false, Reason::Paused, PAUSED.to_owned());
    }
    if input.blocked.is_some() {
        return condition(
            false,
            Reason::PreflightFailed,
            "waiting for preflight checks: see condition PreflightPassed".to_owned(),
        );
    }
    if let Some(report) = input.deletion.as_ref().filter(|report| !report.blocked) {
        return condition(true, report.reason, report.message.clone());
    }
    if let Some(report) = &input.adoption
        && report.step != AdoptionStep::Adopted
    {
        let step = report.step.as_str();
        let message = format!("adoption of MetalLB: step {step}: {}", report.message);
        return condition(!report.blocked, adoption::reason(report), message);
    }
    if let Some(upgrade) = &input.upgrade.state.upgrade {
        let reason = match upgrade.step {
            _ if upgrade.paused => Reason::UpgradePaused,
            UpgradeStep::RollingBack => Reason::RollingBack,
            _ => Reason::Upgrading,
        };
        let step = upgrade.step.as_str();
        let to = &upgrade.to.version;
        let mut message = format!("upgrade from {} to {to}: step {step}", upgrade.from.version);
        if let Some(node) = &upgrade.canary_node {
            message.push_str(&format!(", canary on node {node}"));
        }
        if upgrade.total > 0 {
            let wanted = if upgrade.step == UpgradeStep::RollingBack {
                "rolled back"
            } else {
                "updated"
            };
            message.push_str(&format!(
                ", {} of {} speakers {wanted}",
                upgrade.updated, upgrade.total
            ));
        }
        if upgrade.step == UpgradeStep::Preflight
            && let Some(obstacle) = &input.upgrade.obstacle
        {
            message.push_str(&format!(": {obstacle}"));
        }
        return condition(!upgrade.paused, reason, message);
    }
    if let Some(plan) = &input.upgrade.plan {
        return condition(false, Reason::WaitingForApproval, waits(plan));
    }
    let rolling: Vec<_> = input
        .health
        .components()
        .into_iter()
        .filter(|component| !component.settled)
        .map(|component| {
            let WorkloadHealth {
                desired,
                updated,
                ready,
                ..
            } = component;
            let name = component.component.name();
            format!("{name}: {updated} of {desired} updated, {ready} ready")
        })
        .collect();
    if rolling.is_empty() {
        // Shown by `kubectl get` while the deletion is blocked.
        if let Some(report) = &input.deletion {
            let message = "deletion is blocked: see condition DeletionBlocked".to_owned();
            return condition(false, report.reason, message);
        }
        return condition(false, Reason::AsExpected, "no rollout in progress".to_owned());
    }
    condition(true, Reason::RollingOut, rolling.join("; "))
}

fn ready(input: &StatusInput, degraded: &NewCondition, progressing: &NewCondition) -> NewCondition {
    let condition = |status, reason, message| NewCondition {
        type_: "Ready",
        status,
        reason,
        message,
    };
    if degraded.status {
        return condition(false, degraded.reason, degraded.message.clone());
    }
    if progressing.status {
        return condition(false, progressing.reason, progressing.message.clone());
    }
    if progressing.reason == Reason::WaitingForApproval {
        return condition(false, progressing.reason, progressing.message.clone());
    }
    if !input.pending.is_empty() {
        let pending: Vec<_> = input.pending.iter().map(String::as_str).collect();
        let message = format!(
            "spec.paused is true; objects that differ from the spec: {}",
            first_few(&pending)
        );
        return condition(false, Reason::Paused, message);
    }
    let health = &input.health;
    if !health.settled() {
        // Only while paused; otherwise Progressing is True.
        let counts = counts(health);
        return condition(
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
    condition(true, Reason::AsExpected, message)
}

/// Reason and message of a failed upgrade.
fn failed_upgrade(input: &UpgradeInput) -> Option<(Reason, String)> {
    if let Some(upgrade) = &input.state.upgrade {
        let failure = upgrade.failure.as_ref()?;
        let (to, from) = (&upgrade.to.version, &upgrade.from.version);
        let failure = truncate(failure.clone(), MESSAGE_LIMIT);
        return Some(if upgrade.paused {
            let todo = "revert spec.version, or change the spec to retry";
            let message = format!("upgrade to {to} failed and is paused: {failure}; {todo}");
            (Reason::UpgradePaused, message)
        } else {
            let message = format!("upgrade to {to} failed: {failure}; rolling back to {from}");
            (Reason::RollingBack, message)
        });
    }
    let failure = truncate(input.rejected.clone()?, MESSAGE_LIMIT);
    let good = input.state.last_good.clone().unwrap_or_default();
    Some((
        Reason::RolledBack,
        format!(
            "upgrade failed and was rolled back to version {} (revision {}): {failure}; retried when the spec or the \
             operator version changes",
            good.version, good.revision
        ),
    ))
}

/// How to approve a plan.
fn waits(plan: &PlanStatus) -> String {
    let patch = format!(
        "{{\"spec\":{{\"upgrade\":{{\"approvedPlan\":\"{}\"}}}}}}",
        plan.hash
    );
    format!(
        "upgrade to {} waits for approval (see status.plan): kubectl patch loadbalancerstack default --type=merge -p '{patch}'",
        plan.version
    )
}

/// Whether the operator can be upgraded. Its upgrade starts one of the stack unless the spec names a version.
fn upgradeable(input: &StatusInput, ready: &NewCondition) -> NewCondition {
    let (status, reason, message) = if ready.status {
        (true, Reason::AsExpected, "operator can be upgraded".to_owned())
    } else {
        let message = format!("stack is not ready: {}", ready.message);
        (false, ready.reason, message)
    };
    let paused = input.paused && status;
    NewCondition {
        type_: "Upgradeable",
        status: status && !paused,
        reason: if paused { Reason::Paused } else { reason },
        message: if paused { PAUSED.to_owned() } else { message },
    }
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

/// The events for the difference between two statuses.
#[must_use]
pub fn events(before: &LoadBalancerStackStatus, after: &LoadBalancerStackStatus) -> Vec<StackEvent> {
    let find_true = |status: &LoadBalancerStackStatus, type_: &str| {
        let found = find_condition(&status.conditions, type_);
        found.filter(|condition| condition.status == "True").cloned()
    };
    let mut events = Vec::new();
    for type_ in ["Degraded", "DeletionBlocked"] {
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

#[cfg(test)]
mod tests;
