//! Decides which prefixes this node announces for a Service, and by which advertisements: a pure function. Every node decides
//! for itself; there is no owner and no election. The node's condition `Ready` does not matter.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use lb_bgp::table::AdvertisementId;
use lb_crds::AddressRange;
use lb_runtime::ObjectKey;

use crate::bgp::configuration::{ActiveAdvertisement, ActiveAdvertisements};
use crate::k8s::index::Index;
use crate::k8s::objects::{Pool, Service};

/// The input of a decision.
#[derive(Clone, Copy, Debug)]
pub struct DecisionInput<'a> {
    /// Name of this node.
    pub local_node: &'a str,
    /// Whether the exclude label of nodes is ignored.
    pub ignore_exclude_label: bool,
    /// Whether the node counts as one that leaves; before, it announces although it is excluded or out of service.
    pub has_left: bool,
    /// The state of the cluster.
    pub index: &'a Index,
    /// The advertisements that are in force.
    pub advertisements: &'a ActiveAdvertisements,
}

/// The prefixes of a Service, each with an advertisement that announces it.
pub type Routes = BTreeSet<(IpNet, AdvertisementId)>;

/// Why this node does not announce a Service: the first reason that holds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum NotAnnounced {
    /// No pool contains all its addresses.
    NoPool,
    /// No advertisement of the pool selects this node and the Service.
    NoAdvertisement,
    /// The node's condition `NetworkUnavailable` is `True`.
    NetworkUnavailable,
    /// The node has the exclude label.
    Excluded,
    /// The node has the taint `node.kubernetes.io/out-of-service`.
    OutOfService,
    /// The node is cordoned, and cordoned nodes withdraw.
    Cordoned,
    /// `externalTrafficPolicy: Local`, and no endpoint on this node can serve.
    NoLocalEndpoint,
    /// No endpoint can serve.
    NoEndpoint,
}

/// Decides about one Service.
///
/// # Errors
/// Why nothing is announced.
pub fn decide(input: &DecisionInput<'_>, key: &ObjectKey, service: &Service) -> Result<Routes, NotAnnounced> {
    let index = input.index;
    let (pool_name, pool) = pool_of(index, service).ok_or(NotAnnounced::NoPool)?;
    let node = index
        .nodes
        .get(input.local_node)
        .ok_or(NotAnnounced::NoAdvertisement)?;
    let selected = input.advertisements.iter().filter(|(_, one)| {
        let advertisement = &one.advertisement;
        advertisement.selects_pool(pool_name, pool)
            && advertisement.selects_node(node)
            && advertisement.selects_service(service)
            && may_aggregate(one, pool)
    });
    let mut routes = Routes::new();
    for (id, one) in selected {
        let prefixes = service
            .addresses
            .iter()
            .filter_map(|address| prefix(one, *address));
        routes.extend(prefixes.map(|prefix| (prefix, *id)));
    }
    if routes.is_empty() {
        Err(NotAnnounced::NoAdvertisement)
    } else if node.network_unavailable {
        Err(NotAnnounced::NetworkUnavailable)
    } else if input.has_left && node.excluded() && !input.ignore_exclude_label {
        Err(NotAnnounced::Excluded)
    } else if input.has_left && node.out_of_service {
        Err(NotAnnounced::OutOfService)
    } else if input.has_left {
        Err(NotAnnounced::Cordoned)
    } else if service.local && !index.has_endpoint_on(key, input.local_node) {
        Err(NotAnnounced::NoLocalEndpoint)
    } else if !index.has_endpoint(key) {
        Err(NotAnnounced::NoEndpoint)
    } else {
        Ok(routes)
    }
}

/// Whether an advertisement is for a Service with this address, on any node.
#[must_use]
pub fn is_selected(index: &Index, advertisements: &ActiveAdvertisements, address: IpAddr) -> bool {
    let selects = |service: &Service| {
        pool_of(index, service).is_some_and(|(name, pool)| {
            advertisements.values().any(|one| {
                let advertisement = &one.advertisement;
                advertisement.selects_pool(name, pool) && advertisement.selects_service(service)
            })
        })
    };
    !advertisements.is_empty() && index.having(address).any(|(_, service)| selects(service))
}

/// The pool that contains all addresses of the Service: the one that the controller noted, otherwise the first by name.
fn pool_of<'a>(index: &'a Index, service: &Service) -> Option<(&'a str, &'a Pool)> {
    let has_all = |pool: &Pool| service.addresses.iter().all(|address| pool.contains(*address));
    let noted = service
        .pool
        .as_ref()
        .and_then(|name| index.pools.get_key_value(name));
    let (name, pool) = noted
        .filter(|(_, pool)| has_all(pool))
        .or_else(|| index.pools.iter().find(|(_, pool)| has_all(pool)))?;
    Some((name, pool))
}

/// The announced prefix of an address.
fn prefix(advertisement: &ActiveAdvertisement, address: IpAddr) -> Option<IpNet> {
    let length = match address {
        IpAddr::V4(_) => advertisement.advertisement.ipv4_length,
        IpAddr::V6(_) => advertisement.advertisement.ipv6_length,
    };
    Some(IpNet::new(address, length).ok()?.trunc())
}

/// Whether no prefix is shorter than a CIDR of the pool: otherwise foreign addresses would be announced.
fn may_aggregate(advertisement: &ActiveAdvertisement, pool: &Pool) -> bool {
    let (ipv4, ipv6) = (
        advertisement.advertisement.ipv4_length,
        advertisement.advertisement.ipv6_length,
    );
    pool.ranges.iter().all(|range| {
        let length = if range.is_ipv4() { ipv4 } else { ipv6 };
        length >= shortest_prefix(*range, length)
    })
}

/// The length of the greatest CIDR in a range, at most the given one.
fn shortest_prefix(range: AddressRange, at_most: u8) -> u8 {
    let shortest = match (range.first(), range.last()) {
        // Every range contains single addresses.
        (IpAddr::V4(_), _) if at_most == 32 => None,
        (IpAddr::V6(_), _) if at_most == 128 => None,
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Ipv4Subnets::new(first, last, 0).map(|net| net.prefix_len()).min()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Ipv6Subnets::new(first, last, 0).map(|net| net.prefix_len()).min()
        }
        // Not constructible.
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    };
    shortest.unwrap_or(at_most)
}
