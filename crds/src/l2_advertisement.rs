//! L2Advertisement: which addresses the nodes answer for on the LAN.

pub mod pause;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Which addresses are announced, from which nodes and interfaces. An empty spec announces all pools from everywhere.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "L2Advertisement",
    plural = "l2advertisements",
    namespaced,
    status = "L2AdvertisementStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "L2Advertisement makes the nodes answer on the LAN (ARP for IPv4, NDP for IPv6) for the addresses of pools.\n\n\
           One node at a time answers for an address; another takes over when it fails.",
    printcolumn(name = "IPAddressPools", type_ = "string", json_path = ".spec.ipAddressPools"),
    printcolumn(
        name = "IPAddressPool Selectors",
        type_ = "string",
        json_path = ".spec.ipAddressPoolSelectors"
    ),
    printcolumn(name = "Interfaces", type_ = "string", json_path = ".spec.interfaces"),
    printcolumn(
        name = "Node Selectors",
        type_ = "string",
        json_path = ".spec.nodeSelectors",
        priority = 10
    )
)]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementSpec {
    /// Pools whose addresses are announced, by name. Together with ipAddressPoolSelectors: a pool that either of the two
    /// chooses. Both empty: all pools. Example: ["default-pool"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::names)]
    #[x_kube(validation = schema::no_duplicates("ipAddressPools"))]
    pub ip_address_pools: Vec<String>,

    /// Pools whose addresses are announced, by label. A pool that one of the selectors chooses is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,

    /// Nodes that may announce, by label. A node that one of the selectors chooses is enough. Empty: all nodes.
    ///
    /// Example: [{matchLabels: {kubernetes.io/hostname: node-1}}]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub node_selectors: Vec<LabelSelector>,

    /// Interfaces to announce on, by their exact names on the node. Empty: all interfaces of the node that are on a LAN
    /// and not excluded in the stack (spec.speaker.excludedInterfaces). Example: ["eth0"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,

    /// Services whose addresses are announced, by label. A Service that one of the selectors chooses is enough. Empty:
    /// all Services with an address of the pools above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub service_selectors: Vec<LabelSelector>,
}

/// Whether the advertisement can be used. Written by the controller.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementStatus {
    /// Whether the advertisement can be used, and if not, which field is wrong and what to do (type Valid).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
