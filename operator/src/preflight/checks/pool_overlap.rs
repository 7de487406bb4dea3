//! Check `PoolOverlap`: whether pools contain addresses that the cluster uses. A Service with a node's address would
//! cut the node off; one with an address of pods or of other Services would be unreachable.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_crds::AddressRange;
use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::preflight::{Fact, Finding, NodeFacts, PoolFacts, unknown};

pub(in crate::preflight) fn pool_overlap(
    pools: &Fact<Vec<PoolFacts>>,
    nodes: &Fact<Vec<NodeFacts>>,
    services: &Fact<Vec<IpNet>>,
) -> Finding {
    let (pools, nodes, services) = match (pools, nodes, services) {
        (Ok(pools), Ok(nodes), Ok(services)) => (pools, nodes, services),
        (Err(error), _, _) => return unknown("the pools", error),
        (_, Err(error), _) => return unknown("the nodes", error),
        (_, _, Err(error)) => return unknown("the Service networks", error),
    };
    let mut found = Vec::new();
    for pool in pools {
        found.extend(nodes.iter().filter_map(|node| with_node(pool, node)));
        for network in nodes.iter().flat_map(|node| &node.pods) {
            found.extend(with_network(pool, *network, "pods"));
        }
        for network in services {
            found.extend(with_network(pool, *network, "Services"));
        }
    }
    if found.is_empty() {
        return Finding::passed("no pool overlaps nodes, pods or Services");
    }
    found.dedup();
    Finding::failed(format!(
        "{}; remove these addresses from spec.addresses or add them to the pool's annotation {}",
        list_first(&found, LIST_LIMIT),
        lb_crds::names::EXCLUDED_ADDRESSES
    ))
}

fn with_node(pool: &PoolFacts, node: &NodeFacts) -> Option<String> {
    let mut addresses = node.addresses.iter();
    let address = addresses.find(|address| assigns(pool, **address))?;
    Some(format!(
        "pool {} has the address {address} of node {}",
        pool.name, node.name
    ))
}

fn assigns(pool: &PoolFacts, address: IpAddr) -> bool {
    pool.ranges.iter().any(|range| range.contains(address))
        && !pool.excluded.iter().any(|range| range.contains(address))
}

fn with_network(pool: &PoolFacts, network: IpNet, of: &str) -> Option<String> {
    let network_range = AddressRange::new(network.network(), network.broadcast()).ok()?;
    pool.ranges
        .iter()
        .find(|range| range.overlaps(&network_range) && !is_excluded(pool, overlap(range, &network_range)))?;
    Some(format!(
        "pool {} overlaps {network}, the network of {of}",
        pool.name
    ))
}

/// First and last address of the intersection.
fn overlap(a: &AddressRange, b: &AddressRange) -> (IpAddr, IpAddr) {
    (a.first().max(b.first()), a.last().min(b.last()))
}

/// Whether one excluded range contains all of them.
fn is_excluded(pool: &PoolFacts, (first, last): (IpAddr, IpAddr)) -> bool {
    pool.excluded
        .iter()
        .any(|range| range.contains(first) && range.contains(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pool(ranges: &[&str], excluded: &[&str]) -> PoolFacts {
        let read = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        PoolFacts {
            name: "lan".to_owned(),
            ranges: read(ranges),
            excluded: read(excluded),
        }
    }

    #[test]
    fn pool_with_used_addresses_fails_and_names_them() {
        let node = NodeFacts {
            name: "n1".to_owned(),
            addresses: vec!["192.168.50.11".parse().unwrap(), "fc00:50::11".parse().unwrap()],
            pods: vec!["10.244.1.0/24".parse().unwrap()],
            ..NodeFacts::default()
        };
        let services: Vec<IpNet> = vec!["10.96.0.0/16".parse().unwrap()];
        let cases: [(&[&str], &[&str], Option<&str>); 11] = [
            (&["192.168.50.50-192.168.50.250"], &[], None),
            (
                &["192.168.50.0/24"],
                &[],
                Some("pool lan has the address 192.168.50.11 of node n1"),
            ),
            (&["192.168.50.0/24"], &["192.168.50.0/27"], None),
            (
                &["fc00:50::/64"],
                &[],
                Some("pool lan has the address fc00:50::11 of node n1"),
            ),
            (
                &["10.244.1.7/32"],
                &[],
                Some("pool lan overlaps 10.244.1.0/24, the network of pods"),
            ),
            (&["10.244.2.0/24"], &[], None),
            (
                &["10.0.0.0/8"],
                &["10.244.0.0/16"],
                Some("pool lan overlaps 10.96.0.0/16, the network of Services"),
            ),
            (
                &["10.96.255.250-10.97.0.10"],
                &[],
                Some("pool lan overlaps 10.96.0.0/16"),
            ),
            (&["10.96.255.250-10.97.0.10"], &["10.96.255.0/24"], None),
            (&["10.97.0.0/24"], &[], None),
            (&[], &[], None),
        ];
        for (ranges, excluded, wanted) in cases {
            let pools = Ok(vec![mk_pool(ranges, excluded)]);
            let finding = pool_overlap(&pools, &Ok(vec![node.clone()]), &Ok(services.clone()));
            match wanted {
                None => assert!(matches!(finding, Finding::Passed(_)), "{ranges:?}: {finding:?}"),
                Some(wanted) => {
                    let Finding::Failed(message) = finding else {
                        panic!("{ranges:?} passes");
                    };
                    assert!(message.contains(wanted), "{message}");
                }
            }
        }
    }
}
