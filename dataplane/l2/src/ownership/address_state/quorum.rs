//! Chooses the monitored peers of an address, and counts the quorum in a partition.

use std::net::IpAddr;

use super::{AddressState, Context, LOCAL_NODE};
use crate::ownership::failure_detector::{NodeId, PeerHealth};

/// Live candidates of an address that monitor each other in a large cluster. With three, two simultaneous failures are
/// covered.
const MIN_MONITORING_CANDIDATES: usize = 3;
/// With no more nodes than this, all candidates monitor each other. The heartbeats stay within their rate.
const MAX_FULLY_MONITORED_NODES: usize = 16;
/// Nodes that count for [`PartitionPolicy::Majority`], whether up or down.
const VOTERS: usize = 5;

/// Which side of a partition announces an address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PartitionPolicy {
    /// Every side, as with MetalLB.
    #[default]
    Availability,
    /// Only the side that hears the majority of the first nodes that may announce the address by configuration.
    Majority,
}

impl PartitionPolicy {
    /// All policies.
    pub const ALL: [Self; 2] = [Self::Availability, Self::Majority];

    /// The word for a command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Availability => "availability",
            Self::Majority => "majority",
        }
    }
}

/// A word names no policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unknown policy {0:?}")]
pub struct UnknownPolicy(pub(super) String);

impl std::str::FromStr for PartitionPolicy {
    type Err = UnknownPolicy;

    fn from_str(word: &str) -> Result<Self, UnknownPolicy> {
        let policy = Self::ALL
            .into_iter()
            .find(|policy| word.eq_ignore_ascii_case(policy.as_str()));
        policy.ok_or_else(|| UnknownPolicy(word.to_owned()))
    }
}

impl AddressState {
    /// Recomputes the monitored peers of an address.
    pub(in crate::ownership) fn update_monitored_peers(&mut self, address: IpAddr, ctx: &mut Context) {
        let monitored = self.required_monitors(address, ctx);
        if monitored == self.monitored {
            return;
        }
        for id in &monitored {
            *ctx.monitor_counts.entry(*id).or_default() += 1;
        }
        ctx.monitored_changed = true;
        ctx.release_monitor(&std::mem::replace(&mut self.monitored, monitored));
    }

    /// The peers to monitor for an address; empty if we have no part in it.
    fn required_monitors(&self, address: IpAddr, ctx: &Context) -> Box<[NodeId]> {
        let mut monitored = Vec::new();
        let mut living = 0;
        for id in self.candidates(address, ctx) {
            if living >= ctx.monitoring_candidates() {
                break;
            }
            monitored.push(id);
            living += usize::from(id == LOCAL_NODE || ctx.health(id) != PeerHealth::Down);
        }
        let mine = ctx.announced.announces(address) || self.resumes;
        let preferred = self.preferred();
        if !mine && !monitored.contains(&LOCAL_NODE) && preferred != Some(LOCAL_NODE) {
            return Box::default();
        }
        if ctx.config.partition_policy == PartitionPolicy::Majority {
            monitored.extend(self.voters(ctx));
        }
        // The owner and the preferred node monitor each other, wherever they are in the election order.
        monitored.extend(preferred.filter(|_| mine));
        monitored.extend(ctx.announcers(address));
        monitored.extend(self.awaited_owner(address, &self.order, ctx));
        monitored.retain(|id| ctx.peers.contains_key(id));
        monitored.sort_unstable();
        monitored.dedup();
        monitored.into()
    }

    /// The candidates that have an interface for the address, in election order.
    pub(super) fn candidates(&self, address: IpAddr, ctx: &Context) -> Vec<NodeId> {
        let declines = |id: NodeId| {
            if id == LOCAL_NODE {
                self.no_interface
            } else {
                ctx.peers
                    .get(&id)
                    .is_some_and(|peer| peer.announced.declines(address))
            }
        };
        let order = self.order.iter().copied();
        order.filter(|id| !declines(*id)).collect()
    }

    /// The voters that this node does not reach, if it has no majority for the address.
    pub(in crate::ownership) fn missing_majority<'a>(&self, ctx: &'a Context) -> Option<Vec<&'a str>> {
        if self.has_quorum(ctx) {
            return None;
        }
        let missing = self.voters(ctx).filter(|id| !ctx.reaches(*id));
        let peers = missing.filter_map(|id| ctx.peers.get(&id));
        Some(peers.map(|peer| &*peer.name).collect())
    }

    /// The nodes that vote about the address. A deleted Node does not.
    fn voters(&self, ctx: &Context) -> impl Iterator<Item = NodeId> {
        let nodes = if self.voters.is_empty() {
            &self.order
        } else {
            &self.voters
        };
        let exists = |id: &NodeId| *id == LOCAL_NODE || ctx.peers.contains_key(id);
        nodes.iter().copied().filter(exists).take(VOTERS)
    }

    /// Whether we hear the majority of the voters. The API server's view does not count, because the API server may be on
    /// the other side.
    pub(super) fn has_quorum(&self, ctx: &Context) -> bool {
        match ctx.config.partition_policy {
            PartitionPolicy::Availability => true,
            PartitionPolicy::Majority => {
                let reached = self.voters(ctx).filter(|id| ctx.reaches(*id));
                reached.count() * 2 > self.voters(ctx).count()
            }
        }
    }
}

impl Context {
    pub(super) fn release_monitor(&mut self, monitored: &[NodeId]) {
        for id in monitored {
            if let Some(count) = self.monitor_counts.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.monitor_counts.remove(id);
                    self.monitored_changed = true;
                }
            }
        }
    }

    /// How many live candidates of an address monitor each other.
    pub(super) fn monitoring_candidates(&self) -> usize {
        if self.peers.len() < MAX_FULLY_MONITORED_NODES {
            MAX_FULLY_MONITORED_NODES
        } else {
            MIN_MONITORING_CANDIDATES
        }
    }

    /// The peers that announce the address.
    pub(in crate::ownership) fn announcers(&self, address: IpAddr) -> Vec<NodeId> {
        self.announcers.get(&address).cloned().unwrap_or_default()
    }

    /// Whether the node is on our side of a partition: heartbeats or frames pass. The API server's view does not count.
    fn reaches(&self, id: NodeId) -> bool {
        match self.failure_detector.health(id) {
            _ if id == LOCAL_NODE => true,
            PeerHealth::HeartbeatLost | PeerHealth::NodeOnly { .. } => true,
            view => {
                let never_heard = self.failure_detector.last_heard(id).is_none();
                view.is_heard() || never_heard && self.failure_detector.node_replies(id) == Some(true)
            }
        }
    }
}
