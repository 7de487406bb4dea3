//! The rules of assignment.

mod support;

use lb_ipam::{Access, Family, PoolSpec, Port, Rejection, Request, Sharing, SharingMode};
use support::{
    Ipam, V4, V6, adopt, assign, auto, exactly, from, holder, ip, mk_ipam, mk_pool, mk_pools, with,
};

#[test]
fn assigns_lowest_free_address_and_reuses_released_one() {
    let mut ipam = mk_ipam([mk_pool("lan", &["192.168.50.50-192.168.50.52"])]);
    assert_eq!(assign(&mut ipam, "a", &auto(V4)), "lan: [\"192.168.50.50\"]");
    assert_eq!(assign(&mut ipam, "b", &auto(V4)), "lan: [\"192.168.50.51\"]");
    assert_eq!(
        assign(&mut ipam, "a", &auto(V4)),
        "lan: [\"192.168.50.50\"]",
        "it has what it requests"
    );
    ipam.release(&"a");
    assert_eq!(holder(&ipam, "192.168.50.50"), None);
    assert_eq!(assign(&mut ipam, "c", &auto(V4)), "lan: [\"192.168.50.50\"]");
}

#[test]
fn pools_are_tried_in_name_order() {
    let mut ipam = mk_ipam([mk_pool("b", &["10.0.0.0/32"]), mk_pool("a", &["10.0.1.0/32"])]);
    assert_eq!(assign(&mut ipam, "x", &auto(V4)), "a: [\"10.0.1.0\"]");
    assert_eq!(assign(&mut ipam, "y", &auto(V4)), "b: [\"10.0.0.0\"]");
}

#[test]
fn pool_without_auto_assign_serves_only_explicit_requests() {
    let manual = with(mk_pool("manual", &["10.0.0.0/30"]), |spec| {
        spec.auto_assign = false
    });
    let mut ipam = mk_ipam([manual]);
    assert!(
        assign(&mut ipam, "a", &auto(V4)).starts_with("no available IPs: no pool has autoAssign enabled")
    );
    assert_eq!(assign(&mut ipam, "a", &from("manual")), "manual: [\"10.0.0.0\"]");
    assert_eq!(
        assign(&mut ipam, "b", &exactly(&["10.0.0.3"], None)),
        "manual: [\"10.0.0.3\"]"
    );
}

#[test]
fn changed_request_moves_the_service() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/30"]), mk_pool("b", &["10.0.1.0/30"])]);
    assign(&mut ipam, "x", &auto(V4));
    assert_eq!(assign(&mut ipam, "x", &from("b")), "b: [\"10.0.1.0\"]");
    assert_eq!(
        assign(&mut ipam, "x", &exactly(&["10.0.0.2"], None)),
        "a: [\"10.0.0.2\"]"
    );
    assert_eq!(holder(&ipam, "10.0.0.0"), None);
    assert_eq!(holder(&ipam, "10.0.1.0"), None);
}

#[test]
fn rejections_keep_metallb_phrase_and_name_remedy() {
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
            "no available IPs in pool manual for ipv4 IPFamily: it is exhausted (1 of 1 in use): add addresses to the \
             pool, or delete a Service",
        ),
        (
            from("nowhere"),
            "unknown pool \"nowhere\": create that IPAddressPool, or request another pool",
        ),
        (
            from("bad"),
            "pool bad not compatible for ip assignment: it is invalid: spec.addresses is empty: list at least one CIDR \
             or range (pool has no prefixes defined)",
        ),
        (
            exactly(&["10.1.2.3"], None),
            "\"10.1.2.3\" is not allowed in config: no usable pool contains it: request another address, or add it to a \
             pool",
        ),
        (
            exactly(&["10.0.2.0"], None),
            "\"10.0.2.0\" is not allowed in config: pool \"avoiding\" avoids addresses that end in .0 or .255: request \
             another address, or set avoidBuggyIPs to false",
        ),
        (
            exactly(&["10.0.0.0"], None),
            "can't assign \"10.0.0.0\", address also in use by ns/first: request another address, or delete that Service",
        ),
        (
            exactly(&["10.0.2.1"], Some("full")),
            "requested loadBalancer IP(s) [\"10.0.2.1\"] is not compatible with requested address pool full: the \
             address is in pool \"avoiding\": request that pool, or another address",
        ),
    ] {
        assert_eq!(assign(&mut ipam, "ns/late", &request), text);
    }
}

#[test]
fn rejection_names_missing_or_invalid_pools() {
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
fn usage_of_exhausted_pool_is_no_new_cause() {
    let rejection = |ipam: &mut Ipam| ipam.assign(&"late", &auto(V4), &|_| true).unwrap_err();
    let mut small = mk_ipam([mk_pool("a", &["10.0.0.0/32"])]);
    assign(&mut small, "x", &auto(V4));
    let before = rejection(&mut small);
    small.set_pools(mk_pools([mk_pool("a", &["10.0.0.0/31"])]));
    assign(&mut small, "y", &auto(V4));
    assert_ne!(before, rejection(&mut small));
    assert!(before.has_same_cause_as(&rejection(&mut small)));
    assert!(!before.has_same_cause_as(&Rejection::NoPools));
    assert_eq!(
        before.stable_message(),
        "no available IPs: pool \"a\" is exhausted: add addresses to the pool, or delete a Service"
    );
}

#[test]
fn adopted_address_is_not_assigned_to_another_service() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
    adopt(&mut ipam, "old", &["10.0.0.0"], None, SharingMode::Exclusive).unwrap();
    assert_eq!(assign(&mut ipam, "new", &auto(V4)), "lan: [\"10.0.0.1\"]");
    let twice = adopt(&mut ipam, "copy", &["10.0.0.0"], None, SharingMode::Exclusive).unwrap_err();
    assert!(matches!(twice, Rejection::AddressInUse { owner, .. } if owner == "old"));
}

#[test]
fn pool_edit_clears_only_services_of_removed_addresses() {
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
    assert_eq!(cleared[0].rejection, Rejection::NotInAnyPool(ip("10.0.0.0")));
    assert_eq!(holder(&ipam, "10.0.0.1"), Some("y"));
    assert_eq!(assign(&mut ipam, "x", &from("a")), "a: [\"10.0.0.2\"]");
}

#[test]
fn address_stays_when_another_pool_contains_it() {
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
fn deleted_pool_clears_its_services() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/30"])]);
    assign(&mut ipam, "x", &auto(V4));
    assert_eq!(ipam.set_pools(mk_pools([])).cleared.len(), 1);
    assert_eq!(ipam.assignment(&"x"), None);
}

#[test]
fn invalid_pool_keeps_services_and_accepts_no_new_ones() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/30"]), mk_pool("b", &["10.0.1.0/30"])]);
    assign(&mut ipam, "x", &from("a"));
    let spoiled = || {
        mk_pools([
            mk_pool("a", &["10.0.1.3-10.0.1.9"]),
            mk_pool("b", &["10.0.1.0/30"]),
        ])
    };
    assert!(ipam.set_pools(spoiled()).cleared.is_empty());
    assert_eq!(holder(&ipam, "10.0.0.0"), Some("x"));
    assert!(assign(&mut ipam, "y", &from("a")).contains("it is invalid"));
    assert_eq!(assign(&mut ipam, "y", &auto(V4)), "b: [\"10.0.1.0\"]");

    // The same after a restart, when only the Service's annotation names the pool of its address.
    let mut restarted = Ipam::default();
    restarted.set_pools(mk_pools([
        mk_pool("b", &["10.0.1.0/30"]),
        lb_ipam::PoolCandidate {
            was_invalid: true,
            created: -1,
            ..mk_pool("a", &["10.0.1.3-10.0.1.9"])
        },
    ]));
    assert!(
        adopt(
            &mut restarted,
            "x",
            &["10.0.0.0"],
            Some("a"),
            SharingMode::Exclusive
        )
        .is_ok()
    );
    assert!(
        adopt(
            &mut restarted,
            "w",
            &["10.9.9.9"],
            Some("nowhere"),
            SharingMode::Exclusive
        )
        .is_err()
    );

    // Valid again, it counts the address that the Service never lost.
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
    let pools = ipam.pools();
    pools
        .filter_map(|(name, pool)| pool.err().map(|error| format!("{name}: {error}")))
        .collect()
}

#[test]
fn older_of_two_overlapping_pools_is_valid() {
    let older = || lb_ipam::PoolCandidate {
        created: 1,
        ..mk_pool("z-older", &["10.0.0.0/24"])
    };
    let younger = || lb_ipam::PoolCandidate {
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
fn pool_edited_into_an_overlap_is_invalid() {
    let pool = |name, created, range| lb_ipam::PoolCandidate {
        created,
        ..mk_pool(name, &[range])
    };
    let mut ipam = mk_ipam([pool("older", 1, "10.0.0.0/24"), pool("younger", 2, "10.0.1.0/24")]);
    let edited = || [pool("older", 1, "10.0.0.0/23"), pool("younger", 2, "10.0.1.0/24")];
    ipam.set_pools(mk_pools(edited()));
    assert!(invalid(&ipam)[0].starts_with("older: "));

    // After a restart only the pool's status shows which one was invalid.
    let restarted = mk_ipam(edited().map(|pool| lb_ipam::PoolCandidate {
        was_invalid: pool.created == 1,
        ..pool
    }));
    assert_eq!(invalid(&restarted), invalid(&ipam));
}

#[test]
fn self_overlapping_or_empty_pool_is_invalid() {
    let avoiding = with(mk_pool("nothing", &["10.1.0.0/32"]), |spec| {
        spec.avoid_buggy_ips = true
    });
    let ipam = mk_ipam([mk_pool("twice", &["10.0.0.0/24", "10.0.0.9-10.0.0.9"]), avoiding]);
    let errors = invalid(&ipam);
    assert!(
        errors[0].starts_with("nothing: spec.avoidBuggyIPs or the annotation"),
        "{errors:?}"
    );
    assert!(errors[1].starts_with(
        "twice: spec.addresses[1] (10.0.0.9-10.0.0.9) overlaps 10.0.0.0-10.0.0.255 of the same"
    ));
}

#[test]
fn huge_pools_are_cheap() {
    let mut ipam = mk_ipam([mk_pool("v4", &["10.0.0.0/8"]), mk_pool("v6", &["fd00::/64"])]);
    assert_eq!(
        assign(&mut ipam, "a", &exactly(&["10.255.255.255"], None)),
        "v4: [\"10.255.255.255\"]"
    );
    assert_eq!(assign(&mut ipam, "b", &auto(V4)), "v4: [\"10.0.0.0\"]");
    assert_eq!(assign(&mut ipam, "c", &auto(V6)), "v6: [\"fd00::1\"]");
}

fn selected(priority: u32) -> impl FnOnce(&mut PoolSpec) {
    move |spec| spec.access = Access::Selected { priority }
}

#[test]
fn selective_pools_come_first_by_priority_then_name() {
    let mut ipam = mk_ipam([
        mk_pool("a-everybody", &["10.0.0.0/32"]),
        with(mk_pool("b-last", &["10.0.1.0/32"]), selected(0)),
        with(mk_pool("c-second", &["10.0.2.0/32"]), selected(50)),
        with(mk_pool("d-first", &["10.0.3.0/32"]), selected(1)),
        with(mk_pool("e-second", &["10.0.4.0/32"]), selected(50)),
        with(mk_pool("f-not-mine", &["10.0.5.0/32"]), selected(1)),
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
        "a pool of others is not named: {full}"
    );
}

#[test]
fn pool_not_selecting_the_service_is_rejected() {
    let mut ipam = mk_ipam([with(mk_pool("theirs", &["10.0.0.0/30"]), selected(0))]);
    let no_pool = |_: &str| false;
    for request in [
        from("theirs"),
        exactly(&["10.0.0.1"], None),
        exactly(&["10.0.0.1"], Some("theirs")),
    ] {
        let error = ipam.assign(&"x", &request, &no_pool).unwrap_err().to_string();
        assert!(
            error.starts_with("pool theirs not compatible for ip assignment"),
            "{error}"
        );
    }
    let error = ipam.assign(&"x", &auto(V4), &no_pool).unwrap_err().to_string();
    assert!(error.contains("serviceAllocation"), "{error}");
    assert!(ipam.assignment(&"x").is_none());
}

fn shares(mut request: Request, key: &str, ports: &[u16], backend: &str) -> Request {
    let port = |number: &u16| Port {
        protocol: "TCP".to_owned(),
        number: *number,
    };
    request.sharing_mode = SharingMode::Shared(Box::new(Sharing {
        key: key.to_owned(),
        ports: ports.iter().map(port).collect(),
        backend: backend.to_owned(),
    }));
    request
}

#[test]
fn same_key_and_distinct_ports_share_an_address() {
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
    // A port conflict leads to another address.
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
    // It is free when the last holder releases it.
    for service in ["web", "late"] {
        ipam.release(&service);
        assert!(ipam.holders(ip("10.0.0.1")).next().is_some());
    }
    ipam.release(&"dns");
    assert_eq!(holder(&ipam, "10.0.0.1"), None);
    assert_eq!(assign(&mut ipam, "next", &auto(V4)), "lan: [\"10.0.0.1\"]");
}

#[test]
fn refused_sharing_names_service_and_conflict() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
    let at = exactly(&["10.0.0.1"], None);
    assign(&mut ipam, "ns/web", &shares(at.clone(), "k", &[80], ""));
    assign(&mut ipam, "ns/plain", &exactly(&["10.0.0.2"], None));
    for (request, expected) in [
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
        let message = assign(&mut ipam, "ns/late", &request);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn draining_address_accepts_only_present_holders() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/31"])]);
    let (web, dns) = (shares(auto(V4), "k", &[80], ""), shares(auto(V4), "k", &[53], ""));
    assign(&mut ipam, "web", &web);
    let address = ["10.0.0.0"];
    adopt(&mut ipam, "gone", &address, None, SharingMode::Draining).unwrap();
    assert_eq!(
        assign(&mut ipam, "dns", &dns),
        "lan: [\"10.0.0.0\"]",
        "a Service without a conflict may still join"
    );
    ipam.release(&"web");
    ipam.release(&"dns");
    assert_eq!(
        assign(&mut ipam, "new", &auto(V4)),
        "lan: [\"10.0.0.1\"]",
        "no new Service while one is draining"
    );
    assert!(
        adopt(&mut ipam, "web", &address, None, web.sharing_mode).is_ok(),
        "a Service that had it may keep it"
    );
}

#[test]
fn reserved_address_must_be_requested() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.1-10.0.0.3"])]);
    ipam.set_reserved([ip("10.0.0.1"), ip("10.0.0.2")].into());
    assert_eq!(assign(&mut ipam, "a", &auto(V4)), "lan: [\"10.0.0.3\"]");
    assert!(assign(&mut ipam, "b", &auto(V4)).contains("is exhausted"));
    assert_eq!(
        assign(&mut ipam, "b", &exactly(&["10.0.0.2"], None)),
        "lan: [\"10.0.0.2\"]"
    );
    ipam.set_reserved([ip("10.0.0.1"), ip("10.0.0.3")].into());
    assert_eq!(
        assign(&mut ipam, "a", &auto(V4)),
        "lan: [\"10.0.0.3\"]",
        "nobody moves"
    );
}
