//! Output of the upgrade state machine: the desired state of the objects in the current step. It depends only on the
//! stored state and the snapshot, so that it can be applied repeatedly, and continued by another operator.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{PauseReason, UpgradeStatus, UpgradeStep as Step};

use super::pod_selection::{self, all_of, away};
use super::snapshot::{ClusterSnapshot, PodSnapshot};
use super::state::{UpgradeState, is_older};

/// The pod template of a workload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TemplateSource {
    /// The one of the last good revision.
    Previous,
    /// The one of the spec.
    Target,
    /// The one of the spec, on the nodes of the last good revision: no node loses its speaker for a canary.
    Canary,
    /// The one that it has, which may be neither of the two.
    Current,
}

/// The rules of the roles.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RoleRules {
    /// Those of the last good revision.
    Previous,
    /// The union of both.
    Both,
    /// Those of the spec.
    Target,
}

/// A pod to delete so that its workload replaces it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodRestart {
    /// Name.
    pub name: String,
    /// UID, a precondition of the deletion.
    pub uid: String,
    /// Node.
    pub node: String,
}

/// The desired state for the current step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StepActions {
    /// Template of the Deployment.
    pub controller: TemplateSource,
    /// Template of the DaemonSet.
    pub speaker: TemplateSource,
    /// Whether the DaemonSet's update strategy is OnDelete instead of RollingUpdate.
    pub on_delete: bool,
    /// Whether the metallb.io CRDs are applied; otherwise they are left as they are.
    pub apply_crds: bool,
    /// Rules of the roles.
    pub rules: RoleRules,
    /// Whether the DaemonSet that pulls the images exists.
    pub pre_pull: bool,
    /// Revisions whose ControllerRevisions are kept.
    pub keep: Vec<String>,
    /// Pods to replace now.
    pub restarts: Vec<PodRestart>,
    /// Whether the target waits for approval.
    pub needs_approval: bool,
    /// Whether the actions may change with time alone.
    pub polls: bool,
}

/// The actions for this moment. They are not applied while the stack is paused.
#[must_use]
pub fn step_actions(state: &UpgradeState, snapshot: &ClusterSnapshot, now: Timestamp) -> StepActions {
    match &state.upgrade {
        None => idle_actions(state, snapshot),
        Some(upgrade) => upgrade_actions(upgrade, snapshot, now),
    }
}

fn idle_actions(state: &UpgradeState, snapshot: &ClusterSnapshot) -> StepActions {
    let mut actions = StepActions {
        controller: TemplateSource::Target,
        speaker: TemplateSource::Target,
        on_delete: false,
        apply_crds: true,
        rules: RoleRules::Target,
        pre_pull: false,
        keep: state.last_good.iter().map(|good| good.revision.clone()).collect(),
        restarts: Vec::new(),
        needs_approval: false,
        polls: false,
    };
    let other = state
        .last_good
        .as_ref()
        .filter(|good| good.revision != snapshot.target.revision);
    if other.is_some() {
        let rejected = state.failed_revision(snapshot).is_some();
        actions.controller = TemplateSource::Previous;
        actions.speaker = TemplateSource::Previous;
        actions.apply_crds = rejected;
        actions.rules = if rejected {
            RoleRules::Both
        } else {
            RoleRules::Previous
        };
        actions.needs_approval = !rejected && !state.is_approved(snapshot);
    }
    actions
}

fn upgrade_actions(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) -> StepActions {
    let step = upgrade.step;
    let is_rolled_back = step == Step::RollingBack && is_rolled_back(upgrade, snapshot);
    let failed = upgrade.paused == Some(PauseReason::HealthCheckFailed);
    // `kubectl rollout restart` works until the first pod is replaced, unless an earlier upgrade has left pods of several
    // revisions.
    let untouched = matches!(step, Step::Preflight | Step::PrePull | Step::Crds)
        && snapshot.speakers.template.as_ref() == Some(&upgrade.from.speaker)
        && snapshot
            .speakers
            .pods
            .iter()
            .all(|pod| pod.revision == upgrade.from.speaker);
    StepActions {
        controller: controller(upgrade, snapshot),
        speaker: speaker(upgrade, snapshot),
        on_delete: step != Step::Finish && !is_rolled_back && !untouched,
        apply_crds: step >= Step::Crds,
        rules: role_rules(step),
        pre_pull: step == Step::PrePull && !failed,
        keep: vec![upgrade.from.revision.clone(), upgrade.to.revision.clone()],
        restarts: if failed || snapshot.paused {
            Vec::new()
        } else {
            restart(upgrade, snapshot, now)
        },
        needs_approval: false,
        polls: !failed && !snapshot.paused,
    }
}

/// The rules of the roles in a step.
#[must_use]
pub fn role_rules(step: Step) -> RoleRules {
    match step {
        Step::Preflight | Step::PrePull | Step::Crds => RoleRules::Previous,
        Step::Finish => RoleRules::Target,
        _ => RoleRules::Both,
    }
}

/// Whether controllers and speakers run the previous revision again.
fn is_rolled_back(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> bool {
    all_of(upgrade, snapshot, &upgrade.from.speaker)
        && snapshot.speakers.template.as_ref() == Some(&upgrade.from.speaker)
        && snapshot.controllers.template.as_ref() == Some(&upgrade.from.controller)
}

fn controller(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> TemplateSource {
    // A superseded upgrade may have replaced controllers: speakers never run a newer version than controllers.
    let unchanged = match snapshot.controllers.template.as_ref() {
        Some(has) if *has != upgrade.from.controller => TemplateSource::Current,
        _ => TemplateSource::Previous,
    };
    match upgrade.step {
        Step::Preflight | Step::PrePull | Step::Crds | Step::Rbac => unchanged,
        Step::Canary | Step::Soak | Step::Speakers if upgrade.speakers_first => unchanged,
        Step::Controller | Step::Canary | Step::Soak | Step::Speakers | Step::Verify | Step::Finish => {
            TemplateSource::Target
        }
        Step::RollingBack
            if controllers_are_older(upgrade, snapshot)
                || all_of(upgrade, snapshot, &upgrade.from.speaker) =>
        {
            TemplateSource::Previous
        }
        Step::RollingBack => unchanged,
    }
}

fn speaker(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> TemplateSource {
    match upgrade.step {
        // A pod that restarts must not get the version that failed.
        _ if upgrade.paused == Some(PauseReason::HealthCheckFailed) => TemplateSource::Previous,
        Step::Canary if needs_canary(upgrade, snapshot) => TemplateSource::Canary,
        Step::Controller if upgrade.speakers_first => TemplateSource::Target,
        Step::Speakers | Step::Verify | Step::Finish => TemplateSource::Target,
        Step::Preflight
        | Step::PrePull
        | Step::Crds
        | Step::Rbac
        | Step::Controller
        | Step::Canary
        | Step::Soak
        | Step::RollingBack => TemplateSource::Previous,
    }
}

/// Whether the canary node is selected and has no new speaker yet.
fn needs_canary(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> bool {
    upgrade.canary_node.as_ref().is_some_and(|node| {
        let mut pods = snapshot.speakers.pods.iter().filter(|pod| pod.node == *node);
        !pods.any(|pod| pod.lost || (pod.revision == upgrade.to.speaker && !pod.terminating))
    })
}

/// A pod is deleted only after the DaemonSet controller has observed the template of its successor.
fn restart(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) -> Vec<PodRestart> {
    let speakers = &snapshot.speakers;
    let applies = |revision: &str| {
        speakers.template.as_deref() == Some(revision) && speakers.on_delete && speakers.observed
    };
    let of = |pod: &PodSnapshot| PodRestart {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
    };
    let new = &upgrade.to.speaker;
    let previous = &upgrade.from.speaker;
    // The canary is one of the speakers that may be unavailable.
    let room = || away(upgrade, snapshot, new, false, now) < snapshot.settings.max_unavailable;
    match upgrade.step {
        Step::Canary if applies(new) && needs_canary(upgrade, snapshot) && room() => {
            let canary = speakers
                .pods
                .iter()
                .filter(|pod| Some(&pod.node) == upgrade.canary_node.as_ref());
            canary.filter(|pod| pod.is_active()).map(of).collect()
        }
        Step::Speakers if applies(new) => {
            let next = pod_selection::next(upgrade, snapshot, new, true, now);
            next.into_iter().map(of).collect()
        }
        Step::RollingBack if applies(previous) && controllers_allow(upgrade, snapshot) => {
            let next = pod_selection::next(upgrade, snapshot, previous, false, now);
            next.into_iter().map(of).collect()
        }
        _ => Vec::new(),
    }
}

/// A rollback to a newer version begins with the controllers.
fn controllers_allow(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> bool {
    let controllers = &snapshot.controllers;
    let previous = &upgrade.from.controller;
    let mut pods = controllers.pods.iter();
    let is_replacing = is_older(&upgrade.to.version, &upgrade.from.version)
        && controllers.template.as_ref() == Some(previous)
        && !controllers.settled
        && pods.any(|pod| pod.is_active() && !pod.lost && pod.revision != *previous);
    !controllers_are_older(upgrade, snapshot) && !is_replacing
}

/// Whether the controllers' template is of an older version than the last good one.
fn controllers_are_older(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> bool {
    let version = snapshot.controllers.version.as_ref();
    version.is_some_and(|version| is_older(version, &upgrade.from.version))
}
