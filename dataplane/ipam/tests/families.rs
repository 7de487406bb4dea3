//! Two families: a pair from one pool or from two, and a second address that comes later.

mod support;

use lb_ipam::{Families, Tenancy};
use support::{V4, V6, adopt, assign, auto, exactly, from, mk_ipam, mk_pool, mk_pools};

#[test]
fn a_pair_comes_from_one_pool_if_any_has_both() {
    let mut ipam = mk_ipam([
        mk_pool("a", &["10.0.0.0/31"]),
        mk_pool("b", &["10.0.1.0/31", "fd00::/128"]),
    ]);
    for (service, families) in [("x", Families::Both), ("y", Families::Prefer)] {
        assert_eq!(
            assign(&mut ipam, service, &auto(families)),
            "b: [\"10.0.1.0\" \"fd00::\"]"
        );
        ipam.release(&service);
    }
}

#[test]
fn a_pair_comes_from_two_pools_where_no_single_one_gives_both() {
    let mut ipam = mk_ipam([
        mk_pool("a", &["10.0.0.0/31"]),
        mk_pool("b", &["fd00::/127"]),
        mk_pool("c", &["10.0.1.0/31", "fd00:1::/128"]),
    ]);
    assign(&mut ipam, "first", &auto(Families::Both));
    for (service, families, pair) in [
        ("x", Families::Both, "a,b: [\"10.0.0.0\" \"fd00::\"]"),
        ("y", Families::Prefer, "a,b: [\"10.0.0.1\" \"fd00::1\"]"),
    ] {
        assert_eq!(assign(&mut ipam, service, &auto(families)), pair);
    }
    let reason = assign(&mut ipam, "z", &auto(Families::Both));
    assert!(
        reason.starts_with(
            "no available IPs: pools \"b\" (2 of 2 in use), \"c\" (1 of 1 in use) are exhausted"
        ),
        "{reason}"
    );
}

#[test]
fn one_family_is_better_than_none_if_two_are_preferred_and_none_if_two_are_required() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/31"])]);
    let given = ipam.assign(&"x", &auto(Families::Prefer), &|_| true).unwrap();
    assert_eq!(given.assignment.addresses().to_string(), "[\"10.0.0.0\"]");
    let lacks = given.lacks.unwrap().to_string();
    assert!(
        lacks.contains("no pool with autoAssign has addresses for ipv6"),
        "{lacks}"
    );
    assert!(assign(&mut ipam, "y", &auto(Families::Both)).contains("ipv6"));
}

#[test]
fn a_second_address_comes_later_without_moving_the_first_and_from_its_pool_first() {
    let v6_first = mk_pool("a", &["fd00::/127"]);
    let lan = mk_pool("lan", &["10.0.0.0/31", "fd00:1::/128"]);
    let mut ipam = mk_ipam([v6_first.clone(), mk_pool("lan", &["10.0.0.0/31"])]);
    assign(&mut ipam, "x", &auto(V4));
    assign(&mut ipam, "y", &auto(V4));
    ipam.set_pools(mk_pools([v6_first, lan]));
    assert_eq!(
        assign(&mut ipam, "x", &auto(Families::Prefer)),
        "lan: [\"10.0.0.0\" \"fd00:1::\"]"
    );
    assert_eq!(
        assign(&mut ipam, "y", &auto(Families::Both)),
        "lan,a: [\"10.0.0.1\" \"fd00::\"]"
    );
    // And the way back.
    ipam.reduce(&"y", &support::addresses(&["fd00::"]));
    assert_eq!(assign(&mut ipam, "y", &auto(V6)), "a: [\"fd00::\"]");
}

#[test]
fn what_cannot_be_completed_stays_as_it_is() {
    let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/31"]), mk_pool("v6", &["fd00::/127"])]);
    assign(&mut ipam, "x", &from("lan"));
    let mut request = from("lan");
    request.families = Families::Both;
    let given = ipam.assign(&"x", &request, &|_| true).unwrap();
    assert_eq!(given.assignment.addresses().to_string(), "[\"10.0.0.0\"]");
    assert_eq!(
        given.lacks.unwrap().to_string(),
        "no available IPs in pool lan for ipv6 IPFamily: it has no addresses of that family: add some, or change spec.ipFamilies"
    );
}

#[test]
fn two_named_addresses_may_be_of_two_pools_unless_one_pool_is_named() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/31"]), mk_pool("b", &["fd00::/127"])]);
    let wish = ["10.0.0.1", "fd00::1"];
    assert_eq!(
        assign(&mut ipam, "x", &exactly(&wish, None)),
        "a,b: [\"10.0.0.1\" \"fd00::1\"]"
    );
    ipam.release(&"x");
    let reason = assign(&mut ipam, "x", &exactly(&wish, Some("a")));
    assert!(
        reason.contains("is not compatible with requested address pool a: it is of pool \"b\""),
        "{reason}"
    );
}

#[test]
fn a_change_of_one_pool_leaves_the_address_of_the_other_alone() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/31"]), mk_pool("b", &["fd00::/127"])]);
    assign(&mut ipam, "x", &auto(Families::Both));
    let changed = ipam.set_pools(mk_pools([
        mk_pool("a", &["10.0.0.1/32"]),
        mk_pool("b", &["fd00::/127"]),
    ]));
    assert_eq!(changed.cleared.len(), 1);
    assert!(
        changed.cleared[0]
            .reason
            .to_string()
            .contains("\"10.0.0.0\" is not allowed in config")
    );
    assert_eq!(
        assign(&mut ipam, "x", &auto(Families::Both)),
        "a,b: [\"10.0.0.1\" \"fd00::\"]"
    );
}

#[test]
fn of_a_pair_the_part_that_nobody_else_has_is_kept() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/31", "fd00::/127"])]);
    assign(&mut ipam, "older", &auto(V4));
    let lost = adopt(
        &mut ipam,
        "younger",
        &["10.0.0.0", "fd00::1"],
        None,
        Tenancy::Alone,
    );
    assert!(lost.unwrap_err().to_string().contains("in use by older"));
    assert_eq!(
        assign(&mut ipam, "younger", &auto(Families::Both)),
        "a: [\"10.0.0.1\" \"fd00::1\"]"
    );
}
