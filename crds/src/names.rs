//! Names that are part of the API: annotations, labels, ports and object names.
//!
//! Annotations of Services have two prefixes, `metallb.io/` and the deprecated `metallb.universe.tf/`. As in MetalLB,
//! `metallb.io/` takes precedence.

use std::collections::BTreeMap;

/// API group of pools, advertisements and their status.
pub const METALLB_GROUP: &str = "metallb.io";
/// API group of the LoadBalancerStack.
pub const OPERATOR_GROUP: &str = "lb-operator.io";

/// Default namespace of controller, speakers, pools and advertisements.
pub const NAMESPACE: &str = "metallb-system";
/// Name of the LoadBalancerStack.
pub const STACK: &str = "default";
/// Name of the controller's Deployment, and value of [`LABEL_COMPONENT`] on its pods.
pub const CONTROLLER: &str = "controller";
/// Name of the speakers' DaemonSet, and value of [`LABEL_COMPONENT`] on their pods.
pub const SPEAKER: &str = "speaker";
/// Name of the Lease that the leading controller holds.
pub const CONTROLLER_LEASE: &str = "metallb-controller";

/// Name of the controller's ConfigurationState.
pub const CONFIGURATION_STATE: &str = "controller";
/// Prefix of the names of the speakers' ConfigurationStates; the name of the node follows.
pub const SPEAKER_STATE_PREFIX: &str = "speaker-";
/// Maximum number of nodes in a speaker's ConfigurationState.
pub const MAX_UNHEARD_PEERS: usize = 64;

/// Port of metrics and probes.
pub const MONITORING_PORT: u16 = 7472;
/// Name of [`MONITORING_PORT`] in pods and Services.
pub const MONITORING_PORT_NAME: &str = "monitoring";

/// Label of controller and speaker pods with the value [`APP`].
pub const LABEL_APP: &str = "app";
/// Value of [`LABEL_APP`].
pub const APP: &str = "metallb";
/// Label with the value [`CONTROLLER`] or [`SPEAKER`].
pub const LABEL_COMPONENT: &str = "component";

/// Label of a ServiceL2Status: node that announces the address.
pub const LABEL_NODE: &str = "metallb.io/node";
/// Label of a ServiceL2Status: name of the Service.
pub const LABEL_SERVICE_NAME: &str = "metallb.io/service-name";
/// Label of a ServiceL2Status: namespace of the Service.
pub const LABEL_SERVICE_NAMESPACE: &str = "metallb.io/service-namespace";

/// Label of a ConfigurationState: component that writes it.
pub const LABEL_COMPONENT_TYPE: &str = "metallb.io/component-type";

/// Label of nodes that announce no addresses; its value is ignored.
pub const LABEL_EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// `reportingController` of the controller's events.
pub const REPORTER_CONTROLLER: &str = "metallb-controller";
/// `reportingController` of the speakers' events.
pub const REPORTER_SPEAKER: &str = "metallb-speaker";
/// `reportingController` of the operator's events.
pub const REPORTER_OPERATOR: &str = "lb-operator";

/// Annotation of a Service, written by the controller: pool of its address.
pub const IP_ALLOCATED_FROM_POOL: &str = "metallb.io/ip-allocated-from-pool";

/// Annotation of a pool: `first` or `leastRecentlyUsed`.
pub const ALLOCATION_STRATEGY: &str = "lb-operator.io/allocation-strategy";
/// Annotation of a pool: time such as `10m` before a released address is assigned to a Service that does not request
/// it.
pub const HOLD_DOWN: &str = "lb-operator.io/hold-down";
/// Annotation of a pool: CIDRs and ranges, separated by commas, that are never assigned.
pub const EXCLUDED_ADDRESSES: &str = "lb-operator.io/excluded-addresses";
/// Annotation of a pool: maximum number of addresses per family for the Services of one namespace.
pub const NAMESPACE_QUOTA: &str = "lb-operator.io/namespace-quota";

/// Annotation of a pool: `cluster` or `namespace`, the Services that may come to share one of its addresses.
pub const SHARING_SCOPE: &str = "lb-operator.io/sharing-scope";

/// Condition of a Service: whether the requested addresses are assigned.
pub const ADDRESS_ASSIGNED: &str = "lb-operator.io/AddressAssigned";
/// Condition of a Service: whether its address is announced, and by which node.
pub const ANNOUNCED: &str = "lb-operator.io/Announced";
/// Condition of a ServiceL2Status: whether another node received a reply for the address.
pub const VERIFIED: &str = "Verified";
/// Condition of a ServiceL2Status: another host also answers for the address. Also a reason of
/// [`ANNOUNCED`].
pub const ADDRESS_CONFLICT: &str = "AddressConflict";
/// Condition of a ServiceL2Status without a node: no node announces the address, and the reason is one of
/// [`UNANNOUNCED_REASONS`].
pub const NOT_ANNOUNCED: &str = "Announced";
/// Reasons of [`NOT_ANNOUNCED`], which [`ANNOUNCED`] repeats.
pub const UNANNOUNCED_REASONS: [&str; 10] = [
    "NoPool",
    "NoAdvertisement",
    "ServiceNotSelected",
    "SharedWithServiceSelectors",
    "NoEndpoint",
    "AddressOfNode",
    "NoEligibleNode",
    "NoInterface",
    "NoMajority",
    ADDRESS_CONFLICT,
];
/// Reason of [`VERIFIED`] and [`ANNOUNCED`]: the verification got no reply.
pub const NO_REPLY: &str = "NoReply";
/// Condition of a ConfigurationState, written by the controller.
pub const POOL_RECONCILER_VALID: &str = "poolReconcilerValid";

/// An annotation of a Service with both prefixes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Annotation {
    /// Current key.
    pub key: &'static str,
    /// Deprecated key.
    pub deprecated_key: &'static str,
}

/// Name of the requested pool.
pub const ADDRESS_POOL: Annotation = Annotation {
    key: "metallb.io/address-pool",
    deprecated_key: "metallb.universe.tf/address-pool",
};
/// Requested addresses, at most one per family, separated by commas.
pub const LOAD_BALANCER_IPS: Annotation = Annotation {
    key: "metallb.io/loadBalancerIPs",
    deprecated_key: "metallb.universe.tf/loadBalancerIPs",
};
/// Sharing key: Services with the same value may share an address.
pub const ALLOW_SHARED_IP: Annotation = Annotation {
    key: "metallb.io/allow-shared-ip",
    deprecated_key: "metallb.universe.tf/allow-shared-ip",
};

/// Annotations with a deprecated key.
pub const ANNOTATIONS: [Annotation; 3] = [ADDRESS_POOL, LOAD_BALANCER_IPS, ALLOW_SHARED_IP];

/// Deprecated key of [`IP_ALLOCATED_FROM_POOL`] from old releases of MetalLB. Only read.
pub const DEPRECATED_IP_ALLOCATED_FROM_POOL: &str = "metallb.universe.tf/ip-allocated-from-pool";

/// Value of an annotation with the key that the user wrote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AnnotationValue<'a> {
    /// Key in the object, current or deprecated; for messages.
    pub key: &'static str,
    /// Value without surrounding blanks, never empty.
    pub value: &'a str,
}

impl Annotation {
    /// Finds the annotation; the current key takes precedence, also with an empty value, which counts as absent.
    #[must_use]
    pub fn find<'a>(&self, annotations: &'a BTreeMap<String, String>) -> Option<AnnotationValue<'a>> {
        let mut keys = [self.key, self.deprecated_key].into_iter();
        let (key, value) = keys.find_map(|key| Some((key, annotations.get(key)?.trim())))?;
        (!value.is_empty()).then_some(AnnotationValue { key, value })
    }

    /// The value of [`Annotation::find`].
    #[must_use]
    pub fn value<'a>(&self, annotations: &'a BTreeMap<String, String>) -> Option<&'a str> {
        self.find(annotations).map(|found| found.value)
    }
}

/// The deprecated keys in the annotations of a Service, in a fixed order.
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
    fn current_key_takes_precedence() {
        let both = annotations(&[
            ("metallb.io/address-pool", "a"),
            ("metallb.universe.tf/address-pool", "b"),
        ]);
        let found = ADDRESS_POOL.find(&both).unwrap();
        assert_eq!((found.key, found.value), ("metallb.io/address-pool", "a"));
    }

    #[test]
    fn deprecated_key_is_used_and_reported() {
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
    fn empty_value_counts_as_absent() {
        let empty = annotations(&[
            ("metallb.io/address-pool", " "),
            ("metallb.universe.tf/address-pool", "b"),
        ]);
        assert_eq!(ADDRESS_POOL.value(&empty), None, "as in MetalLB");
        assert_eq!(ALLOW_SHARED_IP.value(&empty), None);
    }
}
