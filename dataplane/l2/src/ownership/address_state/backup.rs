//! The backup of an address: the next candidate after the owner. It verifies that the owner replies, and sends proxy
//! replies while the owner restarts.
//!
//! The backup announces to its peers for which owner it sends proxy replies. A peer that has just started, or whose
//! link was down, has never heard the restarting owner and would otherwise take the address for free.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{AddressState, Context, LOCAL_NODE};
use crate::ownership::election::short_hash;
use crate::ownership::failure_detector::{NodeId, PeerHealth};
use crate::ownership::output::{Output, QueryTarget};
use crate::wire::heartbeat::{Entry, EntryState};

/// Time between two verifications of an owner, plus or minus a quarter.
const VERIFICATION_INTERVAL: Duration = Duration::from_secs(30);
const FIRST_VERIFICATION_DELAY: Duration = Duration::from_secs(2);
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);
/// Verifications begin at multiples of this time, because each new set of queried addresses replaces the kernel's packet
/// filter.
const BATCH_INTERVAL: Duration = Duration::from_secs(3);
/// A peer that has been up for this long has received the announced sets of the others.
const STATE_SYNC_TIME: Duration = Duration::from_secs(1);
/// Queries without a reply before a verification fails, because single frames get lost.
const MAX_VERIFICATION_QUERIES: u8 = 3;

/// [`FIRST_VERIFICATION_DELAY`] with the greatest jitter.
const MAX_FIRST_DELAY: Duration = Duration::from_nanos(FIRST_VERIFICATION_DELAY.as_nanos() as u64 / 4 * 5);
/// The longest time between the start of a speaker and the result of the first verification of its addresses: the first delay with its jitter, the wait for the next batch, and all probes without a reply.
///
/// The operator's `upgrade/pod_selection.rs` waits longer than this before it replaces the next speaker.
pub const MAX_VERIFICATION_DELAY: Duration = MAX_FIRST_DELAY
    .saturating_add(BATCH_INTERVAL)
    .saturating_add(REPLY_TIMEOUT.saturating_mul(MAX_VERIFICATION_QUERIES as u32));

/// The verification of an owner by its backup.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackupState {
    owner: NodeId,
    at: Instant,
    /// Queries sent in the present verification.
    asked: u8,
}

impl AddressState {
    /// The restarting owner for which a peer sends proxy replies. We may not know of the restart ourselves, if we have
    /// just started or were cut off.
    pub(super) fn awaited_owner(
        &self,
        address: IpAddr,
        candidates: &[NodeId],
        ctx: &Context,
    ) -> Option<NodeId> {
        let peer = |id: &NodeId| {
            let peer = ctx.peers.get(id).filter(|_| ctx.health(*id) == PeerHealth::Up)?;
            peer.announced.proxied_for(address)
        };
        let marks: Vec<_> = self.monitored.iter().filter_map(peer).collect();
        if marks.is_empty() {
            return None;
        }
        let is_meant = |id: &NodeId| {
            let peer = ctx.peers.get(id);
            peer.is_some_and(|peer| marks.contains(&short_hash(address, &peer.name)))
        };
        // A live peer reports its addresses itself.
        let silent = |id: &NodeId| !matches!(ctx.health(*id), PeerHealth::Up | PeerHealth::Draining);
        candidates.iter().copied().find(|id| is_meant(id) && silent(id))
    }

    /// Takes or gives up the role of backup for the owner, and acts on it.
    pub(super) fn update_backup_role(
        &mut self,
        address: IpAddr,
        owner: Option<NodeId>,
        candidates: &[NodeId],
        ctx: &mut Context,
    ) {
        let backup = owner.filter(|owner| ctx.is_backup(address, *owner, candidates));
        let held = backup.filter(|owner| {
            matches!(
                ctx.health(*owner),
                PeerHealth::Starting { .. }
                    | PeerHealth::Restarting { .. }
                    | PeerHealth::NodeOnly { keeps: true }
            )
        });
        if self.proxy_for != held {
            self.stop_proxy(address, ctx);
            if let Some(owner) = held {
                self.start_proxy(address, owner, ctx);
            }
        }
        let Some(owner) = backup.filter(|_| held.is_none()) else {
            self.backup = None;
            return;
        };
        let now = ctx.now;
        let after = |time| round_up_to_batch(ctx.epoch, now + jitter(time, address));
        let (at, asked) = match self.backup.filter(|duty| duty.owner == owner) {
            Some(duty) if now < duty.at => (duty.at, duty.asked),
            Some(duty) => {
                let since = duty.at.checked_sub(REPLY_TIMEOUT).unwrap_or(duty.at);
                let answers = |(id, at): (NodeId, Instant)| id == owner && at >= since;
                let answered = duty.asked > 0 && self.last_reply_from.is_some_and(answers);
                if !answered && duty.asked < MAX_VERIFICATION_QUERIES {
                    if let Some(peer) = ctx.peers.get(&owner) {
                        let to = QueryTarget::Node(peer.name.clone());
                        ctx.outputs.push_back(Output::QueryAddress { address, to });
                    }
                    (now + REPLY_TIMEOUT, duty.asked + 1)
                } else {
                    let reports = ctx.verification_reports.entry(owner).or_default();
                    reports.push((address, answered));
                    (after(VERIFICATION_INTERVAL), 0)
                }
            }
            None => (after(FIRST_VERIFICATION_DELAY), 0),
        };
        self.backup = Some(BackupState { owner, at, asked });
        ctx.deadlines.insert((at, address));
    }

    /// Lets a verification end without a result, and the next one begin at its usual time.
    pub(in crate::ownership) fn postpone_verification(&mut self, address: IpAddr, ctx: &mut Context) {
        if let Some(backup) = &mut self.backup {
            backup.at = round_up_to_batch(ctx.epoch, ctx.now + jitter(VERIFICATION_INTERVAL, address));
            backup.asked = 0;
            ctx.deadlines.insert((backup.at, address));
        }
    }

    fn start_proxy(&mut self, address: IpAddr, owner: NodeId, ctx: &mut Context) {
        let Some(peer) = ctx.peers.get(&owner) else {
            return;
        };
        self.proxy_for = Some(owner);
        ctx.announced.insert(Entry {
            address,
            state: EntryState::Proxied {
                owner: short_hash(address, &peer.name),
            },
        });
        ctx.outputs.push_back(Output::StartProxy {
            address,
            node: peer.name.clone(),
        });
    }

    pub(super) fn stop_proxy(&mut self, address: IpAddr, ctx: &mut Context) {
        if self.proxy_for.take().is_some() {
            if ctx.announced.proxied_for(address).is_some() {
                ctx.announced.remove(address);
            }
            ctx.outputs.push_back(Output::StopProxy { address });
        }
    }
}

impl Context {
    /// The health of a peer as the owner of the address: the awaited owner counts as restarting, and one that is no
    /// candidate in its own view as draining.
    pub(super) fn health_for(&self, address: IpAddr, awaited: Option<NodeId>, id: NodeId) -> PeerHealth {
        let leaves = |id| {
            let peer = self.peers.get(id);
            peer.is_some_and(|peer| peer.announced.leaves(address))
        };
        match self.health(id) {
            PeerHealth::Up if leaves(&id) => PeerHealth::Draining,
            PeerHealth::Down
            | PeerHealth::Unknown
            | PeerHealth::Assumed
            | PeerHealth::NodeOnly { keeps: false }
                if awaited == Some(id) =>
            {
                PeerHealth::Restarting { until: self.now }
            }
            view => view,
        }
    }

    fn is_backup(&self, address: IpAddr, owner: NodeId, candidates: &[NodeId]) -> bool {
        let up = |id: &NodeId| (*id == LOCAL_NODE && !self.draining) || self.health(*id) == PeerHealth::Up;
        let stands_in = |id: &NodeId| {
            let claims = match self.peers.get(id) {
                Some(peer) => &peer.announced,
                None => &*self.announced,
            };
            up(id) && claims.proxied_for(address).is_some()
        };
        // A peer whose heartbeats are lost does the same as we do.
        let deaf = |id: &NodeId| self.health(*id) == PeerHealth::HeartbeatLost;
        let next = |id: &NodeId| up(id) && self.heard_before_restart(*id, owner) || deaf(id);
        let mut others = candidates.iter().copied().filter(|id| *id != owner);
        // A peer that sends proxy replies continues until the owner is back.
        others.clone().find(stands_in).or_else(|| others.find(next)) == Some(LOCAL_NODE)
    }

    /// Whether a candidate knows the announced set of the owner: it was up for some time before the owner went away.
    fn heard_before_restart(&self, id: NodeId, owner: NodeId) -> bool {
        let away = self.peers.get(&owner).and_then(|peer| peer.away_since);
        match (self.peers.get(&id), away) {
            (Some(peer), Some(away)) => peer.up_since.is_some_and(|up| up + STATE_SYNC_TIME <= away),
            (None, _) | (_, None) => true,
        }
    }
}

/// The end of the batch interval that a time falls into.
fn round_up_to_batch(epoch: Instant, at: Instant) -> Instant {
    let rounds = at
        .saturating_duration_since(epoch)
        .as_millis()
        .div_ceil(BATCH_INTERVAL.as_millis());
    epoch + BATCH_INTERVAL * u32::try_from(rounds).unwrap_or(u32::MAX)
}

/// Plus or minus a quarter: different per address, equal in each run.
pub(super) fn jitter(time: Duration, address: IpAddr) -> Duration {
    let low = match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    };
    let spread = low.wrapping_mul(0x9e37_79b9) >> 16;
    time * 3 / 4 + time / 2 * spread / 0x1_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn first_verification_ends_within_the_maximum_delay() {
        let epoch = Instant::now();
        let mut longest = Duration::ZERO;
        for number in 0..2_000_u32 {
            let address = IpAddr::V4((0x0a00_0000 + number).into());
            for start in (0..6_000).step_by(50).map(|ms| epoch + Duration::from_millis(ms)) {
                let first_probe = round_up_to_batch(epoch, start + jitter(FIRST_VERIFICATION_DELAY, address));
                let end = first_probe + REPLY_TIMEOUT * u32::from(MAX_VERIFICATION_QUERIES);
                longest = longest.max(end - start);
            }
        }
        assert!(longest <= MAX_VERIFICATION_DELAY, "{longest:?}");
        assert!(
            longest + Duration::from_millis(60) > MAX_VERIFICATION_DELAY,
            "{longest:?}"
        );
        assert_eq!(
            MAX_VERIFICATION_DELAY,
            Duration::from_secs(7),
            "see pod_selection.rs of the operator"
        );
    }
}
