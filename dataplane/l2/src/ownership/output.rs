//! What a coordinator asks its driver to do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::MacAddr;
use crate::wire::heartbeat::Datagram;

/// Something to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Send this to the speaker of a node.
    Send {
        /// The node.
        to: Arc<str>,
        /// What to send.
        datagram: Datagram,
    },
    /// Answer for the address from now on, and announce it.
    Announce {
        /// The address.
        address: IpAddr,
        /// How it came to us.
        cause: AcquireReason,
    },
    /// Answer for it no more.
    Withdraw {
        /// The address.
        address: IpAddr,
        /// Why.
        why: ReleaseReason,
    },
    /// Announce it again: somebody else answered for it meanwhile.
    Again {
        /// The address.
        address: IpAddr,
    },
    /// Ask the wire who answers for the address.
    AskAddress {
        /// The address.
        address: IpAddr,
    },
    /// Ask the wire for the node's own address.
    AskNode {
        /// The node.
        node: Arc<str>,
    },
    /// A stranger answers for an address that is ours, or that we would take.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The stranger.
        mac: MacAddr,
    },
    /// The stranger was not seen any more for a while, or the address is none of our business any more.
    ConflictOver {
        /// The address.
        address: IpAddr,
    },
    /// Another speaker has asked the wire about our address.
    Verified {
        /// The address.
        address: IpAddr,
        /// The node of the other speaker.
        by: Arc<str>,
        /// Whether we answered it.
        answered: bool,
    },
    /// Answer for the address in place of a node that restarts, with the hardware address of that node.
    StandIn {
        /// The address.
        address: IpAddr,
        /// The node that has it.
        node: Arc<str>,
    },
    /// Its owner is back, or the address has another: answer in its place no more.
    StandDown {
        /// The address.
        address: IpAddr,
    },
}

/// How an address came to us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AcquireReason {
    /// Nobody had it.
    First,
    /// It was ours before we restarted.
    Resumed,
    /// Who had it is down.
    TakeOver {
        /// The node that had it.
        from: Arc<str>,
        /// When that was heard last.
        heard: Instant,
    },
    /// Who has it gives it away.
    HandOver {
        /// The node that has it.
        from: Arc<str>,
    },
}

impl AcquireReason {
    /// A short constant name, for the label of a metric.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Resumed => "resumed",
            Self::TakeOver { .. } => "take_over",
            Self::HandOver { .. } => "hand_over",
        }
    }
}

/// Why an address is ours no more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReleaseReason {
    /// Another node has it.
    Moved {
        /// The node.
        to: Arc<str>,
    },
    /// We may not have it, and nobody took it in time.
    NotCandidate,
    /// Nobody may have it.
    NoCandidates,
    /// We have no interface for it.
    NoInterface,
    /// We see no majority of those who may have it.
    NoQuorum,
    /// A stranger answers for it.
    Conflict,
}
