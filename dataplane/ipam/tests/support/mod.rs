//! Builders for pools, requests and allocators, and one-line assertions:
//!
//! ```text
//! let mut ipam = mk_ipam([mk_pool("lan", &["10.0.0.0/30"])]);
//! assert_eq!(assign(&mut ipam, "ns/web", &auto(V4)), "lan: [\"10.0.0.0\"]");
//! let same = exactly(&["10.0.0.0"], None);
//! assert!(assign(&mut ipam, "ns/late", &same).contains("in use by ns/web"));
//! ipam.release(&"ns/web");
//! assert_eq!(holder(&ipam, "10.0.0.0"), None);
//! ```

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part of it, and a wrong literal fails its test"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_ipam::{
    Access, AddressRequest, Addresses, AdoptRequest, Allocator, Families, Family, PoolAnnotations,
    PoolCandidate, PoolSpec, Range, RecordedPools, Rejection, Request, SharingMode,
};

pub(crate) type Ipam = Allocator<&'static str>;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn addresses(list: &[&str]) -> Addresses {
    list.iter().map(|text| ip(text)).collect()
}

/// `first-last`, or a CIDR.
pub(crate) fn range(text: &str) -> Range {
    match text.split_once('-') {
        Some((first, last)) => Range::new(ip(first), ip(last)).unwrap(),
        None => Range::of_net(text.parse().unwrap()),
    }
}

pub(crate) fn mk_pool(name: &str, ranges: &[&str]) -> PoolCandidate {
    PoolCandidate {
        spec: Ok(PoolSpec {
            name: name.to_owned(),
            ranges: ranges.iter().map(|text| range(text)).collect(),
            auto_assign: true,
            avoid_buggy_ips: false,
            access: Access::All,
            annotations: PoolAnnotations::default(),
        }),
        was_invalid: false,
        created: 0,
    }
}

pub(crate) fn with(mut pool: PoolCandidate, change: impl FnOnce(&mut PoolSpec)) -> PoolCandidate {
    if let Ok(spec) = &mut pool.spec {
        change(spec);
    }
    pool
}

pub(crate) fn mk_pools(pools: impl IntoIterator<Item = PoolCandidate>) -> BTreeMap<String, PoolCandidate> {
    pools
        .into_iter()
        .map(|pool| (pool.spec.as_ref().unwrap().name.clone(), pool))
        .collect()
}

pub(crate) fn mk_ipam(pools: impl IntoIterator<Item = PoolCandidate>) -> Ipam {
    let mut ipam = Ipam::default();
    assert!(ipam.set_pools(mk_pools(pools)).cleared.is_empty());
    ipam
}

pub(crate) const V4: Families = Families::Single(Family::V4);
pub(crate) const V6: Families = Families::Single(Family::V6);

pub(crate) fn auto(families: Families) -> Request {
    Request {
        families,
        address: AddressRequest::Any,
        sharing_mode: SharingMode::Exclusive,
    }
}

pub(crate) fn from(pool: &str) -> Request {
    Request {
        families: V4,
        address: AddressRequest::Pool(pool.to_owned()),
        sharing_mode: SharingMode::Exclusive,
    }
}

pub(crate) fn exactly(list: &[&str], pool: Option<&str>) -> Request {
    let addresses = addresses(list);
    let family = Family::of(addresses.iter().next().unwrap());
    let families = if addresses.iter().count() == 2 {
        Families::RequireDualStack
    } else {
        Families::Single(family)
    };
    let pool = pool.map(str::to_owned);
    Request {
        families,
        address: AddressRequest::Addresses { addresses, pool },
        sharing_mode: SharingMode::Exclusive,
    }
}

/// The outcome of an assignment: `pool: addresses`, or the rejection.
pub(crate) fn assign(ipam: &mut Ipam, service: &'static str, request: &Request) -> String {
    match ipam.assign(&service, request, &|_| true) {
        Ok(assigned) => {
            let pools = assigned.assignment.pool_names().unwrap_or_default();
            format!("{pools}: {}", assigned.assignment.addresses())
        }
        Err(rejection) => rejection.to_string(),
    }
}

/// Adopts addresses for a Service.
pub(crate) fn adopt(
    ipam: &mut Ipam,
    service: &'static str,
    list: &[&str],
    pool: Option<&str>,
    sharing_mode: SharingMode,
) -> Result<(), Rejection> {
    let request = AdoptRequest {
        addresses: addresses(list),
        recorded: RecordedPools(pool),
        sharing_mode,
        allow_outside_pools: false,
    };
    ipam.adopt(&service, request)
}

/// The only Service that has an address, if any.
pub(crate) fn holder(ipam: &Ipam, address: &str) -> Option<&'static str> {
    let mut holders = ipam.holders(ip(address));
    let first = holders.next().copied();
    assert!(holders.next().is_none(), "{address} is shared");
    first
}
