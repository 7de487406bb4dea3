//! Asking the wire before an address is claimed that nobody is known to have had, and watching for strangers afterwards
//! (RFC 5227).
//!
//! RFC 5227 takes four to seven seconds for three probes, with every host in mind that was ever switched on. Between
//! machines of one data centre an answer takes less than a millisecond, so three probes take less than a fifth of a second
//! here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Coordinator, Output, ReleaseReason, Seat};
use crate::MacAddr;
use crate::ownership::failure_detector::{Evidence, NodeId};
use crate::wire::heartbeat::MAX_MACS;

/// Probes before a first claim, and the time that each waits for an answer.
const PROBES: u8 = 3;
const PROBE: Duration = Duration::from_millis(60);
/// Most addresses that are probed at the same time: as many frames as the driver can send in the meantime.
const AT_ONCE: usize = 256;
/// How long an address is left alone that a stranger, or a peer that has not told it, was found to answer for.
pub(super) const STRANGER_PAUSE: Duration = Duration::from_secs(10);
pub(super) const PEER_PAUSE: Duration = Duration::from_secs(1);
/// How long a stranger is remembered that was seen no more.
const MEMORY_OF_STRANGERS: Duration = Duration::from_secs(150);
/// How long a host that may be a node is given to be heard as one: it is heard within two intervals of its heartbeats.
const SUSPICION: Duration = Duration::from_secs(1);
/// Least time between two defences of an address (`DEFEND_INTERVAL` of RFC 5227).
const DEFENCE: Duration = Duration::from_secs(10);

/// What is known of hosts that answer for an address and are no nodes.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// A stranger that answers for it, and when it was seen last.
    stranger: Option<(MacAddr, Instant)>,
    /// When it is looked whether the stranger is gone; passed, when nobody will look.
    look: Option<Instant>,
    /// A host that may be a stranger or a node that is not known yet.
    suspect: Option<Suspect>,
    /// When the address was defended last.
    defended: Option<Instant>,
}

impl Seat {
    /// The stranger that answers for the address, and when it was seen last.
    pub(super) fn stranger(&self) -> Option<(MacAddr, Instant)> {
        self.foreign.as_ref()?.stranger
    }

    fn suspect(&self) -> Option<Suspect> {
        self.foreign.as_ref()?.suspect
    }

    fn foreign(&mut self) -> &mut Foreign {
        self.foreign.get_or_insert_default()
    }
}

/// A host that seems a stranger, and may be a node that was not heard since we are here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    mac: MacAddr,
    since: Instant,
    /// Whether it was asked for again.
    asked: bool,
}

/// What to do when a stranger answers for an address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConflictPolicy {
    /// Tell it, and go on.
    #[default]
    Warn,
    /// Tell it, and announce the address again, at most once in ten seconds.
    Defend,
    /// Tell it, and leave the address to the stranger until that is gone.
    Yield,
}

/// What a probe has found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// It is not over.
    Unknown,
    /// Nobody answers.
    Nobody,
    /// A peer answers.
    Peer,
    /// Somebody who is no peer answers.
    Stranger(MacAddr),
}

#[derive(Debug)]
struct Probe {
    sent: u8,
    at: Instant,
    found: Found,
}

/// The probes under way.
#[derive(Debug, Default)]
pub(super) struct Probes {
    running: BTreeMap<IpAddr, Probe>,
    due: BTreeSet<(Instant, IpAddr)>,
    waiting: VecDeque<IpAddr>,
}

impl Probes {
    /// What is known of the address; begins to probe it if it is not being probed.
    pub(super) fn look(&mut self, now: Instant, address: IpAddr) -> Found {
        if let Some(probe) = self.running.get(&address) {
            return probe.found;
        }
        if self.due.len() >= AT_ONCE {
            if !self.waiting.contains(&address) {
                self.waiting.push_back(address);
            }
            return Found::Unknown;
        }
        self.running.insert(
            address,
            Probe {
                sent: 0,
                at: now,
                found: Found::Unknown,
            },
        );
        self.due.insert((now, address));
        Found::Unknown
    }

    pub(super) fn remove(&mut self, address: IpAddr) {
        if let Some(probe) = self.running.remove(&address) {
            self.due.remove(&(probe.at, address));
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn found(&mut self, address: IpAddr, found: Found) -> bool {
        let Some(probe) = self.running.get_mut(&address) else {
            return false;
        };
        if probe.found != Found::Unknown {
            return false;
        }
        probe.found = found;
        self.due.remove(&(probe.at, address));
        true
    }
}

impl Coordinator {
    /// The wire showed that somebody at `mac` answers for the address.
    pub fn sighted(&mut self, now: Instant, address: IpAddr, mac: MacAddr) {
        self.now = self.now.max(now);
        if self.macs.contains(&mac) {
            return;
        }
        let peer = self.faces.get(&mac).copied();
        let stood_in_for = || {
            let mut told = self.peers.values();
            told.any(|told| told.claims.stands_in(address).is_some())
        };
        if let Some(id) = peer
            && self.peers.get(&id).is_some_and(|told| told.claims.has(address))
            // Such an answer is not its own.
            && !stood_in_for()
        {
            self.failure_detector.answered(self.now, id, Evidence::Speaker);
        }
        self.answered_by(address, peer, mac);
    }

    /// The wire showed that the node lives, and its hardware address.
    pub fn node_sighted(&mut self, now: Instant, name: &str, mac: MacAddr) {
        self.now = self.now.max(now);
        if let Some(id) = self.ids.get(name).copied()
            && let Some(told) = self.peers.get_mut(&id)
        {
            // Of a peer that is never heard this is the only way to know it from a stranger.
            if self.failure_detector.last_heard(id).is_none() && !told.macs.contains(&mac) {
                // Anybody on the LAN can answer for it, from as many as they like: the last few count.
                if told.macs.len() >= MAX_MACS {
                    let oldest = told.macs.remove(0);
                    if self.faces.get(&oldest) == Some(&id) {
                        self.faces.remove(&oldest);
                    }
                }
                told.macs.push(mac);
                // What a peer has told itself is worth more than what the wire shows.
                if !self.faces.contains_key(&mac) {
                    self.recognise(mac, id);
                }
            }
            self.failure_detector.answered(self.now, id, Evidence::Node);
        }
    }

    /// Sends the probes that are due, and ends those that found nobody.
    pub(super) fn probe(&mut self) {
        while let Some((at, address)) = self.probes.due.first().copied()
            && at <= self.now
        {
            self.probes.due.remove(&(at, address));
            let Some(probe) = self.probes.running.get_mut(&address) else {
                continue;
            };
            if probe.sent == PROBES {
                probe.found = Found::Nobody;
                self.dirty.insert(address);
                continue;
            }
            probe.sent += 1;
            probe.at = self.now + PROBE;
            self.probes.due.insert((probe.at, address));
            self.outputs.push_back(Output::AskAddress { address });
        }
        while self.probes.due.len() < AT_ONCE
            && let Some(address) = self.probes.waiting.pop_front()
        {
            // It may have lost its candidates while it waited: nobody would take what its probe finds, until it is claimed on
            // the strength of that later.
            if self.seats.contains_key(&address) {
                self.dirty.insert(address);
                self.probes.look(self.now, address);
            }
        }
    }

    /// Somebody answers for the address: a peer, or a stranger.
    pub(super) fn answered_by(&mut self, address: IpAddr, peer: Option<NodeId>, mac: MacAddr) {
        if let Some(id) = peer
            && let Some(seat) = self.seats.get_mut(&address)
        {
            seat.answered_to_us = Some((id, self.now));
        }
        let found = match peer {
            Some(_) => Found::Peer,
            None => Found::Stranger(mac),
        };
        let probed = self.probes.found(address, found);
        if probed {
            self.dirty.insert(address);
        }
        let suspect = self.seats.get(&address).and_then(|seat| seat.suspect());
        let suspected = suspect.is_some_and(|suspect| suspect.mac == mac);
        if peer.is_none() && (probed || suspected || self.claims.has(address)) {
            self.conflict(address, mac);
        }
    }

    /// Whether a host that seems a stranger may yet turn out to be a node. A node whose cable is back answers for what it had
    /// before its first heartbeat is believed; and who has started meanwhile does not even take it for a candidate, because
    /// the API has not noticed its return either.
    fn may_be_a_node(&mut self, address: IpAddr, mac: MacAddr) -> bool {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(&address) else {
            return false;
        };
        if seat.stranger().is_some() {
            return false;
        }
        if let Some(suspect) = seat.suspect()
            && (suspect.mac == mac || now < suspect.since + SUSPICION)
        {
            return now < suspect.since + SUSPICION;
        }
        seat.foreign().suspect = Some(Suspect {
            mac,
            since: now,
            asked: false,
        });
        self.deadlines.insert((now + SUSPICION, address));
        true
    }

    /// Answers from this hardware address are the peer's; so none of them was a stranger's.
    pub(super) fn recognise(&mut self, mac: MacAddr, id: NodeId) {
        self.faces.insert(mac, id);
        for (address, seat) in &mut self.seats {
            let Some(foreign) = &mut seat.foreign else {
                continue;
            };
            foreign.suspect.take_if(|suspect| suspect.mac == mac);
            if foreign.stranger.is_some_and(|(stranger, _)| stranger == mac) {
                foreign.stranger = None;
                self.outputs.push_back(Output::ConflictOver { address: *address });
                self.dirty.insert(*address);
            }
        }
    }

    /// Asks for a suspect once more, when a node would have been heard. Who does not answer then is remembered for as long as
    /// strangers are: who only ever announces does it again.
    pub(super) fn question(&mut self, address: IpAddr) {
        let now = self.now;
        let Some(foreign) = self
            .seats
            .get_mut(&address)
            .and_then(|seat| seat.foreign.as_mut())
        else {
            return;
        };
        let Some(suspect) = &mut foreign.suspect else {
            return;
        };
        if foreign.stranger.is_some() || suspect.since + MEMORY_OF_STRANGERS <= now {
            foreign.suspect = None;
        } else if !suspect.asked && suspect.since + SUSPICION <= now {
            suspect.asked = true;
            self.deadlines
                .insert((suspect.since + MEMORY_OF_STRANGERS, address));
            self.outputs.push_back(Output::AskAddress { address });
        }
    }

    /// A stranger answers for an address that is ours, or that we would take. It is told when it was seen twice, a second apart.
    fn conflict(&mut self, address: IpAddr, mac: MacAddr) {
        let now = self.now;
        if self.may_be_a_node(address, mac) {
            return self.defend(address);
        }
        let Some(seat) = self.seats.get_mut(&address) else {
            return;
        };
        let foreign = seat.foreign();
        foreign.suspect = None;
        let known = foreign.stranger.replace((mac, now));
        if known.is_none_or(|(before, _)| before != mac) {
            self.outputs.push_back(Output::Conflict { address, mac });
        }
        self.forget_stranger(address);
        if !self.claims.has(address) {
            return;
        }
        let Some(seat) = self.seats.get_mut(&address) else {
            return;
        };
        match self.config.conflicts {
            ConflictPolicy::Warn => {}
            ConflictPolicy::Defend => self.defend(address),
            ConflictPolicy::Yield => {
                seat.not_before = Some(now + STRANGER_PAUSE);
                self.deadlines.insert((now + STRANGER_PAUSE, address));
                self.give_up(address, ReleaseReason::Conflict);
                self.dirty.insert(address);
            }
        }
    }

    /// Announces an address of ours again, if that is what is wanted.
    fn defend(&mut self, address: IpAddr) {
        let now = self.now;
        if self.config.conflicts == ConflictPolicy::Defend
            && self.claims.has(address)
            && let Some(foreign) = self.seats.get_mut(&address).map(|seat| seat.foreign())
            && foreign.defended.is_none_or(|at| at + DEFENCE <= now)
        {
            foreign.defended = Some(now);
            self.outputs.push_back(Output::Again { address });
        }
    }

    /// Forgets a stranger that was not seen for a while. One look is pending at a time, however often it is seen: it finds when
    /// it was seen last.
    pub(super) fn forget_stranger(&mut self, address: IpAddr) {
        let now = self.now;
        let Some(foreign) = self
            .seats
            .get_mut(&address)
            .and_then(|seat| seat.foreign.as_mut())
        else {
            return;
        };
        if let Some((_, seen)) = foreign.stranger {
            let over = seen + MEMORY_OF_STRANGERS;
            if over <= now {
                foreign.stranger = None;
                self.outputs.push_back(Output::ConflictOver { address });
            } else if foreign.look.is_none_or(|look| look <= now) {
                foreign.look = Some(over);
                self.deadlines.insert((over, address));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Api, Candidates, Config, Node, PartitionPolicy};
    use super::*;
    use crate::ownership::failure_detector;

    const STRANGER: MacAddr = MacAddr([2, 0xbb, 0, 0, 0, 1]);

    fn mk_config() -> Config {
        Config {
            me: "n1".to_owned(),
            version: String::new(),
            failure_detector: failure_detector::Config::default(),
            policy: PartitionPolicy::Availability,
            failback: false,
            conflicts: ConflictPolicy::Warn,
        }
    }

    /// A speaker that has an address, and knows nothing of another node, not even that it might have it.
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn mk_owner(address: IpAddr) -> (Coordinator, Instant) {
        let start = Instant::now();
        let mut speaker = Coordinator::new(start, 1, mk_config());
        let other = Node {
            name: "n2",
            api: Api::Down,
            on_link: true,
        };
        speaker.set_nodes(start, [other]);
        let candidates = Candidates {
            order: &["n1"],
            declined: false,
            preferred: None,
        };
        speaker.set_candidates(address, Some(candidates));
        speaker.start(start);
        let mut now = start;
        while !speaker.claims.has(address) {
            now = speaker.poll_timeout().unwrap().max(now);
            speaker.handle_timeout(now, 64);
            assert!(now < start + Duration::from_secs(60), "it claims it");
        }
        while speaker.poll_output().is_some() {}
        (speaker, now)
    }

    #[test]
    fn who_may_be_a_node_is_asked_for_again_before_it_is_called_a_stranger() {
        let address: IpAddr = [192, 0, 2, 1].into();
        // When the host is known as a node, if ever.
        for (known_after, asks, tells) in [(Some(0), 0, [0, 0]), (Some(3), 1, [1, 1]), (None, 1, [1, 0])] {
            let (mut speaker, seen) = mk_owner(address);
            speaker.sighted(seen, address, STRANGER);
            let known_at = known_after.map(|after| seen + Duration::from_secs(after));
            let (mut asked, mut told) = (0, [0, 0]);
            let mut now = seen;
            while now < seen + Duration::from_secs(5) {
                if known_at.is_some_and(|at| at <= now) {
                    speaker.node_sighted(now, "n2", STRANGER);
                }
                now += Duration::from_millis(50);
                speaker.handle_timeout(now, 64);
                while let Some(output) = speaker.poll_output() {
                    match output {
                        Output::AskAddress { .. } => {
                            asked += 1;
                            speaker.sighted(now, address, STRANGER);
                        }
                        Output::Conflict { mac, .. } => {
                            assert!(now >= seen + SUSPICION);
                            assert_eq!(mac, STRANGER);
                            told[0] += 1;
                        }
                        Output::ConflictOver { .. } => told[1] += 1,
                        _ => {}
                    }
                }
            }
            assert_eq!((asked, told), (asks, tells), "known after {known_after:?} s");
            assert!(speaker.seats[&address].suspect().is_none());
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn a_stranger_that_stays_is_looked_after_by_one_deadline_and_forgotten_when_it_is_gone() {
        let start = Instant::now();
        let address: IpAddr = [192, 0, 2, 1].into();
        let mut speaker = Coordinator::new(start, 1, mk_config());
        speaker.set_nodes(start, []);
        let candidates = Candidates {
            order: &["n1"],
            declined: false,
            preferred: None,
        };
        speaker.set_candidates(address, Some(candidates));
        speaker.start(start);
        let mut now = start;
        while !speaker.claims.has(address) {
            now = speaker.poll_timeout().unwrap().max(now);
            speaker.handle_timeout(now, 64);
            assert!(now < start + Duration::from_secs(60), "it claims it");
        }
        let mut strangers = Vec::new();
        let seen_until = now + 4 * MEMORY_OF_STRANGERS;
        while now < seen_until {
            now += Duration::from_secs(1);
            speaker.sighted(now, address, STRANGER);
            // Something else is to be done about the address, over and over.
            speaker.dirty.insert(address);
            speaker.handle_timeout(now, 64);
            strangers.extend(std::iter::from_fn(|| speaker.poll_output()));
            let pending = speaker.deadlines.iter().filter(|(_, other)| *other == address);
            assert!(pending.count() <= 1);
        }
        let told = |outputs: &[Output], over: bool| {
            let matching = outputs.iter().filter(|output| match output {
                Output::Conflict { .. } => !over,
                Output::ConflictOver { .. } => over,
                _ => false,
            });
            matching.count()
        };
        assert_eq!((told(&strangers, false), told(&strangers, true)), (1, 0));
        let mut after = Vec::new();
        while let Some(due) = speaker.poll_timeout() {
            now = due.max(now);
            speaker.handle_timeout(now, 64);
            after.extend(std::iter::from_fn(|| speaker.poll_output()));
            if told(&after, true) > 0 {
                break;
            }
        }
        assert_eq!(told(&after, true), 1);
        assert_eq!(now, seen_until + MEMORY_OF_STRANGERS);
    }
}
