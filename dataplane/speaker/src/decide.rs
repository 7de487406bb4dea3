//! Decides which nodes are candidates for an address, in which order, and on which interfaces this node would announce it.
//! A pure function: speakers with the same view of the cluster compute the same candidates. The coordinator of lb-l2
//! decides which candidate owns the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_l2::ownership::election::{Election, Rank, order_weighted};
use lb_runtime::ObjectKey;

use crate::interface_selection::InterfaceSelection;
use crate::k8s::index::Index;
use crate::k8s::objects::{Advertisement, Service};
use crate::node_table::{NodeRow, NodeTable};
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
    /// The nodes.
    pub nodes: &'a NodeTable,
}

/// A decision, and the nodes that matter for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decided<'a> {
    /// The decision.
    pub decision: Decision<'a>,
    /// A change of another node that ranks behind this does not change the decision; `None` if every node matters.
    pub horizon: Option<Rank>,
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
    /// With their positions in the index.
    advertisements: Vec<(usize, &'a Advertisement)>,
}

/// Decides about one address.
#[must_use]
pub fn decide<'a>(input: &DecisionInput<'a>, address: IpAddr) -> Decided<'a> {
    let election = Election::new(address);
    let rules = match rules(input.index, address) {
        Ok(rules) => rules,
        Err(None) => {
            let decision = Decision::Unused;
            return Decided {
                decision,
                horizon: None,
            };
        }
        Err(Some(reason)) => {
            let (decision, reporter) = no_candidates(input, &election, reason);
            return Decided {
                decision,
                horizon: reporter,
            };
        }
    };
    let eligible = input
        .nodes
        .iter()
        .filter(|(name, row)| rules.check(name, row).is_ok());
    let mut ranked: Vec<_> = eligible
        .map(|(name, row)| (election.rank(name, row.weight(&rules.preferring)), name))
        .collect();
    if ranked.is_empty() {
        let (decision, _) = no_candidates(input, &election, rules.no_eligible_node(input.nodes));
        return Decided {
            decision,
            horizon: None,
        };
    }
    let mut horizon = None;
    if ranked.len() > MAX_CANDIDATES {
        ranked.select_nth_unstable(MAX_CANDIDATES - 1);
        ranked.truncate(MAX_CANDIDATES);
        horizon = ranked.last().map(|(rank, _)| *rank);
    }
    ranked.sort_unstable();
    let mut order: Vec<_> = ranked.into_iter().map(|(_, name)| name).collect();
    let local = match input.nodes.get(input.local_node) {
        Some(row) => rules.check(input.local_node, row),
        None => Err(Ineligible::NotSelected),
    };
    if local.is_ok() && !order.contains(&input.local_node) {
        order.push(input.local_node);
    }
    let announcement = || announcement(input, &rules).ok_or(Ineligible::NotSelected);
    let local = local.and_then(|()| announcement());
    let decision = Decision::Candidates { order, local };
    Decided { decision, horizon }
}

/// The nodes that may announce the address by configuration, in election order, whether they live or not.
#[must_use]
pub fn voters<'a>(input: &DecisionInput<'a>, address: IpAddr) -> Vec<&'a str> {
    let services = input.index.having(address);
    let services: Vec<_> = services
        .filter_map(|(key, service)| advertised_service(input.index, key, service, address).ok())
        .collect();
    let preferring = preferring(&services);
    let applied = services.iter().flat_map(|service| &service.advertisements);
    let selects = |row: &NodeRow| applied.clone().any(|(position, _)| row.is_selected(*position));
    let may = |row: &NodeRow| row.barred().is_none() && selects(row) && row.runs_speaker();
    let nodes = input.nodes.iter().filter(|(_, row)| may(row));
    order_weighted(address, nodes.map(|(name, row)| (name, row.weight(&preferring))))
}

/// Whether each node is eligible for an address, by name of the node, for people: [`decide`] uses the same rules.
///
/// # Errors
/// Why no Service with the address can be announced by any node; `None` if no Service has it.
pub fn eligibility<'a>(
    input: &DecisionInput<'a>,
    address: IpAddr,
) -> Result<BTreeMap<&'a str, Result<(), Ineligible>>, Option<UnannouncedReason>> {
    let rules = rules(input.index, address)?;
    let nodes = input.nodes.iter();
    Ok(nodes.map(|(name, row)| (name, rules.check(name, row))).collect())
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
        .enumerate()
        .filter(|(_, advertisement)| advertisement.selects_pool(name, pool))
        .collect();
    if advertisements.is_empty() {
        return Err(UnannouncedReason::NoAdvertisement {
            pool: name.to_string(),
        });
    }
    advertisements.retain(|(_, advertisement)| advertisement.selects_service(service));
    if advertisements.is_empty() {
        return Err(UnannouncedReason::ServiceNotSelected {
            pool: name.to_string(),
        });
    }
    // As in MetalLB: one of the Services would be announced by the advertisement of another.
    if service.shared && advertisements.iter().any(|(_, one)| one.has_service_selectors()) {
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

/// The rules of an address, or the first reason why none of its Services can be announced; `None` without Services.
fn rules(index: &Index, address: IpAddr) -> Result<Rules<'_>, Option<UnannouncedReason>> {
    let mut services = Vec::new();
    let mut first_reason = None;
    for (key, service) in index.having(address) {
        match advertised_service(index, key, service, address) {
            Ok(service) => services.push(service),
            Err(reason) => {
                first_reason.get_or_insert(reason);
            }
        }
    }
    if services.is_empty() {
        return Err(first_reason);
    }
    // A shared address has one owner: a node that is eligible for one of its Services is a candidate.
    Ok(Rules {
        index,
        preferring: preferring(&services),
        services,
        holders: index.nodes_with(address).collect(),
    })
}

/// The rules of one address.
struct Rules<'a> {
    index: &'a Index,
    services: Vec<AdvertisedService<'a>>,
    /// The positions of the advertisements that apply and prefer some nodes, each once.
    preferring: Vec<usize>,
    /// The nodes that have the address themselves: gratuitous packets of any other would take it from them.
    holders: Vec<&'a str>,
}

impl Rules<'_> {
    /// Whether a node is eligible for one of the Services; if not, the reason for the first of them.
    fn check(&self, name: &str, row: &NodeRow) -> Result<(), Ineligible> {
        if !self.holders.is_empty() && !self.holders.contains(&name) {
            return Err(Ineligible::AddressOfOtherNode);
        }
        let mut result = Err(Ineligible::NotSelected);
        for (position, service) in self.services.iter().enumerate() {
            let this = self.check_for(service, name, row);
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
    fn check_for(
        &self,
        service: &AdvertisedService<'_>,
        name: &str,
        row: &NodeRow,
    ) -> Result<(), Ineligible> {
        let mut advertisements = service.advertisements.iter();
        if !advertisements.any(|(position, _)| row.is_selected(*position)) {
            return Err(Ineligible::NotSelected);
        }
        if let Some(reason) = row.barred() {
            return Err(reason);
        }
        if service.service.local && !self.index.has_endpoint_on(service.key, name) {
            return Err(Ineligible::NoLocalEndpoint);
        }
        if !row.has_speaker() {
            return Err(Ineligible::NoSpeaker);
        }
        Ok(())
    }

    fn no_eligible_node(&self, table: &NodeTable) -> UnannouncedReason {
        let mut nodes: BTreeMap<_, NodeList> = BTreeMap::new();
        for (name, row) in table.iter() {
            if let Err(reason) = self.check(name, row) {
                nodes.entry(reason).or_default().push(name);
            }
        }
        if self.holders.is_empty() {
            return UnannouncedReason::NoEligibleNode { nodes };
        }
        nodes.remove(&Ineligible::AddressOfOtherNode);
        UnannouncedReason::AddressOfNode { nodes }
    }
}

/// The positions of the advertisements that apply and prefer some nodes, each once.
fn preferring(services: &[AdvertisedService<'_>]) -> Vec<usize> {
    let applied = services.iter().flat_map(|service| &service.advertisements);
    let preferring = applied.filter(|(_, advertisement)| advertisement.has_preferences());
    let mut positions: Vec<_> = preferring.map(|(position, _)| *position).collect();
    positions.sort_unstable();
    positions.dedup();
    positions
}

fn announcement(input: &DecisionInput<'_>, rules: &Rules<'_>) -> Option<Announcement> {
    let row = input.nodes.get(input.local_node)?;
    let announced = rules.services.iter();
    let announced = announced.filter(|service| rules.check_for(service, input.local_node, row).is_ok());
    let mut interfaces = InterfaceSelection::Named(BTreeSet::new());
    let mut uids = Vec::new();
    for service in announced {
        let applied = service.advertisements.iter();
        for (_, advertisement) in applied.filter(|(position, _)| row.is_selected(*position)) {
            interfaces.add(&advertisement.interfaces);
        }
        uids.push((service.key.clone(), service.service.uid.clone()));
    }
    Some(Announcement {
        pool: rules.services.first()?.pool.clone(),
        services: uids.into_iter().collect(),
        interfaces,
    })
}

/// All speakers come to this decision; one of them reports it. Returns its rank too.
fn no_candidates<'a>(
    input: &DecisionInput<'a>,
    election: &Election,
    reason: UnannouncedReason,
) -> (Decision<'a>, Option<Rank>) {
    let alive = input.nodes.iter().filter(|(_, row)| row.has_speaker());
    let reporter = alive.map(|(name, _)| (election.rank(name, 0), name)).min();
    let decision = Decision::NoCandidates {
        reason,
        we_report: reporter.is_none_or(|(_, name)| name == input.local_node),
    };
    (decision, reporter.map(|(rank, _)| rank))
}
