//! What an update makes the speaker look at again: all that it concerns, and no more.

mod support;

use lb_runtime::ObjectKey;
use lb_speaker::k8s::index::{Affected, Index, Kind, Update};
use serde_json::json;
use support::{
    WEB, World, cluster, key, mk_advertisement, mk_node, mk_node_with, mk_pool, mk_service, mk_slice,
    mk_speaker, mk_status,
};

fn touched(update: Update) -> Affected {
    World::new(cluster()).index.update(update)
}

#[test]
fn what_is_known_already_touches_nothing() {
    let mut index = World::new(cluster()).index;
    for update in cluster() {
        assert_eq!(index.update(update.clone()), Affected::default(), "{update:?}");
    }
}

#[test]
fn a_service_touches_its_old_and_its_new_addresses() {
    let change = touched(mk_service("web", &["192.168.50.60"], |_| {}));
    assert_eq!(
        change.addresses,
        [
            WEB.parse::<std::net::IpAddr>().unwrap(),
            [192, 168, 50, 60].into()
        ]
    );
    assert_eq!((change.statuses, change.everything), (vec![key("web")], false));
    let gone = touched(Update::Service(key("web"), None));
    assert_eq!(gone.addresses, [WEB.parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn a_slice_touches_the_addresses_of_its_service_only_when_its_summary_changes() {
    assert_eq!(touched(mk_slice("web", &["n3", "n1", "n2"])), Affected::default());
    assert_eq!(touched(mk_slice("web", &["n1"])).addresses.len(), 1);
    assert_eq!(
        touched(mk_slice("no-load-balancer", &["n1"])),
        Affected::default()
    );
}

#[test]
fn a_deleted_slice_takes_its_endpoints_from_its_service() {
    let mut index = World::new(cluster()).index;
    assert!(index.has_endpoint(&key("web")) && index.has_endpoint_on(&key("web"), "n2"));
    assert_eq!(
        index.update(Update::Slice(key("web-abc"), None)).addresses.len(),
        1
    );
    assert!(!index.has_endpoint(&key("web")) && !index.has_endpoint_on(&key("web"), "n2"));
}

#[test]
fn a_slice_that_changes_its_service_moves_its_endpoints() {
    let mut index = World::new(cluster()).index;
    let Update::Slice(_, slice) = mk_slice("other", &["n1"]) else {
        panic!("mk_slice makes slices")
    };
    index.update(Update::Slice(key("web-abc"), slice));
    assert!(!index.has_endpoint(&key("web")) && index.has_endpoint(&key("other")));
}

#[test]
fn services_of_the_same_name_in_other_namespaces_are_others() {
    let index = World::new(cluster()).index;
    assert!(!index.has_endpoint(&ObjectKey::new("kube-system", "web")));
}

#[test]
fn what_concerns_candidates_touches_everything_and_a_heartbeat_does_not() {
    let label = json!({"rack": "a"});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    assert!(touched(mk_node_with("n2", &label, &ready)).everything);
    assert!(touched(Update::Node("n2".to_owned(), None)).everything);
    assert!(touched(mk_pool("lan", &["192.168.50.0/24"])).everything);
    assert!(touched(mk_advertisement("lan", &json!({"interfaces": ["eth0"]}))).everything);
    assert_eq!(touched(mk_node("n2")), Affected::default());
}

#[test]
fn readiness_of_a_node_or_speaker_touches_the_peer() {
    let not_ready = json!([{"type": "Ready", "status": "Unknown"}]);
    let node = touched(mk_node_with("n2", &json!({}), &not_ready));
    assert_eq!((node.peer.as_deref(), node.everything), (Some("n2"), false));
    assert_eq!(touched(mk_speaker("n3", false)).peer.as_deref(), Some("n3"));
    assert_eq!(
        touched(Update::Speaker("speaker-n3".to_owned(), None))
            .peer
            .as_deref(),
        Some("n3")
    );
}

#[test]
fn while_old_and_new_pod_of_a_speaker_are_there_one_ready_is_enough() {
    let mut index = World::new(cluster()).index;
    let Update::Speaker(_, pod) = mk_speaker("n2", false) else {
        panic!("mk_speaker makes speakers")
    };
    index.update(Update::Speaker("speaker-n2-next".to_owned(), pod));
    assert_eq!(index.speaker_ready("n2"), Some(true));
    index.update(Update::Speaker("speaker-n2".to_owned(), None));
    assert_eq!(index.speaker_ready("n2"), Some(false));
    index.update(Update::Speaker("speaker-n2-next".to_owned(), None));
    assert_eq!(index.speaker_ready("n2"), None);
}

#[test]
fn an_object_that_cannot_be_read_leaves_what_was_known() {
    for kind in Kind::ALL {
        let name = if kind == Kind::Services {
            key("web")
        } else {
            ObjectKey::new("", "lan")
        };
        let mut index = World::new(cluster()).index;
        assert_eq!(
            index.update(Update::Invalid(kind, name, "bad".to_owned())),
            Affected::default()
        );
        assert!(index.services.contains_key(&key("web")) && index.pools.contains_key("lan"));
        let configuration = [Kind::Pools, Kind::Advertisements].contains(&kind);
        assert_eq!(index.has_wrong_configuration(), configuration, "{kind:?}");
    }
}

#[test]
fn configuration_that_was_wrong_is_right_again_when_it_is_mended_or_gone() {
    let mut index = Index::default();
    index.update(mk_pool("lan", &["nonsense"]));
    index.update(mk_advertisement(
        "lan",
        &json!({"nodeSelectors": [{"matchLabels": {"a b": "c"}}]}),
    ));
    assert!(index.has_wrong_configuration());
    index.update(mk_pool("lan", &["192.168.50.0/24"]));
    assert!(index.has_wrong_configuration());
    index.update(Update::Advertisement("lan".to_owned(), None));
    assert!(!index.has_wrong_configuration());
}

#[test]
fn a_status_touches_the_service_that_it_named_and_the_one_that_it_names() {
    let mut index = World::new(cluster()).index;
    assert_eq!(index.update(mk_status("web", "n1")).statuses, [key("web")]);
    assert_eq!(index.statuses_of(&key("web")).count(), 1);
    let Update::Status(name, _) = mk_status("web", "n1") else {
        panic!("mk_status makes statuses")
    };
    assert_eq!(index.update(Update::Status(name, None)).statuses, [key("web")]);
    assert_eq!(index.statuses_of(&key("web")).count(), 0);
}
