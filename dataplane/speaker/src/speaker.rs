//! The state of the speaker: takes in changes, decides, and announces.
//!
//! ```text
//! updates ──► Index ──► dirty addresses ──► decide ──► candidates ──┐
//!               └──► Peers ─────────────────────► nodes ────────────┼──► Coordinator ──► Announcer, Reporter
//!            datagrams of peers, replies on the network ────────────┘         └───────► datagrams, probes
//! ```
//!
//! All I/O is in the [`Announcer`], and time is an argument. Nothing is announced before every watch has completed its list
//! and the links are known: with a partial view, a speaker would claim addresses of other nodes.

mod candidates;
mod outputs;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use lb_l2::ownership::failure_detector::{FailureDetectorConfig, PeerHealth};
use lb_l2::ownership::{self, ApiState, Coordinator};
use lb_l2::wire::heartbeat::{Datagram, DatagramError};
use lb_net::Snapshot;
use lb_runtime::ObjectKey;
use lb_runtime::text::{LIST_LIMIT, list_first};
use tokio::sync::mpsc;

use crate::announcements::Announcements;
use crate::args::Config;
use crate::balance::Balance;
use crate::bgp::configuration::ActiveAdvertisements;
use crate::decide::Announcement;
use crate::decisions::{Decisions, Outcome};
use crate::interface_selection::InterfaceSelection;
use crate::k8s::events::ServiceEvent;
use crate::k8s::index::{Affected, Index, Kind, Update};
use crate::k8s::l2_status::{Desired, DesiredStatus};
use crate::k8s::objects::Service;
use crate::k8s::speaker_state::SpeakerReport;
use crate::metrics::Metrics;
use crate::node_macs::NodeMacs;
use crate::packet::ObservedReply;
use crate::packet::announcer::Announcer;
use crate::peers::Peers;
use crate::reporter::Reporter;
use crate::unheard_peers::UnheardPeers;
use crate::verification::{AddressHealth, ConflictingHost, Verification};

/// Maximum number of addresses decided in one step, so that heartbeats are sent in between: at 1,000 nodes about 10 ms.
const MAX_DECISIONS_PER_STEP: usize = 64;
/// Maximum number of addresses that the coordinator decides in one step.
const MAX_OWNERS_PER_STEP: usize = 256;
/// Upper bound of the grace for a restarting speaker that was never heard: no backup sends proxy replies for it.
const MAX_UNHEARD_GRACE: Duration = Duration::from_secs(10);

/// The phase of the start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Waiting for the initial lists; nothing is decided.
    Listing,
    /// Finding the candidates of all addresses.
    FindingCandidates,
    /// The coordinator makes its first decisions, together with the peers.
    Starting,
    /// Every address was decided once.
    Running,
}

/// The state of the speaker.
#[derive(Debug)]
pub struct Speaker {
    config: Config,
    metrics: Metrics,
    // Inputs.
    index: Index,
    peers: Peers,
    node_macs: NodeMacs,
    /// Watches whose initial list is incomplete.
    unlisted: BTreeSet<Kind>,
    links_known: bool,
    phase: Phase,
    /// Nodes, their speakers or our links changed since the coordinator was updated.
    nodes_changed: bool,
    /// Addresses that only these announce are not missing.
    bgp_advertisements: Arc<ActiveAdvertisements>,
    // Decisions.
    decisions: Decisions,
    coordinator: Coordinator,
    /// The preferred owners with balanced placement.
    balance: Option<Balance>,
    // Outputs.
    announcer: Announcer,
    announcements: Announcements,
    /// Addresses with proxy replies, and the node that owns each.
    proxied: BTreeMap<IpAddr, Arc<str>>,
    /// Datagrams to send, with the receiving node.
    datagrams: Vec<(Arc<str>, Datagram)>,
    reporter: Reporter,
    unheard_peers: UnheardPeers,
    /// A report that was not taken yet.
    report: Option<SpeakerReport>,
}

impl Speaker {
    /// A speaker without any knowledge of the cluster. `incarnation` increases with each start on this node, as the
    /// nanoseconds since 1970 do.
    #[must_use]
    pub fn new(now: Instant, incarnation: u64, config: Config, metrics: Metrics) -> Self {
        let coordinator = ownership::CoordinatorConfig {
            node: config.node.clone(),
            version: config.version.clone(),
            failure_detector: FailureDetectorConfig {
                failure_timeout: config.failure_timeout,
                grace: config.restart_grace,
                max_grace: config.restart_grace,
                ..FailureDetectorConfig::default()
            },
            partition_policy: config.partition_policy,
            failback: config.failback,
            conflict_policy: config.conflict_policy,
        };
        let (excluded, interval) = (config.excluded.clone(), config.announce_interval);
        Self {
            index: Index::default(),
            peers: Peers::new(&config.node, config.restart_grace.min(MAX_UNHEARD_GRACE)),
            node_macs: NodeMacs::default(),
            unlisted: Kind::ALL.into_iter().collect(),
            links_known: false,
            phase: Phase::Listing,
            nodes_changed: false,
            bgp_advertisements: Arc::default(),
            decisions: Decisions::new(&config.node, config.ignore_exclude_label),
            coordinator: Coordinator::new(now, incarnation, coordinator),
            balance: config.balanced.then(Balance::default),
            announcer: Announcer::new(excluded, interval, metrics.clone()),
            announcements: Announcements::default(),
            proxied: BTreeMap::new(),
            datagrams: Vec::new(),
            reporter: Reporter::new(&config.node, metrics.clone()),
            unheard_peers: UnheardPeers::default(),
            report: None,
            config,
            metrics,
        }
    }

    /// The state of the cluster.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether every watch has completed its list.
    #[must_use]
    pub fn has_listed(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// Sets the BGPAdvertisements that are in force: addresses that only they announce are not reported.
    pub fn set_bgp_advertisements(&mut self, advertisements: Arc<ActiveAdvertisements>) {
        if self.bgp_advertisements != advertisements {
            self.bgp_advertisements = advertisements;
            self.decisions.note(&Affected {
                all_addresses: true,
                ..Affected::default()
            });
        }
    }

    /// Handles a change of a watched object. Returns what it affects.
    pub fn update(&mut self, now: Instant, update: Update) -> Affected {
        let synced = match &update {
            Update::Synced(kind) => self.unlisted.remove(kind).then_some(*kind),
            _ => None,
        };
        let owners_changed = matches!(update, Update::Service(..) | Update::Status(..));
        let affected = self.index.update(update);
        let nodes_changed = affected.node.is_some() || affected.peer.is_some();
        self.nodes_changed |= nodes_changed || synced.is_some();
        if let Some(balance) = &mut self.balance
            && (owners_changed || nodes_changed)
        {
            balance.mark_changed();
        }
        // Until both are listed, one watch may be ahead of the other.
        let nodes_known = !self.unlisted.contains(&Kind::Nodes) && !self.unlisted.contains(&Kind::Speakers);
        if nodes_known && matches!(synced, Some(Kind::Nodes | Kind::Speakers)) {
            for node in self.index.nodes.keys() {
                self.peers.update(now, &self.index, node);
            }
        } else if nodes_known && let Some(node) = &affected.peer {
            self.peers.update(now, &self.index, node);
        }
        // Everything is decided after the initial lists.
        if self.phase == Phase::Listing {
            return affected;
        }
        self.decisions.note(&affected);
        for service in &affected.statuses {
            self.reporter.schedule_status(service.clone(), now);
        }
        affected
    }

    /// Handles a change of the links. Returns whether an interface was opened.
    pub fn set_links(&mut self, now: Instant, links: Snapshot) -> bool {
        self.links_known = true;
        let Some(change) = self.announcer.set_links(now, links) else {
            return false;
        };
        self.interfaces_changed(now);
        change.opened
    }

    /// Updates what depends on the open interfaces.
    fn interfaces_changed(&mut self, now: Instant) {
        self.announcements.mark_all_interfaces_dirty();
        self.coordinator.set_macs(now, self.announcer.macs());
        self.node_macs
            .set_interfaces(self.announcer.interface_addresses());
        self.nodes_changed = true;
        for (address, known) in self.decisions.iter_mut() {
            if let Outcome::Eligible(announcement) = &known.outcome {
                let no_interface = !self.announcer.can_announce(address, &announcement.interfaces);
                if std::mem::replace(&mut known.no_interface, no_interface) != no_interface {
                    self.coordinator.set_no_interface(address, no_interface);
                    let is_first = no_interface && known.is_first;
                    self.reporter.has_candidates(now, &self.index, address, is_first);
                }
            }
        }
    }

    /// Notes the newest resource version received from the API server.
    pub fn set_api_version(&mut self, now: Instant, version: u64) {
        self.coordinator.set_api_version(now, version);
    }

    /// The newest resource version that this node or a peer has received from the API server.
    #[must_use]
    pub fn newest_api_version(&self) -> u64 {
        self.coordinator.newest_api_version()
    }

    /// Whether peers received objects from the API server seconds ago that this node has not received.
    #[must_use]
    pub fn is_api_view_old(&self) -> bool {
        self.coordinator.is_api_view_old()
    }

    /// Handles an authentic datagram of another speaker.
    ///
    /// # Errors
    /// If the datagram is rejected, such as a replayed one.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram) -> Result<(), DatagramError> {
        self.coordinator.handle_datagram(now, datagram)
    }

    /// Our incarnation, which datagrams to us must echo.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.coordinator.incarnation()
    }

    /// Handles a reply or an announcement of another host.
    pub fn handle_reply(&mut self, now: Instant, reply: &ObservedReply) {
        let ObservedReply {
            interface,
            address,
            mac,
        } = reply;
        let known = self.coordinator.node_of_mac(*mac).map(str::to_owned);
        // An address of our own node may also be that of a Service, which this node announces.
        let of_node = Some(self.node_macs.nodes_of(*address));
        let of_node = of_node.filter(|nodes| !nodes.contains(&self.config.node));
        let node = match (of_node.unwrap_or_default(), known) {
            ([], known) => {
                self.coordinator.handle_reply(now, *address, *mac);
                known
            }
            (of_node, Some(known)) if of_node.contains(&known) => {
                self.coordinator.handle_node_reply(now, &known, *mac);
                Some(known)
            }
            // Of several Nodes with one address, an unknown hardware address may belong to any.
            ([node], None) => {
                self.coordinator.handle_node_reply(now, node, *mac);
                Some(node.clone()).filter(|node| self.coordinator.told_macs(node).is_empty())
            }
            _ => None,
        };
        let Some(node) = node else { return };
        if self.node_macs.record(&node, interface, *mac) {
            let proxied = self.proxied.iter().filter(|(_, owner)| ***owner == *node);
            for address in proxied.map(|(address, _)| *address).collect::<Vec<_>>() {
                self.start_proxy(address, &node);
            }
        }
    }

    /// Handles frames that have arrived and were not read yet: call before the time is said to have passed.
    pub fn read_pending(&self) {
        self.announcer.read_pending();
    }

    /// Replies and announcements of other hosts, for [`handle_reply`](Self::handle_reply). Can be taken once.
    pub fn replies(&mut self) -> mpsc::Receiver<ObservedReply> {
        self.announcer.replies()
    }

    /// The datagrams to send, with the addresses of the receiving node.
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

    /// Asks the peers to keep our addresses while this process is replaced by another one.
    pub fn prepare_restart(&mut self, now: Instant) {
        self.coordinator.prepare_restart(now);
    }

    /// Does a batch of the work that is due. Returns the events to publish.
    #[must_use]
    pub fn step(&mut self, now: Instant) -> Vec<ServiceEvent> {
        self.update_nodes(now);
        if self.phase == Phase::Listing && self.unlisted.is_empty() && self.links_known {
            self.phase = Phase::FindingCandidates;
            tracing::info!(
                node = self.config.node,
                nodes = self.index.nodes.len(),
                services = self.index.services.len(),
                "initial list complete"
            );
        }
        if self.phase != Phase::Listing {
            self.decisions.refresh(&self.index, &self.peers);
            for _ in 0..MAX_DECISIONS_PER_STEP {
                let Some(address) = self.decisions.pop_dirty() else {
                    break;
                };
                self.update_candidates(now, address);
            }
        }
        self.update_preferred_owners(now);
        if self.phase == Phase::FindingCandidates && !self.decisions.is_pending() {
            self.restore_owned(now);
            self.coordinator.start(now);
            self.phase = Phase::Starting;
        }
        self.coordinator.handle_timeout(now, MAX_OWNERS_PER_STEP);
        while let Some(output) = self.coordinator.poll_output() {
            self.handle_output(now, output);
        }
        if self.announcer.flush(now) {
            self.interfaces_changed(now);
        }
        self.update_interfaces(now);
        self.reporter.report_unannounced(now, &self.index, |address| {
            self.coordinator.owner(address).is_some()
        });
        if self.phase == Phase::Starting && self.coordinator.is_running() && !self.is_busy() {
            self.phase = Phase::Running;
            // Not earlier: a status that names this node is stale only if this node does not own the address.
            let services = self.index.statuses.values().map(|status| &status.service);
            for service in services.chain(self.index.services.keys()) {
                self.reporter.schedule_status(service.clone(), now);
            }
            tracing::info!(
                node = self.config.node,
                announced = self.announcements.len(),
                "initial ownership decisions complete"
            );
        }
        self.sample_unheard_peers(now);
        self.reporter.take_events()
    }

    /// Whether [`step`](Self::step) has more to do at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.phase != Phase::Listing && self.decisions.is_pending() || self.coordinator.is_busy()
    }

    /// Whether the inputs since the last step need no work before [`poll_timeout`](Self::poll_timeout).
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_running() && !self.decisions.is_pending() && !self.nodes_changed && self.coordinator.is_idle()
    }

    /// Whether every address was decided once.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The latest time of the next call of [`step`](Self::step).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.announcer.poll_timeout(),
            self.peers.poll_timeout(),
            self.coordinator.poll_timeout(),
            self.reporter.poll_timeout(),
            self.unheard_peers.poll_timeout(),
            self.balance.as_ref().and_then(Balance::poll_timeout),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next Service whose ServiceL2Status may need a write.
    pub fn pop_due_status(&mut self, now: Instant) -> Option<ObjectKey> {
        if self.is_running() {
            self.reporter.pop_due_status(now)
        } else {
            None
        }
    }

    /// Checks the ServiceL2Status of this Service at that time.
    pub fn schedule_status(&mut self, service: ObjectKey, at: Instant) {
        self.reporter.schedule_status(service, at);
    }

    /// The time at which the next ServiceL2Status is due.
    #[must_use]
    pub fn next_status_due(&self) -> Option<Instant> {
        self.reporter.next_status_due().filter(|_| self.is_running())
    }

    /// The ServiceL2Status of a Service, if this node owns its first address. `now` and `time` are the same moment.
    #[must_use]
    pub fn desired_status(
        &self,
        service: &ObjectKey,
        now: Instant,
        time: Timestamp,
    ) -> Option<DesiredStatus> {
        let address = self.index.services.get(service)?.first()?;
        let active = self.announcements.get(address)?;
        if active.interfaces.is_empty() || !active.announcement.services.contains_key(service) {
            return None;
        }
        let seconds = |at: Instant| {
            let elapsed = now.saturating_duration_since(at).as_secs();
            time.as_second() - i64::try_from(elapsed).unwrap_or_default()
        };
        Some(DesiredStatus {
            address,
            interfaces: match &active.announcement.interfaces {
                InterfaceSelection::All => Box::default(),
                // An advertisement may name interfaces of other nodes too.
                InterfaceSelection::Named(_) => active.interfaces.clone(),
            },
            health: AddressHealth {
                verification: active.verification.as_ref().map(|last| Verification {
                    by: last.by.clone(),
                    answered: last.answered,
                    since: seconds(last.since),
                }),
                conflict: self.reporter.conflict(address).map(|conflict| ConflictingHost {
                    mac: conflict.host.mac,
                    node: conflict.host.node.clone(),
                    since: seconds(conflict.since),
                }),
            },
        })
    }

    /// The ServiceL2Status of a Service whose first address this node does not announce.
    #[must_use]
    pub fn unannounced_status(&self, service: &ObjectKey) -> Desired {
        match self.index.services.get(service).and_then(Service::first) {
            Some(address) => self.reporter.unannounced_status(address),
            None => Desired::Absent,
        }
    }

    /// Finds peers whose speakers are ready and whose heartbeats do not arrive.
    fn sample_unheard_peers(&mut self, now: Instant) {
        if !self.is_running() || !self.unheard_peers.is_due(now) {
            return;
        }
        self.update_missing_majorities(now);
        let unheard = self.coordinator.peers().filter(|peer| {
            peer.monitored && !peer.health.is_heard() && self.peers.api(peer.node) == ApiState::Ready
        });
        let unheard = unheard.map(|peer| peer.node);
        let Some(unheard) = self.unheard_peers.sample(now, unheard) else {
            return;
        };
        self.metrics.unheard_peers(unheard.len());
        if !unheard.is_empty() {
            let (node, port) = (&self.config.node, self.config.heartbeat_port);
            let peers = list_first(unheard, LIST_LIMIT);
            tracing::warn!(
                node,
                peers,
                "no heartbeats arrive; fast failover is off: open UDP port {port}"
            );
        }
        let uid = self
            .index
            .nodes
            .get(&self.config.node)
            .map_or("", |node| &*node.uid);
        self.report = Some(SpeakerReport::new(uid, unheard));
    }

    /// The report of this speaker about its peers, if it changed since the last call.
    pub fn take_report(&mut self) -> Option<SpeakerReport> {
        self.report.take()
    }

    /// Which nodes have a speaker.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The interfaces on which this node would announce the address, if it is eligible.
    fn selected_interfaces(&self, address: IpAddr) -> Option<InterfaceSelection> {
        let announcement = self.eligible(address)?;
        Some(announcement.interfaces.clone())
    }

    /// How this node would announce the address, if it is eligible.
    fn eligible(&self, address: IpAddr) -> Option<&Arc<Announcement>> {
        match &self.decisions.get(address)?.outcome {
            Outcome::Eligible(announcement) => Some(announcement),
            Outcome::Ineligible(_) | Outcome::NoCandidates(_) => None,
        }
    }

    /// Updates the nodes in the coordinator.
    fn update_nodes(&mut self, now: Instant) {
        self.peers.handle_timeout(now);
        let changed = self.peers.take_changed();
        if changed && let Some(balance) = &mut self.balance {
            balance.mark_changed();
        }
        let mut candidates_changed = changed;
        if self.coordinator.take_peers_changed() {
            let heard = self.coordinator.peers();
            let lives = |health| !matches!(health, PeerHealth::Down | PeerHealth::NodeOnly { keeps: false });
            let heard = heard.filter(|peer| peer.heard && lives(peer.health));
            candidates_changed |= self
                .peers
                .set_heard(heard.map(|peer| peer.node.to_owned()).collect());
        }
        if candidates_changed {
            self.decisions.speakers_changed();
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
                .any(|address| !node_macs.interfaces_to(*address).is_empty()),
        });
        self.coordinator.set_nodes(now, nodes);
        let draining = self
            .index
            .nodes
            .get(&self.config.node)
            .is_none_or(|node| node.draining);
        self.coordinator.set_draining(draining);
    }
}
