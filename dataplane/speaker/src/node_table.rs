//! The nodes as candidates: the rules that do not depend on the address, evaluated once per change of a node, its speaker or
//! the advertisements. Ten thousand decisions about a thousand nodes read this table.

use std::collections::BTreeMap;

use crate::k8s::index::Index;
use crate::k8s::objects::Node;
use crate::peers::Peers;
use crate::reasons::Ineligible;

/// All nodes by name.
#[derive(Debug)]
pub struct NodeTable {
    ignore_exclude_label: bool,
    rows: BTreeMap<String, NodeRow>,
}

/// One node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NodeRow {
    /// Why the node may not announce any address.
    barred: Option<Ineligible>,
    has_speaker: bool,
    /// Whether a speaker runs on it when it is up.
    runs_speaker: bool,
    /// For each advertisement, by its position in the index: the weight of the node, if it selects the node.
    selected: Box<[Option<u32>]>,
}

/// A changed node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NodeChange {
    pub(crate) name: String,
    /// Whether it was or is a candidate for an address, or votes about it.
    pub(crate) candidate: bool,
    /// The greatest weight that it had or has for an address.
    pub(crate) max_weight: u32,
    /// Whether its speaker came or went.
    pub(crate) speaker_changed: bool,
}

impl NodeTable {
    /// A table without nodes.
    #[must_use]
    pub fn new(ignore_exclude_label: bool) -> Self {
        Self {
            ignore_exclude_label,
            rows: BTreeMap::new(),
        }
    }

    /// Evaluates all nodes anew.
    pub fn rebuild(&mut self, index: &Index, peers: &Peers) {
        let row = |(name, node): (&String, &Node)| (name.clone(), self.row(index, peers, name, node));
        self.rows = index.nodes.iter().map(row).collect();
    }

    /// Evaluates one node anew.
    pub(crate) fn update(&mut self, index: &Index, peers: &Peers, name: &str) -> Option<NodeChange> {
        let node = index.nodes.get(name);
        let after = node.map(|node| self.row(index, peers, name, node));
        let before = self.rows.get(name);
        if before == after.as_ref() {
            return None;
        }
        let rows = [before, after.as_ref()].into_iter().flatten();
        let change = NodeChange {
            name: name.to_owned(),
            candidate: rows.clone().any(NodeRow::is_candidate),
            max_weight: rows.map(NodeRow::max_weight).max().unwrap_or_default(),
            speaker_changed: before.is_some_and(|row| row.has_speaker)
                != after.as_ref().is_some_and(|row| row.has_speaker),
        };
        match after {
            Some(row) => self.rows.insert(name.to_owned(), row),
            None => self.rows.remove(name),
        };
        Some(change)
    }

    /// Reads anew which nodes have speakers.
    pub(crate) fn update_speakers(&mut self, peers: &Peers) -> Vec<NodeChange> {
        let mut changes = Vec::new();
        for (name, row) in &mut self.rows {
            let speaker = (peers.has_speaker(name), peers.runs_speaker(name));
            if (row.has_speaker, row.runs_speaker) != speaker {
                (row.has_speaker, row.runs_speaker) = speaker;
                changes.push(NodeChange {
                    name: name.clone(),
                    candidate: row.may_announce(),
                    max_weight: row.max_weight(),
                    speaker_changed: true,
                });
            }
        }
        changes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &NodeRow)> {
        self.rows.iter().map(|(name, row)| (name.as_str(), row))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&NodeRow> {
        self.rows.get(name)
    }

    fn row(&self, index: &Index, peers: &Peers, name: &str, node: &Node) -> NodeRow {
        let barred = if node.excluded() && !self.ignore_exclude_label {
            Some(Ineligible::Excluded)
        } else if node.network_unavailable {
            Some(Ineligible::NetworkUnavailable)
        } else if node.out_of_service {
            Some(Ineligible::OutOfService)
        } else {
            None
        };
        let advertisements = index.advertisements.values();
        NodeRow {
            barred,
            has_speaker: peers.has_speaker(name),
            runs_speaker: peers.runs_speaker(name),
            selected: advertisements
                .map(|one| one.selects_node(node).then(|| one.weight(node)))
                .collect(),
        }
    }
}

impl NodeRow {
    /// Why the node may not announce any address.
    pub(crate) fn barred(&self) -> Option<Ineligible> {
        self.barred
    }

    pub(crate) fn has_speaker(&self) -> bool {
        self.has_speaker
    }

    pub(crate) fn runs_speaker(&self) -> bool {
        self.runs_speaker
    }

    /// Whether the advertisement at this position in the index selects the node.
    pub(crate) fn is_selected(&self, advertisement: usize) -> bool {
        self.selected.get(advertisement).is_some_and(Option::is_some)
    }

    /// The sum of the weights by these advertisements.
    pub(crate) fn weight(&self, advertisements: &[usize]) -> u32 {
        let weights = advertisements
            .iter()
            .filter_map(|position| *self.selected.get(*position)?);
        weights.fold(0, u32::saturating_add)
    }

    fn max_weight(&self) -> u32 {
        self.selected
            .iter()
            .flatten()
            .fold(0, |sum, weight| sum.saturating_add(*weight))
    }

    fn may_announce(&self) -> bool {
        self.barred.is_none() && self.selected.iter().any(Option::is_some)
    }

    fn is_candidate(&self) -> bool {
        self.runs_speaker && self.may_announce()
    }
}
