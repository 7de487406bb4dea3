//! Sharing under any sequence of calls: holders of an address never conflict, and no address is lost or counted twice.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use lb_ipam::{AddressRequest, Family, Port, Request, Sharing, SharingMode, SharingScope};
use proptest::prelude::*;
use support::{V4, assign, auto, exactly, mk_ipam, mk_pool, mk_pools, with};

const SERVICES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[derive(Clone, Debug)]
enum Step {
    Assign {
        service: usize,
        sharing_mode: SharingMode,
        at: Option<u8>,
    },
    Drain {
        service: usize,
        at: u8,
    },
    Release {
        service: usize,
    },
}

fn sharing_mode() -> impl Strategy<Value = SharingMode> {
    let sharing = (0u8..2, prop::collection::btree_set(0u16..4, 1..3), 0u8..2);
    prop_oneof![
        1 => Just(SharingMode::Exclusive),
        4 => sharing.prop_map(|(key, ports, backend)| {
            let port = |number| Port { protocol: "TCP".to_owned(), number };
            SharingMode::Shared(Box::new(Sharing {
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
        4 => (service.clone(), sharing_mode(), prop::option::of(0u8..4))
            .prop_map(|(service, sharing_mode, at)| Step::Assign { service, sharing_mode, at }),
        1 => (service.clone(), 0u8..4).prop_map(|(service, at)| Step::Drain { service, at }),
        2 => service.prop_map(|service| Step::Release { service }),
    ]
}

fn address(number: u8) -> String {
    format!("10.0.0.{number}")
}

proptest! {
    #[test]
    fn holders_of_an_address_never_conflict_and_none_is_lost(steps in prop::collection::vec(step(), 1..60)) {
        let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
        for step in steps {
            match step {
                Step::Assign { service, sharing_mode, at } => {
                    let request = at.map_or(auto(support::V4), |at| exactly(&[&address(at)], None));
                    let request = Request { sharing_mode, ..request };
                    if at.is_none() && ipam.assignment(&SERVICES[service]).is_none() {
                        // Without a requested address the Service gets the first one that it could request.
                        let possible = |number: &u8| {
                            let exactly = exactly(&[&address(*number)], None);
                            let exactly = Request { sharing_mode: request.sharing_mode.clone(), ..exactly };
                            ipam.clone().assign(&SERVICES[service], &exactly, &|_| true).is_ok()
                        };
                        let first = (0..4).find(possible).map(address);
                        let assigned = ipam.clone().assign(&SERVICES[service], &request, &|_| true).ok();
                        let assigned = assigned.and_then(|assigned| assigned.assignment.addresses().iter().next());
                        prop_assert_eq!(assigned.map(|address| address.to_string()), first);
                    }
                    if let Ok(assigned) = ipam.assign(&SERVICES[service], &request, &|_| true) {
                        let again = ipam.assign(&SERVICES[service], &request, &|_| true);
                        prop_assert_eq!(Ok(assigned), again, "a second request changes nothing");
                    }
                }
                Step::Drain { service, at } => {
                    let drained = support::adopt(&mut ipam, SERVICES[service], &[&address(at)], None, SharingMode::Draining);
                    prop_assert!(drained.is_ok(), "a Service can always drain an address");
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
                prop_assert_eq!(&ipam.holders(*address).copied().collect::<BTreeSet<_>>(), services);
                let active: Vec<_> = services
                    .iter()
                    .filter_map(|service| ipam.sharing_mode(service))
                    .filter(|sharing_mode| **sharing_mode != SharingMode::Draining)
                    .collect();
                for (position, one) in active.iter().enumerate() {
                    for other in &active[position + 1..] {
                        let (SharingMode::Shared(one), SharingMode::Shared(other)) = (one, other) else {
                            return Err(TestCaseError::fail(format!("{address} is exclusive and has another holder")));
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

fn shared(key: &str, protocol: &str, number: u16) -> Request {
    Request {
        sharing_mode: SharingMode::Shared(Box::new(Sharing {
            key: key.to_owned(),
            ports: [Port {
                protocol: protocol.to_owned(),
                number,
            }]
            .into(),
            backend: String::new(),
        })),
        ..auto(V4)
    }
}

#[test]
fn port_clash_names_port_and_service() {
    let mut ipam = mk_ipam([mk_pool("mixed", &["10.0.0.1/32"])]);
    assign(&mut ipam, "x/dns", &shared("k", "TCP", 53));
    assign(&mut ipam, "x/sctp", &shared("k", "SCTP", 53));
    for request in [
        shared("k", "TCP", 53),
        Request {
            address: AddressRequest::Pool("mixed".to_owned()),
            ..shared("k", "TCP", 53)
        },
    ] {
        assert_eq!(
            assign(&mut ipam, "x/clash", &request),
            "no available IPs: no address is free, and port TCP/53 is already in use on \"10.0.0.1\" by x/dns: use another \
             port, or request another address"
        );
    }
    let other_key = assign(&mut ipam, "x/other", &shared("other", "TCP", 53));
    assert!(other_key.contains("pool \"mixed\" is exhausted"), "{other_key}");
}

#[test]
fn sharing_can_be_limited_to_a_namespace() {
    let pool = |scope| {
        with(mk_pool("p", &["10.0.0.1-10.0.0.2"]), |spec| {
            spec.annotations.sharing_scope = scope;
        })
    };
    let mut ipam = mk_ipam([pool(SharingScope::Cluster)]);
    assign(&mut ipam, "x/a", &shared("k", "TCP", 1));
    assert_eq!(
        assign(&mut ipam, "y/a", &shared("k", "TCP", 2)),
        "p: [\"10.0.0.1\"]"
    );
    assert!(
        ipam.set_pools(mk_pools([pool(SharingScope::Namespace)]))
            .cleared
            .is_empty(),
        "nobody moves"
    );
    assert_eq!(
        assign(&mut ipam, "y/a", &shared("k", "TCP", 2)),
        "p: [\"10.0.0.1\"]"
    );
    assert_eq!(
        assign(&mut ipam, "z/a", &shared("k", "TCP", 3)),
        "p: [\"10.0.0.2\"]"
    );
    assert_eq!(
        assign(&mut ipam, "z/b", &shared("k", "TCP", 4)),
        "p: [\"10.0.0.2\"]"
    );
    let exact = Request {
        sharing_mode: shared("k", "TCP", 5).sharing_mode,
        ..exactly(&["10.0.0.2"], None)
    };
    let rejected = assign(&mut ipam, "y/b", &exact);
    assert!(
        rejected.contains("by z/a: the pool's annotation lb-operator.io/sharing-scope"),
        "{rejected}"
    );
}
