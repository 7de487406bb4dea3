//! Which nodes may announce an address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_crds::names::{EXCLUDED_ADDRESSES, LABEL_EXCLUDE, STACK};
use lb_speaker::reasons::{Ineligible, UnannouncedReason};
use serde_json::json;

use super::rejected::match_labels;
use super::{Step, Subject};
use crate::cluster::Eligibility;
use crate::docs;
use crate::remedy::{Remedy, annotate, edit, label, patch};
use crate::text::{count, table};

const NAME: &str = "nodes";
/// How many nodes are listed.
const LIMIT: usize = 12;

/// The step if nodes are eligible.
pub(super) fn eligible(eligibility: &Eligibility<'_>, owner: Option<&str>) -> Step {
    let mut rows: Vec<[String; 2]> = Vec::new();
    for (name, number) in eligibility.order.iter().zip(1..) {
        let is_owner = if Some(*name) == owner { ", the owner" } else { "" };
        rows.push([(*name).to_owned(), format!("yes, candidate {number}{is_owner}")]);
    }
    let ineligible = eligibility.ineligible.iter();
    rows.extend(ineligible.map(|(name, reason)| [(*name).to_owned(), format!("no: {reason}")]));
    let text = format!(
        "{} may announce it",
        count(eligibility.order.len(), "node", "nodes")
    );
    Step::ok(NAME, text).with_details(listed(rows))
}

/// The step if no node is.
pub(super) fn ineligible(subject: &Subject<'_>, address: IpAddr, reason: &UnannouncedReason) -> Step {
    let nodes = subject.cluster.nodes_of(address);
    let nodes: BTreeMap<_, _> = nodes
        .into_iter()
        .filter_map(|(name, result)| Some((name, result.err()?)))
        .collect();
    let rows = nodes
        .iter()
        .map(|(name, reason)| [(*name).to_owned(), format!("no: {reason}")]);
    let rows = rows.collect();
    let remedies = remedies(subject, address, reason, &nodes);
    Step::problem(NAME, reason.message(address), docs::NO_ANSWER, remedies).with_details(listed(rows))
}

fn listed(mut rows: Vec<[String; 2]>) -> String {
    let more = rows.len().saturating_sub(LIMIT);
    rows.truncate(LIMIT);
    if more > 0 {
        rows.push([format!("and {more} more"), String::new()]);
    }
    table(11, &["NODE", "MAY ANNOUNCE IT"], &rows)
}

fn remedies(
    subject: &Subject<'_>,
    address: IpAddr,
    reason: &UnannouncedReason,
    nodes: &BTreeMap<&str, Ineligible>,
) -> Vec<Remedy> {
    let namespace = subject.cluster.snapshot.namespace();
    if let UnannouncedReason::AddressOfNode { .. } = reason {
        return excluded(subject, address).into_iter().collect();
    }
    let first = |wanted: Ineligible| {
        let mut found = nodes.iter().filter(|(_, reason)| **reason == wanted);
        found.next().map(|(name, _)| *name)
    };
    let mut remedies = Vec::new();
    if first(Ineligible::NoLocalEndpoint).is_some() {
        let (name, of_service) = (subject.key.name(), subject.key.namespace());
        let change = json!({"spec": {"externalTrafficPolicy": "Cluster"}});
        remedies.push(Remedy::run(
            "let every node forward to the pods; they no longer see the addresses of clients",
            patch("service", name, Some(of_service), &change),
        ));
        remedies.push(Remedy::act(
            "run a pod of the Service on a node that may announce it",
        ));
    }
    if let Some(node) = first(Ineligible::Excluded) {
        remedies.push(Remedy::run(
            format!("let node {node} announce: remove its exclude label"),
            format!("kubectl label node {node} {LABEL_EXCLUDE}-"),
        ));
        let change = json!({"spec": {"speaker": {"ignoreExcludeLabel": true}}});
        remedies.push(Remedy::run(
            "let all nodes with that label announce",
            patch("lbs", STACK, None, &change),
        ));
    }
    if let Some(node) = first(Ineligible::NotSelected) {
        remedies.extend(selected(subject, node));
    }
    if first(Ineligible::NoSpeaker).is_some() {
        remedies.push(Remedy::run(
            "look why the speakers are not ready",
            format!("kubectl get pods -n {namespace} -l component=speaker -o wide"),
        ));
    }
    if let Some(node) = first(Ineligible::OutOfService) {
        remedies.push(Remedy::run(
            format!("if node {node} runs again, remove its taint"),
            format!("kubectl taint nodes {node} node.kubernetes.io/out-of-service-"),
        ));
    }
    if let Some(node) = first(Ineligible::NetworkUnavailable) {
        remedies.push(Remedy::run(
            format!("look at the network plugin of node {node}"),
            format!("kubectl describe node {node}"),
        ));
    }
    remedies
}

/// Makes the advertisements of the pool select a node.
fn selected(subject: &Subject<'_>, node: &str) -> Vec<Remedy> {
    let snapshot = subject.cluster.snapshot;
    let with_selectors = snapshot
        .l2_advertisements
        .iter()
        .filter(|one| snapshot.is_ours(*one) && !one.spec.node_selectors.is_empty());
    let mut remedies = Vec::new();
    for object in with_selectors.take(1) {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if let Some(pairs) = object.spec.node_selectors.iter().find_map(match_labels) {
            remedies.push(Remedy::run(
                format!("label a node as L2Advertisement {name} requires"),
                label("node", node, None, &pairs),
            ));
        }
        remedies.push(Remedy::run(
            format!("change spec.nodeSelectors of L2Advertisement {name}"),
            edit("l2advertisement", name, snapshot.namespace()),
        ));
    }
    remedies
}

/// Excludes an address from its pool; the Service gets another one.
pub(super) fn excluded(subject: &Subject<'_>, address: IpAddr) -> Option<Remedy> {
    let snapshot = subject.cluster.snapshot;
    let pool = subject.cluster.pool_of(subject.key, address)?;
    let object = snapshot
        .pools
        .iter()
        .find(|one| snapshot.is_ours(*one) && one.metadata.name.as_deref() == Some(pool))?;
    let present = object
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(EXCLUDED_ADDRESSES));
    let length = if address.is_ipv4() { 32 } else { 128 };
    let value = match present
        .map(|present| present.trim())
        .filter(|text| !text.is_empty())
    {
        Some(present) => format!("'{present},{address}/{length}'"),
        None => format!("{address}/{length}"),
    };
    Some(Remedy::run(
        "exclude the address from its pool: the Service gets another one",
        annotate(
            "ipaddresspool",
            pool,
            snapshot.namespace(),
            EXCLUDED_ADDRESSES,
            Some(&value),
        ),
    ))
}
