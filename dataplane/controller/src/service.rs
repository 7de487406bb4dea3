//! A reduced copy of a Service: its request, its addresses and its conditions, in a few hundred bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lb_crds::names::{
    ADDRESS_ASSIGNED, ADDRESS_POOL, ALLOW_SHARED_IP, ANNOUNCED, DEPRECATED_IP_ALLOCATED_FROM_POOL,
    IP_ALLOCATED_FROM_POOL, LOAD_BALANCER_IPS, deprecated_keys,
};
use lb_ipam::{
    Addresses, Families, IpFamilyPolicy, Port, RawRequest, Rejection, Request, Sharing, SharingMode,
};

use crate::condition::ShownCondition;
use crate::service_allocation::CompactLabels;

/// A Service that is or was a load balancer of our class.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CachedService {
    /// Distinguishes Services that had the same name.
    pub uid: String,
    /// `resourceVersion`, the precondition of every write.
    pub version: String,
    /// Creation time, in seconds since 1970: older Services are served first.
    pub created: i64,
    /// Its labels, for the selectors of pools.
    pub labels: CompactLabels,
    /// Whether it is a load balancer now.
    pub role: Role,
    /// The addresses in its status.
    pub status: ShownStatus,
    /// Its condition AddressAssigned.
    pub address_assigned: Option<ShownCondition>,
    /// Its condition Announced.
    pub announced: Option<ShownCondition>,
    /// The pools recorded in its annotation.
    pub pool: Option<String>,
    /// Whether that annotation has its deprecated key.
    pub deprecated_pool: bool,
    /// Its annotations with deprecated keys.
    pub deprecated: Vec<&'static str>,
}

/// Whether a Service is a load balancer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// It gets addresses, if its request is valid.
    LoadBalancer(Result<Request, InvalidRequest>),
    /// It is no load balancer now, but still has the status, annotation or conditions of one.
    Former,
    /// Another controller serves its class now, but it still has our conditions.
    OtherClass,
}

/// A request that cannot be understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InvalidRequest {
    /// Why.
    pub rejection: Rejection,
    /// How it shares addresses: it keeps them, and so do the Services that share them.
    pub sharing_mode: SharingMode,
}

/// The longest sharing key, in bytes: keys are held several times.
const SHARING_KEY_LIMIT: usize = 253;

/// The `status.loadBalancer` of a Service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ShownStatus {
    /// Its IP addresses.
    pub addresses: Addresses,
    /// Whether it has other entries too, such as a host name, which another controller must have written.
    pub other_ingress: bool,
}

impl ShownStatus {
    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && !self.other_ingress
    }
}

impl CachedService {
    /// Reads a Service; `None` if it is not and was not a load balancer of our class, as most Services.
    #[must_use]
    pub fn read(object: &v1::Service, class: Option<&str>) -> Option<Self> {
        let no_annotations = BTreeMap::new();
        let annotations = object.metadata.annotations.as_ref().unwrap_or(&no_annotations);
        let spec = object.spec.clone().unwrap_or_default();
        let status = status(object);
        let conditions = object
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref());
        let shown = |type_| ShownCondition::read(conditions.unwrap_or_default(), type_);
        let (address_assigned, announced) = (shown(ADDRESS_ASSIGNED), shown(ANNOUNCED));
        let pool = annotations.get(IP_ALLOCATED_FROM_POOL);
        let old_pool = annotations.get(DEPRECATED_IP_ALLOCATED_FROM_POOL);
        let role = if spec.type_.as_deref() == Some("LoadBalancer") {
            if spec.load_balancer_class.as_deref() == class {
                Role::LoadBalancer(request(&object.metadata, &spec, annotations))
            } else if address_assigned.is_some() || announced.is_some() {
                Role::OtherClass
            } else {
                // It belongs to another controller: its addresses may be that one's own.
                return None;
            }
        } else if pool.is_some()
            || old_pool.is_some()
            || address_assigned.is_some()
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
            labels: CompactLabels::read(metadata.labels.as_ref()),
            role,
            status,
            address_assigned,
            announced,
            pool: pool.or(old_pool).cloned(),
            deprecated_pool: old_pool.is_some(),
            deprecated: deprecated_keys(annotations).collect(),
        })
    }
}

impl CachedService {
    /// Whether the object itself shows that its addresses were in no pool before: our condition says so, or MetalLB
    /// assigned them from a pool that does not exist, and we have never handled the Service.
    #[must_use]
    pub fn had_address_outside_pools(&self, pool_exists: impl Fn(&str) -> bool) -> bool {
        match (self.address_assigned, &self.pool) {
            (Some(shown), _) => shown.is_outside_pools(),
            (None, Some(pools)) => !pools.split(',').any(|pool| pool_exists(pool.trim())),
            (None, None) => false,
        }
    }

    /// Whether its status is that of another controller: it has entries that we do not write, and we and MetalLB have
    /// never handled it.
    #[must_use]
    pub fn has_foreign_status(&self) -> bool {
        self.status.other_ingress && self.address_assigned.is_none() && self.pool.is_none()
    }
}

fn status(object: &v1::Service) -> ShownStatus {
    let balancer = object
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer
        .and_then(|balancer| balancer.ingress.as_deref())
        .unwrap_or_default();
    let mut status = ShownStatus::default();
    for entry in ingress {
        let address = entry.ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
        let added = address.is_some_and(|address| status.addresses.add(address));
        status.other_ingress |= !added || entry.hostname.is_some();
    }
    status
}

/// The sharing properties of a Service by MetalLB's rules. An empty key counts as no key.
fn sharing(
    metadata: &ObjectMeta,
    spec: &v1::ServiceSpec,
    annotations: &BTreeMap<String, String>,
) -> Option<Sharing> {
    let key = ALLOW_SHARED_IP.value(annotations).filter(|key| !key.is_empty())?;
    let port = |port: &v1::ServicePort| {
        let number = u16::try_from(port.port).ok()?;
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some(Port { protocol, number })
    };
    let backend = match spec.external_traffic_policy.as_deref() {
        Some("Local") => endpoint_owner(metadata, spec),
        Some(_) | None => String::new(),
    };
    Some(Sharing {
        key: key.to_owned(),
        ports: spec.ports.iter().flatten().filter_map(port).collect(),
        backend,
    })
}

/// Equal for Services with the same endpoints: a selector selects Pods of its own namespace, and without one the
/// endpoints belong to the Service alone.
fn endpoint_owner(metadata: &ObjectMeta, spec: &v1::ServiceSpec) -> String {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let pairs = spec.selector.iter().flatten();
    let pairs: Vec<_> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() {
        return format!("{namespace}/{}", metadata.name.as_deref().unwrap_or_default());
    }
    format!("{namespace}:{}", pairs.join(","))
}

fn request(
    metadata: &ObjectMeta,
    spec: &v1::ServiceSpec,
    annotations: &BTreeMap<String, String>,
) -> Result<Request, InvalidRequest> {
    let sharing = sharing(metadata, spec, annotations);
    if let Some(sharing) = sharing
        .as_ref()
        .filter(|sharing| sharing.key.len() > SHARING_KEY_LIMIT)
    {
        return Err(InvalidRequest {
            rejection: Rejection::SharingKeyTooLong {
                length: sharing.key.len(),
                limit: SHARING_KEY_LIMIT,
            },
            sharing_mode: SharingMode::Exclusive,
        });
    }
    parse_request(spec, annotations, sharing.clone()).map_err(|rejection| InvalidRequest {
        rejection,
        sharing_mode: sharing.map_or(SharingMode::Exclusive, |sharing| {
            SharingMode::Shared(Box::new(sharing))
        }),
    })
}

fn parse_request(
    spec: &v1::ServiceSpec,
    annotations: &BTreeMap<String, String>,
    sharing: Option<Sharing>,
) -> Result<Request, Rejection> {
    let policy = match spec.ip_family_policy.as_deref() {
        Some("RequireDualStack") => IpFamilyPolicy::RequireDualStack,
        Some("PreferDualStack") => IpFamilyPolicy::PreferDualStack,
        Some(_) | None => IpFamilyPolicy::SingleStack,
    };
    let families = match (&spec.cluster_ips, &spec.cluster_ip) {
        (Some(ips), _) if !ips.is_empty() => Families::of_cluster_ips(ips, policy)?,
        (_, ip) => Families::of_cluster_ips(ip.as_slice(), policy)?,
    };
    let raw = RawRequest {
        addresses: LOAD_BALANCER_IPS
            .find(annotations)
            .map(|found| (found.key, found.value)),
        load_balancer_ip: spec.load_balancer_ip.as_deref().unwrap_or_default(),
        pool: ADDRESS_POOL.value(annotations),
        sharing,
    };
    Request::parse(families, raw)
}
