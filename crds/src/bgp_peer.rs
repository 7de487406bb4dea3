//! BGPPeer: a router that the speakers announce addresses to.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::schema;

/// A router, the session with it, and the nodes that have the session.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "metallb.io",
    version = "v1beta2",
    kind = "BGPPeer",
    plural = "bgppeers",
    namespaced,
    status = "BGPPeerStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "BGPPeer is a router that the speakers announce addresses to by BGP. The speaker of every selected node connects \
           to it.\n\nA BGPAdvertisement says which addresses are announced.",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.peerAddress"),
    printcolumn(name = "ASN", type_ = "string", json_path = ".spec.peerASN"),
    printcolumn(name = "BFD Profile", type_ = "string", json_path = ".spec.bfdProfile"),
    printcolumn(name = "Multi Hops", type_ = "string", json_path = ".spec.ebgpMultiHop")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules)]
pub struct BGPPeerSpec {
    /// AS number of the nodes.
    #[serde(rename = "myASN")]
    #[schemars(transform = own_asn)]
    pub my_asn: u32,

    /// AS number of the router. Either this field or dynamicASN is required.
    #[serde(default, rename = "peerASN", skip_serializing_if = "is_zero")]
    #[schemars(transform = asn)]
    pub peer_asn: u32,

    /// Accepts any AS number of the router that is equal to that of the nodes (internal) or different (external).
    /// Either this field or peerASN is required.
    #[serde(default, rename = "dynamicASN", skip_serializing_if = "String::is_empty")]
    #[schemars(transform = dynamic_asn)]
    pub dynamic_asn: String,

    /// AS number of the nodes for this router only: it sees neither myASN nor another number of the nodes.
    #[serde(default, rename = "localASN", skip_serializing_if = "Option::is_none")]
    #[schemars(transform = local_asn)]
    pub local_asn: Option<u32>,

    /// IP address of the router. Either this field or interface is required.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(transform = peer_address)]
    pub peer_address: String,

    /// Name of the node's interface to the router, for a session without addresses. Not supported yet: the speakers
    /// ignore a BGPPeer with this field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(transform = device_name)]
    pub interface: String,

    /// Address of the node from which it connects. A node without this address has no session.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(transform = source_address)]
    pub source_address: String,

    /// TCP port of the router.
    #[serde(default = "default_port")]
    #[schemars(transform = port)]
    pub peer_port: u16,

    /// Time without a message of the router after which the session ends, such as 90s. 0s: never. At least 3s.
    /// Default: 90s, or three times keepaliveTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = hold_time)]
    pub hold_time: Option<String>,

    /// Time between two messages to the router, such as 30s. Default: a third of holdTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = keepalive_time)]
    pub keepalive_time: Option<String>,

    /// Longest pause between two attempts to connect, in whole seconds, such as 10s. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = connect_time)]
    pub connect_time: Option<String>,

    /// BGP identifier of the node, an IPv4 address. Default: the node's internal IPv4 address.
    #[serde(default, rename = "routerID", skip_serializing_if = "String::is_empty")]
    #[schemars(transform = router_id)]
    pub router_id: String,

    /// Label selectors of nodes that have a session with the router. A node must match one of them. Empty: all nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub node_selectors: Vec<LabelSelector>,

    /// Key of the TCP MD5 signatures (RFC 2385) that the router requires, at most 80 octets. Better: passwordSecret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 80))]
    pub password: String,

    /// Secret with the key of the TCP MD5 signatures that the router requires.
    #[serde(default, skip_serializing_if = "SecretReference::is_empty")]
    #[schemars(transform = schema::without_default)]
    pub password_secret: SecretReference,

    /// Name of the BFDProfile with which the nodes watch the path to the router. Without such a profile the session has
    /// no BFD.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(transform = object_name)]
    pub bfd_profile: String,

    /// Whether the router keeps the routes while a speaker restarts (RFC 4724). Immutable.
    #[serde(default, skip_serializing_if = "is_false")]
    #[x_kube(validation = ("self == oldSelf", "EnableGracefulRestart cannot be changed after creation"))]
    pub enable_graceful_restart: bool,

    /// Whether other routers are between the nodes and an external router.
    #[serde(default, rename = "ebgpMultiHop", skip_serializing_if = "is_false")]
    pub ebgp_multi_hop: bool,

    /// Name of the VRF device that the session uses.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(transform = device_name)]
    pub vrf: String,

    /// Deprecated and without effect: see dualStackAddressFamily.
    #[serde(default, rename = "disableMP")]
    pub disable_mp: bool,

    /// Whether the session announces addresses of both families, instead of those of its own family only.
    #[serde(default)]
    pub dual_stack_address_family: bool,
}

/// Reference to a Secret in the namespace of the speakers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = atomic)]
pub struct SecretReference {
    /// Name of the Secret. Its type is kubernetes.io/basic-auth, and its key password has the value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(transform = object_name)]
    pub name: String,

    /// Ignored: the Secret is in the namespace of the speakers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(transform = schema::without_default)]
    pub namespace: String,
}

impl SecretReference {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// State of the peer.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BGPPeerStatus {
    /// Valid: whether the peer is valid; if not, which field is wrong and how to fix it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The CRD with MetalLB's deprecated version `v1beta1`, which has the same fields: no conversion is needed.
pub(crate) fn definition() -> CustomResourceDefinition {
    let mut definition = BGPPeer::crd();
    let mut old = definition.spec.versions.clone();
    for version in &mut old {
        "v1beta1".clone_into(&mut version.name);
        version.storage = false;
        version.deprecated = Some(true);
        version.deprecation_warning = Some("v1beta1 is deprecated, please use v1beta2".to_owned());
    }
    definition.spec.versions.extend(old);
    // Explicit, because MetalLB's CRD has a webhook.
    definition.spec.conversion = Some(CustomResourceConversion {
        strategy: "None".to_owned(),
        webhook: None,
    });
    definition
}

const fn default_port() -> u16 {
    179
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature of serde")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature of serde")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// AS numbers exceed the format int32.
fn asn(schema: &mut Schema) {
    schema::set(schema, "format", "int64");
    schema::set(schema, "minimum", 0);
    schema::set(schema, "maximum", u32::MAX);
    schema::without_default(schema);
}

fn own_asn(schema: &mut Schema) {
    asn(schema);
    schema::rule(
        schema,
        "self != 0",
        "missing local ASN: set the AS number of the nodes",
    );
}

fn local_asn(schema: &mut Schema) {
    asn(schema);
    schema::set(schema, "minimum", 1);
    schema::set(schema, "type", "integer");
}

fn dynamic_asn(schema: &mut Schema) {
    // Go clients write the empty word.
    schema::set(
        schema,
        "enum",
        vec![Value::from(""), "internal".into(), "external".into()],
    );
    schema::without_default(schema);
}

fn optional_ip(schema: &mut Schema, rule: &str, message: &str) {
    schema::set(schema, "maxLength", 64);
    schema::without_default(schema);
    schema::rule(schema, &format!("self == '' || {rule}"), message);
}

fn peer_address(schema: &mut Schema) {
    optional_ip(
        schema,
        "isIP(self)",
        "invalid BGPPeer address: set one IP address",
    );
}

fn source_address(schema: &mut Schema) {
    optional_ip(schema, "isIP(self)", "invalid source IP: set one IP address");
}

fn router_id(schema: &mut Schema) {
    optional_ip(
        schema,
        "(isIP(self) && ip(self).family() == 4)",
        "invalid router ID: set an IPv4 address",
    );
}

fn device_name(schema: &mut Schema) {
    schema::set(schema, "maxLength", 15);
    schema::without_default(schema);
}

fn object_name(schema: &mut Schema) {
    schema::set(schema, "maxLength", 253);
    schema::without_default(schema);
}

fn port(schema: &mut Schema) {
    // 0 in objects of v1beta1 is the default.
    schema::set(schema, "minimum", 0);
    schema::set(schema, "maximum", 16384);
}

fn duration(schema: &mut Schema, rule: &str, message: &str) {
    schema::set(schema, "type", "string");
    schema::set(schema, "maxLength", 32);
    schema::rule(schema, rule, message);
}

fn hold_time(schema: &mut Schema) {
    duration(
        schema,
        "duration(self) >= duration('0s') && (duration(self).getSeconds() == 0 || duration(self).getSeconds() >= 3) && \
         duration(self).getSeconds() <= 65535",
        "invalid hold time: must be 0 or >=3s, and at most 65535s",
    );
}

fn keepalive_time(schema: &mut Schema) {
    duration(
        schema,
        "duration(self) >= duration('0s')",
        "invalid keepalive time: must not be negative",
    );
}

fn connect_time(schema: &mut Schema) {
    duration(
        schema,
        "duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535",
        "connect time should be between 1 seconds to 65535",
    );
    schema::rule(
        schema,
        "duration(self).getMilliseconds() % 1000 == 0",
        "connect time should contain a whole number of seconds",
    );
}

fn atomic(schema: &mut Schema) {
    schema::set(schema, "x-kubernetes-map-type", "atomic");
}

/// Rules that concern several fields, with MetalLB's messages.
fn rules(schema: &mut Schema) {
    const HAS_ASN: &str = "has(self.peerASN) && self.peerASN != 0";
    let has = |field: &str| format!("has(self.{field}) && self.{field} != ''");
    let (dynamic, address, interface) = (has("dynamicASN"), has("peerAddress"), has("interface"));
    let internal = format!(
        "((({HAS_ASN}) && self.peerASN == self.myASN) || (has(self.dynamicASN) && self.dynamicASN == 'internal'))"
    );
    for (rule, message) in [
        (
            format!("({HAS_ASN}) || ({dynamic})"),
            "missing peer ASN and dynamicASN: set one of them",
        ),
        (
            format!("!(({HAS_ASN}) && ({dynamic}))"),
            "both peer ASN and dynamicASN specified: remove one of them",
        ),
        (
            format!("({address}) || ({interface})"),
            "peer has no Address or Interface specified: set one of them",
        ),
        (
            format!("!(({address}) && ({interface}))"),
            "peer has both Address and Interface specified: remove one of them",
        ),
        (
            format!("!(has(self.ebgpMultiHop) && self.ebgpMultiHop && {internal})"),
            "invalid ebgp-multihop parameter set for an ibgp peer: remove ebgpMultiHop",
        ),
        (
            format!("!(has(self.localASN) && {internal})"),
            "invalid localASN set for an ibgp peer: remove localASN",
        ),
        (
            "!(has(self.password) && self.password != '' && has(self.passwordSecret) && has(self.passwordSecret.name) && \
             self.passwordSecret.name != '')"
                .to_owned(),
            "can not have both password and secret ref set: remove one of them",
        ),
        (
            "!(has(self.holdTime) && has(self.keepaliveTime)) || duration(self.keepaliveTime) <= duration(self.holdTime)"
                .to_owned(),
            "invalid keepaliveTime: must be lower than holdTime",
        ),
    ] {
        schema::rule(schema, &rule, message);
    }
}
