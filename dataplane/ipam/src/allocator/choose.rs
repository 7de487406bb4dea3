//! Which addresses a Service gets, and why it gets none. Nothing here changes anything.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Allocator, Chosen, Claim, admits};
use crate::addresses::Addresses;
use crate::assignment::{Assignment, Tenant};
use crate::pool::Pool;
use crate::range::Family;
use crate::reason::{Rejection, Use, excerpt};
use crate::request::{Families, Request, Wish};
use crate::sharing::Tenancy;

impl<S: Tenant> Allocator<S> {
    /// What a Service can have that has nothing.
    pub(super) fn choose(
        &self,
        service: &S,
        request: &Request,
        chosen: Chosen<'_>,
    ) -> Result<Assignment, Rejection> {
        match &request.wish {
            Wish::Addresses { addresses, pool } => {
                self.exactly(service, request, addresses, pool.as_deref(), chosen)
            }
            Wish::Pool(name) => {
                let pool = self.named(name, chosen)?;
                self.first_fit(&[pool], service, request)
                    .map_err(|family| self.why_not(pool, family, service))
            }
            Wish::Any => {
                let pools = self.auto_pools(chosen);
                self.first_fit(&pools, service, request)
                    .map_err(|family| self.why_none(&pools, family, service))
            }
        }
    }

    /// The address of the other family that a Service can have beside what it has, which stays; none when it wants no
    /// more. The pools that it has something of come first.
    pub(super) fn one_more(
        &self,
        service: &S,
        has: &Assignment,
        request: &Request,
        chosen: Chosen<'_>,
    ) -> Option<Result<Assignment, Rejection>> {
        let family = request.missing(has)?;
        let pools = match &request.wish {
            Wish::Addresses { .. } => return None,
            Wish::Pool(name) => match self.named(name, chosen) {
                Ok(pool) => vec![pool],
                Err(reason) => return Some(Err(reason)),
            },
            Wish::Any => {
                let mut pools = self.auto_pools(chosen);
                let of_it = |pool: &&Pool| has.parts().any(|(_, origin)| origin.pool() == Some(pool.name()));
                pools.sort_by_key(|pool| !of_it(pool));
                pools
            }
        };
        let more = self.first_of_any(&pools, family, service, &request.tenancy);
        Some(match (more, pools.as_slice(), &request.wish) {
            (Some(part), _, _) => Ok([part].into_iter().collect()),
            (None, [pool], Wish::Pool(_)) => Err(self.why_not(pool, family, service)),
            (None, _, _) => Err(self.why_none(&pools, family, service)),
        })
    }

    /// These addresses and no others.
    fn exactly(
        &self,
        service: &S,
        request: &Request,
        addresses: &Addresses,
        wanted_pool: Option<&str>,
        chosen: Chosen<'_>,
    ) -> Result<Assignment, Rejection> {
        let mut parts = Vec::new();
        for address in addresses.iter() {
            self.has_room(service, address, &request.tenancy, Claim::New)?;
            let name = self.pool_of(address)?;
            let Some(Ok(pool)) = self.pools.get(&**name) else {
                return Err(Rejection::NotInAnyPool(address));
            };
            if !admits(pool, chosen) {
                return Err(Rejection::NotChosen {
                    pool: name.to_string(),
                });
            }
            if let Some(wanted) = wanted_pool.filter(|wanted| *wanted != &**name) {
                return Err(Rejection::OtherPool {
                    addresses: *addresses,
                    pool: excerpt(wanted),
                    actual: name.to_string(),
                });
            }
            if self.is_over_quota(pool, Family::of(address), service)
                && self.tenants.new_namespace(service, address).is_some()
            {
                return Err(over_quota(pool, service));
            }
            parts.push((address, name));
        }
        Ok(parts.into_iter().collect())
    }

    fn named(&self, name: &str, chosen: Chosen<'_>) -> Result<&Pool, Rejection> {
        match self.pools.get(name) {
            None => Err(Rejection::UnknownPool(excerpt(name))),
            Some(Err(error)) => Err(Rejection::InvalidPool {
                pool: name.to_owned(),
                reason: error.to_string(),
            }),
            Some(Ok(pool)) if !admits(pool, chosen) => Err(Rejection::NotChosen {
                pool: name.to_owned(),
            }),
            Some(Ok(pool)) => Ok(pool),
        }
    }

    /// The pools that a Service can get an address from without asking for one, in the order in which they are tried.
    fn auto_pools(&self, chosen: Chosen<'_>) -> Vec<&Pool> {
        let pools = self.pools.values().flatten();
        let mut pools: Vec<_> = pools
            .filter(|pool| pool.spec().auto_assign && admits(pool, chosen))
            .collect();
        // By name already; the sort is stable.
        pools.sort_by_key(|pool| pool.spec().access.rank());
        pools
    }

    /// The first addresses that a Service can have. Two families come from one pool if any has both, else from two.
    /// If that cannot be: the family that is missing.
    fn first_fit(&self, pools: &[&Pool], service: &S, request: &Request) -> Result<Assignment, Family> {
        let of_any = |family| self.first_of_any(pools, family, service, &request.tenancy);
        if let Families::One(family) = request.families {
            return of_any(family)
                .map(|part| [part].into_iter().collect())
                .ok_or(family);
        }
        let both = [Family::V4, Family::V6];
        let pair = pools.iter().find_map(|pool| {
            let part = |family| {
                Some((
                    self.first_of(pool, family, service, &request.tenancy)?,
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
            (Families::Prefer, [Some(part), None] | [None, Some(part)]) => Ok([part].into_iter().collect()),
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
        tenancy: &Tenancy,
    ) -> Option<(IpAddr, &'a Arc<str>)> {
        pools
            .iter()
            .find_map(|pool| Some((self.first_of(pool, family, service, tenancy)?, pool.name())))
    }

    /// The first address of a pool that is free, or that is shared under the Service's key and fits it. The pool's own
    /// count of what is used is exact: see the tests.
    fn first_of(&self, pool: &Pool, family: Family, service: &S, tenancy: &Tenancy) -> Option<IpAddr> {
        let over_quota = self.is_over_quota(pool, family, service);
        let free = pool.next_free(family, self.now).filter(|_| !over_quota);
        debug_assert!(
            free.is_none_or(|address| self.who_has(address).next().is_none()),
            "free and had"
        );
        let Tenancy::Shares(sharing) = tenancy else {
            return free;
        };
        let fits = |address: &IpAddr| {
            pool.contains(*address)
                && self.has_room(service, *address, tenancy, Claim::New).is_ok()
                && !(over_quota && self.tenants.new_namespace(service, *address).is_some())
        };
        // The ranges are in the order of positions, and so are the addresses of one range.
        let mut ranges = pool.spec().ranges.iter().filter(|range| range.family() == family);
        let shared = ranges.find_map(|range| {
            let with_room = self.shared.with_room(sharing, range);
            with_room.filter_map(|mut kind| kind.find(fits)).min()
        });
        free.into_iter()
            .chain(shared)
            .min_by_key(|address| pool.position(*address))
    }

    fn is_over_quota(&self, pool: &Pool, family: Family, service: &S) -> bool {
        let used_up = |namespace| pool.quota_is_used_up(namespace, family);
        pool.has_quota() && service.namespace().is_some_and(used_up)
    }

    /// Whether a Service can have an address beside those who have it already.
    pub(super) fn has_room(
        &self,
        service: &S,
        address: IpAddr,
        tenancy: &Tenancy,
        claim: Claim,
    ) -> Result<(), Rejection> {
        let mut leaving = None;
        let mut lives_there = false;
        for other in self.who_has(address).filter(|other| *other != service) {
            let Some(theirs) = self.tenancy(other) else {
                continue;
            };
            if let Some(conflict) = tenancy.conflict_with(theirs) {
                let owner = other.to_string();
                return Err(match tenancy {
                    Tenancy::Shares(_) => Rejection::CannotShare {
                        address,
                        owner,
                        conflict,
                    },
                    Tenancy::Alone | Tenancy::Leaves => Rejection::Taken { address, owner },
                });
            }
            match theirs {
                Tenancy::Leaves => leaving = Some(other),
                Tenancy::Alone | Tenancy::Shares(_) => lives_there = true,
            }
        }
        match leaving {
            Some(other) if !lives_there && claim == Claim::New => Err(Rejection::Taken {
                address,
                owner: other.to_string(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Why a pool gives a Service no address of a family.
    fn why_not(&self, pool: &Pool, family: Family, service: &S) -> Rejection {
        if pool.capacity(family) == 0 {
            let pool = pool.spec().name.clone();
            return Rejection::PoolLacksFamily { pool, family };
        }
        if self.is_over_quota(pool, family, service) {
            return over_quota(pool, service);
        }
        let pool = Use::of(pool, family, self.now);
        Rejection::PoolExhausted { pool, family }
    }

    /// Why none of these pools does.
    fn why_none(&self, pools: &[&Pool], family: Family, service: &S) -> Rejection {
        let of_family = pools.iter().filter(|pool| pool.capacity(family) > 0);
        let mut limited = of_family.clone();
        if let Some(pool) = limited.find(|pool| self.is_over_quota(pool, family, service)) {
            return over_quota(pool, service);
        }
        let full: Vec<_> = of_family.map(|pool| Use::of(pool, family, self.now)).collect();
        if !full.is_empty() {
            return Rejection::Exhausted(full);
        }
        if !pools.is_empty() {
            return Rejection::NoFamily(family);
        }
        let mut for_others = self
            .pools
            .values()
            .flatten()
            .filter(|pool| pool.spec().auto_assign);
        if let Some(pool) = for_others.next() {
            return Rejection::ChosenByNone {
                pool: pool.spec().name.clone(),
            };
        }
        if self.pools.values().any(Result::is_ok) {
            return Rejection::NoAutoAssign;
        }
        match self.pools.iter().next() {
            Some((name, Err(error))) => Rejection::OnlyInvalidPools {
                pool: name.clone(),
                reason: error.to_string(),
            },
            Some((_, Ok(_))) | None => Rejection::NoPools,
        }
    }
}

fn over_quota<S: Tenant>(pool: &Pool, service: &S) -> Rejection {
    Rejection::OverQuota {
        pool: pool.spec().name.clone(),
        namespace: service.namespace().unwrap_or_default().to_owned(),
        quota: pool.spec().extras.namespace_quota.unwrap_or_default(),
    }
}
