//! A valid pool and its usage: which addresses are assigned, and which were released recently.
//!
//! A pool with a hold-down assigns a released address only to a Service that requests it, until the hold-down ends. With
//! [`AllocationStrategy::LeastRecentlyUsed`] a released address is assigned again after all addresses released before it.
//! Times are seconds on a clock of the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::address_space::AddressSpace;
use crate::hold_down::ReleasedAddresses;
use crate::interval_set::IntervalSet;
use crate::pool_spec::{AllocationStrategy, PoolSpec};
use crate::range::{Family, Range};
use crate::rejection::{PoolUsage, Rejection};

/// A valid pool and its usage.
#[derive(Clone, Debug)]
pub struct Pool {
    spec: PoolSpec,
    name: Arc<str>,
    v4: FamilySpace,
    v6: FamilySpace,
    /// Addresses of each family per namespace; filled only if the pool has a quota.
    quota_use: BTreeMap<Box<str>, [u32; 2]>,
}

impl Pool {
    /// A pool without assigned addresses. The ranges must not overlap each other.
    #[must_use]
    pub(crate) fn new(spec: PoolSpec) -> Self {
        Self {
            v4: FamilySpace::new(&spec, Family::V4),
            v6: FamilySpace::new(&spec, Family::V6),
            name: spec.name.as_str().into(),
            quota_use: BTreeMap::new(),
            spec,
        }
    }

    /// The same pool with a spec that [accounts for addresses in the same way](PoolSpec::has_same_accounting).
    #[must_use]
    pub(crate) fn with_spec(self, spec: PoolSpec) -> Self {
        Self { spec, ..self }
    }

    /// Its configuration.
    #[must_use]
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Its name, for assignments to share.
    #[must_use]
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether the address is one that the pool can assign, in use or not.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.position(address).is_some()
    }

    /// Why the pool does not contain an address of its ranges.
    pub(crate) fn unusable_reason(&self, address: IpAddr) -> Rejection {
        let pool = self.spec.name.clone();
        let mut excluded = self.spec.annotations.excluded.iter();
        match excluded.find(|range: &&Range| range.contains(address)) {
            Some(range) => Rejection::ExcludedAddress {
                address,
                pool,
                range: *range,
            },
            None => Rejection::AvoidedAddress { address, pool },
        }
    }

    /// Position of an address in the pool; lower positions are assigned first.
    pub(crate) fn position(&self, address: IpAddr) -> Option<u128> {
        self.space(Family::of(address)).addresses.position(address)
    }

    /// Number of usable addresses of a family, at most `u128::MAX`.
    #[must_use]
    pub fn capacity(&self, family: Family) -> u128 {
        self.space(family).addresses.capacity()
    }

    /// Number of assigned addresses of a family.
    #[must_use]
    pub fn used(&self, family: Family) -> u64 {
        self.space(family).assigned()
    }

    /// Number of addresses of a family that are not assigned, at most `u128::MAX`.
    #[must_use]
    pub fn free(&self, family: Family) -> u128 {
        self.capacity(family)
            .saturating_sub(u128::from(self.used(family)))
    }

    /// Number of addresses of a family that are in hold-down.
    #[must_use]
    pub fn in_hold_down(&self, family: Family, now: i64) -> usize {
        let released = self.space(family).released.newest_first();
        released
            .take_while(|(_, since)| now < self.hold_down_end(*since))
            .count()
    }

    /// Up to `limit` addresses that were released most recently, with the time of release, newest first.
    #[must_use]
    pub fn released(&self, limit: usize) -> Vec<(IpAddr, i64)> {
        let mut released: Vec<_> = [&self.v4, &self.v6]
            .into_iter()
            .flat_map(|space| {
                let released = space.released.newest_first().take(limit);
                released.filter_map(|(position, since)| Some((space.addresses.address(position)?, since)))
            })
            .collect();
        released.sort_by_key(|(_, since)| std::cmp::Reverse(*since));
        released.truncate(limit);
        released
    }

    /// The next address of a family to assign, but none of the reserved ones.
    pub(crate) fn next_free(&self, family: Family, now: i64, reserved: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let space = self.space(family);
        let must_be_requested = |position: u128| {
            let address = space.addresses.address(position);
            space.addresses.must_be_requested(position)
                || address.is_some_and(|address| reserved.contains(&address))
        };
        let position = space.never_used(must_be_requested).or_else(|| {
            // With `First` only addresses in hold-down are tracked: the others have expired.
            let mut released = space.released.oldest_first();
            let (position, since) = released.find(|(position, _)| !must_be_requested(*position))?;
            (self.hold_down_end(since) <= now).then_some(position)
        });
        space.addresses.address(position?)
    }

    /// Marks an address as used; false if it was used already, or is not of this pool.
    pub(crate) fn mark_used(&mut self, address: IpAddr) -> bool {
        let space = self.space_mut(Family::of(address));
        space
            .addresses
            .position(address)
            .is_some_and(|position| space.released.remove(position) || space.unavailable.insert(position))
    }

    /// Marks an address as released; false if it was not used, or is not of this pool.
    pub(crate) fn release(&mut self, address: IpAddr, now: i64) -> bool {
        let space = self.space(Family::of(address));
        let position = space.addresses.position(address);
        let Some(position) = position.filter(|position| space.is_assigned(*position)) else {
            return false;
        };
        if self.tracks_releases() {
            self.start_hold_down(Family::of(address), position, now);
        } else {
            self.space_mut(Family::of(address)).unavailable.remove(position);
        }
        true
    }

    /// How full the pool is for a family.
    pub(crate) fn usage(&self, family: Family, now: i64) -> PoolUsage {
        let next_free = self.space(family).released.oldest();
        let next_free = next_free.map_or(0, |(_, since)| self.hold_down_end(since).saturating_sub(now));
        PoolUsage {
            pool: self.spec.name.clone(),
            used: self.used(family),
            in_hold_down: self.in_hold_down(family, now),
            next_free_in: u64::try_from(next_free).unwrap_or_default(),
            capacity: self.capacity(family),
        }
    }

    fn tracks_releases(&self) -> bool {
        self.spec.annotations.hold_down > 0
            || self.spec.annotations.strategy == AllocationStrategy::LeastRecentlyUsed
    }

    /// Restores the release time of an address, if it is free and the pool tracks releases.
    pub(crate) fn remember_release(&mut self, address: IpAddr, since: i64) {
        let remembers = self.tracks_releases();
        let space = self.space_mut(Family::of(address));
        if let Some(position) = space.addresses.position(address)
            && remembers
            && space.unavailable.insert(position)
        {
            self.start_hold_down(Family::of(address), position, since);
        }
    }

    /// Tracks the release of a position, which stays unavailable.
    fn start_hold_down(&mut self, family: Family, position: u128, since: i64) {
        let space = self.space_mut(family);
        if let Some(forgotten) = space.released.add(position, since) {
            space.unavailable.remove(forgotten);
        }
    }

    /// Frees addresses whose hold-down has ended.
    pub(crate) fn expire_hold_downs(&mut self, now: i64) {
        if self.spec.annotations.strategy == AllocationStrategy::LeastRecentlyUsed {
            return;
        }
        let hold_down = i64::from(self.spec.annotations.hold_down);
        for space in [&mut self.v4, &mut self.v6] {
            while let Some((position, since)) = space.released.oldest()
                && since.saturating_add(hold_down) <= now
            {
                space.released.remove(position);
                space.unavailable.remove(position);
            }
        }
    }

    /// When the next hold-down ends.
    pub(crate) fn next_hold_down_end(&self, now: i64) -> Option<i64> {
        let oldest = [&self.v4, &self.v6]
            .into_iter()
            .filter_map(|space| space.released.oldest());
        oldest
            .map(|(_, since)| self.hold_down_end(since))
            .filter(|until| *until > now)
            .min()
    }

    fn hold_down_end(&self, since: i64) -> i64 {
        since.saturating_add(i64::from(self.spec.annotations.hold_down))
    }

    /// Whether addresses are counted per namespace.
    pub(crate) fn has_quota(&self) -> bool {
        self.spec.annotations.namespace_quota.is_some()
    }

    /// Whether a namespace has reached its quota of addresses of a family.
    pub(crate) fn quota_exhausted(&self, namespace: &str, family: Family) -> bool {
        let quota = self.spec.annotations.namespace_quota;
        quota.is_some_and(|quota| {
            let has = self
                .quota_use
                .get(namespace)
                .map_or(0, |has| has[family_index(family)]);
            has >= quota
        })
    }

    /// Counts one address of a family more, or one less, for a namespace.
    pub(crate) fn adjust_quota_use(&mut self, namespace: &str, family: Family, more: bool) {
        if !self.quota_use.contains_key(namespace) {
            self.quota_use.insert(namespace.into(), [0, 0]);
        }
        if let Some(has) = self.quota_use.get_mut(namespace) {
            let number = &mut has[family_index(family)];
            *number = if more {
                number.saturating_add(1)
            } else {
                number.saturating_sub(1)
            };
            if *has == [0, 0] {
                self.quota_use.remove(namespace);
            }
        }
    }

    fn space(&self, family: Family) -> &FamilySpace {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn space_mut(&mut self, family: Family) -> &mut FamilySpace {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

fn family_index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// The addresses of one family and their usage.
#[derive(Clone, Debug)]
struct FamilySpace {
    addresses: AddressSpace,
    /// Positions that are assigned or were released recently.
    unavailable: IntervalSet,
    /// Positions that were released recently.
    released: ReleasedAddresses,
}

impl FamilySpace {
    fn new(spec: &PoolSpec, family: Family) -> Self {
        Self {
            addresses: AddressSpace::new(spec, family),
            unavailable: IntervalSet::default(),
            released: ReleasedAddresses::default(),
        }
    }

    /// The first position that was never used and needs no request. The steps are at most the reserved addresses and the
    /// ranges, because anycast addresses are 2^64 apart.
    fn never_used(&self, must_be_requested: impl Fn(u128) -> bool) -> Option<u128> {
        let mut position = self.unavailable.lowest_absent_from(0)?;
        while must_be_requested(position) {
            position = self.unavailable.lowest_absent_from(position.checked_add(1)?)?;
        }
        self.addresses.contains(position).then_some(position)
    }

    fn assigned(&self) -> u64 {
        self.unavailable.len().saturating_sub(self.released.len())
    }

    fn is_assigned(&self, position: u128) -> bool {
        self.unavailable.contains(position) && !self.released.contains(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool_spec::{Access, PoolAnnotations};

    fn pool(ranges: &[(&str, &str)], avoid_buggy_ips: bool) -> Pool {
        let range =
            |(first, last): &(&str, &str)| Range::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
        Pool::new(PoolSpec {
            name: "p".to_owned(),
            ranges: ranges.iter().map(range).collect(),
            auto_assign: true,
            avoid_buggy_ips,
            access: Access::All,
            annotations: PoolAnnotations::default(),
        })
    }

    fn drain(pool: &mut Pool, family: Family) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(address) = pool.next_free(family, 0, &BTreeSet::new()) {
            assert!(pool.mark_used(address));
            all.push(address.to_string());
        }
        all
    }

    #[test]
    fn ranges_are_used_in_listed_order() {
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
    fn avoided_addresses_are_not_assigned_or_counted() {
        let mut pool = pool(&[("10.0.0.254", "10.0.1.1"), ("10.0.3.255", "10.0.4.0")], true);
        assert_eq!(pool.capacity(Family::V4), 2);
        assert!(!pool.contains("10.0.0.255".parse().unwrap()));
        assert!(!pool.contains("10.0.4.0".parse().unwrap()));
        assert_eq!(drain(&mut pool, Family::V4), ["10.0.0.254", "10.0.1.1"]);
    }

    #[test]
    fn avoid_buggy_ips_keeps_254_of_256_and_all_ipv6() {
        let pool = pool(&[("10.0.0.0", "10.255.255.255"), ("fd00::", "fd00::ff")], true);
        assert_eq!(pool.capacity(Family::V4), 65_536 * 254);
        assert_eq!(pool.capacity(Family::V6), 256);
    }

    #[test]
    fn subnet_router_anycast_address_is_not_selected() {
        let mut pool = pool(
            &[
                ("fd00::", "fd00::2"),
                ("fd00:0:0:1::", "fd00:0:0:1::"),
                ("10.0.0.0", "10.0.0.0"),
            ],
            false,
        );
        assert!(
            pool.contains("fd00::".parse().unwrap()),
            "a Service may request it"
        );
        assert_eq!(
            drain(&mut pool, Family::V6),
            ["fd00::1", "fd00::2", "fd00:0:0:1::"],
            "a range of one address is meant"
        );
        assert_eq!(drain(&mut pool, Family::V4), ["10.0.0.0"]);
        assert!(pool.mark_used("fd00::".parse().unwrap()));
    }

    #[test]
    fn pool_can_contain_all_of_ipv6() {
        let mut pool = pool(&[("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")], false);
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        assert!(pool.mark_used(last));
        assert!(!pool.mark_used(last));
        assert_eq!(
            pool.next_free(Family::V6, 0, &BTreeSet::new())
                .unwrap()
                .to_string(),
            "::1"
        );
        assert_eq!(pool.capacity(Family::V6), u128::MAX);
        assert!(pool.release(last, 0));
    }
}
