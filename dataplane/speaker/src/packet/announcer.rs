//! The announcer: opens the suitable interfaces, answers for the announced addresses on them, and sends gratuitous ARP and
//! unsolicited neighbor advertisements on schedule.
//!
//! ```text
//!  announce, withdraw ──► announced ─┬─► one Interface each: responder threads, kernel filters
//!  links ──► suitable interfaces ────┘        ▲
//!                 gratuitous schedule ────────┘
//! ```
//!
//! After each round of calls, call [`Announcer::flush`], and again at [`Announcer::poll_timeout`] at the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_l2::MacAddr;
use lb_l2::gratuitous::GratuitousSchedule;
use lb_l2::wire::heartbeat::MAX_MACS;
use lb_net::{Link, LinkAddress, Snapshot, SocketError};
use tokio::sync::mpsc;

use crate::delay_queue::DelayQueue;
use crate::interface_selection::{
    ExcludedInterfaces, InterfaceSelection, covers, has_network, supports_family,
};
use lb_runtime::error::chain;

use crate::metrics::Metrics;
use crate::packet::interface::Interface;
use crate::packet::responder_thread::ObservedReply;
use crate::packet::responder_thread::ReplySender;

/// Delay before opening an interface or setting a filter is retried.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// How long replies to a question are awaited.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Capacity of the channel for replies.
const REPLY_QUEUE_LEN: usize = 1024;

/// An ordinary request on one interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    /// The name of the interface.
    pub interface: Arc<str>,
    /// Our own address on the interface.
    pub source: IpAddr,
    /// The host that gets the request; `None` for all hosts.
    pub to: Option<MacAddr>,
}

/// A change of the links that could be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinksChange {
    /// Whether an interface was opened.
    pub opened: bool,
}

/// Announces addresses on the interfaces of this node.
#[derive(Debug)]
pub struct Announcer {
    excluded: ExcludedInterfaces,
    metrics: Metrics,
    /// The links of the last snapshot, except the excluded ones.
    links: Snapshot,
    /// The open interfaces, by index.
    interfaces: BTreeMap<u32, Interface>,
    announced: BTreeMap<IpAddr, InterfaceSelection>,
    schedule: GratuitousSchedule,
    /// Addresses that were asked for, until the replies are no longer awaited.
    watched: DelayQueue<IpAddr>,
    reply_sender: ReplySender,
    replies: Option<mpsc::Receiver<ObservedReply>>,
    retry: Option<Instant>,
}

impl Announcer {
    /// An announcer without addresses and interfaces. Every `refresh`, each address is announced again.
    #[must_use]
    pub fn new(excluded: ExcludedInterfaces, refresh: Option<Duration>, metrics: Metrics) -> Self {
        let (reply_sender, replies) = mpsc::channel(REPLY_QUEUE_LEN);
        Self {
            excluded,
            metrics,
            links: Snapshot::new(),
            interfaces: BTreeMap::new(),
            announced: BTreeMap::new(),
            schedule: GratuitousSchedule::new(refresh),
            watched: DelayQueue::default(),
            reply_sender,
            replies: Some(replies),
            retry: None,
        }
    }

    /// Opens and closes interfaces for this snapshot of the links. Announces all addresses again on an interface that came up
    /// or has another MAC, and those of a closed interface on the others. `None` if no link changed that could be used: the
    /// links of pods come and go all the time.
    pub fn set_links(&mut self, now: Instant, mut links: Snapshot) -> Option<LinksChange> {
        links.retain(|_, link| !link.loopback && !self.excluded.contains(&link.name));
        if self.links == links {
            return None;
        }
        self.links = links;
        Some(LinksChange {
            opened: self.update_interfaces(now),
        })
    }

    /// The replies of other hosts for announced and probed addresses. Can be taken once.
    pub fn replies(&mut self) -> mpsc::Receiver<ObservedReply> {
        self.replies.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Announces the address on these interfaces, including those opened later. When an interface is no longer selected, the
    /// address is announced again on the others, because hosts may have learned it there.
    pub fn announce(&mut self, now: Instant, address: IpAddr, interfaces: InterfaceSelection) {
        let selected = self.selected(address, &interfaces);
        let mut changed = false;
        for (index, interface) in &mut self.interfaces {
            if selected.contains(index) {
                changed |= interface.insert(address);
            } else {
                changed |= interface.has(address);
                interface.remove(address);
            }
        }
        if self.announced.insert(address, interfaces).is_none() || changed {
            self.schedule.announce(now, address);
        }
    }

    /// Stops answering for the address at once.
    pub fn withdraw(&mut self, address: IpAddr) {
        self.announced.remove(&address);
        self.schedule.withdraw(address);
        for interface in self.interfaces.values_mut() {
            interface.remove(address);
        }
    }

    /// Starts another series of gratuitous packets for the address.
    pub fn reannounce(&mut self, now: Instant, address: IpAddr) {
        self.schedule.restart(now, address);
    }

    /// Whether one of the selected interfaces is open and suitable for the address.
    #[must_use]
    pub fn can_announce(&self, address: IpAddr, interfaces: &InterfaceSelection) -> bool {
        !self.selected(address, interfaces).is_empty()
    }

    /// Sends probes for the address on these interfaces; for the answers see [`replies`](Self::replies).
    pub fn probe(&mut self, now: Instant, address: IpAddr, interfaces: &InterfaceSelection) {
        let selected = self.selected(address, interfaces);
        for (_, interface) in self
            .interfaces
            .iter_mut()
            .filter(|(index, _)| selected.contains(index))
        {
            interface.probe(address);
        }
        self.watch(now, address);
    }

    /// Sends ordinary requests for the address; for the answers see [`replies`](Self::replies).
    pub fn query(&mut self, now: Instant, address: IpAddr, queries: &[Query]) {
        for query in queries {
            let named = self.interfaces.values_mut();
            for interface in named.filter(|interface| *interface.name() == query.interface) {
                interface.query(query.source, query.to, address);
            }
        }
        self.watch(now, address);
    }

    fn watch(&mut self, now: Instant, address: IpAddr) {
        self.watched.remove(&address);
        self.watched.insert(address, now + PROBE_TIMEOUT);
    }

    /// Starts proxy replies for the address on an interface, with the hardware address of its owner.
    pub fn start_proxy(&mut self, address: IpAddr, name: &str, owner: MacAddr) {
        if self.announced.contains_key(&address) {
            return;
        }
        for interface in self
            .interfaces
            .values_mut()
            .filter(|interface| **interface.name() == *name)
        {
            interface.start_proxy(address, owner);
        }
    }

    /// Stops proxy replies for the address.
    pub fn stop_proxy(&mut self, address: IpAddr) {
        for interface in self.interfaces.values_mut() {
            interface.stop_proxy(address);
        }
    }

    /// The hardware addresses of the open interfaces. If there are more than a heartbeat can tell, first of those with
    /// announced addresses.
    #[must_use]
    pub fn macs(&self) -> Vec<MacAddr> {
        let announces = |interface: &&Interface| self.interfaces.len() <= MAX_MACS || interface.has_any();
        let (first, rest): (Vec<_>, Vec<_>) = self.interfaces.values().partition(announces);
        first.into_iter().chain(rest).map(Interface::mac).collect()
    }

    /// Names of the open interfaces that are suitable for an address.
    #[must_use]
    pub fn open_interfaces(&self, address: IpAddr, interfaces: &InterfaceSelection) -> Vec<Arc<str>> {
        let selected = self.selected(address, interfaces);
        let open = self.interfaces.iter();
        let open = open.filter(|(index, _)| selected.contains(index));
        open.map(|(_, interface)| interface.name().clone()).collect()
    }

    /// The IP addresses of the open interfaces, with the name of the interface.
    #[must_use]
    pub fn interface_addresses(&self) -> Vec<(Arc<str>, LinkAddress)> {
        let open = self
            .links
            .values()
            .filter(|link| self.interfaces.contains_key(&link.index));
        open.flat_map(|link| link.addresses.iter().map(|own| (link.name.as_str().into(), *own)))
            .collect()
    }

    /// The open interfaces for an address. Without names: those whose network contains it, or all if no network does, because
    /// a router may forward to it.
    fn selected(&self, address: IpAddr, interfaces: &InterfaceSelection) -> BTreeSet<u32> {
        select_open(&self.links, &self.interfaces, address, interfaces)
    }

    /// Names of the interfaces that the address is announced on now.
    #[must_use]
    pub fn interfaces_of(&self, address: IpAddr) -> Box<[Arc<str>]> {
        let open = self
            .interfaces
            .values()
            .filter(|interface| interface.has(address));
        let mut names: Vec<_> = open.map(|interface| interface.name().clone()).collect();
        names.sort_unstable();
        names.into()
    }

    /// Handles frames that have arrived and were not read yet.
    pub fn read_pending(&self) {
        self.interfaces.values().for_each(Interface::read_pending);
    }

    /// Applies changes, then sends the gratuitous packets that are due: an address is announced only after its requests pass
    /// the filter. Returns whether an interface was opened that could not be opened before.
    pub fn flush(&mut self, now: Instant) -> bool {
        let mut opened = false;
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            opened = self.update_interfaces(now);
        }
        for interface in self.interfaces.values_mut() {
            if !interface.apply_filter() {
                self.retry.get_or_insert(now + RETRY_DELAY);
            }
        }
        while let Some(address) = self.watched.pop_due(now) {
            for interface in self.interfaces.values_mut() {
                interface.stop_watching(address);
            }
        }
        self.schedule.handle_timeout(now);
        while let Some(address) = self.schedule.poll_transmit() {
            for interface in self.interfaces.values() {
                interface.send_gratuitous(address);
            }
        }
        opened
    }

    /// The latest time of the next call of [`flush`](Self::flush).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.schedule.poll_timeout(), self.watched.next_due(), self.retry]
            .into_iter()
            .flatten()
            .min()
    }

    fn update_interfaces(&mut self, now: Instant) -> bool {
        let Self {
            excluded,
            metrics,
            links,
            interfaces: open,
            announced,
            reply_sender,
            ..
        } = self;
        // Hosts that learned an address on a closed interface must learn it on another.
        let mut lost = BTreeSet::new();
        open.retain(|index, interface| {
            let suitable = links.get(index).is_some_and(|link| excluded.admits(link));
            if !suitable {
                tracing::info!(interface = %interface.name(), "interface closed");
                lost.extend(
                    announced
                        .keys()
                        .copied()
                        .filter(|address| interface.has(*address)),
                );
            }
            suitable
        });
        let mut opened = false;
        let mut changed_links = BTreeSet::new();
        for link in links.values().filter(|link| excluded.admits(link)) {
            let Some(mac) = link.mac else { continue };
            let changed = match open.get_mut(&link.index) {
                Some(interface) => interface.update(&link.name, mac),
                None => match Interface::open(
                    link.index,
                    link.name.clone(),
                    mac,
                    metrics.clone(),
                    reply_sender.clone(),
                ) {
                    Ok(interface) => {
                        tracing::info!(interface = link.name, %mac, "interface opened");
                        open.insert(link.index, interface);
                        opened = true;
                        true
                    }
                    // The next snapshot shows it.
                    Err(SocketError::InterfaceDown(_) | SocketError::InterfaceGone(_)) => false,
                    Err(error) => {
                        tracing::warn!(
                            interface = link.name,
                            error = chain(&error),
                            "failed to open interface; retrying"
                        );
                        self.retry.get_or_insert(now + RETRY_DELAY);
                        false
                    }
                },
            };
            if changed {
                changed_links.insert(link.index);
            }
        }
        // The selection depends on all interfaces.
        let mut again = Vec::new();
        for (address, interfaces) in announced.iter() {
            let selected = select_open(links, open, *address, interfaces);
            let mut unchanged = !lost.contains(address);
            for (index, interface) in open.iter_mut() {
                if selected.contains(index) {
                    unchanged &= !interface.insert(*address) && !changed_links.contains(index);
                } else {
                    unchanged &= !interface.has(*address);
                    interface.remove(*address);
                }
            }
            if !unchanged {
                again.push(*address);
            }
        }
        for address in again {
            self.schedule.restart(now, address);
        }
        opened
    }
}

fn select_open(
    links: &Snapshot,
    open: &BTreeMap<u32, Interface>,
    address: IpAddr,
    interfaces: &InterfaceSelection,
) -> BTreeSet<u32> {
    let is_open = |link: &&Link| {
        open.contains_key(&link.index) && interfaces.includes(&link.name) && supports_family(link, address)
    };
    let covers = |link: &&Link| covers(link, address);
    let anywhere = match interfaces {
        InterfaceSelection::Named(_) => true,
        // A link whose network contains the address counts even while it is down.
        InterfaceSelection::All => !links
            .values()
            .any(|link| covers(&link) && has_network(link, address)),
    };
    let selected = links.values().filter(is_open);
    let selected = selected.filter(|link| anywhere || covers(link));
    selected.map(|link| link.index).collect()
}
