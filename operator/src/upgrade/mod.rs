//! Upgrades: the state machine that replaces controllers and speakers step by step, checks their health and rolls back.
//! Every change of a pod template is an upgrade. Changes that restart nothing are applied at once.
//!
//! ```text
//!  status.{lastGood, upgrade, failedRevisions} ─► UpgradeState ────┐    ┌─► advance ──────► the status to write
//!                                                                  ├────┤
//!  workloads, pods, nodes, Services ────────────► ClusterSnapshot ─┘    └─► step_actions ─► objects to apply,
//!                                                                                           pods to replace
//! ```
//!
//! Both functions are pure. [`advance`] moves at most one step; its result is written to the status before anything is
//! applied. [`step_actions`] derives the desired objects from the written state alone, so that another operator
//! continues after a crash at any point, and drift is corrected to the state of the current step.
//!
//! | step | action | complete when |
//! | --- | --- | --- |
//! | Preflight | record healthy nodes and addresses | no obstacle exists |
//! | PrePull | a DaemonSet pulls both images on the speaker nodes | every healthy node has them |
//! | CRDs | apply the metallb.io CRDs | they are applied |
//! | RBAC | grant the rules of both revisions | they are applied |
//! | Controller | roll out the controllers | all are updated and ready, and one of them leads |
//! | Canary | replace one speaker | it is ready |
//! | Soak | wait | it was ready for `spec.upgrade.canarySoakSeconds` |
//! | Speakers | replace the other speakers, `maxUnavailable` at a time | all reachable nodes run the new one |
//! | Verify | wait | all speakers were healthy for a while |
//! | Finish | restore the DaemonSet's strategy, remove the rules of the previous revision | both are applied |
//! | RollingBack | restore the speakers, then the controllers; CRDs and roles stay | all run the previous revision |
//!
//! If the controllers run a newer version, the speakers are replaced before them. The [`health_checks`] apply from Controller on.
//! `docs/upgrades.md` explains the design.

pub mod actions;
pub mod coverage;
mod ending;
pub mod health_checks;
pub mod objects;
pub mod observer;
pub mod plan;
pub mod pod_selection;
pub mod preconditions;
pub mod snapshot;
pub mod state;
pub mod transitions;

pub use actions::{PodRestart, RoleRules, StepActions, TemplateSource, role_rules, step_actions};
pub use snapshot::{
    ClusterSnapshot, ControllerSnapshot, FailedVerification, NodeSnapshot, PodSnapshot, PrePullSnapshot,
    SpeakerSnapshot, UpgradeSettings,
};
pub use state::UpgradeState;
pub use transitions::advance;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod transitions_tests;
