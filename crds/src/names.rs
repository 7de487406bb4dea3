//! Names that are API: annotations, labels, ports and objects that users, dashboards and scripts refer to.
//!
//! Annotations of a Service exist under two prefixes, `metallb.io/` and the deprecated `metallb.universe.tf/`.
//! Where both are set, `metallb.io/` counts, as in MetalLB.

use std::collections::BTreeMap;

/// API group of pools, advertisements and their status.
pub const METALLB_GROUP: &str = "metallb.io";
/// API group of what MetalLB does not have.
pub const OPERATOR_GROUP: &str = "lb-operator.io";

/// Namespace of controller, speakers, pools and advertisements unless the stack says otherwise.
pub const NAMESPACE: &str = "metallb-system";
/// Name of the one LoadBalancerStack.
pub const STACK: &str = "default";
/// Name of the controller's Deployment, and value of [`LABEL_COMPONENT`] on its pods.
pub const CONTROLLER: &str = "controller";
/// Name of the speakers' DaemonSet, and value of [`LABEL_COMPONENT`] on their pods.
pub const SPEAKER: &str = "speaker";
/// Name of the Lease that the leading controller holds.
pub const CONTROLLER_LEASE: &str = "metallb-controller";

/// Name of the ConfigurationState that the controller writes.
pub const CONFIGURATION_STATE: &str = "controller";

/// Port of metrics and probes of all three programs.
pub const MONITORING_PORT: u16 = 7472;
/// Name of that port in pods and Services.
pub const MONITORING_PORT_NAME: &str = "monitoring";

/// Label of every pod of the dataplane; its value is [`APP`].
pub const LABEL_APP: &str = "app";
/// Value of [`LABEL_APP`].
pub const APP: &str = "metallb";
/// Label that tells [`CONTROLLER`] from [`SPEAKER`].
pub const LABEL_COMPONENT: &str = "component";

/// Label of a ServiceL2Status: the node that owns the address.
pub const LABEL_NODE: &str = "metallb.io/node";
/// Label of a ServiceL2Status: name of the Service.
pub const LABEL_SERVICE_NAME: &str = "metallb.io/service-name";
/// Label of a ServiceL2Status: namespace of the Service.
pub const LABEL_SERVICE_NAMESPACE: &str = "metallb.io/service-namespace";

/// Label of a ConfigurationState: which program writes it.
pub const LABEL_COMPONENT_TYPE: &str = "metallb.io/component-type";

/// Label of a Node that announces nothing, whatever the label's value.
pub const LABEL_EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// `reportingController` of the controller's events.
pub const REPORTER_CONTROLLER: &str = "metallb-controller";
/// `reportingController` of the speakers' events.
pub const REPORTER_SPEAKER: &str = "metallb-speaker";
/// `reportingController` of the operator's events.
pub const REPORTER_OPERATOR: &str = "lb-operator";

/// Annotation of a Service, written by the controller: the pool that its address is from.
pub const IP_ALLOCATED_FROM_POOL: &str = "metallb.io/ip-allocated-from-pool";

/// Annotation of a pool: `first` or `leastRecentlyUsed`.
pub const ALLOCATION_STRATEGY: &str = "lb-operator.io/allocation-strategy";
/// Annotation of a pool: how long a released address is given to nobody who does not ask for it, such as `10m`.
pub const HOLD_DOWN: &str = "lb-operator.io/hold-down";
/// Annotation of a pool: CIDRs and ranges, separated by commas, that are given to nobody.
pub const EXCLUDED_ADDRESSES: &str = "lb-operator.io/excluded-addresses";
/// Annotation of a pool: how many addresses of each family the Services of one namespace can have.
pub const NAMESPACE_QUOTA: &str = "lb-operator.io/namespace-quota";

/// Condition of a Service: whether it has the addresses that it asks for, and if not, why.
pub const ADDRESS_ASSIGNED: &str = "lb-operator.io/AddressAssigned";
/// Condition of a Service: which node announces its address, and if none does as it should, why.
pub const ANNOUNCED: &str = "lb-operator.io/Announced";
/// Condition of a ServiceL2Status: whether another node that asked the LAN for the address was answered.
pub const VERIFIED: &str = "Verified";
/// Condition of a ServiceL2Status: a host that is no node of the cluster answers for the address. Also the reason of
/// [`ANNOUNCED`].
pub const ADDRESS_CONFLICT: &str = "AddressConflict";
/// Reason of [`VERIFIED`], and of [`ANNOUNCED`], when nobody answered.
pub const NO_REPLY: &str = "NoReply";
/// Condition of a ConfigurationState, written by the controller.
pub const POOL_RECONCILER_VALID: &str = "poolReconcilerValid";

/// An annotation of a Service that users set, under both prefixes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Annotation {
    /// The key to use.
    pub key: &'static str,
    /// The key of old manifests.
    pub deprecated_key: &'static str,
}

/// The pool, by name, to take the address from.
pub const ADDRESS_POOL: Annotation = Annotation {
    key: "metallb.io/address-pool",
    deprecated_key: "metallb.universe.tf/address-pool",
};
/// The addresses wanted: at most one per family, separated by commas.
pub const LOAD_BALANCER_IPS: Annotation = Annotation {
    key: "metallb.io/loadBalancerIPs",
    deprecated_key: "metallb.universe.tf/loadBalancerIPs",
};
/// Services with the same value may have the same address.
pub const ALLOW_SHARED_IP: Annotation = Annotation {
    key: "metallb.io/allow-shared-ip",
    deprecated_key: "metallb.universe.tf/allow-shared-ip",
};

/// Annotations that a Service can carry under a deprecated key.
pub const ANNOTATIONS: [Annotation; 3] = [ADDRESS_POOL, LOAD_BALANCER_IPS, ALLOW_SHARED_IP];

/// Deprecated form of [`IP_ALLOCATED_FROM_POOL`], which old releases of MetalLB wrote; never written here.
pub const DEPRECATED_IP_ALLOCATED_FROM_POOL: &str = "metallb.universe.tf/ip-allocated-from-pool";

/// The value of an annotation, and the key that it was found under.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found<'a> {
    /// The key that the value was found under: name it in messages, the user wrote it.
    pub key: &'static str,
    /// The value, without blanks around it, never empty.
    pub value: &'a str,
}

impl Annotation {
    /// Looks the annotation up, `metallb.io/` first. An empty value counts as absent.
    #[must_use]
    pub fn find<'a>(&self, annotations: &'a BTreeMap<String, String>) -> Option<Found<'a>> {
        [self.key, self.deprecated_key].into_iter().find_map(|key| {
            let value = annotations.get(key)?.trim();
            (!value.is_empty()).then_some(Found { key, value })
        })
    }

    /// The value alone: see [`Annotation::find`].
    #[must_use]
    pub fn value<'a>(&self, annotations: &'a BTreeMap<String, String>) -> Option<&'a str> {
        self.find(annotations).map(|found| found.value)
    }
}

/// The deprecated keys among a Service's annotations, in a fixed order.
pub fn deprecated_keys(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = &'static str> {
    ANNOTATIONS
        .into_iter()
        .map(|annotation| annotation.deprecated_key)
        .filter(|key| annotations.contains_key(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn the_current_prefix_counts_where_both_are_set() {
        let both = annotations(&[
            ("metallb.io/address-pool", "a"),
            ("metallb.universe.tf/address-pool", "b"),
        ]);
        let found = ADDRESS_POOL.find(&both).unwrap();
        assert_eq!((found.key, found.value), ("metallb.io/address-pool", "a"));
    }

    #[test]
    fn the_deprecated_prefix_counts_alone_and_is_named() {
        let old = annotations(&[("metallb.universe.tf/loadBalancerIPs", " 192.168.50.50 ")]);
        let found = LOAD_BALANCER_IPS.find(&old).unwrap();
        assert_eq!(
            (found.key, found.value),
            ("metallb.universe.tf/loadBalancerIPs", "192.168.50.50")
        );
        let keys: Vec<_> = deprecated_keys(&old).collect();
        assert_eq!(keys, ["metallb.universe.tf/loadBalancerIPs"]);
    }

    #[test]
    fn an_empty_value_counts_as_absent() {
        let empty = annotations(&[
            ("metallb.io/address-pool", " "),
            ("metallb.universe.tf/address-pool", "b"),
        ]);
        assert_eq!(ADDRESS_POOL.value(&empty), Some("b"));
        assert_eq!(ALLOW_SHARED_IP.value(&empty), None);
    }
}
