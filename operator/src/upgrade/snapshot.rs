//! Input of the upgrade state machine: the desired revision, the settings and the relevant state of the cluster.

pub mod build;

use std::collections::BTreeMap;

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{Approval, OnFailure, Revision, Upgrade};

/// Default of `spec.upgrade.canarySoakSeconds`.
const DEFAULT_SOAK_SECONDS: i32 = 60;
/// Default of `spec.upgrade.progressDeadlineSeconds`.
const DEFAULT_PROGRESS_DEADLINE_SECONDS: i32 = 600;

/// `spec.upgrade` with its defaults.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpgradeSettings {
    /// Whether an upgrade starts only after its plan is approved.
    pub needs_approval: bool,
    /// Hash of the approved plan.
    pub approved_plan: Option<String>,
    /// Observation time of the canary, in seconds.
    pub soak_seconds: i64,
    /// Speakers that may be unavailable at the same time.
    pub max_unavailable: i32,
    /// Seconds without progress after which an upgrade fails.
    pub progress_deadline_seconds: i64,
    /// Reaction to a failed health check.
    pub on_failure: OnFailure,
    /// Nodes that are neither updated nor waited for.
    pub skip_nodes: Vec<String>,
}

impl UpgradeSettings {
    /// The settings of a spec.
    #[must_use]
    pub fn of(upgrade: Option<&Upgrade>) -> Self {
        let upgrade = upgrade.cloned().unwrap_or_default();
        Self {
            needs_approval: upgrade.approval == Approval::Manual,
            approved_plan: upgrade.approved_plan,
            soak_seconds: i64::from(upgrade.canary_soak_seconds.unwrap_or(DEFAULT_SOAK_SECONDS)),
            max_unavailable: upgrade.max_unavailable.unwrap_or(1),
            progress_deadline_seconds: i64::from(
                upgrade
                    .progress_deadline_seconds
                    .unwrap_or(DEFAULT_PROGRESS_DEADLINE_SECONDS),
            ),
            on_failure: upgrade.on_failure,
            skip_nodes: upgrade.skip_nodes,
        }
    }

    /// Whether a failed upgrade is rolled back.
    #[must_use]
    pub fn rolls_back(&self) -> bool {
        self.on_failure == OnFailure::Rollback
    }
}

/// Input of one step of the state machine.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSnapshot {
    /// The desired revision.
    pub target: Revision,
    /// `metadata.generation` of the stack.
    pub generation: i64,
    /// The operator's version.
    pub operator_version: String,
    /// `spec.paused`.
    pub paused: bool,
    /// Settings of the spec.
    pub settings: UpgradeSettings,
    /// Why an upgrade cannot start.
    pub obstacle: Option<String>,
    /// Whether Services and their announcements are listed completely.
    pub observes: bool,
    /// Announced addresses that no node may announce after the change: one clause each.
    pub addresses_at_risk: Vec<String>,
    /// Services whose addresses the new controllers changed: one clause each.
    pub changed_addresses: Vec<String>,
    /// Addresses that were verified before the upgrade and are not answered now.
    pub failed_verifications: Vec<FailedVerification>,
    /// Writes that fail, with the message of the API server or of an admission plugin.
    pub failing_writes: Vec<String>,
    /// Pods that admission, a quota or Pod Security refuses: one clause per workload, with the refuser's words.
    pub refused_pods: Vec<String>,
    /// Whether a ready speaker runs on a node that may announce addresses.
    pub announces: bool,
    /// The nodes.
    pub nodes: BTreeMap<String, NodeSnapshot>,
    /// Whether the metallb.io CRDs are applied.
    pub crds_applied: bool,
    /// Why a CRD must not be applied.
    pub crds_refused: Option<String>,
    /// Whether the RBAC objects are applied.
    pub rbac_applied: bool,
    /// Whether the objects of the last good revision are still stored.
    pub rollback_available: bool,
    /// The controllers.
    pub controllers: ControllerSnapshot,
    /// The speakers.
    pub speakers: SpeakerSnapshot,
    /// Progress of pulling the images; `None` without the DaemonSet that pulls them.
    pub pre_pull: Option<PrePullSnapshot>,
}

/// A node of the cluster.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NodeSnapshot {
    /// Condition Ready.
    pub reachable: bool,
    /// Whether the desired revision has a speaker there.
    pub served: bool,
    /// Whether the last good revision has a speaker there.
    pub served_before: bool,
}

/// State of the controllers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControllerSnapshot {
    /// Revision of the Deployment's pod template.
    pub template: Option<String>,
    /// Version of that template.
    pub version: Option<String>,
    /// Whether all pods have that template and are ready.
    pub settled: bool,
    /// Whether a pod of that template is the leader, or no replicas are desired.
    pub has_leader: bool,
    /// The pods.
    pub pods: Vec<PodSnapshot>,
}

/// State of the speakers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpeakerSnapshot {
    /// Revision of the DaemonSet's pod template.
    pub template: Option<String>,
    /// Whether the update strategy is OnDelete.
    pub on_delete: bool,
    /// Whether the DaemonSet controller has observed the current template.
    pub observed: bool,
    /// Desired number of pods.
    pub desired: i32,
    /// The pods.
    pub pods: Vec<PodSnapshot>,
}

/// A pod of controller or speaker.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodSnapshot {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Node; empty while unscheduled.
    pub node: String,
    /// Revision of its template.
    pub revision: String,
    /// Condition Ready.
    pub ready: bool,
    /// When the operator saw it become ready.
    pub ready_since: Option<Timestamp>,
    /// Whether its node is unreachable.
    pub lost: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Restarts of its container after a failure.
    pub restarts: i32,
    /// When the operator saw the last one.
    pub restarted_at: Option<Timestamp>,
    /// Why it does not run.
    pub problem: Option<String>,
    /// Whether the scheduler finds no room for it.
    pub unscheduled: bool,
    /// Whether the problem is one of its image or settings, not of a registry, the scheduler or the node.
    pub own_fault: bool,
    /// Whether its node belongs to the control plane.
    pub control_plane: bool,
    /// Number of Services that its node announces.
    pub announced_services: usize,
}

impl PodSnapshot {
    /// Whether it is not being deleted and its node is reachable.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.lost && !self.terminating
    }

    /// The problem, for messages.
    #[must_use]
    pub fn describe_problem(&self) -> String {
        let problem = self.problem.as_deref().unwrap_or("not ready");
        format!("{}: {problem}", self.describe())
    }

    /// Pod and node, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.node.is_empty() {
            format!("pod {}", self.name)
        } else {
            format!("pod {} on node {}", self.name, self.node)
        }
    }
}

/// Progress of pulling the images.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PrePullSnapshot {
    /// The revision whose images are pulled.
    pub revision: String,
    /// Nodes that have the images.
    pub done: i32,
    /// Nodes that do not have them yet, with the reason if it is known.
    pub pending: BTreeMap<String, Option<String>>,
    /// Nodes where an image was pulled but is not usable, with the reason.
    pub unusable: BTreeMap<String, String>,
}

/// An address that is not answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FailedVerification {
    /// The node that announces it.
    pub node: String,
    /// The node that received no reply.
    pub verified_by: String,
    /// Service and problem, for messages.
    pub message: String,
    /// When the operator first saw the result.
    pub since: Timestamp,
}
