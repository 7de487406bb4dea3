//! What the machine looks at: the wish, the settings, and the cluster, cut down to what decides.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{Approval, OnFailure, Revision, Upgrade};

/// Seconds that the first new speaker is watched, unless the spec says otherwise.
const SOAK: i32 = 60;
/// Seconds without progress after which an upgrade has failed, unless the spec says otherwise.
const DEADLINE: i32 = 600;

/// What the spec says about upgrades.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Whether an upgrade waits for approval.
    pub manual: bool,
    /// The hash of the plan that is approved.
    pub approved_plan: Option<String>,
    /// Seconds that the first new speaker is watched.
    pub soak: i64,
    /// Speakers that may be restarting at once.
    pub max_unavailable: i32,
    /// Seconds without progress after which an upgrade has failed.
    pub deadline: i64,
    /// Whether a failed upgrade is rolled back; it is stopped otherwise.
    pub rollback: bool,
}

impl Settings {
    /// The settings of a spec.
    #[must_use]
    pub fn of(upgrade: Option<&Upgrade>) -> Self {
        let upgrade = upgrade.cloned().unwrap_or_default();
        Self {
            manual: upgrade.approval == Approval::Manual,
            approved_plan: upgrade.approved_plan,
            soak: i64::from(upgrade.canary_soak_seconds.unwrap_or(SOAK)),
            max_unavailable: upgrade.max_unavailable.unwrap_or(1),
            deadline: i64::from(upgrade.progress_deadline_seconds.unwrap_or(DEADLINE)),
            rollback: upgrade.on_failure == OnFailure::Rollback,
        }
    }
}

/// Everything that the machine looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What the spec asks for.
    pub target: Revision,
    /// The stack's generation.
    pub generation: i64,
    /// The operator's version.
    pub operator_version: String,
    /// Whether nothing is to be done.
    pub paused: bool,
    /// What the spec says about upgrades.
    pub settings: Settings,
    /// What keeps an upgrade from beginning.
    pub obstacle: Option<String>,
    /// Hash of the addresses of all Services; none as long as they are not listed.
    pub ledger: Option<String>,
    /// Services whose addresses have changed though nobody asked for it, one sentence each.
    pub moved: Vec<String>,
    /// Addresses for which other nodes asked in vain, or a stranger answers.
    pub unanswered: Vec<Unanswered>,
    /// Whether the metallb.io kinds are as wanted.
    pub kinds: bool,
    /// Why they cannot be.
    pub kinds_refused: Option<String>,
    /// Whether the roles are as the present orders want them.
    pub permissions: bool,
    /// Whether the workloads and pods of the last good revision can be had back.
    pub former_known: bool,
    /// The controllers.
    pub controllers: Controllers,
    /// The speakers.
    pub speakers: Speakers,
    /// The pods that pull images.
    pub pre_pull: Option<PrePull>,
}

/// The controllers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Controllers {
    /// Revision of the Deployment's template; none without one.
    pub template: Option<String>,
    /// Whether all pods are of that template, and ready.
    pub settled: bool,
    /// Whether one of them leads, or none is to.
    pub leads: bool,
    /// The pods.
    pub pods: Vec<Pod>,
}

/// The speakers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Speakers {
    /// Revision of the DaemonSet's template; none without one.
    pub template: Option<String>,
    /// Whether its strategy is OnDelete.
    pub on_delete: bool,
    /// Whether its controller has seen the present template.
    pub observed: bool,
    /// Whether the DaemonSet is complete: all pods updated and ready but those of lost nodes.
    pub settled: bool,
    /// Pods that there are to be.
    pub desired: i32,
    /// The pods.
    pub pods: Vec<Pod>,
}

/// A pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Its revision: that of the template that it was made of.
    pub revision: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Since when.
    pub ready_since: Option<Timestamp>,
    /// Whether its node does not answer.
    pub lost: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// How often its container was started again after it failed.
    pub restarts: i32,
    /// What keeps it from running.
    pub trouble: Option<String>,
    /// Whether its node is one of the control plane.
    pub control_plane: bool,
    /// How many addresses its node announces.
    pub owns: usize,
}

impl Pod {
    /// Whether it counts: it is there to stay, on a node that answers.
    #[must_use]
    pub fn counts(&self) -> bool {
        !self.lost && !self.terminating
    }

    /// Its name and its node, for a message.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.node.is_empty() {
            format!("pod {}", self.name)
        } else {
            format!("pod {} on node {}", self.name, self.node)
        }
    }
}

/// The pods that pull images.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PrePull {
    /// For which revision.
    pub revision: String,
    /// Nodes that are to have the images, without those that do not answer.
    pub desired: i32,
    /// Nodes that have them.
    pub done: i32,
    /// Why a node cannot have them.
    pub failed: Option<String>,
}

/// An address that is not answered as it should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unanswered {
    /// The node that announces it.
    pub node: String,
    /// The Service, and what is wrong.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
}
