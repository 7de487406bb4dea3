//! A LAN simulator: a node and a client in network namespaces, joined by two Ethernet segments (`lan0` and `lan1` at both ends).
//! The speaker `n1` runs in the node's namespace without an API server: the test supplies the objects.
//!
//! ```ignore
//! Lan::run(async |lan, mut rig| {
//!     rig.start(cluster()).await; // objects, then the end of the initial lists
//!     ensure!(rig.during(lan.answered("lan0", WEB)).await?); // arping from the client
//!     ensure!(rig.take_events() == ["announcing"]);
//!     rig.update([Update::Slice(key("web-abc"), None)]); // the last endpoint is gone
//!     ensure!(!rig.during(lan.answered("lan0", WEB)).await?);
//!     lan.client_ip("link set lan0 down")?; // the link fails
//!     rig.during(tokio::time::sleep(Duration::from_secs(2))).await;
//!     ensure!(rig.desired_status("web").is_none());
//!     Ok(())
//! })
//! ```

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use futures::StreamExt;
use futures::stream::LocalBoxStream;
use k8s_openapi::jiff::Timestamp;
use lb_l2::MacAddr;
use lb_l2::ownership::{Coordinator, Output};
use lb_l2::wire::arp::{ArpFrame, ArpOperation};
use lb_l2::wire::ndp::{NdpFrame, NdpMessage};
use lb_net::packet_socket::FRAME_BUFFER_LEN;
use lb_net::{Link, LinkWatcher, PacketSocket, Snapshot};
use lb_runtime::ObjectKey;
use lb_speaker::args::Args;
use lb_speaker::k8s::events::ServiceEvent;
use lb_speaker::k8s::index::{Kind, Update};
use lb_speaker::k8s::l2_status::{Desired, DesiredStatus};
use lb_speaker::metrics::Metrics;
use lb_speaker::packet::ObservedReply;
use lb_speaker::speaker::Speaker;
use nix::sched::{CloneFlags, setns};
use prometheus::Registry;
use tokio::sync::mpsc::Receiver;

/// The client's address on the first segment.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);

/// The namespaces, removed with their links when dropped, also by a panic.
pub(crate) struct Lan {
    pub(crate) node: String,
    pub(crate) client: String,
}

impl Lan {
    pub(crate) fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "not root: run the tests of lb-speaker as root, they make network namespaces"
        );
        let prefix = format!(
            "lb-speaker-{}-{}",
            process::id(),
            MADE.fetch_add(1, Ordering::Relaxed)
        );
        let lan = Self {
            node: format!("{prefix}-node"),
            client: format!("{prefix}-client"),
        };
        let (node, client) = (&lan.node, &lan.client);
        ip(&format!("netns add {node}"))?;
        ip(&format!("netns add {client}"))?;
        for (interface, net) in [("lan0", 50), ("lan1", 51)] {
            ip(&format!(
                "link add {interface} netns {node} type veth peer name {interface} netns {client}"
            ))?;
            for (namespace, host) in [(node, 21), (client, CLIENT.octets()[3])] {
                ip(&format!(
                    "-n {namespace} address add 192.168.{net}.{host}/24 dev {interface}"
                ))?;
                ip(&format!("-n {namespace} link set {interface} up"))?;
            }
        }
        Ok(lan)
    }

    /// Runs `ip` in the node's namespace.
    pub(crate) fn node_ip(&self, arguments: &str) -> Result<()> {
        ip(&format!("-n {} {arguments}", self.node))
    }

    /// Runs `ip` in the client's namespace.
    pub(crate) fn client_ip(&self, arguments: &str) -> Result<()> {
        ip(&format!("-n {} {arguments}", self.client))
    }

    /// The hardware address of the client on an interface.
    pub(crate) fn client_mac(&self, interface: &str) -> Result<MacAddr> {
        let output = run(&format!("-n {} -brief link show {interface}", self.client))?;
        let text = String::from_utf8(output.stdout)?;
        let mac = text.split_whitespace().nth(2).context("no hardware address")?;
        Ok(mac.parse()?)
    }

    /// Whether the client receives an ARP reply for the address on this interface within a second.
    pub(crate) async fn answered(&self, interface: &str, address: &str) -> Result<bool> {
        let command = format!(
            "netns exec {} arping -I {interface} -f -c 2 -w 1 {address}",
            self.client
        );
        let output = tokio::task::spawn_blocking(move || run(&command)).await??;
        Ok(output.status.success())
    }

    /// Resolves an IPv6 address from the client on `lan0`. Returns the hardware address that the client learns, after it has
    /// confirmed it by a unicast probe.
    pub(crate) async fn neighbour(&self, address: &str) -> Result<Option<String>> {
        let (client, address) = (self.client.clone(), address.to_owned());
        let probe = move || -> Result<Option<String>> {
            // No host answers the ping; only the resolution counts.
            run(&format!(
                "netns exec {client} ping -6 -c 1 -W 1 -I lan0 {address}"
            ))?;
            // An address learned from an unsolicited advertisement is confirmed first.
            let known = |state: &str| -> Result<Option<String>> {
                let output = run(&format!(
                    "-n {client} -6 neigh show {address} dev lan0 nud {state}"
                ))?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
                Ok(words.nth(1).map(str::to_owned))
            };
            let Some(mac) = known("all")? else { return Ok(None) };
            ip(&format!(
                "-n {client} -6 neigh change {address} lladdr {mac} dev lan0 nud probe"
            ))?;
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end {
                if known("reachable")?.as_ref() == Some(&mac) {
                    return Ok(Some(mac));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            anyhow::bail!("the owner does not answer a unicast probe")
        };
        tokio::task::spawn_blocking(probe).await?
    }

    /// Number of gratuitous ARP requests for the address that the client receives on `lan0` in this time.
    pub(crate) async fn heard(&self, address: &str, time: Duration) -> Result<usize> {
        let client = self.client.clone();
        let address: Ipv4Addr = address.parse()?;
        let listen = async move || {
            let socket = PacketSocket::arp(link("lan0").await?.index)?;
            socket.set_addresses(&BTreeSet::from([address]), [])?;
            let mut buffer = [0; FRAME_BUFFER_LEN];
            let mut heard = 0;
            tokio::time::sleep(time).await;
            while let Some(len) = socket.recv(&mut buffer)? {
                let frame = ArpFrame::decode(buffer.get(..len).unwrap_or_default())?;
                let request = frame.operation == ArpOperation::Request;
                heard += usize::from(request && frame.sender_ip == frame.target_ip);
            }
            Ok(heard)
        };
        tokio::task::spawn_blocking(move || within(&client, listen)).await?
    }

    /// Counts the requests for these addresses that the client receives on `lan0` in this time.
    pub(crate) async fn requests(&self, four: Ipv4Addr, six: Ipv6Addr, time: Duration) -> Result<Requests> {
        let client = self.client.clone();
        let listen = async move || {
            let index = link("lan0").await?.index;
            let (arp, ndp) = (PacketSocket::arp(index)?, PacketSocket::ndp(index)?);
            arp.set_addresses([], &BTreeSet::from([four]))?;
            ndp.set_addresses([], &BTreeSet::from([six]))?;
            tokio::time::sleep(time).await;
            let mut requests = Requests::default();
            let mut buffer = [0; FRAME_BUFFER_LEN];
            while let Some(len) = arp.recv(&mut buffer)? {
                let frame = ArpFrame::decode(buffer.get(..len).unwrap_or_default())?;
                if frame.operation == ArpOperation::Request {
                    requests.count(frame.sender_ip.is_unspecified(), frame.dst, four.into());
                }
            }
            while let Some(len) = ndp.recv(&mut buffer)? {
                let frame = NdpFrame::decode(buffer.get(..len).unwrap_or_default())?;
                if matches!(frame.message, NdpMessage::Solicitation { .. }) {
                    requests.count(frame.source.is_unspecified(), frame.dst, six.into());
                }
            }
            Ok(requests)
        };
        tokio::task::spawn_blocking(move || within(&client, listen)).await?
    }

    /// Whether the client has the address, and duplicate address detection for it has neither failed nor is under way.
    pub(crate) fn client_uses(&self, address: &str) -> Result<bool> {
        let output = run(&format!(
            "-n {} -o address show to {address} dev lan0",
            self.client
        ))?;
        let text = String::from_utf8(output.stdout)?;
        Ok(!text.is_empty() && !text.contains("tentative") && !text.contains("dadfailed"))
    }

    /// Sends a frame from the client on `lan0`.
    pub(crate) async fn send(&self, frame: Vec<u8>) -> Result<()> {
        let client = self.client.clone();
        let send = async move || Ok(PacketSocket::arp(link("lan0").await?.index)?.send(&frame)?);
        tokio::task::spawn_blocking(move || within(&client, send)).await?
    }

    /// Runs a test of the speaker.
    pub(crate) fn run<F, T>(test: T) -> Result<()>
    where
        F: Future<Output = Result<()>>,
        T: FnOnce(Self, Rig) -> F + Send,
    {
        let lan = Self::new()?;
        let node = lan.node.clone();
        within(&node, async || test(lan, Rig::new()?).await)
    }
}

/// Requests that the client received.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Duplicate address probes.
    pub(crate) probes: usize,
    pub(crate) multicast: usize,
    /// Ordinary unicast requests, by address.
    pub(crate) unicast: BTreeMap<IpAddr, usize>,
}

impl Requests {
    fn count(&mut self, is_probe: bool, dst: MacAddr, address: IpAddr) {
        if is_probe {
            self.probes += 1;
        } else if dst.is_multicast() {
            self.multicast += 1;
        } else {
            *self.unicast.entry(address).or_default() += 1;
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.client] {
            // A failure leaves a namespace behind, whose name shows the origin.
            let _ = ip(&format!("netns delete {namespace}"));
        }
    }
}

pub(crate) fn run(arguments: &str) -> Result<process::Output> {
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    Command::new("ip")
        .args(&arguments)
        .output()
        .with_context(|| format!("run ip {arguments:?}"))
}

fn ip(arguments: &str) -> Result<()> {
    let output = run(arguments)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {}", error.trim());
    Ok(())
}

/// Runs `work` on a thread of its own in a network namespace.
pub(crate) fn within<T, F, W>(namespace: &str, work: W) -> Result<T>
where
    T: Send,
    F: Future<Output = Result<T>>,
    W: FnOnce() -> F + Send,
{
    let enter = || {
        setns(
            File::open(format!("/run/netns/{namespace}"))?,
            CloneFlags::CLONE_NEWNET,
        )?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work()).await })?
    };
    std::thread::scope(|scope| match scope.spawn(enter).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The link with this name in the namespace of the calling thread.
pub(crate) async fn link(name: &str) -> Result<Link> {
    let links = LinkWatcher::new()?.next().await?;
    links
        .into_values()
        .find(|link| link.name == name)
        .context("no such interface")
}

/// The speaker and its outputs.
pub(crate) struct Rig {
    pub(crate) speaker: Speaker,
    pub(crate) registry: Registry,
    pub(crate) events: Vec<ServiceEvent>,
    /// Another speaker, on the client.
    pub(crate) peer: Option<Coordinator>,
    /// The peer knows that this node got a reply for its address.
    pub(crate) peer_verified: bool,
    links: LocalBoxStream<'static, Snapshot>,
    replies: Receiver<ObservedReply>,
}

impl Rig {
    fn new() -> Result<Self> {
        let registry = Registry::new();
        let config = Args::try_parse_from(["lb-speaker", "--node-name", "n1"])?.config()?;
        let metrics = Metrics::new(&registry, "n1")?;
        let mut speaker = Speaker::new(Instant::now(), 1, config, metrics);
        Ok(Self {
            replies: speaker.replies(),
            speaker,
            registry,
            events: Vec::new(),
            peer: None,
            peer_verified: false,
            links: lb_speaker::packet::links()?,
        })
    }

    /// Supplies objects of the API.
    pub(crate) fn update(&mut self, updates: impl IntoIterator<Item = Update>) {
        for update in updates {
            self.speaker.update(Instant::now(), update);
        }
    }

    /// Tells the speaker that all_addresses has been listed, and lets it start.
    pub(crate) async fn start(&mut self, updates: impl IntoIterator<Item = Update>) {
        self.update(updates);
        self.update(Kind::ALL.map(Update::Synced));
        while !self.speaker.is_running() {
            self.during(tokio::time::sleep(Duration::from_millis(10))).await;
        }
        self.wait_for_probes().await;
    }

    /// Waits as long as an address is probed before its first announcement.
    pub(crate) async fn wait_for_probes(&mut self) {
        self.during(tokio::time::sleep(Duration::from_millis(300))).await;
    }

    /// Runs the speaker while `work` runs, as the program does.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.events.extend(self.speaker.step(Instant::now()));
            let peers = self.exchange_datagrams();
            let due = [self.speaker.poll_timeout(), peers];
            let due = due.into_iter().flatten().min();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = &mut work => return done,
                Some(snapshot) = self.links.next() => {
                    self.speaker.set_links(Instant::now(), snapshot);
                }
                Some(reply) = self.replies.recv() => {
                    self.speaker.handle_reply(Instant::now(), &reply);
                }
                () = sleep => {}
            }
        }
    }

    /// Exchanges datagrams of the speaker and its peer, if there is one. Returns the next timeout of the peer.
    fn exchange_datagrams(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let client = IpAddr::V4(CLIENT);
        let datagrams = self.speaker.take_datagrams().into_iter();
        let to_the_peer = datagrams.filter(|(to, _)| to.contains(&client));
        let peer = self.peer.as_mut()?;
        for (_, datagram) in to_the_peer {
            // Datagrams are rejected until both sides have verified each other.
            let _ = peer.handle_datagram(now, datagram);
        }
        peer.handle_timeout(now, 64);
        while let Some(output) = peer.poll_output() {
            match output {
                Output::Send { to, datagram } if &*to == "n1" => {
                    let _ = self.speaker.handle_datagram(now, datagram);
                }
                Output::Verified { answered, .. } => self.peer_verified = answered,
                _ => {}
            }
        }
        peer.poll_timeout()
    }

    /// The events since the last call, by reason.
    pub(crate) fn take_events(&mut self) -> Vec<&'static str> {
        let events = std::mem::take(&mut self.events);
        let reason = |event: ServiceEvent| match event.reason {
            lb_speaker::k8s::events::EventReason::Announcing => "announcing",
            lb_speaker::k8s::events::EventReason::NoInterface => "no interface",
            lb_speaker::k8s::events::EventReason::NotAnnounced(_) => "not announced",
            lb_speaker::k8s::events::EventReason::Conflict(_) => "conflict",
        };
        events.into_iter().map(reason).collect()
    }

    /// The ServiceL2Status of a Service by this node.
    pub(crate) fn desired_status(&self, service: &str) -> Option<DesiredStatus> {
        let time = Timestamp::UNIX_EPOCH;
        self.speaker
            .desired_status(&ObjectKey::new("default", service), Instant::now(), time)
    }

    /// The reason that this node reports for a Service that no node announces.
    pub(crate) fn unannounced_reason(&self, service: &str) -> Option<String> {
        match self
            .speaker
            .unannounced_status(&ObjectKey::new("default", service))
        {
            Desired::Unannounced(report) => Some(report.reason.into()),
            Desired::Announced(_) | Desired::Unchanged | Desired::Absent => None,
        }
    }

    /// The value of a counter or gauge with this label value; `None` without such a series.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name)?;
        let metric = family
            .get_metric()
            .iter()
            .find(|metric| metric.get_label().iter().any(|pair| pair.value() == label))?;
        let counter = metric.get_counter().get_value();
        Some(counter + metric.get_gauge().get_value())
    }
}
