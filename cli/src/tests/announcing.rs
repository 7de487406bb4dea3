//! `why` about Services with an address.

use clap::CommandFactory;
use insta::assert_snapshot;

use super::fixture::*;
use crate::args::Cli;
use crate::report::Report;
use crate::snapshot::Snapshot;

const README: &str = include_str!("../../../README.md");

const WEB: &str = "default/web";
const ADDRESS: &str = "192.168.50.50";

/// A Service with an address of pool `lan`, endpoints on n1 and n2, and an advertisement of every pool.
fn with_address(advertisement_spec: Option<&str>, spec: &str) -> Snapshot {
    let mut snapshot = cluster();
    pool(&mut snapshot, "lan", "192.168.50.50-192.168.50.60", "");
    if let Some(advertised) = advertisement_spec {
        advertisement(&mut snapshot, "all", advertised);
    }
    service(&mut snapshot, WEB, Some(ADDRESS), "", spec);
    endpoints(&mut snapshot, WEB, &["n1", "n2"]);
    snapshot
}

#[test]
fn announced_and_verified_address_is_fine() {
    let mut snapshot = with_address(Some(""), "");
    announced(&mut snapshot, WEB, ADDRESS, "n1", &verified(true));
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn missing_advertisement_is_the_beginners_error() {
    let mut snapshot = with_address(None, "");
    advertisement(
        &mut snapshot,
        "lan-only",
        "ipAddressPoolSelectors: [{matchLabels: {env: lan}}]",
    );
    assert_snapshot!(why_text(&snapshot, WEB));
    let none = with_address(None, "");
    assert_snapshot!(why_text(&none, WEB));
}

#[test]
fn node_selectors_that_exclude_all_nodes_are_named() {
    let snapshot = with_address(Some("nodeSelectors: [{matchLabels: {zone: a}}]"), "");
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn exclude_label_on_all_nodes_is_removed() {
    let mut snapshot = with_address(Some(""), "");
    for node in &mut snapshot.nodes {
        let label = "node.kubernetes.io/exclude-from-external-load-balancers";
        node.metadata.labels = Some([(label.to_owned(), String::new())].into());
    }
    assert_snapshot!(why_text(&snapshot, WEB));
    // The README has this output.
    let text = anstream::adapter::strip_str(&why_of(&snapshot, WEB).text(false)).to_string();
    assert!(
        README.contains(&format!("$ kubectl lb why web\n{text}```")),
        "{text}"
    );
}

#[test]
fn readme_lists_every_command() {
    let commands = Cli::command();
    for command in commands.get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let line = format!("\n{:<12}{about}\n", command.get_name());
        assert!(README.contains(&line), "README.md lacks {line:?}");
    }
}

#[test]
fn local_policy_without_an_eligible_endpoint_is_explained() {
    let mut snapshot = with_address(
        Some("nodeSelectors: [{matchExpressions: [{key: edge, operator: Exists}]}]"),
        ", externalTrafficPolicy: Local",
    );
    snapshot.nodes[2].metadata.labels = Some([("edge".to_owned(), String::new())].into());
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn service_without_endpoints_is_not_announced() {
    let mut snapshot = with_address(Some(""), "");
    snapshot.slices.clear();
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn foreign_host_is_named_by_its_mac() {
    let mut snapshot = with_address(Some(""), "");
    let conflict = format!(
        "  conflictingMAC: 3c:22:fb:0a:11:9e\n{}  - {{type: AddressConflict, status: 'True', reason: ConflictingHost, \
         message: '', lastTransitionTime: '{EARLIER}'}}\n",
        verified(true)
    );
    announced(&mut snapshot, WEB, ADDRESS, "n1", &conflict);
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn address_of_a_node_is_excluded_from_the_pool() {
    let mut snapshot = with_address(Some("nodeSelectors: [{matchLabels: {zone: a}}]"), "");
    let node = &mut snapshot.nodes[0];
    let status = node.status.as_mut().unwrap();
    status.addresses.as_mut().unwrap()[0].address = ADDRESS.to_owned();
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn owner_that_does_not_answer_is_a_problem() {
    let mut snapshot = with_address(Some(""), "");
    announced(&mut snapshot, WEB, ADDRESS, "n1", &verified(false));
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn lost_heartbeats_are_a_warning() {
    let mut snapshot = with_address(Some(""), "");
    announced(&mut snapshot, WEB, ADDRESS, "n1", &verified(true));
    add(
        &mut snapshot,
        "kind: ConfigurationState\nmetadata: {name: speaker-n3, namespace: metallb-system}\nspec: {}\nstatus: \
         {unheardPeers: [n1]}",
    );
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn report_of_the_speakers_is_repeated_while_nobody_announces() {
    let mut snapshot = with_address(Some(""), "");
    let reported = format!(
        "  conditions:\n  - {{type: Announced, status: 'False', reason: NoInterface, message: 'node n1 has no suitable \
         interface for 192.168.50.50', lastTransitionTime: '{EARLIER}'}}\n"
    );
    announced(&mut snapshot, WEB, ADDRESS, "", &reported);
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn paused_upgrade_is_a_warning_while_traffic_flows() {
    let mut snapshot = with_address(Some(""), "");
    announced(&mut snapshot, WEB, ADDRESS, "n1", &verified(true));
    let revision = "{version: 0.1.0, revision: a, controller: b, speaker: c}";
    snapshot.stacks.clear();
    add(
        &mut snapshot,
        &format!(
            "
kind: LoadBalancerStack
metadata: {{name: default}}
spec: {{}}
status:
  phase: Paused
  version: 0.1.0
  upgrade:
    from: {revision}
    to: {revision}
    step: PrePull
    startedTime: '{EARLIER}'
    progressTime: '{EARLIER}'
    generation: 2
    paused: Infrastructure
    waitingFor: 'n2: pull r/speaker:0.2.0: not found'
"
        ),
    );
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn routers_of_a_bgp_service_are_listed() {
    let mut snapshot = with_address(None, "");
    add(
        &mut snapshot,
        "
kind: BGPPeer
metadata: {name: tor, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.168.50.1}
---
kind: BGPAdvertisement
metadata: {name: all, namespace: metallb-system}
spec: {}
",
    );
    assert_snapshot!(why_text(&snapshot, WEB));
    snapshot.bgp_peers.clear();
    assert_snapshot!(why_text(&snapshot, WEB));
}

#[test]
fn explanation_as_json_has_the_same_steps() {
    let mut snapshot = with_address(Some(""), "");
    announced(&mut snapshot, WEB, ADDRESS, "n1", &verified(true));
    let json = serde_json::to_value(why_of(&snapshot, WEB)).unwrap();
    let names: Vec<_> = json["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["name"].as_str().unwrap(), step["verdict"].as_str().unwrap()))
        .collect();
    let expected = [
        "served",
        "request",
        "address",
        "advertised",
        "endpoints",
        "nodes",
        "owner",
        "answers",
    ];
    assert_eq!(names, expected.map(|name| (name, "ok")));
}
