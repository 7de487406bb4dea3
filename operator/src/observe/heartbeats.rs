//! Nodes between which no heartbeats arrive, as the speakers report it in their ConfigurationStates. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lb_crds::ConfigurationState;
use lb_crds::names::{MAX_UNHEARD_PEERS, SPEAKER_STATE_PREFIX};
use lb_runtime::ObjectKey;
use lb_runtime::text::{LIST_LIMIT, list_first, list_first_clauses};
use lb_runtime::watch::Change;

use crate::desired::render::Component;
use crate::index::Index;
use crate::observe::workload_health::pods_of;

/// The peers that each speaker does not hear, by the ConfigurationState.
#[derive(Clone, Debug, Default)]
pub struct SpeakerReports(BTreeMap<ObjectKey, Vec<String>>);

impl SpeakerReports {
    /// Applies a change of a ConfigurationState. Those that no speaker writes are ignored.
    pub fn apply(&mut self, change: Change<ConfigurationState>) {
        match change {
            Change::Apply(state) => {
                let key = ObjectKey::of(&state);
                let mut peers = state.status.unwrap_or_default().unheard_peers;
                peers.truncate(MAX_UNHEARD_PEERS);
                if peers.is_empty() {
                    self.0.remove(&key);
                } else {
                    self.0.insert(key, peers);
                }
            }
            Change::Delete(key) | Change::Invalid { key, .. } => {
                self.0.remove(&key);
            }
            Change::Listing | Change::Synced => {}
        }
    }

    /// Each node of the namespace with a peer that its speaker does not hear.
    fn pairs<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().flat_map(move |(key, peers)| {
            let node = key.name().strip_prefix(SPEAKER_STATE_PREFIX);
            let node = node.filter(|_| key.namespace() == namespace);
            let peers = node.map(|node| peers.iter().map(move |peer| (node, &**peer)));
            peers.into_iter().flatten()
        })
    }
}

/// Pairs of nodes between which heartbeats do not arrive, in at least one direction. A report counts only while the
/// speakers of both nodes are ready: one that is gone does not correct its report, and one that failed sends nothing.
#[must_use]
pub fn unheard_pairs(index: &Index, namespace: &str) -> BTreeSet<(String, String)> {
    let ready = pods_of(index, namespace, Component::Speaker.name())
        .filter(|(_, pod)| pod.ready && !pod.terminating)
        .map(|(_, pod)| pod.node.as_str())
        .filter(|node| index.nodes().get(*node).is_some_and(|node| node.is_ready()))
        .collect::<BTreeSet<_>>();
    let pairs = index.speaker_reports().pairs(namespace);
    pairs
        .filter(|(node, peer)| node != peer && ready.contains(node) && ready.contains(peer))
        .map(|(node, peer)| (node.min(peer).to_owned(), node.max(peer).to_owned()))
        .collect()
}

/// The pairs in words: `n1 and n3`, or with the node that most have in common first: `n3 and n1, n2`.
#[must_use]
pub fn describe_pairs(pairs: &BTreeSet<(String, String)>) -> String {
    let mut peers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (node, peer) in pairs {
        peers.entry(node).or_default().insert(peer);
        peers.entry(peer).or_default().insert(node);
    }
    let mut groups = Vec::new();
    while let Some(node) = most_common(&peers) {
        let with = peers.remove(node).unwrap_or_default();
        peers.values_mut().for_each(|peers| {
            peers.remove(node);
        });
        groups.push(format!("{node} and {}", list_first(with, LIST_LIMIT)));
    }
    list_first_clauses(groups, LIST_LIMIT)
}

/// The node with the most peers; of several, the first by name.
fn most_common<'a>(peers: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<&'a str> {
    let most = peers.values().map(BTreeSet::len).max().filter(|most| *most > 0)?;
    let node = peers.iter().find(|(_, peers)| peers.len() == most);
    node.map(|(node, _)| *node)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn mk_report(index: &mut Index, node: &str, peers: &[&str]) {
        let state = serde_json::from_value(json!({
            "metadata": {"name": format!("speaker-{node}"), "namespace": "metallb-system"},
            "spec": {},
            "status": {"unheardPeers": peers},
        }));
        index.apply_speaker_report(Change::Apply(state.unwrap()));
    }

    pub(crate) fn mk_speaker_on(index: &mut Index, node: &str, ready: bool) {
        let pod = serde_json::from_value(json!({
            "metadata": {
                "name": format!("speaker-of-{node}"), "namespace": "metallb-system", "labels": {"component": "speaker"},
            },
            "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }));
        index.apply_pod(&pod.unwrap(), jiff::Timestamp::UNIX_EPOCH);
        let node = serde_json::from_value(json!({
            "metadata": {"name": node}, "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }));
        index.apply_node(Change::Apply(node.unwrap()));
    }

    fn pairs(index: &Index) -> String {
        describe_pairs(&unheard_pairs(index, "metallb-system"))
    }

    #[test]
    fn report_names_both_nodes_once() {
        let mut index = Index::default();
        for node in ["n1", "n2", "n3"] {
            mk_speaker_on(&mut index, node, true);
        }
        mk_report(&mut index, "n1", &["n3"]);
        assert_eq!(pairs(&index), "n1 and n3");
        mk_report(&mut index, "n3", &["n1"]);
        assert_eq!(pairs(&index), "n1 and n3");
        mk_report(&mut index, "n3", &["n1", "n2"]);
        assert_eq!(pairs(&index), "n3 and n1, n2");
        mk_report(&mut index, "n3", &[]);
        mk_report(&mut index, "n1", &[]);
        assert_eq!(pairs(&index), "");
    }

    #[test]
    fn report_of_or_about_a_speaker_that_is_gone_does_not_count() {
        let mut index = Index::default();
        for node in ["n1", "n2"] {
            mk_speaker_on(&mut index, node, true);
        }
        // A node that never existed, the node itself, and a speaker that is not ready.
        mk_report(&mut index, "n1", &["n1", "n9", "n2"]);
        mk_report(&mut index, "n8", &["n1"]);
        mk_speaker_on(&mut index, "n2", false);
        assert_eq!(pairs(&index), "");
        mk_speaker_on(&mut index, "n2", true);
        assert_eq!(pairs(&index), "n1 and n2");
        mk_speaker_on(&mut index, "n1", false);
        assert_eq!(pairs(&index), "");
    }

    #[test]
    fn one_blocked_node_among_many_is_named_first() {
        let all: BTreeSet<_> = (0..100)
            .map(|at| (format!("n{at:02}"), "x1".to_owned()))
            .collect();
        assert!(
            describe_pairs(&all).starts_with("x1 and n00, n01"),
            "{}",
            describe_pairs(&all)
        );
        assert!(describe_pairs(&all).len() < 200);
    }
}
