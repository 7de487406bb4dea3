//! Failures of power, the API server, heartbeats and the LAN: measured by a client on the LAN, in IPv4 and IPv6, by its
//! requests, its neighbor table and the nodes that answer it.
//!
//! Three nodes are eligible; the pod runs on a fourth node that is not, so that each outage is one of the address and
//! not of the pod.

mod partition;
mod power;

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};
use sha2::{Digest as _, Sha256};

/// The eligible nodes.
const CANDIDATES: [&str; 3] = ["n1", "n2", "n3"];

/// A Service with an address of each family. Both have the same election order.
struct Dual {
    name: &'static str,
    four: Ipv4Addr,
    six: Ipv6Addr,
}

#[test]
fn addresses_survive_power_api_heartbeat_and_lan_failures() -> anyhow::Result<()> {
    let harness = Harness::start_lab("faults", 4)?;
    harness.admin("kubectl label node n4 node.kubernetes.io/exclude-from-external-load-balancers=")?;
    harness.install()?;
    harness.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  nodeName: n4\n  \
         containers: [{name: agnhost, image: \"lab.local/agnhost:1\", args: [netexec, --http-port=80]}]\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.100-192.168.50.199, \"fc00:50::600-fc00:50::6ff\"]}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: lan, namespace: metallb-system}",
    )?;
    let one = dual(&harness, "one", ["n1", "n2", "n3"])?;
    let two = dual(&harness, "two", ["n2", "n1", "n3"])?;
    for service in [&one, &two] {
        serves(&harness, service)?;
    }

    partition::lost_heartbeats_move_no_address(&harness, &one)?;
    partition::each_side_serves_and_one_owner_remains(&harness, &one)?;
    power::address_moves_and_stays(&harness, &one)?;
    power::address_moves_without_the_api_server(&harness, &two)?;
    power::two_nodes_fail_at_once(&harness, [&one, &two])?;

    set(&harness, "partitionPolicy: Majority, failback: Immediate")?;
    wait_until_owned(&harness, &one, "n1")?;
    wait_until_owned(&harness, &two, "n2")?;
    partition::minority_withdraws_before_majority_claims(&harness, &one)?;
    power::returning_node_takes_the_address_back(&harness, &two)?;
    Ok(())
}

/// A Service whose addresses have this election order.
fn dual(harness: &Harness, name: &'static str, order: [&str; 3]) -> anyhow::Result<Dual> {
    let in_order = |address: &str| {
        let mut nodes = CANDIDATES;
        nodes.sort_by_key(|node| Sha256::digest(format!("{node}#{address}")));
        nodes == order
    };
    let four = (100..200).map(|last| Ipv4Addr::new(192, 168, 50, last));
    let six = (0x600..0x700).map(|last| Ipv6Addr::new(0xfc00, 0x50, 0, 0, 0, 0, 0, last));
    let four = four.into_iter().find(|address| in_order(&address.to_string()));
    let six = six.into_iter().find(|address| in_order(&address.to_string()));
    let (four, six) = (four.expect("one of a hundred"), six.expect("one of so many"));
    harness.apply_service(
        name,
        "web",
        &format!("metallb.io/loadBalancerIPs: \"{four},{six}\""),
        "  ipFamilyPolicy: RequireDualStack\n",
    )?;
    let service = Dual { name, four, six };
    let nodes = harness.wait_for_address(name)?;
    assert_eq!(nodes, format!("{four} {six}"));
    Ok(service)
}

/// The client gets an HTTP answer from both addresses.
fn serves(harness: &Harness, service: &Dual) -> anyhow::Result<()> {
    harness.wait_for_answer(&service.four.to_string(), "web")?;
    harness.wait_for_answer(&format!("[{}]", service.six), "web")
}

/// The nodes in the client's neighbor table for the two addresses.
fn neighbors(harness: &Harness, service: &Dual) -> anyhow::Result<[String; 2]> {
    Ok([
        harness.neighbor(&service.four.to_string())?,
        harness.neighbor(&service.six.to_string())?,
    ])
}

/// Waits until the client's neighbor table has this node for both addresses, and then for an answer. The client uses
/// the addresses first: the kernel drops a neighbor after a minute without use, and adds none because of an
/// announcement.
fn wait_until_owned(harness: &Harness, service: &Dual, by: &str) -> anyhow::Result<()> {
    serves(harness, service)?;
    eventually(
        &format!("{by} to own the addresses of {}", service.name),
        SHORT_TIMEOUT,
        || Ok((neighbors(harness, service)? == [by, by]).then_some(())),
    )?;
    serves(harness, service)
}

/// Sets fields of the stack's speakers, and waits for the rollout, with a short soak time.
pub(crate) fn set(harness: &Harness, fields: &str) -> anyhow::Result<()> {
    let before = harness.admin("kubectl get lbs default -o jsonpath='{.metadata.generation}'")?;
    harness.admin(&format!(
        "kubectl patch lbs default --type merge -p \"$(cat <<'EOF'\nspec: {{upgrade: {{canarySoakSeconds: 0}}, speaker: {{{fields}}}}}\nEOF\n)\""
    ))?;
    eventually("the operator to have seen it", SHORT_TIMEOUT, || {
        let seen = harness.admin("kubectl get lbs default -o jsonpath='{.status.observedGeneration}'")?;
        Ok((seen.parse::<u64>()? > before.parse::<u64>()?).then_some(()))
    })?;
    harness.admin("kubectl wait lbs default --for=condition=Ready --timeout=240s")?;
    Ok(())
}

/// Switches a node on, and waits until its speaker receives the others' heartbeats.
fn start(harness: &Harness, node: usize) -> anyhow::Result<()> {
    harness.lab().start(node)?;
    let name = format!("n{node}");
    eventually(&format!("the speaker of {name}"), LONG_TIMEOUT, || {
        let heard = crate::speaker::metric(harness, &name, "lb_speaker_heartbeats_received_total")?;
        Ok((heard > 0).then_some(()))
    })
}
