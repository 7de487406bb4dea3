//! IPAddressPool: the addresses that Services get.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// The addresses that Services can get from this pool, and which Services those are.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "IPAddressPool",
    plural = "ipaddresspools",
    namespaced,
    status = "IPAddressPoolStatus",
    derive = "PartialEq",
    doc = "IPAddressPool is a pool of IP addresses for Services of type LoadBalancer.\n\nA pool only says which \
           addresses there are. For machines on the LAN to reach them, an L2Advertisement has to announce the pool.\n\n\
           Annotations of a pool that MetalLB does not know: lb-operator.io/allocation-strategy (first, \
           leastRecentlyUsed), lb-operator.io/hold-down (10m: how long a released address is given to nobody who does \
           not ask for it), lb-operator.io/excluded-addresses (ranges that are given to nobody), \
           lb-operator.io/namespace-quota (how many addresses of each family the Services of one namespace can have).",
    printcolumn(name = "Auto Assign", type_ = "boolean", json_path = ".spec.autoAssign"),
    printcolumn(
        name = "Avoid Buggy IPs",
        type_ = "boolean",
        json_path = ".spec.avoidBuggyIPs"
    ),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses"),
    printcolumn(
        name = "Used IPv4",
        type_ = "integer",
        json_path = ".status.assignedIPv4",
        priority = 1
    ),
    printcolumn(
        name = "Free IPv4",
        type_ = "integer",
        json_path = ".status.availableIPv4",
        priority = 1
    ),
    printcolumn(
        name = "Used IPv6",
        type_ = "integer",
        json_path = ".status.assignedIPv6",
        priority = 1
    ),
    printcolumn(
        name = "Free IPv6",
        type_ = "integer",
        json_path = ".status.availableIPv6",
        priority = 1
    ),
    printcolumn(
        name = "Valid",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Valid\")].status",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct IPAddressPoolSpec {
    /// The addresses of the pool: a list of CIDRs (192.168.50.0/24) and ranges (192.168.50.10-192.168.50.20), IPv4 or
    /// IPv6, at least one. For a single address write 192.168.50.10/32.
    ///
    /// No address may be in two pools, or twice in one. The addresses must be unused on the LAN, and outside what its
    /// DHCP server hands out.
    ///
    /// Example: ["192.168.50.50-192.168.50.250", "fd00:50::/120"]
    #[schemars(transform = addresses_schema)]
    pub addresses: Vec<String>,

    /// Whether a Service that names neither a pool nor an address can get one from this pool.
    ///
    /// With false, only Services that ask for the pool (annotation metallb.io/address-pool) or for one of its addresses
    /// (annotation metallb.io/loadBalancerIPs) get one. Default: true.
    #[serde(default = "yes")]
    pub auto_assign: bool,

    /// Whether to leave out IPv4 addresses that end in .0 or .255, which some old network equipment drops.
    /// Default: false.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,

    /// Which Services may have addresses of this pool, and in which order pools are tried. Absent: all Services may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,
}

/// Limits a pool to some Services, and orders the pools among which a Service can choose.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAllocation {
    /// Pools of a lower number are tried first. 0, or absent, is tried last. Example: 50
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,

    /// Namespaces whose Services may use the pool, by name. Together with namespaceSelectors: a namespace that either of
    /// the two chooses. Both empty: every namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::names)]
    #[x_kube(validation = schema::no_duplicates("namespaces"))]
    pub namespaces: Vec<String>,

    /// Namespaces whose Services may use the pool, by label. A namespace that one of the selectors chooses is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub namespace_selectors: Vec<LabelSelector>,

    /// Services that may use the pool, by label. A Service that one of the selectors chooses is enough. Empty: every
    /// Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub service_selectors: Vec<LabelSelector>,
}

/// An address that a Service had.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleasedAddress {
    /// The address. Example: 192.168.50.50
    pub address: String,
    /// When it was released, in seconds since 1970.
    pub since: i64,
}

/// How full the pool is, and whether it can be used. Written by the controller.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = counts_required)]
pub struct IPAddressPoolStatus {
    // A status without counts is read as zeros: objects written before MetalLB 0.15 have an empty one.
    /// IPv4 addresses that Services have.
    #[serde(default, rename = "assignedIPv4")]
    pub assigned_ipv4: i64,
    /// IPv6 addresses that Services have.
    #[serde(default, rename = "assignedIPv6")]
    pub assigned_ipv6: i64,
    /// IPv4 addresses that are free.
    #[serde(default, rename = "availableIPv4")]
    pub available_ipv4: i64,
    /// IPv6 addresses that are free.
    #[serde(default, rename = "availableIPv6")]
    pub available_ipv6: i64,
    /// Of a pool with a hold-down, or with the strategy leastRecentlyUsed: the addresses that were released last, the
    /// newest first, so that a new leader knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<ReleasedAddress>,
    /// Whether the pool can be used, and if not, which field is wrong and what to do (type Valid).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

fn yes() -> bool {
    true
}

/// How many entries a pool can have: the cost of the rules below is reckoned with it.
const MAX_ENTRIES: u32 = 1024;
/// The longest entry: two IPv6 addresses, with room for blanks.
const MAX_LENGTH: u32 = 96;

/// Limits and rules of `addresses`. A range of IPv6 that runs backwards, and entries that overlap, are beyond CEL: the
/// controller says so in a condition.
fn addresses_schema(addresses: &mut Schema) {
    // Not `all`: the API server reckons with as many parts as the entry has characters.
    let is_range =
        "self.split('-').size() == 2 && isIP(self.split('-')[0].trim()) && isIP(self.split('-')[1].trim())";
    let one_family = "ip(self.split('-')[0].trim()).family() == ip(self.split('-')[1].trim()).family()";
    let is_v4 = "ip(self.split('-')[0].trim()).family() == 4";
    // An IPv4 address as a number: four digits in base 256.
    let number = |index: u8| {
        let part = |part: u8| format!("int(self.split('-')[{index}].trim().split('.')[{part}])");
        format!(
            "(({} * 256 + {}) * 256 + {}) * 256 + {}",
            part(0),
            part(1),
            part(2),
            part(3)
        )
    };
    schema::set(addresses, "minItems", 1);
    schema::set(addresses, "maxItems", MAX_ENTRIES);
    schema::items(addresses, |entry| {
        schema::set(entry, "minLength", 1);
        schema::set(entry, "maxLength", MAX_LENGTH);
        schema::rule(
            entry,
            &format!("self.contains('-') ? {is_range} : isCIDR(self.trim())"),
            "must be a CIDR (192.168.50.0/24) or a range (192.168.50.10-192.168.50.20); for one address write \
             192.168.50.10/32",
        );
        schema::rule(
            entry,
            &format!("!({is_range}) || {one_family}"),
            "both ends of a range must be of one family: write one range for IPv4 and one for IPv6",
        );
        schema::rule(
            entry,
            &format!(
                "!({is_range}) || !({one_family}) || !({is_v4}) || {} <= {}",
                number(0),
                number(1)
            ),
            "the range runs backwards: write the lower address first",
        );
    });
}

/// The counts are required as in MetalLB, although they are read as zero where they are missing.
fn counts_required(status: &mut Schema) {
    schema::require(
        status,
        &["assignedIPv4", "assignedIPv6", "availableIPv4", "availableIPv6"],
    );
}
