//! One speaker among others: which addresses it answers for, given who may, who lives, and what the others claim.
//!
//! ```text
//! candidates (from the API) ──► AddressState per address ──┐
//! heartbeats ──► ReplayGuard ──► FailureDetector ──► views ─────┼──► ownership::OwnershipInput ──► announce, withdraw
//!                  └─────► claims of the peers ────┘            └──────────► claims of ours ──► peers
//! the wire: who answers for an address? ◄── asked before a first claim, and about peers that fall silent
//! ```
//!
//! Sans-IO: inputs and the time are arguments, [`poll_output`](Coordinator::poll_output) says what to send, to ask, to
//! announce and to withdraw. After each input call [`handle_timeout`](Coordinator::handle_timeout), take the outputs, and
//! sleep until [`poll_timeout`](Coordinator::poll_timeout) at most.
//!
//! **Who speaks to whom**: the first candidates of an address that live, and whoever has it, are its *council*; the members
//! of a council know of each other by heartbeats. So the cost of a speaker grows with its addresses, and the number of
//! heartbeats that it sends in a second is bounded ([`crate::ownership::failure_detector`]). A node that was never heard is what the API says
//! of it: so speakers that cannot hear each other, behind a firewall or of another version, elect as MetalLB's do.

mod address_state;
pub mod announced_set;
pub mod api_membership;
mod backup;
pub mod decision;
pub mod election;
pub mod failure_detector;
mod handover;
mod output;
mod peer;
pub mod placement;
mod probe;
mod quorum;
pub mod replay;
mod sync;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::MacAddr;
use crate::ownership::announced_set::AnnouncedSet;
use crate::ownership::replay::ReplayGuard;
use failure_detector::{FailureDetector, FailureDetectorConfig, NodeId, PeerHealth};

use address_state::AddressState;
pub use address_state::Candidates;
pub use api_membership::ApiState;
pub use output::{AcquireReason, Output, ReleaseReason};
use peer::PeerState;
pub use peer::{HeartbeatLoad, NodeInfo, PeerSummary};
pub use probe::ConflictPolicy;
use probe::ProbeQueue;
pub use quorum::PartitionPolicy;

/// Our own node.
const LOCAL_NODE: NodeId = NodeId(0);
/// How long a starting speaker waits for peers to tell what it had before, and what they have now.
const STARTUP_SYNC_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an address that is to be given away waits for its next owner, when we may not have it ourselves.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two sendings of the same claims to a peer that has not got them.
const SET_RESEND_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two sendings of changed claims: changes that come together go together.
const SET_COALESCE_INTERVAL: Duration = Duration::from_millis(10);
/// The memory of flaps, and the longest time for which they keep us from taking addresses back.
const FLAP_RESET_INTERVAL: Duration = Duration::from_secs(300);
const MAX_FLAP_COUNT: u32 = 6;
/// For so many outputs the room is kept.
const MAX_IDLE_OUTPUT_CAPACITY: usize = 1024;
/// Peers that return within this time of each other do so for one reason, such as a switch.
const FLAP_COALESCE_INTERVAL: Duration = Duration::from_secs(1);

/// Settings of a [`Coordinator`].
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// The name of our node.
    pub node: String,
    /// The version of our program, sent in heartbeats.
    pub version: String,
    /// When a peer counts as failed.
    pub failure_detector: FailureDetectorConfig,
    /// Which side of a partition announces.
    pub partition_policy: PartitionPolicy,
    /// Whether a node that returns takes its addresses back.
    pub failback: bool,
    /// How to react when another host answers for an address.
    pub conflict_policy: ConflictPolicy,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum CoordinatorPhase {
    /// Not everything is known: nothing is decided.
    Listing,
    /// The peers are being heard, and asked what was ours.
    Starting {
        since: Instant,
    },
    Running,
}

/// The state of one speaker among others.
#[derive(Debug)]
pub struct Coordinator {
    config: CoordinatorConfig,
    /// When this began.
    epoch: Instant,
    now: Instant,
    phase: CoordinatorPhase,
    draining: bool,
    restarting: bool,
    node_ids: BTreeMap<Arc<str>, NodeId>,
    peers: BTreeMap<NodeId, PeerState>,
    last_id: u32,
    replay_guard: ReplayGuard,
    /// Number of our last datagram.
    last_sequence: u64,
    failure_detector: FailureDetector,
    macs: Vec<MacAddr>,
    /// The peer of each hardware address that answers come from.
    peer_by_mac: BTreeMap<MacAddr, NodeId>,
    announced: AnnouncedSet,
    /// The peers that claim each address.
    announcers: BTreeMap<IpAddr, Vec<NodeId>>,
    addresses: BTreeMap<IpAddr, Box<AddressState>>,
    dirty: BTreeSet<IpAddr>,
    /// What was ours before we started, as records and peers remember.
    owned_before: BTreeSet<IpAddr>,
    /// In how many councils we need each peer.
    monitor_counts: BTreeMap<NodeId, usize>,
    monitored_changed: bool,
    probes: ProbeQueue,
    /// Addresses that are or were offered to others lately, by when the next may be.
    recent_offers: BTreeMap<IpAddr, Instant>,
    /// Addresses that wait for another owner, by when the patience ends.
    deadlines: BTreeSet<(Instant, IpAddr)>,
    flap_count: u32,
    last_flap: Option<Instant>,
    /// What the wire said of the addresses of peers, to be told to them.
    verification_reports: BTreeMap<NodeId, Vec<(IpAddr, bool)>>,
    /// The view of some peer has changed since this was asked last.
    peers_changed: bool,
    outputs: VecDeque<Output>,
}

impl Coordinator {
    /// A speaker that knows nothing. `incarnation` is greater than that of any start before, as the time since 1970 is.
    #[must_use]
    pub fn new(now: Instant, incarnation: u64, config: CoordinatorConfig) -> Self {
        Self {
            epoch: now,
            now,
            phase: CoordinatorPhase::Listing,
            draining: false,
            restarting: false,
            node_ids: BTreeMap::from([(config.node.as_str().into(), LOCAL_NODE)]),
            peers: BTreeMap::new(),
            last_id: LOCAL_NODE.0,
            replay_guard: ReplayGuard::new(incarnation),
            last_sequence: 0,
            failure_detector: FailureDetector::new(now, config.failure_detector),
            macs: Vec::new(),
            peer_by_mac: BTreeMap::new(),
            announced: AnnouncedSet::default(),
            announcers: BTreeMap::new(),
            addresses: BTreeMap::new(),
            dirty: BTreeSet::new(),
            owned_before: BTreeSet::new(),
            monitor_counts: BTreeMap::new(),
            monitored_changed: false,
            probes: ProbeQueue::default(),
            recent_offers: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            flap_count: 0,
            last_flap: None,
            verification_reports: BTreeMap::new(),
            peers_changed: false,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// These are the nodes with speakers, and what the API says of them. Others are forgotten.
    pub fn set_nodes<'a>(&mut self, now: Instant, nodes: impl IntoIterator<Item = NodeInfo<'a>>) {
        self.now = self.now.max(now);
        let mut gone: BTreeSet<NodeId> = self.peers.keys().copied().collect();
        let mut changed = false;
        for node in nodes {
            let id = self.intern_node(node.name);
            if id == LOCAL_NODE {
                continue;
            }
            gone.remove(&id);
            if let Some(peer) = self.peers.get_mut(&id) {
                changed |= (peer.api, peer.on_link) != (node.api, node.on_link);
                (peer.api, peer.on_link) = (node.api, node.on_link);
            }
        }
        changed |= !gone.is_empty();
        for id in gone {
            self.remove_peer(id);
        }
        let peers: Vec<_> = self.peers.values().map(|peer| peer.name.clone()).collect();
        self.replay_guard.set_peers(peers.iter().map(|name| &**name));
        if self.phase == CoordinatorPhase::Listing {
            // Who may have something of ours to tell is not known yet.
            let everybody = self.peers.keys().copied().collect();
            self.failure_detector.set_monitored(self.now, &everybody);
        } else if changed {
            self.mark_all_dirty();
        }
    }

    /// The hardware addresses from which we answer. Peers are told at once: they are about to see them. Where an interface is
    /// new, or back, peers may have been silent for the lack of it.
    pub fn set_macs(&mut self, now: Instant, macs: Vec<MacAddr>) {
        self.now = self.now.max(now);
        if self.macs == macs {
            return;
        }
        let more = macs.iter().any(|mac| !self.macs.contains(mac));
        self.macs = macs;
        if more {
            self.failure_detector.reset_timers(self.now);
        }
        self.heartbeat_all_now();
    }

    /// Who may answer for the address; none when nobody may.
    pub fn set_candidates(&mut self, address: IpAddr, candidates: Option<Candidates<'_>>) {
        // Where we are not among the first, and have not been, others decide.
        let concerns_us = |candidates: &Candidates<'_>| {
            self.phase != CoordinatorPhase::Running
                || self.announced.announces(address)
                || candidates.order.contains(&self.config.node.as_str())
        };
        let known = candidates.is_some();
        let Some(candidates) = candidates.filter(concerns_us) else {
            if known && !self.addresses.contains_key(&address) {
                return;
            }
            self.withdraw(address, ReleaseReason::NoCandidates);
            self.set_no_interface(address, false);
            self.probes.remove(address);
            if let Some(state) = self.addresses.remove(&address) {
                self.release_monitor(&state.monitored);
                if state.proxy_for.is_some() {
                    self.stop_proxy(address);
                }
                if state.conflicting().is_some() {
                    self.outputs.push_back(Output::ConflictResolved { address });
                }
            }
            self.recent_offers.remove(&address);
            self.dirty.remove(&address);
            return;
        };
        let order: Box<[_]> = candidates.order.iter().map(|name| self.node_id(name)).collect();
        let state = self.addresses.entry(address).or_default();
        let same = state.order == order && state.no_interface == candidates.no_interface;
        state.order = order;
        self.set_preferred(address, candidates.preferred);
        let Some(state) = self.addresses.get_mut(&address).filter(|_| !same) else {
            return;
        };
        state.no_interface = candidates.no_interface;
        self.set_no_interface(address, candidates.no_interface);
        self.dirty.insert(address);
    }

    /// The address was ours before this process began, says a record of it.
    pub fn restore_owned(&mut self, address: IpAddr) {
        if self.phase != CoordinatorPhase::Running {
            self.owned_before.insert(address);
        }
    }

    /// Another node has the address, says a record of MetalLB's, in whose place one of ours starts there: it is waited for.
    pub fn defer_claim(&mut self, address: IpAddr, until: Instant) {
        if self.phase != CoordinatorPhase::Running
            && let Some(state) = self.addresses.get_mut(&address)
        {
            state.not_before = Some(until);
            self.deadlines.insert((until, address));
        }
    }

    /// Everything has been told: decide, once the peers have been heard.
    pub fn start(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.phase == CoordinatorPhase::Listing {
            self.phase = CoordinatorPhase::Starting { since: self.now };
            for address in self.addresses.keys().copied().collect::<Vec<_>>() {
                self.update_monitored_peers(address);
            }
            self.update_monitored();
        }
    }

    /// Whether decisions are made.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == CoordinatorPhase::Running
    }

    /// Gives the addresses away, or stops doing so.
    pub fn set_draining(&mut self, draining: bool) {
        if std::mem::replace(&mut self.draining, draining) != draining {
            self.mark_all_dirty();
            self.heartbeat_all_now();
        }
    }

    /// We are about to restart: the peers are told to wait for us.
    pub fn prepare_restart(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.restarting = true;
        self.heartbeat_all_now();
    }

    /// Time passed. Decides at most `batch` addresses; see [`is_busy`](Self::is_busy).
    pub fn handle_timeout(&mut self, now: Instant, batch: usize) {
        self.now = self.now.max(now);
        self.failure_detector.handle_timeout(self.now);
        for id in self.failure_detector.take_changed() {
            self.peer_changed(id);
        }
        if let CoordinatorPhase::Starting { since } = self.phase {
            self.start_if_synced(since);
        }
        if self.phase == CoordinatorPhase::Running {
            self.send_due_probes();
            while let Some((at, address)) = self.deadlines.first().copied()
                && at <= self.now
            {
                self.deadlines.remove(&(at, address));
                self.dirty.insert(address);
            }
            for _ in 0..batch {
                let Some(address) = self.dirty.pop_first() else {
                    break;
                };
                self.update_address(address);
            }
        }
        self.update_monitored();
        self.send_verification_reports();
        self.send_due_messages();
    }

    /// Whether decisions are left to be made at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.phase == CoordinatorPhase::Running && !self.dirty.is_empty()
    }

    /// Whether there is nothing to do before [`poll_timeout`](Self::poll_timeout): most heartbeats bring no news.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == CoordinatorPhase::Running
            && self.dirty.is_empty()
            && self.outputs.is_empty()
            && self.verification_reports.is_empty()
            && !self.peers_changed
            && !self.monitored_changed
    }

    /// What is to be done; call it until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() && self.outputs.capacity() > MAX_IDLE_OUTPUT_CAPACITY {
            // So much is said at once when a node with thousands of addresses comes or goes, and then for days not again.
            self.outputs.shrink_to_fit();
        }
        output
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest; none when nothing is to come.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_busy() {
            return Some(self.now);
        }
        let begin = match self.phase {
            // After that the peers are waited for that have not had their time, as failure_detector says.
            CoordinatorPhase::Starting { since } => {
                Some(since + STARTUP_SYNC_TIMEOUT).filter(|at| *at > self.now)
            }
            CoordinatorPhase::Listing | CoordinatorPhase::Running => None,
        };
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        [
            begin,
            deadline,
            self.failure_detector.poll_timeout(),
            self.probes.poll_timeout(),
            self.set_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether we answer for the address.
    #[must_use]
    pub fn announces(&self, address: IpAddr) -> bool {
        self.announced.announces(address)
    }

    /// The node that answers for the address, as far as we know: only the members of its council do for certain.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        if self.announces(address) {
            return Some(&self.config.node);
        }
        let announcers = self.announcers.get(&address)?;
        let owner = announcers
            .iter()
            .find(|id| self.health(**id) != PeerHealth::Down)?;
        self.peers.get(owner).map(|peer| &*peer.name)
    }

    /// The peers that we speak to, and the time between two heartbeats to each.
    #[must_use]
    pub fn heartbeat_load(&self) -> HeartbeatLoad {
        HeartbeatLoad {
            peers: self.failure_detector.heartbeat_targets().count(),
            period: self.failure_detector.period(),
        }
    }

    /// The peers by name, what they are to us, and whether they have ever been heard.
    pub fn peers(&self) -> impl Iterator<Item = PeerSummary<'_>> {
        self.peers.iter().map(|(id, peer)| PeerSummary {
            node: &peer.name,
            health: self.health(*id),
            heard: self.failure_detector.last_heard(*id).is_some(),
        })
    }

    /// Whether what some peer is to us has changed since the last call.
    pub fn take_peers_changed(&mut self) -> bool {
        std::mem::take(&mut self.peers_changed)
    }

    fn intern_node(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.node_ids.get(name) {
            return *id;
        }
        self.last_id += 1;
        let (id, name) = (NodeId(self.last_id), Arc::<str>::from(name));
        self.node_ids.insert(name.clone(), id);
        self.peers.insert(id, PeerState::new(name));
        id
    }

    /// The number of a candidate. One that is no node with a speaker is nobody's: it never lives.
    fn node_id(&self, name: &str) -> NodeId {
        self.node_ids.get(name).copied().unwrap_or(NodeId(u32::MAX))
    }

    fn remove_peer(&mut self, id: NodeId) {
        self.peers_changed = true;
        self.peer_lost(id);
        self.failure_detector.forget(id);
        self.peer_by_mac.retain(|_, node| *node != id);
        if let Some(peer) = self.peers.remove(&id) {
            self.node_ids.remove(&peer.name);
        }
    }

    fn mark_all_dirty(&mut self) {
        self.dirty.extend(self.addresses.keys());
    }

    /// What a peer is to us: what its heartbeats say or, if it was never heard, what the API says and the wire does not
    /// deny.
    fn health(&self, id: NodeId) -> PeerHealth {
        let view = self.failure_detector.health(id);
        if view != PeerHealth::Down || self.failure_detector.last_heard(id).is_some() {
            return view;
        }
        let Some(peer) = self.peers.get(&id) else {
            return PeerHealth::Down;
        };
        let lives = match self.failure_detector.node_replies(id) {
            Some(answers) => answers,
            None => !peer.on_link || !self.monitor_counts.contains_key(&id),
        };
        // What it claims is not known, so that it restarts makes no difference: it has what it would have.
        match peer.api {
            ApiState::Ready | ApiState::Restarting { .. } if lives => PeerHealth::Up,
            ApiState::Ready | ApiState::Restarting { .. } | ApiState::Absent => PeerHealth::Down,
        }
    }

    /// The view of a peer has changed.
    fn peer_changed(&mut self, id: NodeId) {
        self.peers_changed = true;
        let view = self.failure_detector.health(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            let away = matches!(view, PeerHealth::Starting { .. } | PeerHealth::Restarting { .. });
            peer.up_since = (view == PeerHealth::Up).then(|| peer.up_since.unwrap_or(self.now));
            peer.away_since = away.then(|| peer.away_since.unwrap_or(self.now));
        }
        match view {
            PeerHealth::Down => self.peer_lost(id),
            PeerHealth::Up => {
                if let Some(peer) = self.peers.get_mut(&id)
                    && std::mem::take(&mut peer.was_down)
                {
                    let within = |time| self.last_flap.is_some_and(|last| self.now < last + time);
                    self.flap_count = match self.flap_count {
                        flaps if within(FLAP_COALESCE_INTERVAL) => flaps,
                        flaps if within(FLAP_RESET_INTERVAL) => (flaps + 1).min(MAX_FLAP_COUNT),
                        _ => 1,
                    };
                    self.last_flap = Some(self.now);
                }
            }
            PeerHealth::Unknown
            | PeerHealth::Starting { .. }
            | PeerHealth::Restarting { .. }
            | PeerHealth::Draining => {}
        }
        let concerned = |state: &AddressState| state.order.contains(&id) || state.monitored.contains(&id);
        let concerned = self.addresses.iter().filter(|(_, state)| concerned(state));
        self.dirty.extend(concerned.map(|(address, _)| *address));
    }

    /// A peer is down: what it had is nobody's now.
    fn peer_lost(&mut self, id: NodeId) {
        let heard = self.failure_detector.last_heard(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let claims = std::mem::take(&mut peer.announced);
        peer.announced_digest = 0;
        peer.was_down |= heard.is_some();
        let name = peer.name.clone();
        for address in claims.announced() {
            self.note_announcer(address, id, false);
            self.owner_lost(address, name.clone(), heard);
        }
    }

    /// Begins to decide, if the peers have been heard.
    fn start_if_synced(&mut self, since: Instant) {
        let peer = self.failure_detector.heartbeat_targets().all(|id| {
            let peer = self.peers.get(&id);
            peer.is_none_or(|peer| peer.remembered && peer.is_synced())
                || self.failure_detector.last_heard(id).is_none()
        });
        if !self.failure_detector.all_heard_or_timed_out()
            || (!peer && self.now < since + STARTUP_SYNC_TIMEOUT)
        {
            return;
        }
        self.phase = CoordinatorPhase::Running;
        for address in std::mem::take(&mut self.owned_before) {
            if let Some(state) = self.addresses.get_mut(&address) {
                // Where there is no interface for it any more, it is not ours to keep.
                state.resumes = !state.no_interface;
            }
        }
        self.addresses
            .retain(|_, state| state.resumes || state.order.contains(&LOCAL_NODE));
        self.mark_all_dirty();
        self.heartbeat_all_now();
    }

    fn update_monitored(&mut self) {
        if std::mem::take(&mut self.monitored_changed) && self.phase != CoordinatorPhase::Listing {
            let wanted = self.monitor_counts.keys().copied().collect();
            self.failure_detector.set_monitored(self.now, &wanted);
        }
    }
}
