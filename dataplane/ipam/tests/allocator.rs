//! The rules of assignment, each by name.

mod support;

use lb_ipam::{Access, Family, PoolSpec, Port, Rejection, Request, Sharing, Tenancy};
use support::{Ipam, V4, V6, adopt, assign, auto, exactly, from, ip, mk_ipam, mk_pool, mk_pools, who, with};

#[test]
fn the_lowest_free_address_is_given_and_a_released_one_is_given_again() {
    let mut ipam = mk_ipam([mk_pool("lan", &["192.168.50.50-192.168.50.52"])]);
    assert_eq!(assign(&mut ipam, "a", &auto(V4)), "lan: [\"192.168.50.50\"]");
    assert_eq!(assign(&mut ipam, "b", &auto(V4)), "lan: [\"192.168.50.51\"]");
    assert_eq!(
        assign(&mut ipam, "a", &auto(V4)),
        "lan: [\"192.168.50.50\"]",
        "it has what it asks for"
    );
    ipam.release(&"a");
    assert_eq!(who(&ipam, "192.168.50.50"), None);
    assert_eq!(assign(&mut ipam, "c", &auto(V4)), "lan: [\"192.168.50.50\"]");
}

#[test]
fn pools_are_tried_in_order_of_name() {
    let mut ipam = mk_ipam([mk_pool("b", &["10.0.0.0/32"]), mk_pool("a", &["10.0.1.0/32"])]);
    assert_eq!(assign(&mut ipam, "x", &auto(V4)), "a: [\"10.0.1.0\"]");
    assert_eq!(assign(&mut ipam, "y", &auto(V4)), "b: [\"10.0.0.0\"]");
}

#[test]
fn a_pool_without_auto_assign_gives_only_what_is_asked_of_it() {
    let manual = with(mk_pool("manual", &["10.0.0.0/30"]), |spec| {
        spec.auto_assign = false
    });
    let mut ipam = mk_ipam([manual]);
    assert!(assign(&mut ipam, "a", &auto(V4)).starts_with("no available IPs: no pool assigns by itself"));
    assert_eq!(assign(&mut ipam, "a", &from("manual")), "manual: [\"10.0.0.0\"]");
    assert_eq!(
        assign(&mut ipam, "b", &exactly(&["10.0.0.3"], None)),
        "manual: [\"10.0.0.3\"]"
    );
}

#[test]
fn a_service_that_asks_for_something_else_is_moved() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/30"]), mk_pool("b", &["10.0.1.0/30"])]);
    assign(&mut ipam, "x", &auto(V4));
    assert_eq!(assign(&mut ipam, "x", &from("b")), "b: [\"10.0.1.0\"]");
    assert_eq!(
        assign(&mut ipam, "x", &exactly(&["10.0.0.2"], None)),
        "a: [\"10.0.0.2\"]"
    );
    assert_eq!(who(&ipam, "10.0.0.0"), None);
    assert_eq!(who(&ipam, "10.0.1.0"), None);
}

#[test]
fn every_reason_keeps_the_searched_phrase_and_says_what_to_do() {
    let full = mk_pool("full", &["10.0.0.0/32"]);
    let manual = with(mk_pool("manual", &["10.0.1.0/32"]), |spec| {
        spec.auto_assign = false
    });
    let avoiding = with(mk_pool("avoiding", &["10.0.2.0-10.0.2.1"]), |spec| {
        spec.auto_assign = false;
        spec.avoid_buggy_ips = true;
    });
    let bad = mk_pool("bad", &[]);
    let mut ipam = mk_ipam([full, manual, avoiding, bad]);
    assign(&mut ipam, "ns/first", &auto(V4));
    assign(&mut ipam, "ns/second", &from("manual"));
    for (request, text) in [
        (
            auto(V4),
            "no available IPs: pool \"full\" is exhausted (1 of 1 in use): add addresses to the pool, or delete a Service",
        ),
        (
            auto(V6),
            "no available IPs: no pool with autoAssign has addresses for ipv6 IPFamily: add some to a pool",
        ),
        (
            from("manual"),
            "no available IPs in pool manual for ipv4 IPFamily: pool \"manual\" (1 of 1 in use) is exhausted: add \
             addresses to the pool, or delete a Service",
        ),
        (
            from("nowhere"),
            "unknown pool \"nowhere\": create that IPAddressPool, or ask for another pool",
        ),
        (
            from("bad"),
            "pool bad not compatible for ip assignment: it is invalid: spec.addresses is empty: list at least one CIDR \
             or range (pool has no prefixes defined)",
        ),
        (
            exactly(&["10.1.2.3"], None),
            "\"10.1.2.3\" is not allowed in config: no usable pool contains it: ask for another address, or add it to a \
             pool",
        ),
        (
            exactly(&["10.0.2.0"], None),
            "\"10.0.2.0\" is not allowed in config: pool \"avoiding\" avoids addresses that end in .0 or .255: ask for \
             another address, or set avoidBuggyIPs to false",
        ),
        (
            exactly(&["10.0.0.0"], None),
            "can't assign \"10.0.0.0\", address also in use by ns/first: ask for another address, or delete that Service",
        ),
        (
            exactly(&["10.0.2.1"], Some("full")),
            "requested loadBalancer IP(s) [\"10.0.2.1\"] is not compatible with requested address pool full: it is of \
             pool \"avoiding\": ask for that pool, or for another address",
        ),
    ] {
        assert_eq!(assign(&mut ipam, "ns/late", &request), text);
    }
}

#[test]
fn without_a_valid_pool_the_reason_says_so() {
    let mut ipam = mk_ipam([]);
    assert_eq!(
        assign(&mut ipam, "a", &auto(V4)),
        "no available IPs: there is no pool: create an IPAddressPool"
    );
    ipam.set_pools(mk_pools([mk_pool("bad", &[])]));
    assert!(
        assign(&mut ipam, "a", &auto(V4))
            .starts_with("no available IPs: pool \"bad\" is invalid: spec.addresses")
    );
}

#[test]
fn the_numbers_of_a_full_pool_are_not_a_new_reason() {
    let reason = |ipam: &mut Ipam| ipam.assign(&"late", &auto(V4), &|_| true).unwrap_err();
    let mut small = mk_ipam([mk_pool("a", &["10.0.0.0/32"])]);
    assign(&mut small, "x", &auto(V4));
    let before = reason(&mut small);
    small.set_pools(mk_pools([mk_pool("a", &["10.0.0.0/31"])]));
    assign(&mut small, "y", &auto(V4));
    assert_ne!(before, reason(&mut small));
    assert!(before.says_the_same_as(&reason(&mut small)));
    assert!(!before.says_the_same_as(&Rejection::NoPools));
    assert_eq!(
        before.lasting(),
        "no available IPs: pool \"a\" is exhausted: add addresses to the pool, or delete a Service"
    );
}

#[test]
fn an_adopted_address_is_never_given_to_another() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
    adopt(&mut ipam, "old", &["10.0.0.0"], None, Tenancy::Alone).unwrap();
    assert_eq!(assign(&mut ipam, "new", &auto(V4)), "lan: [\"10.0.0.1\"]");
    let twice = adopt(&mut ipam, "copy", &["10.0.0.0"], None, Tenancy::Alone).unwrap_err();
    assert!(matches!(twice, Rejection::Taken { owner, .. } if owner == "old"));
}

#[test]
fn a_pool_edit_moves_only_the_services_whose_addresses_it_removes() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/30"]), mk_pool("b", &["10.0.1.0/30"])]);
    for service in ["x", "y"] {
        assign(&mut ipam, service, &from("a"));
    }
    assign(&mut ipam, "z", &from("b"));
    let cleared = ipam
        .set_pools(mk_pools([
            mk_pool("a", &["10.0.0.1-10.0.0.9"]),
            mk_pool("b", &["10.0.1.0/30"]),
        ]))
        .cleared;
    let services: Vec<_> = cleared.iter().map(|cleared| cleared.service).collect();
    assert_eq!(services, ["x"]);
    assert_eq!(cleared[0].reason, Rejection::NotInAnyPool(ip("10.0.0.0")));
    assert_eq!(who(&ipam, "10.0.0.1"), Some("y"));
    assert_eq!(assign(&mut ipam, "x", &from("a")), "a: [\"10.0.0.2\"]");
}

#[test]
fn an_address_that_moves_to_another_pool_stays_with_its_service() {
    let mut ipam = mk_ipam([mk_pool("old", &["10.0.0.0/30"])]);
    assign(&mut ipam, "x", &auto(V4));
    let changed = ipam.set_pools(mk_pools([mk_pool("new", &["10.0.0.0/24"])]));
    assert_eq!((changed.cleared.len(), changed.renamed), (0, vec!["x"]));
    assert_eq!(
        ipam.assignment(&"x").unwrap().pool_names().as_deref(),
        Some("new")
    );
}

#[test]
fn a_deleted_pool_clears_its_services() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/30"])]);
    assign(&mut ipam, "x", &auto(V4));
    assert_eq!(ipam.set_pools(mk_pools([])).cleared.len(), 1);
    assert_eq!(ipam.assignment(&"x"), None);
}

#[test]
fn a_pool_that_becomes_invalid_keeps_its_services_and_takes_no_new_ones() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/30"]), mk_pool("b", &["10.0.1.0/30"])]);
    assign(&mut ipam, "x", &from("a"));
    let spoiled = || {
        mk_pools([
            mk_pool("a", &["10.0.1.3-10.0.1.9"]),
            mk_pool("b", &["10.0.1.0/30"]),
        ])
    };
    assert!(ipam.set_pools(spoiled()).cleared.is_empty());
    assert_eq!(who(&ipam, "10.0.0.0"), Some("x"));
    assert!(assign(&mut ipam, "y", &from("a")).contains("it is invalid"));
    assert_eq!(assign(&mut ipam, "y", &auto(V4)), "b: [\"10.0.1.0\"]");

    // The same after a restart, when only the Service's own words tell where its address is from.
    let mut restarted = Ipam::default();
    restarted.set_pools(mk_pools([
        mk_pool("b", &["10.0.1.0/30"]),
        lb_ipam::Candidate {
            found_invalid: true,
            created: -1,
            ..mk_pool("a", &["10.0.1.3-10.0.1.9"])
        },
    ]));
    assert!(adopt(&mut restarted, "x", &["10.0.0.0"], Some("a"), Tenancy::Alone).is_ok());
    assert!(
        adopt(
            &mut restarted,
            "w",
            &["10.9.9.9"],
            Some("nowhere"),
            Tenancy::Alone
        )
        .is_err()
    );

    // Put right again, it counts the address that it never lost.
    assert!(
        ipam.set_pools(mk_pools([
            mk_pool("a", &["10.0.0.0/30"]),
            mk_pool("b", &["10.0.1.0/30"])
        ]))
        .cleared
        .is_empty()
    );
    assert_eq!(assign(&mut ipam, "z", &from("a")), "a: [\"10.0.0.1\"]");
}

fn invalid(ipam: &Ipam) -> Vec<String> {
    let verdicts = ipam.pools();
    verdicts
        .filter_map(|(name, pool)| pool.err().map(|error| format!("{name}: {error}")))
        .collect()
}

#[test]
fn of_two_overlapping_pools_the_older_is_in_force_and_the_other_is_told() {
    let older = || lb_ipam::Candidate {
        created: 1,
        ..mk_pool("z-older", &["10.0.0.0/24"])
    };
    let younger = || lb_ipam::Candidate {
        created: 2,
        ..mk_pool("a-younger", &["10.9.0.0/24", "10.0.0.200-10.0.1.10"])
    };
    let ipam = mk_ipam([older(), younger(), mk_pool("other", &["10.8.0.0/24"])]);
    assert_eq!(
        invalid(&ipam),
        [
            "a-younger: spec.addresses[1] (10.0.0.200-10.0.1.10) overlaps 10.0.0.0-10.0.0.255 of pool \"z-older\": remove \
             the common addresses from one of the two pools"
        ]
    );
}

#[test]
fn the_pool_whose_edit_makes_the_overlap_is_the_one_that_is_told() {
    let pool = |name, created, range| lb_ipam::Candidate {
        created,
        ..mk_pool(name, &[range])
    };
    let mut ipam = mk_ipam([pool("older", 1, "10.0.0.0/24"), pool("younger", 2, "10.0.1.0/24")]);
    let edited = || [pool("older", 1, "10.0.0.0/23"), pool("younger", 2, "10.0.1.0/24")];
    ipam.set_pools(mk_pools(edited()));
    assert!(invalid(&ipam)[0].starts_with("older: "));

    // After a restart only the verdict in the pool's own status is left to tell.
    let restarted = mk_ipam(edited().map(|pool| lb_ipam::Candidate {
        found_invalid: pool.created == 1,
        ..pool
    }));
    assert_eq!(invalid(&restarted), invalid(&ipam));
}

#[test]
fn a_pool_that_overlaps_itself_or_has_nothing_to_give_is_told() {
    let avoiding = with(mk_pool("nothing", &["10.1.0.0/32"]), |spec| {
        spec.avoid_buggy_ips = true
    });
    let ipam = mk_ipam([mk_pool("twice", &["10.0.0.0/24", "10.0.0.9-10.0.0.9"]), avoiding]);
    let told = invalid(&ipam);
    assert!(
        told[0].starts_with("nothing: spec.avoidBuggyIPs, or the annotation"),
        "{told:?}"
    );
    assert!(told[1].starts_with(
        "twice: spec.addresses[1] (10.0.0.9-10.0.0.9) overlaps 10.0.0.0-10.0.0.255 of the same"
    ));
}

#[test]
fn a_huge_pool_costs_what_its_assigned_addresses_cost() {
    let mut ipam = mk_ipam([mk_pool("v4", &["10.0.0.0/8"]), mk_pool("v6", &["fd00::/64"])]);
    assert_eq!(
        assign(&mut ipam, "a", &exactly(&["10.255.255.255"], None)),
        "v4: [\"10.255.255.255\"]"
    );
    assert_eq!(assign(&mut ipam, "b", &auto(V4)), "v4: [\"10.0.0.0\"]");
    assert_eq!(assign(&mut ipam, "c", &auto(V6)), "v6: [\"fd00::\"]");
}

fn chosen(priority: u32) -> impl FnOnce(&mut PoolSpec) {
    move |spec| spec.access = Access::Chosen { priority }
}

#[test]
fn pools_for_some_services_come_before_those_for_everybody_by_priority_and_then_by_name() {
    let mut ipam = mk_ipam([
        mk_pool("a-everybody", &["10.0.0.0/32"]),
        with(mk_pool("b-last", &["10.0.1.0/32"]), chosen(0)),
        with(mk_pool("c-second", &["10.0.2.0/32"]), chosen(50)),
        with(mk_pool("d-first", &["10.0.3.0/32"]), chosen(1)),
        with(mk_pool("e-second", &["10.0.4.0/32"]), chosen(50)),
        with(mk_pool("f-not-mine", &["10.0.5.0/32"]), chosen(1)),
    ]);
    let mine = |pool: &str| pool != "f-not-mine";
    let order: Vec<_> = ["1", "2", "3", "4", "5"]
        .iter()
        .map(|service| {
            ipam.assign(service, &auto(V4), &mine)
                .unwrap()
                .assignment
                .pool_names()
                .unwrap()
        })
        .collect();
    assert_eq!(
        order,
        ["d-first", "c-second", "e-second", "b-last", "a-everybody"]
    );
    let full = ipam.assign(&"6", &auto(V4), &mine).unwrap_err().to_string();
    assert!(
        !full.contains("f-not-mine"),
        "another's pool is no way out: {full}"
    );
}

#[test]
fn a_pool_for_others_is_refused_by_pool_by_address_and_by_default() {
    let mut ipam = mk_ipam([with(mk_pool("theirs", &["10.0.0.0/30"]), chosen(0))]);
    let nobody = |_: &str| false;
    for request in [
        from("theirs"),
        exactly(&["10.0.0.1"], None),
        exactly(&["10.0.0.1"], Some("theirs")),
    ] {
        let error = ipam.assign(&"x", &request, &nobody).unwrap_err().to_string();
        assert!(
            error.starts_with("pool theirs not compatible for ip assignment"),
            "{error}"
        );
    }
    let error = ipam.assign(&"x", &auto(V4), &nobody).unwrap_err().to_string();
    assert!(error.contains("serviceAllocation"), "{error}");
    assert!(ipam.assignment(&"x").is_none());
}

fn shares(mut request: Request, key: &str, ports: &[u16], backend: &str) -> Request {
    let port = |number: &u16| Port {
        protocol: "TCP".to_owned(),
        number: *number,
    };
    request.tenancy = Tenancy::Shares(Box::new(Sharing {
        key: key.to_owned(),
        ports: ports.iter().map(port).collect(),
        backend: backend.to_owned(),
    }));
    request
}

#[test]
fn services_with_one_key_and_different_ports_have_one_address() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
    assert_eq!(assign(&mut ipam, "alone", &auto(V4)), "lan: [\"10.0.0.0\"]");
    assert_eq!(
        assign(&mut ipam, "web", &shares(auto(V4), "k", &[80], "")),
        "lan: [\"10.0.0.1\"]"
    );
    assert_eq!(
        assign(&mut ipam, "dns", &shares(auto(V4), "k", &[53], "")),
        "lan: [\"10.0.0.1\"]"
    );
    assert_eq!(
        assign(&mut ipam, "other", &shares(auto(V4), "else", &[22], "")),
        "lan: [\"10.0.0.2\"]"
    );
    // A port that is taken is no reason to stay without an address.
    assert_eq!(
        assign(&mut ipam, "web2", &shares(auto(V4), "k", &[80], "")),
        "lan: [\"10.0.0.3\"]"
    );
    assert_eq!(
        assign(&mut ipam, "late", &shares(auto(V4), "k", &[443], "")),
        "lan: [\"10.0.0.1\"]"
    );
    let pool = ipam.pool("lan").unwrap().unwrap();
    assert_eq!(pool.used(Family::V4), 4, "an address that is shared counts once");
    // It is free when the last of them goes.
    for service in ["web", "late"] {
        ipam.release(&service);
        assert!(ipam.who_has(ip("10.0.0.1")).next().is_some());
    }
    ipam.release(&"dns");
    assert_eq!(who(&ipam, "10.0.0.1"), None);
    assert_eq!(assign(&mut ipam, "next", &auto(V4)), "lan: [\"10.0.0.1\"]");
}

#[test]
fn a_refused_share_says_with_which_service_and_why() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
    let at = exactly(&["10.0.0.1"], None);
    assign(&mut ipam, "ns/web", &shares(at.clone(), "k", &[80], ""));
    assign(&mut ipam, "ns/plain", &exactly(&["10.0.0.2"], None));
    for (request, says) in [
        (
            at.clone(),
            "can't assign \"10.0.0.1\", address also in use by ns/web",
        ),
        (
            shares(at.clone(), "other", &[81], ""),
            "address also in use by ns/web under another key",
        ),
        (
            shares(at.clone(), "k", &[80, 81], ""),
            "port TCP/80 is already in use on \"10.0.0.1\" by ns/web",
        ),
        (shares(at, "k", &[81], "app=x"), "externalTrafficPolicy Local"),
        (
            shares(exactly(&["10.0.0.2"], None), "k", &[81], ""),
            "ns/plain, which has no annotation metallb.io/allow-shared-ip",
        ),
    ] {
        let said = assign(&mut ipam, "ns/late", &request);
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn an_address_that_is_shared_or_being_left_is_kept_by_those_who_have_it() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/31"])]);
    let (web, dns) = (shares(auto(V4), "k", &[80], ""), shares(auto(V4), "k", &[53], ""));
    assign(&mut ipam, "web", &web);
    let address = ["10.0.0.0"];
    adopt(&mut ipam, "gone", &address, None, Tenancy::Leaves).unwrap();
    assert_eq!(
        assign(&mut ipam, "dns", &dns),
        "lan: [\"10.0.0.0\"]",
        "who fits may still join"
    );
    ipam.release(&"web");
    ipam.release(&"dns");
    assert_eq!(
        assign(&mut ipam, "new", &auto(V4)),
        "lan: [\"10.0.0.1\"]",
        "nobody new while one leaves it"
    );
    assert!(
        adopt(&mut ipam, "web", &address, None, web.tenancy).is_ok(),
        "who had it may keep it"
    );
}
