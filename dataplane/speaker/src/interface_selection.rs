//! On which interfaces an address is announced: what the advertisements name, what the links are fit for, and what
//! the configuration excludes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use lb_net::{Link, LinkAddress};
use regex::{Regex, RegexSet};

/// What MetalLB excludes: interfaces that container networks and the host's own virtual networks make.
const USUAL: [&str; 14] = [
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

/// The interfaces that the advertisements of an address ask for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InterfaceSelection {
    /// Every interface that is fit.
    All,
    /// Those with these names, as far as they are fit.
    Named(BTreeSet<Arc<str>>),
}

impl InterfaceSelection {
    /// Whether the interface with this name is asked for.
    #[must_use]
    pub fn include(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }

    /// The names, as a ServiceL2Status lists them; none for all.
    #[must_use]
    pub fn names(&self) -> Box<[Arc<str>]> {
        match self {
            Self::All => Box::default(),
            Self::Named(names) => names.iter().cloned().collect(),
        }
    }

    /// Adds what another advertisement asks for: a list without names stands for all.
    pub fn add(&mut self, list: &[Arc<str>]) {
        match self {
            Self::All => {}
            Self::Named(_) if list.is_empty() => *self = Self::All,
            Self::Named(names) => names.extend(list.iter().cloned()),
        }
    }
}

/// Whether an address is to be announced on a link, as far as their networks are concerned: where the link has addresses
/// of the family that are known beyond it, one of their networks covers the address, or it has none. IPv6 needs a link that
/// takes part in it, which then has a link-local address.
#[must_use]
pub fn covers(link: &Link, address: IpAddr) -> bool {
    !has_network(link, address) || networks(link, address).any(|own| own.contains(address))
}

/// Whether the link has an address of the family that is known beyond it.
#[must_use]
pub fn has_network(link: &Link, address: IpAddr) -> bool {
    networks(link, address).next().is_some()
}

fn networks(link: &Link, address: IpAddr) -> impl Iterator<Item = &LinkAddress> {
    let of_family = link.addresses.iter();
    of_family.filter(move |own| own.address.is_ipv4() == address.is_ipv4() && !is_link_local(own.address))
}

/// Whether the link takes part in the family of the address.
#[must_use]
pub fn speaks(link: &Link, address: IpAddr) -> bool {
    address.is_ipv4() || link.addresses.iter().any(|own| own.address.is_ipv6())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// InterfaceSelection never to announce on.
#[derive(Clone, Debug)]
pub struct Excluded(RegexSet);

/// A pattern that is no regular expression.
#[derive(Debug, thiserror::Error)]
#[error("--exclude-interfaces: {pattern:?} is not a regular expression")]
pub struct ExcludedError {
    pattern: String,
    #[source]
    source: regex::Error,
}

impl Excluded {
    /// InterfaceSelection whose name one of the patterns matches. An empty pattern matches none.
    ///
    /// # Errors
    /// When a pattern is no regular expression.
    pub fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, ExcludedError> {
        let mut checked = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let fail = |source| ExcludedError {
                pattern: pattern.to_owned(),
                source,
            };
            // One by one, because the error of the set does not say which.
            Regex::new(pattern).map_err(fail)?;
            if !pattern.is_empty() {
                checked.push(pattern.to_owned());
            }
        }
        let fail = |source| ExcludedError {
            pattern: checked.join(" "),
            source,
        };
        RegexSet::new(&checked).map(Self).map_err(fail)
    }

    /// The built-in list.
    ///
    /// # Errors
    /// Never in practice: a test compiles the list.
    pub fn usual() -> Result<Self, ExcludedError> {
        Self::new(USUAL)
    }

    /// Whether the interface with this name is excluded.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// Whether ARP can be answered on the link: it is up, has carrier and an Ethernet address, can broadcast and uses
    /// ARP, is not the loopback, no part of a bond or bridge (which speaks in its place), and not excluded.
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
    fn only_an_ethernet_interface_that_works_is_fit() {
        let excluded = Excluded::usual().unwrap();
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
    fn an_address_belongs_on_a_link_whose_network_covers_it_or_that_has_none() {
        let with = |addresses: &[(&str, u8)]| Link {
            addresses: addresses
                .iter()
                .map(|(address, prefix_len)| lb_net::LinkAddress {
                    address: address.parse().unwrap(),
                    prefix_len: *prefix_len,
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
        assert!(covers(&bare, far) && speaks(&bare, far) && !speaks(&with(&[]), far));
    }

    #[test]
    fn one_advertisement_without_a_list_asks_for_all_interfaces() {
        let mut interfaces = InterfaceSelection::Named(BTreeSet::new());
        interfaces.add(&["eth0".into()]);
        interfaces.add(&["eth1".into()]);
        assert_eq!(interfaces.names().join(","), "eth0,eth1");
        assert!(interfaces.include("eth1") && !interfaces.include("eth2"));
        interfaces.add(&[]);
        assert!(interfaces.include("eth2"));
        interfaces.add(&["eth0".into()]);
        assert_eq!(interfaces, InterfaceSelection::All);
        assert!(interfaces.names().is_empty());
    }
}
