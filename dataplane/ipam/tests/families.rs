//! Dual stack: pairs from one pool or two, and a second address that is added later.

mod support;

use lb_ipam::{Access, Families, SharingMode};
use support::{V4, V6, adopt, assign, auto, exactly, from, mk_ipam, mk_pool, mk_pools, with};

#[test]
fn pair_comes_from_one_pool_if_possible() {
    let mut ipam = mk_ipam([
        mk_pool("a", &["10.0.0.0/31"]),
        mk_pool("b", &["10.0.1.0/31", "fd00::1/128"]),
    ]);
    for (service, families) in [
        ("x", Families::RequireDualStack),
        ("y", Families::PreferDualStack),
    ] {
        assert_eq!(
            assign(&mut ipam, service, &auto(families)),
            "b: [\"10.0.1.0\" \"fd00::1\"]"
        );
        ipam.release(&service);
    }
}

#[test]
fn pair_comes_from_two_pools_otherwise() {
    let mut ipam = mk_ipam([
        mk_pool("a", &["10.0.0.0/31"]),
        mk_pool("b", &["fd00::1-fd00::2"]),
        mk_pool("c", &["10.0.1.0/31", "fd00:1::/128"]),
    ]);
    assign(&mut ipam, "first", &auto(Families::RequireDualStack));
    for (service, families, pair) in [
        ("x", Families::RequireDualStack, "a,b: [\"10.0.0.0\" \"fd00::1\"]"),
        ("y", Families::PreferDualStack, "a,b: [\"10.0.0.1\" \"fd00::2\"]"),
    ] {
        assert_eq!(assign(&mut ipam, service, &auto(families)), pair);
    }
    let rejection = assign(&mut ipam, "z", &auto(Families::RequireDualStack));
    assert!(
        rejection.starts_with(
            "no available IPs: pools \"b\" (2 of 2 in use), \"c\" (1 of 1 in use) are exhausted"
        ),
        "{rejection}"
    );
}

#[test]
fn prefer_dual_stack_accepts_one_family_and_require_none() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/31"])]);
    let assigned = ipam
        .assign(&"x", &auto(Families::PreferDualStack), &|_| true)
        .unwrap();
    assert_eq!(assigned.assignment.addresses().to_string(), "[\"10.0.0.0\"]");
    let rejection = assigned.incomplete.unwrap().to_string();
    assert!(
        rejection.contains("no pool with autoAssign has addresses for ipv6"),
        "{rejection}"
    );
    assert!(assign(&mut ipam, "y", &auto(Families::RequireDualStack)).contains("ipv6"));
}

#[test]
fn second_address_is_added_later_from_the_same_pool_first() {
    let v6_first = mk_pool("a", &["fd00::1-fd00::2"]);
    let lan = mk_pool("lan", &["10.0.0.0/31", "fd00:1::/128"]);
    let mut ipam = mk_ipam([v6_first.clone(), mk_pool("lan", &["10.0.0.0/31"])]);
    assign(&mut ipam, "x", &auto(V4));
    assign(&mut ipam, "y", &auto(V4));
    ipam.set_pools(mk_pools([v6_first, lan]));
    assert_eq!(
        assign(&mut ipam, "x", &auto(Families::PreferDualStack)),
        "lan: [\"10.0.0.0\" \"fd00:1::\"]"
    );
    assert_eq!(
        assign(&mut ipam, "y", &auto(Families::RequireDualStack)),
        "lan,a: [\"10.0.0.1\" \"fd00::1\"]"
    );
    // And back to one family.
    ipam.reduce(&"y", &support::addresses(&["fd00::1"]));
    assert_eq!(assign(&mut ipam, "y", &auto(V6)), "a: [\"fd00::1\"]");
}

#[test]
fn incomplete_pair_keeps_its_address() {
    let mut ipam = mk_ipam([
        mk_pool("lan", &["10.0.0.0/31"]),
        mk_pool("v6", &["fd00::1-fd00::2"]),
    ]);
    assign(&mut ipam, "x", &from("lan"));
    let mut request = from("lan");
    request.families = Families::RequireDualStack;
    let assigned = ipam.assign(&"x", &request, &|_| true).unwrap();
    assert_eq!(assigned.assignment.addresses().to_string(), "[\"10.0.0.0\"]");
    assert_eq!(
        assigned.incomplete.unwrap().to_string(),
        "no available IPs in pool lan for ipv6 IPFamily: it has no addresses of that family: add some, or change spec.ipFamilies"
    );
}

#[test]
fn requested_pair_may_span_pools_unless_one_is_named() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/31"]), mk_pool("b", &["fd00::1-fd00::2"])]);
    let pair = ["10.0.0.1", "fd00::1"];
    assert_eq!(
        assign(&mut ipam, "x", &exactly(&pair, None)),
        "a,b: [\"10.0.0.1\" \"fd00::1\"]"
    );
    ipam.release(&"x");
    let rejection = assign(&mut ipam, "x", &exactly(&pair, Some("a")));
    assert!(
        rejection.contains("is not compatible with requested address pool a: the address is in pool \"b\""),
        "{rejection}"
    );
}

#[test]
fn pool_change_keeps_address_of_the_other_pool() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/31"]), mk_pool("b", &["fd00::1-fd00::2"])]);
    assign(&mut ipam, "x", &auto(Families::RequireDualStack));
    let changed = ipam.set_pools(mk_pools([
        mk_pool("a", &["10.0.0.1/32"]),
        mk_pool("b", &["fd00::1-fd00::2"]),
    ]));
    assert_eq!(changed.cleared.len(), 1);
    assert!(
        changed.cleared[0]
            .rejection
            .to_string()
            .contains("\"10.0.0.0\" is not allowed in config")
    );
    assert_eq!(
        assign(&mut ipam, "x", &auto(Families::RequireDualStack)),
        "a,b: [\"10.0.0.1\" \"fd00::1\"]"
    );
}

#[test]
fn adoption_keeps_the_part_that_is_free() {
    let mut ipam = mk_ipam([mk_pool("a", &["10.0.0.0/31", "fd00::1-fd00::2"])]);
    assign(&mut ipam, "older", &auto(V4));
    let rejection = adopt(
        &mut ipam,
        "younger",
        &["10.0.0.0", "fd00::1"],
        None,
        SharingMode::Exclusive,
    );
    assert!(rejection.unwrap_err().to_string().contains("in use by older"));
    assert_eq!(
        assign(&mut ipam, "younger", &auto(Families::RequireDualStack)),
        "a: [\"10.0.0.1\" \"fd00::1\"]"
    );
}

#[test]
fn preferred_pair_does_not_leave_the_pool_that_selects_the_service() {
    let mut ipam = mk_ipam([
        with(mk_pool("blue", &["10.0.0.60-10.0.0.69"]), |spec| {
            spec.access = Access::Selected { priority: 1 };
        }),
        mk_pool("lan", &["10.0.0.100-10.0.0.109", "fd00::100-fd00::109"]),
    ]);
    assert_eq!(
        assign(&mut ipam, "ns/web", &auto(Families::PreferDualStack)),
        "blue,lan: [\"10.0.0.60\" \"fd00::100\"]"
    );
    // The same as from single stack to dual stack.
    assert_eq!(assign(&mut ipam, "ns/other", &auto(V4)), "blue: [\"10.0.0.61\"]");
    assert_eq!(
        assign(&mut ipam, "ns/other", &auto(Families::PreferDualStack)),
        "blue,lan: [\"10.0.0.61\" \"fd00::101\"]"
    );
    // A pair that is required comes from one pool if any has one, as in MetalLB.
    assert_eq!(
        assign(&mut ipam, "ns/both", &auto(Families::RequireDualStack)),
        "lan: [\"10.0.0.100\" \"fd00::102\"]"
    );
}

#[test]
fn selecting_pool_with_both_families_comes_before_one_with_a_higher_priority() {
    let selecting = |name, ranges: &[&str], priority| {
        with(mk_pool(name, ranges), |spec| {
            spec.access = Access::Selected { priority }
        })
    };
    let mut ipam = mk_ipam([
        selecting("four", &["10.0.0.60-10.0.0.69"], 1),
        selecting("two", &["10.0.1.1-10.0.1.9", "fd00::1-fd00::9"], 2),
    ]);
    assert_eq!(
        assign(&mut ipam, "ns/web", &auto(Families::PreferDualStack)),
        "two: [\"10.0.1.1\" \"fd00::1\"]"
    );
}
