//! IPAddressPool: the addresses that the controller assigns to Services.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// Addresses of the pool and the Services that may use them.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "IPAddressPool",
    plural = "ipaddresspools",
    namespaced,
    status = "IPAddressPoolStatus",
    derive = "PartialEq",
    doc = "IPAddressPool is a pool of IP addresses for Services of type LoadBalancer.\n\nA pool only defines addresses. To \
           make them reachable on the LAN, announce the pool with an L2Advertisement.\n\nAnnotations that extend MetalLB: \
           lb-operator.io/allocation-strategy (first or leastRecentlyUsed), lb-operator.io/hold-down (time such as 10m \
           before a released address is assigned to another Service, unless that Service requests it), \
           lb-operator.io/excluded-addresses (CIDRs and ranges that are never assigned), lb-operator.io/namespace-quota \
           (maximum number of addresses per family for the Services of one namespace).",
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
    /// Addresses of the pool, IPv4 or IPv6: CIDRs (192.168.50.0/24) and ranges (192.168.50.10-192.168.50.20). For a
    /// single address write 192.168.50.10/32.
    ///
    /// Pools and entries must not overlap. The addresses must be unused on the LAN and outside of DHCP ranges.
    ///
    /// Example: ["192.168.50.50-192.168.50.250", "fd00:50::/120"]
    #[schemars(transform = addresses_schema)]
    pub addresses: Vec<String>,

    /// Whether addresses of the pool are assigned to Services that request neither a pool nor an address.
    ///
    /// With false, a Service must request the pool (annotation metallb.io/address-pool) or one of its addresses
    /// (annotation metallb.io/loadBalancerIPs). Default: true.
    #[serde(default = "default_true")]
    pub auto_assign: bool,

    /// Whether to skip IPv4 addresses that end in .0 or .255, because some old network devices drop their packets.
    /// Default: false.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,

    /// Services that may use the pool, and the priority of the pool. Absent: all Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,
}

/// Services that may use a pool, and the priority of the pool.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAllocation {
    /// Pools with a lower number are tried first; 0 or absent is tried last. Example: 50
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,

    /// Names of namespaces whose Services may use the pool, in addition to those that match namespaceSelectors. If both
    /// fields are empty: all namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::names)]
    #[x_kube(validation = schema::no_duplicates("namespaces"))]
    pub namespaces: Vec<String>,

    /// Label selectors of namespaces whose Services may use the pool. A namespace must match one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub namespace_selectors: Vec<LabelSelector>,

    /// Label selectors of Services that may use the pool. A Service must match one of them. Empty: all Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::selectors")]
    pub service_selectors: Vec<LabelSelector>,
}

/// A released address.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleasedAddress {
    /// Released address. Example: 192.168.50.50
    pub address: String,
    /// Time of the release, in seconds since 1970-01-01 UTC.
    pub since: i64,
}

/// Usage and validity of the pool. Written by the controller.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = counts_required)]
pub struct IPAddressPoolStatus {
    // Absent counts are read as zero: the status of objects from before MetalLB 0.15 is empty.
    /// Number of assigned IPv4 addresses.
    #[serde(default, rename = "assignedIPv4")]
    pub assigned_ipv4: i64,
    /// Number of assigned IPv6 addresses.
    #[serde(default, rename = "assignedIPv6")]
    pub assigned_ipv6: i64,
    /// Number of free IPv4 addresses.
    #[serde(default, rename = "availableIPv4")]
    pub available_ipv4: i64,
    /// Number of free IPv6 addresses.
    #[serde(default, rename = "availableIPv6")]
    pub available_ipv6: i64,
    /// Recently released addresses, newest first. Only for pools with the annotation hold-down or the allocation
    /// strategy leastRecentlyUsed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<ReleasedAddress>,
    /// Valid: whether the pool is valid; if not, which field is wrong and how to fix it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

fn default_true() -> bool {
    true
}

/// Maximum number of entries of a pool. The cost estimate of the CEL rules below depends on it.
const MAX_ENTRIES: u32 = 1024;
/// Maximum length of an entry: two IPv6 addresses and blanks.
const MAX_ENTRY_LENGTH: u32 = 96;

/// Limits and CEL rules of `addresses`. CEL cannot check the order of IPv6 addresses and overlaps; the controller
/// reports these in a condition.
fn addresses_schema(addresses: &mut Schema) {
    // No `all`: the cost estimate of the API server assumes one part per character.
    let is_range =
        "self.split('-').size() == 2 && isIP(self.split('-')[0].trim()) && isIP(self.split('-')[1].trim())";
    let one_family = "ip(self.split('-')[0].trim()).family() == ip(self.split('-')[1].trim()).family()";
    let is_v4 = "ip(self.split('-')[0].trim()).family() == 4";
    // An IPv4 address as a number.
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
        schema::set(entry, "maxLength", MAX_ENTRY_LENGTH);
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
            "the first address of the range is higher than the last: write the lower address first",
        );
    });
}

/// The counts are required, as in MetalLB, although absent counts are read as zero.
fn counts_required(status: &mut Schema) {
    schema::require(
        status,
        &["assignedIPv4", "assignedIPv6", "availableIPv4", "availableIPv6"],
    );
}
