//! What the checks look at: the cluster, cut down to what they ask.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use lb_crds::AddressRange;
use lb_runtime::ObjectKey;

/// A fact, or why it could not be had.
pub type Known<T> = Result<T, Unread>;

/// Why a fact could not be had.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unread {
    /// In the API server's words.
    pub because: String,
    /// Whether it may be had later: the API server did not answer, or not now. What it refuses, it refuses again.
    pub may_pass: bool,
}

/// The cluster as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Generation of the stack that this was asked for.
    pub generation: i64,
    /// The API server's version, as in `v1.33.2`.
    pub server_version: Known<String>,
    /// Permissions that the operator does not hold, of those that it is to grant.
    pub denied: Known<Vec<String>>,
    /// Those of the metallb.io kinds that exist.
    pub definitions: Known<Vec<Definition>>,
    /// Other programs that serve Services of type LoadBalancer.
    pub balancers: Known<Vec<Balancer>>,
    /// The nodes.
    pub nodes: Known<Vec<Node>>,
    /// kube-proxy's configuration, where it is in the ConfigMap that kubeadm makes.
    pub proxy: Known<Option<String>>,
    /// The pools of the stack's namespace.
    pub pools: Known<Vec<Pool>>,
    /// Networks that Services have their cluster IPs from.
    pub services: Known<Vec<IpNet>>,
}

impl Facts {
    /// These facts, and of those that could not be had what was seen for the same generation before.
    #[must_use]
    pub fn after(self, before: Option<Self>) -> Self {
        let Some(before) = before.filter(|before| before.generation == self.generation) else {
            return self;
        };
        Self {
            generation: self.generation,
            server_version: self.server_version.or(before.server_version),
            denied: self.denied.or(before.denied),
            definitions: self.definitions.or(before.definitions),
            balancers: self.balancers.or(before.balancers),
            nodes: self.nodes.or(before.nodes),
            proxy: self.proxy.or(before.proxy),
            pools: self.pools.or(before.pools),
            services: self.services.or(before.services),
        }
    }
}

/// A kind that exists.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Definition {
    /// As in `ipaddresspools.metallb.io`.
    pub name: String,
    /// Versions that are served.
    pub served: Vec<String>,
    /// Versions in which objects may be stored.
    pub stored: Vec<String>,
    /// Whether the operator has applied it.
    pub is_ours: bool,
    /// Helm release that it belongs to, as `namespace/name`.
    pub release: Option<String>,
    /// Whether Helm leaves it when that release is removed.
    pub is_kept: bool,
    /// Whether the Operator Lifecycle Manager installed it.
    pub is_olms: bool,
    /// Who manages its fields.
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
pub struct Balancer {
    /// Which one.
    pub product: Product,
    /// Where it was seen.
    pub object: ObjectRef,
    /// Whom it serves.
    pub serves: Serves,
}

/// The load balancers that are known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Product {
    /// <https://metallb.io>
    MetalLb,
    /// <https://kube-vip.io>
    KubeVip,
    /// <https://docs.cilium.io>, its LoadBalancer IPAM
    Cilium,
    /// <https://docs.k3s.io>, its ServiceLB
    ServiceLb,
}

/// Which Services somebody serves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Serves {
    /// Those without a `spec.loadBalancerClass`.
    pub without_class: bool,
    /// Those with one of these.
    pub classes: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether the speakers' node selector chooses it.
    pub is_selected: bool,
    /// Whether it has the exclude label.
    pub is_excluded: bool,
    /// Its addresses in the cluster.
    pub addresses: Vec<IpAddr>,
    /// Networks of its pods.
    pub pods: Vec<IpNet>,
}

/// A pool.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its addresses, as far as they can be read.
    pub ranges: Vec<AddressRange>,
    /// Those of them that are given to nobody.
    pub excluded: Vec<AddressRange>,
}
