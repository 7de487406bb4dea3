//! The nodes on the local segments: which address belongs to which node, through which interface it is reachable, the
//! hardware address of each node there, and how to query it.
//!
//! A query is an ordinary request from our own address on the interface, so that it claims nothing, and unicast, so that
//! no other host receives it. It goes to the hardware address with which the node replied on that interface, if the
//! node's heartbeats tell it too; before the first reply, to all that they tell. Of a node that was never heard any reply
//! is taken, so its hardware address counts for one query only: if it does not reply, the next query is broadcast.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_l2::MacAddr;
use lb_net::LinkAddress;

use crate::interface_selection::is_link_local;
use crate::k8s::index::Index;
use crate::packet::announcer::Query;

/// Upper bound of the hardware addresses that one query is sent to on an interface. The others have their turn later.
const MAX_MACS_PER_QUERY: usize = 4;

/// Addresses of nodes and their hardware addresses.
#[derive(Debug, Default)]
pub struct NodeMacs {
    /// Nodes by address. Two Nodes can have the same one while one of them is out of date.
    nodes: BTreeMap<IpAddr, Vec<String>>,
    /// Addresses of our open interfaces, with the name of the interface.
    interfaces: Vec<(Arc<str>, LinkAddress)>,
    /// Hardware address of each node, by our interface.
    macs: BTreeMap<String, BTreeMap<Arc<str>, MacAddr>>,
    turns: BTreeMap<String, Turns>,
}

/// Counts the queries of a node.
#[derive(Debug, Default)]
struct Turns {
    /// About its own addresses.
    addresses: usize,
    all: usize,
}

impl NodeMacs {
    /// Sets the addresses of the nodes from the API.
    pub fn set_nodes(&mut self, index: &Index) {
        self.nodes.clear();
        for (name, node) in &index.nodes {
            for address in &node.addresses {
                self.nodes.entry(*address).or_default().push(name.clone());
            }
        }
        self.macs.retain(|node, _| index.nodes.contains_key(node));
        self.turns.retain(|node, _| index.nodes.contains_key(node));
    }

    /// Sets the addresses of the open interfaces.
    pub fn set_interfaces(&mut self, interfaces: Vec<(Arc<str>, LinkAddress)>) {
        let before = std::mem::replace(&mut self.interfaces, interfaces);
        let networks_of = |all: &[(Arc<str>, LinkAddress)], interface: &str| -> BTreeSet<(IpAddr, u8)> {
            let own = all.iter().filter(|(name, _)| **name == *interface);
            own.map(|(_, own)| (own.address, own.prefix_len)).collect()
        };
        // A changed interface may be attached to another network. The others stay: interfaces of pods change all the time.
        for macs in self.macs.values_mut() {
            macs.retain(|interface, _| {
                networks_of(&before, interface) == networks_of(&self.interfaces, interface)
            });
        }
    }

    /// The nodes that have this address.
    #[must_use]
    pub fn nodes_of(&self, address: IpAddr) -> &[String] {
        self.nodes.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The interfaces whose network contains the address; none when it is behind a router.
    #[must_use]
    pub fn interfaces_to(&self, address: IpAddr) -> Vec<Arc<str>> {
        let reaching = self.interfaces.iter().filter(|(_, link)| link.contains(address));
        let names: BTreeSet<_> = reaching.map(|(name, _)| name.clone()).collect();
        names.into_iter().collect()
    }

    /// Records the hardware address of a node on an interface. Returns whether it is new.
    pub fn record(&mut self, node: &str, interface: &str, mac: MacAddr) -> bool {
        let macs = self.macs.entry(node.to_owned()).or_default();
        macs.insert(interface.into(), mac) != Some(mac)
    }

    /// The recorded hardware addresses of a node that its heartbeats tell, by our interface.
    pub fn macs_of(&self, node: &str, told: &[MacAddr]) -> impl Iterator<Item = (&str, MacAddr)> {
        let macs = self.macs.get(node).into_iter().flatten();
        macs.filter(|(_, mac)| told.contains(mac))
            .map(|(interface, mac)| (&**interface, *mac))
    }

    /// The one of a node's addresses to query next, of those in our networks, with its interfaces.
    pub fn next_address(&mut self, node: &str, addresses: &[IpAddr]) -> Option<(IpAddr, Vec<Arc<str>>)> {
        let ways = addresses
            .iter()
            .map(|address| (*address, self.interfaces_to(*address)));
        let ways: Vec<_> = ways.filter(|(_, interfaces)| !interfaces.is_empty()).collect();
        let turn = &mut self.turns.entry(node.to_owned()).or_default().addresses;
        *turn = turn.wrapping_add(1);
        ways.get(turn.checked_rem(ways.len())?).cloned()
    }

    /// The queries of a node about an address on these interfaces. `told` are the hardware addresses from its heartbeats.
    pub fn queries(
        &mut self,
        node: &str,
        told: &[MacAddr],
        address: IpAddr,
        interfaces: &[Arc<str>],
        index: &Index,
    ) -> Vec<Query> {
        let turn = &mut self.turns.entry(node.to_owned()).or_default().all;
        *turn = turn.wrapping_add(1);
        let chunks = told.chunks(MAX_MACS_PER_QUERY);
        let chunk = turn.checked_rem(chunks.len()).unwrap_or_default();
        let some_told = told.chunks(MAX_MACS_PER_QUERY).nth(chunk).unwrap_or_default();
        let mut queries = Vec::new();
        for interface in interfaces {
            let Some(source) = self.source(interface, address, index) else {
                continue;
            };
            let query = |to| Query {
                interface: interface.clone(),
                source,
                to,
            };
            let recorded = self.macs.get_mut(node).and_then(|macs| {
                if told.is_empty() {
                    macs.remove(interface)
                } else {
                    macs.get(interface).copied().filter(|mac| told.contains(mac))
                }
            });
            match recorded {
                Some(mac) => queries.push(query(Some(mac))),
                None if told.is_empty() => queries.push(query(None)),
                None => queries.extend(some_told.iter().map(|mac| query(Some(*mac)))),
            }
        }
        queries
    }

    /// The queries of one host, or else of all hosts, about an address on these interfaces.
    #[must_use]
    pub fn queries_to(
        &self,
        host: Option<MacAddr>,
        address: IpAddr,
        interfaces: &[Arc<str>],
        index: &Index,
    ) -> Vec<Query> {
        let query = |interface: &Arc<str>| {
            Some(Query {
                interface: interface.clone(),
                source: self.source(interface, address, index)?,
                to: host,
            })
        };
        interfaces.iter().filter_map(query).collect()
    }

    /// Our own address on an interface from which to ask for `target`: link-local for IPv6, as in neighbor unreachability
    /// detection; for IPv4 preferably of the target's network. Never the address of a Service, which a request would
    /// claim, and never one that may be a duplicate.
    fn source(&self, interface: &str, target: IpAddr, index: &Index) -> Option<IpAddr> {
        let is_usable = |own: &LinkAddress| {
            own.address.is_ipv4() == target.is_ipv4()
                && !own.tentative
                && index.having(own.address).next().is_none()
        };
        let own = self.interfaces.iter().filter(|(name, _)| **name == *interface);
        let usable = own.map(|(_, own)| own).filter(|own| is_usable(own));
        let rank = |own: &&LinkAddress| {
            let link_local = is_link_local(own.address);
            if target.is_ipv6() {
                (!link_local, false)
            } else {
                (!own.contains(target), link_local)
            }
        };
        usable.min_by_key(rank).map(|own| own.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(address: &str, prefix_len: u8) -> LinkAddress {
        LinkAddress {
            address: address.parse().unwrap(),
            prefix_len,
            tentative: false,
        }
    }

    const N2: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

    /// The queries of `n2` about an address: interface, source and destination.
    fn queries(
        node_macs: &mut NodeMacs,
        told: &[MacAddr],
        address: &str,
        index: &Index,
    ) -> Vec<(String, String, Option<MacAddr>)> {
        let interfaces = ["eth0".into(), "eth1".into()];
        let queries = node_macs.queries("n2", told, address.parse().unwrap(), &interfaces, index);
        let plain = |query: Query| (query.interface.to_string(), query.source.to_string(), query.to);
        queries.into_iter().map(plain).collect()
    }

    #[test]
    fn addresses_are_reached_on_interfaces_of_their_network() {
        let mut node_macs = NodeMacs::default();
        node_macs.set_interfaces(vec![
            ("eth0".into(), link("192.168.50.11", 24)),
            ("eth0".into(), link("fd00::11", 64)),
            ("eth1".into(), link("192.168.51.11", 32)),
        ]);
        let way = |address: &str| node_macs.interfaces_to(address.parse().unwrap()).join(",");
        assert_eq!(way("192.168.50.200"), "eth0");
        assert_eq!(way("fd00::ffff"), "eth0");
        assert_eq!(way("192.168.51.11"), "eth1");
        assert_eq!((way("192.168.51.12"), way("fd00:1::1")), Default::default());
    }

    #[test]
    fn queries_are_unicast_from_our_own_address() {
        let mut node_macs = NodeMacs::default();
        let tentative = LinkAddress {
            tentative: true,
            ..link("fe80::11", 64)
        };
        node_macs.set_interfaces(vec![
            ("eth0".into(), link("10.0.0.11", 8)),
            ("eth0".into(), link("192.168.50.11", 24)),
            ("eth0".into(), link("fd00::11", 64)),
            ("eth0".into(), link("fe80::11", 64)),
            ("eth1".into(), tentative),
        ]);
        let index = Index::default();
        let own = |source: &str| vec![("eth0".to_owned(), source.to_owned(), Some(N2))];
        let mut ask = |address| queries(&mut node_macs, &[N2], address, &index);
        assert_eq!(ask("192.168.50.200"), own("192.168.50.11"));
        assert_eq!(ask("10.1.1.1"), own("10.0.0.11"));
        assert_eq!(
            ask("172.16.0.1"),
            own("10.0.0.11"),
            "an address is better than no query"
        );
        assert_eq!(ask("fd00::ffff"), own("fe80::11"));
        node_macs.set_interfaces(vec![("eth1".into(), link("fd00::11", 64))]);
        assert_eq!(
            queries(&mut node_macs, &[N2], "192.168.50.200", &index),
            [],
            "no own address"
        );
    }

    #[test]
    fn replies_narrow_queries_to_one_told_mac() {
        let mut node_macs = NodeMacs::default();
        node_macs.set_interfaces(vec![("eth0".into(), link("192.168.50.11", 24))]);
        let index = Index::default();
        let many: Vec<_> = (2..12).map(|last| MacAddr([2, 0, 0, 0, 0, last])).collect();
        let ask = |node_macs: &mut NodeMacs, told: &[MacAddr]| -> Vec<_> {
            let queries = queries(node_macs, told, "192.168.50.12", &index);
            queries.into_iter().map(|(.., to)| to).collect()
        };
        let mut asked = BTreeSet::new();
        for _ in 0..6 {
            let to = ask(&mut node_macs, &many);
            assert!(to.len() <= MAX_MACS_PER_QUERY, "{to:?}");
            asked.extend(to);
        }
        assert_eq!(asked.len(), 10, "each has its turn");
        node_macs.record("n2", "eth0", N2);
        assert_eq!(ask(&mut node_macs, &many), [Some(N2)]);
        // Another host has shown itself as the node.
        node_macs.record("n2", "eth0", OTHER);
        assert_eq!(ask(&mut node_macs, &[N2]), [Some(N2)]);
        assert_eq!(
            node_macs.macs_of("n2", &[N2]).count(),
            0,
            "no proxy reply with it"
        );
    }

    #[test]
    fn node_without_heartbeats_is_asked_by_broadcast_until_it_replies() {
        let mut node_macs = NodeMacs::default();
        node_macs.set_interfaces(vec![("eth0".into(), link("192.168.50.11", 24))]);
        let index = Index::default();
        let ask = |node_macs: &mut NodeMacs| queries(node_macs, &[], "192.168.50.12", &index)[0].2;
        assert_eq!(ask(&mut node_macs), None);
        node_macs.record("n2", "eth0", OTHER);
        assert_eq!(ask(&mut node_macs), Some(OTHER));
        assert_eq!(ask(&mut node_macs), None, "it did not reply");
    }

    #[test]
    fn macs_of_nodes_are_kept_until_the_interface_changes() {
        let mut node_macs = NodeMacs::default();
        let interfaces = || {
            vec![
                ("eth0".into(), link("192.168.50.11", 24)),
                ("eth1".into(), link("fd00::11", 64)),
            ]
        };
        let macs = |node_macs: &NodeMacs| -> Vec<String> {
            node_macs
                .macs_of("n2", &[N2, OTHER])
                .map(|(interface, _)| interface.to_owned())
                .collect()
        };
        node_macs.set_interfaces(interfaces());
        for interface in ["eth0", "eth1"] {
            assert!(node_macs.record("n2", interface, N2) && !node_macs.record("n2", interface, N2));
        }
        // The interface of a pod was added.
        let mut more = interfaces();
        more.push(("veth0".into(), link("169.254.1.1", 32)));
        node_macs.set_interfaces(more);
        assert_eq!(macs(&node_macs), ["eth0", "eth1"]);
        node_macs.set_interfaces(interfaces().split_off(1));
        assert_eq!(macs(&node_macs), ["eth1"]);
        node_macs.set_interfaces(interfaces());
        assert_eq!(macs(&node_macs), ["eth1"], "forgotten with the interface");
        assert!(node_macs.record("n2", "eth1", OTHER));
    }
}
