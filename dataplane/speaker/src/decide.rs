//! Which nodes may announce an address, in which order, and on which interfaces we would. A pure function of what is known:
//! every speaker that knows the same comes to the same candidates. Which of them does is the coordinator's to say.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use lb_l2::ownership::election;
use lb_runtime::ObjectKey;

use crate::interface_selection::InterfaceSelection;
use crate::k8s::index::Index;
use crate::k8s::objects::{Advertisement, Node, Service};
use crate::peers::Peers;
use crate::reasons::{Ineligible, Reason};
use crate::small_map::SmallMap;

/// The longest order that is made: one address does not lose so many nodes at the same time.
pub const MAX_CANDIDATES: usize = 16;

/// What a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Name of our Node.
    pub me: &'a str,
    /// The state of the cluster.
    pub index: &'a Index,
    /// Which nodes have speakers.
    pub peers: &'a Peers,
    /// Whether the exclude label of nodes has no meaning.
    pub ignore_exclude_label: bool,
}

/// Who may announce an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision<'a> {
    /// These nodes may.
    Candidates {
        /// In the order in which they would: the first [`MAX_CANDIDATES`], and we ourselves if we may.
        order: Vec<&'a str>,
        /// What we would announce, or what stands against us.
        mine: Result<Announcement, Ineligible>,
    },
    /// Nobody may.
    Nobody {
        /// Why.
        reason: Reason,
        /// Whether it is ours to tell: we would be first in the order if nothing stood against anybody.
        ours_to_tell: bool,
    },
    /// No Service has the address.
    Unused,
}

/// What we announce.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announcement {
    /// The pool that the address is from.
    pub pool: Arc<str>,
    /// The Services behind it, with their uids: several when they share it.
    pub services: SmallMap<ObjectKey, Arc<str>>,
    /// Where.
    pub interfaces: InterfaceSelection,
}

/// What concerns one Service in the election of its address.
struct Claim<'a> {
    key: &'a ObjectKey,
    service: &'a Service,
    pool: &'a Arc<str>,
    advertisements: Vec<&'a Advertisement>,
}

/// Decides about one address.
#[must_use]
pub fn decide<'a>(view: &View<'a>, address: IpAddr) -> Decision<'a> {
    let mut claims = Vec::new();
    let mut reason = None;
    for (key, service) in view.index.having(address) {
        match claim(view.index, key, service, address) {
            Ok(claim) => claims.push(claim),
            Err(why) => {
                reason.get_or_insert(why);
            }
        }
    }
    if claims.is_empty() {
        return match reason {
            Some(reason) => nobody(view, address, reason),
            None => Decision::Unused,
        };
    }
    // The address has one owner, whoever shares it: a node that may announce it for one Service is a candidate.
    let mut because = BTreeSet::new();
    let mut candidates = Vec::new();
    let mut mine = Err(Ineligible::NotSelected);
    for (name, node) in &view.index.nodes {
        let result = eligible(view, &claims, name, node);
        match result {
            Ok(()) => candidates.push(name.as_str()),
            Err(why) => {
                because.insert(why);
            }
        }
        if name == view.me {
            mine = result;
        }
    }
    let mut order = election::order(address, candidates);
    if order.is_empty() {
        return nobody(view, address, Reason::NoNode { because });
    }
    if order.len() > MAX_CANDIDATES {
        let us = order.drain(MAX_CANDIDATES..).find(|name| *name == view.me);
        order.extend(us);
    }
    let mine = mine.and_then(|()| announcement(view, &claims).ok_or(Ineligible::NotSelected));
    Decision::Candidates { order, mine }
}

/// What has to hold whichever node announces: a pool, an advertisement of it for this Service, and an endpoint.
fn claim<'a>(
    index: &'a Index,
    key: &'a ObjectKey,
    service: &'a Service,
    address: IpAddr,
) -> Result<Claim<'a>, Reason> {
    let (name, pool) = index.pool_of(service, address).ok_or(Reason::NoPool)?;
    let mut advertisements: Vec<_> = index
        .advertisements
        .values()
        .filter(|advertisement| advertisement.chooses_pool(name, pool))
        .collect();
    if advertisements.is_empty() {
        return Err(Reason::NoAdvertisement {
            pool: name.to_string(),
        });
    }
    advertisements.retain(|advertisement| advertisement.chooses_service(service));
    if advertisements.is_empty() {
        return Err(Reason::ServiceNotSelected {
            pool: name.to_string(),
        });
    }
    if !index.has_endpoint(key) {
        return Err(Reason::NoEndpoint);
    }
    Ok(Claim {
        key,
        service,
        pool: name,
        advertisements,
    })
}

/// Whether a node may announce for one of the Services; if not, what stands against it for the first of them.
fn eligible(view: &View<'_>, claims: &[Claim<'_>], name: &str, node: &Node) -> Result<(), Ineligible> {
    let mut result = Err(Ineligible::NotSelected);
    for (position, claim) in claims.iter().enumerate() {
        let this = eligible_for(view, claim, name, node);
        if this.is_ok() {
            return this;
        }
        if position == 0 {
            result = this;
        }
    }
    result
}

/// The rules of MetalLB, in the order in which a user would look for the cause, and one of our own: a node that is said to
/// be switched off. Whether the node is ready has no meaning, and what interfaces it has it tells the others itself.
fn eligible_for(view: &View<'_>, claim: &Claim<'_>, name: &str, node: &Node) -> Result<(), Ineligible> {
    if !claim
        .advertisements
        .iter()
        .any(|advertisement| advertisement.chooses_node(node))
    {
        return Err(Ineligible::NotSelected);
    }
    if node.excluded() && !view.ignore_exclude_label {
        return Err(Ineligible::Excluded);
    }
    if node.network_unavailable {
        return Err(Ineligible::NetworkUnavailable);
    }
    if node.out_of_service {
        return Err(Ineligible::OutOfService);
    }
    if claim.service.local && !view.index.has_endpoint_on(claim.key, name) {
        return Err(Ineligible::NoLocalEndpoint);
    }
    if !view.peers.has_speaker(name) {
        return Err(Ineligible::NoSpeaker);
    }
    Ok(())
}

fn announcement(view: &View<'_>, claims: &[Claim<'_>]) -> Option<Announcement> {
    let node = view.index.nodes.get(view.me)?;
    let ours = claims
        .iter()
        .filter(|claim| eligible_for(view, claim, view.me, node).is_ok());
    let mut interfaces = InterfaceSelection::Named(BTreeSet::new());
    let mut services = Vec::new();
    for claim in ours {
        for advertisement in claim.advertisements.iter().filter(|one| one.chooses_node(node)) {
            interfaces.add(&advertisement.interfaces);
        }
        services.push((claim.key.clone(), claim.service.uid.clone()));
    }
    Some(Announcement {
        pool: claims.first()?.pool.clone(),
        services: services.into_iter().collect(),
        interfaces,
    })
}

/// All speakers see it; one tells.
fn nobody<'a>(view: &View<'a>, address: IpAddr, reason: Reason) -> Decision<'a> {
    let alive = view
        .index
        .nodes
        .keys()
        .filter(|name| view.peers.has_speaker(name));
    let teller = election::owner(address, alive.map(String::as_str));
    Decision::Nobody {
        reason,
        ours_to_tell: teller.is_none_or(|teller| teller == view.me),
    }
}
