//! The nodes with their speakers.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use lb_crds::names::{SPEAKER, SPEAKER_STATE_PREFIX};
use serde::Serialize;

use crate::cluster::{Cluster, is_component};
use crate::report::Report;
use crate::snapshot::Snapshot;
use crate::snapshot::Unread;
use crate::text::table;

/// Whether the condition `Ready` of a pod is True.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let mut conditions = status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|one| one.type_ == "Ready" && one.status == "True")
}

/// The node of a pod.
fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// The version in the image of a pod.
pub(crate) fn version(pod: &Pod) -> Option<&str> {
    let image = pod.spec.as_ref()?.containers.first()?.image.as_deref()?;
    let (_, tag) = image.split('@').next()?.rsplit_once(':')?;
    (!tag.contains('/')).then_some(tag)
}

/// The nodes that do not receive heartbeats of others, with those others. Of nodes that exist.
pub(crate) fn unheard(snapshot: &Snapshot) -> BTreeMap<String, Vec<String>> {
    let names: BTreeSet<_> = snapshot
        .nodes
        .iter()
        .filter_map(|node| node.metadata.name.as_deref())
        .collect();
    let states = snapshot.states.iter().filter_map(|state| {
        let node = state
            .metadata
            .name
            .as_deref()?
            .strip_prefix(SPEAKER_STATE_PREFIX)?;
        let unheard = state.status.as_ref()?.unheard_peers.clone();
        (names.contains(node) && !unheard.is_empty()).then(|| (node.to_owned(), unheard))
    });
    states.collect()
}

/// All nodes.
#[derive(Debug, Serialize)]
pub(crate) struct Nodes {
    nodes: Vec<NodeRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<Unread>,
}

/// A node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeRow {
    name: String,
    /// `ready`, `not ready` or `none`.
    speaker: &'static str,
    version: Option<String>,
    /// Addresses that it announces.
    addresses: usize,
    /// Peers whose heartbeats it does not receive.
    unheard_peers: Vec<String>,
    /// Why it announces nothing or little.
    notes: Vec<String>,
}

/// Reads the nodes.
pub(crate) fn nodes(cluster: &Cluster<'_>) -> Nodes {
    let snapshot = cluster.snapshot;
    let unheard = unheard(snapshot);
    let mut owned: BTreeMap<&str, usize> = BTreeMap::new();
    for status in cluster.index.statuses.values() {
        *owned.entry(&status.node).or_default() += 1;
    }
    let row = |(name, node): (&String, &lb_speaker::k8s::objects::Node)| {
        let pods = snapshot.pods.iter().filter(|pod| is_component(pod, SPEAKER));
        let pods: Vec<_> = pods.filter(|pod| node_of(pod) == Some(name)).collect();
        let speaker = match pods.as_slice() {
            [] => "none",
            pods if pods.iter().any(|pod| is_ready(pod)) => "ready",
            _ => "not ready",
        };
        let mut notes = Vec::new();
        if node.excluded() && !cluster.ignore_exclude_label {
            notes.push("excluded by label".to_owned());
        }
        if node.draining {
            notes.push("cordoned".to_owned());
        }
        if node.out_of_service {
            notes.push("out of service".to_owned());
        }
        if node.network_unavailable {
            notes.push("network unavailable".to_owned());
        }
        if !node.ready {
            notes.push("node not ready".to_owned());
        }
        NodeRow {
            name: name.clone(),
            speaker,
            version: pods.first().and_then(|pod| version(pod)).map(str::to_owned),
            addresses: owned.get(name.as_str()).copied().unwrap_or_default(),
            unheard_peers: unheard.get(name).cloned().unwrap_or_default(),
            notes,
        }
    };
    Nodes {
        nodes: cluster.index.nodes.iter().map(row).collect(),
        unread: snapshot.unread.clone(),
    }
}

impl Report for Nodes {
    fn text(&self, _wide: bool) -> String {
        let rows: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let mut notes = node.notes.clone();
                if !node.unheard_peers.is_empty() {
                    notes.push(format!("no heartbeats from {}", node.unheard_peers.join(", ")));
                }
                [
                    node.name.clone(),
                    node.speaker.to_owned(),
                    node.version.clone().unwrap_or_else(|| "-".to_owned()),
                    node.addresses.to_string(),
                    notes.join("; "),
                ]
            })
            .collect();
        let headers = ["NODE", "SPEAKER", "VERSION", "ADDRESSES", "NOTE"];
        table(0, &headers, &rows) + &crate::report::unread_text(&self.unread)
    }

    fn has_problems(&self) -> bool {
        self.nodes.iter().any(|node| node.speaker == "not ready")
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}
