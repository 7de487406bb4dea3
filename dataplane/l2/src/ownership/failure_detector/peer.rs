//! What is known of one peer, and what follows from it and the clock.

use std::time::{Duration, Instant};

use super::{FailureDetectorConfig, PeerHealth};

/// How long it is remembered, at least, how late a peer has come.
const LATENESS_WINDOW: Duration = Duration::from_secs(60);

/// Who spoke to us is spoken to for so many of its intervals, whether we need it or not.
const HEARTBEAT_TARGET_PERIODS: u32 = 10;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PeerPhase {
    Unknown,
    Up,
    Draining,
    /// Its heartbeats are lost, and it answers on the wire.
    HeartbeatLost,
    /// It starts. Nobody waits for it longer than until `patience` ends with what it has not had before.
    Starting {
        until: Instant,
        wait_until: Instant,
    },
    /// It announced a restart, or crashed while its node lives.
    Restarting {
        until: Instant,
    },
    Down,
}

impl PeerPhase {
    pub(super) const fn health(self) -> PeerHealth {
        match self {
            Self::Unknown => PeerHealth::Unknown,
            Self::Up | Self::HeartbeatLost => PeerHealth::Up,
            Self::Starting { until, .. } => PeerHealth::Starting { until },
            Self::Restarting { until } => PeerHealth::Restarting { until },
            Self::Draining => PeerHealth::Draining,
            Self::Down => PeerHealth::Down,
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
        if since + LATENESS_WINDOW <= now {
            let old = since + LATENESS_WINDOW * 2 <= now;
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
    pub(super) phase: PeerPhase,
    /// We need to know of it.
    pub(super) monitored: bool,
    /// When it was heard last, or became a peer; moved on by our own stalls.
    pub(super) silent_since: Instant,
    /// When it was heard last in truth.
    pub(super) last_heard: Option<Instant>,
    /// The time between its heartbeats, as it has told.
    pub(super) period: Duration,
    /// How much later its heartbeats have come.
    pub(super) lateness: Lateness,
    /// When a heartbeat to it is due.
    pub(super) send_at: Instant,
    /// When it was answered last though it could not be believed.
    pub(super) unverified_reply_at: Option<Instant>,
    /// When the wire is to be asked about it.
    pub(super) probe_at: Instant,
    /// Since when its heartbeat is late, and it and the wire have been asked.
    pub(super) late_since: Option<Instant>,
    /// When its speaker, and its node, answered on the wire last.
    pub(super) speaker_replied_at: Option<Instant>,
    pub(super) node_replied_at: Option<Instant>,
}

impl Peer {
    /// How long it may be silent: longer by as much as it has been late before and lived.
    pub(super) fn timeout(&self, config: &FailureDetectorConfig) -> Duration {
        config.timeout_after(self.period) + self.lateness.most().min(config.max_extension(self.period))
    }

    /// A heartbeat of it has come. If it lived all the time, so that nothing but time has kept it, it is noted by how much it
    /// was late.
    pub(super) fn note_lateness(&mut self, now: Instant, config: &FailureDetectorConfig) {
        let late = now.saturating_duration_since(self.silent_since + self.period);
        let lived = match self.phase {
            PeerPhase::Up | PeerPhase::Draining => true,
            // It was taken for dead in error.
            PeerPhase::Down => self.last_heard.is_some() && late <= config.timeout_after(self.period),
            PeerPhase::Unknown
            | PeerPhase::HeartbeatLost
            | PeerPhase::Starting { .. }
            | PeerPhase::Restarting { .. } => false,
        };
        if lived {
            // Who has answered the first question had lost a datagram, and no time.
            let usual = now <= self.late_at(config) + self.request_interval(config);
            self.lateness.note(now, if usual { Duration::ZERO } else { late });
        }
    }

    /// When its next heartbeat is late: it and we have needed longer than usual.
    pub(super) fn late_at(&self, config: &FailureDetectorConfig) -> Instant {
        self.silent_since + self.period + config.request_window(self.period) / 5
    }

    /// When it is taken for dead if nothing answers; there is time for an answer, also when we came late to ask.
    pub(super) fn dead_at(&self, late_since: Instant, config: &FailureDetectorConfig) -> Instant {
        let margin = config.request_window(self.period).mul_f32(0.7);
        (self.silent_since + self.timeout(config)).max(late_since + margin)
    }

    /// The time between two questions.
    pub(super) fn request_interval(&self, config: &FailureDetectorConfig) -> Duration {
        config.request_window(self.period) / 4
    }

    /// How soon it is to have another heartbeat of ours, if that is sooner than usual.
    pub(super) fn request_again_within(&self, config: &FailureDetectorConfig) -> Option<Duration> {
        match self.phase {
            _ if !self.is_requested() => None,
            PeerPhase::Down => None,
            PeerPhase::Unknown => Some(config.request_window(self.period)),
            _ => Some(self.request_interval(config)),
        }
    }

    /// Whether it is being asked for an answer: because its own heartbeat is late; because it was never heard, and a lost
    /// datagram is not to make a stranger of it; or because it is down, and is to be known at once when the network is whole.
    pub(super) fn is_requested(&self) -> bool {
        self.monitored
            && match self.phase {
                PeerPhase::Up | PeerPhase::Draining => self.late_since.is_some(),
                PeerPhase::Unknown | PeerPhase::Down => true,
                PeerPhase::HeartbeatLost | PeerPhase::Starting { .. } | PeerPhase::Restarting { .. } => false,
            }
    }

    pub(super) fn is_heartbeat_target(&self, now: Instant) -> bool {
        let recent =
            |at: Option<Instant>| at.is_some_and(|at| now < at + self.period * HEARTBEAT_TARGET_PERIODS);
        self.monitored || recent(self.last_heard) || recent(self.unverified_reply_at)
    }

    /// What it is, after it was silent for too long and the wire has been asked since then.
    pub(super) fn phase_after_timeout(&self, since: Instant, until: Instant) -> PeerPhase {
        let after = |at: Option<Instant>| at.is_some_and(|at| at >= since);
        if after(self.speaker_replied_at) {
            PeerPhase::HeartbeatLost
        } else if after(self.node_replied_at) {
            PeerPhase::Restarting { until }
        } else {
            PeerPhase::Down
        }
    }

    /// Whether its node has answered on the wire before, and neither it nor its speaker is there any more.
    pub(super) fn has_lost_node(&self, now: Instant, silence: Duration) -> bool {
        self.node_replied_at
            .is_some_and(|at| at.max(self.silent_since) + silence <= now)
    }

    /// When its phase may change by time alone.
    pub(super) fn evaluate_at(&self, config: &FailureDetectorConfig) -> Option<Instant> {
        let silence = self.timeout(config);
        match self.phase {
            PeerPhase::Unknown => Some(self.silent_since + silence),
            PeerPhase::Up | PeerPhase::Draining => Some(match self.late_since {
                None => self.late_at(config),
                Some(late_since) => self.dead_at(late_since, config),
            }),
            PeerPhase::HeartbeatLost => Some(self.speaker_replied_at? + silence),
            PeerPhase::Restarting { until } => {
                let lost = self.node_replied_at.map(|at| at.max(self.silent_since) + silence);
                Some(lost.map_or(until, |lost| lost.min(until)))
            }
            PeerPhase::Starting { until, wait_until } => {
                let lost = self.node_replied_at.map(|at| at.max(self.silent_since) + silence);
                Some(lost.map_or(until, |lost| lost.min(until)).min(wait_until))
            }
            PeerPhase::Down => None,
        }
    }
}
