//! Which peers live, from their heartbeats, from what the wire answers, and from the clock alone: so that it is known
//! within a fraction of a second, and also when the API server is gone.
//!
//! Reads admitted heartbeats, answers on the wire and the clock; writes a view of each peer, to whom a heartbeat of ours is
//! due, and about whom the wire is to be asked.
//!
//! | a peer | becomes | when |
//! | --- | --- | --- |
//! | that is heard | what it says: up, draining, or held (it restarts) | at once |
//! | up, whose heartbeat is late | the same, and it is asked for an answer, and the wire for it | |
//! | up, silent for too long, answering for its addresses on the wire | up: its heartbeats are lost, not it | |
//! | up, silent for too long, its node answering on the wire | held: its speaker has crashed, and will be back | |
//! | up, silent for too long, nothing answering | down | |
//! | held, its node silent on the wire | down: it has lost its node | after the time that it may be silent |
//! | held for longer than its grace | down | |
//!
//! Heartbeats are sent as rarely as the time in which a death is to be found out allows: the last of its intervals is left
//! for questions, four of them, which are answered at once. So at rest a peer costs a quarter of what it would with a
//! heartbeat each interval, and it takes as many lost datagrams in a row to doubt it: what a speaker costs at rest is that
//! it wakes up, which at five times in a second is a quarter of a percent of a processor.
//!
//! A machine that is short of processor time, or that shares a real one with others, stops for a while now and then, and all
//! that runs on it. So a peer whose heartbeats have come late in the last minutes is given as much more time, up to half of
//! what the others have: it is taken for dead when it is later than it has ever been by the time that is left for questions.
//!
//! A stall of ours is no silence of theirs: when we have not looked at the clock for a while, nobody is taken for dead
//! before it has had the time to be heard again.

mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use self::peer::{Lateness, Peer, PeerPhase};
use crate::wire::heartbeat::SpeakerState;

/// A node, by a number that its coordinator has given to it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub u32);

/// The shortest and the longest interval between heartbeats that is believed of a peer.
const PERIOD_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);
/// How often the wire is asked about a peer when there is no doubt: so that it is known whether it can be asked.
const ROUTINE_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// A peer that is down is spoken to less often, so that a healed network is noticed.
const DOWN_PERIOD_FACTOR: u32 = 4;

/// Least time between two answers to a peer that cannot be believed: recordings of it cost us no more.
const MIN_UNVERIFIED_REPLY_INTERVAL: Duration = Duration::from_millis(10);
/// How long others wait for a starting peer with addresses that nobody has.
const STARTUP_WAIT: Duration = Duration::from_secs(1);
/// Most peers that are asked for an answer at a time: when there are more, it is we who hear nothing.
const MAX_REQUESTED_PEERS: usize = 16;
/// Waking up so late is usual on a busy machine, and no stall.
const STALL_THRESHOLD: Duration = Duration::from_millis(10);

/// Settings of a [`FailureDetector`].
#[derive(Clone, Copy, Debug)]
pub struct FailureDetectorConfig {
    /// A peer counts as failed when nothing was received from it for this long. A heartbeat is due after four fifths of it;
    /// in the last fifth a late heartbeat is requested.
    pub failure_timeout: Duration,
    /// How long a peer whose speaker crashed while its node lives remains the owner of its addresses.
    pub grace: Duration,
    /// Upper bound of the grace period that a restarting peer asks for.
    pub max_grace: Duration,
    /// Upper bound of the heartbeats sent per second. With more peers, the period grows; heartbeats carry it.
    pub max_rate: u32,
}

impl Default for FailureDetectorConfig {
    /// 250 ms, that is a heartbeat every 200 ms; 60 s; 60 s; 450 per second.
    fn default() -> Self {
        Self {
            failure_timeout: Duration::from_millis(250),
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
        self.min_request_window() * 4
    }

    /// How long a peer that sends heartbeats with this period may be silent.
    #[must_use]
    pub fn timeout_after(&self, period: Duration) -> Duration {
        period + self.request_window(period)
    }

    /// How much longer than [`timeout_after`](Self::timeout_after) a peer may be silent that was late before, at most.
    pub(crate) fn max_extension(&self, period: Duration) -> Duration {
        self.timeout_after(period) / 2
    }

    /// The time between a due heartbeat and the timeout, in which the heartbeat is requested.
    fn request_window(&self, period: Duration) -> Duration {
        self.min_request_window().max(period / 4)
    }

    pub(crate) fn min_request_window(&self) -> Duration {
        self.failure_timeout / 5
    }
}

/// What a peer is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerHealth {
    /// Nothing was heard of it yet, and it has had little time.
    Unknown,
    /// It lives.
    Up,
    /// It restarts, and keeps its addresses until then.
    Restarting {
        /// The end of the grace, on our clock.
        until: Instant,
    },
    /// It starts: it keeps what it has had until then, and will be up in a moment.
    Starting {
        /// The end of the grace, on our clock.
        until: Instant,
    },
    /// It lives, and gives its addresses away.
    Draining,
    /// It is silent.
    Down,
}

/// What the wire showed of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Evidence {
    /// It answers for an address that it has claimed: its speaker lives.
    Speaker,
    /// Its node answers for its own address.
    Node,
}

/// The view of one speaker on its peers. After each input take what [`take_sends`](Self::take_sends),
/// [`take_asks`](Self::take_asks) and [`take_changed`](Self::take_changed) give; sleep until
/// [`poll_timeout`](Self::poll_timeout) at most, then call [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug)]
pub struct FailureDetector {
    config: FailureDetectorConfig,
    peers: BTreeMap<NodeId, Peer>,
    changed: BTreeSet<NodeId>,
    now: Instant,
    /// When we had to be called at the latest: what is beyond it we have slept.
    due: Instant,
}

impl FailureDetector {
    /// A view on nobody.
    #[must_use]
    pub fn new(now: Instant, config: FailureDetectorConfig) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            changed: BTreeSet::new(),
            now,
            due: now,
        }
    }

    /// These are the peers that we need to know of. New ones are unknown; others are spoken to while they speak to us, and
    /// then forgotten.
    pub fn set_monitored(&mut self, now: Instant, monitored: &BTreeSet<NodeId>) {
        self.advance_clock(now);
        for (id, peer) in &mut self.peers {
            peer.monitored &= monitored.contains(id);
        }
        let (now, silence) = (
            self.now,
            self.config.timeout_after(self.config.heartbeat_period()),
        );
        for id in monitored {
            let peer = self.peer(*id);
            let new = !std::mem::replace(&mut peer.monitored, true);
            // While it had no reason to speak to us, its silence said nothing.
            if new && peer.last_heard.is_none_or(|last| last + silence <= now) {
                self.start_monitoring(*id, now);
            }
        }
        let now = self.now;
        self.peers.retain(|_, peer| peer.is_heartbeat_target(now));
        self.update_deadline();
    }

    /// We may not have been able to hear anybody: who is down for us has the time again to be heard, and is asked.
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

    /// What a peer is, is to be seen: it has as much time to be heard as any.
    fn start_monitoring(&mut self, id: NodeId, now: Instant) {
        let peer = self.peer(id);
        (peer.silent_since, peer.send_at, peer.probe_at) = (now, now, now);
        self.set_phase(id, PeerPhase::Unknown);
    }

    /// A node is gone: nothing is remembered of it.
    pub fn forget(&mut self, id: NodeId) {
        self.peers.remove(&id);
        self.changed.remove(&id);
    }

    /// A heartbeat of a peer was admitted; its next one is to come within `period`.
    pub fn handle_heartbeat(&mut self, now: Instant, id: NodeId, state: SpeakerState, period: Duration) {
        self.advance_clock(now);
        let (now, config) = (self.now, self.config);
        let longest = config.max_grace;
        let ahead = self.send_early_by();
        let peer = self.peer(id);
        // It has woken us: if ours to it is due soon, it goes now. So by and by all keep the same time, and what comes and what
        // goes costs one waking up.
        if peer.last_heard.is_some() && peer.send_at <= now + ahead {
            peer.send_at = now;
        }
        peer.note_lateness(now, &config);
        peer.silent_since = now;
        peer.last_heard = Some(now);
        peer.late_since = None;
        peer.period = period.clamp(*PERIOD_RANGE.start(), *PERIOD_RANGE.end());
        let phase = match (peer.phase, state) {
            (_, SpeakerState::Up) => PeerPhase::Up,
            (_, SpeakerState::Draining) => PeerPhase::Draining,
            // The grace counts from the first time that it was asked for: repeating it must not extend it.
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
        self.set_phase(id, phase);
        self.update_deadline();
    }

    /// The wire showed something of a peer.
    pub fn handle_probe_reply(&mut self, now: Instant, id: NodeId, evidence: Evidence) {
        self.advance_clock(now);
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(&id) {
            match evidence {
                Evidence::Speaker => peer.speaker_replied_at = Some(now),
                Evidence::Node => peer.node_replied_at = Some(now),
            }
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance_clock(now);
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            self.evaluate(id);
        }
        self.update_deadline();
    }

    /// The peers to send a heartbeat to now, each due again after [`period`](Self::period).
    pub fn take_due_heartbeats(&mut self) -> Vec<NodeId> {
        let (now, period) = (self.now, self.period());
        let mut due = Vec::new();
        let is_due = |peer: &Peer, by: Instant| peer.is_heartbeat_target(now) && peer.send_at <= by;
        if !self.peers.values().any(|peer| is_due(peer, now)) {
            self.update_deadline();
            return due;
        }
        // Who would be next gets its heartbeat now, and so from then on: one waking up is enough for all.
        let ahead = self.send_early_by();
        let mut asked = 0;
        for (id, peer) in &mut self.peers {
            if is_due(peer, now + ahead) {
                // Not from when it was due: after a stall one is sent, not all that were missed.
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

    /// How much earlier than it is due a heartbeat may be sent. That may come to twice as many, so it is not for those who have
    /// more peers than half of the rate allows for.
    fn send_early_by(&self) -> Duration {
        let period = self.config.heartbeat_period();
        if self.rate_limited_period() * 2 <= period {
            period / 2
        } else {
            Duration::ZERO
        }
    }

    /// Whether this peer is to answer our heartbeat at once, because its own is late, or because we do not hear it.
    #[must_use]
    pub fn requests_reply(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(Peer::is_requested)
    }

    /// A peer wants to be spoken to, though it cannot be believed yet.
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

    /// A heartbeat to this peer is due at once: there is news for it.
    pub fn schedule_heartbeat_now(&mut self, id: NodeId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.send_at = self.now;
        }
    }

    /// The peers about which to ask the wire now.
    pub fn take_due_probes(&mut self) -> Vec<NodeId> {
        let now = self.now;
        let mut due = Vec::new();
        for (id, peer) in &mut self.peers {
            if peer.monitored && peer.probe_at <= now {
                peer.probe_at = now
                    + match (peer.phase, peer.late_since) {
                        (PeerPhase::Up | PeerPhase::Draining, None) => ROUTINE_PROBE_INTERVAL,
                        (PeerPhase::Up | PeerPhase::Draining, Some(_)) => peer.request_interval(&self.config),
                        (
                            PeerPhase::Unknown
                            | PeerPhase::HeartbeatLost
                            | PeerPhase::Starting { .. }
                            | PeerPhase::Restarting { .. },
                            _,
                        ) => self.config.request_window(peer.period),
                        (PeerPhase::Down, _) => ROUTINE_PROBE_INTERVAL,
                    };
                due.push(*id);
            }
        }
        self.update_deadline();
        due
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest; none without peers.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter_map(|peer| {
                let sends = peer.is_heartbeat_target(self.now).then_some(peer.send_at);
                let asks = peer.monitored.then_some(peer.probe_at);
                [sends, asks, peer.evaluate_at(&self.config)]
                    .into_iter()
                    .flatten()
                    .min()
            })
            .min()
    }

    /// What a peer is to us; nobody's peer is down.
    #[must_use]
    pub fn health(&self, id: NodeId) -> PeerHealth {
        self.peers
            .get(&id)
            .map_or(PeerHealth::Down, |peer| peer.phase.health())
    }

    /// When the peer was heard last; none if never.
    #[must_use]
    pub fn last_heard(&self, id: NodeId) -> Option<Instant> {
        self.peers.get(&id)?.last_heard
    }

    /// Whether the node of a peer answers on the wire; none when it never has, and so perhaps cannot be asked.
    #[must_use]
    pub fn node_replies(&self, id: NodeId) -> Option<bool> {
        let peer = self.peers.get(&id)?;
        Some(self.now < peer.node_replied_at? + ROUTINE_PROBE_INTERVAL * 2)
    }

    /// Whether every peer that we need has been heard, or has had its time.
    #[must_use]
    pub fn all_heard_or_timed_out(&self) -> bool {
        let mut monitored = self.peers.values().filter(|peer| peer.monitored);
        monitored.all(|peer| peer.phase != PeerPhase::Unknown)
    }

    /// The peers that are spoken to.
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

    /// The time between two heartbeats to a peer if as many are sent as may be.
    fn rate_limited_period(&self) -> Duration {
        let peers = u32::try_from(self.heartbeat_targets().count()).unwrap_or(u32::MAX);
        Duration::from_secs(1) * peers / self.config.max_rate.max(1)
    }

    /// The longest time between two heartbeats, of ours or of any peer that we need.
    #[must_use]
    pub fn longest_period(&self) -> Duration {
        let monitored = self.peers.values().filter(|peer| peer.monitored);
        monitored
            .map(|peer| peer.period)
            .fold(self.period(), Duration::max)
    }

    /// The peers whose view has changed since the last call.
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
            probe_at: now,
            late_since: None,
            speaker_replied_at: None,
            node_replied_at: None,
        })
    }

    fn set_phase(&mut self, id: NodeId, phase: PeerPhase) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut peer.phase, phase);
        if before == phase {
            return;
        }
        if matches!(
            phase,
            PeerPhase::Starting { .. } | PeerPhase::Restarting { .. } | PeerPhase::HeartbeatLost
        ) {
            peer.probe_at = now;
        }
        if before.health() != phase.health() {
            self.changed.insert(id);
        }
    }

    /// Draws the conclusions from the silence of a peer.
    fn evaluate(&mut self, id: NodeId) {
        let (now, config) = (self.now, self.config);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let silence = peer.timeout(&config);
        let phase = match peer.phase {
            PeerPhase::Unknown if now < peer.silent_since + silence => PeerPhase::Unknown,
            PeerPhase::Unknown | PeerPhase::Down => PeerPhase::Down,
            PeerPhase::Restarting { until } if until <= now || peer.has_lost_node(now, silence) => {
                PeerPhase::Down
            }
            PeerPhase::Starting { until, .. } if until <= now || peer.has_lost_node(now, silence) => {
                PeerPhase::Down
            }
            PeerPhase::Starting { until, wait_until } if wait_until <= now => PeerPhase::Restarting { until },
            away @ (PeerPhase::Restarting { .. } | PeerPhase::Starting { .. }) => away,
            live @ (PeerPhase::Up | PeerPhase::Draining) => {
                if now < peer.late_at(&config) {
                    live
                } else {
                    let late_since = *peer.late_since.get_or_insert_with(|| {
                        (peer.probe_at, peer.send_at) = (now, now);
                        now
                    });
                    if now < peer.dead_at(late_since, &config) {
                        live
                    } else {
                        peer.phase_after_timeout(late_since, now + config.grace)
                    }
                }
            }
            PeerPhase::HeartbeatLost => {
                // What is older than the silence that is allowed counts no more, to the moment.
                let allowed = silence.saturating_sub(Duration::from_millis(1));
                peer.phase_after_timeout(now.checked_sub(allowed).unwrap_or(now), now + config.grace)
            }
        };
        self.set_phase(id, phase);
    }

    fn update_deadline(&mut self) {
        self.due = self.poll_timeout().unwrap_or(self.now);
    }

    /// Moves the clock on. What we slept beyond the time at which we had to be called, everybody gets in addition.
    fn advance_clock(&mut self, now: Instant) {
        let stall = now.saturating_duration_since(self.due.max(self.now));
        self.now = self.now.max(now);
        if stall <= STALL_THRESHOLD || self.peers.is_empty() {
            return;
        }
        // Not into the future: that would be more than it has lost.
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
        }
    }
}
