//! The next hops of a session, by the family of the prefix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_bgp::session::NextHops;
use lb_bgp::wire::NextHop;
use lb_net::{Link, Snapshot};

/// The next hops of a session between these addresses. `internal` are the node's internal addresses.
///
/// For prefixes of the session's own family the next hop is the local address. For the other family it is an address of the
/// node on the same interface, otherwise an internal address of the node.
#[must_use]
pub fn next_hops(
    local: IpAddr,
    router: IpAddr,
    multi_hop: bool,
    links: &Snapshot,
    internal: &[IpAddr],
) -> NextHops {
    let link = links
        .values()
        .find(|link| link.addresses.iter().any(|own| own.address == local));
    let others = addresses(link, internal);
    let ipv4 = match local {
        IpAddr::V4(local) => Some(local),
        IpAddr::V6(_) => others.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        }),
    };
    let ipv6 = match local {
        IpAddr::V6(local) => Some(local),
        IpAddr::V4(_) => others.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        }),
    };
    // A link-local address counts only for a router on the same link (RFC 2545 section 3).
    let link_local = link
        .filter(|link| local.is_ipv6() && !multi_hop && is_on_link(link, router))
        .and_then(link_local);
    NextHops {
        ipv4: ipv4.map(NextHop::Ipv4),
        ipv6: ipv6.map(|global| NextHop::Ipv6(global, link_local)),
    }
}

/// The addresses of the node that a next hop may be, in order of preference: internal ones of the interface, others of the
/// interface, other internal ones.
fn addresses(link: Option<&Link>, internal: &[IpAddr]) -> Vec<IpAddr> {
    let of_link = || {
        let addresses = link.into_iter().flat_map(|link| &link.addresses);
        addresses.filter(|own| !own.tentative).map(|own| own.address)
    };
    let preferred = of_link().filter(|address| internal.contains(address));
    let all = preferred.chain(of_link()).chain(internal.iter().copied());
    all.filter(|address| is_global(*address)).collect()
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address != Ipv4Addr::LOCALHOST && !address.is_link_local() && !address.is_unspecified()
        }
        IpAddr::V6(address) => {
            let is_special = address == Ipv6Addr::LOCALHOST || address.is_unspecified();
            !is_special && !address.is_unicast_link_local()
        }
    }
}

/// Whether an address is in a subnet of any interface.
pub(crate) fn is_on_connected_subnet(links: &Snapshot, router: IpAddr) -> bool {
    links.values().any(|link| is_on_link(link, router))
}

fn is_on_link(link: &Link, router: IpAddr) -> bool {
    link.addresses.iter().any(|own| own.contains(router))
}

fn link_local(link: &Link) -> Option<Ipv6Addr> {
    link.addresses.iter().find_map(|own| match own.address {
        IpAddr::V6(address) if address.is_unicast_link_local() && !own.tentative => Some(address),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    })
}
