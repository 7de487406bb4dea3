//! The allocator against a model that scans every address: no address is assigned twice, none leaks, no Service moves
//! without cause, and the assigned address is the one that the rules of the pool select.

#![allow(clippy::unwrap_used, reason = "the model builds valid values")]

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_ipam::{
    Access, AddressRequest, Addresses, AdoptRequest, AllocationStrategy as Order, Families, Family, Origin,
    PoolAnnotations, PoolCandidate, PoolSpec, Range, RecordedPools, Request, ServiceId, SharingMode,
};
use proptest::prelude::*;
use support::Ipam;

const SERVICES: [&str; 6] = ["x/a", "x/b", "x/c", "y/d", "y/e", "y/f"];
const POOLS: [&str; 3] = ["p", "q", "r"];
const FAMILIES: [Families; 4] = [
    Families::Single(Family::V4),
    Families::Single(Family::V6),
    Families::PreferDualStack,
    Families::RequireDualStack,
];
const BOTH: [Family; 2] = [Family::V4, Family::V6];

#[derive(Clone, Debug)]
enum Step {
    Any(usize, usize),
    Pool(usize, usize, usize),
    Address(usize, u8),
    Adopt(usize, u8, usize, bool),
    Release(usize),
    Edit(usize, Option<Draft>),
}

/// The random properties of a pool.
#[derive(Clone, Debug)]
struct Draft {
    v4: Option<(u8, u8)>,
    v6: Option<(u8, u8)>,
    excluded: Option<u8>,
    auto_assign: bool,
    avoid_buggy_ips: bool,
    order: Order,
    hold_down: u32,
    namespace_quota: Option<u32>,
}

fn drafts() -> impl Strategy<Value = Draft> {
    let range = || prop::option::weighted(0.7, (244..=255u8, 0..6u8));
    let switches = (any::<bool>(), any::<bool>());
    let order = prop_oneof![Just(Order::First), Just(Order::LeastRecentlyUsed)];
    let limits = (order, 0..8u32, prop::option::weighted(0.3, 0..3u32));
    let excluded = prop::option::weighted(0.3, 246..=255u8);
    (range(), range(), excluded, switches, limits).prop_map(|(v4, v6, excluded, switches, limits)| Draft {
        v4,
        v6,
        excluded,
        auto_assign: switches.0,
        avoid_buggy_ips: switches.1,
        order: limits.0,
        hold_down: limits.1,
        namespace_quota: limits.2,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let service = 0..SERVICES.len();
    let pool = 0..POOLS.len();
    let families = 0..FAMILIES.len();
    // Addresses interval_of the end of a /24, so that .255 and .0 are among them.
    let address = 248..=255u8;
    let step = prop_oneof![
        4 => (service.clone(), families.clone()).prop_map(|(s, f)| Step::Any(s, f)),
        2 => (service.clone(), pool.clone(), families).prop_map(|(s, p, f)| Step::Pool(s, p, f)),
        1 => (service.clone(), address.clone()).prop_map(|(s, a)| Step::Address(s, a)),
        1 => (service.clone(), address, pool.clone(), any::<bool>()).prop_map(|(s, a, p, o)| Step::Adopt(s, a, p, o)),
        3 => service.prop_map(Step::Release),
        2 => (pool, prop::option::weighted(0.85, drafts())).prop_map(|(p, draft)| Step::Edit(p, draft)),
    ];
    prop::collection::vec(step, 0..60)
}

/// Address `n` after 10.0.0.0 or fd00::.
fn nth(family: Family, n: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(0x0a00_0000 + n).into(),
        Family::V6 => Ipv6Addr::from((0xfd00u128 << 112) + u128::from(n)).into(),
    }
}

impl Draft {
    fn candidate(&self, name: &str) -> PoolCandidate {
        let range = |family, (first, len): (u8, u8)| {
            let first = u32::from(first);
            Range::new(nth(family, first), nth(family, first + u32::from(len))).unwrap()
        };
        let v4 = self.v4.map(|ends| range(Family::V4, ends));
        let v6 = self.v6.map(|ends| range(Family::V6, ends));
        let excluded = |n| BOTH.map(|family| range(family, (n, 1)));
        let spec = PoolSpec {
            name: name.to_owned(),
            ranges: v4.into_iter().chain(v6).collect(),
            auto_assign: self.auto_assign,
            avoid_buggy_ips: self.avoid_buggy_ips,
            access: Access::All,
            annotations: PoolAnnotations {
                excluded: self.excluded.into_iter().flat_map(excluded).collect(),
                strategy: self.order,
                hold_down: self.hold_down,
                namespace_quota: self.namespace_quota,
                ..PoolAnnotations::default()
            },
        };
        PoolCandidate {
            spec: Ok(spec),
            was_invalid: false,
            created: 0,
        }
    }
}

#[derive(Clone, Default)]
struct Model {
    candidates: BTreeMap<String, PoolCandidate>,
    /// Valid pools by name.
    pools: BTreeMap<String, PoolSpec>,
    owners: BTreeMap<IpAddr, &'static str>,
    /// Release times that pools track. No two addresses of one family are released in the same second.
    released: BTreeMap<IpAddr, i64>,
    /// The releases of pools that are invalid, as of when they were valid.
    invalid_releases: BTreeMap<String, BTreeMap<IpAddr, i64>>,
    now: i64,
}

impl Model {
    /// The addresses that a pool can assign, lowest first, found by testing each one.
    fn scan(spec: &PoolSpec, family: Family) -> Vec<IpAddr> {
        let in_any = |ranges: &[Range], address| ranges.iter().any(|range| range.contains(address));
        (0..512)
            .filter(|n| !(family == Family::V4 && spec.avoid_buggy_ips && matches!(n % 256, 0 | 255)))
            .map(|n| nth(family, n))
            .filter(|address| in_any(&spec.ranges, *address) && !in_any(&spec.annotations.excluded, *address))
            .collect()
    }

    fn pool_of(&self, address: IpAddr) -> Option<&PoolSpec> {
        let has = |spec: &&PoolSpec| Self::scan(spec, Family::of(address)).contains(&address);
        self.pools.values().find(has)
    }

    fn over_quota(&self, spec: &PoolSpec, family: Family, service: &'static str) -> bool {
        let mine = Self::scan(spec, family)
            .iter()
            .filter_map(|address| self.owners.get(address))
            .filter(|owner| owner.namespace() == service.namespace())
            .count();
        let quota = spec.annotations.namespace_quota;
        quota.is_some_and(|quota| mine >= quota as usize)
    }

    fn next(&self, spec: &PoolSpec, family: Family, service: &'static str) -> Option<IpAddr> {
        if self.over_quota(spec, family, service) {
            return None;
        }
        let free = Self::scan(spec, family).into_iter();
        let free: Vec<_> = free
            .filter(|address| !self.owners.contains_key(address))
            .collect();
        let since = |address: &IpAddr| self.released.get(address).copied();
        let ready = |since: i64| since + i64::from(spec.annotations.hold_down) <= self.now;
        let never = free.iter().copied().find(|address| since(address).is_none());
        let oldest = free
            .iter()
            .copied()
            .filter(|address| since(address).is_some_and(ready))
            .min_by_key(since);
        match spec.annotations.strategy {
            Order::First => free.into_iter().find(|address| since(address).is_none_or(ready)),
            Order::LeastRecentlyUsed => never.or(oldest),
        }
    }

    /// The addresses for a Service without any.
    fn fresh(&self, pools: &[&PoolSpec], families: Families, service: &'static str) -> Addresses {
        let of_any = |family| pools.iter().find_map(|spec| self.next(spec, family, service));
        let pair = |spec: &&PoolSpec| {
            Some([
                self.next(spec, Family::V4, service)?,
                self.next(spec, Family::V6, service)?,
            ])
        };
        match families {
            Families::Single(family) => of_any(family).into_iter().collect(),
            Families::PreferDualStack | Families::RequireDualStack => {
                let pair = pools.iter().find_map(pair).map(|pair| pair.into_iter().collect());
                let apart: Addresses = BOTH.into_iter().filter_map(of_any).collect();
                let enough = families == Families::PreferDualStack || families.accepts(&apart);
                pair.unwrap_or(if enough { apart } else { Addresses::default() })
            }
        }
    }

    /// The addresses of a Service after a request to these pools, which are in the order in which they are tried.
    fn asked(&self, ipam: &Ipam, pools: &[&PoolSpec], request: &Request, service: &'static str) -> Addresses {
        let Some(has) = ipam.assignment(&service).filter(|has| request.permits(has)) else {
            let mut without = self.clone();
            without.take_owners(
                &self
                    .owners
                    .clone()
                    .into_iter()
                    .filter(|(_, owner)| *owner != service)
                    .collect(),
            );
            return without.fresh(pools, request.families, service);
        };
        let own = |spec: &&PoolSpec| {
            has.parts()
                .any(|(_, origin)| origin.pool().is_some_and(|name| **name == *spec.name))
        };
        let (first, then): (Vec<&PoolSpec>, Vec<&PoolSpec>) =
            pools.iter().copied().partition(|spec| own(spec));
        let pools: Vec<_> = first.into_iter().chain(then).collect();
        let more = match request.families {
            Families::Single(_) => None,
            Families::PreferDualStack | Families::RequireDualStack => BOTH
                .into_iter()
                .find(|family| has.origin(*family).is_none())
                .and_then(|family| pools.iter().find_map(|spec| self.next(spec, family, service))),
        };
        has.addresses().iter().chain(more).collect()
    }

    /// Replaces the valid pools: an invalid pool does not forget its releases.
    fn take_pools(&mut self, pools: BTreeMap<String, PoolSpec>) {
        for (name, spec) in &self.pools {
            if self.candidates.contains_key(name) && !pools.contains_key(name) {
                let of_pool = BOTH.into_iter().flat_map(|family| Self::scan(spec, family));
                let since = |address| Some((address, *self.released.get(&address)?));
                self.invalid_releases
                    .insert(name.clone(), of_pool.filter_map(since).collect());
            }
        }
        let mut restored = BTreeMap::new();
        for name in pools.keys() {
            restored.extend(self.invalid_releases.remove(name).into_iter().flatten());
        }
        self.invalid_releases
            .retain(|name, _| self.candidates.contains_key(name));
        for (address, since) in restored {
            let newest = self.released.entry(address).or_insert(since);
            *newest = since.max(*newest);
        }
        self.pools = pools;
    }

    /// Replaces the owners: an address that lost its owner is released now.
    fn take_owners(&mut self, owners: &BTreeMap<IpAddr, &'static str>) {
        for address in self.owners.keys() {
            if !owners.contains_key(address) {
                self.released.insert(*address, self.now);
            }
        }
        self.owners.clone_from(owners);
        let mut released = std::mem::take(&mut self.released);
        released.retain(|address, since| {
            !self.owners.contains_key(address)
                && self.pool_of(*address).is_some_and(|spec| {
                    spec.annotations.strategy == Order::LeastRecentlyUsed
                        || *since + i64::from(spec.annotations.hold_down) > self.now
                })
        });
        self.released = released;
    }
}

/// The addresses of a Service after a request.
fn ask(ipam: &mut Ipam, request: &Request, service: &'static str) -> Addresses {
    let assigned = ipam.assign(&service, request, &|_| true);
    assigned
        .map(|assigned| assigned.assignment.addresses())
        .unwrap_or_default()
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut ipam = Ipam::default();
    let mut model = Model::default();
    for step in steps {
        model.now += 1;
        ipam.advance_to(model.now);
        model.take_owners(&model.owners.clone());
        let before: BTreeMap<_, _> = ipam.assignments().map(|(s, a)| (*s, a.clone())).collect();
        match step {
            Step::Any(service, families) => {
                let service = SERVICES[service];
                let request = Request {
                    families: FAMILIES[families],
                    address: AddressRequest::Any,
                    sharing_mode: SharingMode::Exclusive,
                };
                let pools: Vec<_> = model.pools.values().filter(|spec| spec.auto_assign).collect();
                let expected = model.asked(&ipam, &pools, &request, service);
                prop_assert_eq!(ask(&mut ipam, &request, service), expected);
            }
            Step::Pool(service, pool, families) => {
                let (service, pool) = (SERVICES[service], POOLS[pool]);
                let request = Request {
                    families: FAMILIES[families],
                    address: AddressRequest::Pool(pool.to_owned()),
                    sharing_mode: SharingMode::Exclusive,
                };
                let pools: Vec<_> = model.pools.get(pool).into_iter().collect();
                let expected = model.asked(&ipam, &pools, &request, service);
                prop_assert_eq!(ask(&mut ipam, &request, service), expected);
            }
            Step::Address(service, n) => {
                let (service, address) = (SERVICES[service], nth(Family::V4, n.into()));
                let addresses = Addresses::from(address);
                let request = Request {
                    families: Families::Single(Family::V4),
                    address: AddressRequest::Addresses {
                        addresses,
                        pool: None,
                    },
                    sharing_mode: SharingMode::Exclusive,
                };
                let kept = before
                    .get(service)
                    .is_some_and(|had| had.addresses() == addresses);
                let mut without = model.clone();
                without.owners.retain(|_, owner| *owner != service);
                let possible = !without.owners.contains_key(&address)
                    && model
                        .pool_of(address)
                        .is_some_and(|spec| !without.over_quota(spec, Family::V4, service));
                prop_assert_eq!(
                    ipam.assign(&service, &request, &|_| true).is_ok(),
                    kept || possible
                );
            }
            Step::Adopt(service, n, pool, outside) => {
                let (service, address) = (SERVICES[service], nth(Family::V4, n.into()));
                let taken = model.owners.get(&address).is_some_and(|owner| *owner != service);
                let invalid = matches!(ipam.pool(POOLS[pool]), Some(Err(_)));
                let request = AdoptRequest {
                    addresses: address.into(),
                    recorded: RecordedPools(Some(POOLS[pool])),
                    sharing_mode: SharingMode::Exclusive,
                    allow_outside_pools: outside,
                };
                let adopted = ipam.adopt(&service, request).is_ok();
                let allowed = outside || model.pool_of(address).is_some();
                prop_assert!(!(adopted && taken) && (adopted || taken || !allowed));
                prop_assert!(adopted == (allowed && !taken) || invalid);
            }
            Step::Release(service) => {
                ipam.release(&SERVICES[service]);
            }
            Step::Edit(pool, draft) => {
                let name = POOLS[pool];
                match draft {
                    None => model.candidates.remove(name),
                    Some(draft) => model.candidates.insert(name.to_owned(), draft.candidate(name)),
                };
                let changed = ipam.set_pools(model.candidates.clone());
                let valid = ipam
                    .pools()
                    .filter_map(|(name, pool)| Some((name.to_owned(), pool.ok()?.spec().clone())));
                let valid = valid.collect();
                model.take_pools(valid);
                for (service, had) in &before {
                    let has = ipam.assignment(service);
                    let was_cleared = changed.cleared.iter().any(|cleared| cleared.service == *service);
                    for (address, origin) in had.parts() {
                        let stays = has.is_some_and(|has| has.addresses().iter().any(|kept| kept == address));
                        let cause = model.pool_of(address).is_none() && matches!(origin, Origin::Pool(_));
                        prop_assert!(stays || (cause && was_cleared), "{} moves without cause", address);
                    }
                }
            }
        }
        // Invariants after every step.
        let mut owners = BTreeMap::new();
        for (service, assignment) in ipam.assignments() {
            prop_assert!(!assignment.is_empty());
            for (address, origin) in assignment.parts() {
                prop_assert_eq!(
                    owners.insert(address, *service),
                    None,
                    "assigned twice: {}",
                    address
                );
                prop_assert_eq!(ipam.holders(address).collect::<Vec<_>>(), [service]);
                if let Some(spec) = model.pool_of(address) {
                    prop_assert_eq!(origin.name(), Some(spec.name.as_str()));
                }
            }
        }
        model.take_owners(&owners);
        for (name, pool) in ipam.pools() {
            let Ok(pool) = pool else { continue };
            for family in BOTH {
                let all = Model::scan(&model.pools[name], family);
                let used = all.iter().filter(|address| owners.contains_key(address)).count();
                prop_assert_eq!(pool.capacity(family), all.len() as u128);
                prop_assert_eq!(pool.used(family), used as u64, "leaked or not counted");
            }
            let released: BTreeMap<_, _> = pool.released(usize::MAX).into_iter().collect();
            let expected = model.released.iter().map(|(address, since)| (*address, *since));
            let expected =
                expected.filter(|(address, _)| model.pool_of(*address).is_some_and(|spec| spec.name == name));
            prop_assert_eq!(released, expected.collect::<BTreeMap<_, _>>());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn allocator_agrees_with_exhaustive_model(steps in steps()) {
        run(steps)?;
    }
}
