//! `status`, `check`, `addresses`, `pools`, `nodes` and `drain`.

use insta::assert_snapshot;

use super::fixture::*;
use crate::addresses::{self, Filter};
use crate::check;
use crate::cluster::Cluster;
use crate::drain;
use crate::nodes;
use crate::pools;
use crate::snapshot::Snapshot;
use crate::status;

/// Three Services: one fine, one with a foreign host, one without an address; and a node that is hard to hear.
fn busy() -> Snapshot {
    let mut snapshot = cluster();
    pool(&mut snapshot, "lan", "192.168.50.50-192.168.50.51", "");
    pool(&mut snapshot, "spare", "192.168.60.0/24", ", autoAssign: false");
    add(
        &mut snapshot,
        "kind: IPAddressPool\nmetadata: {name: lost, namespace: default}\nspec: {addresses: [192.168.70.0/24]}",
    );
    advertisement(&mut snapshot, "all", "");
    for (key, address, node) in [
        ("default/web", "192.168.50.50", "n1"),
        ("media/plex", "192.168.50.51", "n2"),
    ] {
        service(&mut snapshot, key, Some(address), "", "");
        endpoints(&mut snapshot, key, &["n1", "n2"]);
        let conflict = match key {
            "media/plex" => format!(
                "  conflictingMAC: 3c:22:fb:0a:11:9e\n{}  - {{type: AddressConflict, status: 'True', reason: \
                 ConflictingHost, message: '', lastTransitionTime: '{EARLIER}'}}\n",
                verified(true)
            ),
            _ => verified(true),
        };
        announced(&mut snapshot, key, address, node, &conflict);
    }
    service(&mut snapshot, "shop/checkout", None, "", "");
    add(
        &mut snapshot,
        "kind: ConfigurationState\nmetadata: {name: speaker-n3, namespace: metallb-system}\nspec: {}\nstatus: \
         {unheardPeers: [n1]}",
    );
    snapshot
}

/// A cluster without a problem.
fn healthy() -> Snapshot {
    let mut snapshot = cluster();
    pool(&mut snapshot, "lan", "192.168.50.50-192.168.50.60", "");
    advertisement(&mut snapshot, "all", "");
    service(&mut snapshot, "default/web", Some("192.168.50.50"), "", "");
    endpoints(&mut snapshot, "default/web", &["n1", "n2"]);
    announced(
        &mut snapshot,
        "default/web",
        "192.168.50.50",
        "n1",
        &verified(true),
    );
    snapshot
}

#[test]
fn addresses_show_owners_and_problems() {
    let snapshot = busy();
    let cluster = Cluster::new(&snapshot);
    assert_snapshot!(plain(&addresses::list(&cluster, &Filter::default())));
    let problems = Filter {
        problems: true,
        node: Some("n2".to_owned()),
        ..Filter::default()
    };
    assert_snapshot!(plain(&addresses::list(&cluster, &problems)));
}

#[test]
fn pools_show_usage_and_those_without_effect() {
    let snapshot = busy();
    assert_snapshot!(plain(&pools::pools(&Cluster::new(&snapshot))));
}

#[test]
fn nodes_show_speakers_and_lost_heartbeats() {
    let mut snapshot = busy();
    snapshot
        .pods
        .retain(|pod| pod.metadata.name.as_deref() != Some("speaker-n2"));
    speaker(&mut snapshot, "n2", false);
    snapshot.nodes[0].spec =
        Some(serde_json::from_value(serde_json::json!({"unschedulable": true})).unwrap());
    assert_snapshot!(plain(&nodes::nodes(&Cluster::new(&snapshot))));
}

#[test]
fn status_fits_on_one_screen() {
    let snapshot = busy();
    assert_snapshot!(plain(&status::status(&Cluster::new(&snapshot))));
    let snapshot = healthy();
    let status = status::status(&Cluster::new(&snapshot));
    assert!(status.is_ready());
    assert_snapshot!(plain(&status));
}

#[test]
fn check_has_a_remedy_and_a_page_for_each_problem() {
    let mut snapshot = busy();
    let status = snapshot.stacks[0].status.as_mut().unwrap();
    status.preflight = serde_json::from_value(serde_json::json!([
        {"name": "ServerVersion", "result": "Passed", "message": "v1.33.4 is supported"},
        {"name": "StrictArp", "result": "Unknown", "message": "cannot check kube-proxy: k3s runs it in its own process"},
        {"name": "ExcludedNodes", "result": "Failed", "message": "no node may announce: remove the label of a node"},
    ]))
    .unwrap();
    let check = check::findings(&Cluster::new(&snapshot));
    assert_snapshot!(plain(&check));
    assert_snapshot!(check.junit());
}

#[test]
fn failed_upgrade_and_pending_plan_are_findings() {
    let mut snapshot = healthy();
    let stack = &mut snapshot.stacks[0];
    stack.spec.upgrade = serde_json::from_value(serde_json::json!({"approval": "Manual"})).unwrap();
    let status = stack.status.as_mut().unwrap();
    status.plan = serde_json::from_value(serde_json::json!({"hash": "abc", "version": "0.2.0"})).unwrap();
    status.history = serde_json::from_value(serde_json::json!([{
        "from": "0.1.0", "to": "0.2.0", "toRevision": "x", "startedTime": EARLIER, "finishedTime": EARLIER,
        "outcome": "RolledBack", "reason": "n2: no reply for 192.168.50.50",
    }]))
    .unwrap();
    assert_snapshot!(plain(&check::findings(&Cluster::new(&snapshot))));
}

#[test]
fn drain_names_the_next_owner_and_what_is_lost() {
    let mut snapshot = healthy();
    service(&mut snapshot, "db/pg", Some("192.168.50.51"), "", "");
    let spec = snapshot.services[1].spec.as_mut().unwrap();
    spec.external_traffic_policy = Some("Local".to_owned());
    endpoints(&mut snapshot, "db/pg", &["n1"]);
    announced(&mut snapshot, "db/pg", "192.168.50.51", "n1", "");
    let cluster = Cluster::new(&snapshot);
    assert_snapshot!(plain(&drain::drain(&cluster, "n1").unwrap()));
    assert_snapshot!(plain(&drain::drain(&cluster, "n2").unwrap()));
    assert!(drain::drain(&cluster, "n9").is_none());
}

#[test]
fn drain_gives_no_address_to_a_cordoned_node() {
    let mut snapshot = healthy();
    for node in &mut snapshot.nodes[1..] {
        node.spec = Some(serde_json::from_value(serde_json::json!({"unschedulable": true})).unwrap());
    }
    assert_snapshot!(plain(&drain::drain(&Cluster::new(&snapshot), "n1").unwrap()));
}
