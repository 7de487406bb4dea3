//! Pool settings beyond MetalLB's: strategies, hold-down, exclusions and quotas; and addresses outside all pools.

mod support;

use lb_ipam::{
    AdoptRequest, AllocationStrategy, Families, Origin, PoolAnnotations, PoolCandidate, PoolError,
    RecordedPools, SharingMode,
};
use support::{
    Ipam, V4, V6, addresses, assign, auto, exactly, from, ip, mk_ipam, mk_pool, mk_pools, range, with,
};

fn pool(ranges: &[&str], annotations: PoolAnnotations) -> PoolCandidate {
    with(mk_pool("lan", ranges), |spec| spec.annotations = annotations)
}

fn with_hold_down(hold_down: u32) -> PoolAnnotations {
    PoolAnnotations {
        hold_down,
        ..PoolAnnotations::default()
    }
}

fn least_recently_used() -> PoolAnnotations {
    PoolAnnotations {
        strategy: AllocationStrategy::LeastRecentlyUsed,
        ..PoolAnnotations::default()
    }
}

/// The last octet of the assigned address, or the rejection.
fn get(ipam: &mut Ipam, service: &'static str) -> String {
    let assigned = assign(ipam, service, &auto(V4));
    assigned
        .strip_prefix("lan: [\"10.0.0.")
        .and_then(|rest| rest.strip_suffix("\"]"))
        .map_or(assigned.clone(), str::to_owned)
}

#[test]
fn released_address_is_in_hold_down() {
    let mut ipam = mk_ipam([pool(&["10.0.0.0/30"], with_hold_down(60))]);
    ipam.advance_to(1000);
    assert_eq!(
        (get(&mut ipam, "a"), get(&mut ipam, "b")),
        ("0".to_owned(), "1".to_owned())
    );
    ipam.release(&"a");
    assert_eq!(get(&mut ipam, "c"), "2");
    assert_eq!(ipam.next_hold_down_end(), Some(1060));
    ipam.advance_to(1059);
    assert_eq!(get(&mut ipam, "d"), "3");
    let rejection = get(&mut ipam, "e");
    assert!(
        rejection.contains("pool \"lan\" is exhausted (3 of 4 in use, 1 in hold-down for another 1 s)"),
        "{rejection}"
    );
    ipam.advance_to(1060);
    assert_eq!(
        (ipam.next_hold_down_end(), get(&mut ipam, "e")),
        (None, "0".to_owned())
    );
}

#[test]
fn requested_address_ignores_hold_down() {
    let mut ipam = mk_ipam([pool(&["10.0.0.0/30"], with_hold_down(60))]);
    get(&mut ipam, "a");
    ipam.release(&"a");
    assert_eq!(
        assign(&mut ipam, "a", &exactly(&["10.0.0.0"], None)),
        "lan: [\"10.0.0.0\"]"
    );
    assert_eq!(ipam.next_hold_down_end(), None);
}

#[test]
fn least_recently_used_prefers_unused_then_oldest_release() {
    let mut ipam = mk_ipam([pool(&["10.0.0.0/30"], least_recently_used())]);
    for (service, last) in [("a", "0"), ("b", "1"), ("c", "2")] {
        assert_eq!(get(&mut ipam, service), last);
    }
    ipam.release(&"b");
    ipam.release(&"a");
    for (service, last) in [("d", "3"), ("e", "1"), ("f", "0")] {
        assert_eq!(get(&mut ipam, service), last, "{service}");
    }
    assert!(get(&mut ipam, "g").contains("exhausted (4 of 4 in use)"));
}

#[test]
fn hold_down_applies_to_least_recently_used() {
    let annotations = PoolAnnotations {
        hold_down: 10,
        ..least_recently_used()
    };
    let mut ipam = mk_ipam([pool(&["10.0.0.0/31"], annotations)]);
    get(&mut ipam, "a");
    get(&mut ipam, "b");
    ipam.advance_to(5);
    ipam.release(&"a");
    assert!(get(&mut ipam, "c").contains("1 in hold-down for another 10 s"));
    assert_eq!(ipam.next_hold_down_end(), Some(15));
    ipam.advance_to(15);
    assert_eq!(get(&mut ipam, "c"), "0");
}

#[test]
fn releases_survive_pool_edits_and_failover() {
    let mut ipam = mk_ipam([pool(&["10.0.0.0/30"], with_hold_down(60))]);
    get(&mut ipam, "a");
    get(&mut ipam, "b");
    ipam.advance_to(7);
    ipam.release(&"a");
    ipam.set_pools(mk_pools([pool(&["10.0.0.0/29"], with_hold_down(60))]));
    assert_eq!(get(&mut ipam, "c"), "2", "the pool has grown");
    let released = ipam.pool("lan").unwrap().unwrap().released(10);
    assert_eq!(released, [(ip("10.0.0.0"), 7)]);

    let mut successor = mk_ipam([pool(&["10.0.0.0/29"], with_hold_down(60))]);
    successor.advance_to(10);
    for (address, since) in released {
        successor.remember_release(address, since);
    }
    assert_eq!(
        (get(&mut successor, "x"), successor.next_hold_down_end()),
        ("1".to_owned(), Some(67))
    );
    // Without a hold-down it is assigned at once.
    successor.set_pools(mk_pools([pool(&["10.0.0.0/29"], PoolAnnotations::default())]));
    assert_eq!(get(&mut successor, "y"), "0");
}

#[test]
fn excluded_addresses_are_not_assigned_or_counted() {
    let excluded = PoolAnnotations {
        excluded: vec![range("10.0.0.1-10.0.0.2")],
        ..PoolAnnotations::default()
    };
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
    assert_eq!(
        (get(&mut ipam, "a"), get(&mut ipam, "b")),
        ("0".to_owned(), "1".to_owned())
    );
    let changed = ipam.set_pools(mk_pools([pool(&["10.0.0.0/30"], excluded)]));
    assert_eq!(changed.cleared.len(), 1);
    assert_eq!(
        changed.cleared[0].rejection.to_string(),
        "\"10.0.0.1\" is not allowed in config: pool \"lan\" excludes 10.0.0.1-10.0.0.2: request another address, or change \
         the pool's annotation lb-operator.io/excluded-addresses"
    );
    assert_eq!(get(&mut ipam, "b"), "3");
    assert!(assign(&mut ipam, "c", &exactly(&["10.0.0.2"], None)).contains("excludes"));
    let pool = ipam.pool("lan").unwrap().unwrap();
    assert_eq!(pool.capacity(lb_ipam::Family::V4), 2);
    let others = mk_pools([pool_of_everything_excluded(), mk_pool("other", &["10.0.0.1/32"])]);
    let mut ipam = Ipam::default();
    ipam.set_pools(others);
    assert!(ipam.pool("lan").unwrap().is_err(), "no address is left");
}

fn pool_of_everything_excluded() -> PoolCandidate {
    let excluded = vec![range("10.0.0.0-10.0.0.255")];
    pool(
        &["10.0.0.0/30"],
        PoolAnnotations {
            excluded,
            ..PoolAnnotations::default()
        },
    )
}

#[test]
fn namespace_quota_is_enforced_per_family() {
    let quota = PoolAnnotations {
        namespace_quota: Some(2),
        ..PoolAnnotations::default()
    };
    let mut ipam = mk_ipam([pool(&["10.0.0.0/29", "fd00::/125"], quota)]);
    assert_eq!(
        (get(&mut ipam, "x/a"), get(&mut ipam, "x/b")),
        ("0".to_owned(), "1".to_owned())
    );
    let exceeded = "no available IPs in pool lan for namespace x: quota of 2 addresses per IP family reached: delete a Service \
                there, share an address, or raise the pool's annotation lb-operator.io/namespace-quota";
    assert_eq!(get(&mut ipam, "x/c"), exceeded);
    assert_eq!(assign(&mut ipam, "x/c", &exactly(&["10.0.0.7"], None)), exceeded);
    assert_eq!(assign(&mut ipam, "x/c", &from("lan")), exceeded);
    assert_eq!(
        assign(&mut ipam, "x/c", &auto(V6)),
        "lan: [\"fd00::1\"]",
        "each family has its own quota"
    );
    assert_eq!(get(&mut ipam, "y/a"), "2");
    // A move within the pool does not need another address of the quota.
    assert_eq!(
        assign(&mut ipam, "x/a", &exactly(&["10.0.0.7"], None)),
        "lan: [\"10.0.0.7\"]"
    );
    ipam.release(&"x/b");
    assert_eq!(get(&mut ipam, "x/d"), "0");
}

#[test]
fn quota_counts_shared_addresses_once_and_evicts_nothing() {
    let quota = |quota| PoolAnnotations {
        namespace_quota: Some(quota),
        ..PoolAnnotations::default()
    };
    let shares = |port| {
        let mut request = auto(V4);
        request.sharing_mode = SharingMode::Shared(Box::new(lb_ipam::Sharing {
            key: "k".to_owned(),
            ports: [lb_ipam::Port {
                protocol: "TCP".to_owned(),
                number: port,
            }]
            .into(),
            backend: String::new(),
        }));
        request
    };
    let mut ipam = mk_ipam([pool(&["10.0.0.0/29"], quota(1))]);
    for (service, port) in [("x/a", 80), ("x/b", 81), ("y/c", 82)] {
        assert_eq!(assign(&mut ipam, service, &shares(port)), "lan: [\"10.0.0.0\"]");
    }
    // Every address moves to a pool that counts from zero.
    let changed = ipam.set_pools(mk_pools([pool(&["10.0.0.0/28"], quota(1))]));
    assert!(changed.cleared.is_empty());
    assert!(get(&mut ipam, "x/d").contains("quota"));
    ipam.release(&"x/a");
    assert!(get(&mut ipam, "x/d").contains("quota"), "x/b still has it");
    ipam.release(&"x/b");
    assert_eq!(get(&mut ipam, "x/d"), "1");
    ipam.set_pools(mk_pools([pool(&["10.0.0.0/28"], quota(0))]));
    assert_eq!(get(&mut ipam, "x/d"), "1");
    assert!(get(&mut ipam, "x/e").contains("quota"));
}

#[test]
fn address_outside_pools_is_kept_until_request_changes() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
    let request = |recorded| AdoptRequest {
        addresses: addresses(&["10.9.9.9", "fd00::9"]),
        recorded: RecordedPools(recorded),
        sharing_mode: SharingMode::Exclusive,
        allow_outside_pools: true,
    };
    assert_eq!(ipam.adopt(&"x", request(Some("old"))), Ok(()));
    let has = ipam.assignment(&"x").unwrap();
    assert_eq!(has.pool_names().as_deref(), Some("old"));
    assert!(
        has.parts()
            .all(|(_, origin)| matches!(origin, Origin::Outside(_)))
    );
    let in_use = ipam.adopt(&"y", request(None)).unwrap_err().to_string();
    assert!(in_use.contains("in use by x"), "{in_use}");

    // Neither a new decision nor an edit of other pools moves it.
    assert_eq!(
        assign(&mut ipam, "x", &auto(Families::RequireDualStack)),
        "old: [\"10.9.9.9\" \"fd00::9\"]"
    );
    let grown = [mk_pool("lan", &["10.0.0.0/28"]), mk_pool("new", &["10.9.9.0/24"])];
    let changed = ipam.set_pools(mk_pools(grown));
    assert!(changed.cleared.is_empty());
    assert_eq!(changed.renamed, ["x"]);
    assert_eq!(
        ipam.assignment(&"x").unwrap().pool_names().as_deref(),
        Some("new,old")
    );
    assert_eq!(ipam.pool("new").unwrap().unwrap().used(lb_ipam::Family::V4), 1);
    assert_eq!(assign(&mut ipam, "x", &from("lan")), "lan: [\"10.0.0.0\"]");
}

#[test]
fn invalid_pool_does_not_forget_releases() {
    let held = || {
        with(mk_pool("p", &["10.0.0.1-10.0.0.3"]), |spec| {
            spec.annotations.hold_down = 600
        })
    };
    let invalid = || PoolCandidate {
        spec: Err(PoolError::NoAddresses),
        was_invalid: false,
        created: 0,
    };
    let mut ipam = mk_ipam([held()]);
    ipam.advance_to(100);
    for service in ["x/a", "x/b"] {
        assign(&mut ipam, service, &auto(V4));
        ipam.release(&service);
    }
    let released = ipam.released("p", 9);
    assert_eq!(released.len(), 2);
    ipam.set_pools([("p".to_owned(), invalid())].into());
    ipam.set_pools([("p".to_owned(), invalid())].into());
    assert_eq!(ipam.released("p", 9), released);
    // A successor that takes over meanwhile knows it too.
    let mut successor = Ipam::default();
    successor.set_pools([("p".to_owned(), invalid())].into());
    successor.restore_releases("p", &released);
    for ipam in [&mut ipam, &mut successor] {
        ipam.advance_to(101);
        ipam.set_pools(mk_pools([held()]));
        assert_eq!(ipam.released("p", 9), released);
    }
}
