//! What the machine remembers: the part of the stack's status that is its own.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lb_crds::LoadBalancerStackStatus;
use lb_crds::load_balancer_stack::{
    FailedRevision, HISTORY, MAX_FAILED_REVISIONS, Revision, StepStatus, UpgradeOutcome, UpgradeRecord,
    UpgradeStatus, UpgradeStep,
};
use semver::Version;
use serde_json::json;

use super::snapshot::Seen;
use crate::desired::render::digest;

/// The state of the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// What ran last with everything in order.
    pub last_good: Option<Revision>,
    /// The upgrade that is under way.
    pub upgrade: Option<UpgradeStatus>,
    /// What failed.
    pub failed_revisions: Vec<FailedRevision>,
    /// The last upgrades.
    pub history: Vec<UpgradeRecord>,
}

/// Something worth an event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct News {
    /// Whether somebody should look.
    pub warning: bool,
    /// The event's reason.
    pub reason: &'static str,
    /// What happened.
    pub note: String,
}

impl News {
    pub(super) fn normal(reason: &'static str, note: String) -> Self {
        Self {
            warning: false,
            reason,
            note,
        }
    }

    pub(super) fn warning(reason: &'static str, note: String) -> Self {
        Self {
            warning: true,
            reason,
            note,
        }
    }
}

impl Memory {
    /// What a status says.
    #[must_use]
    pub fn of(status: &LoadBalancerStackStatus) -> Self {
        Self {
            last_good: status.last_good.clone(),
            upgrade: status.upgrade.clone(),
            failed_revisions: status.failed_revisions.clone(),
            history: status.history.clone(),
        }
    }

    /// Writes it into a status.
    pub fn put(&self, status: &mut LoadBalancerStackStatus) {
        status.last_good.clone_from(&self.last_good);
        status.upgrade.clone_from(&self.upgrade);
        status.failed_revisions.clone_from(&self.failed_revisions);
        status.history.clone_from(&self.history);
    }

    /// The same, of a stack that runs no more: what it is made of next is a first installation.
    #[must_use]
    pub fn forgotten(&self) -> Self {
        Self {
            last_good: None,
            upgrade: None,
            ..self.clone()
        }
    }

    /// The spec cannot be carried out, so nothing goes on: the time does not count.
    pub fn halt(&mut self, now: Timestamp) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.suspended_time.get_or_insert(time(now));
        }
    }

    /// This operator takes over: the time in which none was there does not count.
    pub fn resume(&mut self, now: Timestamp) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.progress_time = time(now);
        }
    }

    /// Whether what the spec asks for has failed, with this spec and this operator.
    #[must_use]
    pub fn rejects(&self, seen: &Seen) -> Option<&FailedRevision> {
        self.failed_revisions.iter().find(|rejected| {
            rejected.revision == seen.target.revision
                && rejected.generation == seen.generation
                && rejected.operator_version == seen.operator_version
        })
    }

    /// Whether what the spec asks for may be carried out as far as approval goes.
    #[must_use]
    pub fn approves(&self, seen: &Seen) -> bool {
        !seen.settings.manual || seen.settings.approved_plan == Some(self.plan_hash(seen))
    }

    /// The hash by which a plan is approved: it names where it leads and from where.
    #[must_use]
    pub fn plan_hash(&self, seen: &Seen) -> String {
        let from = self.last_good.as_ref().map(|good| good.revision.as_str());
        digest(&json!([from, seen.target.revision]))
    }

    pub(super) fn record(
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
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
    }

    pub(super) fn reject(&mut self, upgrade: &UpgradeStatus, reason: String, seen: &Seen, now: Timestamp) {
        self.failed_revisions
            .retain(|rejected| rejected.revision != upgrade.to.revision);
        self.failed_revisions.push(FailedRevision {
            revision: upgrade.to.revision.clone(),
            version: upgrade.to.version.clone(),
            reason,
            time: Some(time(now)),
            generation: seen.generation,
            operator_version: seen.operator_version.clone(),
        });
        let surplus = self.failed_revisions.len().saturating_sub(MAX_FAILED_REVISIONS);
        self.failed_revisions.drain(..surplus);
    }
}

/// An upgrade that begins.
pub(super) fn begin(from: &Revision, seen: &Seen, now: Timestamp) -> UpgradeStatus {
    UpgradeStatus {
        from: from.clone(),
        to: seen.target.clone(),
        step: UpgradeStep::Preflight,
        started_time: time(now),
        steps: vec![step(UpgradeStep::Preflight, now)],
        canary_node: None,
        updated: 0,
        total: 0,
        progress: 0,
        progress_time: time(now),
        suspended_time: None,
        ledger: None,
        failure: None,
        paused: false,
        superseded: false,
        generation: seen.generation,
    }
}

/// Goes over to another step. A step that is gone back to is listed once more.
pub(super) fn enter(upgrade: &mut UpgradeStatus, next: UpgradeStep, said: &str, now: Timestamp) {
    if let Some(last) = upgrade.steps.last_mut() {
        last.finished_time = Some(time(now));
        last.message = (!said.is_empty()).then(|| said.to_owned());
    }
    // A canary whose node dies again and again must not fill the status.
    let surplus = upgrade.steps.len().saturating_sub(31);
    upgrade.steps.drain(..surplus);
    upgrade.step = next;
    upgrade.steps.push(step(next, now));
    upgrade.progress = 0;
    upgrade.progress_time = time(now);
    upgrade.suspended_time = None;
}

fn step(name: UpgradeStep, now: Timestamp) -> StepStatus {
    StepStatus {
        name,
        started_time: time(now),
        finished_time: None,
        message: None,
    }
}

/// Whether it leads to an older version. Then the speakers go first: they never run ahead of the controllers, which know
/// what older speakers need.
pub(super) fn is_downgrade(upgrade: &UpgradeStatus) -> bool {
    let version = |revision: &Revision| Version::parse(&revision.version).ok();
    match (version(&upgrade.from), version(&upgrade.to)) {
        (Some(from), Some(to)) => to.cmp_precedence(&from).is_lt(),
        _ => false,
    }
}

/// When the present step began.
pub(super) fn step_began(upgrade: &UpgradeStatus) -> Timestamp {
    upgrade
        .steps
        .last()
        .map_or(upgrade.started_time.0, |step| step.started_time.0)
}

/// A time in whole seconds, as the API keeps it.
pub(super) fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Seconds from one time to another; none if it is the other way round.
pub(super) fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.as_second().saturating_sub(from.as_second()).max(0)
}
