//! The health of a peer.

use std::time::Instant;

/// The health of a peer, as this node sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerHealth {
    /// Not heard yet, and its timeout has not ended.
    Unknown,
    /// Alive.
    Up,
    /// Not heard, but the API server reports it as ready; nothing on the network contradicts.
    Assumed,
    /// Its heartbeats are not received, but its speaker replies on the network, or its node does and the API server
    /// reports it as ready.
    HeartbeatLost,
    /// Its heartbeats are not received, and only its node replies: its speaker crashed, or owns nothing.
    NodeOnly {
        /// Whether it keeps its addresses: until the end of the grace period.
        keeps: bool,
    },
    /// Restarting; it keeps its addresses for the grace period.
    Restarting {
        /// The end of the grace period.
        until: Instant,
    },
    /// Starting; it keeps its former addresses for the grace period and will be up soon.
    Starting {
        /// The end of the grace period.
        until: Instant,
    },
    /// Alive, and handing over its addresses.
    Draining,
    /// Failed.
    Down,
}

impl PeerHealth {
    /// Whether it is what the peer itself reports in heartbeats.
    #[must_use]
    pub const fn is_heard(self) -> bool {
        match self {
            Self::Up | Self::Restarting { .. } | Self::Starting { .. } | Self::Draining => true,
            Self::Unknown | Self::Assumed | Self::HeartbeatLost | Self::NodeOnly { .. } | Self::Down => false,
        }
    }
}
