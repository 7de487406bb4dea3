//! Sharing under any sequence of calls: who shares an address always fits, and nothing is lost or counted twice.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use lb_ipam::{Family, Port, Request, Sharing, Tenancy};
use proptest::prelude::*;
use support::{auto, exactly, mk_ipam, mk_pool};

const SERVICES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[derive(Clone, Debug)]
enum Step {
    Assign {
        service: usize,
        tenancy: Tenancy,
        at: Option<u8>,
    },
    Leave {
        service: usize,
        at: u8,
    },
    Release {
        service: usize,
    },
}

fn tenancy() -> impl Strategy<Value = Tenancy> {
    let sharing = (0u8..2, prop::collection::btree_set(0u16..4, 1..3), 0u8..2);
    prop_oneof![
        1 => Just(Tenancy::Alone),
        4 => sharing.prop_map(|(key, ports, backend)| {
            let port = |number| Port { protocol: "TCP".to_owned(), number };
            Tenancy::Shares(Box::new(Sharing {
                key: key.to_string(),
                ports: ports.into_iter().map(port).collect(),
                backend: backend.to_string(),
            }))
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES.len();
    prop_oneof![
        4 => (service.clone(), tenancy(), prop::option::of(0u8..4))
            .prop_map(|(service, tenancy, at)| Step::Assign { service, tenancy, at }),
        1 => (service.clone(), 0u8..4).prop_map(|(service, at)| Step::Leave { service, at }),
        2 => service.prop_map(|service| Step::Release { service }),
    ]
}

fn address(number: u8) -> String {
    format!("10.0.0.{number}")
}

proptest! {
    #[test]
    fn who_shares_an_address_fits_and_nothing_is_lost(steps in prop::collection::vec(step(), 1..60)) {
        let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
        for step in steps {
            match step {
                Step::Assign { service, tenancy, at } => {
                    let request = at.map_or(auto(support::V4), |at| exactly(&[&address(at)], None));
                    let request = Request { tenancy, ..request };
                    if at.is_none() && ipam.assignment(&SERVICES[service]).is_none() {
                        // Who asks for nothing gets the first address that it could have by asking for it.
                        let possible = |number: &u8| {
                            let exactly = exactly(&[&address(*number)], None);
                            let exactly = Request { tenancy: request.tenancy.clone(), ..exactly };
                            ipam.clone().assign(&SERVICES[service], &exactly, &|_| true).is_ok()
                        };
                        let first = (0..4).find(possible).map(address);
                        let given = ipam.clone().assign(&SERVICES[service], &request, &|_| true).ok();
                        let given = given.and_then(|given| given.assignment.addresses().iter().next());
                        prop_assert_eq!(given.map(|address| address.to_string()), first);
                    }
                    if let Ok(given) = ipam.assign(&SERVICES[service], &request, &|_| true) {
                        let again = ipam.assign(&SERVICES[service], &request, &|_| true);
                        prop_assert_eq!(Ok(given), again, "asking again changes nothing");
                    }
                }
                Step::Leave { service, at } => {
                    let left = support::adopt(&mut ipam, SERVICES[service], &[&address(at)], None, Tenancy::Leaves);
                    prop_assert!(left.is_ok(), "one can always be leaving");
                }
                Step::Release { service } => {
                    ipam.release(&SERVICES[service]);
                }
            }
            let mut by_address: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
            for (service, assignment) in ipam.assignments() {
                for address in assignment.addresses().iter() {
                    by_address.entry(address).or_default().insert(*service);
                }
            }
            for (address, services) in &by_address {
                prop_assert_eq!(&ipam.who_has(*address).copied().collect::<BTreeSet<_>>(), services);
                let living: Vec<_> = services
                    .iter()
                    .filter_map(|service| ipam.tenancy(service))
                    .filter(|tenancy| **tenancy != Tenancy::Leaves)
                    .collect();
                for (position, one) in living.iter().enumerate() {
                    for other in &living[position + 1..] {
                        let (Tenancy::Shares(one), Tenancy::Shares(other)) = (one, other) else {
                            return Err(TestCaseError::fail(format!("{address} is had by one alone and by another")));
                        };
                        prop_assert_eq!(one.conflict_with(other), None);
                    }
                }
            }
            let pool = ipam.pool("lan").unwrap().unwrap();
            prop_assert_eq!(pool.used(Family::V4), by_address.len() as u64);
        }
        for service in SERVICES {
            ipam.release(&service);
        }
        let pool = ipam.pool("lan").unwrap().unwrap();
        prop_assert_eq!(pool.used(Family::V4), 0);
    }
}
