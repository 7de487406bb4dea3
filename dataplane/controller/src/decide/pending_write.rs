//! Addresses that a status may still come to show.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long the API server may work on a request whose sender has timed out: its own limit is a minute.
pub(super) const UNCERTAIN_WINDOW: Duration = Duration::from_secs(60);

/// The sent writes of a Service whose effect is not known yet.
#[derive(Debug)]
pub(super) struct PendingWrite {
    /// The addresses that the status may come to show.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The version that the writes were based on. A newer version shows their outcome.
    pub(super) version: String,
    /// Deadline after which a timed-out write can no longer take effect, if the last one timed out.
    pub(super) uncertain_until: Option<Instant>,
}
