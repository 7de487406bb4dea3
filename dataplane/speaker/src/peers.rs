//! Which speakers live: feeds what the API says of Pods and Nodes into the membership machine, and into a second one
//! that mirrors what the other speakers see of us.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_proto::membership::{Config, Membership};

use crate::index::Index;

/// Whether the other speakers count with us. They see the same API, so we can know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Not yet since our start: another node owns what would be ours, until they see that we are ready. What the
    /// records say is ours we go on with: that is a restart, for which the others wait.
    Joining,
    /// They do.
    Good,
    /// No more: they take what is ours, as if we were dead. We let go, unless there is nobody to take it: when the nodes
    /// all seem to be dead, it is more likely that something is wrong with the API than with them.
    Lost,
}

/// The membership, and who has been told to it.
#[derive(Debug)]
pub struct Peers {
    me: String,
    members: Membership,
    /// What the others see of us.
    mirror: Membership,
    joined: bool,
    /// Nodes that had a speaker when we last looked.
    with_speaker: BTreeSet<String>,
}

impl Peers {
    /// Nobody but ourselves. `grace` is how long a node stays a candidate while its speaker is away.
    #[must_use]
    pub fn new(me: &str, grace: Duration) -> Self {
        Self {
            me: me.to_owned(),
            members: Membership::new(me, Config { grace }),
            // A machine holds its own node to be up, whatever the API says: this one is nobody's.
            mirror: Membership::new("", Config { grace }),
            joined: false,
            with_speaker: BTreeSet::new(),
        }
    }

    /// The view that elections use.
    #[must_use]
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// Whether the others count with us.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match (self.mirror.is_candidate(&self.me), self.joined) {
            (true, _) => Standing::Good,
            (false, true) => Standing::Lost,
            (false, false) => Standing::Joining,
        }
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
            if name == self.me {
                self.mirror.node_gone(now, name);
            }
            return;
        };
        let ready = index.speaker_ready(name);
        let was_there = self.with_speaker.contains(name);
        let me = name == self.me;
        let mirror = me.then_some(&mut self.mirror);
        for members in [&mut self.members].into_iter().chain(mirror) {
            match ready {
                Some(true) => members.speaker_ready(now, name),
                Some(false) => members.speaker_unready(now, name, node.ready),
                // Gone with its node not ready is no restart.
                None if !node.ready => members.speaker_unready(now, name, false),
                None if was_there => members.speaker_gone(now, name),
                None => {}
            }
        }
        self.joined |= me && ready == Some(true);
        if ready.is_some() {
            self.with_speaker.insert(name.to_owned());
        } else {
            self.with_speaker.remove(name);
        }
    }

    /// Ends the graces that are over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.members.handle_timeout(now);
        self.mirror.handle_timeout(now);
    }

    /// When the first grace ends.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.members.poll_timeout(), self.mirror.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether candidates, or our standing, changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        let mirrored = self.mirror.take_changed();
        self.members.take_changed() || mirrored
    }

    /// Whether the others count with us again since the last call, so that all we own is to be announced again.
    pub fn take_rejoined(&mut self) -> bool {
        self.members.take_rejoined()
    }
}
