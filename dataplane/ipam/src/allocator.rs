//! Who has what. Two maps that are each other's inverse, and the use of each pool.
//!
//! `S` names a Service; the allocator knows nothing else about it. Pools are tried in a fixed order, so that the same
//! cluster always comes to the same addresses: first those that are for some Services only, by priority, then those for
//! everybody; among equals by name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use crate::addresses::Addresses;
use crate::pool::{Access, Pool, PoolSpec};
use crate::pools::{Candidate, PoolError, Ranges, judge};
use crate::range::Family;
use crate::reason::{Rejection, Use};
use crate::request::{Families, Request, Wish};

/// What a Service has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assignment {
    /// The addresses.
    pub addresses: Addresses,
    /// The pool that they are of; the name is shared, not copied.
    pub pool: Arc<str>,
}

/// A Service that lost its addresses by a change of pools.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cleared<S> {
    /// The Service.
    pub service: S,
    /// What it had.
    pub had: Assignment,
    /// Why it cannot keep it.
    pub reason: Rejection,
}

/// What a change of pools means for Services; for all others it means nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed<S> {
    /// Services that lost their addresses.
    pub cleared: Vec<Cleared<S>>,
    /// Services that keep their addresses, which are of a pool of another name now.
    pub renamed: Vec<S>,
}

/// Pools, and who has which address of them.
#[derive(Clone, Debug)]
pub struct Allocator<S> {
    pools: BTreeMap<String, Result<Pool, PoolError>>,
    ranges: Ranges,
    assignments: BTreeMap<S, Assignment>,
    owners: BTreeMap<IpAddr, S>,
}

impl<S> Default for Allocator<S> {
    fn default() -> Self {
        Self {
            pools: BTreeMap::new(),
            ranges: Ranges::default(),
            assignments: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }
}

impl<S: Clone + Ord + Display> Allocator<S> {
    /// Replaces the pools. Services keep what they have as long as a valid pool has it, under whatever name, or as long
    /// as the pool it is from exists and is invalid: a mistake in a pool moves nobody. The others lose what they have.
    pub fn set_pools(&mut self, candidates: BTreeMap<String, Candidate>) -> Changed<S> {
        let (verdicts, ranges) = judge(candidates, &self.pools);
        let mut before = std::mem::take(&mut self.pools);
        self.ranges = ranges;
        let mut unchanged = Vec::new();
        for (name, verdict) in verdicts {
            let pool = match (verdict, before.remove(&name)) {
                (Err(error), _) => Err(error),
                (Ok(spec), Some(Ok(pool))) if same_addresses(pool.spec(), &spec) => {
                    unchanged.push(name.clone());
                    Ok(pool.with_spec(spec))
                }
                (Ok(spec), _) => Ok(Pool::new(spec)),
            };
            self.pools.insert(name, pool);
        }
        let affected: Vec<_> = self
            .assignments
            .iter()
            .filter(|(_, assignment)| {
                unchanged
                    .binary_search_by(|name: &String| (**name).cmp(&assignment.pool))
                    .is_err()
            })
            .map(|(service, assignment)| (service.clone(), assignment.clone()))
            .collect();
        let mut changed = Changed {
            cleared: Vec::new(),
            renamed: Vec::new(),
        };
        for (service, had) in affected {
            match self.adopt(&service, had.addresses, Some(&had.pool)) {
                Ok(has) if has.pool == had.pool => {}
                Ok(_) => changed.renamed.push(service),
                Err(reason) => changed.cleared.push(Cleared { service, had, reason }),
            }
        }
        changed
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
        self.assignments.get(service)
    }

    /// Every Service that has something, in order.
    pub fn assignments(&self) -> impl Iterator<Item = (&S, &Assignment)> {
        self.assignments.iter()
    }

    /// Who has an address.
    #[must_use]
    pub fn who_has(&self, address: IpAddr) -> Option<&S> {
        self.owners.get(&address)
    }

    /// Whether a valid pool has the address to give, used or not.
    #[must_use]
    pub fn is_of_a_pool(&self, address: IpAddr) -> bool {
        self.pool_of(address).is_ok()
    }

    /// Gives a Service what it asks for. What it had is released first, unless that is what it asks for. `chosen` says of
    /// a pool that is not for everybody, by name, whether it is for this Service.
    ///
    /// # Errors
    /// When it cannot be given; the Service then has nothing.
    pub fn assign(
        &mut self,
        service: &S,
        request: &Request,
        chosen: Chosen<'_>,
    ) -> Result<Assignment, Rejection> {
        if let Some(has) = self.assignments.get(service)
            && request.is_met_by(&has.addresses, &has.pool)
            && self.admits(&has.pool, chosen)
        {
            return Ok(has.clone());
        }
        self.release(service);
        let assignment = self.choose(service, request, chosen)?;
        self.record(service, &assignment);
        Ok(assignment)
    }

    /// Lets a Service keep addresses that it was given earlier, as its status says. `pool` is where they came from, as
    /// far as is known: addresses of a pool that is invalid now are kept too. What it had is released first.
    ///
    /// # Errors
    /// When the addresses are of no pool, or somebody has them; the Service then has nothing.
    pub fn adopt(
        &mut self,
        service: &S,
        addresses: Addresses,
        pool: Option<&str>,
    ) -> Result<Assignment, Rejection> {
        self.release(service);
        let from = match self.check(service, &addresses) {
            Ok(from) => from,
            Err(Rejection::NotInAnyPool(address)) => {
                let invalid = pool.filter(|name| matches!(self.pools.get(*name), Some(Err(_))));
                invalid.map(Arc::from).ok_or(Rejection::NotInAnyPool(address))?
            }
            Err(reason) => return Err(reason),
        };
        let assignment = Assignment {
            addresses,
            pool: from,
        };
        self.record(service, &assignment);
        Ok(assignment)
    }

    /// Takes back what a Service has.
    pub fn release(&mut self, service: &S) -> Option<Assignment> {
        let assignment = self.assignments.remove(service)?;
        for address in assignment.addresses.iter() {
            if let Some(Ok(pool)) = self.pools.get_mut(&*assignment.pool) {
                pool.give_back(address);
            }
            self.owners.remove(&address);
        }
        Some(assignment)
    }

    fn record(&mut self, service: &S, assignment: &Assignment) {
        for address in assignment.addresses.iter() {
            if let Some(Ok(pool)) = self.pools.get_mut(&*assignment.pool) {
                pool.take(address);
            }
            self.owners.insert(address, service.clone());
        }
        self.assignments.insert(service.clone(), assignment.clone());
    }

    /// Whether a Service may use a pool. An invalid pool shuts nobody out of what they have.
    #[must_use]
    pub fn admits(&self, pool: &str, chosen: Chosen<'_>) -> bool {
        match self.pools.get(pool) {
            Some(Ok(pool)) => admits(pool, chosen),
            Some(Err(_)) | None => true,
        }
    }

    fn choose(&self, service: &S, request: &Request, chosen: Chosen<'_>) -> Result<Assignment, Rejection> {
        match &request.wish {
            Wish::Addresses { addresses, pool } => {
                let actual = self.check(service, addresses)?;
                if !self.admits(&actual, chosen) {
                    return Err(Rejection::NotChosen {
                        pool: actual.to_string(),
                    });
                }
                match pool {
                    Some(pool) if **pool != *actual => Err(Rejection::OtherPool {
                        addresses: *addresses,
                        pool: pool.clone(),
                        actual: actual.to_string(),
                    }),
                    Some(_) | None => Ok(Assignment {
                        addresses: *addresses,
                        pool: actual,
                    }),
                }
            }
            Wish::Pool(name) => match self.pools.get(name) {
                None => Err(Rejection::UnknownPool(name.clone())),
                Some(Err(error)) => Err(Rejection::InvalidPool {
                    pool: name.clone(),
                    reason: error.to_string(),
                }),
                Some(Ok(pool)) if !admits(pool, chosen) => Err(Rejection::NotChosen { pool: name.clone() }),
                Some(Ok(pool)) => self
                    .first_free(&[pool], request.families)
                    .ok_or_else(|| why_not(pool, request.families)),
            },
            Wish::Any => {
                let pools = self.auto_pools(chosen);
                self.first_free(&pools, request.families)
                    .ok_or_else(|| self.why_none(&pools, request.families))
            }
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

    /// The first free addresses of the first pool that has them. A better combination of families in a later pool wins
    /// over a worse one in an earlier pool.
    fn first_free(&self, pools: &[&Pool], families: Families) -> Option<Assignment> {
        families.choices().into_iter().find_map(|choice| {
            pools.iter().find_map(|pool| {
                let free = choice.iter().map(|family| self.first_unowned(pool, *family));
                let addresses = free.collect::<Option<Addresses>>()?;
                Some(Assignment {
                    addresses,
                    pool: pool.name().clone(),
                })
            })
        })
    }

    /// The first free address of a pool. Its own count of what is used is exact: see the tests.
    fn first_unowned(&self, pool: &Pool, family: Family) -> Option<IpAddr> {
        let address = pool.first_free(family)?;
        debug_assert!(!self.owners.contains_key(&address), "free and owned: {address}");
        Some(address)
    }

    fn why_none(&self, pools: &[&Pool], families: Families) -> Rejection {
        let of_family = pools.iter().filter(|pool| lacks(pool, families).is_none());
        let full: Vec<_> = of_family.map(|pool| Use::of(pool, families)).collect();
        if !full.is_empty() {
            return Rejection::Exhausted(full);
        }
        if !pools.is_empty() {
            return Rejection::NoFamily(families);
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

    /// Whether a Service can have these addresses, and of which pool they are.
    fn check(&self, service: &S, addresses: &Addresses) -> Result<Arc<str>, Rejection> {
        let mut from: Option<&Arc<str>> = None;
        for address in addresses.iter() {
            if let Some(owner) = self.owners.get(&address)
                && owner != service
            {
                return Err(Rejection::Taken {
                    address,
                    owner: owner.to_string(),
                });
            }
            let pool = self.pool_of(address)?;
            match from {
                Some(first) if first != pool => {
                    return Err(Rejection::TwoPools {
                        addresses: *addresses,
                        first: first.to_string(),
                        second: pool.to_string(),
                    });
                }
                Some(_) | None => from = Some(pool),
            }
        }
        // Nobody asks for no addresses at all.
        from.cloned().ok_or(Rejection::NoPools)
    }

    fn pool_of(&self, address: IpAddr) -> Result<&Arc<str>, Rejection> {
        let Some((_, name)) = self.ranges.find(address) else {
            return Err(Rejection::NotInAnyPool(address));
        };
        match self.pools.get(&**name) {
            Some(Ok(pool)) if pool.contains(address) => Ok(name),
            Some(Ok(_)) => Err(Rejection::Avoided {
                address,
                pool: name.to_string(),
            }),
            Some(Err(_)) | None => Err(Rejection::NotInAnyPool(address)),
        }
    }
}

/// Whether a pool that is not for everybody, by name, is for the Service in question.
pub type Chosen<'a> = &'a dyn Fn(&str) -> bool;

fn admits(pool: &Pool, chosen: Chosen<'_>) -> bool {
    match pool.spec().access {
        Access::Everybody => true,
        Access::Chosen { .. } => chosen(&pool.spec().name),
    }
}

/// Whether two specs of a pool have the same addresses in the same order: then its use stays as it is.
fn same_addresses(a: &PoolSpec, b: &PoolSpec) -> bool {
    a.ranges == b.ranges && a.avoid_buggy_ips == b.avoid_buggy_ips
}

/// The family that a pool has none of, where each wanted family is needed.
fn lacks(pool: &Pool, families: Families) -> Option<Family> {
    let none = |family: &Family| pool.capacity(*family) == 0;
    match families {
        Families::One(family) => Some(family).filter(none),
        Families::Both => [Family::V4, Family::V6].into_iter().find(none),
        // A valid pool has addresses of one family at least, and any will do.
        Families::Prefer(_) => None,
    }
}

fn why_not(pool: &Pool, families: Families) -> Rejection {
    match lacks(pool, families) {
        Some(_) => Rejection::PoolLacksFamily {
            pool: pool.spec().name.clone(),
            families,
        },
        None => Rejection::PoolExhausted {
            pool: Use::of(pool, families),
            families,
        },
    }
}
