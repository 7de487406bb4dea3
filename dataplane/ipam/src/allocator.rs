//! Who has what. Two maps that are each other's inverse, and the use of each pool.
//!
//! `S` names a Service; the allocator knows nothing else about it. Pools are tried in a fixed order, so that the same
//! cluster always comes to the same addresses: first those that are for some Services only, by priority, then those for
//! everybody; among equals by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use crate::addresses::Addresses;
use crate::pool::{Access, Pool, PoolSpec};
use crate::pools::{Candidate, PoolError, Ranges, judge};
use crate::range::Family;
use crate::reason::{Rejection, Use};
use crate::request::{Families, Request, Wish};
use crate::sharing::Tenancy;

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
    holdings: BTreeMap<S, Holding>,
    tenants: BTreeMap<IpAddr, Tenants<S>>,
    /// The addresses that are shared under a key.
    shared: BTreeMap<String, BTreeSet<IpAddr>>,
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

/// Who has an address. Nearly always it is one, and no list is made for it.
#[derive(Clone, Debug)]
struct Tenants<S> {
    first: S,
    others: Vec<S>,
}

impl<S: PartialEq> Tenants<S> {
    fn iter(&self) -> impl Iterator<Item = &S> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Takes one out; none when it was the last.
    fn without(mut self, service: &S) -> Option<Self> {
        if self.first != *service {
            self.others.retain(|other| other != service);
            return Some(self);
        }
        let first = self.others.pop()?;
        Some(Self { first, ..self })
    }
}

impl<S> Default for Allocator<S> {
    fn default() -> Self {
        Self {
            pools: BTreeMap::new(),
            ranges: Ranges::default(),
            holdings: BTreeMap::new(),
            tenants: BTreeMap::new(),
            shared: BTreeMap::new(),
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
            .holdings
            .iter()
            .filter(|(_, holding)| {
                unchanged
                    .binary_search_by(|name: &String| (**name).cmp(&holding.assignment.pool))
                    .is_err()
            })
            .map(|(service, holding)| (service.clone(), holding.clone()))
            .collect();
        let mut changed = Changed {
            cleared: Vec::new(),
            renamed: Vec::new(),
        };
        for (
            service,
            Holding {
                assignment: had,
                tenancy,
            },
        ) in affected
        {
            match self.adopt(&service, had.addresses, Some(&had.pool), tenancy) {
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
        self.tenants.get(&address).into_iter().flat_map(Tenants::iter)
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
        if let Some(Holding {
            assignment: has,
            tenancy,
        }) = self.holdings.get(service)
            && request.is_met_by(&has.addresses, &has.pool)
            && *tenancy == request.tenancy
            && self.admits(&has.pool, chosen)
        {
            return Ok(has.clone());
        }
        self.release(service);
        let assignment = self.choose(service, request, chosen)?;
        self.record(service, &assignment, request.tenancy.clone());
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
        tenancy: Tenancy,
    ) -> Result<Assignment, Rejection> {
        self.release(service);
        let from = match self.check(service, &addresses, &tenancy, Claim::Old) {
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
        self.record(service, &assignment, tenancy);
        Ok(assignment)
    }

    /// Takes back what a Service has.
    pub fn release(&mut self, service: &S) -> Option<Assignment> {
        let Holding { assignment, tenancy } = self.holdings.remove(service)?;
        for address in assignment.addresses.iter() {
            let left = self
                .tenants
                .remove(&address)
                .and_then(|tenants| tenants.without(service));
            match left {
                Some(tenants) => {
                    self.tenants.insert(address, tenants);
                }
                None => {
                    if let Some(Ok(pool)) = self.pools.get_mut(&*assignment.pool) {
                        pool.give_back(address);
                    }
                }
            }
            if let Tenancy::Shares(sharing) = &tenancy {
                self.forget_shared(&sharing.key, address);
            }
        }
        Some(assignment)
    }

    /// An address is no longer known under a key, unless somebody else shares it there.
    fn forget_shared(&mut self, key: &str, address: IpAddr) {
        let shares = |service: &S| matches!(self.tenancy(service), Some(Tenancy::Shares(sharing)) if sharing.key == key);
        if self.who_has(address).any(shares) {
            return;
        }
        if let Some(addresses) = self.shared.get_mut(key) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.shared.remove(key);
            }
        }
    }

    fn record(&mut self, service: &S, assignment: &Assignment, tenancy: Tenancy) {
        for address in assignment.addresses.iter() {
            if let Some(Ok(pool)) = self.pools.get_mut(&*assignment.pool) {
                pool.take(address);
            }
            match self.tenants.get_mut(&address) {
                Some(tenants) => tenants.others.push(service.clone()),
                None => {
                    let (first, others) = (service.clone(), Vec::new());
                    self.tenants.insert(address, Tenants { first, others });
                }
            }
            if let Tenancy::Shares(sharing) = &tenancy {
                self.shared
                    .entry(sharing.key.clone())
                    .or_default()
                    .insert(address);
            }
        }
        let assignment = assignment.clone();
        self.holdings
            .insert(service.clone(), Holding { assignment, tenancy });
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
                let actual = self.check(service, addresses, &request.tenancy, Claim::New)?;
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
                    .first_fit(&[pool], service, request)
                    .ok_or_else(|| why_not(pool, request.families)),
            },
            Wish::Any => {
                let pools = self.auto_pools(chosen);
                self.first_fit(&pools, service, request)
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

    /// The first addresses that a Service can have, of the first pool that has them. A better combination of families in
    /// a later pool wins over a worse one in an earlier pool.
    fn first_fit(&self, pools: &[&Pool], service: &S, request: &Request) -> Option<Assignment> {
        request.families.choices().into_iter().find_map(|choice| {
            pools.iter().find_map(|pool| {
                let first = |family: &Family| self.first_of(pool, *family, service, &request.tenancy);
                let addresses = choice.iter().map(first).collect::<Option<Addresses>>()?;
                Some(Assignment {
                    addresses,
                    pool: pool.name().clone(),
                })
            })
        })
    }

    /// The first address of a pool that is free, or that is shared under the Service's key and fits it. The pool's own
    /// count of what is used is exact: see the tests.
    fn first_of(&self, pool: &Pool, family: Family, service: &S, tenancy: &Tenancy) -> Option<IpAddr> {
        let free = pool.first_free(family);
        debug_assert!(
            free.is_none_or(|address| !self.tenants.contains_key(&address)),
            "free and had"
        );
        let Tenancy::Shares(sharing) = tenancy else {
            return free;
        };
        let shared = self.shared.get(&sharing.key).into_iter().flatten().copied();
        let fits = |address: &IpAddr| {
            Family::of(*address) == family
                && pool.contains(*address)
                && self.has_room(service, *address, tenancy, Claim::New).is_ok()
        };
        let first_shared = shared.filter(fits).min_by_key(|address| pool.position(*address));
        [free, first_shared]
            .into_iter()
            .flatten()
            .min_by_key(|address| pool.position(*address))
    }

    /// Whether a Service can have an address beside those who have it already.
    fn has_room(
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
    fn check(
        &self,
        service: &S,
        addresses: &Addresses,
        tenancy: &Tenancy,
        claim: Claim,
    ) -> Result<Arc<str>, Rejection> {
        let mut from: Option<&Arc<str>> = None;
        for address in addresses.iter() {
            self.has_room(service, address, tenancy, claim)?;
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
