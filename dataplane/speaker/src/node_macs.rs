//! Where the nodes of other speakers are on the wire: which address is whose, on which interface it can be asked for, and
//! from which hardware address a node answers there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_l2::MacAddr;
use lb_net::LinkAddress;

use crate::interface_selection::InterfaceSelection;
use crate::k8s::index::Index;

/// The nodes on the wire.
#[derive(Debug, Default)]
pub struct NodeMacs {
    /// The node of each address of a node.
    nodes: BTreeMap<IpAddr, String>,
    /// The addresses of our open interfaces, by name.
    ports: Vec<(Arc<str>, LinkAddress)>,
    /// The hardware address of each node, by interface of ours.
    faces: BTreeMap<String, BTreeMap<String, MacAddr>>,
}

impl NodeMacs {
    /// Takes in what the API says of the nodes.
    pub fn set_nodes(&mut self, index: &Index) {
        self.nodes = index
            .nodes
            .iter()
            .flat_map(|(name, node)| node.addresses.iter().map(|address| (*address, name.clone())))
            .collect();
        self.faces.retain(|node, _| index.nodes.contains_key(node));
    }

    /// Takes in the addresses of the interfaces that are open.
    pub fn set_ports(&mut self, ports: Vec<(Arc<str>, LinkAddress)>) {
        let before = std::mem::replace(&mut self.ports, ports);
        let of = |ports: &[(Arc<str>, LinkAddress)], interface: &str| -> BTreeSet<LinkAddress> {
            let ports = ports.iter().filter(|(name, _)| **name == *interface);
            ports.map(|(_, address)| *address).collect()
        };
        // Behind an interface that has changed may be another network now. Others, of pods for one, come and go all the time.
        for faces in self.faces.values_mut() {
            faces.retain(|interface, _| of(&before, interface) == of(&self.ports, interface));
        }
    }

    /// The node that has this address.
    #[must_use]
    pub fn node_of(&self, address: IpAddr) -> Option<&str> {
        self.nodes.get(&address).map(String::as_str)
    }

    /// The interfaces behind which the address can be asked for; none when a router is in between.
    #[must_use]
    pub fn way_to(&self, address: IpAddr) -> Option<InterfaceSelection> {
        let names: BTreeSet<_> = self
            .ports
            .iter()
            .filter(|(_, link)| link.contains(address))
            .map(|(name, _)| name.clone())
            .collect();
        (!names.is_empty()).then_some(InterfaceSelection::Named(names))
    }

    /// A node has answered on an interface from a hardware address. Returns whether that is news.
    pub fn saw(&mut self, node: &str, interface: &str, mac: MacAddr) -> bool {
        let faces = self.faces.entry(node.to_owned()).or_default();
        faces.insert(interface.to_owned(), mac) != Some(mac)
    }

    /// From where a node answers, by interface of ours.
    pub fn faces(&self, node: &str) -> impl Iterator<Item = (&str, MacAddr)> {
        let faces = self.faces.get(node).into_iter().flatten();
        faces.map(|(interface, mac)| (interface.as_str(), *mac))
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
    fn an_address_can_be_asked_for_where_its_network_is() {
        let mut node_macs = NodeMacs::default();
        node_macs.set_ports(vec![
            ("eth0".into(), link("192.168.50.11", 24)),
            ("eth0".into(), link("fd00::11", 64)),
            ("eth1".into(), link("192.168.51.11", 32)),
        ]);
        let way = |address: &str| {
            let way = node_macs.way_to(address.parse().unwrap());
            way.map(|way| way.names().join(","))
        };
        assert_eq!(way("192.168.50.200").as_deref(), Some("eth0"));
        assert_eq!(way("fd00::ffff").as_deref(), Some("eth0"));
        assert_eq!(way("192.168.51.11").as_deref(), Some("eth1"));
        assert_eq!((way("192.168.51.12"), way("fd00:1::1")), (None, None));
    }

    #[test]
    fn from_where_a_node_answers_is_known_until_the_interface_changes() {
        let mut node_macs = NodeMacs::default();
        let ports = || {
            vec![
                ("eth0".into(), link("192.168.50.11", 24)),
                ("eth1".into(), link("fd00::11", 64)),
            ]
        };
        let faces = |node_macs: &NodeMacs| -> Vec<String> {
            node_macs
                .faces("n2")
                .map(|(interface, _)| interface.to_owned())
                .collect()
        };
        node_macs.set_ports(ports());
        let mac = MacAddr([2, 0, 0, 0, 0, 2]);
        for interface in ["eth0", "eth1"] {
            assert!(node_macs.saw("n2", interface, mac) && !node_macs.saw("n2", interface, mac));
        }
        // A pod's interface has come.
        let mut more = ports();
        more.push(("veth0".into(), link("169.254.1.1", 32)));
        node_macs.set_ports(more);
        assert_eq!(faces(&node_macs), ["eth0", "eth1"]);
        node_macs.set_ports(ports().split_off(1));
        assert_eq!(faces(&node_macs), ["eth1"]);
        node_macs.set_ports(ports());
        assert_eq!(faces(&node_macs), ["eth1"], "it was away");
        assert!(node_macs.saw("n2", "eth1", MacAddr([2, 0, 0, 0, 0, 3])));
    }
}
