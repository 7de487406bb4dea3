//! How a stack is upgraded, and how its upgrades went.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::plain_enum;
use crate::schema;

/// Upgrades that are remembered.
pub const HISTORY: usize = 10;
/// Revisions that are remembered as rejected.
pub const MAX_FAILED_REVISIONS: usize = 5;

/// How changes that restart controller or speakers are carried out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// Automatic: at once. Manual: what is to be done is shown in status.plan, and waits until approvedPlan names it.
    /// Default: Automatic.
    #[serde(default, skip_serializing_if = "Approval::is_default")]
    pub approval: Approval,

    /// With approval: Manual, the hash of the plan that may be carried out: status.plan.hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub approved_plan: Option<String>,

    /// Seconds that the first new speaker is watched before others follow. Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub canary_soak_seconds: Option<i32>,

    /// Speakers that may be restarting at once, after the first. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_unavailable: Option<i32>,

    /// Seconds without any progress after which an upgrade has failed. Default: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 7200))]
    pub progress_deadline_seconds: Option<i32>,

    /// What to do when an upgrade fails. Rollback: go back to what ran before. Pause: leave everything as it is then, until
    /// the spec changes. Default: Rollback.
    #[serde(default, skip_serializing_if = "OnFailure::is_default")]
    pub on_failure: OnFailure,
}

/// Whether an upgrade waits for a person.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum Approval {
    /// It does not.
    #[default]
    Automatic,
    /// It waits until its plan is approved.
    Manual,
}

impl Approval {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What follows a failed upgrade.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum OnFailure {
    /// Back to what ran before.
    #[default]
    Rollback,
    /// Everything stays as it is.
    Pause,
}

impl OnFailure {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What controller and speakers are made of: a version and the settings that reach their pods.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// The version.
    pub version: String,
    /// Hash of all that a restart is needed for.
    pub revision: String,
    /// That of the controller alone: the label lb-operator.io/revision of its pods.
    pub controller: String,
    /// That of the speakers alone: the label lb-operator.io/revision of their pods.
    pub speaker: String,
}

/// An upgrade, or any other change that restarts controller or speakers, that is under way.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStatus {
    /// What ran before.
    pub from: Revision,

    /// What is to run.
    pub to: Revision,

    /// What is being done: Preflight, PrePull, Kinds, Permissions, Controller, Canary, Soak, Speakers, Verify, Finish, or
    /// RollingBack.
    pub step: UpgradeStep,

    /// When it began.
    pub started_time: Time,

    /// The steps so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepStatus>,

    /// The node of the first new speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_node: Option<String>,

    /// Speakers that are what they are to be: the new ones, or the former ones while rolling back.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub updated: i32,

    /// Speakers that there are.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub total: i32,

    /// How far the present step is: a number that grows.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub progress: i32,

    /// When it grew last. After progressDeadlineSeconds without growth, the upgrade has failed.
    pub progress_time: Time,

    /// Since when that time does not count, because a node is away or the stack is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_time: Option<Time>,

    /// Hash of the addresses of all Services when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,

    /// Why it is being rolled back, or was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,

    /// Whether it was stopped, and stays so until the spec changes: spec.upgrade.onFailure is Pause.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub paused: bool,

    /// Whether it is being rolled back because the spec asks for what ran before.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub superseded: bool,

    /// The metadata.generation that it is about.
    pub generation: i64,
}

/// A step of an upgrade.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[schemars(transform = plain_enum)]
pub enum UpgradeStep {
    /// What runs is looked at.
    Preflight,
    /// The nodes pull the images.
    PrePull,
    /// The metallb.io kinds are brought up to date.
    #[serde(rename = "CRDs")]
    Crds,
    /// Controller and speakers are given what the new ones need besides what the former ones need.
    #[serde(rename = "RBAC")]
    Rbac,
    /// The controllers are replaced.
    Controller,
    /// The first speaker is replaced.
    Canary,
    /// It is watched.
    Soak,
    /// The others are replaced.
    Speakers,
    /// All are watched.
    Verify,
    /// What was only needed for the upgrade is removed.
    Finish,
    /// Everything goes back to what ran before.
    RollingBack,
}

impl UpgradeStep {
    /// Every step, in order.
    pub const ALL: [Self; 11] = [
        Self::Preflight,
        Self::PrePull,
        Self::Crds,
        Self::Rbac,
        Self::Controller,
        Self::Canary,
        Self::Soak,
        Self::Speakers,
        Self::Verify,
        Self::Finish,
        Self::RollingBack,
    ];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "Preflight",
            Self::PrePull => "PrePull",
            Self::Crds => "CRDs",
            Self::Rbac => "RBAC",
            Self::Controller => "Controller",
            Self::Canary => "Canary",
            Self::Soak => "Soak",
            Self::Speakers => "Speakers",
            Self::Verify => "Verify",
            Self::Finish => "Finish",
            Self::RollingBack => "RollingBack",
        }
    }
}

/// A step of an upgrade, and when it was.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Its name.
    pub name: UpgradeStep,
    /// When it began.
    pub started_time: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_time: Option<Time>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What would be done, were it approved.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// What spec.upgrade.approvedPlan has to say for the plan to be carried out.
    pub hash: String,
    /// The version that it leads to.
    pub version: String,
    /// What changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = few)]
    pub changes: Vec<PlannedChange>,
    /// In which order it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = few)]
    pub steps: Vec<String>,
}

/// An object that a plan changes.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// The object.
    pub object: String,
    /// What changes about it.
    pub change: String,
    /// What that costs.
    pub impact: String,
}

/// A revision that failed, and is not tried again before the spec or the operator changes.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedRevision {
    /// Its hash.
    pub revision: String,
    /// Its version.
    pub version: String,
    /// Why it failed.
    pub reason: String,
    /// When it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// The metadata.generation of the spec that asked for it.
    pub generation: i64,
    /// The operator's version then.
    pub operator_version: String,
}

/// An upgrade that is over.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeRecord {
    /// The version that ran before.
    pub from: String,
    /// The version that was to run.
    pub to: String,
    /// The revision that was to run.
    pub to_revision: String,
    /// When it began.
    pub started_time: Time,
    /// When it was over.
    pub finished_time: Time,
    /// How it went.
    pub outcome: UpgradeOutcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How an upgrade went.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum UpgradeOutcome {
    /// What was to run runs.
    Succeeded,
    /// It failed, and what ran before runs again.
    RolledBack,
    /// It failed, and was stopped.
    Paused,
    /// The spec asked for something else in the middle.
    Superseded,
}

impl UpgradeOutcome {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::RolledBack => "RolledBack",
            Self::Paused => "Paused",
            Self::Superseded => "Superseded",
        }
    }
}

fn without_default(schema: &mut Schema) {
    schema.remove("default");
}

fn few(schema: &mut Schema) {
    schema::set(schema, "maxItems", 32);
}
