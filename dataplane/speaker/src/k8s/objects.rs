//! The parts of Kubernetes objects that decisions need.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_crds::l2_advertisement::pause;
use lb_crds::names::{
    ALLOW_SHARED_IP, IP_ALLOCATED_FROM_POOL, LABEL_EXCLUDE, LABEL_NODE, LABEL_SERVICE_NAME,
    LABEL_SERVICE_NAMESPACE,
};
use lb_crds::selector::{any_matches, matches, validate};
use lb_crds::{AddressRange, IPAddressPool, L2Advertisement, PreferredNodeSelector, ServiceL2Status};
use lb_runtime::ObjectKey;

use crate::k8s::labels::{LabelText, Labels};
use crate::k8s::unannounced::UnannouncedStatus;
use crate::verification::AddressHealth;

/// Label of an EndpointSlice: its Service.
pub const LABEL_SERVICE: &str = "kubernetes.io/service-name";

/// Taint of a Node that was shut down (Kubernetes' non-graceful node shutdown).
const TAINT_OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A load balancer Service with addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Service {
    /// Distinguishes it from a deleted object of the same name.
    pub uid: Arc<str>,
    /// Labels, for `serviceSelectors`.
    pub labels: LabelText,
    /// The addresses of its status, in order.
    pub addresses: Box<[IpAddr]>,
    /// The pool of the addresses according to the controller.
    pub pool: Option<Arc<str>>,
    /// `externalTrafficPolicy: Local`: only nodes with an endpoint are eligible.
    pub local: bool,
    /// It has a sharing key.
    pub shared: bool,
}

impl Service {
    /// Reads a Service; `None` without type LoadBalancer, our class, or an address.
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
            shared: ALLOW_SHARED_IP.find(&annotations).is_some(),
        })
    }

    /// The address whose owner writes the ServiceL2Status, as in MetalLB.
    #[must_use]
    pub fn first(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Slice {
    /// Name of the Service, in the same namespace.
    pub service: String,
    /// Whether an endpoint can serve.
    pub serving: bool,
    /// The nodes of the endpoints that can serve.
    pub nodes: BTreeSet<String>,
}

impl Slice {
    /// Reads a slice; `None` without a Service.
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

/// As in MetalLB: an endpoint that is ready (the API counts unknown as ready), or terminating and serving.
fn can_serve(conditions: Option<&EndpointConditions>) -> bool {
    conditions.is_none_or(|conditions| conditions.ready.unwrap_or(true) || conditions.serving == Some(true))
}

/// A Node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// Distinguishes it from a deleted object of the same name.
    pub uid: String,
    /// Labels, for `nodeSelectors`.
    pub labels: Labels,
    /// Its condition `NetworkUnavailable` is `True`.
    pub network_unavailable: bool,
    /// Its condition `Ready` is `True`. Matters only while its speaker is not ready.
    pub ready: bool,
    /// It is cordoned or being deleted: its addresses are handed over to other nodes.
    pub draining: bool,
    /// It has the taint `node.kubernetes.io/out-of-service`.
    pub out_of_service: bool,
    /// Its internal addresses.
    pub addresses: Vec<IpAddr>,
    /// Its addresses of every type, which its kernel answers for: no other node may announce them.
    pub held_addresses: BTreeSet<IpAddr>,
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
            draining: spec.unschedulable == Some(true) || object.metadata.deletion_timestamp.is_some(),
            out_of_service: taints.iter().any(|taint| taint.key == TAINT_OUT_OF_SERVICE),
            held_addresses: addresses
                .iter()
                .filter_map(|address| address.address.parse::<IpAddr>().ok())
                .map(|address| address.to_canonical())
                .collect(),
            addresses: addresses
                .iter()
                .filter(|address| address.type_ == "InternalIP")
                .filter_map(|address| address.address.parse().ok())
                .collect(),
            labels: object.metadata.labels.unwrap_or_default(),
        }
    }

    /// Whether the node has the exclude label, with any value.
    #[must_use]
    pub fn excluded(&self) -> bool {
        self.labels.contains_key(LABEL_EXCLUDE)
    }
}

/// An IPAddressPool.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pool {
    /// Labels, for `ipAddressPoolSelectors`.
    pub labels: Labels,
    /// The valid entries of `addresses`.
    pub ranges: Vec<AddressRange>,
    /// The error of the first invalid entry.
    pub error: Option<String>,
}

impl Pool {
    /// Whether an advertisement selects the pool: by name or by label, and without either every pool.
    #[must_use]
    pub fn is_selected(&self, name: &str, names: &[String], selectors: &[LabelSelector]) -> bool {
        (names.is_empty() && selectors.is_empty())
            || names.iter().any(|selected| selected == name)
            || selectors.iter().any(|selector| matches(selector, &self.labels))
    }

    /// Reads a pool. The valid entries stay in force, because their addresses may be in use; the controller reports the
    /// invalid ones.
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

    /// Whether the pool contains the address.
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
    preferred_nodes: Vec<PreferredNodeSelector>,
    /// Names of the interfaces to announce on; empty for all.
    pub interfaces: Vec<Arc<str>>,
    /// The error of the first invalid selector, which selects nothing.
    pub error: Option<String>,
}

impl Advertisement {
    /// Reads an advertisement.
    #[must_use]
    pub fn read(object: L2Advertisement) -> Self {
        let node_selectors = pause::node_selectors(&object);
        let spec = object.spec;
        let preferences = spec
            .preferred_node_selectors
            .iter()
            .map(|preferred| &preferred.preference);
        let lists = [
            (
                "ipAddressPoolSelectors",
                spec.ip_address_pool_selectors.iter().collect(),
            ),
            ("nodeSelectors", node_selectors.iter().collect()),
            ("serviceSelectors", spec.service_selectors.iter().collect()),
            ("preferredNodeSelectors", preferences.collect::<Vec<_>>()),
        ];
        let error = lists.into_iter().find_map(|(field, selectors)| {
            selectors.into_iter().enumerate().find_map(|(index, selector)| {
                let error = validate(selector).err()?;
                Some(format!("spec.{field}[{index}]: {error}"))
            })
        });
        Self {
            pools: spec.ip_address_pools,
            pool_selectors: spec.ip_address_pool_selectors,
            node_selectors,
            service_selectors: spec.service_selectors,
            preferred_nodes: spec.preferred_node_selectors,
            interfaces: spec.interfaces.into_iter().map(Arc::from).collect(),
            error,
        }
    }

    /// Whether it selects the pool: by name or by label, and without either every pool.
    #[must_use]
    pub fn selects_pool(&self, name: &str, pool: &Pool) -> bool {
        pool.is_selected(name, &self.pools, &self.pool_selectors)
    }

    /// Whether it selects the Service.
    #[must_use]
    pub fn selects_service(&self, service: &Service) -> bool {
        any_matches(&self.service_selectors, &service.labels)
    }

    /// Whether it limits the Services that it selects.
    #[must_use]
    pub fn has_service_selectors(&self) -> bool {
        !self.service_selectors.is_empty()
    }

    /// Whether it prefers some nodes to others.
    #[must_use]
    pub fn has_preferences(&self) -> bool {
        !self.preferred_nodes.is_empty()
    }

    /// The sum of the weights for a node: only among the nodes that it selects, as in MetalLB.
    #[must_use]
    pub fn weight(&self, node: &Node) -> u32 {
        if !self.selects_node(node) {
            return 0;
        }
        let matching = self
            .preferred_nodes
            .iter()
            .filter(|preferred| matches(&preferred.preference, &node.labels));
        matching.fold(0, |sum, preferred| {
            sum.saturating_add(preferred.weight.max(0).unsigned_abs())
        })
    }

    /// Whether it selects the node.
    #[must_use]
    pub fn selects_node(&self, node: &Node) -> bool {
        any_matches(&self.node_selectors, &node.labels)
    }
}

/// The Pod of a speaker.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Speaker {
    /// Its Node.
    pub node: String,
    /// Its condition `Ready` is `True`. A terminating speaker announces until it ends.
    pub ready: bool,
}

impl Speaker {
    /// Reads a Pod; `None` before it is scheduled.
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

/// A ServiceL2Status.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReportedStatus {
    /// The owner of the address; empty while no node announces it.
    pub node: Arc<str>,
    /// The Service.
    pub service: ObjectKey,
    /// The selected interfaces; empty for all.
    pub interfaces: Box<[Arc<str>]>,
    /// The first address of the Service; `None` if MetalLB has written the object.
    pub address: Option<IpAddr>,
    /// The reported health; `None` when a condition lacks its field.
    pub health: Option<AddressHealth>,
    /// Why no node announces the address.
    pub unannounced: Option<Box<UnannouncedStatus>>,
    /// The uid of the Node that owns the object.
    pub owner: Option<Arc<str>>,
    /// The resource version, a precondition of deletion.
    pub version: Box<str>,
}

impl ReportedStatus {
    /// Whether MetalLB has written the object.
    #[must_use]
    pub fn is_of_metallb(&self) -> bool {
        self.address.is_none()
    }

    /// Reads a ServiceL2Status. Empty fields of the status are taken from the labels.
    #[must_use]
    pub fn read(object: ServiceL2Status) -> Self {
        let status = object.status.unwrap_or_default();
        let health = AddressHealth::read(&status);
        let unannounced = UnannouncedStatus::read(&status).map(Box::new);
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
            unannounced,
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
