//! Status of a stack.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AdoptionStatus, FailedRevision, PlanStatus, PreflightCheck, Revision, UpgradeRecord, UpgradeStatus,
};
use crate::api_enum::api_enum;
use crate::schema;

/// State of the stack. Written by the operator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerStackStatus {
    /// The metadata.generation that this status describes. If it is lower than metadata.generation, the operator has
    /// not processed the current spec yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Summary of the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<StackPhase>,

    /// Version of controller and speakers. It changes when all of them run the new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Version that controller and speakers are upgraded to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,

    /// Version of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_version: Option<String>,

    /// The Lease of the operator that manages this stack. Another operator does nothing while this Lease is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorLease>,

    /// Ready/desired controllers. Example: 2/2
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,

    /// Ready/desired speakers. Example: 3/3
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speakers: Option<String>,

    /// State of controller and speakers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub components: Vec<ComponentStatus>,

    /// Results of the preflight checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub preflight: Vec<PreflightCheck>,

    /// Progress of the migration from MetalLB. Absent if there is no MetalLB to adopt, or after the saved manifests
    /// were deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adoption: Option<AdoptionStatus>,

    /// The last revision that ran without problems. A failed upgrade is rolled back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Revision>,

    /// The upgrade that waits for approval (spec.upgrade.approval).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,

    /// The upgrade in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeStatus>,

    /// Revisions whose upgrade failed. They are not tried again until the spec or the operator version changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_revisions: Vec<FailedRevision>,

    /// The last ten upgrades, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<UpgradeRecord>,

    /// Conditions by type. Ready: every component runs as specified. Progressing: pods are being created or replaced.
    /// Degraded: a component failed and needs attention. PreflightPassed: no preflight check failed. Upgradeable: the
    /// operator can be upgraded now. DeletionBlocked: the deletion of the stack waits for a user. Adopted: MetalLB is
    /// replaced. Paused: spec.paused is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

api_enum! {
    /// Summary of a stack's conditions: the column `STATUS` of `kubectl get`.
    pub enum StackPhase {
        /// Every component runs as specified.
        Ready,
        /// Components are being created or replaced, and no upgrade is in progress.
        Installing,
        /// An upgrade is in progress.
        Upgrading,
        /// A failed upgrade is being rolled back.
        RollingBack,
        /// spec.paused is set, or a failed upgrade waits for a user.
        Paused,
        /// A preflight check, an approval or the deletion policy blocks the next change.
        Blocked,
        /// A component failed.
        Degraded,
        /// The stack is being deleted.
        Deleting,
    }
}

/// State of one component.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// controller or speaker.
    pub name: String,

    /// Desired pods.
    #[serde(default)]
    #[schemars(transform = schema::without_default)]
    pub desired: i32,

    /// Ready pods.
    #[serde(default)]
    #[schemars(transform = schema::without_default)]
    pub ready: i32,

    /// Pods that run the target version with the current settings.
    #[serde(default)]
    #[schemars(transform = schema::without_default)]
    pub updated: i32,

    /// Target version of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Number of pods per version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<VersionCount>,
}

/// The Lease of an operator.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorLease {
    /// Namespace of the operator.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
}

/// Number of pods of one version.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionCount {
    /// Version of the pods.
    pub version: String,
    /// Number of pods.
    pub pods: i32,
}
