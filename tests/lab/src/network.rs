//! The LANs: two switches, a network namespace for each machine, and the cables between them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::layout::{Layout, Machine, link_addresses};
use super::run;

/// Number of switches: interface `eth0` is on LAN 0, `eth1` on LAN 1.
const LAN_COUNT: usize = 2;

/// Limit for duplicate address detection, which takes one to two seconds.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// The switch of the minority during a partition of LAN 0.
const MINORITY_BRIDGE: &str = "apart";

#[derive(Clone, Copy, Debug)]
pub(super) enum Cable {
    Plugged,
    Unplugged,
}

/// Creates the switches and plugs in every machine. Returns the number of the host link.
pub(super) fn create(layout: &Layout) -> anyhow::Result<u8> {
    let lan = layout.lan();
    run(Command::new("ip").args(["netns", "add", &lan]))?;
    let mut commands = vec!["link set lo up".to_owned()];
    for number in 0..LAN_COUNT {
        // No learning phase and no snooping: a switch forwards from the first frame.
        commands.push(format!(
            "link add br{number} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
        ));
        commands.push(format!("link set br{number} up"));
    }
    // The LAN's router: without a default route, machines could not route packets to Service addresses at all.
    commands.push("address add 192.168.50.1/24 dev br0".to_owned());
    commands.push("address add fc00:50::1/64 dev br0 nodad".to_owned());
    ip(&lan, &commands)?;
    // iptables must not see bridged frames.
    for family in ["ip", "ip6", "arp"] {
        let file = format!("net/bridge/bridge-nf-call-{family}tables");
        if Path::new("/proc/sys").join(&file).exists() {
            sysctl(&lan, &file, "0")?;
        }
    }
    for machine in layout.machines() {
        plug_in(layout, machine)?;
    }
    for machine in layout.machines() {
        wait_for_addresses(layout, machine)?;
    }
    link_to_host(layout)
}

/// Waits until duplicate address detection has ended for all addresses of a machine.
pub(super) fn wait_for_addresses(layout: &Layout, machine: Machine) -> anyhow::Result<()> {
    let namespace = layout.namespace(machine);
    let start = Instant::now();
    loop {
        let show = ["-n", &namespace, "-6", "-oneline", "address", "show", "tentative"];
        let tentative = run(Command::new("ip").args(show))?;
        if tentative.is_empty() {
            return Ok(());
        }
        if tentative.contains("dadfailed") || start.elapsed() > ADDRESS_TIMEOUT {
            bail!("{} cannot use its addresses: {tentative}", machine.name());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Creates a machine's namespace, interfaces, addresses and routes.
pub(super) fn plug_in(layout: &Layout, machine: Machine) -> anyhow::Result<()> {
    let namespace = layout.namespace(machine);
    let (name, host) = (machine.name(), machine.host_number());
    run(Command::new("ip").args(["netns", "add", &namespace]))?;
    let mut switch = Vec::new();
    let mut own = vec!["link set lo up".to_owned()];
    for number in 0..LAN_COUNT {
        let port = port(machine, number);
        let [a, b, c, d, e, f] = mac_address(machine, number);
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        switch.push(format!(
            "link add {port} type veth peer name eth{number} address {mac} netns {namespace}"
        ));
        switch.push(format!("link set {port} master br{number} up"));
        own.push(format!(
            "address add 192.168.{}.{host}/24 dev eth{number}",
            50 + number
        ));
        own.push(format!(
            "address add fc00:{}::{host}/64 dev eth{number}",
            50 + number
        ));
        own.push(format!("link set eth{number} up"));
    }
    own.push("route add default via 192.168.50.1".to_owned());
    own.push("route add ::/0 via fc00:50::1".to_owned());
    ip(&layout.lan(), &switch).with_context(|| format!("plug {name} in"))?;
    if machine != Machine::Client {
        sysctl(&namespace, "net/ipv4/ip_forward", "1")?;
        sysctl(&namespace, "net/ipv6/conf/all/forwarding", "1")?;
        sysctl(&namespace, "net/ipv4/conf/all/rp_filter", "0")?;
        for number in 1..=layout.nodes {
            let node = Machine::Node(number);
            if node != machine {
                own.push(format!(
                    "route add {} via {}",
                    pod_network(number),
                    node.address()
                ));
                own.push(format!(
                    "route add {} via {}",
                    pod_network6(number),
                    node.address6()
                ));
            }
        }
    }
    ip(&namespace, &own).with_context(|| format!("configure the network of {name}"))
}

/// The MAC address of a machine's interface. It never changes, not even across a restart.
pub(super) fn mac_address(machine: Machine, lan: usize) -> [u8; 6] {
    // Both fit: there are two LANs, and a host number is the last part of an address.
    [0x02, 0x1b, 0, lan as u8, 0, machine.host_number() as u8]
}

/// Unplugs a machine's cables at the switch or plugs them in: the machine sees its carrier go and come.
pub(super) fn set_cables(layout: &Layout, machine: Machine, cable: Cable) -> anyhow::Result<()> {
    let state = match cable {
        Cable::Plugged => "up",
        Cable::Unplugged => "down",
    };
    let commands: Vec<_> = (0..LAN_COUNT)
        .map(|number| format!("link set {} {state}", port(machine, number)))
        .collect();
    ip(&layout.lan(), &commands)
        .with_context(|| format!("find the switch port of {}: is it switched on?", machine.name()))
}

/// Partitions LAN 0: `minority` and the client's second interface get a segment of their own. No interface loses its
/// carrier. Without nodes, ends the partition.
pub(super) fn partition(layout: &Layout, minority: &[Machine]) -> anyhow::Result<()> {
    let lan = layout.lan();
    let mut commands = Vec::new();
    if !minority.is_empty()
        && run(Command::new("ip").args(["-n", &lan, "link", "show", MINORITY_BRIDGE])).is_err()
    {
        commands.push(format!(
            "link add {MINORITY_BRIDGE} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
        ));
        commands.push(format!("link set {MINORITY_BRIDGE} up"));
    }
    let client = if minority.is_empty() {
        "br1"
    } else {
        MINORITY_BRIDGE
    };
    commands.push(format!("link set {} master {client}", port(Machine::Client, 1)));
    // All in one batch, so that no node is on neither side.
    for number in 1..=layout.nodes {
        let node = Machine::Node(number);
        let side = if minority.contains(&node) {
            MINORITY_BRIDGE
        } else {
            "br0"
        };
        if run(Command::new("ip").args(["-n", &lan, "link", "show", &port(node, 0)])).is_ok() {
            commands.push(format!("link set {} master {side}", port(node, 0)));
        }
    }
    ip(&lan, &commands).context("partition the LAN")
}

/// The pods' network on a node.
pub(super) fn pod_network(node: usize) -> String {
    format!("10.244.{node}.0/24")
}

pub(super) fn pod_network6(node: usize) -> String {
    format!("fd00:10:244:{node}::/64")
}

/// The name of a machine's port on a switch.
fn port(machine: Machine, lan: usize) -> String {
    format!("{}-{lan}", machine.name())
}

/// A link from the host to the control plane, separate from the LAN: labs have equal LANs, which must not meet on the
/// host. Its addresses are from 198.18.0.0/15, which RFC 2544, section 11.4.1 reserves for benchmarks of network
/// devices.
fn link_to_host(layout: &Layout) -> anyhow::Result<u8> {
    let namespace = layout.namespace(Machine::ControlPlane);
    for number in 0..=u8::MAX {
        let name = format!("lab{number}");
        if Path::new("/sys/class/net").join(&name).exists() {
            continue;
        }
        let added = run(Command::new("ip").args([
            "link", "add", &name, "type", "veth", "peer", "name", "host", "netns", &namespace,
        ]));
        if added.is_err() {
            // Another lab took this number first.
            continue;
        }
        let (host, server) = link_addresses(number);
        run(Command::new("ip").args(["address", "add", &format!("{host}/30"), "dev", &name]))?;
        run(Command::new("ip").args(["link", "set", &name, "alias", &layout.name, "up"]))?;
        ip(
            &namespace,
            &[
                format!("address add {server}/30 dev host"),
                "link set host up".to_owned(),
            ],
        )?;
        return Ok(number);
    }
    bail!("all host links 198.18.0.0 to 198.18.255.0 are in use: take a lab down with `lab down`")
}

/// Runs `ip` commands in a namespace, all in one process.
pub(super) fn ip(namespace: &str, commands: &[String]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut process = command.spawn().context("start ip")?;
    process
        .stdin
        .take()
        .context("ip has no input")?
        .write_all(commands.join("\n").as_bytes())?;
    let output = process.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

pub(super) fn sysctl(namespace: &str, file: &str, value: &str) -> anyhow::Result<()> {
    run(Command::new("nsenter")
        .arg(format!("--net=/run/netns/{namespace}"))
        .args(["sh", "-c", "echo \"$0\" >\"$1\"", value])
        .arg(Path::new("/proc/sys").join(file)))?;
    Ok(())
}
