//! The candidate that comes after the owner of an address: it looks after the owner, and answers in its place while that one
//! restarts.
//!
//! It tells the others in whose place it answers. They may not know that there is somebody to be waited for: who has just
//! started, or whose cable is back, has never heard of who is away in that moment, and would find an address without an owner.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{AddressState, Coordinator, LOCAL_NODE, Output};
use crate::ownership::election::short_hash;
use crate::ownership::failure_detector::{NodeId, PeerHealth};
use crate::wire::heartbeat::{Entry, EntryState, MAX_ENTRIES_LEN, Message};

/// How often a deputy asks the wire whether the owner answers, more or less by a quarter; and how long it waits.
const VERIFICATION_INTERVAL: Duration = Duration::from_secs(30);
const FIRST_VERIFICATION_DELAY: Duration = Duration::from_secs(2);
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);
/// Questions of deputies go together, at so many seconds' distance: each time that others are asked about, the kernel's
/// filter is made anew.
const BATCH_INTERVAL: Duration = Duration::from_secs(3);
/// Who is up for so long has heard what the others have.
const STATE_SYNC_TIME: Duration = Duration::from_secs(1);
/// How often it asks in a row before it says that it was not answered: a single frame gets lost for no reason.
const MAX_VERIFICATION_PROBES: u8 = 3;

/// The duty of the candidate that comes after the owner: to see whether the owner answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackupState {
    owner: NodeId,
    at: Instant,
    /// How often it has asked in this round.
    asked: u8,
}

impl Coordinator {
    /// Who restarts and is waited for, as a peer says that answers in its place. We may not know: who has just started, or was
    /// cut off, has never heard of it.
    pub(super) fn awaited_owner(
        &self,
        address: IpAddr,
        state: &AddressState,
        candidates: &[NodeId],
    ) -> Option<NodeId> {
        let peer = |id: &NodeId| {
            let peer = self
                .peers
                .get(id)
                .filter(|_| self.health(*id) == PeerHealth::Up)?;
            peer.announced.proxied_for(address)
        };
        let marks: Vec<_> = state.monitored.iter().filter_map(peer).collect();
        if marks.is_empty() {
            return None;
        }
        let is_meant = |id: &NodeId| {
            let peer = self.peers.get(id);
            peer.is_some_and(|peer| marks.contains(&short_hash(address, &peer.name)))
        };
        // Who lives speaks for itself.
        let silent = |id: &NodeId| !matches!(self.health(*id), PeerHealth::Up | PeerHealth::Draining);
        candidates.iter().copied().find(|id| is_meant(id) && silent(id))
    }

    /// What a peer is to us, if this one is waited for.
    pub(super) fn health_or_awaited(&self, awaited: Option<NodeId>, id: NodeId) -> PeerHealth {
        match self.health(id) {
            PeerHealth::Down | PeerHealth::Unknown if awaited == Some(id) => {
                PeerHealth::Restarting { until: self.now }
            }
            view => view,
        }
    }

    /// The candidate that is next looks after the owner: asks the wire whether it answers, and answers in its place while it
    /// restarts.
    pub(super) fn update_backup_role(
        &mut self,
        address: IpAddr,
        owner: Option<NodeId>,
        candidates: &[NodeId],
    ) {
        let backup = owner.filter(|owner| self.is_backup(address, *owner, candidates));
        let held = backup.filter(|owner| {
            matches!(
                self.health(*owner),
                PeerHealth::Starting { .. } | PeerHealth::Restarting { .. }
            )
        });
        let now = self.now;
        let Some(state) = self.addresses.get_mut(&address) else {
            return;
        };
        if state.proxy_for != held {
            if state.proxy_for.is_some() {
                self.stop_proxy(address);
            }
            if let Some(owner) = held {
                self.start_proxy(address, owner);
            }
        }
        let Some(state) = self.addresses.get_mut(&address) else {
            return;
        };
        let Some(owner) = backup.filter(|_| held.is_none()) else {
            state.backup = None;
            return;
        };
        let next = match state.backup {
            Some(duty) if duty.owner == owner && now < duty.at => {
                self.deadlines.insert((duty.at, address));
                return;
            }
            Some(duty) if duty.owner == owner => {
                let since = duty.at.checked_sub(REPLY_TIMEOUT).unwrap_or(duty.at);
                let answered = duty.asked > 0
                    && state
                        .last_reply_from
                        .is_some_and(|(id, at)| id == owner && at >= since);
                if !answered && duty.asked < MAX_VERIFICATION_PROBES {
                    self.outputs.push_back(Output::ProbeAddress { address });
                    BackupState {
                        owner,
                        at: now + REPLY_TIMEOUT,
                        asked: duty.asked + 1,
                    }
                } else {
                    self.verification_reports
                        .entry(owner)
                        .or_default()
                        .push((address, answered));
                    BackupState {
                        owner,
                        at: round_up_to_batch(self.epoch, now + jitter(VERIFICATION_INTERVAL, address)),
                        asked: 0,
                    }
                }
            }
            Some(_) | None => BackupState {
                owner,
                at: round_up_to_batch(self.epoch, now + jitter(FIRST_VERIFICATION_DELAY, address)),
                asked: 0,
            },
        };
        state.backup = Some(next);
        self.deadlines.insert((next.at, address));
    }

    /// Whether we look after this owner of an address.
    fn is_backup(&self, address: IpAddr, owner: NodeId, candidates: &[NodeId]) -> bool {
        let up = |id: &NodeId| (*id == LOCAL_NODE && !self.draining) || self.health(*id) == PeerHealth::Up;
        let stands_in = |id: &NodeId| {
            let claims = match self.peers.get(id) {
                Some(peer) => &peer.announced,
                None => &self.announced,
            };
            up(id) && claims.proxied_for(address).is_some()
        };
        let next = |id: &NodeId| up(id) && self.heard_before_restart(*id, owner);
        let mut others = candidates.iter().copied().filter(|id| *id != owner);
        // Who answers in its place goes on until it is back, whoever comes meanwhile.
        others.clone().find(stands_in).or_else(|| others.find(next)) == Some(LOCAL_NODE)
    }

    /// Whether a candidate must have heard what an owner has, that restarts now: not who was away itself, or never was heard,
    /// and cannot have.
    fn heard_before_restart(&self, id: NodeId, owner: NodeId) -> bool {
        let away = self.peers.get(&owner).and_then(|peer| peer.away_since);
        match (self.peers.get(&id), away) {
            (Some(peer), Some(away)) => peer.up_since.is_some_and(|up| up + STATE_SYNC_TIME <= away),
            (None, _) | (_, None) => true,
        }
    }

    fn start_proxy(&mut self, address: IpAddr, owner: NodeId) {
        let (Some(state), Some(peer)) = (self.addresses.get_mut(&address), self.peers.get(&owner)) else {
            return;
        };
        state.proxy_for = Some(owner);
        self.announced.insert(Entry {
            address,
            state: EntryState::Proxied {
                owner: short_hash(address, &peer.name),
            },
        });
        self.outputs.push_back(Output::StartProxy {
            address,
            node: peer.name.clone(),
        });
    }

    pub(super) fn stop_proxy(&mut self, address: IpAddr) {
        if let Some(state) = self.addresses.get_mut(&address) {
            state.proxy_for = None;
        }
        if self.announced.proxied_for(address).is_some() {
            self.announced.remove(address);
        }
        self.outputs.push_back(Output::StopProxy { address });
    }

    /// Tells owners what the wire said of them.
    pub(super) fn send_verification_reports(&mut self) {
        for (id, seen) in std::mem::take(&mut self.verification_reports) {
            // As many as fit into a datagram, whatever their family.
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
}

/// The end of the round that a time falls into.
fn round_up_to_batch(epoch: Instant, at: Instant) -> Instant {
    let rounds = at
        .saturating_duration_since(epoch)
        .as_millis()
        .div_ceil(BATCH_INTERVAL.as_millis());
    epoch + BATCH_INTERVAL * u32::try_from(rounds).unwrap_or(u32::MAX)
}

/// More or less by a quarter, differently for each address and the same for each run.
fn jitter(time: Duration, address: IpAddr) -> Duration {
    let low = match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    };
    let spread = low.wrapping_mul(0x9e37_79b9) >> 16;
    time * 3 / 4 + time / 2 * spread / 0x1_0000
}
