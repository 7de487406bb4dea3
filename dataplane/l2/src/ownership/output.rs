//! The actions that a coordinator asks its driver to perform.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::MacAddr;
use crate::wire::heartbeat::Datagram;

/// An action for the driver.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Send a datagram to the speaker of a node.
    Send {
        /// The node.
        to: Arc<str>,
        /// The datagram.
        datagram: Datagram,
    },
    /// Start announcing the address: reply for it and send gratuitous packets.
    Announce {
        /// The address.
        address: IpAddr,
        /// Why this node owns it now.
        reason: AcquireReason,
    },
    /// Stop announcing the address.
    Withdraw {
        /// The address.
        address: IpAddr,
        /// Why this node does not own it any longer.
        reason: ReleaseReason,
    },
    /// Send gratuitous packets for the address again, because another host replied for it.
    Reannounce {
        /// The address.
        address: IpAddr,
    },
    /// Send a duplicate address probe for the address, which this node is about to claim for the first time.
    ProbeAddress {
        /// The address of a Service.
        address: IpAddr,
    },
    /// Send an ordinary request for the address, from this node's own address. If this node has no address
    /// on the interfaces of the address, call
    /// [`handle_unsent_query`](crate::ownership::Coordinator::handle_unsent_query).
    QueryAddress {
        /// The address of a Service.
        address: IpAddr,
        /// Which hosts.
        to: QueryTarget,
    },
    /// Send an ordinary request for one of the node's own addresses to the node, from this node's own address.
    QueryNode {
        /// The node.
        node: Arc<str>,
    },
    /// Conflicting hosts reply for an address that this node owns or would claim. Repeated when more of them are seen, at
    /// most every ten seconds and a few times.
    ConflictDetected {
        /// The address.
        address: IpAddr,
        /// The first few hosts, in the order in which they were seen; never empty.
        hosts: Box<[ConflictingHost]>,
    },
    /// The conflicting hosts have not been seen for a while, or this node has no part in the address any longer.
    ConflictResolved {
        /// The address.
        address: IpAddr,
    },
    /// Another speaker has verified our announcement of the address.
    Verified {
        /// The address.
        address: IpAddr,
        /// The node of the other speaker.
        by: Arc<str>,
        /// Whether it got a reply from us.
        answered: bool,
    },
    /// Send proxy replies for the address: reply for its restarting owner, with the owner's hardware address.
    StartProxy {
        /// The address.
        address: IpAddr,
        /// The owner.
        node: Arc<str>,
    },
    /// Stop sending proxy replies: the owner is back, or the address has another owner.
    StopProxy {
        /// The address.
        address: IpAddr,
    },
}

/// The hosts that get a query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum QueryTarget {
    /// The node with this name, at the hardware addresses that its heartbeats tell.
    Node(Arc<str>),
    /// The host with this hardware address.
    Host(MacAddr),
    /// All hosts on the network.
    Everyone,
}

/// A host that replies for an address that it should not have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConflictingHost {
    /// Its hardware address.
    pub mac: MacAddr,
    /// The node that it is, whose kernel has the address although its speaker does not announce it; `None` for a host
    /// outside the cluster.
    pub node: Option<Arc<str>>,
}

/// Why this node owns an address now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AcquireReason {
    /// The address had no owner.
    Initial,
    /// This node owned it before its speaker restarted.
    Restored,
    /// The previous owner failed.
    Failover {
        /// The previous owner.
        from: Arc<str>,
        /// When a heartbeat of the previous owner was received last.
        last_heard: Instant,
    },
    /// The present owner hands it over.
    HandOver {
        /// The present owner.
        from: Arc<str>,
    },
}

impl AcquireReason {
    /// The value of a metric label.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Restored => "restored",
            Self::Failover { .. } => "failover",
            Self::HandOver { .. } => "hand_over",
        }
    }
}

/// Why this node does not own an address any longer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReleaseReason {
    /// Another node owns it.
    Moved {
        /// The new owner.
        to: Arc<str>,
    },
    /// This node is no candidate, and no other candidate took it in time.
    NotCandidate,
    /// No node is a candidate.
    NoCandidates,
    /// This node has no interface for it.
    NoInterface,
    /// This node hears no majority of the candidates.
    NoQuorum,
    /// A conflicting host replies for it.
    Conflict,
}
