//! Who has what: each Service's addresses, each address's Services, and the use of each pool.
//!
//! `S` names a Service; the allocator knows nothing else about it. Pools are tried in a fixed order, so that the same
//! cluster always comes to the same addresses: first those that are for some Services only, by priority, then those for
//! everybody; among equals by name.

mod choose;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::addresses::Addresses;
use crate::assignment::{Assignment, Claimed, Origin, Tenant};
use crate::pool::{Access, Pool};
use crate::pools::{Candidate, PoolError, Ranges, judge};
use crate::range::Family;
use crate::reason::Rejection;
use crate::request::Request;
use crate::sharing::{Sharing, Tenancy};
use crate::tenants::{Register, Shared};

/// A Service that lost addresses by a change of pools.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cleared<S> {
    /// The Service.
    pub service: S,
    /// What it had; the other address of two it has still.
    pub had: Assignment,
    /// Why it cannot keep it.
    pub reason: Rejection,
}

/// What a change of pools means for Services; for all others it means nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed<S> {
    /// Services that lost addresses.
    pub cleared: Vec<Cleared<S>>,
    /// Services that keep their addresses, which are of a pool of another name now.
    pub renamed: Vec<S>,
}

/// What came of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Given {
    /// What the Service has now.
    pub assignment: Assignment,
    /// Why an address of another family, which it wants too, is not among it.
    pub lacks: Option<Rejection>,
}

/// What a Service is to keep.
#[derive(Clone, Debug)]
pub struct Keep<'a> {
    /// The addresses that it has had.
    pub addresses: Addresses,
    /// The pools that they are said to be from: addresses of a pool that is invalid now are kept too.
    pub claimed: Claimed<'a>,
    /// How it is to have them.
    pub tenancy: Tenancy,
    /// Whether it keeps also what no pool has.
    pub outside: bool,
}

/// Whether a pool that is not for everybody, by name, is for the Service in question.
pub type Chosen<'a> = &'a dyn Fn(&str) -> bool;

/// Pools, and who has which address of them.
#[derive(Clone, Debug)]
pub struct Allocator<S> {
    pools: BTreeMap<String, Result<Pool, PoolError>>,
    ranges: Ranges,
    holdings: BTreeMap<S, Holding>,
    tenants: Register<S>,
    shared: Shared,
    /// Seconds on a clock of the caller's choice.
    now: i64,
}

/// What a Service has, and how.
#[derive(Clone, Debug)]
struct Holding {
    assignment: Assignment,
    tenancy: Tenancy,
}

/// How a Service comes to an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Claim {
    /// It has had it: those who are leaving it do not stand in the way.
    Old,
    /// It is to get it.
    New,
}

impl<S> Default for Allocator<S> {
    fn default() -> Self {
        Self {
            pools: BTreeMap::new(),
            ranges: Ranges::default(),
            holdings: BTreeMap::new(),
            tenants: Register::default(),
            shared: Shared::default(),
            now: 0,
        }
    }
}

impl<S: Tenant> Allocator<S> {
    /// Replaces the pools. Services keep what they have as long as a valid pool has it, under whatever name, or as long
    /// as the pool it is from exists and is invalid: a mistake in a pool moves nobody. The others lose what they have.
    /// What was outside every pool stays, and is of a pool from now on if one has it.
    pub fn set_pools(&mut self, candidates: BTreeMap<String, Candidate>) -> Changed<S> {
        let (verdicts, ranges) = judge(candidates, &self.pools);
        let mut before = std::mem::take(&mut self.pools);
        self.ranges = ranges;
        let mut unchanged = BTreeSet::new();
        let mut released = Vec::new();
        for (name, verdict) in verdicts {
            let pool = match (verdict, before.remove(&name)) {
                (Ok(spec), Some(Ok(pool))) if pool.spec().counts_as(&spec) => {
                    unchanged.insert(name.clone());
                    Ok(pool.with_spec(spec))
                }
                (verdict, old) => {
                    released.extend(old.iter().flatten().flat_map(all_released));
                    verdict.map(Pool::new)
                }
            };
            self.pools.insert(name, pool);
        }
        released.extend(before.values().flatten().flat_map(all_released));
        for (address, since) in released.into_iter().rev() {
            self.remember_release(address, since);
        }
        let changed = self.move_holdings(&unchanged);
        self.pass_to(self.now);
        changed
    }

    /// Looks at every Service again that has something of other pools than these.
    fn move_holdings(&mut self, unchanged: &BTreeSet<String>) -> Changed<S> {
        let stays = |origin: &Origin| origin.pool().is_some_and(|name| unchanged.contains(&**name));
        let affected: Vec<_> = self
            .holdings
            .iter()
            .filter(|(_, holding)| !holding.assignment.parts().all(|(_, origin)| stays(origin)))
            .map(|(service, holding)| (service.clone(), holding.clone()))
            .collect();
        // All of them first, so that each pool counts anew from nothing.
        for (service, _) in &affected {
            self.release(service);
        }
        let mut changed = Changed {
            cleared: Vec::new(),
            renamed: Vec::new(),
        };
        for (service, holding) in affected {
            let Holding {
                assignment: had,
                tenancy,
            } = holding;
            let mut has = Assignment::default();
            let mut lost = None;
            for (address, origin) in had.parts() {
                let was_outside = matches!(origin, Origin::Outside(_));
                match self.origin(address, origin.name(), was_outside) {
                    Ok(origin) => has.add(address, origin),
                    Err(reason) => lost = lost.or(Some(reason)),
                }
            }
            if !has.is_empty() {
                self.record(&service, &has, tenancy);
            }
            match lost {
                Some(reason) => changed.cleared.push(Cleared { service, had, reason }),
                None if has.pool_names() != had.pool_names() => changed.renamed.push(service),
                None => {}
            }
        }
        changed
    }

    /// Time passes: addresses that were held back may be given again. `now` is in seconds, and on the same clock as
    /// times given to [`Allocator::remember_release`].
    pub fn pass_to(&mut self, now: i64) {
        self.now = now;
        for pool in self.pools.values_mut().flatten() {
            pool.wake(now);
        }
    }

    /// When an address can be given next that is held back now.
    #[must_use]
    pub fn next_wake(&self) -> Option<i64> {
        let pools = self.pools.values().flatten();
        pools.filter_map(|pool| pool.next_wake(self.now)).min()
    }

    /// Remembers that an address was released at some time, if nobody has it and its pool wants to know.
    pub fn remember_release(&mut self, address: IpAddr, since: i64) {
        let Some((_, name)) = self.ranges.find(address) else {
            return;
        };
        if self.tenants.who_has(address).next().is_none()
            && let Some(Ok(pool)) = self.pools.get_mut(&**name)
        {
            pool.remember_release(address, since.min(self.now));
        }
    }

    /// The pools by name, and why the invalid ones are.
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

    /// What a Service has.
    #[must_use]
    pub fn assignment(&self, service: &S) -> Option<&Assignment> {
        self.holdings.get(service).map(|holding| &holding.assignment)
    }

    /// How a Service has what it has.
    #[must_use]
    pub fn tenancy(&self, service: &S) -> Option<&Tenancy> {
        self.holdings.get(service).map(|holding| &holding.tenancy)
    }

    /// Every Service that has something, in order.
    pub fn assignments(&self) -> impl Iterator<Item = (&S, &Assignment)> {
        self.holdings
            .iter()
            .map(|(service, holding)| (service, &holding.assignment))
    }

    /// Who has an address.
    pub fn who_has(&self, address: IpAddr) -> impl Iterator<Item = &S> {
        self.tenants.who_has(address)
    }

    /// Gives a Service what it asks for. What it had is released first, unless it is part of what it asks for. `chosen`
    /// says of a pool that is not for everybody, by name, whether it is for this Service.
    ///
    /// # Errors
    /// When it cannot be given; the Service then has nothing.
    pub fn assign(&mut self, service: &S, request: &Request, chosen: Chosen<'_>) -> Result<Given, Rejection> {
        let has = self.holdings.get(service).filter(|holding| {
            request.allows(&holding.assignment)
                && holding.tenancy == request.tenancy
                && self.shuts_out(&holding.assignment, chosen).is_none()
        });
        if let Some(Holding { assignment: has, .. }) = has {
            let has = has.clone();
            let lacks = match self.one_more(service, &has, request, chosen) {
                Some(Ok(more)) => {
                    let assignment = has.and(&more);
                    self.release(service);
                    self.record(service, &assignment, request.tenancy.clone());
                    return Ok(Given {
                        assignment,
                        lacks: None,
                    });
                }
                Some(Err(reason)) => Some(reason),
                None => None,
            };
            return Ok(Given {
                assignment: has,
                lacks,
            });
        }
        self.release(service);
        let assignment = self.choose(service, request, chosen)?;
        self.record(service, &assignment, request.tenancy.clone());
        let lacks = self.one_more(service, &assignment, request, chosen);
        Ok(Given {
            assignment,
            lacks: lacks.and_then(Result::err),
        })
    }

    /// Lets a Service keep addresses that it was given earlier, as its status says. What it had is released first. A
    /// quota takes nothing away.
    ///
    /// # Errors
    /// When an address is of no pool, or somebody has it. The Service then has the other one of two.
    pub fn adopt(&mut self, service: &S, keep: Keep<'_>) -> Result<(), Rejection> {
        self.release(service);
        let mut kept = Assignment::default();
        let mut lost = None;
        for address in keep.addresses.iter() {
            let claimed = keep.claimed.of(Family::of(address));
            let origin = self
                .has_room(service, address, &keep.tenancy, Claim::Old)
                .and_then(|()| self.origin(address, claimed, keep.outside));
            match origin {
                Ok(origin) => kept.add(address, origin),
                Err(reason) => lost = lost.or(Some(reason)),
            }
        }
        if !kept.is_empty() {
            self.record(service, &kept, keep.tenancy);
        }
        lost.map_or(Ok(()), Err)
    }

    /// Lets a Service keep these of its addresses alone.
    pub fn reduce(&mut self, service: &S, to: &Addresses) {
        let Some(Holding { assignment, tenancy }) = self.holdings.get(service).cloned() else {
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
            self.record(service, &left, tenancy);
        }
    }

    /// Takes back what a Service has.
    pub fn release(&mut self, service: &S) -> Option<Assignment> {
        let Holding { assignment, tenancy } = self.holdings.remove(service)?;
        for (address, origin) in assignment.parts() {
            let nobody = self.tenants.remove(address, service);
            if let Some(Ok(pool)) = origin.pool().and_then(|name| self.pools.get_mut(&**name)) {
                if nobody {
                    pool.give_back(address, self.now);
                }
                if pool.has_quota()
                    && let Some(namespace) = self.tenants.new_namespace(service, address)
                {
                    pool.count(namespace, Family::of(address), false);
                }
            }
            if let Tenancy::Shares(sharing) = &tenancy {
                self.share(&sharing.key, address);
            }
        }
        Some(assignment)
    }

    fn record(&mut self, service: &S, assignment: &Assignment, tenancy: Tenancy) {
        for (address, origin) in assignment.parts() {
            if let Some(Ok(pool)) = origin.pool().and_then(|name| self.pools.get_mut(&**name)) {
                pool.take(address);
                if pool.has_quota()
                    && let Some(namespace) = self.tenants.new_namespace(service, address)
                {
                    pool.count(namespace, Family::of(address), true);
                }
            }
            self.tenants.add(address, service);
        }
        let shared_under = match &tenancy {
            Tenancy::Shares(sharing) => Some(sharing.key.clone()),
            Tenancy::Alone | Tenancy::Leaves => None,
        };
        let holding = Holding {
            assignment: assignment.clone(),
            tenancy,
        };
        self.holdings.insert(service.clone(), holding);
        if let Some(key) = shared_under {
            for address in assignment.addresses().iter() {
                self.share(&key, address);
            }
        }
    }

    /// Takes in that others share an address under a key than before.
    fn share(&mut self, key: &str, address: IpAddr) {
        let theirs = self
            .who_has(address)
            .filter_map(|service| match self.tenancy(service) {
                Some(Tenancy::Shares(sharing)) if sharing.key == key => Some(&**sharing),
                Some(_) | None => None,
            });
        let all = theirs.fold(None, |all: Option<Sharing>, one| match all {
            None => Some(one.clone()),
            Some(mut all) => {
                all.ports.extend(one.ports.iter().cloned());
                Some(all)
            }
        });
        self.shared.set(key, address, all);
    }

    /// The first pool that a Service has something of and may not use. An invalid pool shuts nobody out of what they
    /// have.
    #[must_use]
    pub fn shuts_out<'a>(&self, has: &'a Assignment, chosen: Chosen<'_>) -> Option<(IpAddr, &'a str)> {
        has.parts().find_map(|(address, origin)| {
            let name = origin.pool()?;
            match self.pools.get(&**name) {
                Some(Ok(pool)) => (!admits(pool, chosen)).then_some((address, &**name)),
                Some(Err(_)) | None => None,
            }
        })
    }

    /// Where an address is from that a Service has had.
    fn origin(&self, address: IpAddr, claimed: Option<&str>, outside: bool) -> Result<Origin, Rejection> {
        let invalid = |name: &&str| matches!(self.pools.get(*name), Some(Err(_)));
        match (self.pool_of(address), claimed.filter(invalid)) {
            (Ok(name), _) => Ok(Origin::Pool(name.clone())),
            (Err(Rejection::NotInAnyPool(_)), Some(invalid)) => Ok(Origin::Pool(invalid.into())),
            (Err(_), _) if outside => Ok(Origin::Outside(claimed.map(Arc::from))),
            (Err(reason), _) => Err(reason),
        }
    }

    fn pool_of(&self, address: IpAddr) -> Result<&Arc<str>, Rejection> {
        let Some((_, name)) = self.ranges.find(address) else {
            return Err(Rejection::NotInAnyPool(address));
        };
        match self.pools.get(&**name) {
            Some(Ok(pool)) if pool.contains(address) => Ok(name),
            Some(Ok(pool)) => Err(pool.why_left_out(address)),
            Some(Err(_)) | None => Err(Rejection::NotInAnyPool(address)),
        }
    }
}

fn all_released(pool: &Pool) -> Vec<(IpAddr, i64)> {
    pool.released(usize::MAX)
}

fn admits(pool: &Pool, chosen: Chosen<'_>) -> bool {
    match pool.spec().access {
        Access::Everybody => true,
        Access::Chosen { .. } => chosen(&pool.spec().name),
    }
}
