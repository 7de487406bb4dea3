//! The speakers of the other nodes, as the API server shows them and as their heartbeats are received.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_l2::ownership::ApiState;
use lb_l2::ownership::api_membership::ApiMembership;

use crate::k8s::index::Index;

/// The nodes with speakers.
#[derive(Debug)]
pub struct Peers {
    local_node: String,
    members: ApiMembership,
    /// Nodes that have a speaker, ready or not.
    with_speaker: BTreeSet<String>,
    /// `with_speaker` has changed.
    changed: bool,
    /// Nodes whose heartbeats are received.
    heard: BTreeSet<String>,
}

impl Peers {
    /// Only the local node. `grace` is how long a node remains a candidate while its speaker restarts.
    #[must_use]
    pub fn new(local_node: &str, grace: Duration) -> Self {
        Self {
            local_node: local_node.to_owned(),
            members: ApiMembership::new(local_node, grace),
            with_speaker: BTreeSet::new(),
            changed: false,
            heard: BTreeSet::new(),
        }
    }

    /// Whether the node has a speaker: ready or restarting according to the API, or with heartbeats.
    #[must_use]
    pub fn has_speaker(&self, node: &str) -> bool {
        node == self.local_node || self.members.is_candidate(node) || self.heard.contains(node)
    }

    /// Whether a speaker runs on the node when it is up: its Pod exists, or it has a speaker.
    #[must_use]
    pub fn runs_speaker(&self, node: &str) -> bool {
        self.with_speaker.contains(node) || self.has_speaker(node)
    }

    /// The state of a node's speaker according to the API.
    #[must_use]
    pub fn api(&self, node: &str) -> ApiState {
        self.members.state(node)
    }

    /// Sets the nodes whose heartbeats are received. Returns whether the candidates may differ.
    pub fn set_heard(&mut self, heard: BTreeSet<String>) -> bool {
        let before = std::mem::replace(&mut self.heard, heard);
        let mut differ = before.symmetric_difference(&self.heard);
        differ.any(|node| !self.members.is_candidate(node))
    }

    /// Updates the state of a node from the index.
    pub fn update(&mut self, now: Instant, index: &Index, name: &str) {
        let Some(node) = index.nodes.get(name) else {
            self.changed |= self.with_speaker.remove(name);
            self.members.node_gone(now, name);
            return;
        };
        let ready = index.speaker_ready(name);
        let was_there = self.with_speaker.contains(name);
        match ready {
            Some(true) => self.members.speaker_ready(now, name),
            Some(false) => self.members.speaker_unready(now, name, node.ready),
            // Not a restart, because the node failed too.
            None if !node.ready => self.members.speaker_unready(now, name, false),
            None if was_there => self.members.speaker_gone(now, name),
            None => {}
        }
        self.changed |= was_there != ready.is_some();
        if ready.is_some() {
            self.with_speaker.insert(name.to_owned());
        } else {
            self.with_speaker.remove(name);
        }
    }

    /// Ends grace periods that have expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.members.handle_timeout(now);
    }

    /// The end of the first grace period.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.members.poll_timeout()
    }

    /// Whether the API state of a node or its speaker changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        self.members.take_changed() | std::mem::take(&mut self.changed)
    }
}
