use super::*;
use crate::upgrade::coverage::tests::mk_node;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn mk_service(name: &str, address: &str, pool: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "annotations": {
            "metallb.io/address-pool": if pool == "x" { "lan" } else { pool }, "metallb.io/ip-allocated-from-pool": if pool == "x" { "lan" } else { pool },
        }},
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": if address.is_empty() { json!([]) } else { json!([{"ip": address}]) }}},
    }))
    .unwrap()
}

fn mk_status(name: &str, address: &str, verified: &str, conflict: bool) -> ServiceL2Status {
    let mac = conflict.then_some("02:00:00:00:00:05");
    serde_json::from_value(json!({
        "metadata": {"name": format!("l2-{name}"), "namespace": "metallb-system"},
        "spec": {},
        "status": {
            "node": "n1", "serviceName": name, "serviceNamespace": "ns", "address": address, "conflictingMAC": mac,
            // The clock of the node is wrong by years.
            "conditions": [{"type": "Verified", "status": verified, "reason": "NoReply", "message": "node n2 asked",
                            "lastTransitionTime": "1999-01-01T00:00:00Z"}],
        },
    }))
    .unwrap()
}

fn mk_pool(ranges: &str) -> IPAddressPool {
    serde_json::from_value(json!({
        "metadata": {"name": "lan", "namespace": "metallb-system"}, "spec": {"addresses": [ranges]},
    }))
    .unwrap()
}

fn mk_advertisement(selector: &serde_json::Value) -> L2Advertisement {
    serde_json::from_value(json!({
        "metadata": {"name": "lan", "namespace": "metallb-system"},
        "spec": {"ipAddressPools": ["lan"], "nodeSelectors": [{"matchLabels": selector}]},
    }))
    .unwrap()
}

fn see(observer: &mut ServiceObserver, service: Service, second: i64) {
    observer.handle(Observation::Service(Change::Apply(service)), at(second));
}

fn announce(observer: &mut ServiceObserver, status: ServiceL2Status, second: i64) {
    observer.handle(Observation::Announced(Change::Apply(status)), at(second));
}

/// Services `a` and `b` with one verified address each.
fn mk_observer() -> ServiceObserver {
    let mut observer = ServiceObserver::new(None);
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        see(&mut observer, mk_service(name, address, "x"), 0);
        announce(&mut observer, mk_status(name, address, "True", false), 0);
    }
    let t = at(0);
    observer.handle(Observation::Pool(Change::Apply(mk_pool("10.0.0.0/24"))), t);
    observer.handle(Observation::Service(Change::Synced), t);
    observer.handle(Observation::Announced(Change::Synced), t);
    observer.handle(Observation::Pool(Change::Synced), t);
    observer.handle(Observation::Advertisement(Change::Synced), t);
    assert!(!observer.is_complete());
    observer.handle(Observation::Namespace(Change::Synced), t);
    assert!(observer.is_complete());
    observer.set_baseline();
    observer
}

#[test]
fn address_change_without_an_edit_counts_after_a_while() {
    let mut observer = mk_observer();
    see(&mut observer, mk_service("a", "", "x"), 10);
    see(&mut observer, mk_service("b", "10.0.0.3", "x"), 10);
    assert_eq!(observer.changed_addresses(at(10)), Vec::<String>::new());
    assert_eq!(
        observer.changed_addresses(at(10 + SETTLE_SECONDS)),
        [
            "Service ns/a changed from 10.0.0.1 to no address",
            "Service ns/b changed from 10.0.0.2 to 10.0.0.3"
        ]
    );
    see(&mut observer, mk_service("a", "10.0.0.1", "x"), 20);
    observer.handle(
        Observation::Service(Change::Delete(ObjectKey::new("ns", "b"))),
        at(20),
    );
    assert_eq!(
        observer.changed_addresses(at(99)),
        Vec::<String>::new(),
        "one is back, one is deleted"
    );
}

/// O-04: the request and the address that follows it are two writes by two clients.
#[test]
fn edited_service_is_not_counted_in_either_order_of_events() {
    let mut observer = mk_observer();
    see(&mut observer, mk_service("a", "10.0.0.1", "y"), 10);
    see(&mut observer, mk_service("a", "10.0.0.9", "y"), 11);
    assert_eq!(observer.changed_addresses(at(99)), Vec::<String>::new());
    let mut observer = mk_observer();
    see(&mut observer, mk_service("a", "10.0.0.9", "x"), 10);
    see(&mut observer, mk_service("a", "10.0.0.9", "y"), 11);
    assert_eq!(observer.changed_addresses(at(99)), Vec::<String>::new());
}

/// The edit was before the first list, the answer comes after the baseline.
#[test]
fn unanswered_edit_before_the_baseline_is_not_counted() {
    let mut observer = ServiceObserver::new(None);
    let mut service = mk_service("a", "10.0.0.1", "x");
    let annotations = service.metadata.annotations.as_mut().unwrap();
    annotations.insert("metallb.io/address-pool".to_owned(), "other".to_owned());
    see(&mut observer, service.clone(), 0);
    observer.listed = [true; 5];
    observer.set_baseline();
    let annotations = service.metadata.annotations.as_mut().unwrap();
    annotations.insert("metallb.io/ip-allocated-from-pool".to_owned(), "other".to_owned());
    service.status = mk_service("a", "10.0.1.1", "x").status;
    see(&mut observer, service, 10);
    assert_eq!(observer.changed_addresses(at(99)), Vec::<String>::new());
}

/// An operator that starts in the middle of an upgrade does not know what was before.
#[test]
fn addresses_are_not_judged_without_a_baseline() {
    let mut observer = mk_observer();
    observer.has_baseline = false;
    see(&mut observer, mk_service("a", "", "x"), 10);
    assert_eq!(observer.changed_addresses(at(99)), Vec::<String>::new());
}

#[test]
fn edit_of_a_pool_or_of_another_service_explains_a_change() {
    let mut observer = mk_observer();
    see(&mut observer, mk_service("a", "", "x"), 10);
    observer.handle(Observation::Pool(Change::Apply(mk_pool("10.0.1.0/24"))), at(12));
    assert_eq!(observer.changed_addresses(at(99)), Vec::<String>::new());
    // Another Service takes the shared address.
    let mut observer = mk_observer();
    see(&mut observer, mk_service("a", "", "x"), 10);
    see(&mut observer, mk_service("c", "10.0.0.1", "x"), 11);
    assert_eq!(observer.changed_addresses(at(99)), Vec::<String>::new());
    // Writes of the controller to the pool's status are no edit.
    let mut observer = mk_observer();
    see(&mut observer, mk_service("a", "", "x"), 10);
    observer.handle(Observation::Pool(Change::Apply(mk_pool("10.0.0.0/24"))), at(12));
    assert_eq!(observer.changed_addresses(at(99)).len(), 1);
}

#[test]
fn unanswered_address_counts_only_if_it_was_answered_before() {
    let mut observer = mk_observer();
    announce(&mut observer, mk_status("a", "10.0.0.1", "False", false), 10);
    assert_eq!(observer.failed_verifications(at(11)), []);
    let failed = observer.failed_verifications(at(15));
    assert_eq!(failed.first().unwrap().message, "Service ns/a: node n2 asked");
    assert_eq!((failed[0].node.as_str(), failed[0].since), ("n1", at(10)));
    // The state before the upgrade.
    observer.set_baseline();
    assert_eq!(observer.failed_verifications(at(99)), []);
    assert_eq!(observer.announced_services().get("n1"), Some(&2));
}

/// A foreign host answers for the address of a Service, which is new or not, before or after it is not answered.
#[test]
fn conflicts_and_new_services_are_not_counted() {
    let mut observer = mk_observer();
    announce(&mut observer, mk_status("a", "10.0.0.1", "False", false), 10);
    announce(&mut observer, mk_status("a", "10.0.0.1", "False", true), 11);
    announce(&mut observer, mk_status("a", "10.0.0.1", "False", false), 12);
    see(&mut observer, mk_service("c", "10.0.0.3", "x"), 10);
    announce(&mut observer, mk_status("c", "10.0.0.3", "False", true), 11);
    see(&mut observer, mk_service("d", "10.0.0.4", "x"), 10);
    announce(&mut observer, mk_status("d", "10.0.0.4", "True", false), 11);
    announce(&mut observer, mk_status("d", "10.0.0.4", "False", false), 12);
    see(&mut observer, mk_service("b", "10.0.0.2", "edited"), 10);
    announce(&mut observer, mk_status("b", "10.0.0.2", "False", false), 12);
    assert_eq!(observer.failed_verifications(at(99)), []);
}

#[test]
fn address_without_an_eligible_node_is_named() {
    let mut observer = mk_observer();
    let (one, two) = (
        mk_node(&json!({"rack": "a"}), &[]),
        mk_node(&json!({"rack": "b"}), &[]),
    );
    let select_a = mk_advertisement(&json!({"rack": "a"}));
    observer.handle(Observation::Advertisement(Change::Apply(select_a)), at(1));
    assert_eq!(
        observer.addresses_without_node(&[&one, &two]),
        Vec::<String>::new()
    );
    assert_eq!(
        observer.addresses_without_node(&[&two]),
        [
            "10.0.0.1 of Service ns/a, announced by n1",
            "10.0.0.2 of Service ns/b, announced by n1"
        ]
    );
}
