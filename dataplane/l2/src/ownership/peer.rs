//! What a peer has told, what it has been told, and what the API says of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{SET_COALESCE_INTERVAL, SET_RESEND_INTERVAL};
use crate::MacAddr;
use crate::ownership::announced_set::{AnnouncedSet, Reassembly};
use crate::ownership::api_membership::ApiState;
use crate::ownership::failure_detector::PeerHealth;

/// What is known of a node from elsewhere than its heartbeats.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the API says of its speaker.
    pub api: ApiState,
    /// Whether its address is on a segment that we can ask on.
    pub on_link: bool,
}

/// How a peer looks from here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerSummary<'a> {
    /// The name of its node.
    pub node: &'a str,
    /// Its health.
    pub health: PeerHealth,
    /// Whether a heartbeat of it has ever been received.
    pub heard: bool,
}

/// The heartbeats that we send.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HeartbeatLoad {
    /// The number of peers that get them.
    pub peers: usize,
    /// The time between two heartbeats to one peer.
    pub period: Duration,
}

#[derive(Debug)]
pub(super) struct PeerState {
    pub(super) name: Arc<str>,
    pub(super) api: ApiState,
    pub(super) on_link: bool,
    /// What it claims, as far as it is known as a whole.
    pub(super) announced: AnnouncedSet,
    pub(super) assembly: Reassembly,
    /// The digest of its claims that it told last; 0 if it has told none, or is down since.
    pub(super) announced_digest: u64,
    /// The digest of our claims that it knows.
    pub(super) knows: u64,
    /// What it remembers of ours, from before our start; whether that has come as a whole.
    pub(super) memory: Reassembly,
    pub(super) remembered: bool,
    /// When it was told last what we remember of it.
    pub(super) owned_before_sent_at: Option<Instant>,
    /// The digest of the claims that it was sent last, and when.
    pub(super) sent: Option<(u64, Instant)>,
    pub(super) macs: Vec<MacAddr>,
    /// Since when it is up, as its heartbeats say.
    pub(super) up_since: Option<Instant>,
    /// Since when it restarts, as far as we know.
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
            up_since: None,
            away_since: None,
            was_down: false,
        }
    }

    /// Whether what it claims is known as it told it last.
    pub(super) fn is_synced(&self) -> bool {
        self.announced_digest == 0 || self.announced_digest == self.announced.digest()
    }

    /// When our claims with this digest are to be sent to it; none when it has them, or was never heard and so cannot
    /// believe us.
    pub(super) fn set_due(&self, now: Instant, digest: u64) -> Option<Instant> {
        if self.knows == digest || self.knows == 0 {
            return None;
        }
        Some(match self.sent {
            None => now,
            Some((sent, at)) if sent == digest => at + SET_RESEND_INTERVAL,
            Some((_, at)) => at + SET_COALESCE_INTERVAL,
        })
    }
}
