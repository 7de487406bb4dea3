//! Kubernetes objects as the speaker remembers them: what decisions need, and nothing else.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_crds::l2_advertisement::pause;
use lb_crds::names::{
    IP_ALLOCATED_FROM_POOL, LABEL_EXCLUDE, LABEL_NODE, LABEL_SERVICE_NAME, LABEL_SERVICE_NAMESPACE,
};
use lb_crds::selector::{any_matches, matches, validate};
use lb_crds::{AddressRange, IPAddressPool, L2Advertisement, ServiceL2Status};
use lb_runtime::ObjectKey;

use crate::k8s::labels::{LabelText, Labels};
use crate::verification::AddressHealth;

/// Label of an EndpointSlice: the Service that it belongs to.
pub const LABEL_SERVICE: &str = "kubernetes.io/service-name";

/// Taint of a Node that is known to be switched off (Kubernetes' non-graceful node shutdown).
const TAINT_OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A Service with addresses that we may have to announce.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Service {
    /// Tells it from a namesake that was deleted before.
    pub uid: Arc<str>,
    /// What `serviceSelectors` look at.
    pub labels: LabelText,
    /// The addresses in its status, in their order.
    pub addresses: Box<[IpAddr]>,
    /// The pool that the controller says they are from.
    pub pool: Option<Arc<str>>,
    /// `externalTrafficPolicy: Local`: only nodes with an endpoint may announce.
    pub local: bool,
}

impl Service {
    /// Reads a Service; none when it is no load balancer of our class or has no address.
    #[must_use]
    pub fn read(object: v1::Service, class: Option<&str>) -> Option<Self> {
        let spec = object.spec?;
        if spec.type_.as_deref() != Some("LoadBalancer") || spec.load_balancer_class.as_deref() != class {
            return None;
        }
        let ingress = object.status?.load_balancer?.ingress?;
        let mut addresses: Vec<IpAddr> = Vec::with_capacity(ingress.len());
        for address in ingress
            .iter()
            .filter_map(|entry| entry.ip.as_deref()?.parse().ok())
        {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return None;
        }
        let annotations = object.metadata.annotations.unwrap_or_default();
        Some(Self {
            uid: object.metadata.uid.unwrap_or_default().into(),
            labels: object.metadata.labels.unwrap_or_default().into(),
            addresses: addresses.into(),
            pool: annotations
                .get(IP_ALLOCATED_FROM_POOL)
                .map(|pool| pool.as_str().into()),
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
        })
    }

    /// The address whose owner speaks for the Service in its ServiceL2Status, as in MetalLB: the first.
    #[must_use]
    pub fn first(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }
}

/// What an EndpointSlice says about its Service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Slice {
    /// Name of the Service, in the same namespace.
    pub service: String,
    /// Whether some endpoint can serve.
    pub serving: bool,
    /// The nodes of the endpoints that can serve.
    pub nodes: BTreeSet<String>,
}

impl Slice {
    /// Reads a slice; none when it belongs to no Service.
    #[must_use]
    pub fn read(object: EndpointSlice) -> Option<Self> {
        let service = object.metadata.labels?.remove(LABEL_SERVICE)?;
        let mut slice = Self {
            service,
            ..Self::default()
        };
        for endpoint in object.endpoints {
            if can_serve(endpoint.conditions.as_ref()) {
                slice.serving = true;
                slice.nodes.extend(endpoint.node_name);
            }
        }
        Some(slice)
    }
}

/// As in MetalLB: an endpoint that is ready (unknown counts as ready, says the API), or one that is terminating and
/// still serves.
fn can_serve(conditions: Option<&EndpointConditions>) -> bool {
    conditions.is_none_or(|conditions| conditions.ready.unwrap_or(true) || conditions.serving == Some(true))
}

/// A Node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// Tells it from a namesake that was deleted before.
    pub uid: String,
    /// What `nodeSelectors` look at.
    pub labels: Labels,
    /// Its condition `NetworkUnavailable` is `True`.
    pub network_unavailable: bool,
    /// Its condition `Ready` is `True`. No matter to the election but through its speaker.
    pub ready: bool,
    /// It is being drained or deleted: what it has is to go to other nodes, before it is taken away.
    pub leaving: bool,
    /// Somebody has said that it is switched off for good: the taint `node.kubernetes.io/out-of-service`.
    pub out_of_service: bool,
    /// Its addresses in the network of the nodes.
    pub addresses: Vec<IpAddr>,
}

impl Node {
    /// Reads a Node.
    #[must_use]
    pub fn read(object: v1::Node) -> Self {
        let status = object.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let holds = |type_: &str| {
            conditions
                .iter()
                .any(|condition| condition.type_ == type_ && condition.status == "True")
        };
        let spec = object.spec.unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        let addresses = status.addresses.unwrap_or_default();
        Self {
            uid: object.metadata.uid.unwrap_or_default(),
            network_unavailable: holds("NetworkUnavailable"),
            ready: holds("Ready"),
            leaving: spec.unschedulable == Some(true) || object.metadata.deletion_timestamp.is_some(),
            out_of_service: taints.iter().any(|taint| taint.key == TAINT_OUT_OF_SERVICE),
            addresses: addresses
                .iter()
                .filter(|address| address.type_ == "InternalIP")
                .filter_map(|address| address.address.parse().ok())
                .collect(),
            labels: object.metadata.labels.unwrap_or_default(),
        }
    }

    /// Whether the node is excluded from load balancing; the value of the label has no meaning.
    #[must_use]
    pub fn excluded(&self) -> bool {
        self.labels.contains_key(LABEL_EXCLUDE)
    }
}

/// An IPAddressPool.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pool {
    /// What `ipAddressPoolSelectors` look at.
    pub labels: Labels,
    /// The entries of `addresses` that can be read.
    pub ranges: Vec<AddressRange>,
    /// The first entry that cannot be read, and why.
    pub error: Option<String>,
}

impl Pool {
    /// Reads a pool. An entry that cannot be read takes nothing from the others: their addresses may be in use, and
    /// the controller tells the user.
    #[must_use]
    pub fn read(object: IPAddressPool) -> Self {
        let mut pool = Self {
            labels: object.metadata.labels.unwrap_or_default(),
            ..Self::default()
        };
        for (index, entry) in object.spec.addresses.iter().enumerate() {
            match entry.parse::<AddressRange>() {
                Ok(range) => pool.ranges.push(range),
                Err(error) if pool.error.is_none() => {
                    pool.error = Some(format!("spec.addresses[{index}]: {error}"));
                }
                Err(_) => {}
            }
        }
        pool
    }

    /// Whether the address is one of the pool's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }
}

/// An L2Advertisement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advertisement {
    pools: Vec<String>,
    pool_selectors: Vec<LabelSelector>,
    node_selectors: Vec<LabelSelector>,
    service_selectors: Vec<LabelSelector>,
    /// InterfaceSelection to announce on; none means all.
    pub interfaces: Vec<Arc<str>>,
    /// The first selector that says nothing, and why. It chooses nothing.
    pub error: Option<String>,
}

impl Advertisement {
    /// Reads an advertisement.
    #[must_use]
    pub fn read(object: L2Advertisement) -> Self {
        let node_selectors = pause::node_selectors(&object);
        let spec = object.spec;
        let lists = [
            ("ipAddressPoolSelectors", &spec.ip_address_pool_selectors),
            ("nodeSelectors", &node_selectors),
            ("serviceSelectors", &spec.service_selectors),
        ];
        let error = lists.into_iter().find_map(|(field, selectors)| {
            selectors.iter().enumerate().find_map(|(index, selector)| {
                let error = validate(selector).err()?;
                Some(format!("spec.{field}[{index}]: {error}"))
            })
        });
        Self {
            pools: spec.ip_address_pools,
            pool_selectors: spec.ip_address_pool_selectors,
            node_selectors,
            service_selectors: spec.service_selectors,
            interfaces: spec.interfaces.into_iter().map(Arc::from).collect(),
            error,
        }
    }

    /// Whether it announces the addresses of this pool: by name or by label, and without either all pools.
    #[must_use]
    pub fn chooses_pool(&self, name: &str, pool: &Pool) -> bool {
        (self.pools.is_empty() && self.pool_selectors.is_empty())
            || self.pools.iter().any(|chosen| chosen == name)
            || self
                .pool_selectors
                .iter()
                .any(|selector| matches(selector, &pool.labels))
    }

    /// Whether it announces the addresses of this Service.
    #[must_use]
    pub fn chooses_service(&self, service: &Service) -> bool {
        any_matches(&self.service_selectors, &service.labels)
    }

    /// Whether this node may announce.
    #[must_use]
    pub fn chooses_node(&self, node: &Node) -> bool {
        any_matches(&self.node_selectors, &node.labels)
    }
}

/// A speaker's Pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Speaker {
    /// The Node that it runs on.
    pub node: String,
    /// Its condition `Ready` is `True`. One that is being deleted answers to its very end, so deletion alone says nothing.
    pub ready: bool,
}

impl Speaker {
    /// Reads a speaker's Pod; none while it has no node.
    #[must_use]
    pub fn read(object: v1::Pod) -> Option<Self> {
        let conditions = object
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        Some(Self {
            node: object.spec?.node_name?,
            ready: conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        })
    }
}

/// What a ServiceL2Status says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReportedStatus {
    /// The node that it names as owner.
    pub node: Arc<str>,
    /// The Service.
    pub service: ObjectKey,
    /// The interfaces that it lists.
    pub interfaces: Box<[Arc<str>]>,
    /// The address that it is about; none if MetalLB has written it.
    pub address: Option<IpAddr>,
    /// The health that it reports; `None` when that cannot be read.
    pub health: Option<AddressHealth>,
    /// The object that it goes with, by uid.
    pub owner: Option<Arc<str>>,
    /// Version of the object: the precondition of deleting it.
    pub version: Box<str>,
}

impl ReportedStatus {
    /// Whether MetalLB has written it.
    #[must_use]
    pub fn is_metallbs(&self) -> bool {
        self.address.is_none()
    }

    /// Reads a ServiceL2Status. What the status does not say (yet) is taken from the labels.
    #[must_use]
    pub fn read(object: ServiceL2Status) -> Self {
        let status = object.status.unwrap_or_default();
        let health = AddressHealth::read(&status);
        let mut labels = object.metadata.labels.unwrap_or_default();
        let mut or_label = |value: String, label: &str| {
            if value.is_empty() {
                labels.remove(label).unwrap_or_default()
            } else {
                value
            }
        };
        Self {
            node: or_label(status.node, LABEL_NODE).into(),
            service: ObjectKey::new(
                or_label(status.service_namespace, LABEL_SERVICE_NAMESPACE),
                or_label(status.service_name, LABEL_SERVICE_NAME),
            ),
            interfaces: status
                .interfaces
                .into_iter()
                .map(|interface| interface.name.into())
                .collect(),
            address: status.address.parse().ok(),
            health,
            owner: object
                .metadata
                .owner_references
                .into_iter()
                .flatten()
                .map(|owner| owner.uid.into())
                .next(),
            version: object.metadata.resource_version.unwrap_or_default().into(),
        }
    }
}
