//! How a stack is doing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::{
    AdoptionStatus, FailedRevision, PlanStatus, PreflightCheck, Revision, UpgradeRecord, UpgradeStatus,
    plain_enum,
};
use crate::schema;

/// How the stack is doing. Written by the operator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerStackStatus {
    /// The metadata.generation that this status is about. Lower than the object's: not yet looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The conditions in one word. Ready: every component runs as specified. Installing: components are created or
    /// replaced for the first time. Upgrading: an upgrade is in progress. RollingBack: a failed upgrade is being undone.
    /// Paused: spec.paused is set, or a failed upgrade waits for a person. Blocked: a preflight check, an approval or a
    /// deletion policy prevents the next change. Degraded: a component failed. Deleting: the stack is being deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<StackPhase>,

    /// The version that controller and speakers run. It changes when all of them run the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// The version that they are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,

    /// The operator's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_version: Option<String>,

    /// Controllers that are ready, of those there are to be. Example: 2/2
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,

    /// Speakers that are ready, of those there are to be. Example: 3/3
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speakers: Option<String>,

    /// The programs, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub components: Vec<ComponentStatus>,

    /// The checks before an installation or a change, and what came of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub preflight: Vec<PreflightCheck>,

    /// How far spec.adopt is. Absent where there is nothing to adopt, and after the way back was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adoption: Option<AdoptionStatus>,

    /// What ran last with everything in order: an upgrade that fails goes back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Revision>,

    /// The upgrade that waits for approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,

    /// The upgrade that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeStatus>,

    /// What failed, and is not tried again before the spec or the operator changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_revisions: Vec<FailedRevision>,

    /// The last ten upgrades, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<UpgradeRecord>,

    /// Ready: all of it runs as the spec says. Progressing: pods are being created or replaced. Degraded: something failed
    /// and needs a person. PreflightPassed: no check of status.preflight failed. Upgradeable: the operator can be
    /// upgraded now. DeletionBlocked: the stack is to be deleted, and waits for a person. Adopted: MetalLB is
    /// replaced. Paused: spec.paused is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The state of a stack in one word: the column `STATUS` of `kubectl get`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum StackPhase {
    /// Every component runs as specified.
    Ready,
    /// Components are created or replaced outside of an upgrade.
    Installing,
    /// An upgrade is in progress.
    Upgrading,
    /// A failed upgrade is being undone.
    RollingBack,
    /// `spec.paused` is set, or a failed upgrade waits for a person.
    Paused,
    /// A preflight check, an approval or a deletion policy prevents the next change.
    Blocked,
    /// A component failed.
    Degraded,
    /// The stack is being deleted and nothing blocks that.
    Deleting,
}

impl StackPhase {
    /// The word that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Installing => "Installing",
            Self::Upgrading => "Upgrading",
            Self::RollingBack => "RollingBack",
            Self::Paused => "Paused",
            Self::Blocked => "Blocked",
            Self::Degraded => "Degraded",
            Self::Deleting => "Deleting",
        }
    }
}

/// How one program is doing.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// controller or speaker.
    pub name: String,

    /// Pods that there are to be.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub desired: i32,

    /// Pods that are ready.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub ready: i32,

    /// Pods that run the target version with the present settings.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub updated: i32,

    /// The version that the pods are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// How many pods there are of each version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<VersionCount>,
}

/// Pods of a version.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionCount {
    /// The version.
    pub version: String,
    /// How many pods there are of it.
    pub pods: i32,
}

fn without_default(schema: &mut Schema) {
    schema.remove("default");
}
