//! The settings of the failure detector, and the times that follow from them.

use std::time::Duration;

/// The least failure timeout with which a stall of 200 ms, as in a live migration, is never taken for a failure: the
/// last heartbeat before the stall is up to 40 ms old, and one or two wake-ups pass until the next one arrives.
pub const DEFAULT_FAILURE_TIMEOUT: Duration = Duration::from_millis(245);
/// Heartbeats in a failure timeout.
const HEARTBEATS_PER_TIMEOUT: u32 = 6;

/// Settings of a [`FailureDetector`].
#[derive(Clone, Copy, Debug)]
pub struct FailureDetectorConfig {
    /// A peer counts as failed when nothing was received from it for this long. A heartbeat is due after a sixth of it;
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
    /// 245 ms, that is a heartbeat every 40 ms; 60 s; 60 s; 450 per second.
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
    /// The time between two heartbeats to a peer, if the rate limit allows it: whole milliseconds, as heartbeats state it.
    #[must_use]
    pub fn heartbeat_period(&self) -> Duration {
        let period = self.failure_timeout / HEARTBEATS_PER_TIMEOUT;
        Duration::from_millis(period.as_millis() as u64)
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
    pub(crate) const fn hold(&self) -> Duration {
        self.failure_timeout
    }

    /// The time between a due heartbeat and the timeout, in which heartbeats are requested.
    pub(super) fn request_window(&self, period: Duration) -> Duration {
        self.min_request_window().max(period / 4)
    }

    pub(crate) fn min_request_window(&self) -> Duration {
        self.failure_timeout - self.heartbeat_period()
    }
}
