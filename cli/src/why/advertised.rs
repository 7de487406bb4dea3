//! Which advertisements announce the pool of an address.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_crds::L2Advertisement;
use lb_crds::names::ALLOW_SHARED_IP;
use lb_speaker::reasons::UnannouncedReason;
use serde_json::json;

use super::rejected::match_labels;
use super::{Step, Subject};
use crate::docs;
use crate::remedy::{Remedy, annotate, create, edit, label, patch};
use crate::text::table;

const NAME: &str = "advertised";

/// The step, with the reason why no advertisement applies, if none does.
pub(super) fn step(subject: &Subject<'_>, address: IpAddr, missing: Option<&UnannouncedReason>) -> Step {
    let cluster = subject.cluster;
    let pool = cluster.pool_of(subject.key, address).unwrap_or_default();
    let Some(reason) = missing else {
        let names: Vec<_> = selecting(subject, pool).map(|(name, _)| name).collect();
        return Step::ok(NAME, format!("by L2Advertisement {}", names.join(", ")));
    };
    let remedies = match reason {
        UnannouncedReason::NoPool => {
            let remedy = Remedy::run("look at the pools", "kubectl lb pools");
            vec![remedy]
        }
        UnannouncedReason::NoAdvertisement { pool } => no_advertisement(subject, pool),
        UnannouncedReason::ServiceNotSelected { pool } => not_selected(subject, pool),
        UnannouncedReason::SharedWithServiceSelectors { .. } => vec![Remedy::run(
            "do not share the address",
            annotate(
                "service",
                subject.key.name(),
                subject.key.namespace(),
                ALLOW_SHARED_IP.key,
                None,
            ),
        )],
        _ => Vec::new(),
    };
    Step::problem(NAME, reason.message(address), docs::NO_ANSWER, remedies)
        .with_details(advertisements(subject, pool))
}

/// The L2Advertisements of the stack's namespace that select a pool, as the speakers see them.
fn selecting<'a>(
    subject: &Subject<'a>,
    pool: &'a str,
) -> impl Iterator<Item = (&'a str, &'a lb_speaker::k8s::objects::Advertisement)> {
    let index = &subject.cluster.index;
    let object = index.pools.get(pool);
    let all = index.advertisements.iter();
    all.filter(move |(_, one)| object.is_some_and(|object| one.selects_pool(pool, object)))
        .map(|(name, one)| (name.as_str(), one))
}

fn advertisements(subject: &Subject<'_>, pool: &str) -> String {
    let snapshot = subject.cluster.snapshot;
    let index = &subject.cluster.index;
    let row = |object: &L2Advertisement| {
        let name = object.metadata.name.clone().unwrap_or_default();
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let read = index
            .advertisements
            .get(&name)
            .filter(|_| snapshot.is_ours(object));
        let answer = match (read, index.pools.get(pool), index.services.get(subject.key)) {
            (None, ..) => format!("no: it is in namespace {namespace}, and has no effect there"),
            (Some(one), Some(object), Some(service)) if one.selects_pool(pool, object) => {
                match one.selects_service(service) {
                    true => "yes".to_owned(),
                    false => "the pool, but not this Service: see spec.serviceSelectors".to_owned(),
                }
            }
            (Some(_), ..) => format!("no: it does not select pool {pool}"),
        };
        [name, pools_of(object), answer]
    };
    let rows: Vec<_> = snapshot.l2_advertisements.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    table(11, &["L2ADVERTISEMENT", "POOLS", "SELECTS IT"], &rows)
}

/// The pools of an advertisement in few words.
fn pools_of(object: &L2Advertisement) -> String {
    let spec = &object.spec;
    let selectors = spec.ip_address_pool_selectors.iter();
    let selectors = selectors.map(|selector| match match_labels(selector) {
        Some(pairs) => format!("label {}", pairs.join(",")),
        None => "a selector".to_owned(),
    });
    let mut parts = spec.ip_address_pools.clone();
    parts.extend(selectors);
    match parts.is_empty() {
        true => "all".to_owned(),
        false => parts.join(", "),
    }
}

fn no_advertisement(subject: &Subject<'_>, pool: &str) -> Vec<Remedy> {
    let snapshot = subject.cluster.snapshot;
    let namespace = snapshot.namespace();
    let mut remedies = Vec::new();
    let ours = || {
        snapshot
            .l2_advertisements
            .iter()
            .filter(|one| snapshot.is_ours(*one))
    };
    let by_label = |object: &L2Advertisement| {
        let mut selectors = object.spec.ip_address_pool_selectors.iter();
        selectors.find_map(match_labels)
    };
    if let Some(pairs) = ours().find_map(by_label) {
        remedies.push(Remedy::run(
            "label the pool as an L2Advertisement requires",
            label("ipaddresspool", pool, Some(namespace), &pairs),
        ));
    }
    let named = ours().find(|object| !object.spec.ip_address_pools.is_empty());
    if let Some(object) = named {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let mut pools = object.spec.ip_address_pools.clone();
        pools.push(pool.to_owned());
        let change = json!({"spec": {"ipAddressPools": pools}});
        remedies.push(Remedy::run(
            format!("add the pool to L2Advertisement {name}"),
            patch("l2advertisement", name, Some(namespace), &change),
        ));
    }
    remedies.push(Remedy::run(
        "create an L2Advertisement for the pool",
        create(&json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "L2Advertisement",
            "metadata": {"name": pool, "namespace": namespace},
            "spec": {"ipAddressPools": [pool]},
        })),
    ));
    remedies
}

fn not_selected(subject: &Subject<'_>, pool: &str) -> Vec<Remedy> {
    let snapshot = subject.cluster.snapshot;
    let names: Vec<_> = selecting(subject, pool).map(|(name, _)| name).collect();
    let objects = snapshot.l2_advertisements.iter();
    let objects: Vec<_> = objects
        .filter(|one| snapshot.is_ours(*one))
        .filter(|one| names.contains(&one.metadata.name.as_deref().unwrap_or_default()))
        .collect();
    let pairs = |object: &&L2Advertisement| {
        let selectors: &[LabelSelector] = &object.spec.service_selectors;
        selectors.iter().find_map(match_labels)
    };
    let mut remedies = Vec::new();
    if let Some(pairs) = objects.iter().find_map(pairs) {
        remedies.push(Remedy::run(
            "label the Service as the L2Advertisement requires",
            label(
                "service",
                subject.key.name(),
                Some(subject.key.namespace()),
                &pairs,
            ),
        ));
    }
    if let Some(name) = names.first() {
        remedies.push(Remedy::run(
            "change spec.serviceSelectors of the L2Advertisement",
            edit("l2advertisement", name, snapshot.namespace()),
        ));
    }
    remedies
}
