//! Selects the interfaces that an address is announced on: by the advertisements, the properties of the links, and the
//! excluded names.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use lb_net::{Link, LinkAddress};
use regex::{Regex, RegexSet};

/// The interfaces that MetalLB excludes: those of container networks and of virtual networks within the host.
const DEFAULT_EXCLUDED: [&str; 14] = [
    "^docker.*",
    "^cbr.*",
    "^dummy.*",
    "^virbr.*",
    "^lxcbr.*",
    "^veth.*",
    "^lo$",
    "^cali.*",
    "^tunl.*",
    "^flannel.*",
    "^kube-ipvs.*",
    "^cni.*",
    "^nodelocaldns.*",
    "^lxc.*",
];

/// The interfaces that the advertisements of an address select.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InterfaceSelection {
    /// Every suitable interface.
    All,
    /// The suitable ones among those with these names.
    Named(BTreeSet<Arc<str>>),
}

impl InterfaceSelection {
    /// Whether the interface with this name is selected.
    #[must_use]
    pub fn includes(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }

    /// The names as a ServiceL2Status lists them; empty for all.
    #[must_use]
    pub fn names(&self) -> Box<[Arc<str>]> {
        match self {
            Self::All => Box::default(),
            Self::Named(names) => names.iter().cloned().collect(),
        }
    }

    /// Adds the interfaces of another advertisement. An empty list stands for all.
    pub fn add(&mut self, list: &[Arc<str>]) {
        match self {
            Self::All => {}
            Self::Named(_) if list.is_empty() => *self = Self::All,
            Self::Named(names) => names.extend(list.iter().cloned()),
        }
    }
}

/// Whether the networks of a link allow to announce the address on it: one of them contains the address, or the link has no
/// global address of the family.
#[must_use]
pub fn covers(link: &Link, address: IpAddr) -> bool {
    !has_network(link, address) || networks(link, address).any(|own| own.contains(address))
}

/// Whether the link has a global address of the family.
#[must_use]
pub fn has_network(link: &Link, address: IpAddr) -> bool {
    networks(link, address).next().is_some()
}

fn networks(link: &Link, address: IpAddr) -> impl Iterator<Item = &LinkAddress> {
    let of_family = link.addresses.iter();
    of_family.filter(move |own| own.address.is_ipv4() == address.is_ipv4() && !is_link_local(own.address))
}

/// Whether the link can carry the family of the address. With IPv6 enabled, a link has a link-local address.
#[must_use]
pub fn supports_family(link: &Link, address: IpAddr) -> bool {
    address.is_ipv4() || link.addresses.iter().any(|own| own.address.is_ipv6())
}

pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Patterns of interface names that are never announced on.
#[derive(Clone, Debug)]
pub struct ExcludedInterfaces(RegexSet);

/// A pattern is not a regular expression.
#[derive(Debug, thiserror::Error)]
#[error("--exclude-interfaces: {pattern:?} is not a regular expression")]
pub struct ExcludedInterfacesError {
    pattern: String,
    #[source]
    source: regex::Error,
}

impl ExcludedInterfaces {
    /// Compiles the patterns. An empty pattern excludes nothing.
    ///
    /// # Errors
    /// If a pattern is not a regular expression.
    pub fn new<P: AsRef<str>>(
        patterns: impl IntoIterator<Item = P>,
    ) -> Result<Self, ExcludedInterfacesError> {
        let mut checked = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let fail = |source| ExcludedInterfacesError {
                pattern: pattern.to_owned(),
                source,
            };
            // One by one, because the error of a set does not name the pattern.
            Regex::new(pattern).map_err(fail)?;
            if !pattern.is_empty() {
                checked.push(pattern.to_owned());
            }
        }
        let fail = |source| ExcludedInterfacesError {
            pattern: checked.join(" "),
            source,
        };
        RegexSet::new(&checked).map(Self).map_err(fail)
    }

    /// The built-in patterns.
    ///
    /// # Errors
    /// Never in practice: a test compiles them.
    pub fn built_in() -> Result<Self, ExcludedInterfacesError> {
        Self::new(DEFAULT_EXCLUDED)
    }

    /// Whether the interface with this name is excluded.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// Whether the link is suitable: it is up with carrier, is an Ethernet interface that broadcasts and uses ARP, is
    /// neither the loopback nor a member of a bond or bridge, and is not excluded.
    #[must_use]
    pub fn admits(&self, link: &Link) -> bool {
        link.up
            && link.carrier
            && link.mac.is_some()
            && link.broadcast
            && !link.noarp
            && !link.loopback
            && !link.enslaved
            && !self.contains(&link.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some(lb_l2::MacAddr([2, 0, 0, 0, 0, 1])),
            up: true,
            carrier: true,
            loopback: false,
            broadcast: true,
            noarp: false,
            enslaved: false,
            addresses: BTreeSet::new(),
        }
    }

    #[test]
    fn only_working_ethernet_interfaces_are_admitted() {
        let excluded = ExcludedInterfaces::built_in().unwrap();
        assert!(excluded.admits(&link()));
        let spoil: [fn(&mut Link); 8] = [
            |link| link.up = false,
            |link| link.carrier = false,
            |link| link.mac = None,
            |link| link.broadcast = false,
            |link| link.noarp = true,
            |link| link.loopback = true,
            |link| link.enslaved = true,
            |link| link.name = "veth1a2b".to_owned(),
        ];
        for spoil in spoil {
            let mut link = link();
            spoil(&mut link);
            assert!(!excluded.admits(&link), "{link:?}");
        }
    }

    #[test]
    fn links_cover_addresses_of_their_networks() {
        let with = |addresses: &[(&str, u8)]| Link {
            addresses: addresses
                .iter()
                .map(|(address, prefix_len)| lb_net::LinkAddress {
                    address: address.parse().unwrap(),
                    prefix_len: *prefix_len,
                    tentative: false,
                })
                .collect(),
            ..link()
        };
        let both = with(&[("192.168.50.11", 24), ("fe80::1", 64), ("fd00:50::1", 64)]);
        let (near, far) = ("192.168.50.200".parse().unwrap(), "192.168.51.1".parse().unwrap());
        assert!(covers(&both, near) && !covers(&both, far));
        let (near, far) = ("fd00:50::2".parse().unwrap(), "fd00:51::2".parse().unwrap());
        assert!(covers(&both, near) && !covers(&both, far));
        let bare = with(&[("fe80::1", 64)]);
        assert!(covers(&bare, far) && supports_family(&bare, far) && !supports_family(&with(&[]), far));
    }

    #[test]
    fn an_empty_interface_list_selects_all() {
        let mut interfaces = InterfaceSelection::Named(BTreeSet::new());
        interfaces.add(&["eth0".into()]);
        interfaces.add(&["eth1".into()]);
        assert_eq!(interfaces.names().join(","), "eth0,eth1");
        assert!(interfaces.includes("eth1") && !interfaces.includes("eth2"));
        interfaces.add(&[]);
        assert!(interfaces.includes("eth2"));
        interfaces.add(&["eth0".into()]);
        assert_eq!(interfaces, InterfaceSelection::All);
        assert!(interfaces.names().is_empty());
    }
}
