//! What MetalLB's pools do not have: strategies, hold-down, exclusions, quotas; and addresses that no pool has.

mod support;

use lb_ipam::{Candidate, Claimed, Extras, Families, Keep, Origin, Strategy, Tenancy};
use support::{
    Ipam, V4, V6, addresses, assign, auto, exactly, from, ip, mk_ipam, mk_pool, mk_pools, range, with,
};

fn pool(ranges: &[&str], extras: Extras) -> Candidate {
    with(mk_pool("lan", ranges), |spec| spec.extras = extras)
}

fn held_for(hold_down: u32) -> Extras {
    Extras {
        hold_down,
        ..Extras::default()
    }
}

fn least_recently_used() -> Extras {
    Extras {
        strategy: Strategy::LeastRecentlyUsed,
        ..Extras::default()
    }
}

/// The last number of the address that a Service gets.
fn get(ipam: &mut Ipam, service: &'static str) -> String {
    let given = assign(ipam, service, &auto(V4));
    given
        .strip_prefix("lan: [\"10.0.0.")
        .and_then(|rest| rest.strip_suffix("\"]"))
        .map_or(given.clone(), str::to_owned)
}

#[test]
fn a_released_address_is_held_back_for_as_long_as_the_pool_says() {
    let mut ipam = mk_ipam([pool(&["10.0.0.0/30"], held_for(60))]);
    ipam.pass_to(1000);
    assert_eq!(
        (get(&mut ipam, "a"), get(&mut ipam, "b")),
        ("0".to_owned(), "1".to_owned())
    );
    ipam.release(&"a");
    assert_eq!(get(&mut ipam, "c"), "2");
    assert_eq!(ipam.next_wake(), Some(1060));
    ipam.pass_to(1059);
    assert_eq!(get(&mut ipam, "d"), "3");
    let reason = get(&mut ipam, "e");
    assert!(
        reason.contains(
            "pool \"lan\" is exhausted (3 of 4 in use, 1 released too lately: lb-operator.io/hold-down)"
        ),
        "{reason}"
    );
    ipam.pass_to(1060);
    assert_eq!((ipam.next_wake(), get(&mut ipam, "e")), (None, "0".to_owned()));
}

#[test]
fn who_asks_for_a_held_address_gets_it() {
    let mut ipam = mk_ipam([pool(&["10.0.0.0/30"], held_for(60))]);
    get(&mut ipam, "a");
    ipam.release(&"a");
    assert_eq!(
        assign(&mut ipam, "a", &exactly(&["10.0.0.0"], None)),
        "lan: [\"10.0.0.0\"]"
    );
    assert_eq!(ipam.next_wake(), None);
}

#[test]
fn the_address_that_was_released_longest_ago_comes_last_and_first_of_the_used() {
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
fn a_strategy_and_a_hold_down_go_together() {
    let extras = Extras {
        hold_down: 10,
        ..least_recently_used()
    };
    let mut ipam = mk_ipam([pool(&["10.0.0.0/31"], extras)]);
    get(&mut ipam, "a");
    get(&mut ipam, "b");
    ipam.pass_to(5);
    ipam.release(&"a");
    assert!(get(&mut ipam, "c").contains("1 released too lately"));
    assert_eq!(ipam.next_wake(), Some(15));
    ipam.pass_to(15);
    assert_eq!(get(&mut ipam, "c"), "0");
}

#[test]
fn releases_are_remembered_through_edits_and_by_a_successor() {
    let mut ipam = mk_ipam([pool(&["10.0.0.0/30"], held_for(60))]);
    get(&mut ipam, "a");
    get(&mut ipam, "b");
    ipam.pass_to(7);
    ipam.release(&"a");
    ipam.set_pools(mk_pools([pool(&["10.0.0.0/29"], held_for(60))]));
    assert_eq!(get(&mut ipam, "c"), "2", "the pool has grown");
    let released = ipam.pool("lan").unwrap().unwrap().released(10);
    assert_eq!(released, [(ip("10.0.0.0"), 7)]);

    let mut successor = mk_ipam([pool(&["10.0.0.0/29"], held_for(60))]);
    successor.pass_to(10);
    for (address, since) in released {
        successor.remember_release(address, since);
    }
    assert_eq!(
        (get(&mut successor, "x"), successor.next_wake()),
        ("1".to_owned(), Some(67))
    );
    // A pool that holds nothing back any more gives it at once.
    successor.set_pools(mk_pools([pool(&["10.0.0.0/29"], Extras::default())]));
    assert_eq!(get(&mut successor, "y"), "0");
}

#[test]
fn excluded_addresses_are_given_to_nobody_and_not_counted() {
    let excluded = Extras {
        excluded: vec![range("10.0.0.1-10.0.0.2")],
        ..Extras::default()
    };
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
    assert_eq!(
        (get(&mut ipam, "a"), get(&mut ipam, "b")),
        ("0".to_owned(), "1".to_owned())
    );
    let changed = ipam.set_pools(mk_pools([pool(&["10.0.0.0/30"], excluded)]));
    assert_eq!(changed.cleared.len(), 1);
    assert_eq!(
        changed.cleared[0].reason.to_string(),
        "\"10.0.0.1\" is not allowed in config: pool \"lan\" excludes 10.0.0.1-10.0.0.2: ask for another address, or change \
         the pool's annotation lb-operator.io/excluded-addresses"
    );
    assert_eq!(get(&mut ipam, "b"), "3");
    assert!(assign(&mut ipam, "c", &exactly(&["10.0.0.2"], None)).contains("excludes"));
    let pool = ipam.pool("lan").unwrap().unwrap();
    assert_eq!(pool.capacity(lb_ipam::Family::V4), 2);
    let others = mk_pools([pool_of_everything_excluded(), mk_pool("other", &["10.0.0.1/32"])]);
    let mut ipam = Ipam::default();
    ipam.set_pools(others);
    assert!(ipam.pool("lan").unwrap().is_err(), "nothing is left of it");
}

fn pool_of_everything_excluded() -> Candidate {
    let excluded = vec![range("10.0.0.0-10.0.0.255")];
    pool(
        &["10.0.0.0/30"],
        Extras {
            excluded,
            ..Extras::default()
        },
    )
}

#[test]
fn a_namespace_gets_what_its_quota_allows_and_no_more() {
    let quota = Extras {
        namespace_quota: Some(2),
        ..Extras::default()
    };
    let mut ipam = mk_ipam([pool(&["10.0.0.0/29", "fd00::/125"], quota)]);
    assert_eq!(
        (get(&mut ipam, "x/a"), get(&mut ipam, "x/b")),
        ("0".to_owned(), "1".to_owned())
    );
    let says = "no available IPs in pool lan for namespace x: it has the 2 that its quota allows: delete a Service there, \
                share an address, or raise the pool's annotation lb-operator.io/namespace-quota";
    assert_eq!(get(&mut ipam, "x/c"), says);
    assert_eq!(assign(&mut ipam, "x/c", &exactly(&["10.0.0.7"], None)), says);
    assert_eq!(assign(&mut ipam, "x/c", &from("lan")), says);
    assert_eq!(
        assign(&mut ipam, "x/c", &auto(V6)),
        "lan: [\"fd00::\"]",
        "the other family has its own"
    );
    assert_eq!(get(&mut ipam, "y/a"), "2");
    // Who moves within the pool needs no more than before.
    assert_eq!(
        assign(&mut ipam, "x/a", &exactly(&["10.0.0.7"], None)),
        "lan: [\"10.0.0.7\"]"
    );
    ipam.release(&"x/b");
    assert_eq!(get(&mut ipam, "x/d"), "0");
}

#[test]
fn a_shared_address_counts_once_and_a_lower_quota_takes_nothing_away() {
    let quota = |quota| Extras {
        namespace_quota: Some(quota),
        ..Extras::default()
    };
    let shares = |port| {
        let mut request = auto(V4);
        request.tenancy = Tenancy::Shares(Box::new(lb_ipam::Sharing {
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
    // Every address moves to a pool that counts anew.
    let changed = ipam.set_pools(mk_pools([pool(&["10.0.0.0/28"], quota(1))]));
    assert!(changed.cleared.is_empty());
    assert!(get(&mut ipam, "x/d").contains("quota"));
    ipam.release(&"x/a");
    assert!(get(&mut ipam, "x/d").contains("quota"), "x/b has it still");
    ipam.release(&"x/b");
    assert_eq!(get(&mut ipam, "x/d"), "1");
    ipam.set_pools(mk_pools([pool(&["10.0.0.0/28"], quota(0))]));
    assert_eq!(get(&mut ipam, "x/d"), "1");
    assert!(get(&mut ipam, "x/e").contains("quota"));
}

#[test]
fn an_address_that_no_pool_has_is_kept_until_a_pool_has_it_or_its_service_wants_another() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
    let keep = |claimed| Keep {
        addresses: addresses(&["10.9.9.9", "fd00::9"]),
        claimed: Claimed(claimed),
        tenancy: Tenancy::Alone,
        outside: true,
    };
    assert_eq!(ipam.adopt(&"x", keep(Some("old"))), Ok(()));
    let has = ipam.assignment(&"x").unwrap();
    assert_eq!(has.pool_names().as_deref(), Some("old"));
    assert!(
        has.parts()
            .all(|(_, origin)| matches!(origin, Origin::Outside(_)))
    );
    let taken = ipam.adopt(&"y", keep(None)).unwrap_err().to_string();
    assert!(taken.contains("in use by x"), "{taken}");

    // Neither a look at it nor an edit of other pools moves it.
    assert_eq!(
        assign(&mut ipam, "x", &auto(Families::Both)),
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
