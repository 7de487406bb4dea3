//! Stored state of the upgrade state machine: its fields of the stack's status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lb_crds::LoadBalancerStackStatus;
use lb_crds::load_balancer_stack::{
    FailedRevision, MAX_FAILED_REVISIONS, MAX_HISTORY, Revision, StepStatus, UpgradeOutcome, UpgradeRecord,
    UpgradeStatus, UpgradeStep,
};
use lb_runtime::text::truncate;
use semver::Version;
use serde_json::json;

use super::snapshot::ClusterSnapshot;
use crate::desired::render::digest;

/// Longest message of a step, in bytes.
const MESSAGE_LIMIT: usize = 400;

/// The stored state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpgradeState {
    /// The revision that last ran without problems.
    pub last_good: Option<Revision>,
    /// The upgrade in progress.
    pub upgrade: Option<UpgradeStatus>,
    /// Revisions that failed and are not tried again.
    pub failed_revisions: Vec<FailedRevision>,
    /// The last upgrades.
    pub history: Vec<UpgradeRecord>,
}

impl UpgradeState {
    /// Reads the state from a status.
    #[must_use]
    pub fn from_status(status: &LoadBalancerStackStatus) -> Self {
        Self {
            last_good: status.last_good.clone(),
            upgrade: status.upgrade.clone(),
            failed_revisions: status.failed_revisions.clone(),
            history: status.history.clone(),
        }
    }

    /// Writes the state to a status.
    pub fn write_to(&self, status: &mut LoadBalancerStackStatus) {
        status.last_good.clone_from(&self.last_good);
        status.upgrade.clone_from(&self.upgrade);
        status.failed_revisions.clone_from(&self.failed_revisions);
        status.history.clone_from(&self.history);
    }

    /// The state after an uninstallation: the next rollout is a first installation.
    #[must_use]
    pub fn uninstalled(&self) -> Self {
        Self {
            last_good: None,
            upgrade: None,
            ..self.clone()
        }
    }

    /// The spec is invalid: the time until it is fixed does not count as time without progress.
    pub fn suspend(&mut self, now: Timestamp) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.suspended_time.get_or_insert(time(now));
        }
    }

    /// This operator takes over: the time without an operator does not count as time without progress.
    pub fn resume(&mut self, now: Timestamp) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.progress_time = time(now);
        }
    }

    /// The failure of the desired revision, if it failed with this spec and this operator.
    #[must_use]
    pub fn failed_revision(&self, snapshot: &ClusterSnapshot) -> Option<&FailedRevision> {
        self.failed_revisions.iter().find(|rejected| {
            rejected.revision == snapshot.target.revision
                && rejected.generation == snapshot.generation
                && rejected.operator_version == snapshot.operator_version
        })
    }

    /// Whether the desired revision may be rolled out as far as approval is concerned.
    #[must_use]
    pub fn is_approved(&self, snapshot: &ClusterSnapshot) -> bool {
        !snapshot.settings.needs_approval || snapshot.settings.approved_plan == Some(self.plan_hash(snapshot))
    }

    /// The hash by which a plan is approved: it covers the revisions that the upgrade leads from and to.
    #[must_use]
    pub fn plan_hash(&self, snapshot: &ClusterSnapshot) -> String {
        let from = self.last_good.as_ref().map(|good| good.revision.as_str());
        digest(&json!([from, snapshot.target.revision]))
    }

    pub(super) fn add_history(
        &mut self,
        upgrade: &UpgradeStatus,
        outcome: UpgradeOutcome,
        reason: Option<String>,
        now: Timestamp,
    ) {
        self.history.push(UpgradeRecord {
            from: upgrade.from.version.clone(),
            to: upgrade.to.version.clone(),
            to_revision: upgrade.to.revision.clone(),
            started_time: upgrade.started_time.clone(),
            finished_time: time(now),
            outcome,
            reason,
        });
        let surplus = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..surplus);
    }

    pub(super) fn add_failed_revision(
        &mut self,
        upgrade: &UpgradeStatus,
        reason: String,
        snapshot: &ClusterSnapshot,
        now: Timestamp,
    ) {
        self.failed_revisions
            .retain(|rejected| rejected.revision != upgrade.to.revision);
        self.failed_revisions.push(FailedRevision {
            revision: upgrade.to.revision.clone(),
            version: upgrade.to.version.clone(),
            reason,
            time: Some(time(now)),
            generation: upgrade.generation,
            operator_version: snapshot.operator_version.clone(),
        });
        let surplus = self.failed_revisions.len().saturating_sub(MAX_FAILED_REVISIONS);
        self.failed_revisions.drain(..surplus);
    }
}

/// A new upgrade, in its first step.
pub(super) fn start_upgrade(from: &Revision, snapshot: &ClusterSnapshot, now: Timestamp) -> UpgradeStatus {
    // Speakers never run a newer version than the controllers, which a superseded upgrade may have replaced.
    let running = snapshot.controllers.version.as_ref().unwrap_or(&from.version);
    UpgradeStatus {
        speakers_first: is_older(&snapshot.target.version, running),
        from: from.clone(),
        to: snapshot.target.clone(),
        step: UpgradeStep::Preflight,
        started_time: time(now),
        steps: vec![step(UpgradeStep::Preflight, now)],
        canary_node: None,
        updated: 0,
        total: 0,
        progress: 0,
        progress_time: time(now),
        suspended_time: None,
        healthy_nodes: Vec::new(),
        failure: None,
        unanswered_node: None,
        paused: None,
        waiting_for: None,
        superseded: false,
        generation: snapshot.generation,
    }
}

/// Enters another step. A step that is entered again is listed again.
pub(super) fn enter_step(upgrade: &mut UpgradeStatus, next: UpgradeStep, said: &str, now: Timestamp) {
    if let Some(last) = upgrade.steps.last_mut() {
        last.finished_time = Some(time(now));
        last.message = (!said.is_empty()).then(|| truncate(said.to_owned(), MESSAGE_LIMIT));
    }
    // A canary node that fails repeatedly must not fill the status.
    let surplus = upgrade.steps.len().saturating_sub(31);
    upgrade.steps.drain(..surplus);
    upgrade.step = next;
    upgrade.steps.push(step(next, now));
    upgrade.progress = 0;
    upgrade.progress_time = time(now);
    upgrade.suspended_time = None;
    upgrade.paused = None;
    upgrade.waiting_for = None;
}

/// The name of the upgrade in messages: a change of settings restarts pods, too, but is no new version.
#[must_use]
pub fn describe(from: &Revision, to: &Revision) -> String {
    if from.version == to.version {
        format!("configuration rollout of version {}", to.version)
    } else {
        format!("upgrade from {} to {}", from.version, to.version)
    }
}

fn step(name: UpgradeStep, now: Timestamp) -> StepStatus {
    StepStatus {
        name,
        started_time: time(now),
        finished_time: None,
        message: None,
    }
}

/// Whether a version is older than another one; false if one is not known.
pub(super) fn is_older(version: &str, than: &str) -> bool {
    match (Version::parse(version), Version::parse(than)) {
        (Ok(version), Ok(than)) => version.cmp_precedence(&than).is_lt(),
        _ => false,
    }
}

/// When the current step began.
pub(super) fn step_began(upgrade: &UpgradeStatus) -> Timestamp {
    upgrade
        .steps
        .last()
        .map_or(upgrade.started_time.0, |step| step.started_time.0)
}

/// A time in whole seconds, the resolution of the API.
pub(super) fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Seconds between two times; 0 if `to` is earlier.
pub(super) fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.as_second().saturating_sub(from.as_second()).max(0)
}
