//! A Service as the controller remembers it: what it asks for and what it has, in a few hundred bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use lb_crds::names::{
    ADDRESS_ASSIGNED, ADDRESS_POOL, ALLOW_SHARED_IP, ANNOUNCED, DEPRECATED_IP_ALLOCATED_FROM_POOL,
    IP_ALLOCATED_FROM_POOL, LOAD_BALANCER_IPS, deprecated_keys,
};
use lb_ipam::request::Words;
use lb_ipam::{Addresses, DualStack, Families, Port, Rejection, Request, Sharing};

use crate::allocation::Labels;
use crate::condition::Shown;

/// What the controller knows of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Tells it from a namesake that was deleted before.
    pub uid: String,
    /// Version of the object: the precondition of every write.
    pub version: String,
    /// When it was created, in seconds since 1970: who waits longest is served first.
    pub created: i64,
    /// Its labels, by which pools choose.
    pub labels: Labels,
    /// What it is to us.
    pub role: Role,
    /// What its status says.
    pub status: Status,
    /// What its condition of addresses says.
    pub shown: Option<Shown>,
    /// What its condition of their announcement says.
    pub announced: Option<Shown>,
    /// The pool that its annotation says the addresses are from.
    pub pool: Option<String>,
    /// Whether that annotation has its deprecated key.
    pub deprecated_pool: bool,
    /// Deprecated annotations that its owner should rename.
    pub deprecated: Vec<&'static str>,
}

/// What a Service is to this controller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// It gets addresses from us, if what it asks for can be understood.
    Ours(Result<Request, Rejection>),
    /// It is no load balancer (any more), and still carries what one has.
    Former,
}

/// What a Service's status says about its addresses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// The addresses.
    pub addresses: Addresses,
    /// Whether there is something else as well, such as a host name, which only another controller can have written.
    pub foreign: bool,
}

impl Status {
    /// Whether it says nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && !self.foreign
    }
}

impl Service {
    /// Reads a Service; none when it concerns this controller in no way, as most Services do not.
    #[must_use]
    pub fn read(object: &v1::Service, class: Option<&str>) -> Option<Self> {
        let none = BTreeMap::new();
        let annotations = object.metadata.annotations.as_ref().unwrap_or(&none);
        let spec = object.spec.clone().unwrap_or_default();
        let status = status(object);
        let conditions = object
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref());
        let shown = |type_| Shown::read(conditions.unwrap_or_default(), type_);
        let (shown, announced) = (shown(ADDRESS_ASSIGNED), shown(ANNOUNCED));
        let pool = annotations.get(IP_ALLOCATED_FROM_POOL);
        let old_pool = annotations.get(DEPRECATED_IP_ALLOCATED_FROM_POOL);
        let role = if spec.type_.as_deref() == Some("LoadBalancer") {
            // Another class is another controller's business, whatever the Service carries: it may be its address.
            if spec.load_balancer_class.as_deref() != class {
                return None;
            }
            Role::Ours(request(&spec, annotations))
        } else if pool.is_some()
            || old_pool.is_some()
            || shown.is_some()
            || announced.is_some()
            || !status.is_empty()
        {
            Role::Former
        } else {
            return None;
        };
        let metadata = &object.metadata;
        Some(Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            version: metadata.resource_version.clone().unwrap_or_default(),
            created: metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
            labels: Labels::read(metadata.labels.as_ref()),
            role,
            status,
            shown,
            announced,
            pool: pool.or(old_pool).cloned(),
            deprecated_pool: old_pool.is_some(),
            deprecated: deprecated_keys(annotations).collect(),
        })
    }
}

fn status(object: &v1::Service) -> Status {
    let balancer = object
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer
        .and_then(|balancer| balancer.ingress.as_deref())
        .unwrap_or_default();
    let mut status = Status::default();
    for entry in ingress {
        let address = entry.ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
        let added = address.is_some_and(|address| status.addresses.add(address));
        status.foreign |= !added || entry.hostname.is_some();
    }
    status
}

/// With whom a Service shares its address, by MetalLB's rules. An empty key is none.
fn sharing(spec: &v1::ServiceSpec, annotations: &BTreeMap<String, String>) -> Option<Sharing> {
    let key = ALLOW_SHARED_IP.value(annotations).filter(|key| !key.is_empty())?;
    let port = |port: &v1::ServicePort| {
        let number = u16::try_from(port.port).ok()?;
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some(Port { protocol, number })
    };
    let backend = match spec.external_traffic_policy.as_deref() {
        Some("Local") => {
            let pairs = spec
                .selector
                .iter()
                .flatten()
                .map(|(key, value)| format!("{key}={value}"));
            pairs.collect::<Vec<_>>().join(",")
        }
        Some(_) | None => String::new(),
    };
    Some(Sharing {
        key: key.to_owned(),
        ports: spec.ports.iter().flatten().filter_map(port).collect(),
        backend,
    })
}

fn request(spec: &v1::ServiceSpec, annotations: &BTreeMap<String, String>) -> Result<Request, Rejection> {
    let policy = match spec.ip_family_policy.as_deref() {
        Some("RequireDualStack") => DualStack::Required,
        Some("PreferDualStack") => DualStack::Preferred,
        Some(_) | None => DualStack::No,
    };
    let families = match (&spec.cluster_ips, &spec.cluster_ip) {
        (Some(ips), _) if !ips.is_empty() => Families::of_cluster_ips(ips, policy)?,
        (_, ip) => Families::of_cluster_ips(ip.as_slice(), policy)?,
    };
    let words = Words {
        addresses: LOAD_BALANCER_IPS
            .find(annotations)
            .map(|found| (found.key, found.value)),
        load_balancer_ip: spec.load_balancer_ip.as_deref().unwrap_or_default(),
        pool: ADDRESS_POOL.value(annotations),
        sharing: sharing(spec, annotations),
    };
    Request::read(families, words)
}
