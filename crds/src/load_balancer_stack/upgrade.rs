//! Upgrades: settings, progress and history.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::api_enum::api_enum;
use crate::schema;

/// Maximum number of entries in `status.history`.
pub const MAX_HISTORY: usize = 10;
/// Maximum number of entries in `status.failedRevisions`.
pub const MAX_FAILED_REVISIONS: usize = 5;

/// How changes that restart controller or speakers are rolled out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// Whether an upgrade needs approval. Default: Automatic.
    #[serde(default, skip_serializing_if = "is_default")]
    pub approval: Approval,

    /// Hash of the approved plan, from status.plan.hash. Only used with approval: Manual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub approved_plan: Option<String>,

    /// Seconds to watch the first updated speaker before the others are updated. Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub canary_soak_seconds: Option<i32>,

    /// Maximum number of speakers that restart at the same time, after the first. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_unavailable: Option<i32>,

    /// Seconds without progress after which an upgrade fails. Default: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 7200))]
    pub progress_deadline_seconds: Option<i32>,

    /// Reaction to a failed upgrade. Default: Rollback.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,

    /// Any new value retries an upgrade that failed or is paused. Example: the current time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub retry: Option<String>,

    /// Nodes that upgrades neither update nor wait for. Example: ["node-3"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::names)]
    pub skip_nodes: Vec<String>,
}

api_enum! {
    /// Whether an upgrade needs approval.
    #[derive(Default)]
    pub enum Approval {
        /// Upgrades start immediately.
        #[default]
        Automatic,
        /// status.plan shows the upgrade, which starts when spec.upgrade.approvedPlan equals status.plan.hash.
        Manual,
    }
}

api_enum! {
    /// Reaction to a failed upgrade.
    #[derive(Default)]
    pub enum OnFailure {
        /// Controller and speakers return to the previous revision.
        #[default]
        Rollback,
        /// The upgrade stops where it failed until the spec changes.
        Pause,
        /// Failed health checks are reported, and the upgrade continues.
        Continue,
    }
}

api_enum! {
    /// Why an upgrade is paused.
    pub enum PauseReason {
        /// A health check failed and the upgrade is not rolled back. It continues when the spec changes.
        HealthCheckFailed,
        /// A registry, an admission plugin or the API server does not permit progress. It continues as soon as that
        /// works again, or when the spec changes.
        Infrastructure,
        /// Nothing progresses, and no cause is visible. It continues with the next progress, or when the spec changes.
        NoProgress,
        /// The previous revision does not become ready on some nodes. The rollback continues as soon as it does.
        RollbackIncomplete,
    }
}

/// Version and settings of controller and speakers.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Version of controller and speakers.
    pub version: String,
    /// Hash of all settings that require a restart.
    pub revision: String,
    /// Hash of the controller's settings: the label lb-operator.io/revision of its pods.
    pub controller: String,
    /// Hash of the speakers' settings: the label lb-operator.io/revision of their pods.
    pub speaker: String,
}

/// An upgrade in progress, or another change that restarts controller or speakers.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStatus {
    /// The previous revision.
    pub from: Revision,

    /// The new revision.
    pub to: Revision,

    /// The current step.
    pub step: UpgradeStep,

    /// Start of the upgrade.
    pub started_time: Time,

    /// Finished steps and the current step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepStatus>,

    /// Node of the first updated speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_node: Option<String>,

    /// Speakers with the new revision, or with the previous one while rolling back.
    #[serde(default)]
    #[schemars(transform = schema::without_default)]
    pub updated: i32,

    /// Number of speakers.
    #[serde(default)]
    #[schemars(transform = schema::without_default)]
    pub total: i32,

    /// Progress of the current step: a number that increases.
    #[serde(default)]
    #[schemars(transform = schema::without_default)]
    pub progress: i32,

    /// Last increase of progress. The upgrade fails after progressDeadlineSeconds without an increase.
    pub progress_time: Time,

    /// Since when the progress deadline is suspended, because the stack is paused or the upgrade may
    /// not start yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_time: Option<Time>,

    /// Nodes whose speaker ran without problems before the upgrade replaced it. Only these nodes can fail the upgrade.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub healthy_nodes: Vec<String>,

    /// Whether speakers are replaced before controllers, because the controllers that run are of a newer version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub speakers_first: bool,

    /// Why the upgrade failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,

    /// The node whose new speaker got no reply, if the upgrade failed for that reason only. If the previous speaker gets
    /// none either, the revision has not failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered_node: Option<String>,

    /// Why the upgrade is paused; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<PauseReason>,

    /// What a paused upgrade waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,

    /// Whether the upgrade is rolled back because the spec was changed back to the previous revision.
    #[serde(default)]
    #[schemars(transform = schema::without_default)]
    pub superseded: bool,

    /// The metadata.generation that the upgrade belongs to.
    pub generation: i64,
}

api_enum! {
    /// A step of an upgrade.
    #[derive(Hash, Ord, PartialOrd)]
    pub enum UpgradeStep {
        /// The running components are checked.
        Preflight,
        /// The nodes pull the images.
        PrePull,
        /// The metallb.io CRDs are updated.
        Crds = "CRDs",
        /// RBAC rules that the new version needs are added.
        Rbac = "RBAC",
        /// The controllers are replaced one at a time.
        Controller,
        /// The first speaker is replaced.
        Canary,
        /// The first speaker is watched for spec.upgrade.canarySoakSeconds.
        Soak,
        /// The other speakers are replaced.
        Speakers,
        /// All speakers are checked.
        Verify,
        /// Objects and RBAC rules that only the upgrade needed are removed.
        Finish,
        /// Controller and speakers return to the previous revision.
        RollingBack,
    }
}

/// A step of an upgrade with its times.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Name of the step.
    pub name: UpgradeStep,
    /// Start of the step.
    pub started_time: Time,
    /// End of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_time: Option<Time>,
    /// Result of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// An upgrade that waits for approval.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Hash of the plan. To approve the plan, set spec.upgrade.approvedPlan to it.
    pub hash: String,
    /// Version after the upgrade.
    pub version: String,
    /// Objects that the upgrade changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::short_list)]
    pub changes: Vec<PlannedChange>,
    /// Steps of the upgrade in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::short_list)]
    pub steps: Vec<String>,
}

/// An object that a planned upgrade changes.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// Kind and name of the object.
    pub object: String,
    /// Changed fields.
    pub change: String,
    /// Effect on running components and traffic.
    pub impact: String,
}

/// A revision whose upgrade failed.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedRevision {
    /// Hash of the settings.
    pub revision: String,
    /// Version of controller and speakers.
    pub version: String,
    /// Why the upgrade failed.
    pub reason: String,
    /// When the upgrade failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// The metadata.generation of the spec.
    pub generation: i64,
    /// Version of the operator.
    pub operator_version: String,
}

/// A finished upgrade.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeRecord {
    /// Version before the upgrade.
    pub from: String,
    /// Target version of the upgrade.
    pub to: String,
    /// Target revision of the upgrade.
    pub to_revision: String,
    /// Start of the upgrade.
    pub started_time: Time,
    /// End of the upgrade.
    pub finished_time: Time,
    /// Result of the upgrade.
    pub outcome: UpgradeOutcome,
    /// Why the upgrade failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

api_enum! {
    /// Result of an upgrade.
    pub enum UpgradeOutcome {
        /// All components run the new revision.
        Succeeded,
        /// The upgrade failed, and the previous revision runs again.
        RolledBack,
        /// The upgrade failed and was stopped (spec.upgrade.onFailure: Pause).
        Paused,
        /// The spec changed during the upgrade.
        Superseded,
    }
}
