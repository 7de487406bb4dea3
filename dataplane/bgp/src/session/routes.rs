//! Announces and withdraws the prefixes of a [`Table`] over one session.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ipnet::IpNet;

use super::{MAX_QUEUED, Output, Session};
use crate::table::{AdvertisementId, AdvertisementSet, Table, Version};
use crate::wire::{Attributes, Family, NextHop, update};

/// Upper bound of the changes that one call sends, so that other sessions get their turn.
const MAX_CHANGES: usize = 4096;

/// The attributes of prefixes towards one router.
pub trait RoutePolicy {
    /// The attributes of the prefixes that these advertisements announce; `None` if none of them is for this router.
    fn attributes(&self, advertisements: &BTreeSet<AdvertisementId>) -> Option<Attributes>;
}

/// Where the router sends the packets, by the family of the prefix; `None` if this node has no address for it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NextHops {
    /// For IPv4 prefixes.
    pub ipv4: Option<NextHop>,
    /// For IPv6 prefixes.
    pub ipv6: Option<NextHop>,
}

impl NextHops {
    const fn of(self, family: Family) -> Option<NextHop> {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

/// Why prefixes are not announced to a router.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SkipReason {
    /// This node has no next hop of the family.
    NoNextHop,
    /// The attributes do not fit into a message.
    AttributesTooLong,
}

/// How far the table has been sent, for each family.
#[derive(Debug, Default)]
pub(super) struct RouteSender {
    families: BTreeMap<Family, Progress>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    sent: Version,
    /// The version of the table when the session began: the router knows no prefix that was withdrawn before.
    began: Version,
    end_of_rib_sent: bool,
}

impl RouteSender {
    /// A new session: the router knows nothing.
    pub(super) fn restart(&mut self) {
        self.families.clear();
    }

    /// The router has asked for everything again (RFC 2918).
    pub(super) fn refresh(&mut self, family: Family) {
        if let Some(progress) = self.families.get_mut(&family) {
            progress.sent = Version::default();
        }
    }
}

impl Session {
    /// Sends the changes of the table that the router does not know, as far as there is room; call it again after
    /// [`handle_written`](Session::handle_written) until it returns `false`. Without a session, nothing is sent.
    pub fn send_routes<S: Ord>(
        &mut self,
        now: Instant,
        table: &Table<S>,
        policy: &impl RoutePolicy,
        next_hops: NextHops,
    ) -> bool {
        let mut more = false;
        for family in Family::ALL {
            if self.announces(family) {
                more |= self.send_family(now, family, table, policy, next_hops.of(family));
            }
        }
        more
    }

    /// The version of the table that the router knows; `None` without a session.
    #[must_use]
    pub fn sent_version(&self) -> Option<Version> {
        let families = Family::ALL.into_iter().filter(|family| self.announces(*family));
        let sent = families.map(|family| {
            self.routes
                .families
                .get(&family)
                .map_or(Version::default(), |p| p.sent)
        });
        sent.min()
    }

    fn send_family<S: Ord>(
        &mut self,
        now: Instant,
        family: Family,
        table: &Table<S>,
        policy: &impl RoutePolicy,
        next_hop: Option<NextHop>,
    ) -> bool {
        let mut progress = self.routes.families.get(&family).copied().unwrap_or(Progress {
            sent: Version::default(),
            began: table.version(),
            end_of_rib_sent: false,
        });
        if progress.end_of_rib_sent && progress.sent == table.version() {
            return false;
        }
        if self.queued >= MAX_QUEUED {
            return true;
        }
        let mut batch = Batch::default();
        let mut attributes = BTreeMap::new();
        let mut changes = table.changes_since(progress.sent);
        let mut more = false;
        for change in changes.by_ref() {
            progress.sent = change.version;
            if Family::of(change.prefix.addr()) != family {
                continue;
            }
            let known = change.version > progress.began;
            batch.add(
                change.prefix,
                change.advertisements,
                known,
                policy,
                &mut attributes,
            );
            if batch.count == MAX_CHANGES {
                more = true;
                break;
            }
        }
        if !more {
            progress.sent = table.version();
        }
        let mut octets = Vec::new();
        let four_octet = self.negotiated().is_some_and(|agreed| agreed.four_octet_asn);
        update::withdraw(&mut octets, family, &batch.withdrawn);
        let (announced, skipped) = batch.encode(family, next_hop, four_octet);
        for (reason, prefixes) in skipped {
            update::withdraw(&mut octets, family, &prefixes);
            self.outputs.push_back(Output::Skipped(family, reason, prefixes));
        }
        octets.extend_from_slice(&announced);
        if !more && !progress.end_of_rib_sent {
            progress.end_of_rib_sent = true;
            update::end_of_rib(&mut octets, family);
        }
        self.routes.families.insert(family, progress);
        if !octets.is_empty() {
            self.send_octets(Some(now), octets);
        }
        more
    }
}

/// Changes that are sent together.
#[derive(Default)]
struct Batch {
    count: usize,
    withdrawn: Vec<IpNet>,
    announced: BTreeMap<Attributes, Vec<IpNet>>,
}

impl Batch {
    /// `known` is whether the router may have learned the prefix in this session.
    fn add(
        &mut self,
        prefix: IpNet,
        advertisements: &AdvertisementSet,
        known: bool,
        policy: &impl RoutePolicy,
        cache: &mut BTreeMap<AdvertisementSet, Option<Attributes>>,
    ) {
        self.count += 1;
        // Few sets share all prefixes.
        let attributes = cache
            .entry(AdvertisementSet::clone(advertisements))
            .or_insert_with(|| {
                if advertisements.is_empty() {
                    None
                } else {
                    policy.attributes(advertisements)
                }
            });
        match attributes {
            Some(attributes) => match self.announced.get_mut(attributes) {
                Some(prefixes) => prefixes.push(prefix),
                None => {
                    self.announced.insert(attributes.clone(), vec![prefix]);
                }
            },
            None if known => self.withdrawn.push(prefix),
            None => {}
        }
    }

    /// The messages, and the prefixes that cannot be announced.
    fn encode(
        self,
        family: Family,
        next_hop: Option<NextHop>,
        four_octet: bool,
    ) -> (Vec<u8>, Vec<(SkipReason, Vec<IpNet>)>) {
        let (mut octets, mut skipped) = (Vec::new(), Vec::new());
        for (attributes, prefixes) in self.announced {
            let Some(next_hop) = next_hop else {
                skipped.push((SkipReason::NoNextHop, prefixes));
                continue;
            };
            if update::announce(&mut octets, family, &attributes, next_hop, four_octet, &prefixes).is_err() {
                skipped.push((SkipReason::AttributesTooLong, prefixes));
            }
        }
        (octets, skipped)
    }
}
