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

use self::peer::{Lateness, Peer, Phase};
use crate::wire::heartbeat::SpeakerState;

/// A node, by a number that its coordinator has given to it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub u32);

/// The shortest and the longest interval between heartbeats that is believed of a peer.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);
/// How often the wire is asked about a peer when there is no doubt: so that it is known whether it can be asked.
const ROUTINE: Duration = Duration::from_secs(10);
/// A peer that is down is spoken to less often, so that a healed network is noticed.
const DOWN_FACTOR: u32 = 4;

/// Least time between two answers to a peer that cannot be believed: recordings of it cost us no more.
const GREETING: Duration = Duration::from_millis(10);
/// How long others wait for a starting peer with addresses that nobody has.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most peers that are asked for an answer at a time: when there are more, it is we who hear nothing.
const ASKED: usize = 16;
/// Waking up so late is usual on a busy machine, and no stall.
const STALL: Duration = Duration::from_millis(10);

/// Settings of a [`FailureDetector`].
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What the time of silence is counted in.
    pub interval: Duration,
    /// A peer that was silent for so many intervals is suspected to be down. At least 2. A heartbeat is due after one less.
    pub misses: u32,
    /// How long a peer is waited for that fell silent while its node lives.
    pub grace: Duration,
    /// The longest time for which a peer that restarts is waited for, whatever it asks for.
    pub longest_grace: Duration,
    /// Most heartbeats that are sent in a second: with more peers, each is spoken to less often, and told so.
    pub rate: u32,
}

impl Default for Config {
    /// 50 ms, 5, 60 s, 60 s, 450 a second: a heartbeat each 200 ms, and 250 ms of silence.
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(50),
            misses: 5,
            grace: Duration::from_secs(60),
            longest_grace: Duration::from_secs(60),
            rate: 450,
        }
    }
}

impl Config {
    /// The time between two heartbeats to a peer, when there are not too many.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.interval * (self.misses.max(2) - 1)
    }

    /// How long a peer may be silent that sends its heartbeats with this time in between.
    #[must_use]
    pub fn silence(&self, period: Duration) -> Duration {
        period + self.margin(period)
    }

    /// How much longer than that such a peer may be silent that was late before, at most: half as long.
    pub(crate) fn indulgence(&self, period: Duration) -> Duration {
        self.silence(period) / 2
    }

    /// How long such a peer is waited for when its heartbeat is due: for the last interval, which is longer of one that
    /// speaks more slowly.
    fn margin(&self, period: Duration) -> Duration {
        self.interval.max(period / (self.misses.max(2) - 1))
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

/// The view of one speaker on its peers. After each input take what [`take_sends`](Self::take_sends),
/// [`take_asks`](Self::take_asks) and [`take_changed`](Self::take_changed) give; sleep until
/// [`poll_timeout`](Self::poll_timeout) at most, then call [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug)]
pub struct FailureDetector {
    config: Config,
    peers: BTreeMap<NodeId, Peer>,
    changed: BTreeSet<NodeId>,
    now: Instant,
    /// When we had to be called at the latest: what is beyond it we have slept.
    due: Instant,
}

impl FailureDetector {
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
        let (now, silence) = (self.now, self.config.silence(self.config.period()));
        for id in wanted {
            let peer = self.peer(*id);
            let new = !std::mem::replace(&mut peer.wanted, true);
            // While it had no reason to speak to us, its silence said nothing.
            if new && peer.last.is_none_or(|last| last + silence <= now) {
                self.begin_to_hear(*id, now);
            }
        }
        let now = self.now;
        self.peers.retain(|_, peer| peer.is_spoken_to(now));
        self.plan();
    }

    /// We may not have been able to hear anybody: who is down for us has the time again to be heard, and is asked.
    pub fn listen_anew(&mut self, now: Instant) {
        self.pass(now);
        let now = self.now;
        let down = |peer: &Peer| peer.wanted && peer.phase == Phase::Down && peer.last.is_some();
        let down = self.peers.iter().filter(|(_, peer)| down(peer));
        for id in down.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.begin_to_hear(id, now);
        }
        self.plan();
    }

    /// What a peer is, is to be seen: it has as much time to be heard as any.
    fn begin_to_hear(&mut self, id: NodeId, now: Instant) {
        let peer = self.peer(id);
        (peer.heard, peer.send_at, peer.ask_at) = (now, now, now);
        self.enter(id, Phase::Unknown);
    }

    /// A node is gone: nothing is remembered of it.
    pub fn forget(&mut self, id: NodeId) {
        self.peers.remove(&id);
        self.changed.remove(&id);
    }

    /// A heartbeat of a peer was admitted; its next one is to come within `period`.
    pub fn heard(&mut self, now: Instant, id: NodeId, state: SpeakerState, period: Duration) {
        self.pass(now);
        let (now, config) = (self.now, self.config);
        let longest = config.longest_grace;
        let ahead = self.ahead();
        let peer = self.peer(id);
        // It has woken us: if ours to it is due soon, it goes now. So by and by all keep the same time, and what comes and what
        // goes costs one waking up.
        if peer.last.is_some() && peer.send_at <= now + ahead {
            peer.send_at = now;
        }
        peer.note_lateness(now, &config);
        peer.heard = now;
        peer.last = Some(now);
        peer.doubt = None;
        peer.period = period.clamp(*INTERVALS.start(), *INTERVALS.end());
        let phase = match (peer.phase, state) {
            (_, SpeakerState::Up) => Phase::Up,
            (_, SpeakerState::Draining) => Phase::Draining,
            // The grace counts from the first time that it was asked for: repeating it must not extend it.
            (phase @ Phase::Starting { .. }, SpeakerState::Starting { .. }) => phase,
            (Phase::Held { until } | Phase::Starting { until, .. }, SpeakerState::Restarting { .. }) => {
                Phase::Held { until }
            }
            (Phase::Held { until }, SpeakerState::Starting { .. }) => Phase::Starting {
                until,
                patience: now + PATIENCE,
            },
            (_, SpeakerState::Starting { grace }) => Phase::Starting {
                until: now + grace.min(longest),
                patience: now + PATIENCE,
            },
            (_, SpeakerState::Restarting { grace }) => Phase::Held {
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

    /// The peers to send a heartbeat to now, each due again after [`period`](Self::period).
    pub fn take_sends(&mut self) -> Vec<NodeId> {
        let (now, period) = (self.now, self.period());
        let mut due = Vec::new();
        let is_due = |peer: &Peer, by: Instant| peer.is_spoken_to(now) && peer.send_at <= by;
        if !self.peers.values().any(|peer| is_due(peer, now)) {
            self.plan();
            return due;
        }
        // Who would be next gets its heartbeat now, and so from then on: one waking up is enough for all.
        let ahead = self.ahead();
        let mut asked = 0;
        for (id, peer) in &mut self.peers {
            if is_due(peer, now + ahead) {
                // Not from when it was due: after a stall one is sent, not all that were missed.
                peer.send_at = now
                    + if let Some(again) = peer.again_within(&self.config).filter(|_| asked < ASKED) {
                        asked += 1;
                        again
                    } else if peer.phase == Phase::Down {
                        period * DOWN_FACTOR
                    } else {
                        period
                    };
                due.push(*id);
            }
        }
        self.plan();
        due
    }

    /// How much earlier than it is due a heartbeat may be sent. That may come to twice as many, so it is not for those who have
    /// more peers than half of the rate allows for.
    fn ahead(&self) -> Duration {
        let period = self.config.period();
        if self.paced() * 2 <= period {
            period / 2
        } else {
            Duration::ZERO
        }
    }

    /// Whether this peer is to answer our heartbeat at once, because its own is late, or because we do not hear it.
    #[must_use]
    pub fn asks(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(Peer::is_asked)
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
                        (Phase::Up | Phase::Draining, Some(_)) => peer.between_questions(&self.config),
                        (Phase::Unknown | Phase::Mute | Phase::Starting { .. } | Phase::Held { .. }, _) => {
                            self.config.margin(peer.period)
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
    pub fn period(&self) -> Duration {
        self.config.period().max(self.paced()).min(*INTERVALS.end())
    }

    /// The time between two heartbeats to a peer if as many are sent as may be.
    fn paced(&self) -> Duration {
        let peers = u32::try_from(self.spoken_to().count()).unwrap_or(u32::MAX);
        Duration::from_secs(1) * peers / self.config.rate.max(1)
    }

    /// The longest time between two heartbeats, of ours or of any peer that we need.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        let wanted = self.peers.values().filter(|peer| peer.wanted);
        wanted.map(|peer| peer.period).fold(self.period(), Duration::max)
    }

    /// The peers whose view has changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.changed)
    }

    fn peer(&mut self, id: NodeId) -> &mut Peer {
        let (now, period) = (self.now, self.config.period());
        self.peers.entry(id).or_insert(Peer {
            phase: Phase::Unknown,
            wanted: false,
            heard: now,
            last: None,
            period,
            lateness: Lateness::default(),
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
        let silence = peer.patience(&config);
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
                if now < peer.late_at(&config) {
                    live
                } else {
                    let doubt = *peer.doubt.get_or_insert_with(|| {
                        (peer.ask_at, peer.send_at) = (now, now);
                        now
                    });
                    if now < peer.dead_at(doubt, &config) {
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
