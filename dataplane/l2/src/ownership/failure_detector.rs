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
//! A heartbeat is sent every sixth of the failure timeout. A stall of five sixths is therefore tolerated at any time, and
//! the mean time until a failure is detected exceeds that by a twelfth. More heartbeats would find failures little sooner,
//! and the main cost of an idle speaker is its wake-ups. A late heartbeat is requested up to four times; a request is
//! answered at once.
//!
//! A busy or virtual machine stalls now and then, with all its processes. A peer whose heartbeats were late within the
//! last minutes gets that much more time, up to half of the usual timeout.
//!
//! A peer whose heartbeats arrive is not queried, except once when its speaker restarts: the reply shows that silence of
//! this node means something. In doubt, questions back off ([`inquiry`]); repeated ones are limited to
//! [`MAX_REPEATED_QUERIES_PER_SECOND`]. No peer counts as failed before it has been queried.
//!
//! When most peers become silent at once, and nothing shows that their nodes live, it is more likely that we are cut off,
//! or that a burst of loss hits everybody. They get twice the timeout.
//!
//! Our own stalls are not silence of the peers: after a stall, every peer gets the lost time in addition.
//!
//! A node that reached no majority of its peers, or that stood still for longer than the timeout, was *cut off*: others may
//! have claimed its addresses and served clients.

mod config;
mod health;
mod inquiry;
mod peer;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use self::config::{DEFAULT_FAILURE_TIMEOUT, FailureDetectorConfig};
pub use self::health::PeerHealth;
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
/// How long other nodes wait for a starting peer before they claim addresses without an owner.
const STARTUP_WAIT: Duration = Duration::from_secs(1);
/// A wake-up that is late by more than this counts as a stall.
const STALL_THRESHOLD: Duration = Duration::from_millis(10);

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
