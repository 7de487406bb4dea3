//! The attributes of prefixes towards one router.

use std::collections::BTreeSet;

use lb_bgp::session::RoutePolicy;
use lb_bgp::table::AdvertisementId;
use lb_bgp::wire::Attributes;

use crate::bgp::configuration::{ActiveAdvertisement, ActiveAdvertisements};

/// Local preference of internal peers where none is set (RFC 4271 leaves it open; FRR and BIRD use it).
const DEFAULT_LOCAL_PREF: u32 = 100;
/// The community GRACEFUL_SHUTDOWN (RFC 8326).
const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;

/// The attributes towards one router.
#[derive(Clone, Copy, Debug)]
pub struct PeerPolicy<'a> {
    /// Name of the BGPPeer.
    pub peer: &'a str,
    /// The AS number that the router sees.
    pub local_asn: u32,
    /// Whether the router has the same AS number.
    pub internal: bool,
    /// Whether routers should prefer other nodes.
    pub last_resort: bool,
    /// The advertisements that are in force.
    pub advertisements: &'a ActiveAdvertisements,
}

impl PeerPolicy<'_> {
    /// The advertisements for this router, by name.
    fn applicable(&self, ids: &BTreeSet<AdvertisementId>) -> Vec<&ActiveAdvertisement> {
        let known = ids.iter().filter_map(|id| self.advertisements.get(id));
        let for_peer = |one: &&ActiveAdvertisement| {
            let peers = &one.advertisement.peers;
            peers.is_empty() || peers.iter().any(|name| name == self.peer)
        };
        let mut applicable: Vec<_> = known.filter(for_peer).collect();
        applicable.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        applicable
    }

    /// Whether any of the advertisements is for this router.
    #[must_use]
    pub fn announces(&self, ids: &BTreeSet<AdvertisementId>) -> bool {
        !self.applicable(ids).is_empty()
    }
}

impl RoutePolicy for PeerPolicy<'_> {
    fn attributes(&self, ids: &BTreeSet<AdvertisementId>) -> Option<Attributes> {
        let applicable = self.applicable(ids);
        // Of different values, that of the first advertisement by name counts.
        let first = applicable.first()?;
        let prepended = usize::from(first.advertisement.as_path_prepend);
        let local_pref = match first.advertisement.local_pref {
            // Routers of the same AS may not know the community (RFC 8326 section 4.1).
            _ if self.last_resort => 0,
            Some(local_pref) => local_pref,
            None => DEFAULT_LOCAL_PREF,
        };
        let shutdown = self.last_resort.then_some(GRACEFUL_SHUTDOWN);
        Some(Attributes {
            as_path: if self.internal {
                Vec::new()
            } else {
                vec![self.local_asn; 1 + prepended]
            },
            local_pref: self.internal.then_some(local_pref),
            communities: applicable
                .iter()
                .flat_map(|one| one.communities.iter().copied())
                .chain(shutdown)
                .collect(),
            link_bandwidth: None,
            large_communities: applicable
                .iter()
                .flat_map(|one| one.large_communities.iter().copied())
                .collect(),
        })
    }
}
