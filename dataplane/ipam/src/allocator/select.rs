//! Selects the addresses for a request, or the rejection. Changes nothing.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Acquisition, Allocator, PoolFilter, pool_allows};
use crate::addresses::Addresses;
use crate::assignment::Assignment;
use crate::families::Families;
use crate::holders::ServiceId;
use crate::pool::Pool;
use crate::pool_spec::{Access, SharingScope};
use crate::range::Family;
use crate::rejection::{Rejection, excerpt};
use crate::request::{AddressRequest, Request};
use crate::sharing::{SharingConflict, SharingMode};

impl<S: ServiceId> Allocator<S> {
    /// Selects addresses for a Service without any.
    pub(super) fn select(
        &self,
        service: &S,
        request: &Request,
        pool_filter: PoolFilter<'_>,
    ) -> Result<Assignment, Rejection> {
        match &request.address {
            AddressRequest::Addresses { addresses, pool } => {
                self.requested_addresses(service, request, addresses, pool.as_deref(), pool_filter)
            }
            AddressRequest::Pool(name) => {
                let pool = self.named(name, pool_filter)?;
                self.first_fit(&[pool], service, request)
                    .map_err(|family| self.pool_rejection(pool, family, service, &request.sharing_mode))
            }
            AddressRequest::Any => {
                let pools = self.auto_pools(pool_filter);
                self.first_fit(&pools, service, request)
                    .map_err(|family| self.pools_rejection(&pools, family, service, &request.sharing_mode))
            }
        }
    }

    /// Selects an address of the second family for a Service that keeps its first; `None` if it requests only one.
    /// Pools that it has an address of come first.
    pub(super) fn second_family(
        &self,
        service: &S,
        has: &Assignment,
        request: &Request,
        pool_filter: PoolFilter<'_>,
    ) -> Option<Result<Assignment, Rejection>> {
        let family = request.missing_family(has)?;
        let pools = match &request.address {
            AddressRequest::Addresses { .. } => return None,
            AddressRequest::Pool(name) => match self.named(name, pool_filter) {
                Ok(pool) => vec![pool],
                Err(rejection) => return Some(Err(rejection)),
            },
            AddressRequest::Any => {
                let mut pools = self.auto_pools(pool_filter);
                let has_part =
                    |pool: &&Pool| has.parts().any(|(_, origin)| origin.pool() == Some(pool.name()));
                pools.sort_by_key(|pool| !has_part(pool));
                pools
            }
        };
        let mode = &request.sharing_mode;
        let more = self.first_of_any(&pools, family, service, mode);
        Some(match (more, pools.as_slice(), &request.address) {
            (Some(part), _, _) => Ok([part].into_iter().collect()),
            (None, [pool], AddressRequest::Pool(_)) => Err(self.pool_rejection(pool, family, service, mode)),
            (None, _, _) => Err(self.pools_rejection(&pools, family, service, mode)),
        })
    }

    /// Exactly these addresses.
    fn requested_addresses(
        &self,
        service: &S,
        request: &Request,
        addresses: &Addresses,
        requested_pool: Option<&str>,
        pool_filter: PoolFilter<'_>,
    ) -> Result<Assignment, Rejection> {
        let mut parts = Vec::new();
        for address in addresses.iter() {
            self.check_holders(service, address, &request.sharing_mode, Acquisition::New)?;
            let name = self.pool_of(address)?;
            let Some(Ok(pool)) = self.pools.get(&**name) else {
                return Err(Rejection::NotInAnyPool(address));
            };
            if !pool_allows(pool, pool_filter) {
                return Err(Rejection::NotSelected {
                    pool: name.to_string(),
                });
            }
            if let Some(requested) = requested_pool.filter(|requested| *requested != &**name) {
                return Err(Rejection::PoolMismatch {
                    addresses: *addresses,
                    pool: excerpt(requested),
                    actual: name.to_string(),
                });
            }
            if self.is_over_quota(pool, Family::of(address), service)
                && self.holders.uncounted_namespace(service, address).is_some()
            {
                return Err(quota_exceeded(pool, service));
            }
            parts.push((address, name));
        }
        Ok(parts.into_iter().collect())
    }

    fn named(&self, name: &str, pool_filter: PoolFilter<'_>) -> Result<&Pool, Rejection> {
        match self.pools.get(name) {
            None => Err(Rejection::UnknownPool(excerpt(name))),
            Some(Err(error)) => Err(Rejection::InvalidPool {
                pool: name.to_owned(),
                error: Box::new(error.clone()),
            }),
            Some(Ok(pool)) if !pool_allows(pool, pool_filter) => Err(Rejection::NotSelected {
                pool: name.to_owned(),
            }),
            Some(Ok(pool)) => Ok(pool),
        }
    }

    /// The pools that assign addresses to the Service without being named, in the order in which they are tried.
    fn auto_pools(&self, pool_filter: PoolFilter<'_>) -> Vec<&Pool> {
        let pools = self.pools.values().flatten();
        let mut pools: Vec<_> = pools
            .filter(|pool| pool.spec().auto_assign && pool_allows(pool, pool_filter))
            .collect();
        // The map is sorted by name, and the sort is stable.
        pools.sort_by_key(|pool| pool.spec().access.rank());
        pools
    }

    /// The first addresses that fit. Two families come from one pool if any has both, otherwise from two. A Service that
    /// prefers two gets one rather of a pool that selects it than two of a pool open to all, as in MetalLB. Returns the
    /// family that is missing if none fit.
    fn first_fit(&self, pools: &[&Pool], service: &S, request: &Request) -> Result<Assignment, Family> {
        match request.families {
            Families::Single(family) => self
                .first_of_any(pools, family, service, &request.sharing_mode)
                .map(|part| [part].into_iter().collect())
                .ok_or(family),
            Families::RequireDualStack => self.first_pair(pools, service, request),
            Families::PreferDualStack => {
                let selecting = pools.partition_point(|pool| pool.spec().access != Access::All);
                let (selecting, open) = pools.split_at(selecting);
                self.first_pair(selecting, service, request)
                    .or_else(|_| self.first_pair(open, service, request))
            }
        }
    }

    /// The first addresses of both families, or of one if the other is only preferred.
    fn first_pair(&self, pools: &[&Pool], service: &S, request: &Request) -> Result<Assignment, Family> {
        let of_any = |family| self.first_of_any(pools, family, service, &request.sharing_mode);
        let both = [Family::V4, Family::V6];
        let pair = pools.iter().find_map(|pool| {
            let part = |family| {
                Some((
                    self.first_of(pool, family, service, &request.sharing_mode)?,
                    pool.name(),
                ))
            };
            both.into_iter().map(part).collect::<Option<Assignment>>()
        });
        if let Some(pair) = pair {
            return Ok(pair);
        }
        match (request.families, both.map(of_any)) {
            (_, [Some(v4), Some(v6)]) => Ok([v4, v6].into_iter().collect()),
            (Families::PreferDualStack, [Some(part), None] | [None, Some(part)]) => {
                Ok([part].into_iter().collect())
            }
            (_, [None, _]) => Err(Family::V4),
            (_, [_, None]) => Err(Family::V6),
        }
    }

    /// The first address of the first pool that has one.
    fn first_of_any<'a>(
        &self,
        pools: &[&'a Pool],
        family: Family,
        service: &S,
        sharing_mode: &SharingMode,
    ) -> Option<(IpAddr, &'a Arc<str>)> {
        pools
            .iter()
            .find_map(|pool| Some((self.first_of(pool, family, service, sharing_mode)?, pool.name())))
    }

    /// The first address of a pool that is free, or that is shared under the Service's key without a conflict.
    fn first_of(
        &self,
        pool: &Pool,
        family: Family,
        service: &S,
        sharing_mode: &SharingMode,
    ) -> Option<IpAddr> {
        let over_quota = self.is_over_quota(pool, family, service);
        let free = pool
            .next_free(family, self.now, &self.reserved)
            .filter(|_| !over_quota);
        debug_assert!(
            free.is_none_or(|address| self.holders(address).next().is_none()),
            "a free address has a holder"
        );
        let SharingMode::Shared(sharing) = sharing_mode else {
            return free;
        };
        let fits = |address: &IpAddr| {
            pool.contains(*address)
                && self
                    .check_holders(service, *address, sharing_mode, Acquisition::New)
                    .is_ok()
                && !(over_quota && self.holders.uncounted_namespace(service, *address).is_some())
        };
        // Ranges are in the order of positions, and so are the addresses of one range.
        let mut ranges = pool.spec().ranges.iter().filter(|range| range.family() == family);
        let shared = ranges.find_map(|range| {
            let with_room = self.shared.with_room(sharing, range);
            with_room.filter_map(|mut group| group.find(fits)).min()
        });
        free.into_iter()
            .chain(shared)
            .min_by_key(|address| pool.position(*address))
    }

    fn is_over_quota(&self, pool: &Pool, family: Family, service: &S) -> bool {
        let used_up = |namespace| pool.quota_exhausted(namespace, family);
        pool.has_quota() && service.namespace().is_some_and(used_up)
    }

    /// Checks whether a Service can have an address together with its present holders.
    pub(super) fn check_holders(
        &self,
        service: &S,
        address: IpAddr,
        sharing_mode: &SharingMode,
        acquisition: Acquisition,
    ) -> Result<(), Rejection> {
        let mut draining = None;
        let mut has_other_holders = false;
        // Services that share an address already keep it.
        let within_namespace = acquisition == Acquisition::New
            && self
                .pool_of(address)
                .is_ok_and(|name| match self.pools.get(&**name) {
                    Some(Ok(pool)) => pool.spec().annotations.sharing_scope == SharingScope::Namespace,
                    Some(Err(_)) | None => false,
                });
        for other in self.holders(address).filter(|other| *other != service) {
            let Some(theirs) = self.sharing_mode(other) else {
                continue;
            };
            let conflict = match acquisition {
                Acquisition::New => sharing_mode.conflict_with(theirs),
                Acquisition::Kept => sharing_mode.conflict_while_kept(theirs),
            };
            let conflict = conflict.or_else(|| {
                let shared = matches!(theirs, SharingMode::Shared(_));
                (within_namespace && shared && service.namespace() != other.namespace())
                    .then_some(SharingConflict::Namespace)
            });
            if let Some(conflict) = conflict {
                let owner = other.to_string();
                return Err(match sharing_mode {
                    SharingMode::Shared(_) => Rejection::CannotShare {
                        address,
                        owner,
                        conflict,
                    },
                    SharingMode::Exclusive | SharingMode::Draining => {
                        Rejection::AddressInUse { address, owner }
                    }
                });
            }
            match theirs {
                SharingMode::Draining => draining = Some(other),
                SharingMode::Exclusive | SharingMode::Shared(_) => has_other_holders = true,
            }
        }
        match draining {
            Some(other) if !has_other_holders && acquisition == Acquisition::New => {
                Err(Rejection::AddressInUse {
                    address,
                    owner: other.to_string(),
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Why the first address of these pools that is shared under the Service's key has no room for it.
    fn no_room_to_share(
        &self,
        pools: &[&Pool],
        family: Family,
        service: &S,
        sharing_mode: &SharingMode,
    ) -> Option<Rejection> {
        let SharingMode::Shared(sharing) = sharing_mode else {
            return None;
        };
        let of_pool = |pool: &&Pool| {
            let addresses = self.shared.addresses(&sharing.key);
            let first = addresses
                .filter(|address| Family::of(*address) == family && pool.contains(*address))
                .min_by_key(|address| pool.position(*address))?;
            self.check_holders(service, first, sharing_mode, Acquisition::New)
                .err()
        };
        let reason = pools.iter().find_map(of_pool)?;
        Some(Rejection::NoRoomToShare(Box::new(reason)))
    }

    /// Why a pool has no address of a family for a Service.
    fn pool_rejection(
        &self,
        pool: &Pool,
        family: Family,
        service: &S,
        sharing_mode: &SharingMode,
    ) -> Rejection {
        if pool.capacity(family) == 0 {
            let pool = pool.spec().name.clone();
            return Rejection::PoolLacksFamily { pool, family };
        }
        if self.is_over_quota(pool, family, service) {
            return quota_exceeded(pool, service);
        }
        self.no_room_to_share(&[pool], family, service, sharing_mode)
            .unwrap_or_else(|| Rejection::PoolExhausted {
                pool: pool.usage(family, self.now),
                family,
            })
    }

    /// Why none of these pools has one.
    fn pools_rejection(
        &self,
        pools: &[&Pool],
        family: Family,
        service: &S,
        sharing_mode: &SharingMode,
    ) -> Rejection {
        let of_family = pools.iter().filter(|pool| pool.capacity(family) > 0);
        let mut limited = of_family.clone();
        if let Some(pool) = limited.find(|pool| self.is_over_quota(pool, family, service)) {
            return quota_exceeded(pool, service);
        }
        let full: Vec<_> = of_family.map(|pool| pool.usage(family, self.now)).collect();
        if !full.is_empty() {
            return self
                .no_room_to_share(pools, family, service, sharing_mode)
                .unwrap_or(Rejection::PoolsExhausted(full));
        }
        if !pools.is_empty() {
            return Rejection::NoPoolOfFamily(family);
        }
        let auto = self
            .pools
            .values()
            .flatten()
            .filter(|pool| pool.spec().auto_assign);
        let auto: Vec<_> = auto.map(|pool| pool.spec().name.clone()).collect();
        if !auto.is_empty() {
            return Rejection::NoPoolSelectsService { pools: auto };
        }
        if self.pools.values().any(Result::is_ok) {
            return Rejection::NoAutoAssign;
        }
        match self.pools.iter().next() {
            Some((name, Err(error))) => Rejection::OnlyInvalidPools {
                pool: name.clone(),
                error: Box::new(error.clone()),
            },
            Some((_, Ok(_))) | None => Rejection::NoPools,
        }
    }
}

fn quota_exceeded<S: ServiceId>(pool: &Pool, service: &S) -> Rejection {
    Rejection::QuotaExceeded {
        pool: pool.spec().name.clone(),
        namespace: service.namespace().unwrap_or_default().to_owned(),
        quota: pool.spec().annotations.namespace_quota.unwrap_or_default(),
    }
}
