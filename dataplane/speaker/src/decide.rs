//! Who announces an address, and on which interfaces. A pure function of what is known: every speaker that knows the
//! same comes to the same owner.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_daemon::Key;
use lb_proto::election;
use lb_proto::membership::Membership;

use crate::index::Index;
use crate::interfaces::Interfaces;
use crate::objects::{Advertisement, Node, Service};
use crate::peers::Standing;
use crate::reasons::{Ineligible, Reason};

/// What a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Name of our Node.
    pub me: &'a str,
    /// The state of the cluster.
    pub index: &'a Index,
    /// Which speakers live.
    pub members: &'a Membership,
    /// Whether the other speakers count with ours.
    pub standing: Standing,
    /// Whether the exclude label of nodes has no meaning.
    pub ignore_exclude_label: bool,
}

/// Who announces an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// We do.
    Mine(Announcement),
    /// Another node does.
    Other {
        /// That node.
        owner: String,
        /// What stands against us; none when the owner is only before us in the order.
        ineligible: Option<Ineligible>,
    },
    /// Nobody does.
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
    pub pool: String,
    /// The Services behind it, with their uids: several when they share it.
    pub services: BTreeMap<Key, String>,
    /// Where.
    pub interfaces: Interfaces,
}

/// What concerns one Service in the election of its address.
struct Claim<'a> {
    key: &'a Key,
    service: &'a Service,
    pool: &'a str,
    advertisements: Vec<&'a Advertisement>,
}

/// Decides about one address.
#[must_use]
pub fn decide(view: &View<'_>, address: IpAddr) -> Decision {
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
    let mut others = Vec::new();
    let mut mine = Err(Ineligible::NotSelected);
    for (name, node) in &view.index.nodes {
        let result = eligible(view, &claims, name, node);
        if let Err(why) = result {
            because.insert(why);
        }
        if name == view.me {
            mine = result;
        } else if result.is_ok() {
            others.push(name.as_str());
        }
    }
    if mine.is_ok() && !stands(view, &claims, &others) {
        mine = Err(Ineligible::NoSpeaker);
        because.insert(Ineligible::NoSpeaker);
    }
    let candidates = others.into_iter().chain(mine.is_ok().then_some(view.me));
    match election::owner(address, candidates) {
        None => nobody(view, address, Reason::NoNode { because }),
        Some(owner) if owner == view.me => match announcement(view, &claims) {
            Some(announcement) => Decision::Mine(announcement),
            None => Decision::Unused,
        },
        Some(owner) => Decision::Other {
            owner: owner.to_owned(),
            ineligible: mine.err(),
        },
    }
}

/// Whether our standing with the other speakers makes us a candidate, given who else is one.
fn stands(view: &View<'_>, claims: &[Claim<'_>], others: &[&str]) -> bool {
    match view.standing {
        Standing::Good => true,
        Standing::Joining => claims.iter().any(|claim| {
            view.index
                .statuses_of(claim.key)
                .any(|(_, record)| record.node == view.me)
        }),
        Standing::Lost => others.is_empty(),
    }
}

/// What has to hold whichever node announces: a pool, an advertisement of it for this Service, and an endpoint.
fn claim<'a>(
    index: &'a Index,
    key: &'a Key,
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
            pool: name.to_owned(),
        });
    }
    advertisements.retain(|advertisement| advertisement.chooses_service(service));
    if advertisements.is_empty() {
        return Err(Reason::ServiceNotSelected {
            pool: name.to_owned(),
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

/// The rules of MetalLB, in the order in which a user would look for the cause. Whether the node is ready, cordoned or
/// tainted has no meaning, nor has what interfaces it has: other nodes cannot see that.
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
    if claim.service.local && !view.index.has_endpoint_on(claim.key, name) {
        return Err(Ineligible::NoLocalEndpoint);
    }
    if !view.members.is_candidate(name) {
        return Err(Ineligible::NoSpeaker);
    }
    Ok(())
}

fn announcement(view: &View<'_>, claims: &[Claim<'_>]) -> Option<Announcement> {
    let node = view.index.nodes.get(view.me)?;
    let ours = claims
        .iter()
        .filter(|claim| eligible_for(view, claim, view.me, node).is_ok());
    let mut interfaces = Interfaces::Named(BTreeSet::new());
    let mut services = BTreeMap::new();
    for claim in ours {
        for advertisement in claim.advertisements.iter().filter(|one| one.chooses_node(node)) {
            interfaces.add(&advertisement.interfaces);
        }
        services.insert(claim.key.clone(), claim.service.uid.clone());
    }
    Some(Announcement {
        pool: claims.first()?.pool.to_owned(),
        services,
        interfaces,
    })
}

/// All speakers see it; one tells.
fn nobody(view: &View<'_>, address: IpAddr, reason: Reason) -> Decision {
    let alive = view
        .index
        .nodes
        .keys()
        .filter(|name| view.members.is_candidate(name));
    let teller = election::owner(address, alive.map(String::as_str));
    Decision::Nobody {
        reason,
        ours_to_tell: teller.is_none_or(|teller| teller == view.me),
    }
}
