//! The node and interface that answer for an address: interfaces, nodes, traffic policy, and hostile frames, with real
//! ARP on a real segment.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use anyhow::Context;
use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};
use nix::sched::{CloneFlags, setns};

#[test]
fn one_eligible_node_answers_on_the_right_interfaces() -> anyhow::Result<()> {
    let harness = Harness::start_lab("speaker", 3)?;
    harness.install()?;
    harness.apply_backend("web", 3)?;
    harness.apply_pool("lan", "192.168.50.60-192.168.50.79")?;

    address_is_announced_once_advertised(&harness)?;
    only_chosen_interfaces_answer(&harness)?;
    only_chosen_nodes_answer(&harness)?;
    excluded_node_hands_over(&harness)?;
    local_traffic_stays_on_nodes_with_endpoints(&harness)?;
    addresses_spread_over_nodes(&harness)?;
    services_that_share_an_address_have_one_owner(&harness)?;
    ipv6_address_is_announced_and_handed_over(&harness)?;
    malformed_frames_are_counted_and_ignored(&harness)?;
    Ok(())
}

fn advertise(harness: &Harness, name: &str, spec: &str) -> anyhow::Result<()> {
    harness.apply(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: {name}, namespace: metallb-system}}\nspec: {spec}"
    ))?;
    Ok(())
}

pub(crate) fn pool(harness: &Harness, name: &str, range: &str) -> anyhow::Result<()> {
    harness.apply(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}, namespace: metallb-system}}\n\
         spec: {{addresses: [\"{range}\"], autoAssign: false}}"
    ))?;
    Ok(())
}

pub(crate) fn service(harness: &Harness, name: &str, pool: &str, extra: &str) -> anyhow::Result<String> {
    harness.apply_service(name, "web", &format!("metallb.io/address-pool: {pool}"), extra)?;
    harness.wait_for_address(name)
}

/// The client gets an HTTP answer.
fn serves(harness: &Harness, address: &str) -> anyhow::Result<String> {
    eventually(&format!("an answer from {address}"), SHORT_TIMEOUT, || {
        Ok(harness
            .client(&format!("curl -s -m 1 http://{address}/clientip"))
            .ok())
    })
}

/// Waits until the condition `Announced` of a Service has this status and contains this text.
pub(crate) fn announced(harness: &Harness, name: &str, status: &str, text: &str) -> anyhow::Result<String> {
    let type_ = "lb-operator.io/Announced";
    harness.admin(&format!(
        "kubectl wait service/{name} --for=condition={type_}={status} --timeout=30s"
    ))?;
    eventually(
        &format!("{text:?} in the condition of {name}"),
        SHORT_TIMEOUT,
        || {
            let condition = format!(".status.conditions[?(@.type==\"{type_}\")]");
            let path = format!("{{{condition}.status}} {{{condition}.reason}}: {{{condition}.message}}");
            let says = harness.admin(&format!("kubectl get service {name} -o jsonpath='{path}'"))?;
            Ok((says.starts_with(status) && says.contains(text)).then_some(says))
        },
    )
}

fn silent(harness: &Harness, address: &str) -> anyhow::Result<()> {
    eventually(&format!("silence on {address}"), SHORT_TIMEOUT, || {
        Ok(harness.owners(address)?.is_empty().then_some(()))
    })
}

fn address_is_announced_once_advertised(harness: &Harness) -> anyhow::Result<()> {
    pool(harness, "quiet", "192.168.50.80-192.168.50.89")?;
    let address = service(harness, "quiet", "quiet", "")?;
    let event = harness.wait_for_event("Service", "quiet", "notAnnounced")?;
    assert!(
        event.contains("no L2Advertisement announces pool \"quiet\""),
        "it names the pool without an advertisement: {event}"
    );
    announced(
        harness,
        "quiet",
        "False",
        "NoAdvertisement: no L2Advertisement announces",
    )?;
    assert!(harness.owners(&address)?.is_empty());
    advertise(harness, "quiet", "{ipAddressPools: [quiet]}")?;
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    serves(harness, &address)?;
    harness.wait_for_event("Service", "quiet", &format!("announcing from node \"{owner}\""))?;
    announced(
        harness,
        "quiet",
        "True",
        &format!("Announced: node {owner} announces {address}"),
    )?;
    harness.admin("kubectl delete l2advertisement quiet -n metallb-system")?;
    silent(harness, &address)?;
    announced(
        harness,
        "quiet",
        "False",
        "NoAdvertisement: no L2Advertisement announces pool \"quiet\"",
    )?;
    let selected = "-n metallb-system -l metallb.io/service-name=quiet -o jsonpath='{.items[*].status.node}'";
    let nodes = harness.admin(&format!("kubectl get servicel2statuses {selected}"))?;
    assert_eq!(nodes, "", "the report names no owner");
    Ok(())
}

fn only_chosen_interfaces_answer(harness: &Harness) -> anyhow::Result<()> {
    pool(harness, "second", "192.168.51.60-192.168.51.69")?;
    advertise(
        harness,
        "second",
        "{ipAddressPools: [second], interfaces: [eth1]}",
    )?;
    let address = service(harness, "second", "second", "")?;
    let arping = |interface: &str| {
        let command = format!("arping -c 2 -w 3 -I {interface} {address} || true");
        anyhow::Ok(harness.client(&command)?.contains("reply from"))
    };
    eventually("an answer on eth1", SHORT_TIMEOUT, || {
        Ok(arping("eth1")?.then_some(()))
    })?;
    assert!(!arping("eth0")?, "it is not announced on eth0");
    serves(harness, &address)?;
    announced(harness, "second", "True", &format!("announces {address} on eth1"))?;

    advertise(
        harness,
        "second",
        "{ipAddressPools: [second], interfaces: [eth9]}",
    )?;
    harness.wait_for_event("Service", "second", "announceFailed")?;
    assert!(!arping("eth1")?);
    harness
        .admin("kubectl delete service second && kubectl delete l2advertisement second -n metallb-system")?;
    Ok(())
}

fn only_chosen_nodes_answer(harness: &Harness) -> anyhow::Result<()> {
    pool(harness, "chosen", "192.168.50.90-192.168.50.99")?;
    let address = service(harness, "chosen", "chosen", "")?;
    for node in ["n2", "n3", "n1"] {
        advertise(
            harness,
            "chosen",
            &format!(
                "{{ipAddressPools: [chosen], nodeSelectors: [{{matchLabels: {{kubernetes.io/hostname: {node}}}}}]}}"
            ),
        )?;
        eventually(&format!("{node} to answer"), SHORT_TIMEOUT, || {
            Ok((harness.owners(&address)? == BTreeSet::from([node.to_owned()])).then_some(()))
        })?;
    }
    advertise(
        harness,
        "chosen",
        "{ipAddressPools: [chosen], nodeSelectors: [{matchLabels: {kubernetes.io/hostname: none}}]}",
    )?;
    silent(harness, &address)?;
    harness
        .admin("kubectl delete service chosen && kubectl delete l2advertisement chosen -n metallb-system")?;
    Ok(())
}

fn excluded_node_hands_over(harness: &Harness) -> anyhow::Result<()> {
    let address = service(harness, "plain", "lan", "")?;
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    announced(
        harness,
        "plain",
        "True",
        &format!("node {owner} announces {address}"),
    )?;
    let verified = || {
        harness.admin(
            "kubectl wait servicel2statuses -n metallb-system -l metallb.io/service-name=plain --for=condition=Verified \
             --timeout=90s",
        )
    };
    verified()?;
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    harness.admin(&format!("kubectl label node {owner} {label}="))?;
    eventually("another owner", SHORT_TIMEOUT, || {
        let owners = harness.owners(&address)?;
        Ok((owners.len() == 1 && !owners.contains(&owner)).then_some(()))
    })?;
    serves(harness, &address)?;
    let next = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    announced(
        harness,
        "plain",
        "True",
        &format!("node {next} announces {address}"),
    )?;
    harness.admin(&format!("kubectl label node {owner} {label}-"))?;
    // A node that returns takes nothing back. There is no event for that, so the next address that it does get has to
    // do.
    let other = service(harness, "other", "lan", "")?;
    harness.wait_for_owner(&other, SHORT_TIMEOUT)?;
    assert_eq!(
        harness.wait_for_owner(&address, SHORT_TIMEOUT)?,
        next,
        "it does not move"
    );
    harness.admin("kubectl delete service other")?;
    harness.admin("kubectl delete service plain")?;
    Ok(())
}

fn local_traffic_stays_on_nodes_with_endpoints(harness: &Harness) -> anyhow::Result<()> {
    let pod = |node: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: only-{node}, labels: {{app: only}}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  containers: [{{name: agnhost, image: \"lab.local/agnhost:1\", \
             args: [netexec, --http-port=80], readinessProbe: {{httpGet: {{port: 80}}, periodSeconds: 1}}}}]"
        )
    };
    harness.apply(&pod("n2"))?;
    harness.admin("kubectl wait pod/only-n2 --for=condition=Ready --timeout=60s")?;
    harness.apply_service(
        "local",
        "only",
        "metallb.io/address-pool: lan",
        "  externalTrafficPolicy: Local\n",
    )?;
    let address = harness.wait_for_address("local")?;
    assert_eq!(
        harness.wait_for_owner(&address, SHORT_TIMEOUT)?,
        "n2",
        "the node that has the endpoint"
    );
    let client = serves(harness, &address)?;
    assert!(
        client.starts_with("192.168.50.20"),
        "the client's address is kept: {client}"
    );
    // The address follows the endpoint.
    harness.apply(&pod("n3"))?;
    harness.admin(
        "kubectl wait pod/only-n3 --for=condition=Ready --timeout=60s && kubectl delete pod only-n2",
    )?;
    eventually("the other node", SHORT_TIMEOUT, || {
        Ok((harness.owners(&address)? == BTreeSet::from(["n3".to_owned()])).then_some(()))
    })?;
    serves(harness, &address)?;
    // Without an endpoint no node answers.
    harness.admin("kubectl delete pod only-n3")?;
    silent(harness, &address)?;
    harness.admin("kubectl delete service local")?;
    Ok(())
}

/// Each address goes to the node that MetalLB would elect: ascending SHA-256 of node and address.
fn addresses_spread_over_nodes(harness: &Harness) -> anyhow::Result<()> {
    use sha2::{Digest as _, Sha256};
    let mut owners = BTreeSet::new();
    for number in 0..8 {
        let name = format!("spread-{number}");
        let address = service(harness, &name, "lan", "")?;
        let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
        let wanted = harness
            .lab()
            .nodes()
            .into_iter()
            .min_by_key(|node| Sha256::digest(format!("{node}#{address}")));
        assert_eq!(Some(&owner), wanted.as_ref(), "{address}");
        owners.insert(owner);
    }
    assert!(owners.len() > 1, "eight addresses on one node: {owners:?}");
    harness.admin(&format!(
        "kubectl delete service {}",
        (0..8).map(|n| format!("spread-{n} ")).collect::<String>()
    ))?;
    Ok(())
}

fn services_that_share_an_address_have_one_owner(harness: &Harness) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: echo, labels: {app: echo}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{name: agnhost, image: \"lab.local/agnhost:1\", args: [netexec, --http-port=80, --udp-port=53]}]",
    )?;
    harness.admin("kubectl wait pod/echo --for=condition=Ready --timeout=60s")?;
    for (name, protocol, port) in [("shared-tcp", "TCP", 80), ("shared-udp", "UDP", 53)] {
        harness.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{metallb.io/allow-shared-ip: echo, \
             metallb.io/address-pool: lan}}}}\nspec: {{type: LoadBalancer, selector: {{app: echo}}, \
             ports: [{{port: {port}, protocol: {protocol}}}]}}"
        ))?;
    }
    let address = harness.wait_for_address("shared-tcp")?;
    assert_eq!(harness.wait_for_address("shared-udp")?, address);
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    serves(harness, &address)?;
    let by_udp = format!("exec 3<>/dev/udp/{address}/53; echo hostname >&3; timeout 1 head -c 4 <&3");
    eventually("an answer by UDP", SHORT_TIMEOUT, || {
        Ok(harness.client(&by_udp).ok().filter(|answer| answer == "echo"))
    })?;
    for name in ["shared-tcp", "shared-udp"] {
        harness.wait_for_event("Service", name, &format!("announcing from node \"{owner}\""))?;
    }
    // One Service is deleted: the address stays with the other.
    harness.admin("kubectl delete service shared-tcp")?;
    eventually("an answer by UDP", SHORT_TIMEOUT, || {
        Ok(harness.client(&by_udp).ok().filter(|answer| answer == "echo"))
    })?;
    assert_eq!(harness.wait_for_owner(&address, SHORT_TIMEOUT)?, owner);
    harness.admin("kubectl delete service shared-udp && kubectl delete pod echo")?;
    silent(harness, &address)?;
    Ok(())
}

fn ipv6_address_is_announced_and_handed_over(harness: &Harness) -> anyhow::Result<()> {
    pool(harness, "six", "fc00:50::600-fc00:50::60f")?;
    advertise(harness, "six", "{ipAddressPools: [six]}")?;
    let families = "  ipFamilyPolicy: SingleStack\n  ipFamilies: [IPv6]\n";
    let address = service(harness, "six", "six", families)?;
    assert_eq!(address, "fc00:50::600");
    serves(harness, &format!("[{address}]"))?;
    let owner = harness.neighbor(&address)?;
    harness.wait_for_event(
        "Service",
        "six",
        &format!("announcing from node \"{owner}\" with protocol \"layer2\""),
    )?;

    // The owner leaves: the client learns the next one from its unsolicited advertisement.
    let exclude = "node.kubernetes.io/exclude-from-external-load-balancers";
    harness.admin(&format!("kubectl label node {owner} {exclude}="))?;
    let next = eventually("another owner in the client's table", SHORT_TIMEOUT, || {
        let next = harness.neighbor(&address)?;
        Ok((next != owner).then_some(next))
    })?;
    serves(harness, &format!("[{address}]"))?;
    harness.wait_for_event("Service", "six", &format!("announcing from node \"{next}\""))?;
    harness.admin(&format!("kubectl label node {owner} {exclude}-"))?;
    harness.admin("kubectl delete service six")?;
    Ok(())
}

pub(crate) fn metric(harness: &Harness, node: &str, name: &str) -> anyhow::Result<u64> {
    let number: u64 = node.trim_start_matches('n').parse()?;
    let text = harness.client(&format!(
        "curl -sf -m 2 http://192.168.50.{}:7472/metrics",
        10 + number
    ))?;
    let value = |line: &str| {
        line.starts_with(name)
            .then(|| line.rsplit(' ').next()?.parse::<u64>().ok())
            .flatten()
    };
    Ok(text.lines().filter_map(value).sum())
}

fn malformed_frames_are_counted_and_ignored(harness: &Harness) -> anyhow::Result<()> {
    let address = service(harness, "target", "lan", "")?;
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    serves(harness, &address)?;
    let count = |name: &str| metric(harness, &owner, name);
    let restarts = || {
        harness.admin("kubectl get pods -n metallb-system -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}'")
    };
    let before = restarts()?;
    let (malformed, ignored, requests) = (
        count("lb_speaker_malformed_frames_total")?,
        count("lb_speaker_ignored_frames_total")?,
        count("metallb_layer2_requests_received")?,
    );

    let good = request(&address)?;
    let mut bad = Vec::new();
    // Each field that defines the kind of ARP, changed in turn: hardware type, protocol type, the two lengths.
    for (position, value) in [
        (14, 0xff),
        (15, 6),
        (16, 0x86),
        (17, 0xdd),
        (18, 0),
        (18, 255),
        (19, 16),
        (19, 0),
    ] {
        let mut frame = good.clone();
        frame[position] = value;
        bad.push(frame);
    }
    let cut: Vec<_> = (14..42).map(|length| good[..length].to_vec()).collect();
    // For another address: the kernel's filter holds it back from the speaker.
    let other = request("192.168.50.249")?;
    let sent = bad.len() as u64;
    let frames: Vec<_> = bad
        .into_iter()
        .chain(cut)
        .chain(std::iter::repeat_n(other, 500))
        .collect();
    send_from_client(harness, frames)?;
    eventually("the malformed frames to be counted", SHORT_TIMEOUT, || {
        Ok((count("lb_speaker_malformed_frames_total")? >= malformed + sent).then_some(()))
    })?;
    assert!(
        count("lb_speaker_ignored_frames_total")? <= ignored + 1,
        "requests for other addresses stay in the kernel"
    );
    assert!(
        count("metallb_layer2_requests_received")? < requests + 50,
        "no malformed frame counts as a request"
    );

    // It still answers.
    assert_eq!(harness.wait_for_owner(&address, SHORT_TIMEOUT)?, owner);
    serves(harness, &address)?;
    assert_eq!(restarts()?, before, "nothing was restarted");
    Ok(())
}

/// A broadcast ARP request.
fn request(target: &str) -> anyhow::Result<Vec<u8>> {
    let target: std::net::Ipv4Addr = target.parse()?;
    let mut frame = vec![0xff; 6];
    let mac = [0x02, 0x1b, 0, 0, 0, 20];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend([192, 168, 50, 20]);
    frame.extend([0; 6]);
    frame.extend(target.octets());
    Ok(frame)
}

/// Sends raw frames from the client's first interface.
fn send_from_client(harness: &Harness, frames: Vec<Vec<u8>>) -> anyhow::Result<()> {
    let namespace = format!("/run/netns/{}-client", harness.lab().name());
    // A thread of its own enters the namespace and ends in it.
    let sender = std::thread::spawn(move || -> anyhow::Result<()> {
        setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
        let index = nix::net::if_::if_nametoindex("eth0")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let socket = lb_net::PacketSocket::arp(index)?;
            for frame in &frames {
                // A full queue is not a failure of the tested program.
                let mut tries = 0;
                while let Err(error) = socket.send(frame) {
                    tries += 1;
                    if tries > 1000 {
                        return Err(error).context("send a frame");
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Ok(())
        })
    });
    sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sender panicked"))?
}
