//! The announcer: keeps the interfaces open, answers for what is announced, and sends gratuitous ARP and unsolicited advertisements in time.
//!
//! ```text
//!  announce, withdraw ──► claims ─┬─► Interface per interface: responder, kernel filter, socket, task
//!  links ──► fit interfaces ──────┘        ▲
//!                schedule of bursts ───────┘
//! ```
//!
//! Knows nothing of Kubernetes. After each round of calls, [`Announcer::flush`]; then sleep until
//! [`Announcer::poll_timeout`] at most, and flush again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_l2::MacAddr;
use lb_l2::gratuitous::GratuitousSchedule;
use lb_net::{Link, LinkAddress, Snapshot, SocketError};
use tokio::sync::mpsc;

use crate::delay_queue::DelayQueue;
use crate::interface_selection::{Excluded, InterfaceSelection, covers, has_network, speaks};
use lb_runtime::error::chain;

use crate::metrics::Metrics;
use crate::packet::interface::Interface;
use crate::packet::responder_thread::ObservedReplies;
use crate::packet::responder_thread::ObservedReply;

/// Pause before an interface that could not be opened, or a filter that was not taken, is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// How long answers to a question are waited for.
const ANSWERS: Duration = Duration::from_secs(3);
/// ObservedReplies that may wait for the speaker.
const SIGHTINGS: usize = 1024;

/// The announcing half of the speaker.
#[derive(Debug)]
pub struct Announcer {
    excluded: Excluded,
    metrics: Metrics,
    /// All links, as last seen.
    links: Snapshot,
    /// Those that are fit, open.
    open: BTreeMap<u32, Interface>,
    claims: BTreeMap<IpAddr, InterfaceSelection>,
    schedule: GratuitousSchedule,
    /// Addresses that were asked about, and until when answers are waited for.
    watched: DelayQueue<IpAddr>,
    sightings: ObservedReplies,
    seen: Option<mpsc::Receiver<ObservedReply>>,
    retry: Option<Instant>,
}

impl Announcer {
    /// A announcer that announces nothing and has no interfaces yet. After `refresh` an address is announced again.
    #[must_use]
    pub fn new(excluded: Excluded, refresh: Option<Duration>, metrics: Metrics) -> Self {
        let (sightings, seen) = mpsc::channel(SIGHTINGS);
        Self {
            excluded,
            metrics,
            links: Snapshot::new(),
            open: BTreeMap::new(),
            claims: BTreeMap::new(),
            schedule: GratuitousSchedule::new(refresh),
            watched: DelayQueue::default(),
            sightings,
            seen: Some(seen),
            retry: None,
        }
    }

    /// The links are like this now. Opens what became fit and closes what ceased to be; behind a link that came up, or
    /// has another MAC, everything is announced again, and on the links that are left what was announced on one that
    /// went. Returns whether a fit interface came.
    pub fn set_links(&mut self, now: Instant, links: Snapshot) -> bool {
        self.links = links;
        self.refit(now)
    }

    /// Who is seen on the wire with an address that is ours, or that was asked about. To be taken once.
    pub fn sightings(&mut self) -> mpsc::Receiver<ObservedReply> {
        self.seen.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Announces the address on these interfaces, those that come later included. Where one of those before is none of
    /// them, it is announced again on the others: who had learned it from that one must not be left with it.
    pub fn announce(&mut self, now: Instant, address: IpAddr, interfaces: InterfaceSelection) {
        let chosen = self.chosen(address, &interfaces);
        let mut changed = false;
        for (index, interface) in &mut self.open {
            if chosen.contains(index) {
                changed |= interface.insert(address);
            } else {
                changed |= interface.has(address);
                interface.remove(address);
            }
        }
        if self.claims.insert(address, interfaces).is_none() || changed {
            self.schedule.announce(now, address);
        }
    }

    /// Answers for the address no more, from this moment on.
    pub fn withdraw(&mut self, address: IpAddr) {
        self.claims.remove(&address);
        self.schedule.withdraw(address);
        for interface in self.open.values_mut() {
            interface.remove(address);
        }
    }

    /// Announces the address again: others may have answered meanwhile.
    pub fn again(&mut self, now: Instant, address: IpAddr) {
        self.schedule.restart(now, address);
    }

    /// Whether some open interface of these is fit for the address.
    #[must_use]
    pub fn fit(&self, address: IpAddr, interfaces: &InterfaceSelection) -> bool {
        !self.chosen(address, interfaces).is_empty()
    }

    /// Asks on these interfaces who has the address; see [`sightings`](Self::sightings).
    pub fn ask(&mut self, now: Instant, address: IpAddr, interfaces: &InterfaceSelection) {
        let chosen = self.chosen(address, interfaces);
        for (_, interface) in self.open.iter_mut().filter(|(index, _)| chosen.contains(index)) {
            interface.ask(address);
        }
        self.watched.remove(&address);
        self.watched.enter(address, now + ANSWERS);
    }

    /// Answers for the address on an interface in place of its owner, who has this hardware address.
    pub fn stand_in(&mut self, address: IpAddr, name: &str, owner: MacAddr) {
        if self.claims.contains_key(&address) {
            return;
        }
        for interface in self
            .open
            .values_mut()
            .filter(|interface| **interface.name() == *name)
        {
            interface.stand_in(address, owner);
        }
    }

    /// Answers in place of the owner of the address no more.
    pub fn stand_down(&mut self, address: IpAddr) {
        for interface in self.open.values_mut() {
            interface.stand_down(address);
        }
    }

    /// The hardware addresses that answers come from.
    #[must_use]
    pub fn open_macs(&self) -> Vec<MacAddr> {
        self.open.values().map(Interface::mac).collect()
    }

    /// The addresses that the open interfaces have, by name of the interface.
    #[must_use]
    pub fn port_addresses(&self) -> Vec<(Arc<str>, LinkAddress)> {
        let open = self
            .links
            .values()
            .filter(|link| self.open.contains_key(&link.index));
        open.flat_map(|link| link.addresses.iter().map(|own| (link.name.as_str().into(), *own)))
            .collect()
    }

    /// The open interfaces for an address: of those that are asked for by name, all; else those whose network covers it,
    /// and if none does, all, because a router may know the way.
    fn chosen(&self, address: IpAddr, interfaces: &InterfaceSelection) -> BTreeSet<u32> {
        choose(&self.excluded, &self.links, &self.open, address, interfaces)
    }

    /// Interner of the interfaces that the address is announced on at this moment.
    #[must_use]
    pub fn interfaces_of(&self, address: IpAddr) -> Box<[Arc<str>]> {
        let open = self.open.values().filter(|interface| interface.has(address));
        let mut names: Vec<_> = open.map(|interface| interface.name().clone()).collect();
        names.sort_unstable();
        names.into()
    }

    /// Takes in what has arrived on the interfaces and was not looked at yet.
    pub fn listen(&self) {
        self.open.values().for_each(Interface::listen);
    }

    /// Puts changes into force and sends the bursts that are due, in this order: an address whose requests do not pass
    /// the filter is not to be announced.
    pub fn flush(&mut self, now: Instant) {
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.refit(now);
        }
        for interface in self.open.values_mut() {
            if !interface.apply_filter() {
                self.retry.get_or_insert(now + RETRY);
            }
        }
        while let Some(address) = self.watched.pop(now) {
            for interface in self.open.values_mut() {
                interface.unwatch(address);
            }
        }
        self.schedule.handle_timeout(now);
        while let Some(address) = self.schedule.poll_transmit() {
            for interface in self.open.values() {
                interface.burst(address);
            }
        }
    }

    /// When to call [`flush`](Self::flush) at the latest; none when nothing is to be done.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.schedule.poll_timeout(), self.watched.next(), self.retry]
            .into_iter()
            .flatten()
            .min()
    }

    fn refit(&mut self, now: Instant) -> bool {
        let Self {
            excluded,
            metrics,
            links,
            open,
            claims,
            sightings,
            ..
        } = self;
        // Who learned an address from an interface that is gone is to learn it from those that are left.
        let mut lost = BTreeSet::new();
        open.retain(|index, interface| {
            let fit = links.get(index).is_some_and(|link| excluded.admits(link));
            if !fit {
                tracing::info!(interface = %interface.name(), "interface closed");
                lost.extend(claims.keys().copied().filter(|address| interface.has(*address)));
            }
            fit
        });
        let mut came = false;
        let mut anew = BTreeSet::new();
        for link in links.values().filter(|link| excluded.admits(link)) {
            let Some(mac) = link.mac else { continue };
            let changed = match open.get_mut(&link.index) {
                Some(interface) => interface.rename(&link.name, mac),
                None => match Interface::open(
                    link.index,
                    link.name.clone(),
                    mac,
                    metrics.clone(),
                    sightings.clone(),
                ) {
                    Ok(interface) => {
                        tracing::info!(interface = link.name, %mac, "interface opened");
                        open.insert(link.index, interface);
                        came = true;
                        true
                    }
                    // It went away meanwhile: the next snapshot says so.
                    Err(SocketError::InterfaceDown(_) | SocketError::InterfaceGone(_)) => false,
                    Err(error) => {
                        tracing::warn!(
                            interface = link.name,
                            error = chain(&error),
                            "interface not opened: trying again"
                        );
                        self.retry.get_or_insert(now + RETRY);
                        false
                    }
                },
            };
            if changed {
                anew.insert(link.index);
            }
        }
        // Which interfaces are chosen depends on all of them.
        let mut again = Vec::new();
        for (address, interfaces) in claims.iter() {
            let chosen = choose(excluded, links, open, *address, interfaces);
            let mut heard = !lost.contains(address);
            for (index, interface) in open.iter_mut() {
                if chosen.contains(index) {
                    heard &= !interface.insert(*address) && !anew.contains(index);
                } else {
                    heard &= !interface.has(*address);
                    interface.remove(*address);
                }
            }
            if !heard {
                again.push(*address);
            }
        }
        for address in again {
            self.schedule.restart(now, address);
        }
        came
    }
}

fn choose(
    excluded: &Excluded,
    links: &Snapshot,
    open: &BTreeMap<u32, Interface>,
    address: IpAddr,
    interfaces: &InterfaceSelection,
) -> BTreeSet<u32> {
    let open = |link: &&Link| {
        open.contains_key(&link.index) && interfaces.include(&link.name) && speaks(link, address)
    };
    let covers = |link: &&Link| !excluded.contains(&link.name) && covers(link, address);
    let anywhere = match interfaces {
        InterfaceSelection::Named(_) => true,
        // A link that covers it and is down at the moment is still where it belongs.
        InterfaceSelection::All => !links
            .values()
            .any(|link| covers(&link) && !link.loopback && has_network(link, address)),
    };
    let chosen = links.values().filter(open);
    let chosen = chosen.filter(|link| anywhere || covers(link));
    chosen.map(|link| link.index).collect()
}
