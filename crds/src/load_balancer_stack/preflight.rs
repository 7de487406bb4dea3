//! What is looked at before something is installed or changed: what a stack says about it, and what came of it.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::plain_enum;
use crate::schema;

/// The checks before an installation or a change.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// Checks that are not to stop anything, by name. They are made all the same, and status.preflight and an event tell
    /// what they would have stopped. Example: ["StrictArp"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = skip_schema)]
    #[x_kube(validation = schema::no_duplicates("spec.preflight.skip"))]
    pub skip: Vec<PreflightName>,
}

/// The name of a check.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[schemars(transform = plain_enum)]
pub enum PreflightName {
    /// The API server is of a version that controller and speakers work with.
    ServerVersion,
    /// The operator may give controller and speakers the permissions that they need.
    Permissions,
    /// The metallb.io kinds are there, or can be, and nobody else will take them away.
    #[serde(rename = "CRDOwnership")]
    CrdOwnership,
    /// Nothing else serves the same Services.
    ConflictingLoadBalancer,
    /// There are nodes that may announce addresses.
    ExcludedNodes,
    /// In IPVS mode, kube-proxy leaves ARP to the speakers.
    StrictArp,
    /// No pool has addresses of nodes, pods or Services of the cluster.
    PoolOverlap,
    /// The images have names that nodes can pull.
    Images,
}

impl PreflightName {
    /// Every check, in the order in which they are told.
    pub const ALL: [Self; 8] = [
        Self::ServerVersion,
        Self::Permissions,
        Self::CrdOwnership,
        Self::ConflictingLoadBalancer,
        Self::ExcludedNodes,
        Self::StrictArp,
        Self::PoolOverlap,
        Self::Images,
    ];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServerVersion => "ServerVersion",
            Self::Permissions => "Permissions",
            Self::CrdOwnership => "CRDOwnership",
            Self::ConflictingLoadBalancer => "ConflictingLoadBalancer",
            Self::ExcludedNodes => "ExcludedNodes",
            Self::StrictArp => "StrictArp",
            Self::PoolOverlap => "PoolOverlap",
            Self::Images => "Images",
        }
    }
}

/// What came of a check.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum PreflightResult {
    /// All is well.
    #[default]
    Passed,
    /// It stops nothing, and is worth knowing.
    Warning,
    /// Nothing is installed or changed before it is put right.
    Failed,
    /// The spec says that it is to stop nothing.
    Skipped,
}

/// A check, and what came of it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreflightCheck {
    /// The name of the check, as spec.preflight.skip takes it.
    pub name: PreflightName,

    /// Passed. Warning: it stops nothing, and is worth knowing. Failed: nothing is installed or changed before it is put
    /// right. Skipped: spec.preflight.skip names it.
    pub result: PreflightResult,

    /// True if the check would have failed and spec.preflight.skip overrides it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overridden: bool,

    /// What was found, and what to do about it.
    pub message: String,
}

fn skip_schema(schema: &mut Schema) {
    schema::set(schema, "maxItems", 16);
    schema::set(schema, "x-kubernetes-list-type", "atomic");
}
