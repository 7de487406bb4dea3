//! Upgrades: from what ran last with everything in order to what the spec asks for, with proof at each step, and back
//! again when a proof fails. Whatever changes the pods of controller or speakers goes this way: another version, another
//! image, another log level. What restarts nothing is applied at once and is not snapshot here.
//!
//! ```text
//!  status.{lastGood, upgrade, rejected} ─┐                     ┌─► [`machine::advance`] ─► the status to write
//!                                        ├─► UpgradeState and ClusterSnapshot ──┤
//!  workloads, pods, nodes, Services  ────┘                     └─► [`actions::actions`] ───► what to apply and to restart
//! ```
//!
//! Both are pure. `advance` moves on by at most one step; its result is written to the status before anything follows
//! from it. `actions` tells, from a state that is written, how everything is to be at this moment, whatever happened
//! before: so an operator that is killed anywhere is continued by the next one, and drift is repaired against what the
//! step wants, not against where it leads.
//!
//! # Steps
//!
//! | step | what is done | it is over when |
//! | --- | --- | --- |
//! | Preflight | the addresses of all Services are noted | nothing stands in the way |
//! | PrePullSnapshot | a DaemonSet pulls both images on the nodes of the speakers | every node that answers has them |
//! | Kinds | the metallb.io kinds are applied | they are as wanted |
//! | Permissions | roles hold what the former and the new programs need | they are as wanted |
//! | Controller | the Deployment gets the new template | all are replaced and ready, and a new one leads |
//! | Canary | one speaker is replaced | the new one is ready |
//! | Soak | nothing | it has run for spec.upgrade.canarySoakSeconds |
//! | SpeakerSnapshot | the others are replaced, a few at a time | all run what is new; lost nodes are passed over |
//! | Verify | nothing | all have run for a while |
//! | Finish | roles and the DaemonSet's strategy become what they are at rest | they are |
//! | RollingBack | first the speakers, then the controllers go back; kinds and roles stay | all run what ran before |
//!
//! In each step from Controller on, [`proofs`] hold: new pods do not restart, no Service's address has changed, other nodes
//! are answered when they ask for the addresses of new speakers, and there is progress.
//!
//! # Why one DaemonSet, and OnDelete only while at work
//!
//! At rest the DaemonSet's strategy is RollingUpdate, so that `kubectl rollout restart` and `rollout status` do what their
//! users expect. While the machine is at work it is OnDelete: the template can be changed without a restart, and which
//! node is visited next is ours to say. The canary gets the new template by a short change of the template: new, the pod
//! is deleted, and as soon as its successor exists the template is the former one again. From then on whatever restarts by
//! accident, and any node that joins, runs proven code until the canary has passed. When the strategy returns to
//! RollingUpdate nothing restarts, because every pod carries the hash of the template.
//!
//! - A second DaemonSet for the canary needs labels on nodes, or an affinity, to keep the two apart: rights to write
//!   Nodes, labels that outlive a crash, and one more restart of the canary when it returns to the first one.
//! - A label on each node with its revision has the same costs for all nodes, and a new node gets no speaker while the
//!   operator is away.
//! - RollingUpdate with maxUnavailable that is raised step by step leaves the source of the node to the DaemonSet controller,
//!   and any pod that restarts during the soak runs unproven code.
//! - OnDelete for ever makes `kubectl rollout restart` a command that does nothing.

pub mod actions;
pub mod health_checks;
pub mod objects;
pub mod observer;
pub mod plan;
pub mod pod_selection;
pub mod snapshot;
pub mod state;
pub mod transitions;

pub use actions::{PodRestart, RoleRules, StepActions, TemplateSource, step_actions};
pub use snapshot::{
    ClusterSnapshot, ControllerSnapshot, FailedVerification, PodSnapshot, PrePullSnapshot, SpeakerSnapshot,
    UpgradeSettings,
};
pub use state::UpgradeState;
pub use transitions::advance;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod transitions_tests;
