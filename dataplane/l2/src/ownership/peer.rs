//! The state of one peer: the addresses that it announces, the state of the synchronization with it, and the API
//! server's view.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{SET_COALESCE_INTERVAL, SET_RESEND_INTERVAL};
use crate::MacAddr;
use crate::ownership::announced_set::{AnnouncedSet, Reassembly};
use crate::ownership::api_membership::ApiState;
use crate::ownership::failure_detector::PeerHealth;

/// A node with a speaker, as the API server shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeInfo<'a> {
    /// The name of the node.
    pub name: &'a str,
    /// The state of its speaker.
    pub api: ApiState,
    /// Whether the node can be queried: one of its addresses is in a network of ours. If not, only its heartbeats and
    /// replies for the addresses that it announces show whether it lives.
    pub on_link: bool,
}

/// How a peer looks from here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerSummary<'a> {
    /// The name of its node.
    pub node: &'a str,
    /// Its health.
    pub health: PeerHealth,
    /// Whether any heartbeat of it has been received.
    pub heard: bool,
    /// Whether its heartbeats are expected.
    pub monitored: bool,
}

/// The rate of our heartbeats.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HeartbeatLoad {
    /// The number of peers that get heartbeats.
    pub peers: usize,
    /// The time between two heartbeats to one peer.
    pub period: Duration,
}

/// An announced set that was sent to a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentSet {
    pub(super) digest: u64,
    /// The digest that the peer had confirmed before.
    pub(super) known: u64,
    pub(super) at: Instant,
    /// How often it was sent without a confirmation.
    pub(super) times: u16,
}

impl SentSet {
    /// Whether the same set was sent, and the peer has confirmed nothing since.
    pub(super) fn is(&self, digest: u64, known: u64) -> bool {
        (self.digest, self.known) == (digest, known)
    }
}

#[derive(Debug)]
pub(super) struct PeerState {
    pub(super) name: Arc<str>,
    pub(super) api: ApiState,
    pub(super) on_link: bool,
    /// Its last complete announced set.
    pub(super) announced: AnnouncedSet,
    pub(super) assembly: Reassembly,
    /// The digest in its last heartbeat; 0 before the first, and while it is down.
    pub(super) announced_digest: u64,
    /// The digest of our announced set that it has confirmed; 0 before its first heartbeat.
    pub(super) knows: u64,
    /// The addresses that we owned before our start, as it remembers them; and whether all fragments have arrived.
    pub(super) memory: Reassembly,
    pub(super) remembered: bool,
    /// When we last sent it the addresses that it owned before its start.
    pub(super) owned_before_sent_at: Option<Instant>,
    /// The announced set that we sent it last.
    pub(super) sent: Option<SentSet>,
    /// As told by its last heartbeat; before the first one, as seen in replies for its addresses.
    pub(super) macs: Vec<MacAddr>,
    /// The newest resource version that it has received from the API server.
    pub(super) api_version: u64,
    /// Counts the queries of this peer.
    pub(super) queries: u8,
    /// Its last heartbeat said that it hears us.
    pub(super) hears_us: bool,
    /// When it was down last, and then seen or heard.
    pub(super) returned_at: Option<Instant>,
    pub(super) is_down: bool,
    /// Its last heartbeat said that it was cut off.
    pub(super) was_cut_off: bool,
    pub(super) up_since: Option<Instant>,
    /// Since when it is starting or restarting.
    pub(super) away_since: Option<Instant>,
    /// It was down since it was up last.
    pub(super) was_down: bool,
}

impl PeerState {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            api: ApiState::Absent,
            on_link: false,
            announced: AnnouncedSet::default(),
            assembly: Reassembly::default(),
            announced_digest: 0,
            knows: 0,
            memory: Reassembly::default(),
            remembered: false,
            owned_before_sent_at: None,
            sent: None,
            macs: Vec::new(),
            api_version: 0,
            queries: 0,
            hears_us: false,
            returned_at: None,
            is_down: false,
            was_cut_off: false,
            up_since: None,
            away_since: None,
            was_down: false,
        }
    }

    /// Whether we have the announced set of its last heartbeat.
    pub(super) fn is_synced(&self) -> bool {
        self.announced_digest == 0 || self.announced_digest == self.announced.digest()
    }

    /// When to send it our announced set with this digest; `None` if it has confirmed the digest, or has never been
    /// heard and so would reject the datagram.
    pub(super) fn set_due(&self, now: Instant, digest: u64) -> Option<Instant> {
        if self.knows == digest || self.knows == 0 {
            return None;
        }
        Some(match self.sent {
            None => now,
            Some(sent) if sent.is(digest, self.knows) => sent.at + SET_RESEND_INTERVAL,
            Some(sent) => sent.at + SET_COALESCE_INTERVAL,
        })
    }
}
