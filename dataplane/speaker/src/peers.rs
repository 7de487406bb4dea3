//! Which nodes have speakers, and what the API says of them: what is known of a peer that was not heard yet.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_l2::ownership::ApiState;
use lb_l2::ownership::api_membership::ApiMembership;

use crate::k8s::index::Index;

/// The speakers as the API shows them.
#[derive(Debug)]
pub struct Peers {
    me: String,
    members: ApiMembership,
    /// Nodes that have a speaker, ready or not.
    with_speaker: BTreeSet<String>,
    /// Those whose heartbeats are heard, whatever the API says.
    heard: BTreeSet<String>,
}

impl Peers {
    /// Nobody but ourselves. `grace` is how long a node is waited for while its speaker is away.
    #[must_use]
    pub fn new(me: &str, grace: Duration) -> Self {
        Self {
            me: me.to_owned(),
            members: ApiMembership::new(me, grace),
            with_speaker: BTreeSet::new(),
            heard: BTreeSet::new(),
        }
    }

    /// Whether a node can be a candidate: the API shows a speaker there that lives or restarts, or it is heard.
    #[must_use]
    pub fn has_speaker(&self, node: &str) -> bool {
        node == self.me || self.members.is_candidate(node) || self.heard.contains(node)
    }

    /// What the API says of a node's speaker.
    #[must_use]
    pub fn api(&self, node: &str) -> ApiState {
        self.members.state(node)
    }

    /// These nodes are heard. Returns whether that makes a difference to who can be a candidate.
    pub fn set_heard(&mut self, heard: BTreeSet<String>) -> bool {
        let before = std::mem::replace(&mut self.heard, heard);
        let mut differ = before.symmetric_difference(&self.heard);
        differ.any(|node| !self.members.is_candidate(node))
    }

    /// Something about the node or its speaker changed.
    pub fn look(&mut self, now: Instant, index: &Index, name: &str) {
        let Some(node) = index.nodes.get(name) else {
            self.with_speaker.remove(name);
            self.members.node_gone(now, name);
            return;
        };
        let ready = index.speaker_ready(name);
        let was_there = self.with_speaker.contains(name);
        match ready {
            Some(true) => self.members.speaker_ready(now, name),
            Some(false) => self.members.speaker_unready(now, name, node.ready),
            // Gone with its node not ready is no restart.
            None if !node.ready => self.members.speaker_unready(now, name, false),
            None if was_there => self.members.speaker_gone(now, name),
            None => {}
        }
        if ready.is_some() {
            self.with_speaker.insert(name.to_owned());
        } else {
            self.with_speaker.remove(name);
        }
    }

    /// Ends the graces that are over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.members.handle_timeout(now);
    }

    /// When the first grace ends.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.members.poll_timeout()
    }

    /// Whether the API says otherwise of a node than at the last call.
    pub fn take_changed(&mut self) -> bool {
        self.members.take_changed()
    }
}
