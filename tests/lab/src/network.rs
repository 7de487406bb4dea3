//! The wires: two switches, a network namespace for each machine, and the cables between them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::layout::{Layout, Machine, link_addresses};
use super::run;

/// The switches, and with them the machines' interfaces: LAN 0 on `eth0`, LAN 1 on `eth1`.
const LANS: usize = 2;

/// The switch of those who are apart from LAN 0.
const APART: &str = "apart";

/// Whether a machine's cables are plugged in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cable {
    In,
    Out,
}

/// Makes the switches and plugs every machine in. Returns the number of the link to the host.
pub(super) fn create(layout: &Layout) -> anyhow::Result<u8> {
    let lan = layout.lan();
    run(Command::new("ip").args(["netns", "add", &lan]))?;
    let mut commands = vec!["link set lo up".to_owned()];
    for number in 0..LANS {
        // No learning phase and no snooping: a switch that forwards from the first frame on.
        commands.push(format!(
            "link add br{number} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
        ));
        commands.push(format!("link set br{number} up"));
    }
    // The LAN's router; machines need a default route for their own Services' addresses to be routed at all.
    commands.push("address add 192.168.50.1/24 dev br0".to_owned());
    commands.push("address add fc00:50::1/64 dev br0 nodad".to_owned());
    ip(&lan, &commands)?;
    // Bridged frames are not for iptables.
    for family in ["ip", "ip6", "arp"] {
        let file = format!("net/bridge/bridge-nf-call-{family}tables");
        if Path::new("/proc/sys").join(&file).exists() {
            sysctl(&lan, &file, "0")?;
        }
    }
    for machine in layout.machines() {
        plug_in(layout, machine)?;
    }
    link_to_host(layout)
}

/// Makes a machine's namespace, interfaces, addresses and routes.
pub(super) fn plug_in(layout: &Layout, machine: Machine) -> anyhow::Result<()> {
    let namespace = layout.namespace(machine);
    let (name, host) = (machine.name(), machine.host_number());
    run(Command::new("ip").args(["netns", "add", &namespace]))?;
    let mut switch = Vec::new();
    let mut own = vec!["link set lo up".to_owned()];
    for number in 0..LANS {
        let port = port(machine, number);
        let [a, b, c, d, e, f] = hardware_address(machine, number);
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
            "address add fc00:{}::{host}/64 dev eth{number} nodad",
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
                own.push(format!("route add {} via {}", pods(number), node.address()));
                own.push(format!("route add {} via {}", pods6(number), node.address6()));
            }
        }
    }
    ip(&namespace, &own).with_context(|| format!("configure the network of {name}"))
}

/// The hardware address of a machine's interface: always the same, also after a restart.
pub(super) fn hardware_address(machine: Machine, lan: usize) -> [u8; 6] {
    // Both are small: there are two LANs, and host numbers are the last part of an address.
    [0x02, 0x1b, 0, lan as u8, 0, machine.host_number() as u8]
}

/// Pulls a machine's cables out at the switch, or puts them back: the machine sees its carrier go and come.
pub(super) fn set_cables(layout: &Layout, machine: Machine, cable: Cable) -> anyhow::Result<()> {
    let state = match cable {
        Cable::In => "up",
        Cable::Out => "down",
    };
    let commands: Vec<_> = (0..LANS)
        .map(|number| format!("link set {} {state}", port(machine, number)))
        .collect();
    ip(&layout.lan(), &commands)
        .with_context(|| format!("reach the switch port of {}: has it power?", machine.name()))
}

/// Divides LAN 0: some nodes are on a segment of their own, together with the client's second interface, and the others
/// stay where they are. No carrier is lost by it. Without nodes, everything is as it was.
pub(super) fn divide(layout: &Layout, apart: &[Machine]) -> anyhow::Result<()> {
    let lan = layout.lan();
    let mut commands = Vec::new();
    if !apart.is_empty() && run(Command::new("ip").args(["-n", &lan, "link", "show", APART])).is_err() {
        commands.push(format!(
            "link add {APART} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
        ));
        commands.push(format!("link set {APART} up"));
    }
    let client = if apart.is_empty() { "br1" } else { APART };
    commands.push(format!("link set {} master {client}", port(Machine::Client, 1)));
    // All in one breath: whoever is moved is on one side or the other.
    for number in 1..=layout.nodes {
        let node = Machine::Node(number);
        let side = if apart.contains(&node) { APART } else { "br0" };
        if run(Command::new("ip").args(["-n", &lan, "link", "show", &port(node, 0)])).is_ok() {
            commands.push(format!("link set {} master {side}", port(node, 0)));
        }
    }
    ip(&lan, &commands).context("divide the LAN")
}

/// The pods' network on a node.
pub(super) fn pods(node: usize) -> String {
    format!("10.244.{node}.0/24")
}

/// The pods' IPv6 network on a node.
pub(super) fn pods6(node: usize) -> String {
    format!("fd00:10:244:{node}::/64")
}

/// The name of a machine's port on a switch.
fn port(machine: Machine, lan: usize) -> String {
    format!("{}-{lan}", machine.name())
}

/// A link from the host to the control plane, apart from the LAN: labs have the same LAN and must not meet on the host.
/// Its networks are from 198.18.0.0/15, which RFC 2544 sets aside for labs.
fn link_to_host(layout: &Layout) -> anyhow::Result<u8> {
    let namespace = layout.namespace(Machine::Server);
    for number in 0..=u8::MAX {
        let name = format!("lab{number}");
        if Path::new("/sys/class/net").join(&name).exists() {
            continue;
        }
        let added = run(Command::new("ip").args([
            "link", "add", &name, "type", "veth", "peer", "name", "host", "netns", &namespace,
        ]));
        if added.is_err() {
            // Another lab was quicker.
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
    bail!("the host has no room for another lab")
}

/// Runs `ip` commands in a namespace, all in one process.
fn ip(namespace: &str, commands: &[String]) -> anyhow::Result<()> {
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

fn sysctl(namespace: &str, file: &str, value: &str) -> anyhow::Result<()> {
    run(Command::new("nsenter")
        .arg(format!("--net=/run/netns/{namespace}"))
        .args(["sh", "-c", "echo \"$0\" >\"$1\"", value])
        .arg(Path::new("/proc/sys").join(file)))?;
    Ok(())
}
