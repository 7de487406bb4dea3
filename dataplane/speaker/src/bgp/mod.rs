//! BGP: announces the addresses of Services to routers. Independent of ARP and NDP: there is no owner, and every node that
//! can serve announces.
//!
//! ```text
//! Service, endpoints, nodes, pools ──► Index ──► Services to decide ──► decide ──► Table ──► sessions ◄──► connections
//! BGPAdvertisements, Communities ──► Configuration ────────────────────────┘          ▲
//! BGPPeers, BFDProfiles ──────────────────┴───────────────────────────────────────────┘
//! ```
//!
//! Nothing is announced before every watch has completed its list. Without the API server everything continues with the last
//! known objects. Without a BGPPeer and without a BGPAdvertisement nothing is done.

pub mod bfd;
pub mod configuration;
mod connection;
pub mod decide;
pub mod drain;
pub mod metrics;
pub mod next_hops;
pub mod objects;
pub mod policy;
mod sessions;
pub(crate) mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_bgp::table::Table;
use lb_net::Snapshot;
use lb_runtime::ObjectKey;
use tokio::sync::mpsc;

use crate::bgp::bfd::metrics::BfdMetrics;
use crate::bgp::bfd::{Bfd, DiscriminatorKeys};
use crate::bgp::configuration::{ActiveAdvertisements, Configuration, Update};
use crate::bgp::decide::{DecisionInput, decide};
use crate::bgp::drain::{Drain, DrainSettings};
use crate::bgp::metrics::BgpMetrics;
use crate::bgp::objects::Peer;
use crate::bgp::sessions::{LocalNode, SessionInput, Sessions};
use crate::k8s::events::SessionEvent;
use crate::k8s::index::{Affected, Index};
use crate::metrics::Metrics;

/// Maximum number of Services decided in one step, so that other work is done in between.
const MAX_DECISIONS_PER_STEP: usize = 1024;
/// Maximum number of reports of connections handled before the next step.
const MAX_EVENTS_PER_STEP: usize = 64;

/// The settings of BGP on this node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the node.
    pub node: String,
    /// Whether the exclude label of nodes is ignored.
    pub ignore_exclude_label: bool,
    /// How long a router with BFD and graceful restart waits for the next process after this one has ended.
    pub bfd_restart_budget: Duration,
    /// How the node is drained.
    pub drain: DrainSettings,
}

/// BGP on this node.
#[derive(Debug)]
pub struct Bgp {
    node: LocalNode,
    ignore_exclude_label: bool,
    /// The keys of heartbeats, from which BFD derives its discriminators.
    keys: Vec<Vec<u8>>,
    updates: mpsc::Receiver<Update>,
    configuration: Configuration,
    peers_changed: bool,
    // Decisions.
    /// Everything that matters was listed.
    is_listed: bool,
    drain: Drain,
    dirty: BTreeSet<ObjectKey>,
    all_dirty: bool,
    /// All Services were decided once.
    is_running: bool,
    /// The announced addresses of Services, for metrics.
    announced: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    table: Table<ObjectKey>,
    sessions: Sessions,
    metrics: Metrics,
}

impl Bgp {
    /// Without any knowledge. `updates` are the changes of the configuration.
    #[must_use]
    pub fn new(
        now: Instant,
        settings: Settings,
        updates: mpsc::Receiver<Update>,
        metrics: Metrics,
        bgp_metrics: BgpMetrics,
        bfd_metrics: BfdMetrics,
    ) -> Self {
        let bfd = Bfd::new(now, settings.bfd_restart_budget, bfd_metrics);
        Self {
            node: LocalNode {
                name: settings.node,
                ..LocalNode::default()
            },
            ignore_exclude_label: settings.ignore_exclude_label,
            keys: Vec::new(),
            updates,
            configuration: Configuration::new(),
            peers_changed: false,
            is_listed: false,
            drain: Drain::new(settings.drain),
            dirty: BTreeSet::new(),
            all_dirty: false,
            is_running: false,
            announced: BTreeMap::new(),
            table: Table::default(),
            sessions: Sessions::new(bfd, bgp_metrics),
            metrics,
        }
    }

    /// Notes what an update of the index affects.
    pub fn note(&mut self, index: &Index, affected: &Affected) {
        let of_this_node = affected.node.as_ref().is_some_and(|node| *node == self.node.name);
        self.peers_changed |= of_this_node;
        if self.is_idle() {
            return;
        }
        self.all_dirty |= affected.all_addresses || of_this_node;
        // These are the Services that changed.
        self.dirty.extend(affected.statuses.iter().cloned());
        for address in &affected.addresses {
            self.dirty
                .extend(index.having(*address).map(|(service, _)| service.clone()));
        }
    }

    /// Sets the interfaces of this node.
    pub fn set_links(&mut self, links: &Snapshot) {
        self.node.links.clone_from(links);
        // Whether a router is on the same link.
        self.peers_changed = true;
    }

    /// Sets the keys of heartbeats, the present one first: with them, BFD sessions are known again after a restart.
    pub fn set_heartbeat_keys(&mut self, keys: &[Vec<u8>]) {
        if self.keys != keys {
            keys.clone_into(&mut self.keys);
            self.peers_changed = true;
        }
    }

    /// Waits for a change of the configuration or a report of a connection, and handles it.
    pub async fn wait(&mut self) {
        tokio::select! {
            Some(update) = self.updates.recv() => {
                self.update(update);
                while let Ok(update) = self.updates.try_recv() {
                    self.update(update);
                }
            }
            event = self.sessions.next_event() => self.handle_events(event),
        }
    }

    /// Decides, sends routes, and connects. `listed` is whether every watch of the index has completed its list.
    pub fn step(&mut self, now: Instant, index: &Index, listed: bool) {
        self.is_listed = listed && self.configuration.is_listed();
        if !self.is_listed {
            return;
        }
        self.follow_node(now, index);
        self.decide(index);
        if !self.is_running && !self.is_busy() {
            self.is_running = true;
            self.peers_changed = true;
        }
        if !self.is_running {
            return;
        }
        if std::mem::take(&mut self.peers_changed) {
            self.update_sessions(now, index);
        }
        let last_resort = self.drain.is_last_resort();
        self.sessions
            .step(now, &self.table, self.configuration.active(), last_resort);
        // Withdrawals that every router knows.
        let sent = self.sessions.sent_version().unwrap_or(self.table.version());
        self.table.forget_withdrawals(sent);
    }

    /// The advertisements that are in force, if there is a router to announce to.
    #[must_use]
    pub fn advertisements(&self) -> Arc<ActiveAdvertisements> {
        if self.configuration.peers().is_empty() {
            Arc::default()
        } else {
            Arc::clone(self.configuration.active())
        }
    }

    /// The sessions that came up or ended since the last call.
    pub fn take_session_events(&mut self) -> Vec<SessionEvent> {
        self.sessions.take_changed()
    }

    /// Name of this node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node.name
    }

    /// Whether more decisions are due.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_listed && (self.all_dirty || !self.dirty.is_empty())
    }

    /// When the next step is due without any input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = [self.sessions.poll_timeout(), self.drain.poll_timeout()];
        timers.into_iter().flatten().min()
    }

    /// Closes the connections without a word, for a restart of this program.
    pub async fn shut_down(&mut self) {
        self.sessions.shut_down().await;
    }

    /// Nothing is configured, and nothing is announced.
    fn is_idle(&self) -> bool {
        self.configuration.is_empty() && self.announced.is_empty() && self.sessions.is_empty()
    }

    fn update(&mut self, update: Update) {
        let changes = self.configuration.update(update);
        self.peers_changed |= changes.peers;
        self.all_dirty |= changes.services;
        for advertisement in changes.attributes {
            self.table.advertisement_changed(advertisement);
        }
    }

    fn handle_events(&mut self, first: SessionInput) {
        let now = Instant::now();
        let mut next = Some(first);
        for _ in 0..MAX_EVENTS_PER_STEP {
            let Some(event) = next else { break };
            self.sessions.handle_event(now, &self.node, event);
            next = self.sessions.try_next_event();
        }
        if let Some(event) = next {
            self.sessions.handle_event(now, &self.node, event);
        }
    }

    /// Notices that the node is drained, or no longer.
    fn follow_node(&mut self, now: Instant, index: &Index) {
        let node = index.nodes.get(&self.node.name);
        let was_last_resort = self.drain.is_last_resort();
        if !self.drain.update(now, node, self.ignore_exclude_label) {
            return;
        }
        self.all_dirty = true;
        if was_last_resort != self.drain.is_last_resort() {
            for advertisement in self.configuration.active().keys() {
                self.table.advertisement_changed(*advertisement);
            }
        }
    }

    /// Decides a batch of Services.
    fn decide(&mut self, index: &Index) {
        if std::mem::take(&mut self.all_dirty) {
            self.dirty.extend(index.services.keys().cloned());
            self.dirty.extend(self.announced.keys().cloned());
        }
        for _ in 0..MAX_DECISIONS_PER_STEP {
            let Some(key) = self.dirty.pop_first() else { break };
            let input = DecisionInput {
                local_node: &self.node.name,
                ignore_exclude_label: self.ignore_exclude_label,
                has_left: self.drain.has_left(),
                index,
                advertisements: self.configuration.active(),
            };
            let service = index.services.get(&key);
            let routes = service.and_then(|service| decide(&input, &key, service).ok());
            let addresses = match (service, &routes) {
                (Some(service), Some(_)) => service.addresses.iter().copied().collect(),
                (_, _) => BTreeSet::new(),
            };
            self.set_announced(&key, addresses);
            self.table.set_service(key, routes.unwrap_or_default());
        }
    }

    fn set_announced(&mut self, key: &ObjectKey, addresses: BTreeSet<IpAddr>) {
        let before = self.announced.remove(key).unwrap_or_default();
        for address in before.difference(&addresses) {
            self.metrics.bgp_announced(key, *address, false);
        }
        for address in addresses.difference(&before) {
            self.metrics.bgp_announced(key, *address, true);
        }
        if !addresses.is_empty() {
            self.announced.insert(key.clone(), addresses);
        }
    }

    fn update_sessions(&mut self, now: Instant, index: &Index) {
        let node = index.nodes.get(&self.node.name);
        self.node.addresses = node.map(|node| node.addresses.clone()).unwrap_or_default();
        let uid = node.map(|node| node.uid.clone()).unwrap_or_default();
        let keys = DiscriminatorKeys::new(self.keys.clone(), uid);
        self.sessions.bfd_mut().set_keys(keys);
        let selects = |peer: &Peer| node.is_some_and(|node| peer.selects_node(node));
        self.sessions
            .set_peers(now, &self.node, &self.configuration, selects);
    }
}
