//! Synchronization between speakers: heartbeats, announced sets, and the addresses that a restarted peer owned.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::peer::SentSet;
use super::{Coordinator, CoordinatorPhase, Output, SET_RESEND_INTERVAL};
use crate::ownership::announced_set::{AnnouncedSet, is_owned};
use crate::ownership::failure_detector::NodeId;
use crate::wire::heartbeat::{
    Datagram, DatagramError, Entry, EntryState, Heartbeat, MAX_ENTRIES_LEN, MAX_MACS, Message, SpeakerState,
};

/// The longest grace period of a restarting peer whose node cannot be queried: it may have been shut down.
const MAX_UNQUERIED_GRACE: Duration = Duration::from_secs(10);
/// Fragments that fit into the receive buffer of a peer with the default settings of Linux.
const PARTS_PER_BUFFER: usize = 64;

impl Coordinator {
    /// Our incarnation, which datagrams to us must echo.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.replay_guard.incarnation()
    }

    /// Takes in an authentic datagram.
    ///
    /// # Errors
    /// The sender is unknown, or the datagram is a replay.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram) -> Result<(), DatagramError> {
        self.ctx.now = self.ctx.now.max(now);
        let id = *self
            .ctx
            .node_ids
            .get(datagram.node.as_str())
            .ok_or(DatagramError::UnknownSender)?;
        if let Err(refused) = self.replay_guard.admit(&datagram) {
            if refused == DatagramError::Echo {
                // The peer does not know our present incarnation yet; it learns it from our heartbeat.
                self.ctx.failure_detector.respond_unverified(self.ctx.now, id);
            }
            return Err(refused);
        }
        match datagram.message {
            Message::Heartbeat(heartbeat) => self.handle_heartbeat(id, heartbeat),
            Message::Announced(part) => {
                let peer = self.ctx.peers.get_mut(&id);
                if let Some(claims) = peer.and_then(|peer| peer.assembly.add(part)) {
                    self.handle_announced_set(id, claims);
                    // Confirm the set at once.
                    self.ctx.failure_detector.schedule_heartbeat_now(id);
                }
            }
            Message::Restore(part) => {
                if self.phase != CoordinatorPhase::Running
                    && let Some(peer) = self.ctx.peers.get_mut(&id)
                    && let Some(claims) = peer.memory.add(part)
                {
                    peer.remembered = true;
                    self.owned_before.extend(claims.announced());
                }
            }
            Message::Verification { answered, unanswered } => {
                self.handle_verification(id, &answered, &unanswered);
            }
            Message::Change(change) => {
                let peer = self.ctx.peers.get_mut(&id);
                if let Some(before) = peer.and_then(|peer| peer.announced.apply(&change)) {
                    self.announced_set_changed(id, before);
                }
                // Confirm the set at once, or get the whole set.
                self.ctx.failure_detector.schedule_heartbeat_now(id);
            }
        }
        Ok(())
    }

    pub(super) fn heartbeat_all_now(&mut self) {
        for id in self.ctx.peers.keys() {
            self.ctx.failure_detector.schedule_heartbeat_now(*id);
        }
    }

    fn state(&self) -> SpeakerState {
        let grace = self.ctx.config.failure_detector.grace;
        match self.phase {
            _ if self.ctx.restarting => SpeakerState::Restarting { grace },
            CoordinatorPhase::Listing | CoordinatorPhase::Starting { .. } => SpeakerState::Starting { grace },
            CoordinatorPhase::Running if self.ctx.draining => SpeakerState::Draining,
            CoordinatorPhase::Running => SpeakerState::Up,
        }
    }

    fn handle_heartbeat(&mut self, id: NodeId, heartbeat: Heartbeat) {
        let was_down = self.ctx.peers.get(&id).is_some_and(|peer| peer.was_down);
        if self.ctx.failure_detector.last_heard(id).is_none() {
            // Anybody may have shown the hardware addresses that were seen so far.
            self.ctx.peer_by_mac.retain(|_, node| *node != id);
            if let Some(peer) = self.ctx.peers.get_mut(&id) {
                peer.macs.clear();
            }
        }
        let mut state = heartbeat.state;
        if let SpeakerState::Restarting { grace } | SpeakerState::Starting { grace } = &mut state
            && !self.ctx.peers.get(&id).is_some_and(|peer| peer.on_link)
        {
            *grace = MAX_UNQUERIED_GRACE.min(*grace);
        }
        self.ctx
            .failure_detector
            .handle_heartbeat(self.ctx.now, id, state, heartbeat.interval);
        if heartbeat.reply_requested {
            self.ctx.failure_detector.schedule_heartbeat_now(id);
        }
        for changed in self.ctx.failure_detector.take_changed() {
            self.peer_changed(changed);
        }
        if self
            .ctx
            .peers
            .get(&id)
            .is_some_and(|peer| peer.macs != heartbeat.macs)
        {
            // A heartbeat lists only interfaces that are up. When a link of the peer returns, replies from it arrive
            // before the next heartbeat, so earlier hardware addresses are kept too, up to a limit.
            for mac in &heartbeat.macs {
                self.set_peer_mac(*mac, id);
            }
            if self.ctx.peer_by_mac.values().filter(|node| **node == id).count() > 2 * MAX_MACS {
                self.ctx
                    .peer_by_mac
                    .retain(|mac, node| *node != id || heartbeat.macs.contains(mac));
            }
        }
        self.note_api_version(id, heartbeat.api_version);
        let Some(peer) = self.ctx.peers.get_mut(&id) else {
            return;
        };
        let returns = was_down && !peer.was_down;
        peer.knows = heartbeat.known_digest;
        peer.macs = heartbeat.macs;
        let before = (peer.hears_us, peer.was_cut_off);
        (peer.hears_us, peer.was_cut_off) = (heartbeat.hears_receiver, heartbeat.was_cut_off);
        let ties_change = before != (peer.hears_us, peer.was_cut_off);
        // Request the new set now, and not with the next heartbeat.
        if std::mem::replace(&mut peer.announced_digest, heartbeat.announced_digest)
            != heartbeat.announced_digest
            && !peer.is_synced()
        {
            self.ctx.failure_detector.schedule_heartbeat_now(id);
        }
        if ties_change {
            let announced = self
                .addresses
                .keys()
                .filter(|address| self.ctx.announced.announces(**address));
            self.ctx.dirty.extend(announced);
        }
        if matches!(heartbeat.state, SpeakerState::Starting { .. }) {
            self.send_owned_before(id);
        }
        if returns && heartbeat.announced_digest != AnnouncedSet::default().digest() {
            self.reannounce_after_partition(id);
        }
    }

    /// Announces addresses again that a returned peer may also have announced: it may withdraw before we notice that it
    /// did, and clients may have learned its hardware address.
    fn reannounce_after_partition(&mut self, id: NodeId) {
        for (address, state) in &self.addresses {
            if state.is_candidate(id) && self.ctx.announced.announces(*address) {
                self.ctx
                    .outputs
                    .push_back(Output::Reannounce { address: *address });
            }
        }
    }

    /// Sends a starting peer the addresses that it owned, as far as we know.
    fn send_owned_before(&mut self, id: NodeId) {
        let now = self.ctx.now;
        let Some(peer) = self.ctx.peers.get_mut(&id) else {
            return;
        };
        if peer
            .owned_before_sent_at
            .is_some_and(|at| now < at + SET_RESEND_INTERVAL)
        {
            return;
        }
        peer.owned_before_sent_at = Some(now);
        let owned: AnnouncedSet = peer.announced.announced().map(Entry::announced).collect();
        for part in owned.parts() {
            self.send(id, Message::Restore(part));
        }
    }

    /// Takes in the result of a backup's probes of our addresses.
    fn handle_verification(&mut self, id: NodeId, answered: &[IpAddr], silent: &[IpAddr]) {
        let Some(by) = self.ctx.peers.get(&id).map(|peer| peer.name.clone()) else {
            return;
        };
        for (addresses, answered) in [(answered, true), (silent, false)] {
            for address in addresses {
                self.with_state(*address, |state, ctx| {
                    state.set_verified(*address, &by, answered, ctx);
                });
            }
        }
    }

    /// Notes that the owner of the address failed or withdrew.
    pub(super) fn owner_lost(&mut self, address: IpAddr, from: Arc<str>, heard: Option<Instant>) {
        self.with_state(address, |state, ctx| state.owner_lost(address, from, heard, ctx));
        self.ctx.dirty.insert(address);
    }

    /// Sends verification results to the owners.
    pub(super) fn send_verification_reports(&mut self) {
        for (id, seen) in std::mem::take(&mut self.ctx.verification_reports) {
            // As many as fit into a datagram, of either family.
            for seen in seen.chunks(MAX_ENTRIES_LEN / Entry::MAX_ENCODED_LEN) {
                let of = |wanted: bool| {
                    let of = seen.iter().filter(move |(_, answered)| *answered == wanted);
                    of.map(|(address, _)| *address).collect()
                };
                let (answered, unanswered) = (of(true), of(false));
                self.send(id, Message::Verification { answered, unanswered });
            }
        }
    }

    /// Replaces the announced set of a peer.
    fn handle_announced_set(&mut self, id: NodeId, claims: AnnouncedSet) {
        let Some(peer) = self.ctx.peers.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut peer.announced, claims);
        let after = &peer.announced;
        let lost = before.entries().filter(|entry| !after.contains(*entry));
        let new = after.entries().filter(|entry| !before.contains(*entry));
        let changed = lost
            .chain(new)
            .map(|entry| (entry.address, before.state(entry.address)))
            .collect();
        self.announced_set_changed(id, changed);
    }

    /// Reacts to changed entries in the announced set of a peer, with their previous states.
    fn announced_set_changed(&mut self, id: NodeId, changed: BTreeMap<IpAddr, Option<EntryState>>) {
        for (address, before) in changed {
            let Some(peer) = self.ctx.peers.get(&id) else {
                return;
            };
            let (name, claims) = (peer.name.clone(), peer.announced.announces(address));
            self.note_announcer(address, id, claims);
            let lets_go = before.is_some_and(is_owned) && !claims;
            // It announced an address of ours; clients may have learned its hardware address.
            if lets_go && self.ctx.announced.announces(address) {
                self.ctx.outputs.push_back(Output::Reannounce { address });
            }
            if lets_go {
                self.owner_lost(address, name, Some(self.ctx.now));
                if matches!(before, Some(EntryState::Offered { .. })) {
                    self.with_state(address, |state, ctx| state.handed_over(address, ctx));
                }
            }
            self.ctx.dirty.insert(address);
        }
    }

    pub(super) fn note_announcer(&mut self, address: IpAddr, id: NodeId, claims: bool) {
        let announcers = self.ctx.announcers.entry(address).or_default();
        announcers.retain(|other| *other != id);
        if claims {
            announcers.push(id);
            if let Some(state) = self.addresses.get_mut(&address) {
                state.not_passive(id);
            }
        } else if announcers.is_empty() {
            self.ctx.announcers.remove(&address);
        }
    }

    /// Sends due heartbeats, queries and announced sets.
    pub(super) fn send_due_messages(&mut self) {
        for id in self.ctx.failure_detector.take_due_heartbeats() {
            let heartbeat = self.our_heartbeat(id);
            self.send(id, Message::Heartbeat(heartbeat));
        }
        for id in self.ctx.failure_detector.take_due_queries() {
            self.query_peer(id);
        }
        // Until our former addresses are known, the peers keep our addresses as they remember them.
        if self.phase != CoordinatorPhase::Running {
            return;
        }
        let digest = self.ctx.announced.digest();
        let ids: Vec<_> = self.ctx.failure_detector.heartbeat_targets().collect();
        let mut parts = None;
        for id in ids {
            let now = self.ctx.now;
            let Some(peer) = self.ctx.peers.get_mut(&id) else {
                continue;
            };
            if peer.set_due(now, digest).is_none_or(|at| at > now) {
                continue;
            }
            let before = peer.sent.filter(|sent| sent.is(digest, peer.knows));
            let times = before.map_or(0, |sent| sent.times.wrapping_add(1));
            peer.sent = Some(SentSet {
                digest,
                known: peer.knows,
                at: now,
                times,
            });
            // A peer that has not confirmed the difference may be unable to read it.
            if times == 0
                && let Some(change) = self.ctx.announced.change_since(peer.knows)
            {
                self.send(id, Message::Change(change));
                continue;
            }
            // Beginning with another fragment each time: the last ones may not fit into the receive buffer of the peer.
            let mut parts = parts.get_or_insert_with(|| self.ctx.announced.parts()).clone();
            let first = usize::from(times).wrapping_mul(PARTS_PER_BUFFER) % parts.len().max(1);
            parts.rotate_left(first);
            for part in parts {
                self.send(id, Message::Announced(part));
            }
        }
    }

    pub(super) fn set_due(&self) -> Option<Instant> {
        if self.phase != CoordinatorPhase::Running {
            return None;
        }
        let digest = self.ctx.announced.digest();
        let spoken_to = self.ctx.failure_detector.heartbeat_targets();
        let due = spoken_to.filter_map(|id| self.ctx.peers.get(&id)?.set_due(self.ctx.now, digest));
        due.min()
    }

    fn our_heartbeat(&self, to: NodeId) -> Heartbeat {
        Heartbeat {
            state: self.state(),
            reply_requested: self.ctx.failure_detector.requests_reply(to),
            hears_receiver: self.ctx.failure_detector.health(to).is_heard(),
            was_cut_off: self.ctx.failure_detector.was_cut_off(),
            interval: self.ctx.failure_detector.period(),
            version: self.ctx.config.version.clone(),
            api_version: self.ctx.api_view.ours(),
            announced_digest: self.ctx.announced.digest(),
            known_digest: self.ctx.peers.get(&to).map_or(0, |peer| peer.announced.digest()),
            macs: self.ctx.macs.clone(),
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        let Some(name) = self.ctx.peers.get(&to).map(|peer| peer.name.clone()) else {
            return;
        };
        self.last_sequence += 1;
        let datagram = Datagram {
            node: self.ctx.config.node.clone(),
            incarnation: self.replay_guard.incarnation(),
            sequence: self.last_sequence,
            echo: self.replay_guard.echo(&name),
            message,
        };
        self.ctx.outputs.push_back(Output::Send { to: name, datagram });
    }
}
