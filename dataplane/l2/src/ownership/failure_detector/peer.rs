//! The state of one peer in the failure detector.

use std::time::{Duration, Instant};

use super::inquiry::{Gaps, Inquiry};
use super::{
    Evidence, FailureDetectorConfig, MAX_LOST_QUERY_GAP, MAX_RESTART_QUERY_GAP, MAX_UNHEARD_QUERY_GAP,
    PeerHealth, SUSPICION_TIME,
};

/// Minimum time for which the lateness of a peer is remembered.
const LATENESS_WINDOW: Duration = Duration::from_secs(60);

/// A peer that was heard gets heartbeats for this many of its periods, even if it is not monitored.
const HEARTBEAT_TARGET_PERIODS: u32 = 30;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PeerPhase {
    Unknown,
    Up,
    Draining,
    /// Its heartbeats are lost, but it replies to queries.
    HeartbeatLost,
    /// Its heartbeats are lost, and only its node replies. It keeps its addresses until `until`, if that is set.
    NodeOnly {
        until: Option<Instant>,
    },
    /// Starting. Addresses without an owner wait for it until `wait_until`.
    Starting {
        until: Instant,
        wait_until: Instant,
    },
    /// It announced a restart.
    Restarting {
        until: Instant,
    },
    Down,
}

impl PeerPhase {
    pub(super) const fn health(self) -> PeerHealth {
        match self {
            Self::Unknown => PeerHealth::Unknown,
            Self::Up => PeerHealth::Up,
            Self::HeartbeatLost => PeerHealth::HeartbeatLost,
            Self::NodeOnly { until } => PeerHealth::NodeOnly {
                keeps: until.is_some(),
            },
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
    pub(super) inquiry: Inquiry,
    /// Since when its heartbeat is late, and is requested.
    pub(super) late_since: Option<Instant>,
    /// It is not taken for dead before this time, because most peers are silent.
    pub(super) held_until: Option<Instant>,
    /// It is about to time out.
    pub(super) suspected: bool,
    /// When its speaker and its node last replied to a query.
    pub(super) speaker_replied_at: Option<Instant>,
    pub(super) node_replied_at: Option<Instant>,
}

impl Peer {
    /// How long it may be silent, including the extension for earlier lateness.
    pub(super) fn timeout(&self, config: &FailureDetectorConfig) -> Duration {
        config.timeout_after(self.period) + self.extension(config)
    }

    fn extension(&self, config: &FailureDetectorConfig) -> Duration {
        self.lateness.most().min(config.max_extension(self.period))
    }

    /// Lateness that is not worth a request.
    fn tolerance(&self, config: &FailureDetectorConfig) -> Duration {
        config.request_window(self.period) / 5
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
            | PeerPhase::NodeOnly { .. }
            | PeerPhase::Starting { .. }
            | PeerPhase::Restarting { .. } => false,
        };
        if lived {
            let by = match self.late_since {
                None if late <= self.tolerance(config) => Duration::ZERO,
                // No more than is known: a lost datagram may be the reason.
                None => late.min(self.extension(config)),
                // A reply to the first request means a lost datagram and not a delay.
                Some(_) if now <= self.late_at(config) + self.request_interval(config) => Duration::ZERO,
                // Our own wait before the request is not the peer's delay.
                Some(_) => late.saturating_sub(self.extension(config)),
            };
            self.lateness.note(now, by);
        }
    }

    /// When its heartbeat counts as late: later if its heartbeats were late before.
    pub(super) fn late_at(&self, config: &FailureDetectorConfig) -> Instant {
        self.silent_since + self.period + self.tolerance(config) + self.extension(config)
    }

    /// When its next question is due.
    pub(super) fn query_due(&self) -> Option<Instant> {
        self.inquiry.due().filter(|_| self.monitored)
    }

    /// The times between questions. `for_all` keeps all peers in doubt together within their rate.
    pub(super) fn query_gaps(&self, config: &FailureDetectorConfig, for_all: Duration) -> Gaps {
        Gaps {
            first: match self.phase {
                PeerPhase::Up | PeerPhase::Draining => self.request_interval(config),
                _ => config.request_window(self.period),
            },
            longest: for_all.max(match self.phase {
                _ if self.last_heard.is_none() => MAX_UNHEARD_QUERY_GAP,
                PeerPhase::Starting { .. }
                | PeerPhase::Restarting { .. }
                | PeerPhase::NodeOnly { until: Some(_) } => MAX_RESTART_QUERY_GAP,
                _ => MAX_LOST_QUERY_GAP,
            }),
        }
    }

    /// Whether a reply settles the doubt for now. A speaker is in question until it replies itself.
    pub(super) fn is_answered_by(&self, evidence: Evidence) -> bool {
        match self.phase {
            PeerPhase::Up | PeerPhase::Draining | PeerPhase::HeartbeatLost => evidence == Evidence::Speaker,
            PeerPhase::Unknown
            | PeerPhase::NodeOnly { .. }
            | PeerPhase::Starting { .. }
            | PeerPhase::Restarting { .. }
            | PeerPhase::Down => true,
        }
    }

    /// When a peer without a heartbeat times out: not before it had time to answer a question. `None` until it is asked.
    fn dead_at(&self, config: &FailureDetectorConfig) -> Option<Instant> {
        let silent = self.silent_since + self.timeout(config);
        if !self.monitored {
            return Some(silent);
        }
        let margin = config.request_window(self.period).mul_f32(0.6);
        let dead_at = silent.max(self.inquiry.first_asked()? + margin);
        Some(self.held_until.map_or(dead_at, |held| dead_at.max(held)))
    }

    /// When its addresses are to be probed, so that the result is known when it times out.
    pub(super) fn suspect_at(&self, config: &FailureDetectorConfig) -> Option<Instant> {
        self.dead_at(config)?.checked_sub(SUSPICION_TIME)
    }

    /// Whether its speaker or its node replied to a query.
    pub(super) fn replied_since(&self, since: Instant) -> bool {
        let replied = self.speaker_replied_at.max(self.node_replied_at);
        replied.is_some_and(|at| at >= since)
    }

    /// Whether it has timed out.
    pub(super) fn is_queried_in_vain(&self, now: Instant, config: &FailureDetectorConfig) -> bool {
        self.dead_at(config).is_some_and(|at| at <= now)
    }

    /// The time between two requests for a late heartbeat.
    pub(super) fn request_interval(&self, config: &FailureDetectorConfig) -> Duration {
        config.request_window(self.period) / 5
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
                PeerPhase::HeartbeatLost
                | PeerPhase::NodeOnly { .. }
                | PeerPhase::Starting { .. }
                | PeerPhase::Restarting { .. } => false,
            }
    }

    pub(super) fn is_heartbeat_target(&self, now: Instant) -> bool {
        let recent =
            |at: Option<Instant>| at.is_some_and(|at| now < at + self.period * HEARTBEAT_TARGET_PERIODS);
        self.monitored || recent(self.last_heard) || recent(self.unverified_reply_at)
    }

    /// The phase of a peer that timed out, from the replies since then.
    pub(super) fn phase_after_timeout(&self, since: Instant, until: Option<Instant>) -> PeerPhase {
        let after = |at: Option<Instant>| at.is_some_and(|at| at >= since);
        if after(self.speaker_replied_at) {
            PeerPhase::HeartbeatLost
        } else if after(self.node_replied_at) {
            PeerPhase::NodeOnly { until }
        } else {
            PeerPhase::Down
        }
    }

    /// When it counts as down because its node used to reply, and now neither node nor speaker does.
    fn node_lost_at(&self, silence: Duration) -> Option<Instant> {
        self.node_replied_at?;
        Some(self.inquiry.unanswered_since()?.max(self.silent_since) + silence)
    }

    pub(super) fn has_lost_node(&self, now: Instant, silence: Duration) -> bool {
        self.node_lost_at(silence).is_some_and(|at| at <= now)
    }

    /// When time alone may change its phase.
    pub(super) fn evaluate_at(&self, config: &FailureDetectorConfig) -> Option<Instant> {
        let silence = self.timeout(config);
        let or_lost = |at: Instant| self.node_lost_at(silence).map_or(at, |lost| lost.min(at));
        match self.phase {
            PeerPhase::Unknown => self.dead_at(config),
            PeerPhase::Up | PeerPhase::Draining => match self.late_since {
                None => Some(self.late_at(config)),
                Some(since) if self.suspected || self.replied_since(since) => self.dead_at(config),
                Some(_) => self.suspect_at(config),
            },
            PeerPhase::NodeOnly { until } => self.node_lost_at(silence).into_iter().chain(until).min(),
            PeerPhase::HeartbeatLost => Some(self.inquiry.unanswered_since()? + silence),
            PeerPhase::Restarting { until } => Some(or_lost(until)),
            PeerPhase::Starting { until, wait_until } => Some(or_lost(until).min(wait_until)),
            PeerPhase::Down => None,
        }
    }
}
