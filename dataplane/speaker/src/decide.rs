//! Decides which nodes are candidates for an address, in which order, and on which interfaces this node would announce it.
//! A pure function: speakers with the same view of the cluster compute the same candidates. The coordinator of lb-l2
//! decides which candidate owns the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_l2::ownership::election;
use lb_runtime::ObjectKey;

use crate::interface_selection::InterfaceSelection;
use crate::k8s::index::Index;
use crate::k8s::objects::{Advertisement, Node, Service};
use crate::peers::Peers;
use crate::reasons::{Ineligible, NodeList, UnannouncedReason};
use crate::small_map::SmallMap;

/// The maximum length of an election order: an address does not lose that many nodes at the same time.
pub const MAX_CANDIDATES: usize = 16;

/// The input of a decision.
#[derive(Clone, Copy, Debug)]
pub struct DecisionInput<'a> {
    /// Name of this node.
    pub local_node: &'a str,
    /// The state of the cluster.
    pub index: &'a Index,
    /// Which nodes have speakers.
    pub peers: &'a Peers,
    /// Whether the exclude label of nodes is ignored.
    pub ignore_exclude_label: bool,
}

/// The candidates for an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision<'a> {
    /// At least one node is eligible.
    Candidates {
        /// The election order: the first [`MAX_CANDIDATES`], and this node if it is eligible.
        order: Vec<&'a str>,
        /// The announcement of this node, or why it is not eligible.
        local: Result<Announcement, Ineligible>,
    },
    /// No node can announce the address.
    NoCandidates {
        /// Why.
        reason: UnannouncedReason,
        /// Whether this node reports the reason: it is first in the order of all nodes with a speaker.
        we_report: bool,
    },
    /// No Service has the address.
    Unused,
}

/// How this node announces an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announcement {
    /// The pool that contains the address.
    pub pool: Arc<str>,
    /// The Services that have the address, with their uids: several if they share it.
    pub services: SmallMap<ObjectKey, Arc<str>>,
    /// The interfaces to announce on.
    pub interfaces: InterfaceSelection,
}

/// A Service that has the address and can be announced, with the advertisements that apply to it.
struct AdvertisedService<'a> {
    key: &'a ObjectKey,
    service: &'a Service,
    pool: &'a Arc<str>,
    advertisements: Vec<&'a Advertisement>,
}

/// Decides about one address.
#[must_use]
pub fn decide<'a>(input: &DecisionInput<'a>, address: IpAddr) -> Decision<'a> {
    let mut services = Vec::new();
    let mut first_reason = None;
    for (key, service) in input.index.having(address) {
        match advertised_service(input.index, key, service, address) {
            Ok(service) => services.push(service),
            Err(reason) => {
                first_reason.get_or_insert(reason);
            }
        }
    }
    if services.is_empty() {
        return match first_reason {
            Some(reason) => no_candidates(input, address, reason),
            None => Decision::Unused,
        };
    }
    // A shared address has one owner: a node that is eligible for one of its Services is a candidate.
    let mut ineligible: BTreeMap<_, NodeList> = BTreeMap::new();
    let mut candidates = Vec::new();
    let mut local = Err(Ineligible::NotSelected);
    let preferring = preferring(&services);
    let weight = |node| {
        preferring
            .iter()
            .fold(0, |sum: u32, one| sum.saturating_add(one.weight(node)))
    };
    // Gratuitous packets of any other node would take the address from the nodes that have it.
    let holders: BTreeSet<_> = input.index.nodes_with(address).collect();
    for (name, node) in &input.index.nodes {
        let result = if holders.is_empty() || holders.contains(name.as_str()) {
            eligible(input, &services, name, node)
        } else {
            Err(Ineligible::AddressOfOtherNode)
        };
        match result {
            Ok(()) => candidates.push((name.as_str(), weight(node))),
            Err(reason) => ineligible.entry(reason).or_default().push(name),
        }
        if name == input.local_node {
            local = result;
        }
    }
    let mut order = election::order_weighted(address, candidates);
    if order.is_empty() {
        let reason = if holders.is_empty() {
            UnannouncedReason::NoEligibleNode { nodes: ineligible }
        } else {
            ineligible.remove(&Ineligible::AddressOfOtherNode);
            UnannouncedReason::AddressOfNode { nodes: ineligible }
        };
        return no_candidates(input, address, reason);
    }
    if order.len() > MAX_CANDIDATES {
        let local_node = order
            .drain(MAX_CANDIDATES..)
            .find(|name| *name == input.local_node);
        order.extend(local_node);
    }
    let local = local.and_then(|()| announcement(input, &services).ok_or(Ineligible::NotSelected));
    Decision::Candidates { order, local }
}

/// The conditions that do not depend on the node: a pool, an advertisement of it for this Service, and an endpoint.
fn advertised_service<'a>(
    index: &'a Index,
    key: &'a ObjectKey,
    service: &'a Service,
    address: IpAddr,
) -> Result<AdvertisedService<'a>, UnannouncedReason> {
    let (name, pool) = index.pool_of(service, address).ok_or(UnannouncedReason::NoPool)?;
    let mut advertisements: Vec<_> = index
        .advertisements
        .values()
        .filter(|advertisement| advertisement.selects_pool(name, pool))
        .collect();
    if advertisements.is_empty() {
        return Err(UnannouncedReason::NoAdvertisement {
            pool: name.to_string(),
        });
    }
    advertisements.retain(|advertisement| advertisement.selects_service(service));
    if advertisements.is_empty() {
        return Err(UnannouncedReason::ServiceNotSelected {
            pool: name.to_string(),
        });
    }
    // As in MetalLB: one of the Services would be announced by the advertisement of another.
    if service.shared && advertisements.iter().any(|one| one.has_service_selectors()) {
        return Err(UnannouncedReason::SharedWithServiceSelectors {
            pool: name.to_string(),
        });
    }
    if !index.has_endpoint(key) {
        return Err(UnannouncedReason::NoEndpoint);
    }
    Ok(AdvertisedService {
        key,
        service,
        pool: name,
        advertisements,
    })
}

/// Whether a node is eligible for one of the Services; if not, the reason for the first of them.
fn eligible(
    input: &DecisionInput<'_>,
    services: &[AdvertisedService<'_>],
    name: &str,
    node: &Node,
) -> Result<(), Ineligible> {
    let mut result = Err(Ineligible::NotSelected);
    for (position, service) in services.iter().enumerate() {
        let this = eligible_for(input, service, name, node);
        if this.is_ok() {
            return this;
        }
        if position == 0 {
            result = this;
        }
    }
    result
}

/// MetalLB's rules, in the order in which a user would look for the cause, and one more: the out-of-service taint. The
/// node's condition `Ready` does not matter, and its interfaces are known to the node alone, which may decline.
fn eligible_for(
    input: &DecisionInput<'_>,
    service: &AdvertisedService<'_>,
    name: &str,
    node: &Node,
) -> Result<(), Ineligible> {
    if !service
        .advertisements
        .iter()
        .any(|advertisement| advertisement.selects_node(node))
    {
        return Err(Ineligible::NotSelected);
    }
    if node.excluded() && !input.ignore_exclude_label {
        return Err(Ineligible::Excluded);
    }
    if node.network_unavailable {
        return Err(Ineligible::NetworkUnavailable);
    }
    if node.out_of_service {
        return Err(Ineligible::OutOfService);
    }
    if service.service.local && !input.index.has_endpoint_on(service.key, name) {
        return Err(Ineligible::NoLocalEndpoint);
    }
    if !input.peers.has_speaker(name) {
        return Err(Ineligible::NoSpeaker);
    }
    Ok(())
}

/// The advertisements that apply and prefer some nodes, each once.
fn preferring<'a>(services: &[AdvertisedService<'a>]) -> Vec<&'a Advertisement> {
    let mut preferring: Vec<&Advertisement> = Vec::new();
    for advertisement in services.iter().flat_map(|service| &service.advertisements) {
        if advertisement.has_preferences() && !preferring.iter().any(|one| std::ptr::eq(*one, *advertisement))
        {
            preferring.push(advertisement);
        }
    }
    preferring
}

fn announcement(input: &DecisionInput<'_>, services: &[AdvertisedService<'_>]) -> Option<Announcement> {
    let node = input.index.nodes.get(input.local_node)?;
    let announced = services
        .iter()
        .filter(|service| eligible_for(input, service, input.local_node, node).is_ok());
    let mut interfaces = InterfaceSelection::Named(BTreeSet::new());
    let mut uids = Vec::new();
    for service in announced {
        for advertisement in service.advertisements.iter().filter(|one| one.selects_node(node)) {
            interfaces.add(&advertisement.interfaces);
        }
        uids.push((service.key.clone(), service.service.uid.clone()));
    }
    Some(Announcement {
        pool: services.first()?.pool.clone(),
        services: uids.into_iter().collect(),
        interfaces,
    })
}

/// All speakers come to this decision; one of them reports it.
fn no_candidates<'a>(input: &DecisionInput<'a>, address: IpAddr, reason: UnannouncedReason) -> Decision<'a> {
    let alive = input
        .index
        .nodes
        .keys()
        .filter(|name| input.peers.has_speaker(name));
    let reporter = election::owner(address, alive.map(String::as_str));
    Decision::NoCandidates {
        reason,
        we_report: reporter.is_none_or(|reporter| reporter == input.local_node),
    }
}
