//! The prefixes that this node announces, and which advertisements announce each.
//!
//! ```text
//! Service ──► (prefix, advertisement) × n ──► prefix ──► set of advertisements ──► attributes, for each peer
//! ```
//!
//! Every change of a prefix gets a new [`Version`]. A session remembers the last version that it has sent, so it needs no
//! copy of the prefixes, and a change costs the same however many Services there are. A prefix without an advertisement
//! stays as a withdrawal until every session has sent it ([`Table::forget_withdrawals`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::wire::Family;

/// Identifies an advertisement within one [`Table`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AdvertisementId(pub u32);

/// Numbers the changes of a [`Table`], ascending.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version(pub u64);

/// The advertisements of a prefix; equal sets share their memory.
pub type AdvertisementSet = Arc<BTreeSet<AdvertisementId>>;

/// The routes of all Services, by prefix. `S` identifies a Service.
#[derive(Clone, Debug)]
pub struct Table<S> {
    services: BTreeMap<S, BTreeSet<(IpNet, AdvertisementId)>>,
    prefixes: BTreeMap<IpNet, Entry>,
    by_version: BTreeMap<Version, IpNet>,
    /// The sets in use, with the number of prefixes of each family.
    sets: BTreeMap<AdvertisementSet, FamilyCounts>,
    version: Version,
}

#[derive(Clone, Copy, Debug, Default)]
struct FamilyCounts {
    ipv4: usize,
    ipv6: usize,
}

impl FamilyCounts {
    const fn of(&mut self, family: Family) -> &mut usize {
        match family {
            Family::Ipv4 => &mut self.ipv4,
            Family::Ipv6 => &mut self.ipv6,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// How many Services each advertisement announces the prefix for.
    services: BTreeMap<AdvertisementId, u32>,
    set: AdvertisementSet,
    version: Version,
}

/// A change of a prefix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change<'a> {
    /// The version of the change.
    pub version: Version,
    /// The prefix.
    pub prefix: IpNet,
    /// Its advertisements; empty if it is withdrawn.
    pub advertisements: &'a AdvertisementSet,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            by_version: BTreeMap::new(),
            sets: BTreeMap::new(),
            version: Version::default(),
        }
    }
}

impl<S: Ord> Table<S> {
    /// Replaces the routes of a Service; none removes it. Prefixes must have no host bits. Returns whether any prefix
    /// changed.
    pub fn set_service(&mut self, service: S, routes: BTreeSet<(IpNet, AdvertisementId)>) -> bool {
        let before = if routes.is_empty() {
            self.services.remove(&service)
        } else {
            self.services.insert(service, routes.clone())
        }
        .unwrap_or_default();
        let version = self.version;
        let mut touched = BTreeSet::new();
        for (prefix, advertisement) in routes.difference(&before) {
            let entry = self.prefixes.entry(*prefix).or_default();
            *entry.services.entry(*advertisement).or_default() += 1;
            touched.insert(*prefix);
        }
        for (prefix, advertisement) in before.difference(&routes) {
            if let Some(entry) = self.prefixes.get_mut(prefix)
                && let Some(count) = entry.services.get_mut(advertisement)
            {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    entry.services.remove(advertisement);
                }
                touched.insert(*prefix);
            }
        }
        for prefix in touched {
            self.update(prefix);
        }
        self.version != version
    }

    /// Notes that the attributes of an advertisement changed, for all prefixes that it announces.
    pub fn advertisement_changed(&mut self, advertisement: AdvertisementId) {
        let announced = |entry: &Entry| entry.set.contains(&advertisement);
        let prefixes: Vec<_> = self
            .prefixes
            .iter()
            .filter(|(_, entry)| announced(entry))
            .map(|(prefix, _)| *prefix)
            .collect();
        for prefix in prefixes {
            self.bump(prefix);
        }
    }

    /// The version of the last change.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The changes after `since`, oldest first: of each prefix the last one only.
    pub fn changes_since(&self, since: Version) -> impl Iterator<Item = Change<'_>> {
        let later = (std::ops::Bound::Excluded(since), std::ops::Bound::Unbounded);
        self.by_version.range(later).filter_map(|(version, prefix)| {
            Some(Change {
                version: *version,
                prefix: *prefix,
                advertisements: &self.prefixes.get(prefix)?.set,
            })
        })
    }

    /// Drops withdrawals that every session has sent: those up to this version.
    pub fn forget_withdrawals(&mut self, sent: Version) {
        let old: Vec<_> = self
            .by_version
            .range(..=sent)
            .filter(|(_, prefix)| self.prefixes.get(prefix).is_none_or(|entry| entry.set.is_empty()))
            .map(|(version, prefix)| (*version, *prefix))
            .collect();
        for (version, prefix) in old {
            self.by_version.remove(&version);
            self.prefixes.remove(&prefix);
        }
    }

    /// The number of announced prefixes of a family whose advertisements are accepted: called once for each set.
    pub fn count_prefixes(
        &self,
        family: Family,
        accepts: impl Fn(&BTreeSet<AdvertisementId>) -> bool,
    ) -> usize {
        let accepted = self.sets.iter().filter(|(set, _)| accepts(set));
        accepted.map(|(_, counts)| *counts.clone().of(family)).sum()
    }

    /// Moves a prefix from one set to another; returns the shared copy of the latter.
    fn share(
        &mut self,
        family: Family,
        before: &AdvertisementSet,
        after: BTreeSet<AdvertisementId>,
    ) -> AdvertisementSet {
        if let Some(counts) = self.sets.get_mut(before) {
            let count = counts.of(family);
            *count = count.saturating_sub(1);
            if counts.ipv4 + counts.ipv6 == 0 {
                self.sets.remove(before);
            }
        }
        let after = Arc::new(after);
        if after.is_empty() {
            return after;
        }
        let shared = self.sets.get_key_value(&after).map(|(set, _)| Arc::clone(set));
        let shared = shared.unwrap_or(after);
        *self.sets.entry(Arc::clone(&shared)).or_default().of(family) += 1;
        shared
    }

    /// Computes the set of a prefix again; a new one is a change.
    fn update(&mut self, prefix: IpNet) {
        let Some(entry) = self.prefixes.get_mut(&prefix) else {
            return;
        };
        if entry.services.keys().eq(entry.set.iter()) {
            // Added and removed before anybody has seen it.
            if entry.version == Version::default() && entry.set.is_empty() {
                self.prefixes.remove(&prefix);
            }
            return;
        }
        let (before, after) = (entry.set.clone(), entry.services.keys().copied().collect());
        let set = self.share(Family::of(prefix.addr()), &before, after);
        if let Some(entry) = self.prefixes.get_mut(&prefix) {
            entry.set = set;
        }
        self.bump(prefix);
    }

    fn bump(&mut self, prefix: IpNet) {
        let Some(entry) = self.prefixes.get_mut(&prefix) else {
            return;
        };
        self.by_version.remove(&entry.version);
        self.version.0 += 1;
        entry.version = self.version;
        self.by_version.insert(self.version, prefix);
    }
}
