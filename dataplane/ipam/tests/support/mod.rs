//! Builders shared by the tests.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its own part, and what a test writes down is right"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_ipam::{
    Access, Addresses, Allocator, Candidate, Claimed, Extras, Families, Family, Keep, PoolSpec, Range,
    Rejection, Request, Tenancy, Wish,
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

pub(crate) fn mk_pool(name: &str, ranges: &[&str]) -> Candidate {
    Candidate {
        spec: Ok(PoolSpec {
            name: name.to_owned(),
            ranges: ranges.iter().map(|text| range(text)).collect(),
            auto_assign: true,
            avoid_buggy_ips: false,
            access: Access::Everybody,
            extras: Extras::default(),
        }),
        found_invalid: false,
        created: 0,
    }
}

pub(crate) fn with(mut pool: Candidate, change: impl FnOnce(&mut PoolSpec)) -> Candidate {
    if let Ok(spec) = &mut pool.spec {
        change(spec);
    }
    pool
}

pub(crate) fn mk_pools(pools: impl IntoIterator<Item = Candidate>) -> BTreeMap<String, Candidate> {
    pools
        .into_iter()
        .map(|pool| (pool.spec.as_ref().unwrap().name.clone(), pool))
        .collect()
}

pub(crate) fn mk_ipam(pools: impl IntoIterator<Item = Candidate>) -> Ipam {
    let mut ipam = Ipam::default();
    assert!(ipam.set_pools(mk_pools(pools)).cleared.is_empty());
    ipam
}

pub(crate) const V4: Families = Families::One(Family::V4);
pub(crate) const V6: Families = Families::One(Family::V6);

pub(crate) fn auto(families: Families) -> Request {
    Request {
        families,
        wish: Wish::Any,
        tenancy: Tenancy::Alone,
    }
}

pub(crate) fn from(pool: &str) -> Request {
    Request {
        families: V4,
        wish: Wish::Pool(pool.to_owned()),
        tenancy: Tenancy::Alone,
    }
}

pub(crate) fn exactly(list: &[&str], pool: Option<&str>) -> Request {
    let addresses = addresses(list);
    let family = Family::of(addresses.iter().next().unwrap());
    let families = if addresses.iter().count() == 2 {
        Families::Both
    } else {
        Families::One(family)
    };
    let pool = pool.map(str::to_owned);
    Request {
        families,
        wish: Wish::Addresses { addresses, pool },
        tenancy: Tenancy::Alone,
    }
}

/// What an assignment gives, in words: `pool: addresses`, or the reason.
pub(crate) fn assign(ipam: &mut Ipam, service: &'static str, request: &Request) -> String {
    match ipam.assign(&service, request, &|_| true) {
        Ok(given) => {
            let pools = given.assignment.pool_names().unwrap_or_default();
            format!("{pools}: {}", given.assignment.addresses())
        }
        Err(reason) => reason.to_string(),
    }
}

/// Lets a Service keep addresses of pools.
pub(crate) fn adopt(
    ipam: &mut Ipam,
    service: &'static str,
    list: &[&str],
    pool: Option<&str>,
    tenancy: Tenancy,
) -> Result<(), Rejection> {
    let keep = Keep {
        addresses: addresses(list),
        claimed: Claimed(pool),
        tenancy,
        outside: false,
    };
    ipam.adopt(&service, keep)
}

/// The one who has an address.
pub(crate) fn who(ipam: &Ipam, address: &str) -> Option<&'static str> {
    let mut tenants = ipam.who_has(ip(address));
    let first = tenants.next().copied();
    assert!(tenants.next().is_none(), "{address} is shared");
    first
}
