//! The remembered decisions: each address is decided once per change that can affect it.
//!
//! A change of a Service, of its endpoints or of an address of a node affects single addresses; a pool or an advertisement
//! affects all. A changed node affects the addresses for which it ranks before the last candidate that counts
//! ([`Decided::horizon`]): of 10,000 addresses in a cluster of 1,000 nodes about 160.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_l2::ownership::election::{Election, Rank};

use crate::decide::Announcement;
#[cfg(doc)]
use crate::decide::Decided;
use crate::k8s::index::{Affected, Index};
use crate::node_table::{NodeChange, NodeTable};
use crate::peers::Peers;
use crate::reasons::{Ineligible, UnannouncedReason};

/// With more changed nodes than this, all addresses are decided again.
const MAX_SINGLE_CHANGES: usize = 32;

/// The part of a decision that this node needs later.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// This node is a candidate.
    Eligible(Arc<Announcement>),
    /// Other nodes are candidates, and this one is not.
    Ineligible(Ineligible),
    /// There is no candidate.
    NoCandidates(UnannouncedReason),
}

/// A remembered decision.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Known {
    pub(crate) outcome: Outcome,
    /// Nodes that rank behind it do not matter; `None` if every node matters.
    pub(crate) horizon: Option<Rank>,
    /// This node is the first candidate.
    pub(crate) is_first: bool,
    /// This node is a candidate and has no interface for the address.
    pub(crate) no_interface: bool,
}

/// The decisions about all addresses of Services.
#[derive(Debug)]
pub(crate) struct Decisions {
    local_node: String,
    nodes: NodeTable,
    known: BTreeMap<IpAddr, Known>,
    dirty: BTreeSet<IpAddr>,
    /// Nodes to evaluate again.
    stale_nodes: BTreeSet<String>,
    speakers_stale: bool,
    /// All nodes have to be evaluated again.
    stale: bool,
}

impl Decisions {
    pub(crate) fn new(local_node: &str, ignore_exclude_label: bool) -> Self {
        Self {
            local_node: local_node.to_owned(),
            nodes: NodeTable::new(ignore_exclude_label),
            known: BTreeMap::new(),
            dirty: BTreeSet::new(),
            stale_nodes: BTreeSet::new(),
            speakers_stale: false,
            stale: true,
        }
    }

    /// The nodes as of the last [`refresh`](Self::refresh).
    pub(crate) fn nodes(&self) -> &NodeTable {
        &self.nodes
    }

    pub(crate) fn get(&self, address: IpAddr) -> Option<&Known> {
        self.known.get(&address)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, &Known)> {
        self.known.iter().map(|(address, known)| (*address, known))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (IpAddr, &mut Known)> {
        self.known.iter_mut().map(|(address, known)| (*address, known))
    }

    /// Remembers a decision; `None` if no Service has the address.
    pub(crate) fn remember(&mut self, address: IpAddr, known: Option<Known>) {
        match known {
            Some(known) => self.known.insert(address, known),
            None => self.known.remove(&address),
        };
    }

    /// Notes what an update of the index affects.
    pub(crate) fn note(&mut self, affected: &Affected) {
        self.stale |= affected.all_addresses;
        self.stale_nodes.extend(affected.node.clone());
        self.dirty.extend(&affected.addresses);
    }

    /// Notes that a speaker may have come or gone.
    pub(crate) fn speakers_changed(&mut self) {
        self.speakers_stale = true;
    }

    /// Whether [`refresh`](Self::refresh) or a decision is due.
    pub(crate) fn is_pending(&self) -> bool {
        self.stale || self.speakers_stale || !self.stale_nodes.is_empty() || !self.dirty.is_empty()
    }

    /// Evaluates the changed nodes, and marks the addresses that they affect.
    pub(crate) fn refresh(&mut self, index: &Index, peers: &Peers) {
        let stale_nodes = std::mem::take(&mut self.stale_nodes);
        let speakers_stale = std::mem::take(&mut self.speakers_stale);
        if std::mem::take(&mut self.stale) {
            self.nodes.rebuild(index, peers);
            return self.mark_all(index);
        }
        let mut changes: Vec<_> = stale_nodes
            .iter()
            .filter_map(|name| self.nodes.update(index, peers, name))
            .collect();
        if speakers_stale {
            changes.extend(self.nodes.update_speakers(peers));
        }
        if changes.is_empty() {
            return;
        }
        let is_local = |change: &NodeChange| change.name == self.local_node;
        if changes.len() > MAX_SINGLE_CHANGES || changes.iter().any(is_local) {
            return self.mark_all(index);
        }
        for (address, known) in &self.known {
            let election = Election::new(*address);
            if changes.iter().any(|change| known.is_affected(&election, change)) {
                self.dirty.insert(*address);
            }
        }
    }

    /// The next address to decide.
    pub(crate) fn pop_dirty(&mut self) -> Option<IpAddr> {
        self.dirty.pop_first()
    }

    fn mark_all(&mut self, index: &Index) {
        self.dirty.extend(index.addresses());
        // They may have lost their Services.
        self.dirty.extend(self.known.keys());
    }
}

impl Known {
    pub(crate) fn no_candidates(reason: UnannouncedReason, horizon: Option<Rank>) -> Self {
        Self {
            outcome: Outcome::NoCandidates(reason),
            horizon,
            is_first: false,
            no_interface: false,
        }
    }

    /// Whether the change of another node may change the decision.
    fn is_affected(&self, election: &Election, change: &NodeChange) -> bool {
        let concerns = match &self.outcome {
            Outcome::Eligible(_) | Outcome::Ineligible(_) => change.candidate,
            // One of the nodes with a speaker reports the reason, and some reasons name the nodes.
            Outcome::NoCandidates(_) => self.horizon.is_none() || change.speaker_changed,
        };
        let rank = || match &self.outcome {
            Outcome::Eligible(_) | Outcome::Ineligible(_) => election.rank(&change.name, change.max_weight),
            Outcome::NoCandidates(_) => election.rank(&change.name, 0),
        };
        concerns && self.horizon.is_none_or(|horizon| rank() <= horizon)
    }
}

#[cfg(test)]
#[path = "decisions_tests.rs"]
mod tests;
