//! Detects failed peers within a fraction of a second, and without the API server: from heartbeats, from replies to
//! queries (ARP and NDP), and from the clock.
//!
//! Outputs are the health of each peer, the peers to send a heartbeat to, and the peers to query.
//!
//! | a peer | becomes | when |
//! | --- | --- | --- |
//! | that sends a heartbeat | what it reports: up, draining, starting or restarting | at once |
//! | up, whose heartbeat is late | up; a heartbeat is requested; if that is not answered either, the peer is queried | |
//! | up, silent for almost the timeout | up, but suspected: its addresses are probed, so that the result is known in time | |
//! | up, timed out, replying for its addresses | heartbeats lost | |
//! | up, timed out, its node replying | node only: its speaker crashed and will be back, or owns nothing that can be queried | |
//! | up, timed out, without a reply | down | |
//! | restarting or node only, its node not replying | down | after the timeout |
//! | restarting, or node only | what the network shows; it does not keep addresses any longer | at the end of the grace period |
//!
//! A heartbeat is sent every quarter of the failure timeout. The main cost of an idle speaker is its wake-ups, and this
//! is the fewest with which a stall of three quarters of the timeout is tolerated at any time. A late heartbeat is
//! requested up to four times; a request is answered at once.
//!
//! A busy or virtual machine stalls now and then, with all its processes. A peer whose heartbeats were late within the
//! last minutes gets that much more time, up to half of the usual timeout.
//!
//! A peer whose heartbeats arrive is not queried, except once when its speaker restarts: the reply shows that silence of
//! this node means something. In doubt, questions back off ([`inquiry`]); repeated ones are limited to
//! [`MAX_REPEATED_QUERIES_PER_SECOND`]. No peer counts as failed before it has been queried.
//!
//! When most peers become silent at once, and nothing shows that their nodes live, it is more likely that we are cut off,
//! or that a burst of loss hits everybody. They get three quarters of the timeout in addition.
//!
//! Our own stalls are not silence of the peers: after a stall, every peer gets the lost time in addition.
//!
//! A node that reached no majority of its peers, or that stood still for longer than the timeout, was *cut off*: others may
//! have claimed its addresses and served clients.

mod inquiry;
mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use self::inquiry::{Inquiry, QueryBudget};
use self::peer::{Lateness, Peer, PeerPhase};
use crate::wire::heartbeat::SpeakerState;

/// Identifies a node within one [`Coordinator`](crate::ownership::Coordinator).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub u32);

/// Accepted range of the period that a peer announces.
const PERIOD_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);
/// Upper bound of the queries per second that are not the first one in a doubt.
pub const MAX_REPEATED_QUERIES_PER_SECOND: usize =
    QueryBudget::MAX_PER_WINDOW * 1000 / QueryBudget::WINDOW.as_millis() as usize;
/// The longest time between two queries of a peer that was never heard: there, the API server is the main evidence.
const MAX_UNHEARD_QUERY_GAP: Duration = Duration::from_secs(10);
/// The longest time between two queries of a restarting peer, whose node may fail meanwhile.
const MAX_RESTART_QUERY_GAP: Duration = Duration::from_millis(250);
/// The longest time between two queries of a peer whose heartbeats are lost for good.
const MAX_LOST_QUERY_GAP: Duration = Duration::from_secs(1);
/// With many peers in doubt, these times grow to this for each of them: lasting doubts cause at most 50 queries per
/// second.
const QUERY_GAP_PER_DOUBT: Duration = Duration::from_millis(20);
/// A peer that is down gets heartbeats this many times less often, to notice when the network heals.
const DOWN_PERIOD_FACTOR: u32 = 4;

/// Minimum time between two responses to datagrams that may be replays.
const MIN_UNVERIFIED_REPLY_INTERVAL: Duration = Duration::from_millis(10);
/// How long other nodes wait for a starting peer before they claim addresses without an owner.
const STARTUP_WAIT: Duration = Duration::from_secs(1);
/// Upper bound of the peers that a heartbeat is requested from at a time: if more are late, the cause is on our side.
const MAX_REQUESTED_PEERS: usize = 16;
/// A wake-up that is late by more than this counts as a stall.
const STALL_THRESHOLD: Duration = Duration::from_millis(10);

/// The least failure timeout with which a stall of 200 ms, as in a live migration, is never taken for a failure: the
/// last heartbeat before the stall is up to 70 ms old, and one or two wake-ups pass until the next one arrives.
pub const DEFAULT_FAILURE_TIMEOUT: Duration = Duration::from_millis(280);
/// How long before the timeout of a peer its addresses are probed.
const SUSPICION_TIME: Duration = Duration::from_millis(66);
/// Number of new peers that get their first heartbeat in each [`FIRST_CONTACT_INTERVAL`]: a starting speaker contacts all
/// nodes, and the answers have to fit into its receive buffer.
const FIRST_CONTACTS: u32 = 64;
const FIRST_CONTACT_INTERVAL: Duration = Duration::from_millis(10);

/// How long a node counts as cut off after it reaches its peers again: longer than two owners need to agree.
const CUT_OFF_MEMORY: Duration = Duration::from_secs(10);
/// The longest grace period while no heartbeat of any peer arrives: one that has withdrawn its addresses looks like one
/// whose speaker crashed.
const MAX_DEAF_GRACE: Duration = Duration::from_secs(10);

/// Settings of a [`FailureDetector`].
#[derive(Clone, Copy, Debug)]
pub struct FailureDetectorConfig {
    /// A peer counts as failed when nothing was received from it for this long. A heartbeat is due after a quarter of it;
    /// afterwards a late heartbeat is requested.
    pub failure_timeout: Duration,
    /// How long a peer whose speaker crashed while its node lives remains the owner of its addresses.
    pub grace: Duration,
    /// Upper bound of the grace period that a restarting peer may request.
    pub max_grace: Duration,
    /// Upper bound of the heartbeats sent per second. With more peers the period grows; every heartbeat states it.
    pub max_rate: u32,
}

impl Default for FailureDetectorConfig {
    /// 280 ms, that is a heartbeat every 70 ms; 60 s; 60 s; 450 per second.
    fn default() -> Self {
        Self {
            failure_timeout: DEFAULT_FAILURE_TIMEOUT,
            grace: Duration::from_secs(60),
            max_grace: Duration::from_secs(60),
            max_rate: 450,
        }
    }
}

impl FailureDetectorConfig {
    /// The time between two heartbeats to a peer, if the rate limit allows it.
    #[must_use]
    pub fn heartbeat_period(&self) -> Duration {
        self.failure_timeout / 4
    }

    /// How long a peer with this heartbeat period may be silent.
    #[must_use]
    pub fn timeout_after(&self, period: Duration) -> Duration {
        period + self.request_window(period)
    }

    /// The greatest extension of [`timeout_after`](Self::timeout_after) for a peer that was late before.
    pub(crate) fn max_extension(&self, period: Duration) -> Duration {
        self.timeout_after(period) / 2
    }

    /// How much longer a peer may be silent if most peers are.
    pub(crate) fn hold(&self) -> Duration {
        self.min_request_window()
    }

    /// The time between a due heartbeat and the timeout, in which heartbeats are requested.
    fn request_window(&self, period: Duration) -> Duration {
        self.min_request_window().max(period / 4)
    }

    pub(crate) fn min_request_window(&self) -> Duration {
        self.failure_timeout * 3 / 4
    }
}

/// The health of a peer, as this node sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerHealth {
    /// Not heard yet, and its timeout has not ended.
    Unknown,
    /// Alive.
    Up,
    /// Not heard, but the API server reports it as ready; nothing on the network contradicts.
    Assumed,
    /// Its heartbeats are not received, but its speaker replies on the network, or its node does and the API server
    /// reports it as ready.
    HeartbeatLost,
    /// Its heartbeats are not received, and only its node replies: its speaker crashed, or owns nothing.
    NodeOnly {
        /// Whether it keeps its addresses: until the end of the grace period.
        keeps: bool,
    },
    /// Restarting; it keeps its addresses for the grace period.
    Restarting {
        /// The end of the grace period.
        until: Instant,
    },
    /// Starting; it keeps its former addresses for the grace period and will be up soon.
    Starting {
        /// The end of the grace period.
        until: Instant,
    },
    /// Alive, and handing over its addresses.
    Draining,
    /// Failed.
    Down,
}

impl PeerHealth {
    /// Whether it is what the peer itself reports in heartbeats.
    #[must_use]
    pub const fn is_heard(self) -> bool {
        match self {
            Self::Up | Self::Restarting { .. } | Self::Starting { .. } | Self::Draining => true,
            Self::Unknown | Self::Assumed | Self::HeartbeatLost | Self::NodeOnly { .. } | Self::Down => false,
        }
    }
}

/// The meaning of a reply to a probe of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Evidence {
    /// It replied for an address that it announces: its speaker is alive.
    Speaker,
    /// Its node replied for its own address.
    Node,
}

/// The failure detector of one speaker. After each input, take the results of
/// [`take_due_heartbeats`](Self::take_due_heartbeats), [`take_due_probes`](Self::take_due_probes) and
/// [`take_changed`](Self::take_changed); sleep until [`poll_timeout`](Self::poll_timeout) at most, then call
/// [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug)]
pub struct FailureDetector {
    config: FailureDetectorConfig,
    peers: BTreeMap<NodeId, Peer>,
    changed: BTreeSet<NodeId>,
    now: Instant,
    /// The last result of `poll_timeout`; a call later than that reveals a stall.
    due: Instant,
    query_budget: QueryBudget,
    cut_off_until: Option<Instant>,
}

impl FailureDetector {
    /// Creates a detector without peers.
    #[must_use]
    pub fn new(now: Instant, config: FailureDetectorConfig) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            changed: BTreeSet::new(),
            now,
            due: now,
            query_budget: QueryBudget::new(now),
            cut_off_until: None,
        }
    }

    /// Replaces the set of monitored peers. New ones are unknown; former ones get heartbeats as long as they send some.
    pub fn set_monitored(&mut self, now: Instant, monitored: &BTreeSet<NodeId>) {
        self.advance_clock(now);
        for (id, peer) in &mut self.peers {
            peer.monitored &= monitored.contains(id);
        }
        let (now, silence) = (
            self.now,
            self.config.timeout_after(self.config.heartbeat_period()),
        );
        let mut started = 0;
        for id in monitored {
            let peer = self.peer(*id);
            let new = !std::mem::replace(&mut peer.monitored, true);
            // While it had no reason to send us heartbeats, its silence meant nothing.
            if new && peer.last_heard.is_none_or(|last| last + silence <= now) {
                self.start_monitoring(*id, now + FIRST_CONTACT_INTERVAL * (started / FIRST_CONTACTS));
                started += 1;
            }
        }
        let now = self.now;
        self.peers.retain(|_, peer| peer.is_heartbeat_target(now));
        self.update_deadline();
    }

    /// Gives peers that are down their full timeout again, because we may have been unable to hear them.
    pub fn reset_timers(&mut self, now: Instant) {
        self.advance_clock(now);
        let now = self.now;
        let down = |peer: &Peer| peer.monitored && peer.phase == PeerPhase::Down && peer.last_heard.is_some();
        let down = self.peers.iter().filter(|(_, peer)| down(peer));
        for id in down.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.start_monitoring(id, now);
        }
        self.update_deadline();
    }

    /// Starts the timeout of a peer, after which it counts as down.
    fn start_monitoring(&mut self, id: NodeId, now: Instant) {
        let window = self.config.min_request_window();
        let peer = self.peer(id);
        (peer.silent_since, peer.send_at) = (now, now);
        // A peer that hears us sends a heartbeat before that.
        peer.inquiry.begin(now + window / 2);
        self.set_phase(id, PeerPhase::Unknown);
    }

    /// Forgets a removed node.
    pub fn forget(&mut self, id: NodeId) {
        self.peers.remove(&id);
        self.changed.remove(&id);
    }

    /// Takes in an accepted heartbeat; the next one will follow within `period`.
    pub fn handle_heartbeat(&mut self, now: Instant, id: NodeId, state: SpeakerState, period: Duration) {
        self.advance_clock(now);
        let (now, config) = (self.now, self.config);
        let longest = config.max_grace;
        let ahead = self.send_early_by();
        let peer = self.peer(id);
        // The heartbeat woke us up; if ours is due soon, send it now. Over time, peers send at the same moment, and one
        // wake-up serves both directions.
        if peer.last_heard.is_some() && peer.send_at <= now + ahead {
            peer.send_at = now;
        }
        peer.note_lateness(now, &config);
        peer.silent_since = now;
        peer.last_heard = Some(now);
        peer.late_since = None;
        peer.held_until = None;
        let was_suspected = std::mem::take(&mut peer.suspected);
        peer.period = period.clamp(*PERIOD_RANGE.start(), *PERIOD_RANGE.end());
        let phase = match (peer.phase, state) {
            (_, SpeakerState::Up) => PeerPhase::Up,
            (_, SpeakerState::Draining) => PeerPhase::Draining,
            // The grace period counts from the first request; repetition must not extend it.
            (phase @ PeerPhase::Starting { .. }, SpeakerState::Starting { .. }) => phase,
            (
                PeerPhase::Restarting { until } | PeerPhase::Starting { until, .. },
                SpeakerState::Restarting { .. },
            ) => PeerPhase::Restarting { until },
            (PeerPhase::Restarting { until }, SpeakerState::Starting { .. }) => PeerPhase::Starting {
                until,
                wait_until: now + STARTUP_WAIT,
            },
            (_, SpeakerState::Starting { grace }) => PeerPhase::Starting {
                until: now + grace.min(longest),
                wait_until: now + STARTUP_WAIT,
            },
            (_, SpeakerState::Restarting { grace }) => PeerPhase::Restarting {
                until: now + grace.min(longest),
            },
        };
        match (peer.phase, phase) {
            (PeerPhase::Starting { .. }, PeerPhase::Starting { .. }) => {
                peer.inquiry.begin(peer.late_at(&config))
            }
            (_, PeerPhase::Starting { .. } | PeerPhase::Restarting { .. }) => peer.inquiry.begin(now),
            _ => peer.inquiry.end(),
        }
        self.set_phase(id, phase);
        if was_suspected {
            self.changed.insert(id);
        }
        self.update_deadline();
    }

    /// Takes in a reply to a query of the peer.
    pub fn handle_probe_reply(&mut self, now: Instant, id: NodeId, evidence: Evidence) {
        self.advance_clock(now);
        let (now, min_gap) = (self.now, self.query_gap_for_all());
        if let Some(peer) = self.peers.get_mut(&id) {
            match evidence {
                Evidence::Speaker => peer.speaker_replied_at = Some(now),
                Evidence::Node => peer.node_replied_at = Some(now),
            }
            if peer.is_answered_by(evidence) {
                let gaps = peer.query_gaps(&self.config, min_gap);
                peer.inquiry.answered(now, gaps);
            }
            let phase = match (peer.phase, evidence) {
                (PeerPhase::NodeOnly { .. }, Evidence::Speaker) => PeerPhase::HeartbeatLost,
                // Without a heartbeat since our start, the API server decides.
                (PeerPhase::Down, Evidence::Speaker) if peer.last_heard.is_some() => PeerPhase::HeartbeatLost,
                (PeerPhase::Down, Evidence::Node) if peer.last_heard.is_some() => {
                    PeerPhase::NodeOnly { until: None }
                }
                (phase, _) => phase,
            };
            if phase != peer.phase {
                peer.inquiry.begin(now);
            }
            self.set_phase(id, phase);
            self.update_deadline();
        }
    }

    /// Evaluates all timeouts.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance_clock(now);
        let ids: Vec<_> = self.peers.keys().copied().collect();
        let isolated = self.most_are_silent();
        for id in ids {
            self.evaluate(id, isolated);
        }
        self.evaluate_reach();
        self.update_deadline();
    }

    /// Finds out whether we are cut off, or deaf.
    fn evaluate_reach(&mut self) {
        let (mut heard, mut reached, mut silent) = (0, 0, 0);
        let known = self
            .peers
            .values()
            .filter(|peer| peer.monitored && peer.last_heard.is_some());
        for peer in known {
            match peer.phase {
                PeerPhase::Down | PeerPhase::Unknown => silent += 1,
                PeerPhase::HeartbeatLost | PeerPhase::NodeOnly { .. } => reached += 1,
                _ => heard += 1,
            }
        }
        if silent > heard + reached {
            self.note_cut_off();
        }
        if heard > 0 || reached < 2 {
            return;
        }
        let latest = self.now + MAX_DEAF_GRACE;
        for peer in self.peers.values_mut() {
            if let PeerPhase::NodeOnly { until: Some(until) } = &mut peer.phase {
                *until = latest.min(*until);
            }
        }
    }

    fn note_cut_off(&mut self) {
        self.cut_off_until = Some(self.now + CUT_OFF_MEMORY);
    }

    /// Whether we are or were cut off within the last seconds.
    #[must_use]
    pub fn was_cut_off(&self) -> bool {
        self.cut_off_until.is_some_and(|until| self.now < until)
    }

    /// The peers to send a heartbeat to now; the next one is due after [`period`](Self::period).
    pub fn take_due_heartbeats(&mut self) -> Vec<NodeId> {
        let (now, period) = (self.now, self.period());
        let mut due = Vec::new();
        let is_due = |peer: &Peer, by: Instant| peer.is_heartbeat_target(now) && peer.send_at <= by;
        if !self.peers.values().any(|peer| is_due(peer, now)) {
            self.update_deadline();
            return due;
        }
        // Heartbeats that are due soon are sent now, so that one wake-up serves all peers.
        let ahead = self.send_early_by();
        let mut asked = 0;
        for (id, peer) in &mut self.peers {
            if is_due(peer, now + ahead) {
                // Counted from now: after a stall, one heartbeat is sent and not all that were missed.
                peer.send_at = now
                    + if let Some(again) = peer
                        .request_again_within(&self.config)
                        .filter(|_| asked < MAX_REQUESTED_PEERS)
                    {
                        asked += 1;
                        again
                    } else if peer.phase == PeerPhase::Down {
                        period * DOWN_PERIOD_FACTOR
                    } else {
                        period
                    };
                due.push(*id);
            }
        }
        self.update_deadline();
        due
    }

    /// How long before it is due a heartbeat may be sent. This can double the rate, so it is zero if half of the
    /// maximum rate is exceeded.
    fn send_early_by(&self) -> Duration {
        let period = self.config.heartbeat_period();
        if self.rate_limited_period() * 2 <= period {
            period / 2
        } else {
            Duration::ZERO
        }
    }

    /// Whether our heartbeat requests an immediate reply: its own heartbeat is late, or we do not hear it.
    #[must_use]
    pub fn requests_reply(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(Peer::is_requested)
    }

    /// Schedules a heartbeat to a peer whose datagram could not be verified as fresh.
    pub fn respond_unverified(&mut self, now: Instant, id: NodeId) {
        self.advance_clock(now);
        let now = self.now;
        let peer = self.peer(id);
        if peer
            .unverified_reply_at
            .is_none_or(|at| at + MIN_UNVERIFIED_REPLY_INTERVAL <= now)
        {
            peer.unverified_reply_at = Some(now);
            peer.send_at = now;
        }
        self.update_deadline();
    }

    /// Makes a heartbeat to the peer due at once.
    pub fn schedule_heartbeat_now(&mut self, id: NodeId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.send_at = self.now;
        }
    }

    /// The peers to query now: those that have not been asked yet in this doubt first.
    pub fn take_due_queries(&mut self) -> Vec<NodeId> {
        let (now, min_gap) = (self.now, self.query_gap_for_all());
        let is_due = |peer: &Peer| peer.query_due().is_some_and(|due| due <= now);
        let due = self.peers.iter().filter(|(_, peer)| is_due(peer));
        let mut due: Vec<_> = due.map(|(id, peer)| (peer.inquiry.first_asked(), *id)).collect();
        due.sort_unstable();
        let mut queried = Vec::new();
        for (_, id) in due {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            // The first question is never postponed: a majority counts on the minority to notice its isolation in time.
            if let Err(next_window) = self.query_budget.take(now)
                && peer.inquiry.first_asked().is_some()
            {
                peer.inquiry.postpone(next_window);
                continue;
            }
            let gaps = peer.query_gaps(&self.config, min_gap);
            peer.inquiry.asked(now, peer.timeout(&self.config), gaps);
            queried.push(id);
        }
        self.update_deadline();
        queried
    }

    /// The time between two queries of a peer at which all peers in doubt together stay within their rate.
    fn query_gap_for_all(&self) -> Duration {
        let in_doubt = self.peers.values().filter(|peer| peer.query_due().is_some());
        QUERY_GAP_PER_DOUBT.saturating_mul(u32::try_from(in_doubt.count()).unwrap_or(u32::MAX))
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest; `None` without peers.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter_map(|peer| {
                let sends = peer.is_heartbeat_target(self.now).then_some(peer.send_at);
                [sends, peer.query_due(), peer.evaluate_at(&self.config)]
                    .into_iter()
                    .flatten()
                    .min()
            })
            .min()
    }

    /// The health of a peer; unknown nodes are down.
    #[must_use]
    pub fn health(&self, id: NodeId) -> PeerHealth {
        self.peers
            .get(&id)
            .map_or(PeerHealth::Down, |peer| peer.phase.health())
    }

    /// Whether heartbeats of the peer are expected.
    #[must_use]
    pub fn is_monitored(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.monitored)
    }

    /// When a heartbeat of the peer was received last.
    #[must_use]
    pub fn last_heard(&self, id: NodeId) -> Option<Instant> {
        self.peers.get(&id)?.last_heard
    }

    /// Whether the node of a peer that was never heard replies to queries; `None` if it never did, and possibly cannot.
    #[must_use]
    pub fn node_replies(&self, id: NodeId) -> Option<bool> {
        let peer = self.peers.get(&id)?;
        Some(self.now < peer.node_replied_at? + MAX_UNHEARD_QUERY_GAP * 2)
    }

    /// Whether every monitored peer has been heard or has timed out.
    #[must_use]
    pub fn all_heard_or_timed_out(&self) -> bool {
        let mut monitored = self.peers.values().filter(|peer| peer.monitored);
        monitored.all(|peer| peer.phase != PeerPhase::Unknown)
    }

    /// The peers that get heartbeats.
    pub fn heartbeat_targets(&self) -> impl Iterator<Item = NodeId> {
        let now = self.now;
        let spoken_to = self
            .peers
            .iter()
            .filter(move |(_, peer)| peer.is_heartbeat_target(now));
        spoken_to.map(|(id, _)| *id)
    }

    /// The time between two heartbeats to a peer.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.config
            .heartbeat_period()
            .max(self.rate_limited_period())
            .min(*PERIOD_RANGE.end())
    }

    /// The shortest period that the maximum rate allows.
    fn rate_limited_period(&self) -> Duration {
        let peers = u32::try_from(self.heartbeat_targets().count()).unwrap_or(u32::MAX);
        Duration::from_secs(1) * peers / self.config.max_rate.max(1)
    }

    /// The longest heartbeat period, of ours or of any monitored peer.
    #[must_use]
    pub fn longest_period(&self) -> Duration {
        let monitored = self.peers.values().filter(|peer| peer.monitored);
        monitored
            .map(|peer| peer.period)
            .fold(self.period(), Duration::max)
    }

    /// The peers whose health has changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.changed)
    }

    fn peer(&mut self, id: NodeId) -> &mut Peer {
        let (now, period) = (self.now, self.config.heartbeat_period());
        self.peers.entry(id).or_insert(Peer {
            phase: PeerPhase::Unknown,
            monitored: false,
            silent_since: now,
            last_heard: None,
            period,
            lateness: Lateness::default(),
            send_at: now,
            unverified_reply_at: None,
            inquiry: Inquiry::default(),
            late_since: None,
            held_until: None,
            suspected: false,
            speaker_replied_at: None,
            node_replied_at: None,
        })
    }

    fn set_phase(&mut self, id: NodeId, phase: PeerPhase) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut peer.phase, phase);
        peer.suspected &= matches!(phase, PeerPhase::Up | PeerPhase::Draining);
        if before == phase {
            return;
        }
        // Only a heartbeat brings a peer back that was heard.
        if phase == PeerPhase::Down && peer.last_heard.is_some() {
            peer.inquiry.end();
        }
        if before.health() != phase.health() {
            self.changed.insert(id);
        }
    }

    /// Whether most peers, and at least two, have become silent at once, and nothing else shows that they live.
    fn most_are_silent(&self) -> bool {
        let live = |peer: &&Peer| peer.monitored && matches!(peer.phase, PeerPhase::Up | PeerPhase::Draining);
        let (mut heard, mut silent) = (0, 0);
        for peer in self.peers.values().filter(live) {
            heard += 1;
            silent += usize::from(peer.late_since.is_some_and(|since| !peer.replied_since(since)));
        }
        silent >= 2 && silent * 2 > heard
    }

    /// Whether the peer is about to time out, and its addresses should be probed.
    #[must_use]
    pub fn is_suspected(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.suspected)
    }

    /// Moves a silent peer to its next phase.
    fn evaluate(&mut self, id: NodeId, isolated: bool) {
        let (now, config) = (self.now, self.config);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let silence = peer.timeout(&config);
        let phase = match peer.phase {
            PeerPhase::Unknown if !peer.is_queried_in_vain(now, &config) => PeerPhase::Unknown,
            PeerPhase::Unknown | PeerPhase::Down => PeerPhase::Down,
            PeerPhase::Restarting { .. } | PeerPhase::Starting { .. } | PeerPhase::NodeOnly { .. }
                if peer.has_lost_node(now, silence) =>
            {
                PeerPhase::Down
            }
            PeerPhase::Restarting { until } | PeerPhase::Starting { until, .. } if until <= now => {
                peer.phase_after_timeout(now.checked_sub(silence).unwrap_or(now), None)
            }
            PeerPhase::Starting { until, wait_until } if wait_until <= now => PeerPhase::Restarting { until },
            PeerPhase::NodeOnly { until: Some(until) } if until <= now => PeerPhase::NodeOnly { until: None },
            away @ (PeerPhase::Restarting { .. }
            | PeerPhase::Starting { .. }
            | PeerPhase::NodeOnly { .. }) => away,
            live @ (PeerPhase::Up | PeerPhase::Draining) => {
                if now < peer.late_at(&config) {
                    live
                } else {
                    if peer.late_since.is_none() {
                        (peer.late_since, peer.send_at) = (Some(now), now);
                        // It is queried only if it does not answer the request.
                        peer.inquiry.begin(now + config.request_window(peer.period) / 10);
                    }
                    let late_since = peer.late_since.unwrap_or(now);
                    let suspect_at = peer.suspect_at(&config);
                    if isolated && peer.held_until.is_none() && suspect_at.is_some_and(|at| at <= now) {
                        peer.held_until = Some(peer.silent_since + silence + config.hold());
                    }
                    if peer.is_queried_in_vain(now, &config) {
                        peer.phase_after_timeout(late_since, Some(now + config.grace))
                    } else {
                        if peer.suspect_at(&config).is_some_and(|at| at <= now)
                            && !peer.suspected
                            && !peer.replied_since(late_since)
                        {
                            peer.suspected = true;
                            self.changed.insert(id);
                        }
                        live
                    }
                }
            }
            PeerPhase::HeartbeatLost => match peer.inquiry.unanswered_since() {
                Some(since) if since + silence <= now => {
                    peer.phase_after_timeout(since, Some(now + config.grace))
                }
                Some(_) | None => PeerPhase::HeartbeatLost,
            },
        };
        let is_new_doubt = match phase {
            PeerPhase::HeartbeatLost => peer.phase != phase,
            PeerPhase::NodeOnly { .. } => !matches!(peer.phase, PeerPhase::NodeOnly { .. }),
            PeerPhase::Restarting { .. } => !matches!(
                peer.phase,
                PeerPhase::Restarting { .. } | PeerPhase::Starting { .. }
            ),
            _ => false,
        };
        if is_new_doubt {
            peer.inquiry.begin(now);
        }
        self.set_phase(id, phase);
    }

    fn update_deadline(&mut self) {
        self.due = self.poll_timeout().unwrap_or(self.now);
    }

    /// Advances the clock. The time of a stall is added to all timeouts.
    fn advance_clock(&mut self, now: Instant) {
        let stall = now.saturating_duration_since(self.due.max(self.now));
        self.now = self.now.max(now);
        if stall <= STALL_THRESHOLD || self.peers.is_empty() {
            return;
        }
        if stall >= self.config.failure_timeout {
            self.note_cut_off();
        }
        // Not into the future: no peer lost more than the stall.
        let now = self.now;
        let later = |at: &mut Instant| *at = (*at + stall).min(now);
        for peer in self.peers.values_mut() {
            later(&mut peer.silent_since);
            let others = [
                &mut peer.late_since,
                &mut peer.speaker_replied_at,
                &mut peer.node_replied_at,
            ];
            others.into_iter().flatten().for_each(later);
            peer.inquiry.shift(later);
        }
    }
}
