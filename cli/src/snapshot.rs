//! The objects of the cluster, read once, at one time. Everything after it is pure.

mod read;

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_crds::names::{NAMESPACE, STACK};
use lb_crds::{
    BGPAdvertisement, BGPPeer, Community, ConfigurationState, IPAddressPool, L2Advertisement,
    LoadBalancerStack, ServiceL2Status,
};
use lb_runtime::ObjectKey;

pub(crate) use read::{read, read_all_endpoints};

/// Which Services and endpoints are read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Scope {
    /// All Services and all endpoints.
    #[default]
    All,
    /// No Services.
    Stack,
    /// All Services, and endpoints of one.
    One(ObjectKey),
}

/// A kind that could not be read, or one of its objects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Unread {
    /// The kind, for decisions.
    kind: String,
    /// A sentence, for people.
    text: String,
}

impl Unread {
    pub(crate) fn new(kind: &str, text: String) -> Self {
        let kind = kind.to_owned();
        Self { kind, text }
    }
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for Unread {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
impl PartialEq<&str> for Unread {
    fn eq(&self, other: &&str) -> bool {
        self.text == *other
    }
}

/// The objects of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// When it was read.
    pub(crate) now: Timestamp,
    pub(crate) scope: Scope,
    pub(crate) stacks: Vec<LoadBalancerStack>,
    pub(crate) services: Vec<Service>,
    pub(crate) slices: Vec<EndpointSlice>,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) nodes: Vec<Node>,
    /// The pods of controller and speakers.
    pub(crate) pods: Vec<Pod>,
    /// Of all namespaces: objects outside of the stack's namespace have no effect.
    pub(crate) pools: Vec<IPAddressPool>,
    /// Of all namespaces.
    pub(crate) l2_advertisements: Vec<L2Advertisement>,
    /// Of all namespaces.
    pub(crate) bgp_advertisements: Vec<BGPAdvertisement>,
    /// Of all namespaces.
    pub(crate) bgp_peers: Vec<BGPPeer>,
    pub(crate) communities: Vec<Community>,
    pub(crate) statuses: Vec<ServiceL2Status>,
    pub(crate) states: Vec<ConfigurationState>,
    /// A sentence for each kind that could not be read.
    pub(crate) unread: Vec<Unread>,
    /// Kinds that the API server does not have.
    pub(crate) absent: Vec<&'static str>,
}

impl Snapshot {
    /// Whether objects of a kind are missing.
    pub(crate) fn is_unread(&self, kind: &str) -> bool {
        self.unread.iter().any(|unread| unread.kind == kind)
    }

    /// The stack.
    pub(crate) fn stack(&self) -> Option<&LoadBalancerStack> {
        self.stacks
            .iter()
            .find(|stack| stack.metadata.name.as_deref() == Some(STACK))
    }

    /// The namespace of controller, speakers, pools and advertisements.
    pub(crate) fn namespace(&self) -> &str {
        let of_stack = self.stack().and_then(|stack| stack.spec.namespace.as_deref());
        of_stack.unwrap_or(NAMESPACE)
    }

    /// The class of the Services to serve.
    pub(crate) fn class(&self) -> Option<&str> {
        self.stack()?.spec.load_balancer_class.as_deref()
    }

    /// Whether an object is in the stack's namespace.
    pub(crate) fn is_ours(&self, object: &impl kube::Resource) -> bool {
        object.meta().namespace.as_deref() == Some(self.namespace())
    }

    /// The Service with this key.
    pub(crate) fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services
            .iter()
            .find(|service| ObjectKey::of(*service) == *key)
    }
}

/// The addresses in the status of a Service.
pub(crate) fn addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref();
    let ingress = status
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref())
        .unwrap_or_default();
    ingress
        .iter()
        .filter_map(|entry| entry.ip.as_deref()?.parse().ok())
        .collect()
}

/// Whether a Service is a load balancer.
pub(crate) fn is_load_balancer(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

/// The class of a Service.
pub(crate) fn class(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.load_balancer_class.as_deref()
}
