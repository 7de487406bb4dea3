//! L2Advertisement: which addresses are announced with ARP and NDP.

pub mod pause;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Addresses to announce, and the nodes and interfaces that announce them. Empty: all pools, nodes and interfaces.
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
    doc = "L2Advertisement announces addresses of pools on the LAN: with ARP for IPv4 and with NDP for IPv6.\n\nOne node at a \
           time announces an address. If the node fails, the address fails over to another node.",
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
    /// Names of pools to announce, in addition to those that match ipAddressPoolSelectors. If both fields are empty:
    /// all pools. Example: ["default-pool"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::names)]
    #[x_kube(validation = schema::no_duplicates("ipAddressPools"))]
    pub ip_address_pools: Vec<String>,

    /// Label selectors of pools to announce. A pool must match one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,

    /// Label selectors of nodes that may announce the addresses. A node must match one of them. Empty: all nodes.
    ///
    /// Example: [{matchLabels: {kubernetes.io/hostname: node-1}}]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub node_selectors: Vec<LabelSelector>,

    /// Names of the interfaces that announce the addresses. Empty: all LAN interfaces that are not excluded by
    /// spec.speaker.excludedInterfaces of the stack. Example: ["eth0"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,

    /// Label selectors of Services whose addresses are announced. A Service must match one of them. Empty: all Services
    /// with an address of the selected pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub service_selectors: Vec<LabelSelector>,

    /// Nodes that are preferred as owners of the addresses. The weights of the selectors that match a node are summed
    /// over all advertisements that apply; nodes with a greater sum precede the others in the election order. If no
    /// preferred node is available, any other node that may announce the address does.
    ///
    /// An address that has an owner stays there, unless spec.speaker.failback of the stack is Immediate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::preferred_node_selectors")]
    pub preferred_node_selectors: Vec<PreferredNodeSelector>,
}

/// Preference for the nodes that a selector matches.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreferredNodeSelector {
    /// 1 to 100.
    pub weight: i32,
    /// The nodes; an empty selector matches every node.
    pub preference: LabelSelector,
}

/// Validity of the advertisement. Written by the controller.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementStatus {
    /// Valid: whether the advertisement is valid; if not, which field is wrong and how to fix it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
