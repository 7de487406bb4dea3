//! Which peers live, from their heartbeats, from what the wire answers, and from the clock alone: so that it is known
//! within a fraction of a second, and also when the API server is gone.
//!
//! Reads admitted heartbeats, answers on the wire and the clock; writes a view of each peer, to whom a heartbeat of ours is
//! due, and about whom the wire is to be asked.
//!
//! | a peer | becomes | when |
//! | --- | --- | --- |
//! | that is heard | what it says: up, draining, or held (it restarts) | at once |
//! | up, silent for one interval less than it may be | the same, and the wire is asked | |
//! | up, silent for too long, answering for its addresses on the wire | up: its heartbeats are lost, not it | |
//! | up, silent for too long, its node answering on the wire | held: its speaker has crashed, and will be back | |
//! | up, silent for too long, nothing answering | down | |
//! | held, its node silent on the wire | down: it has lost its node | after the time that it may be silent |
//! | held for longer than its grace | down | |
//!
//! A stall of ours is no silence of theirs: when we have not looked at the clock for a while, nobody is taken for dead
//! before it has had the time to be heard again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::heartbeat::State;

/// A node, by a number that its coordinator has given to it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub u32);

/// The shortest and the longest interval between heartbeats that is believed of a peer.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);
/// How often the wire is asked about a peer when there is no doubt: so that it is known whether it can be asked.
const ROUTINE: Duration = Duration::from_secs(10);
/// A peer that is down is spoken to less often, so that a healed network is noticed.
const DOWN_FACTOR: u32 = 4;
/// Who spoke to us is spoken to for so many of its intervals, whether we need it or not.
const COURTESY: u32 = 10;

/// Least time between two answers to a peer that cannot be believed: recordings of it cost us no more.
const GREETING: Duration = Duration::from_millis(10);
/// How long others wait for a starting peer with addresses that nobody has.
const PATIENCE: Duration = Duration::from_secs(1);
/// Waking up so late is usual on a busy machine, and no stall.
const STALL: Duration = Duration::from_millis(10);

/// Settings of a [`Liveness`].
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Time between two heartbeats to a peer.
    pub interval: Duration,
    /// How many in a row may be lost: a peer that was silent for so many intervals is suspected to be down. At least 2.
    pub misses: u32,
    /// How long a peer is waited for that fell silent while its node lives.
    pub grace: Duration,
    /// The longest time for which a peer that restarts is waited for, whatever it asks for.
    pub longest_grace: Duration,
    /// Most heartbeats that are sent in a second: with more peers, each is spoken to less often, and told so.
    pub rate: u32,
}

impl Default for Config {
    /// 50 ms, 3, 10 s, 60 s, 450 a second.
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(50),
            misses: 3,
            grace: Duration::from_secs(10),
            longest_grace: Duration::from_secs(60),
            rate: 450,
        }
    }
}

/// What a peer is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum View {
    /// Nothing was heard of it yet, and it has had little time.
    Unknown,
    /// It lives.
    Up,
    /// It restarts, and keeps its addresses until then.
    Held {
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

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Unknown,
    Up,
    Draining,
    /// Its heartbeats are lost, and it answers on the wire.
    Mute,
    /// It starts. Nobody waits for it longer than until `patience` ends with what it has not had before.
    Starting {
        until: Instant,
        patience: Instant,
    },
    /// It announced a restart, or crashed while its node lives.
    Held {
        until: Instant,
    },
    Down,
}

impl Phase {
    const fn view(self) -> View {
        match self {
            Self::Unknown => View::Unknown,
            Self::Up | Self::Mute => View::Up,
            Self::Starting { until, .. } => View::Starting { until },
            Self::Held { until } => View::Held { until },
            Self::Draining => View::Draining,
            Self::Down => View::Down,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    phase: Phase,
    /// We need to know of it.
    wanted: bool,
    /// When it was heard last, or became a peer; moved on by our own stalls.
    heard: Instant,
    /// When it was heard last in truth.
    last: Option<Instant>,
    /// The time between its heartbeats.
    interval: Duration,
    /// When a heartbeat to it is due.
    send_at: Instant,
    /// When it was answered last though it could not be believed.
    greeted: Option<Instant>,
    /// When the wire is to be asked about it.
    ask_at: Instant,
    /// Since when it is in doubt and the wire has been asked.
    doubt: Option<Instant>,
    /// When its speaker, and its node, answered on the wire last.
    speaker_at: Option<Instant>,
    node_at: Option<Instant>,
}

/// The view of one speaker on its peers. After each input take what [`take_sends`](Self::take_sends),
/// [`take_asks`](Self::take_asks) and [`take_changed`](Self::take_changed) give; sleep until
/// [`poll_timeout`](Self::poll_timeout) at most, then call [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug)]
pub struct Liveness {
    config: Config,
    peers: BTreeMap<NodeId, Peer>,
    changed: BTreeSet<NodeId>,
    now: Instant,
    /// When we had to be called at the latest: what is beyond it we have slept.
    due: Instant,
}

impl Liveness {
    /// A view on nobody.
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
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
    pub fn set_wanted(&mut self, now: Instant, wanted: &BTreeSet<NodeId>) {
        self.pass(now);
        for (id, peer) in &mut self.peers {
            peer.wanted &= wanted.contains(id);
        }
        let (now, silence) = (self.now, self.config.interval * self.config.misses.max(2));
        for id in wanted {
            let peer = self.peer(*id);
            let new = !std::mem::replace(&mut peer.wanted, true);
            // While it had no reason to speak to us, its silence said nothing.
            if new && peer.last.is_none_or(|last| last + silence <= now) {
                (peer.heard, peer.send_at, peer.ask_at) = (now, now, now);
                self.enter(*id, Phase::Unknown);
            }
        }
        let now = self.now;
        self.peers.retain(|_, peer| peer.is_spoken_to(now));
        self.plan();
    }

    /// A node is gone: nothing is remembered of it.
    pub fn forget(&mut self, id: NodeId) {
        self.peers.remove(&id);
        self.changed.remove(&id);
    }

    /// A heartbeat of a peer was admitted; its next one is to come within `interval`.
    pub fn heard(&mut self, now: Instant, id: NodeId, state: State, interval: Duration) {
        self.pass(now);
        let (now, longest) = (self.now, self.config.longest_grace);
        let ahead = self.ahead();
        let peer = self.peer(id);
        // It has woken us: if ours to it is due soon, it goes now. So by and by all keep the same time, and what comes and what
        // goes costs one waking up.
        if peer.last.is_some() && peer.send_at <= now + ahead {
            peer.send_at = now;
        }
        peer.heard = now;
        peer.last = Some(now);
        peer.doubt = None;
        peer.interval = interval.clamp(*INTERVALS.start(), *INTERVALS.end());
        let phase = match (peer.phase, state) {
            (_, State::Up) => Phase::Up,
            (_, State::Draining) => Phase::Draining,
            // The grace counts from the first time that it was asked for: repeating it must not extend it.
            (phase @ Phase::Starting { .. }, State::Starting { .. }) => phase,
            (Phase::Held { until } | Phase::Starting { until, .. }, State::Leaving { .. }) => {
                Phase::Held { until }
            }
            (Phase::Held { until }, State::Starting { .. }) => Phase::Starting {
                until,
                patience: now + PATIENCE,
            },
            (_, State::Starting { grace }) => Phase::Starting {
                until: now + grace.min(longest),
                patience: now + PATIENCE,
            },
            (_, State::Leaving { grace }) => Phase::Held {
                until: now + grace.min(longest),
            },
        };
        self.enter(id, phase);
        self.plan();
    }

    /// The wire showed something of a peer.
    pub fn answered(&mut self, now: Instant, id: NodeId, evidence: Evidence) {
        self.pass(now);
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(&id) {
            match evidence {
                Evidence::Speaker => peer.speaker_at = Some(now),
                Evidence::Node => peer.node_at = Some(now),
            }
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.pass(now);
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            self.judge(id);
        }
        self.plan();
    }

    /// The peers to send a heartbeat to now, each due again after [`interval`](Self::interval).
    pub fn take_sends(&mut self) -> Vec<NodeId> {
        let (now, interval) = (self.now, self.interval());
        let mut due = Vec::new();
        let is_due = |peer: &Peer, by: Instant| peer.is_spoken_to(now) && peer.send_at <= by;
        if !self.peers.values().any(|peer| is_due(peer, now)) {
            self.plan();
            return due;
        }
        // Who would be next gets its heartbeat now, and so from then on: one waking up is enough for all.
        let ahead = self.ahead();
        for (id, peer) in &mut self.peers {
            if is_due(peer, now + ahead) {
                let factor = if peer.phase == Phase::Down { DOWN_FACTOR } else { 1 };
                // Not from when it was due: after a stall one is sent, not all that were missed.
                peer.send_at = now + interval * factor;
                due.push(*id);
            }
        }
        self.plan();
        due
    }

    /// How much earlier than it is due a heartbeat may be sent. Where there are so many peers that they are spoken to less often,
    /// they are not all spoken to at once either.
    fn ahead(&self) -> Duration {
        if self.interval() == self.config.interval {
            self.config.interval / 2
        } else {
            Duration::ZERO
        }
    }

    /// A peer wants to be spoken to, though it cannot be believed yet.
    pub fn greet(&mut self, now: Instant, id: NodeId) {
        self.pass(now);
        let now = self.now;
        let peer = self.peer(id);
        if peer.greeted.is_none_or(|at| at + GREETING <= now) {
            peer.greeted = Some(now);
            peer.send_at = now;
        }
        self.plan();
    }

    /// A heartbeat to this peer is due at once: there is news for it.
    pub fn hurry(&mut self, id: NodeId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.send_at = self.now;
        }
    }

    /// The peers about which to ask the wire now.
    pub fn take_asks(&mut self) -> Vec<NodeId> {
        let now = self.now;
        let mut due = Vec::new();
        for (id, peer) in &mut self.peers {
            if peer.wanted && peer.ask_at <= now {
                peer.ask_at = now
                    + match (peer.phase, peer.doubt) {
                        (Phase::Up | Phase::Draining, None) => ROUTINE,
                        (Phase::Up | Phase::Draining, Some(_)) => peer.interval / 2,
                        (Phase::Unknown | Phase::Mute | Phase::Starting { .. } | Phase::Held { .. }, _) => {
                            peer.interval
                        }
                        (Phase::Down, _) => ROUTINE,
                    };
                due.push(*id);
            }
        }
        self.plan();
        due
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest; none without peers.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter_map(|peer| {
                let sends = peer.is_spoken_to(self.now).then_some(peer.send_at);
                let asks = peer.wanted.then_some(peer.ask_at);
                [sends, asks, peer.judged_at(&self.config)]
                    .into_iter()
                    .flatten()
                    .min()
            })
            .min()
    }

    /// What a peer is to us; nobody's peer is down.
    #[must_use]
    pub fn view(&self, id: NodeId) -> View {
        self.peers.get(&id).map_or(View::Down, |peer| peer.phase.view())
    }

    /// When the peer was heard last; none if never.
    #[must_use]
    pub fn last_heard(&self, id: NodeId) -> Option<Instant> {
        self.peers.get(&id)?.last
    }

    /// Whether the node of a peer answers on the wire; none when it never has, and so perhaps cannot be asked.
    #[must_use]
    pub fn node_answers(&self, id: NodeId) -> Option<bool> {
        let peer = self.peers.get(&id)?;
        Some(self.now < peer.node_at? + ROUTINE * 2)
    }

    /// Whether every peer that we need has been heard, or has had its time.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let mut wanted = self.peers.values().filter(|peer| peer.wanted);
        wanted.all(|peer| peer.phase != Phase::Unknown)
    }

    /// The peers that are spoken to.
    pub fn spoken_to(&self) -> impl Iterator<Item = NodeId> {
        let now = self.now;
        let spoken_to = self.peers.iter().filter(move |(_, peer)| peer.is_spoken_to(now));
        spoken_to.map(|(id, _)| *id)
    }

    /// The time between two heartbeats to a peer.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let peers = u32::try_from(self.spoken_to().count()).unwrap_or(u32::MAX);
        let paced = Duration::from_secs(1) * peers / self.config.rate.max(1);
        self.config.interval.max(paced).min(*INTERVALS.end())
    }

    /// The longest time between two heartbeats, of ours or of any peer that we need.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        let wanted = self.peers.values().filter(|peer| peer.wanted);
        wanted
            .map(|peer| peer.interval)
            .fold(self.interval(), Duration::max)
    }

    /// The peers whose view has changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.changed)
    }

    fn peer(&mut self, id: NodeId) -> &mut Peer {
        let (now, interval) = (self.now, self.config.interval);
        self.peers.entry(id).or_insert(Peer {
            phase: Phase::Unknown,
            wanted: false,
            heard: now,
            last: None,
            interval,
            send_at: now,
            greeted: None,
            ask_at: now,
            doubt: None,
            speaker_at: None,
            node_at: None,
        })
    }

    fn enter(&mut self, id: NodeId, phase: Phase) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut peer.phase, phase);
        if before == phase {
            return;
        }
        if matches!(phase, Phase::Starting { .. } | Phase::Held { .. } | Phase::Mute) {
            peer.ask_at = now;
        }
        if before.view() != phase.view() {
            self.changed.insert(id);
        }
    }

    /// Draws the conclusions from the silence of a peer.
    fn judge(&mut self, id: NodeId) {
        let (now, config) = (self.now, self.config);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let silence = peer.silence(&config);
        let phase = match peer.phase {
            Phase::Unknown if now < peer.heard + silence => Phase::Unknown,
            Phase::Unknown | Phase::Down => Phase::Down,
            Phase::Held { until } if until <= now || peer.has_lost_its_node(now, silence) => Phase::Down,
            Phase::Starting { until, .. } if until <= now || peer.has_lost_its_node(now, silence) => {
                Phase::Down
            }
            Phase::Starting { until, patience } if patience <= now => Phase::Held { until },
            held @ (Phase::Held { .. } | Phase::Starting { .. }) => held,
            live @ (Phase::Up | Phase::Draining) => {
                if now < peer.heard + silence - peer.interval {
                    live
                } else {
                    let doubt = *peer.doubt.get_or_insert_with(|| {
                        peer.ask_at = now;
                        now
                    });
                    // Time for an answer, also when it was only now that we came to ask.
                    if now < (peer.heard + silence).max(doubt + peer.interval.mul_f32(0.9)) {
                        live
                    } else {
                        peer.verdict(doubt, now + config.grace)
                    }
                }
            }
            Phase::Mute => {
                // What is older than the silence that is allowed counts no more, to the moment.
                let allowed = silence.saturating_sub(Duration::from_millis(1));
                peer.verdict(now.checked_sub(allowed).unwrap_or(now), now + config.grace)
            }
        };
        self.enter(id, phase);
    }

    fn plan(&mut self) {
        self.due = self.poll_timeout().unwrap_or(self.now);
    }

    /// Moves the clock on. What we slept beyond the time at which we had to be called, everybody gets in addition.
    fn pass(&mut self, now: Instant) {
        let stall = now.saturating_duration_since(self.due.max(self.now));
        self.now = self.now.max(now);
        if stall <= STALL || self.peers.is_empty() {
            return;
        }
        // Not into the future: that would be more than it has lost.
        let now = self.now;
        let later = |at: &mut Instant| *at = (*at + stall).min(now);
        for peer in self.peers.values_mut() {
            later(&mut peer.heard);
            let others = [&mut peer.doubt, &mut peer.speaker_at, &mut peer.node_at];
            others.into_iter().flatten().for_each(later);
        }
    }
}

impl Peer {
    /// How long it may be silent.
    fn silence(&self, config: &Config) -> Duration {
        self.interval * config.misses.max(2)
    }

    fn is_spoken_to(&self, now: Instant) -> bool {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now < at + self.interval * COURTESY);
        self.wanted || recent(self.last) || recent(self.greeted)
    }

    /// What it is, after it was silent for too long and the wire has been asked since then.
    fn verdict(&self, since: Instant, until: Instant) -> Phase {
        let after = |at: Option<Instant>| at.is_some_and(|at| at >= since);
        if after(self.speaker_at) {
            Phase::Mute
        } else if after(self.node_at) {
            Phase::Held { until }
        } else {
            Phase::Down
        }
    }

    /// Whether its node has answered on the wire before, and neither it nor its speaker is there any more.
    fn has_lost_its_node(&self, now: Instant, silence: Duration) -> bool {
        self.node_at.is_some_and(|at| at.max(self.heard) + silence <= now)
    }

    /// When its phase may change by time alone.
    fn judged_at(&self, config: &Config) -> Option<Instant> {
        let silence = self.silence(config);
        match self.phase {
            Phase::Unknown => Some(self.heard + silence),
            Phase::Up | Phase::Draining => Some(match self.doubt {
                None => self.heard + silence - self.interval,
                Some(doubt) => (self.heard + silence).max(doubt + self.interval.mul_f32(0.9)),
            }),
            Phase::Mute => Some(self.speaker_at? + silence),
            Phase::Held { until } => {
                let lost = self.node_at.map(|at| at.max(self.heard) + silence);
                Some(lost.map_or(until, |lost| lost.min(until)))
            }
            Phase::Starting { until, patience } => {
                let lost = self.node_at.map(|at| at.max(self.heard) + silence);
                Some(lost.map_or(until, |lost| lost.min(until)).min(patience))
            }
            Phase::Down => None,
        }
    }
}
