//! Changes of links under an address: down and up, another MAC address, new and removed interfaces. Each change is
//! repeated and its median counts, because the machine may be busy.

use std::time::{Duration, Instant};

use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

use crate::capture::Capture;

/// Limit for announcements after a change of a link.
const MAX_ANNOUNCEMENT_DELAY: Duration = Duration::from_millis(50);
/// Repetitions of each change.
const REPETITIONS: u8 = 5;
/// The new interface, on the first LAN beside eth0.
const NEW: &str = "lan2";
const NEW_MAC: &str = "02:1b:00:02:00:0b";

pub(super) fn announcements_follow_links(harness: &Harness) -> anyhow::Result<()> {
    // A network manager adds addresses again that the kernel removes from a link that goes down.
    for node in ["n1", "n2"] {
        harness.run_on(node, "echo 1 >/proc/sys/net/ipv6/conf/eth1/keep_addr_on_down")?;
    }
    harness.apply(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: named, namespace: metallb-system}}\n\
         spec: {{addresses: [192.168.50.90-192.168.50.99, \"fc00:50::690-fc00:50::69f\"], autoAssign: false}}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: named, namespace: metallb-system}}\n\
         spec: {{ipAddressPools: [named], interfaces: [eth0, eth1, {NEW}], \
         nodeSelectors: [{{matchLabels: {{kubernetes.io/hostname: n1}}}}]}}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: second, namespace: metallb-system}}\n\
         spec: {{addresses: [192.168.51.60-192.168.51.69, \"fc00:51::600-fc00:51::60f\"], autoAssign: false}}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: second, namespace: metallb-system}}\n\
         spec: {{ipAddressPools: [second]}}"
    ))?;
    let named = dual(harness, "named")?;
    let second = dual(harness, "second")?;
    restored_link_gets_announcements(harness, &named)?;
    interface_appears_and_disappears(harness, &named)?;
    new_mac_address_is_announced(harness, &second)?;
    address_leaves_a_failed_link(harness, &second)?;
    harness.admin("kubectl delete service named second")?;
    Ok(())
}

/// A Service with an address of each family from the pool of its name.
fn dual(harness: &Harness, name: &str) -> anyhow::Result<[String; 2]> {
    let pool = format!("metallb.io/address-pool: {name}");
    harness.apply_service(name, "web", &pool, "  ipFamilyPolicy: RequireDualStack\n")?;
    let addresses = harness.wait_for_address(name)?;
    let (four, six) = addresses.split_once(' ').expect("two addresses");
    harness.wait_for_answer(four, "web")?;
    harness.wait_for_answer(&format!("[{six}]"), "web")?;
    Ok([four.to_owned(), six.to_owned()])
}

/// Changes a link of a node, and returns the time just before.
fn change(harness: &Harness, node: &str, how: &str) -> anyhow::Result<f64> {
    let at = harness.run_on(node, &format!("echo $EPOCHREALTIME; exec ip link set {how}"))?;
    Ok(at.trim().parse()?)
}

/// The MAC address in the client's neighbor table for an address, on either interface.
fn known(harness: &Harness, address: &str) -> anyhow::Result<String> {
    let text = harness.client(&format!("ip neigh show to {address}"))?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
    Ok(words.nth(1).unwrap_or_default().to_owned())
}

/// Waits until the client's neighbor table has this MAC address, and then for an answer from there.
fn wait_until_client_learns(harness: &Harness, addresses: &[String; 2], mac: &str) -> anyhow::Result<()> {
    for address in addresses {
        eventually(
            &format!("{address} at {mac} in the client's neighbor table"),
            SHORT_TIMEOUT,
            || Ok((known(harness, address)? == mac).then_some(())),
        )?;
    }
    let [four, six] = addresses;
    harness.wait_for_answer(four, "web")?;
    harness.wait_for_answer(&format!("[{six}]"), "web")?;
    for address in addresses {
        assert_eq!(known(harness, address)?, mac);
    }
    Ok(())
}

/// Prints the delays and compares their median with the limit.
fn assert_median(what: &str, family: &str, mut delays: Vec<Duration>) {
    delays.sort_unstable();
    println!("{what}, {family}: announced after {delays:?}");
    let median = delays[delays.len() / 2];
    assert!(
        median <= MAX_ANNOUNCEMENT_DELAY,
        "{what}, {family}: {median:?} is more than {MAX_ANNOUNCEMENT_DELAY:?}"
    );
}

/// The address is announced on two interfaces; one goes down and up.
fn restored_link_gets_announcements(harness: &Harness, addresses: &[String; 2]) -> anyhow::Result<()> {
    let capture = Capture::on(harness, "eth1")?;
    let mut delays = [Vec::new(), Vec::new()];
    for _ in 0..REPETITIONS {
        change(harness, "n1", "eth1 down")?;
        // The client's end has no carrier now, so no earlier frame is still on its way.
        let up = change(harness, "n1", "eth1 up")?;
        for (address, delays) in addresses.iter().zip(&mut delays) {
            delays.push(capture.delay(address, "02:1b:00:01:00:0b", up)?);
        }
    }
    let [four, six] = delays;
    assert_median("link up", "IPv4", four);
    assert_median("link up", "IPv6", six);
    Ok(())
}

fn interface_appears_and_disappears(harness: &Harness, addresses: &[String; 2]) -> anyhow::Result<()> {
    let lab = harness.lab().name().to_owned();
    let eth0 = "02:1b:00:00:00:0b";
    wait_until_client_learns(harness, addresses, eth0)?;
    let capture = Capture::on(harness, "eth0")?;
    let mut appeared = [Vec::new(), Vec::new()];
    let mut vanished = [Vec::new(), Vec::new()];
    for _ in 0..REPETITIONS {
        harness.admin(&format!(
            "ip -n {lab}-lan link add n1-2 type veth peer name {NEW} address {NEW_MAC} netns {lab}-n1\n\
             ip -n {lab}-lan link set n1-2 master br0 up"
        ))?;
        harness.run_on("n1", &format!("echo 0 >/proc/sys/net/ipv6/conf/{NEW}/accept_dad"))?;
        let up = change(harness, "n1", &format!("{NEW} up"))?;
        for (address, delays) in addresses.iter().zip(&mut appeared) {
            delays.push(capture.delay(address, NEW_MAC, up)?);
        }
        // Two interfaces are on the same LAN, and both answer: the client may know either.
        let [four, six] = addresses;
        harness.wait_for_answer(four, "web")?;
        harness.wait_for_answer(&format!("[{six}]"), "web")?;
        let gone = harness.run_on("n1", &format!("echo $EPOCHREALTIME; exec ip link delete {NEW}"))?;
        let gone = gone.trim().parse()?;
        for (address, delays) in addresses.iter().zip(&mut vanished) {
            delays.push(capture.delay_of_series(address, eth0, gone)?);
        }
        wait_until_client_learns(harness, addresses, eth0)?;
    }
    let ([four, six], [four_gone, six_gone]) = (appeared, vanished);
    assert_median("new interface", "IPv4", four);
    assert_median("new interface", "IPv6", six);
    assert_median("interface gone", "IPv4", four_gone);
    assert_median("interface gone", "IPv6", six_gone);
    Ok(())
}

fn new_mac_address_is_announced(harness: &Harness, addresses: &[String; 2]) -> anyhow::Result<()> {
    let capture = Capture::on(harness, "eth1")?;
    let mut delays = [Vec::new(), Vec::new()];
    for (index, (address, delays)) in addresses.iter().zip(&mut delays).enumerate() {
        for time in 0..REPETITIONS {
            let before = known(harness, address)?;
            let node = node_of(&before);
            // The last repetition restores the lab's own MAC address.
            let number = node.trim_start_matches('n').parse::<u8>()? + 10;
            let own = format!("02:1b:00:01:00:{number:02x}");
            let mac = if time + 1 == REPETITIONS {
                own
            } else {
                format!("02:1b:00:01:0{}:{number:02x}", 2 * time + 1 + index as u8)
            };
            let at = change(harness, &node, &format!("eth1 address {mac}"))?;
            delays.push(capture.delay(address, &mac, at)?);
            eventually("the client's neighbor table to have it", SHORT_TIMEOUT, || {
                Ok((known(harness, address)? == mac).then_some(()))
            })?;
        }
    }
    let [four, six] = delays;
    assert_median("another hardware address", "IPv4", four);
    assert_median("another hardware address", "IPv6", six);
    harness.wait_for_answer(&addresses[0], "web")?;
    harness.wait_for_answer(&format!("[{}]", addresses[1]), "web")
}

/// The last part of a MAC address is the node's number in the lab, and never changes.
fn node_of(mac: &str) -> String {
    let last = mac.rsplit(':').next().unwrap_or_default();
    let number = u8::from_str_radix(last, 16).unwrap_or_default();
    format!("n{}", number.saturating_sub(10))
}

/// The owner's interface goes down while its node runs: the other node takes the address, and keeps it.
fn address_leaves_a_failed_link(harness: &Harness, addresses: &[String; 2]) -> anyhow::Result<()> {
    let capture = Capture::on(harness, "eth1")?;
    for address in addresses {
        let before = known(harness, address)?;
        let node = node_of(&before);
        let other = if node == "n1" { "n2" } else { "n1" };
        let theirs = if node == "n1" {
            "02:1b:00:01:00:0c"
        } else {
            "02:1b:00:01:00:0b"
        };
        let down = change(harness, &node, "eth1 down")?;
        let delay = capture.delay(address, theirs, down)?;
        println!("link down: {other} announces {address} after {delay:?}");
        assert!(delay < Duration::from_secs(1), "{delay:?}");
        eventually("the client's neighbor table to have it", SHORT_TIMEOUT, || {
            Ok((known(harness, address)? == theirs).then_some(()))
        })?;
        let start = Instant::now();
        change(harness, &node, "eth1 up")?;
        std::thread::sleep(Duration::from_millis(500).saturating_sub(start.elapsed()));
        assert_eq!(known(harness, address)?, theirs, "it does not move");
    }
    harness.wait_for_answer(&addresses[0], "web")?;
    harness.wait_for_answer(&format!("[{}]", addresses[1]), "web")
}
