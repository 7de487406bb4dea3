//! The network at rest: speakers send no duplicate address probe, and none about a node.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_e2e::harness::Harness;

use crate::capture::{Capture, Probe};

const SERVICES: usize = 10;
/// Each address is verified and probed by then, and the last series of announcements has ended.
const SETTLING: Duration = Duration::from_secs(20);

/// `LB_QUIET_SECONDS` sets another time than half a minute.
fn time() -> anyhow::Result<Duration> {
    let seconds = std::env::var("LB_QUIET_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse()).transpose()?;
    Ok(Duration::from_secs(seconds.unwrap_or(30)))
}

fn list<'a>(probes: impl Iterator<Item = &'a Probe>) -> String {
    probes.map(Probe::to_string).collect::<Vec<_>>().join(", ")
}

#[test]
fn no_probe_about_a_node_at_rest() -> anyhow::Result<()> {
    let harness = Harness::start_lab("quiet", 3)?;
    harness.install()?;
    harness.apply_backend("web", 3)?;
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.60-192.168.50.79, \"fc00:50::600-fc00:50::60f\"]}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: lan, namespace: metallb-system}\n\
         spec: {ipAddressPools: [lan]}",
    )?;
    let nodes = harness.admin("kubectl get nodes -o jsonpath='{.items[*].status.addresses[*].address}'")?;
    let nodes: BTreeSet<_> = nodes.split_whitespace().map(str::to_owned).collect();
    let capture = Capture::on(&harness, "eth0")?;
    for number in 0..SERVICES {
        let name = format!("web-{number}");
        harness.apply_service(&name, "web", "", "  ipFamilyPolicy: RequireDualStack\n")?;
        for address in harness.wait_for_address(&name)?.split(' ') {
            let host = if address.contains(':') {
                format!("[{address}]")
            } else {
                address.to_owned()
            };
            harness.wait_for_answer(&host, "web")?;
        }
    }
    std::thread::sleep(SETTLING);
    let (first_claims, before) = (capture.probes(), capture.kinds());
    assert!(
        !first_claims.is_empty(),
        "addresses are probed before their first claim"
    );
    let time = time()?;
    std::thread::sleep(time);
    let at_rest = list(capture.probes().iter().skip(first_claims.len()));
    println!(
        "frames on the client in {time:?} at rest, 3 nodes, {} addresses:",
        2 * SERVICES
    );
    for (kind, count) in capture.kinds() {
        println!(
            "  {kind}: {}",
            count - before.get(kind).copied().unwrap_or_default()
        );
    }
    assert!(at_rest.is_empty(), "probes at rest: {at_rest}");
    let about_nodes = list(first_claims.iter().filter(|probe| nodes.contains(&probe.address)));
    assert!(about_nodes.is_empty(), "probes about nodes: {about_nodes}");
    Ok(())
}
