//! What a peer has told, what it has been told, and what the API says of it.

use std::sync::Arc;
use std::time::Instant;

use super::{GATHER, RESEND};
use crate::MacAddr;
use crate::ownership::announced_set::{AnnouncedSet, Reassembly};

/// What the API says of a node's speaker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Api {
    /// It is ready.
    Up,
    /// It is being restarted.
    Held,
    /// It is not there, or its node is not.
    Down,
}

/// What is known of a node from elsewhere than its heartbeats.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the API says of its speaker.
    pub api: Api,
    /// Whether its address is on a segment that we can ask on.
    pub on_link: bool,
}

#[derive(Debug)]
pub(super) struct Told {
    pub(super) name: Arc<str>,
    pub(super) api: Api,
    pub(super) on_link: bool,
    /// What it claims, as far as it is known as a whole.
    pub(super) claims: AnnouncedSet,
    pub(super) assembly: Reassembly,
    /// The digest of its claims that it told last; 0 if it has told none, or is down since.
    pub(super) told: u64,
    /// The digest of our claims that it knows.
    pub(super) knows: u64,
    /// What it remembers of ours, from before our start; whether that has come as a whole.
    pub(super) memory: Reassembly,
    pub(super) remembered: bool,
    /// When it was told last what we remember of it.
    pub(super) reminded: Option<Instant>,
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

impl Told {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            api: Api::Down,
            on_link: false,
            claims: AnnouncedSet::default(),
            assembly: Reassembly::default(),
            told: 0,
            knows: 0,
            memory: Reassembly::default(),
            remembered: false,
            reminded: None,
            sent: None,
            macs: Vec::new(),
            up_since: None,
            away_since: None,
            was_down: false,
        }
    }

    /// Whether what it claims is known as it told it last.
    pub(super) fn is_understood(&self) -> bool {
        self.told == 0 || self.told == self.claims.digest()
    }

    /// When our claims with this digest are to be sent to it; none when it has them, or was never heard and so cannot
    /// believe us.
    pub(super) fn claims_due(&self, now: Instant, digest: u64) -> Option<Instant> {
        if self.knows == digest || self.knows == 0 {
            return None;
        }
        Some(match self.sent {
            None => now,
            Some((sent, at)) if sent == digest => at + RESEND,
            Some((_, at)) => at + GATHER,
        })
    }
}
