//! BGPAdvertisement: which addresses are announced to which routers, and how.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// Addresses to announce, and the nodes, routers and attributes. Empty: all pools, nodes and routers.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "BGPAdvertisement",
    plural = "bgpadvertisements",
    namespaced,
    status = "BGPAdvertisementStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "BGPAdvertisement announces addresses of pools to routers by BGP.\n\nEvery selected node announces them, so that the \
           routers can use several nodes at the same time. The routers are BGPPeers.",
    printcolumn(name = "IPAddressPools", type_ = "string", json_path = ".spec.ipAddressPools"),
    printcolumn(
        name = "IPAddressPool Selectors",
        type_ = "string",
        json_path = ".spec.ipAddressPoolSelectors"
    ),
    printcolumn(name = "Peers", type_ = "string", json_path = ".spec.peers"),
    printcolumn(
        name = "Node Selectors",
        type_ = "string",
        json_path = ".spec.nodeSelectors",
        priority = 10
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules)]
pub struct BGPAdvertisementSpec {
    /// Length of the announced IPv4 prefixes. With less than 32, addresses of the same prefix are announced as one. Not
    /// shorter than the CIDRs of the pools.
    #[serde(default = "ipv4_length")]
    #[schemars(range(min = 1, max = 32))]
    pub aggregation_length: i32,

    /// Length of the announced IPv6 prefixes. With less than 128, addresses of the same prefix are announced as one. Not
    /// shorter than the CIDRs of the pools.
    #[serde(default = "ipv6_length")]
    #[schemars(range(min = 1, max = 128))]
    pub aggregation_length_v6: i32,

    /// Local preference, for routers with the AS number of the nodes only; the highest wins. 0: the default, 100.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(transform = local_pref)]
    pub local_pref: u32,

    /// How many times more the AS number of the nodes is in the AS path, for other routers only; the shortest path wins.
    #[serde(default, skip_serializing_if = "is_zero_u8")]
    #[schemars(transform = prepend)]
    pub as_path_prepend: u8,

    /// BGP communities: names of Communities, or values such as 65535:65281 or large:64512:1:2. While a name is unknown,
    /// nothing is announced by this advertisement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = communities)]
    #[x_kube(validation = schema::no_duplicates("communities"))]
    pub communities: Vec<String>,

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

    /// Label selectors of nodes that announce the addresses. A node must match one of them. Empty: all nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub node_selectors: Vec<LabelSelector>,

    /// Names of BGPPeers to announce the addresses to. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::names)]
    #[x_kube(validation = schema::no_duplicates("peers"))]
    pub peers: Vec<String>,

    /// Label selectors of Services whose addresses are announced. A Service must match one of them. Empty: all Services
    /// with an address of the selected pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub service_selectors: Vec<LabelSelector>,
}

impl Default for BGPAdvertisementSpec {
    fn default() -> Self {
        Self {
            aggregation_length: ipv4_length(),
            aggregation_length_v6: ipv6_length(),
            local_pref: 0,
            as_path_prepend: 0,
            communities: Vec::new(),
            ip_address_pools: Vec::new(),
            ip_address_pool_selectors: Vec::new(),
            node_selectors: Vec::new(),
            peers: Vec::new(),
            service_selectors: Vec::new(),
        }
    }
}

/// State of the advertisement.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BGPAdvertisementStatus {
    /// Valid: whether the advertisement is valid; if not, which field is wrong and how to fix it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

const fn ipv4_length() -> i32 {
    32
}

const fn ipv6_length() -> i32 {
    128
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature of serde")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature of serde")]
const fn is_zero_u8(number: &u8) -> bool {
    *number == 0
}

fn local_pref(schema: &mut Schema) {
    schema::set(schema, "format", "int64");
    schema::set(schema, "minimum", 0);
    schema::set(schema, "maximum", u32::MAX);
    schema::without_default(schema);
}

fn prepend(schema: &mut Schema) {
    schema::set(schema, "minimum", 0);
    schema::set(schema, "maximum", 10);
    schema::without_default(schema);
}

fn communities(schema: &mut Schema) {
    // More do not fit into a message together with the other attributes.
    schema::set(schema, "maxItems", 63);
    schema::items(schema, |community| {
        schema::set(community, "minLength", 1);
        schema::set(community, "maxLength", 253);
    });
}

fn rules(schema: &mut Schema) {
    schema::rule(
        schema,
        "!has(self.serviceSelectors) || self.serviceSelectors.size() == 0 || (self.aggregationLength == 32 && \
         self.aggregationLengthV6 == 128)",
        "serviceSelectors and aggregationLength are mutually exclusive, can only be used together with default \
         aggregationLength (32) and aggregationLengthV6 (128)",
    );
}
