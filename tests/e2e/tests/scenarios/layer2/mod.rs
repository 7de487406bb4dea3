//! Events on the LAN: links that come, go and change under an address, and conflicts with other hosts.

mod conflict;
mod links;
mod quiet;

use lb_e2e::harness::Harness;

#[test]
fn announcements_follow_links_and_conflict_policy() -> anyhow::Result<()> {
    let harness = Harness::start_lab("layer2", 2)?;
    harness.install()?;
    harness.apply_backend("web", 2)?;
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.60-192.168.50.79, \"fc00:50::600-fc00:50::60f\"]}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: lan, namespace: metallb-system}\n\
         spec: {ipAddressPools: [lan]}",
    )?;
    let six = conflict::silent_host_takes_the_address(&harness)?;
    conflict::duplicate_address_detection_is_answered(&harness)?;
    conflict::conflict_is_reported(&harness)?;
    links::announcements_follow_links(&harness)?;
    conflict::silent_conflict_is_reported(&harness, &six)?;

    crate::faults::set(&harness, "conflictPolicy: Defend")?;
    conflict::address_is_defended(&harness)?;
    crate::faults::set(&harness, "conflictPolicy: Yield")?;
    conflict::address_is_yielded(&harness)
}
