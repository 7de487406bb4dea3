//! The allocator against a model that scans lists: whatever happens, no address is given twice, none leaks, and the
//! first free one is the lowest.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use lb_ipam::{Access, Addresses, Candidate, PoolSpec, Range, Request, Tenancy, Wish};
use proptest::prelude::*;
use support::{Ipam, V4, auto, from};

const SERVICES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const POOLS: [&str; 3] = ["p", "q", "r"];

#[derive(Clone, Debug)]
enum Step {
    Any(usize),
    Pool(usize, usize),
    Address(usize, u8),
    Adopt(usize, u8, usize),
    Release(usize),
    Edit(usize, Option<(u8, u8, bool, bool)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let service = 0..SERVICES.len();
    let pool = 0..POOLS.len();
    // Addresses around the end of a /24, so that .255 and .0 are among them.
    let address = 248..=255u8;
    let spec = (244..=255u8, 0..6u8, any::<bool>(), any::<bool>());
    let step = prop_oneof![
        3 => service.clone().prop_map(Step::Any),
        1 => (service.clone(), pool.clone()).prop_map(|(s, p)| Step::Pool(s, p)),
        1 => (service.clone(), address.clone()).prop_map(|(s, a)| Step::Address(s, a)),
        1 => (service.clone(), address, pool.clone()).prop_map(|(s, a, p)| Step::Adopt(s, a, p)),
        2 => service.prop_map(Step::Release),
        2 => (pool, prop::option::weighted(0.8, spec)).prop_map(|(p, spec)| Step::Edit(p, spec)),
    ];
    prop::collection::vec(step, 0..60)
}

/// Number `n` of a row that begins at 10.0.0.0.
fn nth(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

#[derive(Clone, Default)]
struct Model {
    candidates: BTreeMap<String, Candidate>,
    owners: BTreeMap<IpAddr, &'static str>,
}

impl Model {
    /// The addresses that a pool can give, lowest first, by looking at each one.
    fn scan(spec: &PoolSpec) -> Vec<IpAddr> {
        let buggy = |n: &u32| spec.avoid_buggy_ips && matches!(n % 256, 0 | 255);
        (0..512)
            .filter(|n| !buggy(n))
            .map(nth)
            .filter(|address| spec.ranges.iter().any(|range| range.contains(*address)))
            .collect()
    }

    fn first_free(&self, spec: &PoolSpec) -> Option<IpAddr> {
        Self::scan(spec)
            .into_iter()
            .find(|address| !self.owners.contains_key(address))
    }

    fn release(&mut self, service: &'static str) {
        self.owners.retain(|_, owner| *owner != service);
    }
}

proptest! {
    #[test]
    fn no_address_is_given_twice_none_leaks_and_the_first_free_is_the_lowest(steps in steps()) {
        let mut ipam = Ipam::default();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Any(service) => {
                    let service = SERVICES[service];
                    let has = ipam.assignment(&service).cloned();
                    let lowest = ipam
                        .pools()
                        .filter_map(|(_, pool)| pool.ok())
                        .filter(|pool| pool.spec().auto_assign)
                        .find_map(|pool| model.first_free(pool.spec()));
                    let given = ipam.assign(&service, &auto(V4), &|_| true).ok();
                    match has {
                        Some(has) => prop_assert_eq!(given, Some(has)),
                        None => prop_assert_eq!(given.and_then(|given| given.addresses.iter().next()), lowest),
                    }
                }
                Step::Pool(service, pool) => {
                    let (service, pool) = (SERVICES[service], POOLS[pool]);
                    let has = ipam.assignment(&service).cloned().filter(|has| &*has.pool == pool);
                    let mut without = model.clone();
                    without.release(service);
                    let lowest = match ipam.pool(pool) {
                        Some(Ok(pool)) => without.first_free(pool.spec()),
                        Some(Err(_)) | None => None,
                    };
                    let given = ipam.assign(&service, &from(pool), &|_| true).ok();
                    match has {
                        Some(has) => prop_assert_eq!(given, Some(has)),
                        None => prop_assert_eq!(given.and_then(|given| given.addresses.iter().next()), lowest),
                    }
                }
                Step::Address(service, n) => {
                    let (service, address) = (SERVICES[service], nth(u32::from(n)));
                    let addresses = Addresses::from(address);
                    let had = ipam.assignment(&service).cloned();
                    let request = Request { families: V4, wish: Wish::Addresses { addresses, pool: None }, tenancy: Tenancy::Alone };
                    let taken = model.owners.get(&address).is_some_and(|owner| *owner != service);
                    let exists = ipam
                        .pools()
                        .filter_map(|(_, pool)| pool.ok())
                        .any(|pool| Model::scan(pool.spec()).contains(&address));
                    let kept = had.is_some_and(|had| had.addresses == addresses);
                    prop_assert_eq!(ipam.assign(&service, &request, &|_| true).is_ok(), kept || (exists && !taken));
                }
                Step::Adopt(service, n, pool) => {
                    let (service, address) = (SERVICES[service], nth(u32::from(n)));
                    let taken = model.owners.get(&address).is_some_and(|owner| *owner != service);
                    let adopted = ipam.adopt(&service, address.into(), Some(POOLS[pool]), Tenancy::Alone).is_ok();
                    prop_assert!(!(adopted && taken));
                }
                Step::Release(service) => {
                    ipam.release(&SERVICES[service]);
                }
                Step::Edit(pool, spec) => {
                    let name = POOLS[pool].to_owned();
                    match spec {
                        None => {
                            model.candidates.remove(&name);
                        }
                        Some((first, len, auto_assign, avoid_buggy_ips)) => {
                            let first = u32::from(first);
                            let range = Range::new(nth(first), nth(first + u32::from(len))).unwrap();
                            let ranges = vec![range];
                            let spec = Ok(PoolSpec { name: name.clone(), ranges, auto_assign, avoid_buggy_ips, access: Access::Everybody });
                            let candidate = Candidate { spec, found_invalid: false, created: 0 };
                            model.candidates.insert(name, candidate);
                        }
                    }
                    let before: BTreeMap<_, _> = ipam.assignments().map(|(s, a)| (*s, a.clone())).collect();
                    let cleared = ipam.set_pools(model.candidates.clone()).cleared;
                    let cleared: BTreeSet<_> = cleared.into_iter().map(|cleared| cleared.service).collect();
                    for (service, had) in before {
                        match ipam.assignment(&service) {
                            Some(has) => prop_assert_eq!(has.addresses, had.addresses, "nobody moves"),
                            None => prop_assert!(cleared.contains(service)),
                        }
                    }
                }
            }
            // What is so after every step.
            model.owners.clear();
            for (service, assignment) in ipam.assignments() {
                for address in assignment.addresses.iter() {
                    prop_assert_eq!(model.owners.insert(address, *service), None, "given twice: {}", address);
                    prop_assert_eq!(ipam.who_has(address).collect::<Vec<_>>(), [service]);
                }
            }
            for (_, pool) in ipam.pools() {
                let Ok(pool) = pool else { continue };
                let all = Model::scan(pool.spec());
                let used = all.iter().filter(|address| model.owners.contains_key(address)).count();
                prop_assert_eq!(pool.capacity(lb_ipam::Family::V4), all.len() as u128);
                prop_assert_eq!(pool.used(lb_ipam::Family::V4), used as u64, "leaked or not counted");
            }
        }
    }
}
