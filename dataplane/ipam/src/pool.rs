//! One pool: its addresses, which of them are used, and which were released so lately that they are not given again.
//!
//! A released address *rests*. With a hold-down it is given to nobody for a while who does not ask for it; with the
//! strategy `LeastRecentlyUsed` it waits until all that were released before it have been given. Time is a number of
//! seconds, and an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::free::Used;
use crate::places::Places;
use crate::range::{Family, Range};
use crate::reason::Rejection;
use crate::rest::Resting;

/// A pool as its owner wrote it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolSpec {
    /// Name.
    pub name: String,
    /// Ranges, in the user's order.
    pub ranges: Vec<Range>,
    /// Whether Services that ask for nothing may get an address.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out.
    pub avoid_buggy_ips: bool,
    /// Who may use it.
    pub access: Access,
    /// What MetalLB's pools do not have.
    pub extras: Extras,
}

impl PoolSpec {
    /// Whether a pool of one spec counts its use as one of the other does: then what it has counted stays.
    pub(crate) fn counts_as(&self, other: &Self) -> bool {
        self.ranges == other.ranges
            && self.extras.namespace_quota.is_some() == other.extras.namespace_quota.is_some()
            && self.avoid_buggy_ips == other.avoid_buggy_ips
            && self.extras.excluded == other.extras.excluded
    }
}

/// Who may use a pool. A pool for some is tried before those for everybody.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Access {
    /// Every Service.
    #[default]
    Everybody,
    /// The Services that its `serviceAllocation` chooses.
    Chosen {
        /// Pools of a lower number are tried first, those without one (0) last.
        priority: u32,
    },
}

impl Access {
    /// Where the pool stands among those that a Service may use.
    pub(crate) fn rank(self) -> (bool, u32) {
        match self {
            Self::Chosen { priority } => (false, priority.checked_sub(1).unwrap_or(u32::MAX)),
            Self::Everybody => (true, 0),
        }
    }
}

/// What MetalLB's pools do not have; without it, a pool is as MetalLB's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Extras {
    /// Addresses that are given to nobody although they are in the ranges.
    pub excluded: Vec<Range>,
    /// Which of the free addresses is given.
    pub strategy: Strategy,
    /// How many seconds have to pass before a released address is given to somebody who has not asked for it.
    pub hold_down: u32,
    /// How many addresses of each family the Services of one namespace can have.
    pub namespace_quota: Option<u32>,
}

/// Which of the free addresses is given.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Strategy {
    /// The first.
    #[default]
    First,
    /// The first that was never used; when there is none left, the one that was released longest ago.
    LeastRecentlyUsed,
}

/// A valid pool and its use.
#[derive(Clone, Debug)]
pub struct Pool {
    spec: PoolSpec,
    name: Arc<str>,
    v4: Row,
    v6: Row,
    /// How many addresses the Services of a namespace have, by family. Of a pool with a quota only.
    namespaces: BTreeMap<Box<str>, [u32; 2]>,
}

impl Pool {
    /// A pool of which nothing is used. The ranges must not overlap each other.
    #[must_use]
    pub(crate) fn new(spec: PoolSpec) -> Self {
        Self {
            v4: Row::new(&spec, Family::V4),
            v6: Row::new(&spec, Family::V6),
            name: spec.name.as_str().into(),
            namespaces: BTreeMap::new(),
            spec,
        }
    }

    /// The same pool under a spec with the same addresses: its use stays.
    #[must_use]
    pub(crate) fn with_spec(self, spec: PoolSpec) -> Self {
        Self { spec, ..self }
    }

    /// What its owner wrote.
    #[must_use]
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Its name, to be shared.
    #[must_use]
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether the pool has this address to give, used or not.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.position(address).is_some()
    }

    /// Why an address of its ranges is none that it has to give.
    pub(crate) fn why_left_out(&self, address: IpAddr) -> Rejection {
        let pool = self.spec.name.clone();
        let excludes = |range: &Range| range.contains(address);
        match self.spec.extras.excluded.iter().find(|range| excludes(range)) {
            Some(range) => Rejection::Excluded {
                address,
                pool,
                range: *range,
            },
            None => Rejection::Avoided { address, pool },
        }
    }

    /// Where an address stands in the pool: the lower, the earlier it is given.
    pub(crate) fn position(&self, address: IpAddr) -> Option<u128> {
        self.row(Family::of(address)).places.position(address)
    }

    /// How many addresses of a family the pool has; 2^128 - 1 stands for that many or one more.
    #[must_use]
    pub fn capacity(&self, family: Family) -> u128 {
        self.row(family).places.capacity()
    }

    /// How many addresses of a family are used.
    #[must_use]
    pub fn used(&self, family: Family) -> u64 {
        self.row(family).in_use()
    }

    /// How many addresses of a family nobody has; 2^128 - 1 stands for that many or one more.
    #[must_use]
    pub fn free(&self, family: Family) -> u128 {
        self.capacity(family)
            .saturating_sub(u128::from(self.used(family)))
    }

    /// How many addresses of a family were released so lately that they are given to nobody who does not ask for them.
    #[must_use]
    pub fn held(&self, family: Family, now: i64) -> usize {
        let resting = self.row(family).resting.newest_first();
        resting
            .take_while(|(_, since)| now < self.held_until(*since))
            .count()
    }

    /// The addresses that were released last, as many as asked for, and when: the newest first.
    #[must_use]
    pub fn released(&self, most: usize) -> Vec<(IpAddr, i64)> {
        let mut released: Vec<_> = [&self.v4, &self.v6]
            .into_iter()
            .flat_map(|row| {
                let resting = row.resting.newest_first().take(most);
                resting.filter_map(|(position, since)| Some((row.places.address(position)?, since)))
            })
            .collect();
        released.sort_by_key(|(_, since)| std::cmp::Reverse(*since));
        released.truncate(most);
        released
    }

    /// The next address of a family to give.
    pub(crate) fn next_free(&self, family: Family, now: i64) -> Option<IpAddr> {
        let row = self.row(family);
        let never_used = row
            .taken
            .first_free()
            .and_then(|position| row.places.address(position));
        never_used.or_else(|| {
            // Of a pool that gives the first, those that rest are held: the others have been forgotten.
            let (position, since) = row.resting.oldest()?;
            (self.held_until(since) <= now).then_some(())?;
            row.places.address(position)
        })
    }

    /// Marks an address as used; false when it was, or is not of this pool.
    pub(crate) fn take(&mut self, address: IpAddr) -> bool {
        let row = self.row_mut(Family::of(address));
        row.places
            .position(address)
            .is_some_and(|position| row.resting.remove(position) || row.taken.insert(position))
    }

    /// Marks an address as free; false when it was, or is not of this pool.
    pub(crate) fn give_back(&mut self, address: IpAddr, now: i64) -> bool {
        let row = self.row(Family::of(address));
        let position = row.places.position(address);
        let Some(position) = position.filter(|position| row.uses(*position)) else {
            return false;
        };
        if self.remembers_releases() {
            self.rest(Family::of(address), position, now);
        } else {
            self.row_mut(Family::of(address)).taken.remove(position);
        }
        true
    }

    fn remembers_releases(&self) -> bool {
        self.spec.extras.hold_down > 0 || self.spec.extras.strategy == Strategy::LeastRecentlyUsed
    }

    /// Remembers that an address was released at some time, if it is free.
    pub(crate) fn remember_release(&mut self, address: IpAddr, since: i64) {
        let remembers = self.remembers_releases();
        let row = self.row_mut(Family::of(address));
        if let Some(position) = row.places.position(address)
            && remembers
            && row.taken.insert(position)
        {
            self.rest(Family::of(address), position, since);
        }
    }

    /// Lets a position rest that is marked as taken.
    fn rest(&mut self, family: Family, position: u128, since: i64) {
        let row = self.row_mut(family);
        if let Some(forgotten) = row.resting.add(position, since) {
            row.taken.remove(forgotten);
        }
    }

    /// Forgets what has rested long enough.
    pub(crate) fn wake(&mut self, now: i64) {
        if self.spec.extras.strategy == Strategy::LeastRecentlyUsed {
            return;
        }
        let hold_down = i64::from(self.spec.extras.hold_down);
        for row in [&mut self.v4, &mut self.v6] {
            while let Some((position, since)) = row.resting.oldest()
                && since.saturating_add(hold_down) <= now
            {
                row.resting.remove(position);
                row.taken.remove(position);
            }
        }
    }

    /// When an address can be given next that cannot be now because it was released lately.
    pub(crate) fn next_wake(&self, now: i64) -> Option<i64> {
        let oldest = [&self.v4, &self.v6]
            .into_iter()
            .filter_map(|row| row.resting.oldest());
        oldest
            .map(|(_, since)| self.held_until(since))
            .filter(|until| *until > now)
            .min()
    }

    fn held_until(&self, since: i64) -> i64 {
        since.saturating_add(i64::from(self.spec.extras.hold_down))
    }

    /// Whether it matters who has how many addresses.
    pub(crate) fn has_quota(&self) -> bool {
        self.spec.extras.namespace_quota.is_some()
    }

    /// Whether a namespace has as many addresses of a family as it may.
    pub(crate) fn quota_is_used_up(&self, namespace: &str, family: Family) -> bool {
        let quota = self.spec.extras.namespace_quota;
        quota.is_some_and(|quota| {
            let has = self.namespaces.get(namespace).map_or(0, |has| has[slot(family)]);
            has >= quota
        })
    }

    /// A namespace has one more address of a family, or one less.
    pub(crate) fn count(&mut self, namespace: &str, family: Family, more: bool) {
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.insert(namespace.into(), [0, 0]);
        }
        if let Some(has) = self.namespaces.get_mut(namespace) {
            let number = &mut has[slot(family)];
            *number = if more {
                number.saturating_add(1)
            } else {
                number.saturating_sub(1)
            };
            if *has == [0, 0] {
                self.namespaces.remove(namespace);
            }
        }
    }

    fn row(&self, family: Family) -> &Row {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn row_mut(&mut self, family: Family) -> &mut Row {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

fn slot(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// The addresses of one family, and which of them are used.
#[derive(Clone, Debug)]
struct Row {
    places: Places,
    /// The positions of addresses that are used or rest.
    taken: Used,
    /// The positions of addresses that were released lately.
    resting: Resting,
}

impl Row {
    fn new(spec: &PoolSpec, family: Family) -> Self {
        Self {
            places: Places::new(spec, family),
            taken: Used::default(),
            resting: Resting::default(),
        }
    }

    fn in_use(&self) -> u64 {
        self.taken.len().saturating_sub(self.resting.len())
    }

    fn uses(&self, position: u128) -> bool {
        self.taken.contains(position) && !self.resting.contains(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(ranges: &[(&str, &str)], avoid_buggy_ips: bool) -> Pool {
        let range =
            |(first, last): &(&str, &str)| Range::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
        Pool::new(PoolSpec {
            name: "p".to_owned(),
            ranges: ranges.iter().map(range).collect(),
            auto_assign: true,
            avoid_buggy_ips,
            access: Access::Everybody,
            extras: Extras::default(),
        })
    }

    fn drain(pool: &mut Pool, family: Family) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(address) = pool.next_free(family, 0) {
            assert!(pool.take(address));
            all.push(address.to_string());
        }
        all
    }

    #[test]
    fn ranges_are_used_in_the_order_they_are_listed() {
        let mut pool = pool(
            &[
                ("10.0.0.8", "10.0.0.9"),
                ("fd00::1", "fd00::1"),
                ("10.0.0.1", "10.0.0.2"),
            ],
            false,
        );
        assert_eq!(
            drain(&mut pool, Family::V4),
            ["10.0.0.8", "10.0.0.9", "10.0.0.1", "10.0.0.2"]
        );
        assert_eq!(drain(&mut pool, Family::V6), ["fd00::1"]);
        assert_eq!(
            (
                pool.capacity(Family::V4),
                pool.used(Family::V4),
                pool.free(Family::V4)
            ),
            (4, 4, 0)
        );
    }

    #[test]
    fn buggy_addresses_are_neither_given_nor_counted_nor_contained() {
        let mut pool = pool(&[("10.0.0.254", "10.0.1.1"), ("10.0.3.255", "10.0.4.0")], true);
        assert_eq!(pool.capacity(Family::V4), 2);
        assert!(!pool.contains("10.0.0.255".parse().unwrap()));
        assert!(!pool.contains("10.0.4.0".parse().unwrap()));
        assert_eq!(drain(&mut pool, Family::V4), ["10.0.0.254", "10.0.1.1"]);
    }

    #[test]
    fn avoiding_buggy_addresses_leaves_254_of_each_256_and_all_of_ipv6() {
        let pool = pool(&[("10.0.0.0", "10.255.255.255"), ("fd00::", "fd00::ff")], true);
        assert_eq!(pool.capacity(Family::V4), 65_536 * 254);
        assert_eq!(pool.capacity(Family::V6), 256);
    }

    #[test]
    fn the_whole_of_ipv6_is_a_pool_like_any_other() {
        let mut pool = pool(&[("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")], false);
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        assert!(pool.take(last));
        assert!(!pool.take(last));
        assert_eq!(pool.next_free(Family::V6, 0).unwrap().to_string(), "::");
        assert_eq!(pool.capacity(Family::V6), u128::MAX);
        assert!(pool.give_back(last, 0));
    }
}
