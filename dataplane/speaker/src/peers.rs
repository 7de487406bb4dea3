//! Which speakers live: feeds what the API says of Pods and Nodes into the membership machine.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_proto::membership::{Config, Membership};

use crate::index::Index;

/// The membership, and who has been told to it.
#[derive(Debug)]
pub struct Peers {
    members: Membership,
    /// Nodes that had a speaker when we last looked.
    with_speaker: BTreeSet<String>,
}

impl Peers {
    /// Nobody but ourselves. `grace` is how long a node stays a candidate while its speaker is away.
    #[must_use]
    pub fn new(me: &str, grace: Duration) -> Self {
        Self {
            members: Membership::new(me, Config { grace }),
            with_speaker: BTreeSet::new(),
        }
    }

    /// The view that elections use.
    #[must_use]
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// Everything has been listed: tells of all nodes, and holds those that own addresses while their speaker is away.
    /// So a speaker that starts in the middle of a restart of all speakers takes nothing from the others.
    pub fn start(&mut self, now: Instant, index: &Index) {
        for node in index.nodes.keys() {
            self.look(now, index, node);
        }
        for record in index.statuses.values() {
            // A node that is gone cannot come back within the grace.
            if index.nodes.get(&record.node).is_some_and(|node| node.ready) {
                self.members.hold(now, &record.node);
            }
        }
    }

    /// Something about the node or its speaker changed.
    pub fn look(&mut self, now: Instant, index: &Index, name: &str) {
        let Some(node) = index.nodes.get(name) else {
            self.with_speaker.remove(name);
            self.members.node_gone(now, name);
            return;
        };
        match index.speaker_ready(name) {
            Some(true) => self.members.speaker_ready(now, name),
            Some(false) => self.members.speaker_unready(now, name, node.ready),
            // Gone with its node not ready is no restart.
            None if !node.ready => self.members.speaker_unready(now, name, false),
            None if self.with_speaker.contains(name) => self.members.speaker_gone(now, name),
            None => {}
        }
        if index.speaker_ready(name).is_some() {
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

    /// Whether candidates changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        self.members.take_changed()
    }

    /// Whether the others count with us again since the last call, so that all we own is to be announced again.
    pub fn take_rejoined(&mut self) -> bool {
        self.members.take_rejoined()
    }
}
