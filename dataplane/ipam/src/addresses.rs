//! The addresses that one Service has or requests: at most one of each family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::range::Family;

/// At most one IPv4 and one IPv6 address.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Addresses {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Adds an address; false if there is one of its family already, which stays.
    pub fn add(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) if self.v4.is_none() => self.v4 = Some(v4),
            IpAddr::V6(v6) if self.v6.is_none() => self.v6 = Some(v6),
            IpAddr::V4(_) | IpAddr::V6(_) => return false,
        }
        true
    }

    /// The address of a family.
    #[must_use]
    pub fn get(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// The addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.get(Family::V4).into_iter().chain(self.get(Family::V6))
    }

    /// Whether there is no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// The address of one family, without the other.
    #[must_use]
    pub fn only(&self, family: Family) -> Self {
        self.get(family).into_iter().collect()
    }
}

impl FromIterator<IpAddr> for Addresses {
    /// Collects addresses; only the first of each family is kept.
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut collected = Self::default();
        for address in addresses {
            collected.add(address);
        }
        collected
    }
}

impl From<IpAddr> for Addresses {
    fn from(address: IpAddr) -> Self {
        [address].into_iter().collect()
    }
}

/// As MetalLB's events list addresses: `["192.168.50.50" "fd00:50::1"]`.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, address) in self.iter().enumerate() {
            let blank = if i == 0 { "" } else { " " };
            write!(f, "{blank}\"{address}\"")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_at_most_one_address_per_family() {
        let mut addresses = Addresses::default();
        assert!(addresses.is_empty());
        assert!(addresses.add("fd00::1".parse().unwrap()));
        assert!(addresses.add("192.168.50.50".parse().unwrap()));
        assert!(!addresses.add("192.168.50.51".parse().unwrap()));
        assert_eq!(addresses.to_string(), "[\"192.168.50.50\" \"fd00::1\"]");
        assert_eq!(addresses.only(Family::V6).to_string(), "[\"fd00::1\"]");
    }
}
