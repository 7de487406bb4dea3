//! What speakers tell each other, and what follows from it: heartbeats, claims, and what a starting peer had before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::{Coordinator, Output, Phase, RESEND};
use crate::ownership::announced_set::AnnouncedSet;
use crate::ownership::failure_detector::NodeId;
use crate::wire::heartbeat::{Datagram, DatagramError, Entry, Heartbeat, MAX_MACS, Message, SpeakerState};

impl Coordinator {
    /// Takes in an authentic datagram.
    ///
    /// # Errors
    /// When it is not to be believed.
    pub fn receive(&mut self, now: Instant, datagram: Datagram) -> Result<(), DatagramError> {
        self.now = self.now.max(now);
        let id = *self
            .ids
            .get(datagram.node.as_str())
            .ok_or(DatagramError::UnknownSender)?;
        if let Err(refused) = self.guard.admit(&datagram) {
            if refused == DatagramError::Echo {
                // It does not know us yet, or not this incarnation: it gets to know us by our answer.
                self.failure_detector.greet(self.now, id);
            }
            return Err(refused);
        }
        match datagram.message {
            Message::Heartbeat(heartbeat) => self.heartbeat(id, heartbeat),
            Message::Announced(part) => {
                let told = self.peers.get_mut(&id);
                if let Some(claims) = told.and_then(|told| told.assembly.add(part)) {
                    self.claimed(id, claims);
                    // It is told at once that it has been heard.
                    self.failure_detector.hurry(id);
                }
            }
            Message::Restore(part) => {
                if self.phase != Phase::Running
                    && let Some(told) = self.peers.get_mut(&id)
                    && let Some(claims) = told.memory.add(part)
                {
                    told.remembered = true;
                    self.inherited.extend(claims.owned());
                }
            }
            Message::Verification { answered, unanswered } => self.seen_by(id, &answered, &unanswered),
        }
        Ok(())
    }

    pub(super) fn tell_all(&mut self) {
        for id in self.peers.keys() {
            self.failure_detector.hurry(*id);
        }
    }

    fn state(&self) -> SpeakerState {
        let grace = self.config.failure_detector.grace;
        match self.phase {
            _ if self.leaving => SpeakerState::Restarting { grace },
            Phase::Listing | Phase::Starting { .. } => SpeakerState::Starting { grace },
            Phase::Running if self.draining => SpeakerState::Draining,
            Phase::Running => SpeakerState::Up,
        }
    }

    fn heartbeat(&mut self, id: NodeId, heartbeat: Heartbeat) {
        let was_down = self.peers.get(&id).is_some_and(|told| told.was_down);
        self.failure_detector
            .heard(self.now, id, heartbeat.state, heartbeat.interval);
        if heartbeat.reply_requested {
            self.failure_detector.hurry(id);
        }
        for changed in self.failure_detector.take_changed() {
            self.changed(changed);
        }
        if self
            .peers
            .get(&id)
            .is_some_and(|told| told.macs != heartbeat.macs)
        {
            // An interface that is down is left out, and is the node's all the same: when its cable is back, its address is
            // seen before the next heartbeat tells it. So what it had before is remembered too, if it is not too much.
            for mac in &heartbeat.macs {
                self.recognise(*mac, id);
            }
            if self.faces.values().filter(|node| **node == id).count() > 2 * MAX_MACS {
                self.faces
                    .retain(|mac, node| *node != id || heartbeat.macs.contains(mac));
            }
        }
        let Some(told) = self.peers.get_mut(&id) else {
            return;
        };
        let returns = was_down && !told.was_down;
        told.knows = heartbeat.known_digest;
        told.macs = heartbeat.macs;
        // It is to send its claims at once and not with its next heartbeat but one.
        if std::mem::replace(&mut told.told, heartbeat.announced_digest) != heartbeat.announced_digest
            && !told.is_understood()
        {
            self.failure_detector.hurry(id);
        }
        if matches!(heartbeat.state, SpeakerState::Starting { .. }) {
            self.remind(id);
        }
        if returns && heartbeat.announced_digest != AnnouncedSet::default().digest() {
            self.contest(id);
        }
    }

    /// A peer that could not be heard has gone on answering, perhaps for what is ours too: it may hear of our claims and let
    /// go before we hear of its own, and whoever believed it is to learn the truth.
    fn contest(&mut self, id: NodeId) {
        for (address, seat) in &self.seats {
            if seat.order.contains(&id) && self.claims.has(*address) {
                self.outputs.push_back(Output::Again { address: *address });
            }
        }
    }

    /// A starting peer is told what it had, as we remember it.
    fn remind(&mut self, id: NodeId) {
        let now = self.now;
        let Some(told) = self.peers.get_mut(&id) else {
            return;
        };
        if told.reminded.is_some_and(|at| now < at + RESEND) {
            return;
        }
        told.reminded = Some(now);
        let owned: AnnouncedSet = told.claims.owned().map(Entry::announced).collect();
        for part in owned.parts() {
            self.send(id, Message::Restore(part));
        }
    }

    /// A peer has told anew what it claims.
    fn claimed(&mut self, id: NodeId, claims: AnnouncedSet) {
        let Some(told) = self.peers.get_mut(&id) else {
            return;
        };
        let name = told.name.clone();
        let before = std::mem::replace(&mut told.claims, claims);
        let after = &told.claims;
        let lost = before.entries().filter(|entry| !after.contains(*entry));
        let new = after.entries().filter(|entry| !before.contains(*entry));
        let touched: BTreeMap<_, _> = lost
            .chain(new)
            .map(|entry| (entry.address, after.has(entry.address)))
            .collect();
        for (address, claims) in touched {
            self.note_claim(address, id, claims);
            let lets_go = before.has(address) && !claims;
            // It answered for what is ours: whoever believed it is to learn the truth.
            if lets_go && self.claims.has(address) {
                self.outputs.push_back(Output::Again { address });
            }
            if lets_go {
                self.bereave(address, name.clone(), Some(self.now));
                if before.offered(address).is_some() {
                    self.passed_on(address);
                }
            }
            self.dirty.insert(address);
        }
    }

    pub(super) fn note_claim(&mut self, address: IpAddr, id: NodeId, claims: bool) {
        let claimants = self.claimants.entry(address).or_default();
        claimants.retain(|other| *other != id);
        if claims {
            claimants.push(id);
        } else if claimants.is_empty() {
            self.claimants.remove(&address);
        }
    }

    /// Sends what is due, and asks what is to be asked.
    pub(super) fn speak(&mut self) {
        for id in self.failure_detector.take_sends() {
            let heartbeat = self.our_heartbeat(id);
            self.send(id, Message::Heartbeat(heartbeat));
        }
        for id in self.failure_detector.take_asks() {
            self.ask_about(id);
        }
        // Until it is known what is ours, the peers are to go on with what they remember of us.
        if self.phase != Phase::Running {
            return;
        }
        let digest = self.claims.digest();
        let ids: Vec<_> = self.failure_detector.spoken_to().collect();
        let mut parts = None;
        for id in ids {
            let now = self.now;
            let Some(told) = self.peers.get_mut(&id) else {
                continue;
            };
            if told.claims_due(now, digest).is_none_or(|at| at > now) {
                continue;
            }
            told.sent = Some((digest, now));
            for part in parts.get_or_insert_with(|| self.claims.parts()).clone() {
                self.send(id, Message::Announced(part));
            }
        }
    }

    pub(super) fn claims_due(&self) -> Option<Instant> {
        if self.phase != Phase::Running {
            return None;
        }
        let digest = self.claims.digest();
        let spoken_to = self.failure_detector.spoken_to();
        let due = spoken_to.filter_map(|id| self.peers.get(&id)?.claims_due(self.now, digest));
        due.min()
    }

    fn our_heartbeat(&self, to: NodeId) -> Heartbeat {
        Heartbeat {
            state: self.state(),
            reply_requested: self.failure_detector.asks(to),
            interval: self.failure_detector.period(),
            version: self.config.version.clone(),
            announced_digest: self.claims.digest(),
            known_digest: self.peers.get(&to).map_or(0, |told| told.claims.digest()),
            macs: self.macs.clone(),
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        let Some(name) = self.peers.get(&to).map(|told| told.name.clone()) else {
            return;
        };
        self.number += 1;
        let datagram = Datagram {
            node: self.config.me.clone(),
            incarnation: self.guard.incarnation(),
            sequence: self.number,
            echo: self.guard.echo(&name),
            message,
        };
        self.outputs.push_back(Output::Send { to: name, datagram });
    }
}
