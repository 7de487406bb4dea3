//! Preflight checks: settings and results.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::api_enum::api_enum;
use crate::schema;

/// Settings of the preflight checks.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// Checks whose failure does not block an installation or a change. They still run: status.preflight and an event
    /// report failures. Example: ["StrictArp"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = skip_schema)]
    #[x_kube(validation = schema::no_duplicates("spec.preflight.skip"))]
    pub skip: Vec<PreflightName>,
}

api_enum! {
    /// Name of a preflight check.
    #[derive(Ord, PartialOrd)]
    pub enum PreflightName {
        /// Controller and speakers support the version of the API server.
        ServerVersion,
        /// The operator may grant the permissions of controller and speakers.
        Permissions,
        /// The metallb.io CRDs exist or can be created, and no other client will remove them.
        CrdOwnership = "CRDOwnership",
        /// No other load balancer serves the same Services.
        ConflictingLoadBalancer,
        /// No object of another owner has the name of an object of the stack.
        ObjectOwnership,
        /// No webhook of a removed MetalLB refuses changes of pools.
        LeftoverWebhook,
        /// No other process uses the speakers' ports of the nodes.
        HostPorts,
        /// No BGPPeer has a field that the speakers do not support yet.
        BgpObjects = "BGPObjects",
        /// At least one node may announce addresses.
        ExcludedNodes,
        /// kube-proxy in IPVS mode does not answer ARP for Service addresses.
        StrictArp,
        /// No pool contains addresses of nodes, pods or Services of the cluster.
        PoolOverlap,
        /// The image names are valid.
        Images,
    }
}

api_enum! {
    /// Result of a preflight check.
    #[derive(Default)]
    pub enum PreflightResult {
        /// No problem was found.
        #[default]
        Passed,
        /// A problem was found that does not block an installation or a change.
        Warning,
        /// The operator could not check. Blocks nothing.
        Unknown,
        /// Installations and changes are blocked until the problem is solved.
        Failed,
        /// spec.preflight.skip names the check, so its result blocks nothing.
        Skipped,
    }
}

/// A preflight check and its result.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreflightCheck {
    /// Name of the check, as in spec.preflight.skip.
    pub name: PreflightName,

    /// Result of the check.
    pub result: PreflightResult,

    /// Whether the check failed and is overridden by spec.preflight.skip.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(transform = schema::without_default)]
    pub overridden: bool,

    /// Finding, with the action to take if there is a problem.
    pub message: String,
}

fn skip_schema(schema: &mut Schema) {
    schema::set(schema, "maxItems", 16);
    schema::set(schema, "x-kubernetes-list-type", "atomic");
}
