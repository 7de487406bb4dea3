//! The state of the cluster that the checks need.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use lb_crds::AddressRange;
use lb_runtime::ObjectKey;

use super::host_ports::HostPortUser;
use super::kube_proxy::{DistributionArgs, KubeProxyFacts};
use crate::ownership::ForeignObject;

/// A fact, or why it is unknown.
pub type Fact<T> = Result<T, UnknownFact>;

/// Why a fact is unknown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownFact {
    /// The API server's message.
    pub error: String,
    /// Whether a retry may succeed: the API server did not answer. A refusal is permanent.
    pub is_transient: bool,
}

/// Defines [`ClusterFacts`], whose fields are facts that become known one by one.
macro_rules! cluster_facts {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// The state of the cluster.
        #[derive(Clone, Debug, PartialEq)]
        pub struct ClusterFacts {
            /// Generation of the stack that the facts were collected for.
            pub generation: i64,
            $($(#[$doc])* pub $name: Fact<$type>,)*
        }

        impl ClusterFacts {
            /// These facts; unknown ones are taken from `before` if that is about the same generation.
            #[must_use]
            pub fn or_known(self, before: Option<Self>) -> Self {
                let Some(before) = before.filter(|before| before.generation == self.generation) else {
                    return self;
                };
                Self {
                    generation: self.generation,
                    $($name: self.$name.or(before.$name),)*
                }
            }

            /// No fact is known.
            #[cfg(test)]
            pub(super) fn unknown(generation: i64, why: &UnknownFact) -> Self {
                Self {
                    generation,
                    $($name: Err(why.clone()),)*
                }
            }
        }
    };
}

cluster_facts! {
    /// The API server's version, as in `v1.33.2`.
    server_version: String,
    /// Permissions that the operator must grant and does not hold.
    denied: Vec<String>,
    /// The metallb.io CRDs that exist.
    crds: Vec<CrdFacts>,
    /// Other programs that serve Services of type LoadBalancer.
    load_balancers: Vec<OtherLoadBalancer>,
    /// Objects of other owners that have the name of an object of the stack.
    foreign_objects: Vec<ForeignObject>,
    /// The nodes.
    nodes: Vec<NodeFacts>,
    /// How kube-proxy is configured.
    kube_proxy: KubeProxyFacts,
    /// Pods that use a port of the nodes.
    host_ports: Vec<HostPortUser>,
    /// The Service of a MetalLB webhook that refuses changes of pools and has no backend.
    dead_webhook: Option<String>,
    /// Unsupported fields of BGPPeers in the stack's namespace.
    bgp_objects: Vec<String>,
    /// The pools of the stack's namespace.
    pools: Vec<PoolFacts>,
    /// The networks of cluster IPs.
    services: Vec<IpNet>,
}

/// A metallb.io CRD.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CrdFacts {
    /// As in `ipaddresspools.metallb.io`.
    pub name: String,
    /// Versions that are served.
    pub served: Vec<String>,
    /// `status.storedVersions`.
    pub stored: Vec<String>,
    /// Whether this operator applied it.
    pub is_managed: bool,
    /// Its Helm release, as `namespace/name`.
    pub release: Option<String>,
    /// Whether the Operator Lifecycle Manager installed it.
    pub is_from_olm: bool,
    /// Its field managers.
    pub managers: Vec<String>,
}

/// Identifies an object of any kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectRef {
    /// As in `DaemonSet`.
    pub kind: String,
    /// Its namespace and name.
    pub key: ObjectKey,
}

impl ObjectRef {
    /// A reference from its parts; the namespace is empty for a cluster-scoped kind.
    #[must_use]
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            key: ObjectKey::new(namespace, name),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// A program that serves Services of type LoadBalancer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OtherLoadBalancer {
    /// The product.
    pub product: LoadBalancerProduct,
    /// The object by which it was detected.
    pub object: ObjectRef,
    /// The Services that it serves.
    pub serves: ServedClasses,
}

/// The load balancers that are detected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LoadBalancerProduct {
    /// <https://metallb.io>
    MetalLb,
    /// <https://kube-vip.io>
    KubeVip,
    /// <https://docs.cilium.io>, its LoadBalancer IPAM
    Cilium,
    /// <https://docs.k3s.io>, its ServiceLB
    ServiceLb,
}

/// The Services that a load balancer serves, by class.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServedClasses {
    /// Services without a `spec.loadBalancerClass`.
    pub without_class: bool,
    /// Values of `spec.loadBalancerClass`.
    pub classes: Vec<String>,
}

impl ServedClasses {
    /// Whether they include the Services of a stack with this `spec.loadBalancerClass`.
    #[must_use]
    pub fn includes(&self, class: Option<&str>) -> bool {
        match class {
            None => self.without_class,
            Some(class) => self.classes.iter().any(|other| other == class),
        }
    }
}

/// A node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeFacts {
    /// `metadata.name`.
    pub name: String,
    /// Whether `spec.speaker.nodeSelector` matches it.
    pub is_selected: bool,
    /// Whether it has the exclude label.
    pub is_excluded: bool,
    /// Its architecture, as in `amd64`.
    pub architecture: String,
    /// The arguments of k3s or RKE2, which run kube-proxy and ServiceLB in their own process.
    pub distribution_args: Option<DistributionArgs>,
    /// Its internal addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pod networks.
    pub pods: Vec<IpNet>,
}

/// A pool.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PoolFacts {
    /// Its name.
    pub name: String,
    /// The valid entries of `spec.addresses`.
    pub ranges: Vec<AddressRange>,
    /// Ranges that are never assigned.
    pub excluded: Vec<AddressRange>,
}
