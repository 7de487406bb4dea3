//! The decisions that an update affects: all that depend on it, and no others.

mod support;

use lb_runtime::ObjectKey;
use lb_speaker::k8s::index::{Affected, Index, Kind, Update};
use serde_json::json;
use support::{
    WEB, World, cluster, key, mk_advertisement, mk_node, mk_node_with, mk_pool, mk_service, mk_slice,
    mk_speaker, mk_status,
};

fn affected(update: Update) -> Affected {
    World::new(cluster()).index.update(update)
}

#[test]
fn repeated_update_affects_nothing() {
    let mut index = World::new(cluster()).index;
    for update in cluster() {
        assert_eq!(index.update(update.clone()), Affected::default(), "{update:?}");
    }
}

#[test]
fn service_affects_its_old_and_new_addresses() {
    let change = affected(mk_service("web", &["192.168.50.60"], |_| {}));
    assert_eq!(
        change.addresses,
        [
            WEB.parse::<std::net::IpAddr>().unwrap(),
            [192, 168, 50, 60].into()
        ]
    );
    assert_eq!((change.statuses, change.all_addresses), (vec![key("web")], false));
    let gone = affected(Update::Service(key("web"), None));
    assert_eq!(gone.addresses, [WEB.parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn slice_affects_addresses_only_when_endpoints_change() {
    assert_eq!(
        affected(mk_slice("web", &["n3", "n1", "n2"])),
        Affected::default()
    );
    assert_eq!(affected(mk_slice("web", &["n1"])).addresses.len(), 1);
    assert_eq!(
        affected(mk_slice("no-load-balancer", &["n1"])),
        Affected::default()
    );
}

#[test]
fn deleted_slice_removes_its_endpoints() {
    let mut index = World::new(cluster()).index;
    assert!(index.has_endpoint(&key("web")) && index.has_endpoint_on(&key("web"), "n2"));
    assert_eq!(
        index.update(Update::Slice(key("web-abc"), None)).addresses.len(),
        1
    );
    assert!(!index.has_endpoint(&key("web")) && !index.has_endpoint_on(&key("web"), "n2"));
}

#[test]
fn slice_with_another_service_moves_its_endpoints() {
    let mut index = World::new(cluster()).index;
    let Update::Slice(_, slice) = mk_slice("other", &["n1"]) else {
        panic!("mk_slice makes slices")
    };
    index.update(Update::Slice(key("web-abc"), slice));
    assert!(!index.has_endpoint(&key("web")) && index.has_endpoint(&key("other")));
}

#[test]
fn endpoints_belong_to_one_namespace() {
    let index = World::new(cluster()).index;
    assert!(!index.has_endpoint(&ObjectKey::new("kube-system", "web")));
}

#[test]
fn candidate_changes_affect_the_node_or_all_addresses() {
    let label = json!({"rack": "a"});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    for change in [
        mk_node_with("n2", &label, &ready),
        Update::Node("n2".to_owned(), None),
    ] {
        let node = affected(change);
        assert_eq!((node.node.as_deref(), node.all_addresses), (Some("n2"), false));
    }
    assert!(affected(mk_pool("lan", &["192.168.50.0/24"])).all_addresses);
    assert!(affected(mk_advertisement("lan", &json!({"interfaces": ["eth0"]}))).all_addresses);
    assert_eq!(affected(mk_node("n2")), Affected::default());
}

#[test]
fn readiness_of_node_or_speaker_affects_the_peer() {
    let not_ready = json!([{"type": "Ready", "status": "Unknown"}]);
    let node = affected(mk_node_with("n2", &json!({}), &not_ready));
    assert_eq!((node.peer.as_deref(), node.all_addresses), (Some("n2"), false));
    assert_eq!(affected(mk_speaker("n3", false)).peer.as_deref(), Some("n3"));
    assert_eq!(
        affected(Update::Speaker("speaker-n3".to_owned(), None))
            .peer
            .as_deref(),
        Some("n3")
    );
}

#[test]
fn one_ready_pod_of_a_speaker_is_enough() {
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
fn invalid_object_keeps_the_previous_version() {
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
        assert_eq!(index.has_invalid_configuration(), configuration, "{kind:?}");
    }
}

#[test]
fn configuration_errors_end_with_a_fix_or_deletion() {
    let mut index = Index::default();
    index.update(mk_pool("lan", &["nonsense"]));
    index.update(mk_advertisement(
        "lan",
        &json!({"nodeSelectors": [{"matchLabels": {"a b": "c"}}]}),
    ));
    assert!(index.has_invalid_configuration());
    index.update(mk_pool("lan", &["192.168.50.0/24"]));
    assert!(index.has_invalid_configuration());
    index.update(Update::Advertisement("lan".to_owned(), None));
    assert!(!index.has_invalid_configuration());
}

#[test]
fn status_affects_its_previous_and_present_service() {
    let mut index = World::new(cluster()).index;
    assert_eq!(index.update(mk_status("web", "n1")).statuses, [key("web")]);
    assert_eq!(index.statuses_of(&key("web")).count(), 1);
    let Update::Status(name, _) = mk_status("web", "n1") else {
        panic!("mk_status makes statuses")
    };
    assert_eq!(index.update(Update::Status(name, None)).statuses, [key("web")]);
    assert_eq!(index.statuses_of(&key("web")).count(), 0);
}
