//! Assignments and releases per second: `cargo run --release -p lb-ipam --example throughput`.
//!
//! Prints a table for a /24, a /8 and a /64, each with few and with many addresses in use. The rate should hardly
//! depend on the row.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints its result and reads the clock"
)]

use std::collections::BTreeMap;
use std::time::Instant;

use lb_ipam::{
    Access, AddressRequest, Allocator, Families, Family, PoolAnnotations, PoolCandidate, PoolSpec, Range,
    Request, ServiceId, SharingMode,
};

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Service(u32);

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ServiceId for Service {
    fn namespace(&self) -> Option<&str> {
        Some("default")
    }
}

fn main() {
    println!("{:>14} {:>9} {:>14}", "pool", "in use", "pairs/s");
    for (net, family, in_use) in [
        ("192.168.0.0/24", Family::V4, 200u32),
        ("10.0.0.0/8", Family::V4, 1_000),
        ("10.0.0.0/8", Family::V4, 100_000),
        ("fd00::/64", Family::V6, 1_000),
        ("fd00::/64", Family::V6, 100_000),
    ] {
        let spec = PoolSpec {
            name: "pool".to_owned(),
            ranges: vec![Range::of_net(net.parse().unwrap())],
            auto_assign: true,
            avoid_buggy_ips: true,
            access: Access::All,
            annotations: PoolAnnotations::default(),
        };
        let candidate = PoolCandidate {
            spec: Ok(spec),
            was_invalid: false,
            created: 0,
        };
        let mut ipam = Allocator::<Service>::default();
        ipam.set_pools(BTreeMap::from([("pool".to_owned(), candidate)]));
        let request = Request {
            families: Families::Single(family),
            address: AddressRequest::Any,
            sharing_mode: SharingMode::Exclusive,
        };
        for service in 0..in_use {
            ipam.assign(&Service(service), &request, &|_| true).unwrap();
        }
        // Release anywhere in the pool, and assign the lowest free address.
        let rounds = 1_000_000u32;
        let start = Instant::now();
        for round in 0..rounds {
            let service = round.wrapping_mul(2_654_435_761) % in_use;
            ipam.release(&Service(service));
            ipam.assign(&Service(service), &request, &|_| true).unwrap();
        }
        let rate = f64::from(rounds) / start.elapsed().as_secs_f64();
        println!("{net:>14} {in_use:>9} {rate:>14.0}");
    }
}
