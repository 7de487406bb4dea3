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
//! | `HeartbeatsLost` | failures of some nodes are detected late, because heartbeats do not arrive; absent otherwise |
//! | `Paused` | `spec.paused` is set: no changes are made; absent otherwise |
//!
//! A condition keeps its transition time while its status does not change. An unchanged status is not written: without
//! changes there are no writes.

use jiff::Timestamp;
use lb_crds::condition::set_condition;
use lb_crds::load_balancer_stack::{AdoptionStep, PlanStatus, PreflightCheck, VersionCount};
use lb_crds::{ComponentStatus, LoadBalancerStackStatus};
use lb_runtime::text::{list_first_clauses, truncate};

use crate::adoption::AdoptionReport;
use crate::deletion::DeletionReport;
use crate::desired::render::version_label;
use crate::observe::workload_health::{StackHealth, WorkloadHealth};
use crate::reasons::Reason;
use crate::upgrade::UpgradeState;

mod adoption;
mod degraded;
mod events;
mod heartbeats;
mod phase;
mod preflight;
mod progressing;
mod ready;
mod upgradeable;

pub use events::events;

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
    /// Whether it cannot start until a person acts.
    pub start_blocked: bool,
}

/// A condition to set.
struct NewCondition {
    type_: &'static str,
    status: bool,
    reason: Reason,
    message: String,
}

impl NewCondition {
    fn new(type_: &'static str, status: bool, reason: Reason, message: String) -> Self {
        Self {
            type_,
            status,
            reason,
            message,
        }
    }
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
    let degraded = degraded::condition(input);
    let progressing = progressing::condition(input);
    let ready = ready::condition(input, &degraded, &progressing);
    let upgradeable = upgradeable::condition(input, &ready);
    status.phase = Some(phase::phase(input, ready.status, degraded.status));
    input.upgrade.state.write_to(&mut status);
    status.plan.clone_from(&input.upgrade.plan);
    if !input.preflight.is_empty() {
        status.preflight.clone_from(&input.preflight);
    }
    status.adoption = input.adoption.as_ref().map(adoption::line);
    let deletion = input.deletion.as_ref().map(|report| {
        NewCondition::new(
            "DeletionBlocked",
            report.blocked,
            report.reason,
            report.message.clone(),
        )
    });
    let paused = input
        .paused
        .then(|| NewCondition::new("Paused", true, Reason::Paused, PAUSED.to_owned()));
    let heartbeats = heartbeats::condition(&health.unheard_pairs);
    for (type_, is_set) in [
        (heartbeats::HEARTBEATS_LOST, heartbeats.is_some()),
        ("DeletionBlocked", deletion.is_some()),
        ("Adopted", input.adoption.is_some()),
        ("Paused", input.paused),
    ] {
        if !is_set {
            status.conditions.retain(|condition| condition.type_ != type_);
        }
    }
    let preflight = (!input.preflight.is_empty()).then(|| preflight::condition(&input.preflight));
    let optional = [
        preflight,
        deletion,
        input.adoption.as_ref().map(adoption::condition),
        paused,
        heartbeats,
    ];
    for condition in [ready, progressing, degraded, upgradeable]
        .into_iter()
        .chain(optional.into_iter().flatten())
    {
        set_condition(
            &mut status.conditions,
            condition.type_,
            condition.status,
            condition.reason.as_str(),
            &condition.message,
            input.generation,
            now,
        );
    }
    if matches!(&input.adoption, Some(report) if report.step == AdoptionStep::Restoring) {
        status.version = None;
    }
    status.observed_generation = Some(input.generation);
    status.operator_version = Some(input.operator_version.clone());
    if let Some(target) = &input.target_version {
        status.target_version = Some(target.clone());
        let label = version_label(target);
        // The reported version changes only when all pods run it.
        let runs =
            |component: &WorkloadHealth| component.settled && component.version.as_ref() == Some(&label);
        if health.components().into_iter().all(runs) {
            status.version = Some(target.clone());
        }
    }
    status.components = health.components().into_iter().map(component).collect();
    status.controller = Some(ratio(&health.controller));
    status.speakers = Some(ratio(&health.speaker));
    truncate_messages(&mut status);
    status
}

/// Limits every message that quotes others: the kubelet, the API server, admission policies.
fn truncate_messages(status: &mut LoadBalancerStackStatus) {
    let upgrade = status.upgrade.iter_mut();
    let upgrade = upgrade.flat_map(|upgrade| {
        let steps = upgrade.steps.iter_mut().filter_map(|step| step.message.as_mut());
        steps.chain(&mut upgrade.failure)
    });
    let history = status
        .history
        .iter_mut()
        .filter_map(|record| record.reason.as_mut());
    let failed = status
        .failed_revisions
        .iter_mut()
        .map(|failed| &mut failed.reason);
    let conditions = status
        .conditions
        .iter_mut()
        .map(|condition| &mut condition.message);
    let preflight = status.preflight.iter_mut().map(|check| &mut check.message);
    let adoption = status.adoption.iter_mut().map(|adoption| &mut adoption.message);
    let all = upgrade.chain(history).chain(failed).chain(conditions);
    for message in all.chain(preflight).chain(adoption) {
        *message = truncate(std::mem::take(message), STATUS_MESSAGE_LIMIT);
    }
}

const PAUSED: &str = "spec.paused is true: no changes are made; set it to false to resume";

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

/// Longest message in the status, in bytes.
const STATUS_MESSAGE_LIMIT: usize = 2000;
/// Longest quotation in a condition, in bytes: the API server's answer to an invalid object can fill pages and repeat
/// itself. The log has all of it.
pub(crate) const MESSAGE_LIMIT: usize = 400;
/// Messages listed in one condition.
const LISTED_MESSAGES: usize = 3;

fn first_few(messages: &[&str]) -> String {
    let messages = messages
        .iter()
        .map(|message| truncate((*message).to_owned(), MESSAGE_LIMIT));
    list_first_clauses(messages, LISTED_MESSAGES)
}

#[cfg(test)]
mod tests;
