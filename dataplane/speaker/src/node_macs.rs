//! The nodes on the local segments: which address belongs to which node, through which interface it is reachable, and the
//! hardware address of each node there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_l2::MacAddr;
use lb_net::LinkAddress;

use crate::interface_selection::InterfaceSelection;
use crate::k8s::index::Index;

/// Addresses of nodes and their hardware addresses.
#[derive(Debug, Default)]
pub struct NodeMacs {
    /// Node by address.
    nodes: BTreeMap<IpAddr, String>,
    /// Addresses of our open interfaces, with the name of the interface.
    interfaces: Vec<(Arc<str>, LinkAddress)>,
    /// Hardware address of each node, by our interface.
    macs: BTreeMap<String, BTreeMap<String, MacAddr>>,
}

impl NodeMacs {
    /// Sets the addresses of the nodes from the API.
    pub fn set_nodes(&mut self, index: &Index) {
        self.nodes = index
            .nodes
            .iter()
            .flat_map(|(name, node)| node.addresses.iter().map(|address| (*address, name.clone())))
            .collect();
        self.macs.retain(|node, _| index.nodes.contains_key(node));
    }

    /// Sets the addresses of the open interfaces.
    pub fn set_interfaces(&mut self, interfaces: Vec<(Arc<str>, LinkAddress)>) {
        let before = std::mem::replace(&mut self.interfaces, interfaces);
        let addresses_of = |all: &[(Arc<str>, LinkAddress)], interface: &str| -> BTreeSet<LinkAddress> {
            let own = all.iter().filter(|(name, _)| **name == *interface);
            own.map(|(_, address)| *address).collect()
        };
        // A changed interface may be attached to another network. The others stay: interfaces of pods change all the time.
        for macs in self.macs.values_mut() {
            macs.retain(|interface, _| {
                addresses_of(&before, interface) == addresses_of(&self.interfaces, interface)
            });
        }
    }

    /// The node that has this address.
    #[must_use]
    pub fn node_of(&self, address: IpAddr) -> Option<&str> {
        self.nodes.get(&address).map(String::as_str)
    }

    /// The interfaces whose network contains the address; `None` when it is behind a router.
    #[must_use]
    pub fn interfaces_to(&self, address: IpAddr) -> Option<InterfaceSelection> {
        let names: BTreeSet<_> = self
            .interfaces
            .iter()
            .filter(|(_, link)| link.contains(address))
            .map(|(name, _)| name.clone())
            .collect();
        (!names.is_empty()).then_some(InterfaceSelection::Named(names))
    }

    /// Records the hardware address of a node on an interface. Returns whether it is new.
    pub fn record(&mut self, node: &str, interface: &str, mac: MacAddr) -> bool {
        let macs = self.macs.entry(node.to_owned()).or_default();
        macs.insert(interface.to_owned(), mac) != Some(mac)
    }

    /// The hardware addresses of a node, by our interface.
    pub fn macs_of(&self, node: &str) -> impl Iterator<Item = (&str, MacAddr)> {
        let macs = self.macs.get(node).into_iter().flatten();
        macs.map(|(interface, mac)| (interface.as_str(), *mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(address: &str, prefix_len: u8) -> LinkAddress {
        LinkAddress {
            address: address.parse().unwrap(),
            prefix_len,
        }
    }

    #[test]
    fn addresses_are_probed_on_interfaces_of_their_network() {
        let mut node_macs = NodeMacs::default();
        node_macs.set_interfaces(vec![
            ("eth0".into(), link("192.168.50.11", 24)),
            ("eth0".into(), link("fd00::11", 64)),
            ("eth1".into(), link("192.168.51.11", 32)),
        ]);
        let way = |address: &str| {
            let way = node_macs.interfaces_to(address.parse().unwrap());
            way.map(|way| way.names().join(","))
        };
        assert_eq!(way("192.168.50.200").as_deref(), Some("eth0"));
        assert_eq!(way("fd00::ffff").as_deref(), Some("eth0"));
        assert_eq!(way("192.168.51.11").as_deref(), Some("eth1"));
        assert_eq!((way("192.168.51.12"), way("fd00:1::1")), (None, None));
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
                .macs_of("n2")
                .map(|(interface, _)| interface.to_owned())
                .collect()
        };
        node_macs.set_interfaces(interfaces());
        let mac = MacAddr([2, 0, 0, 0, 0, 2]);
        for interface in ["eth0", "eth1"] {
            assert!(node_macs.record("n2", interface, mac) && !node_macs.record("n2", interface, mac));
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
        assert!(node_macs.record("n2", "eth1", MacAddr([2, 0, 0, 0, 0, 3])));
    }
}
