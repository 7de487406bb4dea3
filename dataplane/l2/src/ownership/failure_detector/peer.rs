//! What is known of one peer, and what follows from it and the clock.

use std::time::{Duration, Instant};

use super::{Config, View};

/// How long it is remembered, at least, how late a peer has come.
const LATENESS: Duration = Duration::from_secs(60);

/// Who spoke to us is spoken to for so many of its intervals, whether we need it or not.
const COURTESY: u32 = 10;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
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
    pub(super) const fn view(self) -> View {
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

/// By how much the heartbeats of a peer have come later than is usual: the most in this minute, and in the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lateness {
    since: Option<Instant>,
    recent: Duration,
    before: Duration,
}

impl Lateness {
    pub(super) fn note(&mut self, now: Instant, by: Duration) {
        let since = *self.since.get_or_insert(now);
        if since + LATENESS <= now {
            let old = since + LATENESS * 2 <= now;
            self.before = if old { Duration::ZERO } else { self.recent };
            (self.since, self.recent) = (Some(now), Duration::ZERO);
        }
        self.recent = self.recent.max(by);
    }

    fn most(&self) -> Duration {
        self.recent.max(self.before)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) phase: Phase,
    /// We need to know of it.
    pub(super) wanted: bool,
    /// When it was heard last, or became a peer; moved on by our own stalls.
    pub(super) heard: Instant,
    /// When it was heard last in truth.
    pub(super) last: Option<Instant>,
    /// The time between its heartbeats, as it has told.
    pub(super) period: Duration,
    /// How much later its heartbeats have come.
    pub(super) lateness: Lateness,
    /// When a heartbeat to it is due.
    pub(super) send_at: Instant,
    /// When it was answered last though it could not be believed.
    pub(super) greeted: Option<Instant>,
    /// When the wire is to be asked about it.
    pub(super) ask_at: Instant,
    /// Since when its heartbeat is late, and it and the wire have been asked.
    pub(super) doubt: Option<Instant>,
    /// When its speaker, and its node, answered on the wire last.
    pub(super) speaker_at: Option<Instant>,
    pub(super) node_at: Option<Instant>,
}

impl Peer {
    /// How long it may be silent: longer by as much as it has been late before and lived.
    pub(super) fn patience(&self, config: &Config) -> Duration {
        config.silence(self.period) + self.lateness.most().min(config.indulgence(self.period))
    }

    /// A heartbeat of it has come. If it lived all the time, so that nothing but time has kept it, it is noted by how much it
    /// was late.
    pub(super) fn note_lateness(&mut self, now: Instant, config: &Config) {
        let late = now.saturating_duration_since(self.heard + self.period);
        let lived = match self.phase {
            Phase::Up | Phase::Draining => true,
            // It was taken for dead in error.
            Phase::Down => self.last.is_some() && late <= config.silence(self.period),
            Phase::Unknown | Phase::Mute | Phase::Starting { .. } | Phase::Held { .. } => false,
        };
        if lived {
            // Who has answered the first question had lost a datagram, and no time.
            let usual = now <= self.late_at(config) + self.between_questions(config);
            self.lateness.note(now, if usual { Duration::ZERO } else { late });
        }
    }

    /// When its next heartbeat is late: it and we have needed longer than usual.
    pub(super) fn late_at(&self, config: &Config) -> Instant {
        self.heard + self.period + config.margin(self.period) / 5
    }

    /// When it is taken for dead if nothing answers; there is time for an answer, also when we came late to ask.
    pub(super) fn dead_at(&self, doubt: Instant, config: &Config) -> Instant {
        let margin = config.margin(self.period).mul_f32(0.7);
        (self.heard + self.patience(config)).max(doubt + margin)
    }

    /// The time between two questions.
    pub(super) fn between_questions(&self, config: &Config) -> Duration {
        config.margin(self.period) / 4
    }

    /// How soon it is to have another heartbeat of ours, if that is sooner than usual.
    pub(super) fn again_within(&self, config: &Config) -> Option<Duration> {
        match self.phase {
            _ if !self.is_asked() => None,
            Phase::Down => None,
            Phase::Unknown => Some(config.margin(self.period)),
            _ => Some(self.between_questions(config)),
        }
    }

    /// Whether it is being asked for an answer: because its own heartbeat is late; because it was never heard, and a lost
    /// datagram is not to make a stranger of it; or because it is down, and is to be known at once when the network is whole.
    pub(super) fn is_asked(&self) -> bool {
        self.wanted
            && match self.phase {
                Phase::Up | Phase::Draining => self.doubt.is_some(),
                Phase::Unknown | Phase::Down => true,
                Phase::Mute | Phase::Starting { .. } | Phase::Held { .. } => false,
            }
    }

    pub(super) fn is_spoken_to(&self, now: Instant) -> bool {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now < at + self.period * COURTESY);
        self.wanted || recent(self.last) || recent(self.greeted)
    }

    /// What it is, after it was silent for too long and the wire has been asked since then.
    pub(super) fn verdict(&self, since: Instant, until: Instant) -> Phase {
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
    pub(super) fn has_lost_its_node(&self, now: Instant, silence: Duration) -> bool {
        self.node_at.is_some_and(|at| at.max(self.heard) + silence <= now)
    }

    /// When its phase may change by time alone.
    pub(super) fn judged_at(&self, config: &Config) -> Option<Instant> {
        let silence = self.patience(config);
        match self.phase {
            Phase::Unknown => Some(self.heard + silence),
            Phase::Up | Phase::Draining => Some(match self.doubt {
                None => self.late_at(config),
                Some(doubt) => self.dead_at(doubt, config),
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
