//! The rules of eligibility, and the reasons when no node is eligible.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a helper of a test fails the test"
)]

#[path = "support/found.rs"]
mod found;
mod support;

use std::time::Duration;

use found::{Found, decision_on, found};
use lb_speaker::decide::{Announcement, Decision, DecisionInput, MAX_CANDIDATES, decide, voters};
use lb_speaker::interface_selection::InterfaceSelection;
use lb_speaker::k8s::index::Update;
use lb_speaker::k8s::objects::Node;
use lb_speaker::reasons::{Ineligible, UnannouncedReason};
use serde_json::{Value, json};
use support::{
    GRACE, WEB, World, cluster, endpoint, key, mk_advertisement, mk_node_with, mk_pool, mk_service, mk_slice,
    mk_slice_of, mk_speaker,
};

const READY: &str = r#"[{"type": "Ready", "status": "True"}]"#;

/// The decision of n1 about the address of `web`, after these changes to the default cluster.
fn decision(changes: impl IntoIterator<Item = Update>) -> Found {
    decision_on(&World::new(cluster().into_iter().chain(changes)), "n1", WEB)
}

/// The first candidate according to n1.
fn owner(changes: impl IntoIterator<Item = Update>) -> String {
    match decision(changes) {
        Found::Mine(_) => "n1".to_owned(),
        Found::Other { owner, .. } => owner,
        Found::NoCandidates { reason, .. } => panic!("nobody: {reason:?}"),
        Found::Unused => panic!("unused"),
    }
}

fn announcement(changes: impl IntoIterator<Item = Update>) -> Announcement {
    match decision(changes) {
        Found::Mine(announcement) => announcement,
        other => panic!("not ours: {other:?}"),
    }
}

fn unannounced(changes: impl IntoIterator<Item = Update>) -> UnannouncedReason {
    match decision(changes) {
        Found::NoCandidates { reason, .. } => reason,
        other => panic!("not nobody: {other:?}"),
    }
}

/// A ready node with these labels.
fn node(name: &str, labels: &serde_json::Value) -> Update {
    mk_node_with(name, labels, &serde_json::from_str(READY).unwrap())
}

#[test]
fn all_nodes_agree_on_metallbs_order() {
    let world = World::new(cluster());
    assert!(matches!(decision_on(&world, "n1", WEB), Found::Mine(_)));
    for other in ["n2", "n3"] {
        let expected = Found::Other {
            owner: "n1".to_owned(),
            ineligible: None,
        };
        assert_eq!(decision_on(&world, other, WEB), expected);
    }
}

#[test]
fn announcement_selects_all_interfaces_by_default() {
    let announcement = announcement([]);
    assert_eq!(&*announcement.pool, "lan");
    assert_eq!(announcement.services.keys().collect::<Vec<_>>(), [&key("web")]);
    assert_eq!(announcement.interfaces, InterfaceSelection::All);
}

/// The default cluster with these changes.
fn with(changes: impl IntoIterator<Item = Update>) -> World {
    World::new(cluster().into_iter().chain(changes))
}

fn unready_node(name: &str) -> Update {
    mk_node_with(name, &json!({}), &json!([{"type": "Ready", "status": "Unknown"}]))
}

#[test]
fn node_without_live_speaker_is_no_candidate() {
    let mut world = with([unready_node("n1"), mk_speaker("n1", false)]);
    world.switch_to("n2");
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Mine(_)));
    let mut world = with([Update::Speaker("speaker-n1".to_owned(), None)]);
    world.switch_to("n2");
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Mine(_)));
}

#[test]
fn heard_and_local_nodes_are_candidates_despite_the_api() {
    let mut world = with([unready_node("n1"), mk_speaker("n1", false)]);
    assert!(matches!(decision_on(&world, "n1", WEB), Found::Mine(_)));
    world.switch_to("n2");
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Mine(_)));
    assert!(world.peers.set_heard(["n1".to_owned()].into()));
    let other = Found::Other {
        owner: "n1".to_owned(),
        ineligible: None,
    };
    assert_eq!(decision_on(&world, "n2", WEB), other);
}

#[test]
fn restarting_speaker_is_candidate_for_its_grace() {
    let mut world = with([]);
    world.switch_to("n2");
    world.update(mk_speaker("n1", false));
    world.advance(GRACE - Duration::from_millis(1));
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Other { .. }));
    world.advance(Duration::from_millis(1));
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Mine(_)));
}

#[test]
fn node_out_of_service_is_no_candidate() {
    let out = Update::Node(
        "n1".to_owned(),
        Some(Node::read(support::from(json!({
            "metadata": {"name": "n1"},
            "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]},
        })))),
    );
    assert_eq!(owner([out]), "n2");
}

#[test]
fn long_order_is_cut_and_contains_the_local_node() {
    let many = (10..60).flat_map(|n| {
        let name = format!("m{n}");
        [node(&name, &json!({})), mk_speaker(&name, true)]
    });
    let world = with(many);
    for me in ["n1", "n2", "n3"] {
        let nodes = world.nodes(false);
        let view = DecisionInput {
            local_node: me,
            index: &world.index,
            nodes: &nodes,
        };
        let Decision::Candidates { order, .. } = decide(&view, WEB.parse().unwrap()).decision else {
            panic!("no candidates");
        };
        assert!(order.contains(&me) && order.len() <= MAX_CANDIDATES + 1);
    }
}

#[test]
fn node_with_unavailable_network_is_no_candidate() {
    let conditions =
        json!([{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True"}]);
    assert_eq!(owner([mk_node_with("n1", &json!({}), &conditions)]), "n2");
    let fine =
        json!([{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "False"}]);
    assert_eq!(owner([mk_node_with("n1", &json!({}), &fine)]), "n1");
}

#[test]
fn exclude_label_counts_with_any_value_unless_ignored() {
    let label = json!({"node.kubernetes.io/exclude-from-external-load-balancers": "false"});
    let excluded = || cluster().into_iter().chain([node("n1", &label)]);
    let world = World::new(excluded());
    let expected = Found::Other {
        owner: "n2".to_owned(),
        ineligible: Some(Ineligible::Excluded),
    };
    assert_eq!(decision_on(&world, "n1", WEB), expected);
    let nodes = world.nodes(true);
    let view = DecisionInput {
        local_node: "n1",
        index: &world.index,
        nodes: &nodes,
    };
    assert!(matches!(
        found(decide(&view, WEB.parse().unwrap()).decision, "n1"),
        Found::Mine(_)
    ));
}

#[test]
fn readiness_of_the_node_is_ignored_with_a_ready_speaker() {
    let conditions = json!([{"type": "Ready", "status": "False"}]);
    assert_eq!(owner([mk_node_with("n1", &json!({}), &conditions)]), "n1");
}

#[test]
fn node_selectors_are_alternatives() {
    let rack = |rack: &str| json!({"matchLabels": {"rack": rack}});
    let nodes = || {
        [
            node("n2", &json!({"rack": "b"})),
            node("n3", &json!({"rack": "c"})),
        ]
    };
    let only = |selectors: &serde_json::Value| mk_advertisement("lan", &json!({"nodeSelectors": selectors}));
    assert_eq!(
        owner(nodes().into_iter().chain([only(&json!([rack("c")]))])),
        "n3"
    );
    assert_eq!(
        owner(nodes().into_iter().chain([only(&json!([rack("c"), rack("b")]))])),
        "n2"
    );
    let second = mk_advertisement("second", &json!({"nodeSelectors": [rack("b")]}));
    assert_eq!(
        owner(nodes().into_iter().chain([only(&json!([rack("c")])), second])),
        "n2"
    );
}

#[test]
fn pools_are_selected_by_name_or_label_or_all() {
    let announce = |spec: &serde_json::Value| decision([mk_advertisement("lan", spec)]);
    let tier = |tier: &str| json!([{"matchLabels": {"tier": tier}}]);
    for announced in [
        json!({}),
        json!({"ipAddressPools": ["lan"]}),
        json!({"ipAddressPools": ["other"], "ipAddressPoolSelectors": tier("lan")}),
        json!({"ipAddressPools": ["lan"], "ipAddressPoolSelectors": tier("other")}),
    ] {
        assert!(matches!(announce(&announced), Found::Mine(_)), "{announced}");
    }
    for other in [
        json!({"ipAddressPools": ["other"]}),
        json!({"ipAddressPoolSelectors": tier("other")}),
    ] {
        assert!(matches!(announce(&other), Found::NoCandidates { .. }), "{other}");
    }
}

#[test]
fn service_selectors_limit_an_advertisement() {
    let app = |app: &str| {
        mk_advertisement(
            "lan",
            &json!({"serviceSelectors": [{"matchLabels": {"app": app}}]}),
        )
    };
    assert_eq!(owner([app("web")]), "n1");
    assert_eq!(
        unannounced([app("other")]),
        UnannouncedReason::ServiceNotSelected {
            pool: "lan".to_owned()
        }
    );
}

#[test]
fn shared_address_is_not_announced_by_service_selectors() {
    let selecting = || {
        mk_advertisement(
            "lan",
            &json!({"serviceSelectors": [{"matchLabels": {"app": "web"}}]}),
        )
    };
    let shared = |key: &'static str| {
        mk_service("web", &[WEB], move |object| {
            object["metadata"]["annotations"] = json!({(key): "key"});
        })
    };
    for key in [
        "metallb.io/allow-shared-ip",
        "metallb.universe.tf/allow-shared-ip",
    ] {
        let pool = "lan".to_owned();
        assert_eq!(
            unannounced([selecting(), shared(key)]),
            UnannouncedReason::SharedWithServiceSelectors { pool }
        );
        assert_eq!(
            owner([shared(key)]),
            "n1",
            "advertisements without serviceSelectors are fine"
        );
    }
}

#[test]
fn weights_of_all_applying_advertisements_order_the_candidates() {
    let preferring = |name: &str, weights: &[(&str, i32)], more: Value| {
        let selector = |(node, weight): &(&str, i32)| json!({"weight": weight, "preference": {"matchLabels": {"name": node}}});
        let mut spec = json!({"preferredNodeSelectors": weights.iter().map(selector).collect::<Vec<_>>()});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        mk_advertisement(name, &spec)
    };
    let nodes = || ["n1", "n2", "n3"].map(|name| node(name, &json!({"name": name})));
    let order = |advertisements: Vec<Update>| {
        let world = World::new(cluster().into_iter().chain(nodes()).chain(advertisements));
        let nodes = world.nodes(false);
        let input = DecisionInput {
            local_node: "n1",
            index: &world.index,
            nodes: &nodes,
        };
        match decide(&input, WEB.parse().unwrap()).decision {
            Decision::Candidates { order, .. } => order.join(" "),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(order(vec![]), "n1 n2 n3");
    let first = || preferring("lan", &[("n2", 10), ("n3", 20)], json!({}));
    assert_eq!(order(vec![first()]), "n3 n2 n1");
    let second = |more| preferring("more", &[("n2", 15)], more);
    assert_eq!(order(vec![first(), second(json!({}))]), "n2 n3 n1", "25 and 20");
    assert_eq!(
        order(vec![first(), second(json!({"ipAddressPools": ["other"]}))]),
        "n3 n2 n1"
    );
    let elsewhere = json!({"nodeSelectors": [{"matchLabels": {"name": "n1"}}]});
    assert_eq!(
        order(vec![first(), second(elsewhere)]),
        "n3 n2 n1",
        "only among the nodes it selects"
    );
    let everywhere = json!({"preferredNodeSelectors": [{"weight": 100, "preference": {}}]});
    assert_eq!(
        order(vec![mk_advertisement("lan", &everywhere)]),
        "n1 n2 n3",
        "equal for all"
    );
}

#[test]
fn traffic_policy_local_requires_an_endpoint_on_the_node() {
    let local = || {
        mk_service("web", &[WEB], |object| {
            object["spec"]["externalTrafficPolicy"] = json!("Local")
        })
    };
    assert_eq!(owner([local(), mk_slice("web", &["n3", "n2"])]), "n2");
    let nodes = match unannounced([local(), mk_slice("web", &["elsewhere"])]) {
        UnannouncedReason::NoEligibleNode { nodes } => nodes,
        other => panic!("{other:?}"),
    };
    assert_eq!(nodes.keys().collect::<Vec<_>>(), [&Ineligible::NoLocalEndpoint]);
    assert_eq!(nodes[&Ineligible::NoLocalEndpoint].to_string(), "n1, n2, n3");
    // Cluster: any endpoint will do, wherever it is.
    assert_eq!(owner([mk_slice("web", &["n3"])]), "n1");
}

#[test]
fn without_an_endpoint_no_node_announces() {
    let not_ready = endpoint("n1", &json!({"ready": false}));
    assert_eq!(
        unannounced([mk_slice_of("web", &[not_ready])]),
        UnannouncedReason::NoEndpoint
    );
    assert_eq!(
        unannounced([Update::Slice(key("web-abc"), None)]),
        UnannouncedReason::NoEndpoint
    );
}

#[test]
fn ready_unknown_and_serving_endpoints_can_serve() {
    let serves = [
        json!({"ready": true}),
        json!({}),
        json!({"ready": false, "serving": true, "terminating": true}),
    ];
    for conditions in serves {
        assert_eq!(
            owner([mk_slice_of("web", &[endpoint("n1", &conditions)])]),
            "n1",
            "{conditions}"
        );
    }
    let not = json!({"ready": false, "serving": false, "terminating": true});
    assert_eq!(
        unannounced([mk_slice_of("web", &[endpoint("n1", &not)])]),
        UnannouncedReason::NoEndpoint
    );
}

#[test]
fn address_outside_all_pools_is_not_announced() {
    assert_eq!(
        unannounced([mk_pool("lan", &["192.168.60.0/24"])]),
        UnannouncedReason::NoPool
    );
}

#[test]
fn invalid_pool_entry_does_not_affect_the_others() {
    assert_eq!(owner([mk_pool("lan", &["nonsense", "192.168.50.0/24"])]), "n1");
}

#[test]
fn pool_noted_by_the_controller_is_preferred() {
    let twin = || mk_pool("a-twin", &["192.168.50.0/24"]);
    assert_eq!(&*announcement([twin()]).pool, "a-twin", "the first by name");
    let noted = mk_service("web", &[WEB], |object| {
        object["metadata"]["annotations"] = json!({"metallb.io/ip-allocated-from-pool": "lan"});
    });
    assert_eq!(&*announcement([twin(), noted]).pool, "lan");
    let invalid = mk_service("web", &[WEB], |object| {
        object["metadata"]["annotations"] = json!({"metallb.io/ip-allocated-from-pool": "gone"});
    });
    assert_eq!(&*announcement([invalid]).pool, "lan");
}

#[test]
fn pool_without_advertisement_is_not_announced() {
    let gone = Update::Advertisement("lan".to_owned(), None);
    let reason = unannounced([gone]);
    assert_eq!(
        reason,
        UnannouncedReason::NoAdvertisement {
            pool: "lan".to_owned()
        }
    );
    assert_eq!(
        reason.message(WEB.parse().unwrap()),
        "no L2Advertisement announces pool \"lan\": create one, or add the pool to an existing one"
    );
}

#[test]
fn interfaces_are_the_union_of_matching_advertisements() {
    let named = |name: &str, spec: serde_json::Value| mk_advertisement(name, &spec);
    let elsewhere = json!([{"matchLabels": {"rack": "z"}}]);
    let lists = || {
        [
            named("lan", json!({"interfaces": ["eth0"]})),
            named("second", json!({"interfaces": ["eth1"]})),
            named(
                "third",
                json!({"interfaces": ["eth2"], "nodeSelectors": elsewhere}),
            ),
            named(
                "fourth",
                json!({"interfaces": ["eth3"], "ipAddressPools": ["other"]}),
            ),
        ]
    };
    assert_eq!(announcement(lists()).interfaces.names().join(","), "eth0,eth1");
    let all = named("fifth", json!({}));
    assert_eq!(
        announcement(lists().into_iter().chain([all])).interfaces,
        InterfaceSelection::All
    );
}

#[test]
fn election_is_per_address_and_not_per_service() {
    let world = World::new(
        cluster()
            .into_iter()
            .chain([mk_service("web", &[WEB, "fd00:50::1"], |_| {})]),
    );
    assert!(matches!(decision_on(&world, "n1", WEB), Found::Mine(_)));
    let second = decision_on(&world, "n1", "fd00:50::1");
    assert!(
        matches!(&second, Found::Other { owner, .. } if owner == "n2"),
        "{second:?}"
    );
}

#[test]
fn services_sharing_an_address_are_announced_together() {
    let two = announcement([mk_service("dns", &[WEB], |_| {}), mk_slice("dns", &["n3"])]);
    assert_eq!(
        two.services.keys().collect::<Vec<_>>(),
        [&key("dns"), &key("web")]
    );
    // One without endpoints does not affect the other.
    let one = announcement([mk_service("dns", &[WEB], |_| {})]);
    assert_eq!(one.services.keys().collect::<Vec<_>>(), [&key("web")]);
}

#[test]
fn services_of_another_class_or_type_are_ignored() {
    let other_class = mk_service("web", &[WEB], |object| {
        object["spec"]["loadBalancerClass"] = json!("example.com/other");
    });
    assert_eq!(decision([other_class]), Found::Unused);
    let other_type = mk_service("web", &[WEB], |object| {
        object["spec"]["type"] = json!("ClusterIP")
    });
    assert_eq!(decision([other_type]), Found::Unused);
}

#[test]
fn one_live_node_reports_the_reason() {
    let gone = || Update::Advertisement("lan".to_owned(), None);
    let world = World::new(cluster().into_iter().chain([gone()]));
    let reports = |world: &World, me: &str| match decision_on(world, me, WEB) {
        Found::NoCandidates { we_report, .. } => we_report,
        other => panic!("{other:?}"),
    };
    let reporters: Vec<_> = ["n1", "n2", "n3"]
        .into_iter()
        .filter(|me| reports(&world, me))
        .collect();
    assert_eq!(reporters, ["n1"]);
}

#[test]
fn address_of_a_node_is_announced_by_no_other_node() {
    let node_at = |name: &str, type_: &str, address: &str, labels: &serde_json::Value| {
        let object = json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": labels},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "Hostname", "address": name}, {"type": type_, "address": address}],
            },
        });
        Update::Node(
            name.to_owned(),
            Some(Node::read(serde_json::from_value(object).unwrap())),
        )
    };
    let excluded = json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
    for type_ in ["InternalIP", "ExternalIP"] {
        // The node itself may announce it, also if it joins while another node is the owner.
        let mut world = World::new(cluster());
        assert!(matches!(decision_on(&world, "n1", WEB), Found::Mine(_)));
        world.update(node_at("n3", type_, WEB, &json!({})));
        let theirs = Found::Other {
            owner: "n3".to_owned(),
            ineligible: Some(Ineligible::AddressOfOtherNode),
        };
        assert_eq!(decision_on(&world, "n1", WEB), theirs, "{type_}");
        assert!(matches!(decision_on(&world, "n3", WEB), Found::Mine(_)));
        // A node that may not announce it, or has no speaker, keeps it all the same.
        world.update(node_at("n3", type_, WEB, &excluded));
        let Found::NoCandidates { reason, .. } = decision_on(&world, "n1", WEB) else {
            panic!("no node may announce it");
        };
        assert!(matches!(reason, UnannouncedReason::AddressOfNode { .. }));
        assert_eq!(
            reason.message(WEB.parse().unwrap()),
            "192.168.50.52 is an address of a node, and only that node may announce it: n3 excluded by label \
             node.kubernetes.io/exclude-from-external-load-balancers: exclude the address from its pool"
        );
        // It is free again.
        world.update(node("n3", &json!({})));
        assert!(matches!(decision_on(&world, "n1", WEB), Found::Mine(_)));
    }
    // Several nodes may list one address of a gateway before them.
    let shared = ["n2", "n3"].map(|name| node_at(name, "ExternalIP", WEB, &json!({})));
    assert_eq!(owner(shared), "n2");
    let six = "fd00:50::5";
    let world = World::new(cluster().into_iter().chain([
        mk_service("web", &[six], |_| {}),
        node_at("n3", "InternalIP", six, &json!({})),
    ]));
    assert!(matches!(decision_on(&world, "n3", six), Found::Mine(_)));
}

/// With `partitionPolicy: Majority`.
#[test]
fn nodes_vote_by_configuration_whether_they_live_or_not() {
    let votes = |changes: Vec<Update>| {
        let mut world = World::new(cluster().into_iter().chain(changes));
        world.advance(GRACE * 2);
        let nodes = world.nodes(false);
        let input = DecisionInput {
            local_node: "n1",
            index: &world.index,
            nodes: &nodes,
        };
        voters(&input, WEB.parse().unwrap()).join(" ")
    };
    assert_eq!(votes(vec![]), "n1 n2 n3");
    // The API server reports two nodes as failed, and their endpoints are gone.
    let unknown =
        json!([{"type": "Ready", "status": "Unknown"}, {"type": "NetworkUnavailable", "status": "Unknown"}]);
    let failed = |name| [mk_node_with(name, &json!({}), &unknown), mk_speaker(name, false)];
    let mut partition: Vec<_> = failed("n2").into_iter().chain(failed("n3")).collect();
    partition.push(mk_slice("web", &["n1"]));
    partition.push(mk_service("web", &[WEB], |service| {
        service["spec"]["externalTrafficPolicy"] = json!("Local");
    }));
    assert_eq!(votes(partition), "n1 n2 n3");
    // Configuration removes voters.
    let label = json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
    assert_eq!(votes(vec![node("n2", &label)]), "n1 n3");
    assert_eq!(votes(vec![Update::Node("n2".to_owned(), None)]), "n1 n3");
    let no_pod = Update::Speaker("speaker-n3".to_owned(), None);
    assert_eq!(votes(vec![no_pod]), "n1 n2");
    let selector = json!({"nodeSelectors": [{"matchLabels": {"a": "b"}}]});
    let selected = vec![mk_advertisement("lan", &selector), node("n3", &json!({"a": "b"}))];
    assert_eq!(votes(selected), "n3");
}
