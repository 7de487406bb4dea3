//! The state of one peer in the failure detector.

use std::time::{Duration, Instant};

use super::{FailureDetectorConfig, PeerHealth};

/// Minimum time for which the lateness of a peer is remembered.
const LATENESS_WINDOW: Duration = Duration::from_secs(60);

/// A peer that was heard gets heartbeats for this many of its periods, even if it is not monitored.
const HEARTBEAT_TARGET_PERIODS: u32 = 10;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PeerPhase {
    Unknown,
    Up,
    Draining,
    /// Its heartbeats are lost, but it replies to probes.
    HeartbeatLost,
    /// Starting. Addresses without an owner wait for it until `wait_until`.
    Starting {
        until: Instant,
        wait_until: Instant,
    },
    /// It announced a restart, or its speaker crashed while its node is alive.
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

/// The greatest lateness of a peer's heartbeats in the present and in the previous window.
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
    pub(super) monitored: bool,
    /// When it was heard last or added; moved forward by our own stalls.
    pub(super) silent_since: Instant,
    /// When it was heard last; not moved.
    pub(super) last_heard: Option<Instant>,
    /// The period that it announced.
    pub(super) period: Duration,
    pub(super) lateness: Lateness,
    /// When its next heartbeat is due.
    pub(super) send_at: Instant,
    /// When we last responded to a datagram that was not verified as fresh.
    pub(super) unverified_reply_at: Option<Instant>,
    /// When it is probed next.
    pub(super) probe_at: Instant,
    /// Since when its heartbeat is late, and it is requested and probed.
    pub(super) late_since: Option<Instant>,
    /// When its speaker and its node last replied to a probe.
    pub(super) speaker_replied_at: Option<Instant>,
    pub(super) node_replied_at: Option<Instant>,
}

impl Peer {
    /// How long it may be silent, including the extension for earlier lateness.
    pub(super) fn timeout(&self, config: &FailureDetectorConfig) -> Duration {
        config.timeout_after(self.period) + self.lateness.most().min(config.max_extension(self.period))
    }

    /// Notes the lateness of a received heartbeat, if only time delayed it.
    pub(super) fn note_lateness(&mut self, now: Instant, config: &FailureDetectorConfig) {
        let late = now.saturating_duration_since(self.silent_since + self.period);
        let lived = match self.phase {
            PeerPhase::Up | PeerPhase::Draining => true,
            // It was down by mistake.
            PeerPhase::Down => self.last_heard.is_some() && late <= config.timeout_after(self.period),
            PeerPhase::Unknown
            | PeerPhase::HeartbeatLost
            | PeerPhase::Starting { .. }
            | PeerPhase::Restarting { .. } => false,
        };
        if lived {
            // A reply to the first request means a lost datagram and not a delay.
            let usual = now <= self.late_at(config) + self.request_interval(config);
            self.lateness.note(now, if usual { Duration::ZERO } else { late });
        }
    }

    /// When its heartbeat counts as late, with some tolerance for both sides.
    pub(super) fn late_at(&self, config: &FailureDetectorConfig) -> Instant {
        self.silent_since + self.period + config.request_window(self.period) / 5
    }

    /// When it times out. Leaves time for a reply even if we noticed the lateness late.
    pub(super) fn dead_at(&self, late_since: Instant, config: &FailureDetectorConfig) -> Instant {
        let margin = config.request_window(self.period).mul_f32(0.7);
        (self.silent_since + self.timeout(config)).max(late_since + margin)
    }

    /// The time between two requests for a late heartbeat.
    pub(super) fn request_interval(&self, config: &FailureDetectorConfig) -> Duration {
        config.request_window(self.period) / 4
    }

    /// When to send the next heartbeat if it is requested, and that is sooner than usual.
    pub(super) fn request_again_within(&self, config: &FailureDetectorConfig) -> Option<Duration> {
        match self.phase {
            _ if !self.is_requested() => None,
            PeerPhase::Down => None,
            PeerPhase::Unknown => Some(config.request_window(self.period)),
            _ => Some(self.request_interval(config)),
        }
    }

    /// Whether a heartbeat is requested from it: because its own is late; because it was never heard, and one lost
    /// datagram should not delay the start; or because it is down, to notice at once when the network heals.
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

    /// The phase of a peer that timed out, from the probe replies since then.
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

    /// Whether its node used to reply to probes, and neither node nor speaker has been seen for the timeout.
    pub(super) fn has_lost_node(&self, now: Instant, silence: Duration) -> bool {
        self.node_replied_at
            .is_some_and(|at| at.max(self.silent_since) + silence <= now)
    }

    /// When time alone may change its phase.
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
