//! What happens on the wire itself: links that come, go and change under an address, and strangers that take it.

mod conflict;
mod links;

use lb_e2e::harness::Harness;

#[test]
fn announcements_follow_links_and_strangers_are_told_defended_against_or_yielded_to() -> anyhow::Result<()> {
    let harness = Harness::start_lab("wire", 2)?;
    harness.install()?;
    harness.apply_backend("web", 2)?;
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.60-192.168.50.79, \"fc00:50::600-fc00:50::60f\"]}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: lan, namespace: metallb-system}\n\
         spec: {ipAddressPools: [lan]}",
    )?;
    let six = conflict::a_stranger_that_says_nothing_moves_in(&harness)?;
    conflict::a_probe_for_duplicates_is_answered(&harness)?;
    conflict::a_stranger_is_told(&harness)?;
    links::announcements_follow_links(&harness)?;
    conflict::the_silent_stranger_is_told_too(&harness, &six)?;

    crate::faults::set(&harness, "conflictPolicy: Defend")?;
    conflict::the_address_is_defended(&harness)?;
    crate::faults::set(&harness, "conflictPolicy: Yield")?;
    conflict::the_address_is_left_to_the_stranger(&harness)
}
