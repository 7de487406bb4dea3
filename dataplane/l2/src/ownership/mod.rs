//! Decides which addresses this node announces, from the candidates of each address, the health of the peers, and the
//! addresses that the peers announce.
//!
//! ```text
//! candidates (from the API) ───────────────► AddressState per address ──┐
//! heartbeats ──► ReplayGuard ──► FailureDetector ──► PeerHealth ────────┼──► decision ──► announce, withdraw
//!                    └─────► AnnouncedSet of each peer ─────────────────┘        └──────► our AnnouncedSet ──► peers
//! probes (ARP, NDP): before a first claim, and when a heartbeat is late
//! ```
//!
//! [`Coordinator`] is a sans-I/O state machine: inputs and the time are arguments. After each input, call
//! [`handle_timeout`](Coordinator::handle_timeout), take the outputs with [`poll_output`](Coordinator::poll_output),
//! and sleep until [`poll_timeout`](Coordinator::poll_timeout) at most.
//!
//! **Monitored peers**: for each address, the first live candidates and the owner send each other heartbeats. The cost
//! of a speaker therefore grows with the number of its addresses, and the heartbeats per second are bounded
//! ([`failure_detector`]). The API server's view stands in for a peer that was never heard: speakers that cannot hear
//! each other, for example because of a firewall or different versions, elect the same owners as MetalLB.

mod address_state;
pub mod announced_set;
pub mod api_membership;
mod api_view;
pub mod decision;
pub mod election;
pub mod failure_detector;
mod nodes;
mod output;
mod peer;
pub mod placement;
mod probe;
mod query;
pub mod replay;
mod sync;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::MacAddr;
use crate::ownership::announced_set::RecordedSet;
use crate::ownership::replay::ReplayGuard;
use crate::wire::heartbeat::Entry;
use failure_detector::{FailureDetector, FailureDetectorConfig, NodeId, PeerHealth};

use address_state::{AddressState, self_check_interval};
pub use address_state::{Candidates, ConflictPolicy, MAX_VERIFICATION_DELAY, PartitionPolicy, UnknownPolicy};
pub use api_membership::ApiState;
use api_view::ApiView;
pub use output::{AcquireReason, ConflictingHost, Output, QueryTarget, ReleaseReason};
use peer::PeerState;
pub use peer::{HeartbeatLoad, NodeInfo, PeerSummary};
use probe::ProbeQueue;

const LOCAL_NODE: NodeId = NodeId(0);
/// How long a starting speaker waits for its peers to send the addresses that it owned and those that they announce.
const STARTUP_SYNC_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an owner that is no candidate keeps an address until another candidate announces it. Longer than a candidate
/// waits for one before it.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(6);
/// Time after which the same announced set is sent again to a peer that has not confirmed it.
const SET_RESEND_INTERVAL: Duration = Duration::from_millis(100);
/// Minimum time between two different announced sets to a peer; changes within it are sent together.
const SET_COALESCE_INTERVAL: Duration = Duration::from_millis(10);
/// Upper bound of the queue capacity that is kept for the next outputs.
const MAX_IDLE_OUTPUT_CAPACITY: usize = 1024;
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
    /// Waiting for the initial lists of the API server.
    Listing,
    /// Waiting for the peers' heartbeats and for the addresses that we owned.
    Starting {
        since: Instant,
    },
    Running,
}

/// The ownership state machine of one speaker: the states of the addresses, and what they share.
#[derive(Debug)]
pub struct Coordinator {
    ctx: Context,
    addresses: BTreeMap<IpAddr, Box<AddressState>>,
    phase: CoordinatorPhase,
    last_id: u32,
    replay_guard: ReplayGuard,
    /// The sequence number of our last datagram.
    last_sequence: u64,
    /// Addresses that we owned before our start, according to records and peers.
    owned_before: BTreeSet<IpAddr>,
    peers_changed: bool,
}

/// The state that decisions about all addresses share, and the queues for their actions.
#[derive(Debug)]
struct Context {
    config: CoordinatorConfig,
    epoch: Instant,
    now: Instant,
    draining: bool,
    restarting: bool,
    node_ids: BTreeMap<Arc<str>, NodeId>,
    peers: BTreeMap<NodeId, PeerState>,
    failure_detector: FailureDetector,
    macs: Vec<MacAddr>,
    peer_by_mac: BTreeMap<MacAddr, NodeId>,
    announced: RecordedSet,
    /// The peers that announce each address.
    announcers: BTreeMap<IpAddr, Vec<NodeId>>,
    /// Addresses to decide again now, and at a given time.
    dirty: BTreeSet<IpAddr>,
    deadlines: BTreeSet<(Instant, IpAddr)>,
    /// The number of addresses for which each peer is monitored.
    monitor_counts: BTreeMap<NodeId, usize>,
    monitored_changed: bool,
    probes: ProbeQueue,
    api_view: ApiView,
    /// Addresses offered to other nodes, and when each stops counting against the offer limit.
    recent_offers: BTreeMap<IpAddr, Instant>,
    flap_count: u32,
    last_flap: Option<Instant>,
    /// Verification results to send to the owners.
    verification_reports: BTreeMap<NodeId, Vec<(IpAddr, bool)>>,
    outputs: VecDeque<Output>,
}

impl Context {
    /// Announces the address.
    fn announce(&mut self, address: IpAddr, reason: AcquireReason) {
        self.announced.insert(Entry::announced(address));
        self.outputs.push_back(Output::Announce { address, reason });
    }

    /// Announces an address that we own or restore, if we do not.
    fn keep_announcing(&mut self, address: IpAddr) {
        if !self.announced.announces(address) {
            self.announce(address, AcquireReason::Restored);
        }
    }

    /// Stops announcing the address, if we do.
    fn withdraw(&mut self, address: IpAddr, reason: ReleaseReason) {
        if self.announced.announces(address) && self.announced.remove(address) {
            self.outputs.push_back(Output::Withdraw { address, reason });
        }
    }

    /// When failback may begin: a delay after the last flap, doubled with each flap.
    fn failback_allowed_at(&self) -> Option<Instant> {
        let pause = Duration::from_secs(1 << self.flap_count.saturating_sub(1));
        self.last_flap.map(|last| last + pause)
    }
}

impl Coordinator {
    /// Creates the state of a starting speaker. `incarnation` must be greater than at every earlier start on this node;
    /// the time since 1970 is.
    #[must_use]
    pub fn new(now: Instant, incarnation: u64, config: CoordinatorConfig) -> Self {
        let ctx = Context {
            epoch: now,
            now,
            draining: false,
            restarting: false,
            node_ids: BTreeMap::from([(config.node.as_str().into(), LOCAL_NODE)]),
            peers: BTreeMap::new(),
            failure_detector: FailureDetector::new(now, config.failure_detector),
            macs: Vec::new(),
            peer_by_mac: BTreeMap::new(),
            announced: RecordedSet::default(),
            announcers: BTreeMap::new(),
            dirty: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            monitor_counts: BTreeMap::new(),
            monitored_changed: false,
            probes: ProbeQueue::default(),
            api_view: ApiView::default(),
            recent_offers: BTreeMap::new(),
            flap_count: 0,
            last_flap: None,
            verification_reports: BTreeMap::new(),
            outputs: VecDeque::new(),
            config,
        };
        Self {
            ctx,
            addresses: BTreeMap::new(),
            phase: CoordinatorPhase::Listing,
            last_id: LOCAL_NODE.0,
            replay_guard: ReplayGuard::new(incarnation),
            last_sequence: 0,
            owned_before: BTreeSet::new(),
            peers_changed: false,
        }
    }

    /// Lets the state of an address take an input, if there is one.
    fn with_state(&mut self, address: IpAddr, input: impl FnOnce(&mut AddressState, &mut Context)) {
        if let Some(state) = self.addresses.get_mut(&address) {
            input(state, &mut self.ctx);
        }
    }

    /// Replaces the hardware addresses of our interfaces. The peers get a heartbeat at once, because they are about to
    /// see replies from these addresses. If one is new, peers may have been silent only because we had no interface.
    pub fn set_macs(&mut self, now: Instant, macs: Vec<MacAddr>) {
        self.ctx.now = self.ctx.now.max(now);
        if self.ctx.macs == macs {
            return;
        }
        let more = macs.iter().any(|mac| !self.ctx.macs.contains(mac));
        self.ctx.macs = macs;
        if more {
            self.ctx.failure_detector.reset_timers(self.ctx.now);
        }
        self.heartbeat_all_now();
    }

    /// Sets the candidates of an address; `None` if no node may announce it.
    pub fn set_candidates(&mut self, address: IpAddr, candidates: Option<Candidates<'_>>) {
        // If we are not among the candidates and do not announce the address, other nodes decide.
        let concerns_us = |candidates: &Candidates<'_>| {
            self.phase != CoordinatorPhase::Running
                || self.ctx.announced.announces(address)
                || candidates.order.contains(&self.ctx.config.node.as_str())
        };
        let known = candidates.is_some();
        let Some(candidates) = candidates.filter(concerns_us) else {
            if known && !self.addresses.contains_key(&address) {
                return;
            }
            self.ctx.withdraw(address, ReleaseReason::NoCandidates);
            if let Some(state) = self.addresses.remove(&address) {
                state.end(address, &mut self.ctx);
            }
            self.ctx.announced.remove(address);
            self.ctx.probes.remove(address);
            self.ctx.recent_offers.remove(&address);
            self.ctx.dirty.remove(&address);
            return;
        };
        let state = self.addresses.entry(address).or_default();
        state.set_candidates(address, &candidates, &mut self.ctx);
    }

    /// Sets whether our node has no interface for the address.
    pub fn set_no_interface(&mut self, address: IpAddr, no_interface: bool) {
        self.with_state(address, |state, ctx| {
            state.set_no_interface(address, no_interface, ctx)
        });
    }

    /// Sets the node that should own the address; `None` if the election order decides.
    pub fn set_preferred(&mut self, address: IpAddr, node: Option<&str>) {
        self.with_state(address, |state, ctx| state.set_preferred(address, node, ctx));
    }

    /// Marks the address as ours before this process started, according to a record.
    pub fn restore_owned(&mut self, address: IpAddr) {
        if self.phase != CoordinatorPhase::Running {
            self.owned_before.insert(address);
        }
    }

    /// Waits until `until` before the address is claimed: a record of MetalLB names another node as its owner, and our
    /// speaker there may still have to start.
    pub fn defer_claim(&mut self, address: IpAddr, until: Instant) {
        if self.phase != CoordinatorPhase::Running {
            self.with_state(address, |state, ctx| state.defer_claim(address, until, ctx));
        }
    }

    /// Begins to decide as soon as the peers have been heard. To be called when all inputs are complete.
    pub fn start(&mut self, now: Instant) {
        self.ctx.now = self.ctx.now.max(now);
        if self.phase == CoordinatorPhase::Listing {
            self.phase = CoordinatorPhase::Starting { since: self.ctx.now };
            for (address, state) in &mut self.addresses {
                state.update_monitored_peers(*address, &mut self.ctx);
            }
            self.update_monitored();
        }
    }

    /// Whether decisions are being made.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == CoordinatorPhase::Running
    }

    /// Starts or stops handing over all addresses.
    pub fn set_draining(&mut self, draining: bool) {
        if std::mem::replace(&mut self.ctx.draining, draining) != draining {
            self.mark_all_dirty();
            self.heartbeat_all_now();
        }
    }

    /// Asks the peers to keep our addresses for the grace period, because this process is about to restart.
    pub fn prepare_restart(&mut self, now: Instant) {
        self.ctx.now = self.ctx.now.max(now);
        self.ctx.restarting = true;
        self.heartbeat_all_now();
    }

    /// Processes expired timers and decides at most `batch` addresses; see [`is_busy`](Self::is_busy).
    pub fn handle_timeout(&mut self, now: Instant, batch: usize) {
        self.ctx.now = self.ctx.now.max(now);
        self.ctx.failure_detector.handle_timeout(self.ctx.now);
        for id in self.ctx.failure_detector.take_changed() {
            self.peer_changed(id);
        }
        if let CoordinatorPhase::Starting { since } = self.phase {
            self.start_if_synced(since);
        }
        if self.phase == CoordinatorPhase::Running {
            self.send_due_probes();
            while let Some((at, address)) = self.ctx.deadlines.first().copied()
                && at <= self.ctx.now
            {
                self.ctx.deadlines.remove(&(at, address));
                self.ctx.dirty.insert(address);
            }
            let interval = self_check_interval(self.addresses.len());
            for _ in 0..batch {
                let Some(address) = self.ctx.dirty.pop_first() else {
                    break;
                };
                self.with_state(address, |state, ctx| state.update(address, interval, ctx));
            }
        }
        self.update_monitored();
        self.send_verification_reports();
        self.send_due_messages();
    }

    /// Whether addresses are left to be decided at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.phase == CoordinatorPhase::Running && !self.ctx.dirty.is_empty()
    }

    /// Whether nothing has to be done before [`poll_timeout`](Self::poll_timeout), as after most heartbeats.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == CoordinatorPhase::Running
            && self.ctx.dirty.is_empty()
            && self.ctx.outputs.is_empty()
            && self.ctx.verification_reports.is_empty()
            && !self.peers_changed
            && !self.ctx.monitored_changed
    }

    /// Returns the next output; call it until it returns `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.ctx.outputs.pop_front();
        if output.is_none() && self.ctx.outputs.capacity() > MAX_IDLE_OUTPUT_CAPACITY {
            // Thousands of outputs occur only when a node with thousands of addresses joins or fails.
            self.ctx.outputs.shrink_to_fit();
        }
        output
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest; `None` if no timer is set.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_busy() {
            return Some(self.ctx.now);
        }
        let begin = match self.phase {
            // After that, the failure detector sets the deadline for peers that are still unknown.
            CoordinatorPhase::Starting { since } => {
                Some(since + STARTUP_SYNC_TIMEOUT).filter(|at| *at > self.ctx.now)
            }
            CoordinatorPhase::Listing | CoordinatorPhase::Running => None,
        };
        let deadline = self.ctx.deadlines.first().map(|(at, _)| *at);
        [
            begin,
            deadline,
            self.ctx.failure_detector.poll_timeout(),
            self.ctx.probes.poll_timeout(),
            self.set_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether we announce the address.
    #[must_use]
    pub fn announces(&self, address: IpAddr) -> bool {
        self.ctx.announced.announces(address)
    }

    /// The node that announces the address, as far as we know. It is certain only if we monitor the address.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        if self.announces(address) {
            return Some(&self.ctx.config.node);
        }
        let announcers = self.ctx.announcers.get(&address)?;
        let owner = announcers
            .iter()
            .find(|id| self.ctx.health(**id) != PeerHealth::Down)?;
        self.ctx.peers.get(owner).map(|peer| &*peer.name)
    }

    /// The voters that this node does not reach, if it has no majority for the address and therefore may not announce it.
    #[must_use]
    pub fn missing_majority(&self, address: IpAddr) -> Option<Vec<&str>> {
        self.addresses.get(&address)?.missing_majority(&self.ctx)
    }

    /// The number of peers that get heartbeats from us, and the period.
    #[must_use]
    pub fn heartbeat_load(&self) -> HeartbeatLoad {
        HeartbeatLoad {
            peers: self.ctx.failure_detector.heartbeat_targets().count(),
            period: self.ctx.failure_detector.period(),
        }
    }

    /// All peers as they look from here.
    pub fn peers(&self) -> impl Iterator<Item = PeerSummary<'_>> {
        self.ctx.peers.iter().map(|(id, peer)| PeerSummary {
            node: &peer.name,
            health: self.ctx.health(*id),
            heard: self.ctx.failure_detector.last_heard(*id).is_some(),
            monitored: self.ctx.failure_detector.is_monitored(*id),
        })
    }

    /// Whether the health of any peer has changed since the last call.
    pub fn take_peers_changed(&mut self) -> bool {
        std::mem::take(&mut self.peers_changed)
    }

    fn mark_all_dirty(&mut self) {
        self.ctx.dirty.extend(self.addresses.keys());
    }

    /// Begins to decide once all monitored peers have been heard and are synced, or have had their time.
    fn start_if_synced(&mut self, since: Instant) {
        let peer = self.ctx.failure_detector.heartbeat_targets().all(|id| {
            let peer = self.ctx.peers.get(&id);
            peer.is_none_or(|peer| peer.remembered && peer.is_synced())
                || self.ctx.failure_detector.last_heard(id).is_none()
        });
        if !self.ctx.failure_detector.all_heard_or_timed_out()
            || (!peer && self.ctx.now < since + STARTUP_SYNC_TIMEOUT)
        {
            return;
        }
        self.phase = CoordinatorPhase::Running;
        for address in std::mem::take(&mut self.owned_before) {
            self.with_state(address, |state, _| state.resume());
        }
        self.addresses.retain(|_, state| state.concerns_us());
        self.mark_all_dirty();
        self.heartbeat_all_now();
    }

    fn update_monitored(&mut self) {
        if std::mem::take(&mut self.ctx.monitored_changed) && self.phase != CoordinatorPhase::Listing {
            let wanted = self.ctx.monitor_counts.keys().copied().collect();
            self.ctx.failure_detector.set_monitored(self.ctx.now, &wanted);
        }
    }
}
