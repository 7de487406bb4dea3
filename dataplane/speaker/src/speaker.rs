//! The speaker's state and its one way of working: take in what changed, decide, announce.
//!
//! ```text
//! updates ──► Index ──► dirty addresses ──► decide ──► candidates ──┐
//!               └──► Peers ─────────────────────► nodes ────────────┼──► Coordinator ──► hold, end ──► Announcer
//!            datagrams of peers, sightings on the wire ─────────────┘         └───────► datagrams, questions
//! ```
//!
//! Does no I/O but through the [`Announcer`]; time is an argument. Nothing is announced before every watch has listed and
//! the links are known: a speaker that has seen half of the cluster would take addresses that are not its own. What is
//! held, and what people are told of it, is in [`held`](crate::announcements).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_l2::MacAddr;
use lb_l2::ownership::failure_detector::{FailureDetectorConfig, PeerHealth};
use lb_l2::ownership::{self, Candidates, Coordinator, Output};
use lb_l2::wire::heartbeat::{Datagram, DatagramError};
use lb_net::Snapshot;
use lb_runtime::ObjectKey;
use tokio::sync::mpsc;

use crate::announcements::ActiveAnnouncement;
use crate::args::Config;
use crate::balance::Balance;
use crate::decide::{Decision, View, decide};
use crate::delay_queue::DelayQueue;
use crate::interface_selection::InterfaceSelection;
use crate::k8s::events::ServiceEvent;
use crate::k8s::index::{Affected, Index, Kind, Update};
use crate::metrics::Metrics;
use crate::node_macs::NodeMacs;
use crate::packet::ObservedReply;
use crate::packet::announcer::Announcer;
use crate::peers::Peers;
use crate::reasons::Reason;

/// Most addresses decided in one step: packets are answered and heartbeats sent between steps.
const BATCH: usize = 256;
/// How long nobody announces an address before it is told: its endpoints or its advertisement may be on their way.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a starting speaker leaves an address to the node that MetalLB announces it from, for our speaker there to start.
const ADOPTION: Duration = Duration::from_secs(30);
/// How long a restarting speaker is waited for that has never been heard: nobody answers in its place then.
const ALONE: Duration = Duration::from_secs(10);
/// How long an address that no node has an interface for may be on its way to one that has.
const SEARCH: Duration = Duration::from_secs(2);

/// How far the speaker has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Not everything has been listed: nothing is decided.
    Listing,
    /// The candidates of all addresses are being found.
    Reading,
    /// The first decisions are being made, together with the peers.
    Starting,
    /// Everything has been decided at least once.
    Running,
}

/// The state of the speaker.
#[derive(Debug)]
pub struct Speaker {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) index: Index,
    pub(crate) peers: Peers,
    pub(crate) coordinator: Coordinator,
    pub(crate) announcer: Announcer,
    node_macs: NodeMacs,
    /// The addresses that we answer for in the place of another node, and that node.
    stands_in: BTreeMap<IpAddr, Arc<str>>,
    /// Who is to have what; none where the order alone decides.
    balance: Option<Balance>,
    /// What is to be sent to other speakers, by node.
    datagrams: Vec<(Arc<str>, Datagram)>,
    unlisted: BTreeSet<Kind>,
    links_known: bool,
    phase: Phase,
    /// Nodes, their speakers or our links changed: the coordinator is to be told.
    nodes_changed: bool,
    dirty: BTreeSet<IpAddr>,
    pub(crate) held: BTreeMap<IpAddr, ActiveAnnouncement>,
    /// The strangers that answer for addresses, and since when.
    pub(crate) strangers: BTreeMap<IpAddr, (MacAddr, Instant)>,
    /// Addresses whose interfaces are to be looked at.
    pub(crate) looks: BTreeSet<IpAddr>,
    /// Addresses that nobody announces and that are ours to tell about.
    pub(crate) unannounced: BTreeMap<IpAddr, Reason>,
    pub(crate) to_tell: DelayQueue<IpAddr>,
    /// Services whose ServiceL2Status is to be looked at.
    pub(crate) records: DelayQueue<ObjectKey>,
    pub(crate) news: Vec<ServiceEvent>,
}

impl Speaker {
    /// A speaker that knows nothing yet. `incarnation` is greater than that of any start before on this node, as the time
    /// since 1970 in nanoseconds is.
    #[must_use]
    pub fn new(now: Instant, incarnation: u64, config: Config, metrics: Metrics) -> Self {
        let coordinator = ownership::CoordinatorConfig {
            node: config.node.clone(),
            version: config.version.clone(),
            failure_detector: FailureDetectorConfig {
                failure_timeout: config.failure_timeout,
                grace: config.grace,
                max_grace: config.grace,
                ..FailureDetectorConfig::default()
            },
            partition_policy: config.policy,
            failback: config.failback,
            conflict_policy: config.conflicts,
        };
        Self {
            index: Index::default(),
            peers: Peers::new(&config.node, config.grace.min(ALONE)),
            coordinator: Coordinator::new(now, incarnation, coordinator),
            announcer: Announcer::new(config.excluded.clone(), config.refresh, metrics.clone()),
            node_macs: NodeMacs::default(),
            stands_in: BTreeMap::new(),
            balance: config.balanced.then(Balance::default),
            datagrams: Vec::new(),
            unlisted: Kind::ALL.into_iter().collect(),
            links_known: false,
            phase: Phase::Listing,
            nodes_changed: false,
            dirty: BTreeSet::new(),
            held: BTreeMap::new(),
            strangers: BTreeMap::new(),
            looks: BTreeSet::new(),
            unannounced: BTreeMap::new(),
            to_tell: DelayQueue::default(),
            records: DelayQueue::default(),
            news: Vec::new(),
            config,
            metrics,
        }
    }

    /// What is known of the cluster.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Takes in a change of a watched object.
    pub fn update(&mut self, now: Instant, update: Update) {
        let synced = match &update {
            Update::Synced(kind) => self.unlisted.remove(kind).then_some(*kind),
            _ => None,
        };
        self.nodes_changed |= matches!(update, Update::Node(..) | Update::Speaker(..));
        if let Some(balance) = &mut self.balance
            && matches!(
                update,
                Update::Service(..) | Update::Status(..) | Update::Node(..) | Update::Speaker(..)
            )
        {
            balance.touch();
        }
        let touched = self.index.update(update);
        // Before that the one watch may be ahead of the other.
        let nodes_known = !self.unlisted.contains(&Kind::Nodes) && !self.unlisted.contains(&Kind::Speakers);
        if nodes_known && matches!(synced, Some(Kind::Nodes | Kind::Speakers)) {
            for node in self.index.nodes.keys() {
                self.peers.look(now, &self.index, node);
            }
        } else if nodes_known && let Some(node) = &touched.peer {
            self.peers.look(now, &self.index, node);
        }
        // At the start everything is looked at anyway.
        if self.phase == Phase::Listing {
            return;
        }
        let Affected {
            everything,
            addresses,
            peer: _,
            statuses,
        } = touched;
        if everything {
            self.everything();
        }
        self.dirty.extend(addresses);
        for service in statuses {
            self.records.enter(service, now);
        }
    }

    /// Takes in a change of the links. Returns whether an interface to announce on came (again).
    pub fn set_links(&mut self, now: Instant, links: Snapshot) -> bool {
        self.links_known = true;
        self.looks.extend(self.held.keys());
        let came = self.announcer.set_links(now, links);
        self.coordinator.set_macs(now, self.announcer.open_macs());
        self.node_macs.set_ports(self.announcer.port_addresses());
        self.nodes_changed = true;
        if self.phase != Phase::Listing {
            self.everything();
        }
        came
    }

    /// Takes in an authentic datagram of another speaker.
    ///
    /// # Errors
    /// When it is not to be believed.
    pub fn receive(&mut self, now: Instant, datagram: Datagram) -> Result<(), DatagramError> {
        self.coordinator.handle_datagram(now, datagram)
    }

    /// Takes in that somebody was seen on the wire with an address.
    pub fn sighted(&mut self, now: Instant, sighting: &ObservedReply) {
        let ObservedReply {
            interface,
            address,
            mac,
        } = sighting;
        if let Some(node) = self.node_macs.node_of(*address) {
            let node = node.to_owned();
            self.coordinator.handle_node_reply(now, &node, *mac);
            if self.node_macs.saw(&node, interface, *mac) {
                let stands_in = self.stands_in.iter().filter(|(_, owner)| ***owner == *node);
                for address in stands_in.map(|(address, _)| *address).collect::<Vec<_>>() {
                    self.stand_in(address, &node);
                }
            }
        } else {
            self.coordinator.handle_reply(now, *address, *mac);
        }
    }

    /// Takes in what has arrived on the wire and was not looked at yet: to be called before time is said to have passed.
    pub fn listen(&self) {
        self.announcer.listen();
    }

    /// Who is seen on the wire; for [`sighted`](Self::sighted). To be taken once.
    pub fn sightings(&mut self) -> mpsc::Receiver<ObservedReply> {
        self.announcer.sightings()
    }

    /// What is to be sent to other speakers, with the addresses of their nodes.
    pub fn take_datagrams(&mut self) -> Vec<(Vec<IpAddr>, Datagram)> {
        let addressed = |(to, datagram): (Arc<str>, Datagram)| {
            let node = self.index.nodes.get(&*to)?;
            Some((node.addresses.clone(), datagram))
        };
        std::mem::take(&mut self.datagrams)
            .into_iter()
            .filter_map(addressed)
            .collect()
    }

    /// The process is about to end and to be started again: the peers are to wait for it.
    pub fn leave(&mut self, now: Instant) {
        self.coordinator.prepare_restart(now);
    }

    /// Does what is to be done now, or a part of it; returns what to tell people.
    #[must_use]
    pub fn step(&mut self, now: Instant) -> Vec<ServiceEvent> {
        self.look_at_nodes(now);
        if self.phase == Phase::Listing && self.unlisted.is_empty() && self.links_known {
            self.everything();
            self.phase = Phase::Reading;
            tracing::info!(
                node = self.config.node,
                nodes = self.index.nodes.len(),
                services = self.index.services.len(),
                "everything listed"
            );
        }
        if self.phase != Phase::Listing {
            for _ in 0..BATCH {
                let Some(address) = self.dirty.pop_first() else {
                    break;
                };
                self.settle(now, address);
            }
        }
        self.look_at_balance(now);
        if self.phase == Phase::Reading && self.dirty.is_empty() {
            self.inherit(now);
            self.coordinator.start(now);
            self.phase = Phase::Starting;
        }
        self.coordinator.handle_timeout(now, BATCH);
        while let Some(output) = self.coordinator.poll_output() {
            self.obey(now, output);
        }
        self.announcer.flush(now);
        self.look(now);
        while let Some(address) = self.to_tell.pop(now) {
            self.tell(address);
        }
        if self.phase == Phase::Starting && self.coordinator.is_running() && !self.is_busy() {
            self.phase = Phase::Running;
            // Not before: a status that names us is stale only once we know that we do not own the address.
            let services = self.index.statuses.values().map(|record| &record.service);
            for service in services.chain(self.index.services.keys()) {
                self.records.enter(service.clone(), now);
            }
            tracing::info!(
                node = self.config.node,
                announced = self.held.len(),
                "all addresses decided"
            );
        }
        std::mem::take(&mut self.news)
    }

    /// Whether [`step`](Self::step) has more to do at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.phase != Phase::Listing && !self.dirty.is_empty() || self.coordinator.is_busy()
    }

    /// Whether what came in since the last step asks for nothing before [`poll_timeout`](Self::poll_timeout).
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.phase == Phase::Running
            && self.dirty.is_empty()
            && !self.nodes_changed
            && self.coordinator.is_idle()
    }

    /// Whether every address has been decided once.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// When to call [`step`](Self::step) at the latest, if nothing changes.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.announcer.poll_timeout(),
            self.peers.poll_timeout(),
            self.coordinator.poll_timeout(),
            self.to_tell.next(),
            self.balance.as_ref().and_then(Balance::due),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next Service whose ServiceL2Status is to be looked at.
    pub fn pop_record(&mut self, now: Instant) -> Option<ObjectKey> {
        if self.phase == Phase::Running {
            self.records.pop(now)
        } else {
            None
        }
    }

    /// Look at the ServiceL2Status of this Service then.
    pub fn enter_record(&mut self, service: ObjectKey, at: Instant) {
        self.records.enter(service, at);
    }

    /// When the next ServiceL2Status is to be looked at.
    #[must_use]
    pub fn next_record(&self) -> Option<Instant> {
        if self.phase == Phase::Running {
            self.records.next()
        } else {
            None
        }
    }

    pub(crate) fn decision(&self, address: IpAddr) -> Decision<'_> {
        let view = View {
            me: &self.config.node,
            index: &self.index,
            peers: &self.peers,
            ignore_exclude_label: self.config.ignore_exclude_label,
        };
        decide(&view, address)
    }

    fn everything(&mut self) {
        self.dirty.extend(self.index.addresses());
        // Of those that no Service has any more, the coordinator may not have heard yet.
        self.dirty.extend(self.held.keys());
    }

    /// Tells the coordinator which nodes there are.
    fn look_at_nodes(&mut self, now: Instant) {
        self.peers.handle_timeout(now);
        let changed = self.peers.take_changed();
        if changed && let Some(balance) = &mut self.balance {
            balance.touch();
        }
        let mut others = changed;
        if self.coordinator.take_peers_changed() {
            let heard = self.coordinator.peers();
            let heard = heard.filter(|peer| peer.heard && peer.health != PeerHealth::Down);
            others |= self
                .peers
                .set_heard(heard.map(|peer| peer.node.to_owned()).collect());
        }
        if others && self.phase != Phase::Listing {
            self.everything();
        }
        if self.unlisted.contains(&Kind::Nodes)
            || self.unlisted.contains(&Kind::Speakers)
            || !self.links_known
        {
            return;
        }
        if !std::mem::take(&mut self.nodes_changed) && !changed {
            return;
        }
        self.node_macs.set_nodes(&self.index);
        let node_macs = &self.node_macs;
        let nodes = self.index.nodes.iter().map(|(name, node)| ownership::NodeInfo {
            name,
            api: self.peers.api(name),
            on_link: node
                .addresses
                .iter()
                .any(|address| node_macs.way_to(*address).is_some()),
        });
        self.coordinator.set_nodes(now, nodes);
        let leaving = self
            .index
            .nodes
            .get(&self.config.node)
            .is_none_or(|node| node.leaving);
        self.coordinator.set_draining(leaving);
    }

    /// Finds out who is to have what, once the candidates are known.
    fn look_at_balance(&mut self, now: Instant) {
        if self.phase == Phase::Listing || !self.dirty.is_empty() {
            return;
        }
        if let Some(balance) = &mut self.balance {
            for address in balance.look(now, &self.index, &self.peers) {
                self.coordinator.set_preferred(address, balance.target(address));
            }
        }
    }

    /// What the records say was ours before this process began. Of a Service with two addresses they tell about the first only:
    /// the other may be another node's, whose claim may not have been heard yet, and to announce it for a moment would take
    /// its connections. The peers remember whose it was; where none does, the wire is asked as for any address. MetalLB has all
    /// addresses of a Service on one node.
    fn inherit(&mut self, now: Instant) {
        for record in self.index.statuses.values() {
            let Some(service) = self.index.services.get(&record.service) else {
                continue;
            };
            let is_ours = *record.node == *self.config.node;
            let is_anothers = record.is_metallbs() && self.index.nodes.contains_key(&*record.node);
            for address in &service.addresses {
                if is_ours && record.address.is_none_or(|told| told == *address) {
                    self.coordinator.restore_owned(*address);
                } else if is_anothers {
                    self.coordinator.defer_claim(*address, now + ADOPTION);
                }
            }
        }
    }

    /// Finds the candidates of an address.
    fn settle(&mut self, now: Instant, address: IpAddr) {
        let decision = self.decision(address);
        let reason = match &decision {
            Decision::Nobody {
                reason,
                ours_to_tell: true,
            } => Some(reason.clone()),
            Decision::Candidates { .. } | Decision::Nobody { .. } | Decision::Unused => None,
        };
        match decision {
            Decision::Candidates { order, mine } => {
                let fit = |interfaces: &InterfaceSelection| self.announcer.fit(address, interfaces);
                let declined = mine.as_ref().is_ok_and(|mine| !fit(&mine.interfaces));
                let tells = declined && order.first() == Some(&&*self.config.node);
                let order: Vec<_> = order.into_iter().map(str::to_owned).collect();
                let order: Vec<_> = order.iter().map(String::as_str).collect();
                let candidates = Candidates {
                    order: &order,
                    no_interface: declined,
                    preferred: self.balance.as_ref().and_then(|balance| balance.target(address)),
                };
                self.coordinator.set_candidates(address, Some(candidates));
                if let Some(balance) = &mut self.balance {
                    balance.set_order(address, &order);
                }
                if let Ok(announcement) = mine
                    && self.coordinator.announces(address)
                {
                    self.hold(now, address, announcement, None);
                }
                self.unannounced.remove(&address);
                self.to_tell.remove(&address);
                if tells {
                    self.to_tell.enter(address, now + SEARCH);
                }
            }
            Decision::Nobody { .. } | Decision::Unused => {
                self.coordinator.set_candidates(address, None);
                if let Some(balance) = &mut self.balance {
                    balance.set_order(address, &[]);
                }
                match reason {
                    None => {
                        self.unannounced.remove(&address);
                        self.to_tell.remove(&address);
                    }
                    Some(reason) if self.unannounced.get(&address) != Some(&reason) => {
                        self.unannounced.insert(address, reason);
                        self.to_tell.remove(&address);
                        self.to_tell.enter(address, now + PATIENCE);
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// Answers for the address in the place of the node, where it is known from where that one answers.
    fn stand_in(&mut self, address: IpAddr, node: &str) {
        let interfaces = match self.decision(address) {
            Decision::Candidates { mine: Ok(mine), .. } => mine.interfaces,
            Decision::Candidates { .. } | Decision::Nobody { .. } | Decision::Unused => return,
        };
        let faces = self.node_macs.faces(node);
        for (interface, mac) in faces.filter(|(interface, _)| interfaces.include(interface)) {
            self.announcer.stand_in(address, interface, mac);
        }
    }

    /// Does what the coordinator says.
    fn obey(&mut self, now: Instant, output: Output) {
        match output {
            Output::Send { to, datagram } => self.datagrams.push((to, datagram)),
            Output::Announce { address, reason } => self.announce(now, address, reason),
            Output::Withdraw { address, reason } => self.withdraw(now, address, reason),
            Output::Reannounce { address } => self.announcer.again(now, address),
            Output::ProbeAddress { address } => {
                let interfaces = match self.decision(address) {
                    Decision::Candidates { mine: Ok(mine), .. } => mine.interfaces,
                    Decision::Candidates { .. } | Decision::Nobody { .. } | Decision::Unused => {
                        InterfaceSelection::All
                    }
                };
                self.announcer.ask(now, address, &interfaces);
            }
            Output::ProbeNode { node } => {
                let addresses = self.index.nodes.get(&*node).map(|node| node.addresses.clone());
                for address in addresses.into_iter().flatten() {
                    if let Some(interfaces) = self.node_macs.way_to(address) {
                        self.announcer.ask(now, address, &interfaces);
                    }
                }
            }
            Output::StartProxy { address, node } => {
                self.stand_in(address, &node);
                self.stands_in.insert(address, node);
            }
            Output::StopProxy { address } => {
                self.stands_in.remove(&address);
                self.announcer.stand_down(address);
            }
            Output::ConflictDetected { address, mac } => self.conflict(now, address, mac),
            Output::ConflictResolved { address } => self.conflict_over(now, address),
            Output::Verified {
                address,
                by,
                answered,
            } => self.verified(now, address, by, answered),
        }
    }
}
