//! Who owns an address: every rule of eligibility, and what is said when nobody may.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a helper of a test fails the test"
)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use lb_speaker::decide::{Announcement, Decision, MAX_CANDIDATES, View, decide};
use lb_speaker::interface_selection::InterfaceSelection;
use lb_speaker::k8s::index::Update;
use lb_speaker::k8s::objects::Node;
use lb_speaker::reasons::{Ineligible, Reason};
use serde_json::json;
use support::{
    GRACE, WEB, World, cluster, endpoint, key, mk_advertisement, mk_node_with, mk_pool, mk_service, mk_slice,
    mk_slice_of, mk_speaker,
};

const READY: &str = r#"[{"type": "Ready", "status": "True"}]"#;

/// What one node finds about an address.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    /// The first of the candidates is itself.
    Mine(Announcement),
    Other {
        owner: String,
        ineligible: Option<Ineligible>,
    },
    Nobody {
        reason: Reason,
        ours_to_tell: bool,
    },
    Unused,
}

fn found(decision: Decision<'_>, me: &str) -> Found {
    match decision {
        Decision::Candidates { order, mine } => match mine {
            Ok(announcement) if order[0] == me => Found::Mine(announcement),
            mine => Found::Other {
                owner: order[0].to_owned(),
                ineligible: mine.err(),
            },
        },
        Decision::Nobody { reason, ours_to_tell } => Found::Nobody { reason, ours_to_tell },
        Decision::Unused => Found::Unused,
    }
}

fn decision_on(world: &World, me: &str, address: &str) -> Found {
    let view = View {
        me,
        index: &world.index,
        peers: &world.peers,
        ignore_exclude_label: false,
    };
    found(decide(&view, address.parse().unwrap()), me)
}

/// The decision of n1 about the address of `web`, after these changes to the default cluster.
fn decision(changes: impl IntoIterator<Item = Update>) -> Found {
    decision_on(&World::new(cluster().into_iter().chain(changes)), "n1", WEB)
}

/// The owner in the eyes of n1.
fn owner(changes: impl IntoIterator<Item = Update>) -> String {
    match decision(changes) {
        Found::Mine(_) => "n1".to_owned(),
        Found::Other { owner, .. } => owner,
        Found::Nobody { reason, .. } => panic!("nobody: {reason:?}"),
        Found::Unused => panic!("unused"),
    }
}

fn announcement(changes: impl IntoIterator<Item = Update>) -> Announcement {
    match decision(changes) {
        Found::Mine(announcement) => announcement,
        other => panic!("not ours: {other:?}"),
    }
}

fn nobody(changes: impl IntoIterator<Item = Update>) -> Reason {
    match decision(changes) {
        Found::Nobody { reason, .. } => reason,
        other => panic!("not nobody: {other:?}"),
    }
}

/// A ready node with a label or without.
fn node(name: &str, labels: &serde_json::Value) -> Update {
    mk_node_with(name, labels, &serde_json::from_str(READY).unwrap())
}

#[test]
fn the_first_node_in_metallbs_order_owns_the_address_and_all_nodes_agree() {
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
fn an_announcement_names_the_pool_the_services_and_all_interfaces_by_default() {
    let announcement = announcement([]);
    assert_eq!(&*announcement.pool, "lan");
    assert_eq!(announcement.services.keys().collect::<Vec<_>>(), [&key("web")]);
    assert_eq!(announcement.interfaces, InterfaceSelection::All);
}

/// The default cluster as n1 sees it, with this in the eyes of all.
fn with(changes: impl IntoIterator<Item = Update>) -> World {
    World::new(cluster().into_iter().chain(changes))
}

fn unready_node(name: &str) -> Update {
    mk_node_with(name, &json!({}), &json!([{"type": "Ready", "status": "Unknown"}]))
}

#[test]
fn a_node_without_a_live_speaker_is_no_candidate() {
    let mut world = with([unready_node("n1"), mk_speaker("n1", false)]);
    world.see_as("n2");
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Mine(_)));
    let mut world = with([Update::Speaker("speaker-n1".to_owned(), None)]);
    world.see_as("n2");
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Mine(_)));
}

#[test]
fn who_is_heard_is_a_candidate_whatever_the_api_says_and_we_ourselves_always_are() {
    let mut world = with([unready_node("n1"), mk_speaker("n1", false)]);
    assert!(matches!(decision_on(&world, "n1", WEB), Found::Mine(_)));
    world.see_as("n2");
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Mine(_)));
    assert!(world.peers.set_heard(["n1".to_owned()].into()));
    let other = Found::Other {
        owner: "n1".to_owned(),
        ineligible: None,
    };
    assert_eq!(decision_on(&world, "n2", WEB), other);
}

#[test]
fn a_restarting_speaker_is_a_candidate_for_its_grace() {
    let mut world = with([]);
    world.see_as("n2");
    world.tell(mk_speaker("n1", false));
    world.pass(GRACE - Duration::from_millis(1));
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Other { .. }));
    world.pass(Duration::from_millis(1));
    assert!(matches!(decision_on(&world, "n2", WEB), Found::Mine(_)));
}

#[test]
fn a_node_that_is_out_of_service_is_no_candidate() {
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
fn a_long_order_is_cut_and_has_us_in_it() {
    let many = (10..60).flat_map(|n| {
        let name = format!("m{n}");
        [node(&name, &json!({})), mk_speaker(&name, true)]
    });
    let world = with(many);
    for me in ["n1", "n2", "n3"] {
        let view = View {
            me,
            index: &world.index,
            peers: &world.peers,
            ignore_exclude_label: false,
        };
        let Decision::Candidates { order, .. } = decide(&view, WEB.parse().unwrap()) else {
            panic!("no candidates");
        };
        assert!(order.contains(&me) && order.len() <= MAX_CANDIDATES + 1);
    }
}

#[test]
fn a_node_whose_network_is_unavailable_is_no_candidate() {
    let conditions =
        json!([{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True"}]);
    assert_eq!(owner([mk_node_with("n1", &json!({}), &conditions)]), "n2");
    let fine =
        json!([{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "False"}]);
    assert_eq!(owner([mk_node_with("n1", &json!({}), &fine)]), "n1");
}

#[test]
fn the_exclude_label_takes_a_node_out_whatever_its_value_unless_it_is_ignored() {
    let label = json!({"node.kubernetes.io/exclude-from-external-load-balancers": "false"});
    let excluded = || cluster().into_iter().chain([node("n1", &label)]);
    let world = World::new(excluded());
    let expected = Found::Other {
        owner: "n2".to_owned(),
        ineligible: Some(Ineligible::Excluded),
    };
    assert_eq!(decision_on(&world, "n1", WEB), expected);
    let view = View {
        me: "n1",
        index: &world.index,
        peers: &world.peers,
        ignore_exclude_label: true,
    };
    assert!(matches!(
        found(decide(&view, WEB.parse().unwrap()), "n1"),
        Found::Mine(_)
    ));
}

#[test]
fn readiness_and_cordon_of_the_node_have_no_meaning_while_its_speaker_is_ready() {
    let conditions = json!([{"type": "Ready", "status": "False"}]);
    assert_eq!(owner([mk_node_with("n1", &json!({}), &conditions)]), "n1");
}

#[test]
fn node_selectors_are_alternatives_within_and_between_advertisements() {
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
fn an_advertisement_announces_pools_by_name_or_by_label_and_all_pools_without_either() {
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
    for silent in [
        json!({"ipAddressPools": ["other"]}),
        json!({"ipAddressPoolSelectors": tier("other")}),
    ] {
        assert!(matches!(announce(&silent), Found::Nobody { .. }), "{silent}");
    }
}

#[test]
fn service_selectors_limit_an_advertisement_to_some_services() {
    let app = |app: &str| {
        mk_advertisement(
            "lan",
            &json!({"serviceSelectors": [{"matchLabels": {"app": app}}]}),
        )
    };
    assert_eq!(owner([app("web")]), "n1");
    assert_eq!(
        nobody([app("other")]),
        Reason::ServiceNotSelected {
            pool: "lan".to_owned()
        }
    );
}

#[test]
fn with_traffic_policy_local_only_nodes_with_an_endpoint_that_serves_are_candidates() {
    let local = || {
        mk_service("web", &[WEB], |object| {
            object["spec"]["externalTrafficPolicy"] = json!("Local")
        })
    };
    assert_eq!(owner([local(), mk_slice("web", &["n3", "n2"])]), "n2");
    let because = match nobody([local(), mk_slice("web", &["elsewhere"])]) {
        Reason::NoNode { because } => because,
        other => panic!("{other:?}"),
    };
    assert_eq!(because, BTreeSet::from([Ineligible::NoLocalEndpoint]));
    // Cluster: any endpoint will do, wherever it is.
    assert_eq!(owner([mk_slice("web", &["n3"])]), "n1");
}

#[test]
fn without_an_endpoint_that_can_serve_nobody_announces() {
    let not_ready = endpoint("n1", &json!({"ready": false}));
    assert_eq!(nobody([mk_slice_of("web", &[not_ready])]), Reason::NoEndpoint);
    assert_eq!(nobody([Update::Slice(key("web-abc"), None)]), Reason::NoEndpoint);
}

#[test]
fn an_endpoint_serves_when_it_is_ready_or_of_unknown_readiness_or_terminating_and_serving() {
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
        nobody([mk_slice_of("web", &[endpoint("n1", &not)])]),
        Reason::NoEndpoint
    );
}

#[test]
fn an_address_in_no_pool_is_not_announced() {
    assert_eq!(nobody([mk_pool("lan", &["192.168.60.0/24"])]), Reason::NoPool);
}

#[test]
fn an_unreadable_entry_takes_nothing_from_the_rest_of_its_pool() {
    assert_eq!(owner([mk_pool("lan", &["nonsense", "192.168.50.0/24"])]), "n1");
}

#[test]
fn of_two_pools_with_the_address_the_one_noted_by_the_controller_counts() {
    let twin = || mk_pool("a-twin", &["192.168.50.0/24"]);
    assert_eq!(&*announcement([twin()]).pool, "a-twin", "the first by name");
    let noted = mk_service("web", &[WEB], |object| {
        object["metadata"]["annotations"] = json!({"metallb.io/ip-allocated-from-pool": "lan"});
    });
    assert_eq!(&*announcement([twin(), noted]).pool, "lan");
    let wrong = mk_service("web", &[WEB], |object| {
        object["metadata"]["annotations"] = json!({"metallb.io/ip-allocated-from-pool": "gone"});
    });
    assert_eq!(&*announcement([wrong]).pool, "lan");
}

#[test]
fn without_an_advertisement_of_its_pool_nobody_announces_an_address() {
    let gone = Update::Advertisement("lan".to_owned(), None);
    let reason = nobody([gone]);
    assert_eq!(
        reason,
        Reason::NoAdvertisement {
            pool: "lan".to_owned()
        }
    );
    assert_eq!(
        reason.describe(WEB.parse().unwrap()),
        "no L2Advertisement announces pool \"lan\": create one, or name the pool in one that exists"
    );
}

#[test]
fn interfaces_are_those_of_all_advertisements_that_choose_this_node() {
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
fn services_that_share_an_address_have_one_owner_and_are_announced_together() {
    let two = announcement([mk_service("dns", &[WEB], |_| {}), mk_slice("dns", &["n3"])]);
    assert_eq!(
        two.services.keys().collect::<Vec<_>>(),
        [&key("dns"), &key("web")]
    );
    // One of them without endpoints takes nothing from the other.
    let one = announcement([mk_service("dns", &[WEB], |_| {})]);
    assert_eq!(one.services.keys().collect::<Vec<_>>(), [&key("web")]);
}

#[test]
fn services_of_another_class_or_type_have_no_addresses_for_us() {
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
fn one_live_node_tells_why_nobody_announces() {
    let gone = || Update::Advertisement("lan".to_owned(), None);
    let world = World::new(cluster().into_iter().chain([gone()]));
    let tells = |world: &World, me: &str| match decision_on(world, me, WEB) {
        Found::Nobody { ours_to_tell, .. } => ours_to_tell,
        other => panic!("{other:?}"),
    };
    let tellers: Vec<_> = ["n1", "n2", "n3"]
        .into_iter()
        .filter(|me| tells(&world, me))
        .collect();
    assert_eq!(tellers, ["n1"]);
}
