//! The nodes with speakers: their numbers, their health, and what a change of a peer affects.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure_detector::{NodeId, PeerHealth};
use super::peer::{NodeInfo, PeerState};
use super::{ApiState, Context, Coordinator, CoordinatorPhase, LOCAL_NODE};

/// Peer returns that are further apart than this do not increase the failback delay.
const FLAP_RESET_INTERVAL: Duration = Duration::from_secs(300);
const MAX_FLAP_COUNT: u32 = 6;
/// Number of hardware addresses above which those of deleted nodes are forgotten.
const MAX_KNOWN_MACS: usize = 20_000;
/// Peers that return within this time count as one flap: they have one cause, for example a switch.
const FLAP_COALESCE_INTERVAL: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Replaces the set of nodes that have a speaker. Peers that are missing are forgotten.
    pub fn set_nodes<'a>(&mut self, now: Instant, nodes: impl IntoIterator<Item = NodeInfo<'a>>) {
        self.ctx.now = self.ctx.now.max(now);
        let mut gone: BTreeSet<NodeId> = self.ctx.peers.keys().copied().collect();
        let mut changed = BTreeSet::new();
        for node in nodes {
            let id = self.intern_node(node.name);
            if id == LOCAL_NODE {
                continue;
            }
            gone.remove(&id);
            if let Some(peer) = self.ctx.peers.get_mut(&id) {
                if (peer.api, peer.on_link) != (node.api, node.on_link) {
                    changed.insert(id);
                }
                (peer.api, peer.on_link) = (node.api, node.on_link);
            }
        }
        changed.extend(&gone);
        let affected = self.addresses_of_peers(&changed);
        for id in gone {
            self.remove_peer(id);
        }
        let peers: Vec<_> = self.ctx.peers.values().map(|peer| peer.name.clone()).collect();
        self.replay_guard.set_peers(peers.iter().map(|name| &**name));
        if self.phase == CoordinatorPhase::Listing {
            // Every peer may remember addresses of ours.
            let everybody = self.ctx.peers.keys().copied().collect();
            self.ctx.failure_detector.set_monitored(self.ctx.now, &everybody);
        } else {
            self.ctx.dirty.extend(affected);
        }
    }

    fn intern_node(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.ctx.node_ids.get(name) {
            return *id;
        }
        self.last_id += 1;
        let (id, name) = (NodeId(self.last_id), Arc::<str>::from(name));
        self.ctx.node_ids.insert(name.clone(), id);
        self.ctx.peers.insert(id, PeerState::new(name));
        id
    }

    fn remove_peer(&mut self, id: NodeId) {
        self.peers_changed = true;
        self.peer_lost(id);
        self.ctx.failure_detector.forget(id);
        // Its hardware addresses stay known: its speaker may still answer.
        if self.ctx.peer_by_mac.len() > MAX_KNOWN_MACS {
            self.ctx
                .peer_by_mac
                .retain(|_, node| *node != id && self.ctx.peers.contains_key(node));
        }
        if let Some(peer) = self.ctx.peers.remove(&id) {
            self.ctx.node_ids.remove(&peer.name);
        }
    }

    pub(super) fn peer_changed(&mut self, id: NodeId) {
        self.peers_changed = true;
        let view = self.ctx.failure_detector.health(id);
        if let Some(peer) = self.ctx.peers.get_mut(&id) {
            let away = matches!(
                view,
                PeerHealth::Starting { .. }
                    | PeerHealth::Restarting { .. }
                    | PeerHealth::NodeOnly { keeps: true }
            );
            let is_down = view == PeerHealth::Down;
            if std::mem::replace(&mut peer.is_down, is_down) && !is_down {
                peer.returned_at = Some(self.ctx.now);
                self.ctx.failure_detector.schedule_heartbeat_now(id);
            }
            peer.up_since = (view == PeerHealth::Up).then(|| peer.up_since.unwrap_or(self.ctx.now));
            peer.away_since = away.then(|| peer.away_since.unwrap_or(self.ctx.now));
        }
        if matches!(view, PeerHealth::Down | PeerHealth::Starting { .. }) {
            for state in self.addresses.values_mut() {
                state.not_passive(id);
            }
        }
        match view {
            PeerHealth::Down | PeerHealth::NodeOnly { keeps: false } => self.peer_lost(id),
            PeerHealth::Up => {
                if let Some(peer) = self.ctx.peers.get_mut(&id)
                    && std::mem::take(&mut peer.was_down)
                {
                    let within = |time| self.ctx.last_flap.is_some_and(|last| self.ctx.now < last + time);
                    self.ctx.flap_count = match self.ctx.flap_count {
                        flaps if within(FLAP_COALESCE_INTERVAL) => flaps,
                        flaps if within(FLAP_RESET_INTERVAL) => (flaps + 1).min(MAX_FLAP_COUNT),
                        _ => 1,
                    };
                    self.ctx.last_flap = Some(self.ctx.now);
                }
            }
            PeerHealth::Unknown
            | PeerHealth::Assumed
            | PeerHealth::HeartbeatLost
            | PeerHealth::NodeOnly { keeps: true }
            | PeerHealth::Starting { .. }
            | PeerHealth::Restarting { .. }
            | PeerHealth::Draining => {}
        }
        let affected = self.addresses_of_peers(&BTreeSet::from([id]));
        self.ctx.dirty.extend(affected);
    }

    /// The addresses for which one of the peers is a candidate or monitored.
    fn addresses_of_peers(&self, peers: &BTreeSet<NodeId>) -> Vec<IpAddr> {
        if peers.is_empty() {
            return Vec::new();
        }
        let concerned = self.addresses.iter().filter(|(_, state)| state.depends_on(peers));
        concerned.map(|(address, _)| *address).collect()
    }

    /// Releases the addresses of a failed or removed peer.
    fn peer_lost(&mut self, id: NodeId) {
        let heard = self.ctx.failure_detector.last_heard(id);
        let Some(peer) = self.ctx.peers.get_mut(&id) else {
            return;
        };
        let claims = std::mem::take(&mut peer.announced);
        peer.announced_digest = 0;
        peer.was_down |= heard.is_some();
        let name = peer.name.clone();
        for state in self.addresses.values_mut() {
            state.forget_seen(id);
        }
        for address in claims.announced() {
            self.note_announcer(address, id, false);
            self.owner_lost(address, name.clone(), heard);
        }
    }
}

impl Context {
    /// The number of a candidate. A name without a speaker gets a number that is always down.
    pub(super) fn node_id(&self, name: &str) -> NodeId {
        self.node_ids.get(name).copied().unwrap_or(NodeId(u32::MAX))
    }

    /// The health of a peer according to its heartbeats. For a peer that was never heard: according to the API server,
    /// unless probes of its node fail.
    pub(super) fn health(&self, id: NodeId) -> PeerHealth {
        let view = self.failure_detector.health(id);
        if view != PeerHealth::Down || self.failure_detector.last_heard(id).is_some() {
            return view;
        }
        let Some(peer) = self.peers.get(&id) else {
            return PeerHealth::Down;
        };
        let lives = match self.failure_detector.node_replies(id) {
            Some(answers) => answers,
            None => !peer.on_link || !self.monitor_counts.contains_key(&id),
        };
        // Its announced set is unknown, so a restart makes no difference: it owns the addresses that it would elect. If
        // its node replies, the network shows which.
        match peer.api {
            ApiState::Ready | ApiState::Restarting { .. }
                if self.failure_detector.node_replies(id) == Some(true) =>
            {
                PeerHealth::HeartbeatLost
            }
            ApiState::Ready | ApiState::Restarting { .. } if lives => PeerHealth::Assumed,
            ApiState::Ready | ApiState::Restarting { .. } | ApiState::Absent => PeerHealth::Down,
        }
    }
}
