//! The driver: keeps the interfaces open, answers for what is announced, and sends gratuitous ARP and unsolicited advertisements in time.
//!
//! ```text
//!  announce, withdraw ──► claims ─┬─► Port per interface: responder, kernel filter, socket, task
//!  links ──► fit interfaces ──────┘        ▲
//!                schedule of bursts ───────┘
//! ```
//!
//! Knows nothing of Kubernetes. After each round of calls, [`Driver::flush`]; then sleep until
//! [`Driver::poll_timeout`] at most, and flush again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_net::{Snapshot, SocketError};
use lb_proto::announcer::Announcer;

use crate::interfaces::{Excluded, Interfaces};
use crate::metrics::Metrics;
use crate::port::Port;

/// Pause before an interface that could not be opened, or a filter that was not taken, is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// The announcing half of the speaker.
#[derive(Debug)]
pub struct Driver {
    excluded: Excluded,
    metrics: Metrics,
    /// All links, as last seen.
    links: Snapshot,
    /// Those that are fit, open.
    ports: BTreeMap<u32, Port>,
    claims: BTreeMap<IpAddr, Interfaces>,
    schedule: Announcer,
    retry: Option<Instant>,
}

impl Driver {
    /// A driver that announces nothing and has no interfaces yet.
    #[must_use]
    pub fn new(excluded: Excluded, metrics: Metrics) -> Self {
        Self {
            excluded,
            metrics,
            links: Snapshot::new(),
            ports: BTreeMap::new(),
            claims: BTreeMap::new(),
            schedule: Announcer::new(),
            retry: None,
        }
    }

    /// The links are like this now. Opens what became fit and closes what ceased to be; behind a link that came up, or
    /// has another MAC, everything is announced again. Returns whether a fit interface came.
    pub fn set_links(&mut self, now: Instant, links: Snapshot) -> bool {
        self.links = links;
        self.refit(now)
    }

    /// Announces the address on these interfaces, those that come later included.
    pub fn announce(&mut self, now: Instant, address: IpAddr, interfaces: Interfaces) {
        let mut gained = false;
        for port in self.ports.values_mut() {
            if interfaces.include(port.name()) {
                gained |= port.insert(address);
            } else {
                port.remove(address);
            }
        }
        if self.claims.insert(address, interfaces).is_none() || gained {
            self.schedule.claim(now, address);
        }
    }

    /// Answers for the address no more, from this moment on.
    pub fn withdraw(&mut self, address: IpAddr) {
        self.claims.remove(&address);
        self.schedule.withdraw(address);
        for port in self.ports.values_mut() {
            port.remove(address);
        }
    }

    /// Announces everything again: others may have answered meanwhile.
    pub fn again(&mut self, now: Instant) {
        self.schedule.again_all(now);
    }

    /// Names of the interfaces that the address is announced on at this moment.
    #[must_use]
    pub fn interfaces_of(&self, address: IpAddr) -> Vec<String> {
        let ports = self.ports.values().filter(|port| port.has(address));
        let mut names: Vec<_> = ports.map(|port| port.name().to_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Puts changes into force and sends the bursts that are due, in this order: an address whose requests do not pass
    /// the filter is not to be announced.
    pub fn flush(&mut self, now: Instant) {
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.refit(now);
        }
        for port in self.ports.values_mut() {
            if !port.apply_filter() {
                self.retry.get_or_insert(now + RETRY);
            }
        }
        self.schedule.handle_timeout(now);
        while let Some(address) = self.schedule.poll_output() {
            for port in self.ports.values() {
                port.burst(address);
            }
        }
    }

    /// When to call [`flush`](Self::flush) at the latest; none when nothing is to be done.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.schedule.poll_timeout(), self.retry]
            .into_iter()
            .flatten()
            .min()
    }

    fn refit(&mut self, now: Instant) -> bool {
        let Self {
            excluded,
            metrics,
            links,
            ports,
            claims,
            ..
        } = self;
        ports.retain(|index, port| {
            let fit = links.get(index).is_some_and(|link| excluded.admits(link));
            if !fit {
                tracing::info!(interface = port.name(), "interface closed");
            }
            fit
        });
        let mut came = false;
        let mut again = Vec::new();
        for link in links.values().filter(|link| excluded.admits(link)) {
            let Some(mac) = link.mac else { continue };
            let changed = match ports.get_mut(&link.index) {
                Some(port) => port.rename(&link.name, mac),
                None => match Port::open(link.index, link.name.clone(), mac, metrics.clone()) {
                    Ok(port) => {
                        tracing::info!(interface = link.name, %mac, "interface opened");
                        ports.insert(link.index, port);
                        came = true;
                        true
                    }
                    // It went away meanwhile: the next snapshot says so.
                    Err(SocketError::InterfaceDown(_) | SocketError::InterfaceGone(_)) => false,
                    Err(error) => {
                        tracing::warn!(
                            interface = link.name,
                            error = crate::chain(&error),
                            "interface not opened: trying again"
                        );
                        self.retry.get_or_insert(now + RETRY);
                        false
                    }
                },
            };
            let Some(port) = ports.get_mut(&link.index).filter(|_| changed) else {
                continue;
            };
            for (address, interfaces) in claims.iter() {
                if interfaces.include(&link.name) {
                    port.insert(*address);
                    again.push(*address);
                } else {
                    port.remove(*address);
                }
            }
        }
        for address in again {
            self.schedule.again(now, address);
        }
        came
    }
}
