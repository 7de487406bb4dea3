//! Assigns addresses of pools to Services, and tracks which Service has which address.
//!
//! `S` identifies a Service. Pools are tried in a fixed order, so that the same cluster always leads to the same
//! addresses: first those that select Services, by priority, then those open to all; among equals by name.

mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::addresses::Addresses;
use crate::assignment::{Assignment, Origin, RecordedPools};
use crate::holders::{HolderIndex, ServiceId};
use crate::pool::Pool;
use crate::pool_error::PoolError;
use crate::pool_spec::Access;
use crate::pools::{PoolCandidate, RangeIndex, validate};
use crate::range::Family;
use crate::rejection::Rejection;
use crate::request::Request;
use crate::shared_addresses::SharedAddresses;
use crate::sharing::{Sharing, SharingMode};

/// A Service that lost addresses because pools changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClearedService<S> {
    /// The Service's id.
    pub service: S,
    /// Its assignment before; of two addresses it may have kept one.
    pub had: Assignment,
    /// Why it lost the address.
    pub rejection: Rejection,
}

/// The Services that a change of pools affects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolChanges<S> {
    /// Services that lost addresses.
    pub cleared: Vec<ClearedService<S>>,
    /// Services that keep their addresses, which belong to a pool of another name now.
    pub renamed: Vec<S>,
}

/// An accepted request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assigned {
    /// All addresses of the Service.
    pub assignment: Assignment,
    /// Why the address of the second requested family could not be assigned.
    pub incomplete: Option<Rejection>,
}

/// Addresses for a Service to request.
#[derive(Clone, Debug)]
pub struct AdoptRequest<'a> {
    /// The addresses that it has.
    pub addresses: Addresses,
    /// Its recorded pools: addresses of a pool that is currently invalid are kept too.
    pub recorded: RecordedPools<'a>,
    /// Exclusive, shared or draining.
    pub sharing_mode: SharingMode,
    /// Whether it keeps addresses that no pool contains, too.
    pub allow_outside_pools: bool,
}

/// Whether the `serviceAllocation` of a pool, by name, matches the Service in question.
pub type PoolFilter<'a> = &'a dyn Fn(&str) -> bool;

/// The pools and the addresses assigned from them.
#[derive(Clone, Debug)]
pub struct Allocator<S> {
    pools: BTreeMap<String, Result<Pool, PoolError>>,
    ranges: RangeIndex,
    holdings: BTreeMap<S, Holding>,
    holders: HolderIndex<S>,
    shared: SharedAddresses,
    /// Addresses that a Service gets only if it requests them.
    reserved: BTreeSet<IpAddr>,
    /// The releases of invalid pools, newest first: they count again once the pool is valid.
    invalid_releases: BTreeMap<String, Vec<(IpAddr, i64)>>,
    /// Seconds on a clock of the caller's choice.
    now: i64,
}

/// The addresses of one Service.
#[derive(Clone, Debug)]
struct Holding {
    assignment: Assignment,
    sharing_mode: SharingMode,
}

/// How a Service gets an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Acquisition {
    /// It has the address already: draining Services do not block it.
    Kept,
    /// It does not have the address yet.
    New,
}

impl<S> Default for Allocator<S> {
    fn default() -> Self {
        Self {
            pools: BTreeMap::new(),
            ranges: RangeIndex::default(),
            holdings: BTreeMap::new(),
            holders: HolderIndex::default(),
            shared: SharedAddresses::default(),
            reserved: BTreeSet::new(),
            invalid_releases: BTreeMap::new(),
            now: 0,
        }
    }
}

impl<S: ServiceId> Allocator<S> {
    /// Replaces the pools. A Service keeps an address as long as a valid pool contains it, under whatever name, or as
    /// long as its pool exists and is invalid: an error in a pool moves no address. Addresses outside every pool stay,
    /// and belong to a pool once one contains them.
    pub fn set_pools(&mut self, candidates: BTreeMap<String, PoolCandidate>) -> PoolChanges<S> {
        let (results, ranges) = validate(candidates, &self.pools);
        let mut before = std::mem::take(&mut self.pools);
        self.ranges = ranges;
        let mut unchanged = BTreeSet::new();
        let mut released = Vec::new();
        for (name, result) in results {
            let pool = match (result, before.remove(&name)) {
                (Ok(spec), Some(Ok(pool))) if pool.spec().has_same_accounting(&spec) => {
                    unchanged.insert(name.clone());
                    Ok(pool.with_spec(spec))
                }
                (Err(error), old) => {
                    if let Some(Ok(pool)) = old {
                        // Another pool may contain its addresses now.
                        released.extend(releases(&pool));
                        self.invalid_releases.insert(name.clone(), releases(&pool));
                    }
                    Err(error)
                }
                (Ok(spec), old) => {
                    released.extend(old.iter().flatten().flat_map(releases));
                    released.extend(self.invalid_releases.remove(&name).into_iter().flatten());
                    Ok(Pool::new(spec))
                }
            };
            self.pools.insert(name, pool);
        }
        released.extend(before.values().flatten().flat_map(releases));
        self.invalid_releases
            .retain(|name, _| matches!(self.pools.get(name), Some(Err(_))));
        // Of two releases of one address the newest counts; the oldest is restored first.
        released.sort_by_key(|(_, since)| std::cmp::Reverse(*since));
        let mut seen = BTreeSet::new();
        released.retain(|(address, _)| seen.insert(*address));
        for (address, since) in released.into_iter().rev() {
            self.remember_release(address, since);
        }
        let changed = self.reassess_holdings(&unchanged);
        self.advance_to(self.now);
        changed
    }

    /// Reassigns the origins of all Services with addresses of other pools than these.
    fn reassess_holdings(&mut self, unchanged: &BTreeSet<String>) -> PoolChanges<S> {
        let stays = |origin: &Origin| origin.pool().is_some_and(|name| unchanged.contains(&**name));
        let affected: Vec<_> = self
            .holdings
            .iter()
            .filter(|(_, holding)| !holding.assignment.parts().all(|(_, origin)| stays(origin)))
            .map(|(service, holding)| (service.clone(), holding.clone()))
            .collect();
        // Release all of them first, so that each pool counts from zero.
        for (service, _) in &affected {
            self.release(service);
        }
        let mut changed = PoolChanges {
            cleared: Vec::new(),
            renamed: Vec::new(),
        };
        for (service, holding) in affected {
            let Holding {
                assignment: had,
                sharing_mode,
            } = holding;
            let mut has = Assignment::default();
            let mut lost = None;
            for (address, origin) in had.parts() {
                let was_outside = matches!(origin, Origin::Outside(_));
                match self.origin(address, origin.name(), was_outside) {
                    Ok(origin) => has.add(address, origin),
                    Err(rejection) => lost = lost.or(Some(rejection)),
                }
            }
            if !has.is_empty() {
                self.record(&service, &has, sharing_mode);
            }
            match lost {
                Some(rejection) => changed.cleared.push(ClearedService {
                    service,
                    had,
                    rejection,
                }),
                None if has.pool_names() != had.pool_names() => changed.renamed.push(service),
                None => {}
            }
        }
        changed
    }

    /// Sets the addresses that a Service gets only if it requests them, such as those of nodes. Services that have one
    /// keep it.
    pub fn set_reserved(&mut self, addresses: BTreeSet<IpAddr>) {
        self.reserved = addresses;
    }

    /// Advances the clock, and frees addresses whose hold-down has ended. `now` is in seconds, on the same clock as the
    /// times given to [`Allocator::remember_release`].
    pub fn advance_to(&mut self, now: i64) {
        self.now = now;
        for pool in self.pools.values_mut().flatten() {
            pool.expire_hold_downs(now);
        }
    }

    /// When the next hold-down ends.
    #[must_use]
    pub fn next_hold_down_end(&self) -> Option<i64> {
        let pools = self.pools.values().flatten();
        pools.filter_map(|pool| pool.next_hold_down_end(self.now)).min()
    }

    /// Up to `limit` addresses of a pool that were released most recently, with the time of release, newest first.
    #[must_use]
    pub fn released(&self, pool: &str, limit: usize) -> Vec<(IpAddr, i64)> {
        match self.pools.get(pool) {
            Some(Ok(pool)) => pool.released(limit),
            Some(Err(_)) | None => {
                let released = self.invalid_releases.get(pool).into_iter().flatten();
                released.take(limit).copied().collect()
            }
        }
    }

    /// Restores the releases of a pool, newest first, as [`Allocator::released`] returned them.
    pub fn restore_releases(&mut self, pool: &str, released: &[(IpAddr, i64)]) {
        match self.pools.get(pool) {
            Some(Ok(_)) => {
                for (address, since) in released.iter().rev() {
                    self.remember_release(*address, *since);
                }
            }
            Some(Err(_)) => {
                self.invalid_releases.insert(pool.to_owned(), released.to_vec());
            }
            None => {}
        }
    }

    /// Restores the release time of an address, if no Service has it and its pool tracks releases.
    pub fn remember_release(&mut self, address: IpAddr, since: i64) {
        let Some((_, name)) = self.ranges.find(address) else {
            return;
        };
        if self.holders.holders_of(address).next().is_none()
            && let Some(Ok(pool)) = self.pools.get_mut(&**name)
        {
            pool.remember_release(address, since.min(self.now));
        }
    }

    /// The pools by name, or why they are invalid.
    pub fn pools(&self) -> impl Iterator<Item = (&str, Result<&Pool, &PoolError>)> {
        self.pools
            .iter()
            .map(|(name, pool)| (name.as_str(), pool.as_ref()))
    }

    /// One pool, or why it is invalid.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<Result<&Pool, &PoolError>> {
        self.pools.get(name).map(Result::as_ref)
    }

    /// The addresses of a Service.
    #[must_use]
    pub fn assignment(&self, service: &S) -> Option<&Assignment> {
        self.holdings.get(service).map(|holding| &holding.assignment)
    }

    /// How a Service holds its addresses.
    #[must_use]
    pub fn sharing_mode(&self, service: &S) -> Option<&SharingMode> {
        self.holdings.get(service).map(|holding| &holding.sharing_mode)
    }

    /// Every Service with addresses, in order.
    pub fn assignments(&self) -> impl Iterator<Item = (&S, &Assignment)> {
        self.holdings
            .iter()
            .map(|(service, holding)| (service, &holding.assignment))
    }

    /// The Services that have an address.
    pub fn holders(&self, address: IpAddr) -> impl Iterator<Item = &S> {
        self.holders.holders_of(address)
    }

    /// Assigns the requested addresses to a Service. Its present addresses are released first, unless they are part of
    /// the request. Pools with a `serviceAllocation` are used only if `pool_filter` allows them.
    ///
    /// # Errors
    /// If the request is rejected; the Service then has no address.
    pub fn assign(
        &mut self,
        service: &S,
        request: &Request,
        pool_filter: PoolFilter<'_>,
    ) -> Result<Assigned, Rejection> {
        let has = self.holdings.get(service).filter(|holding| {
            request.permits(&holding.assignment)
                && holding.sharing_mode == request.sharing_mode
                && self.first_disallowed(&holding.assignment, pool_filter).is_none()
        });
        let has = match has {
            Some(holding) => holding.assignment.clone(),
            None => {
                self.release(service);
                let selected = self.select(service, request, pool_filter)?;
                self.record(service, &selected, request.sharing_mode.clone());
                selected
            }
        };
        match self.second_family(service, &has, request, pool_filter) {
            Some(Ok(more)) => {
                let assignment = has.merge(&more);
                self.release(service);
                self.record(service, &assignment, request.sharing_mode.clone());
                Ok(Assigned {
                    assignment,
                    incomplete: None,
                })
            }
            second => Ok(Assigned {
                assignment: has,
                incomplete: second.and_then(Result::err),
            }),
        }
    }

    /// Records addresses that a Service has already, as its status shows. Its present addresses are released first.
    /// Quotas do not apply.
    ///
    /// # Errors
    /// If no pool contains an address, or another Service has it. Of two addresses the Service then keeps the other.
    pub fn adopt(&mut self, service: &S, request: AdoptRequest<'_>) -> Result<(), Rejection> {
        self.release(service);
        let mut kept = Assignment::default();
        let mut lost = None;
        for address in request.addresses.iter() {
            let recorded = request.recorded.for_family(Family::of(address));
            let origin = self
                .check_holders(service, address, &request.sharing_mode, Acquisition::Kept)
                .and_then(|()| self.origin(address, recorded, request.allow_outside_pools));
            match origin {
                Ok(origin) => kept.add(address, origin),
                Err(rejection) => lost = lost.or(Some(rejection)),
            }
        }
        if !kept.is_empty() {
            self.record(service, &kept, request.sharing_mode);
        }
        lost.map_or(Ok(()), Err)
    }

    /// Releases all addresses of a Service but these.
    pub fn reduce(&mut self, service: &S, to: &Addresses) {
        let Some(Holding {
            assignment,
            sharing_mode,
        }) = self.holdings.get(service).cloned()
        else {
            return;
        };
        let mut left = Assignment::default();
        for (address, origin) in assignment.parts() {
            if to.iter().any(|kept| kept == address) {
                left.add(address, origin.clone());
            }
        }
        self.release(service);
        if !left.is_empty() {
            self.record(service, &left, sharing_mode);
        }
    }

    /// Releases all addresses of a Service.
    pub fn release(&mut self, service: &S) -> Option<Assignment> {
        let Holding {
            assignment,
            sharing_mode,
        } = self.holdings.remove(service)?;
        for (address, origin) in assignment.parts() {
            let was_last = self.holders.remove(address, service);
            if let Some(Ok(pool)) = origin.pool().and_then(|name| self.pools.get_mut(&**name)) {
                if was_last {
                    pool.release(address, self.now);
                }
                if pool.has_quota()
                    && let Some(namespace) = self.holders.uncounted_namespace(service, address)
                {
                    pool.adjust_quota_use(namespace, Family::of(address), false);
                }
            }
            if let SharingMode::Shared(sharing) = &sharing_mode {
                self.update_shared(&sharing.key, address);
            }
        }
        Some(assignment)
    }

    fn record(&mut self, service: &S, assignment: &Assignment, sharing_mode: SharingMode) {
        for (address, origin) in assignment.parts() {
            if let Some(Ok(pool)) = origin.pool().and_then(|name| self.pools.get_mut(&**name)) {
                pool.mark_used(address);
                if pool.has_quota()
                    && let Some(namespace) = self.holders.uncounted_namespace(service, address)
                {
                    pool.adjust_quota_use(namespace, Family::of(address), true);
                }
            }
            self.holders.add(address, service);
        }
        let shared_under = match &sharing_mode {
            SharingMode::Shared(sharing) => Some(sharing.key.clone()),
            SharingMode::Exclusive | SharingMode::Draining => None,
        };
        let holding = Holding {
            assignment: assignment.clone(),
            sharing_mode,
        };
        self.holdings.insert(service.clone(), holding);
        if let Some(key) = shared_under {
            for address in assignment.addresses().iter() {
                self.update_shared(&key, address);
            }
        }
    }

    /// Updates the [`SharedAddresses`] of a key after a holder of the address has changed.
    fn update_shared(&mut self, key: &str, address: IpAddr) {
        let sharings = self
            .holders(address)
            .filter_map(|service| match self.sharing_mode(service) {
                Some(SharingMode::Shared(sharing)) if sharing.key == key => Some(&**sharing),
                Some(_) | None => None,
            });
        let combined = sharings.fold(None, |all: Option<Sharing>, one| match all {
            None => Some(one.clone()),
            Some(mut all) => {
                all.ports.extend(one.ports.iter().cloned());
                Some(all)
            }
        });
        self.shared.set(key, address, combined);
    }

    /// The first address of a Service from a pool that does not allow it, with the pool. Invalid pools allow their
    /// Services.
    #[must_use]
    pub fn first_disallowed<'a>(
        &self,
        has: &'a Assignment,
        pool_filter: PoolFilter<'_>,
    ) -> Option<(IpAddr, &'a str)> {
        has.parts().find_map(|(address, origin)| {
            let name = origin.pool()?;
            match self.pools.get(&**name) {
                Some(Ok(pool)) => (!pool_allows(pool, pool_filter)).then_some((address, &**name)),
                Some(Err(_)) | None => None,
            }
        })
    }

    /// The origin of an address that a Service has already.
    fn origin(
        &self,
        address: IpAddr,
        recorded: Option<&str>,
        allow_outside_pools: bool,
    ) -> Result<Origin, Rejection> {
        let invalid = |name: &&str| matches!(self.pools.get(*name), Some(Err(_)));
        match (self.pool_of(address), recorded.filter(invalid)) {
            (Ok(name), _) => Ok(Origin::Pool(name.clone())),
            (Err(Rejection::NotInAnyPool(_)), Some(invalid)) => Ok(Origin::Pool(invalid.into())),
            (Err(_), _) if allow_outside_pools => Ok(Origin::Outside(recorded.map(Arc::from))),
            (Err(rejection), _) => Err(rejection),
        }
    }

    fn pool_of(&self, address: IpAddr) -> Result<&Arc<str>, Rejection> {
        let Some((_, name)) = self.ranges.find(address) else {
            return Err(Rejection::NotInAnyPool(address));
        };
        match self.pools.get(&**name) {
            Some(Ok(pool)) if pool.contains(address) => Ok(name),
            Some(Ok(pool)) => Err(pool.unusable_reason(address)),
            Some(Err(_)) | None => Err(Rejection::NotInAnyPool(address)),
        }
    }
}

fn releases(pool: &Pool) -> Vec<(IpAddr, i64)> {
    pool.released(usize::MAX)
}

fn pool_allows(pool: &Pool, pool_filter: PoolFilter<'_>) -> bool {
    match pool.spec().access {
        Access::All => true,
        Access::Selected { .. } => pool_filter(&pool.spec().name),
    }
}
