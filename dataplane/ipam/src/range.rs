//! Address families and ranges. Addresses of both families are handled as 128-bit numbers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The other family.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// The address with this number; `None` if it exceeds the family.
    pub(crate) fn address(self, number: u128) -> Option<IpAddr> {
        match self {
            Self::V4 => u32::try_from(number).ok().map(|bits| Ipv4Addr::from(bits).into()),
            Self::V6 => Some(Ipv6Addr::from(number).into()),
        }
    }
}

/// As in MetalLB's events.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// The number of an address within its family.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Consecutive addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

impl Range {
    /// The range from `first` to `last`; `None` if the families differ or `last` is lower.
    #[must_use]
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (Family::of(first) == Family::of(last) && first <= last).then_some(Self { first, last })
    }

    /// All addresses of a CIDR.
    #[must_use]
    pub fn of_net(net: ipnet::IpNet) -> Self {
        Self {
            first: net.network(),
            last: net.broadcast(),
        }
    }

    /// The family of the addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Whether the range contains the address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // All of IPv4 sorts before IPv6, so no address of the other family is in between.
        self.first <= address && address <= self.last
    }

    /// Whether the ranges have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The parts of the range outside the holes, in order. Holes may overlap and may lie outside the range.
    pub(crate) fn without(&self, holes: &[Self]) -> Vec<Self> {
        let mut holes: Vec<_> = holes.iter().filter(|hole| hole.overlaps(self)).collect();
        holes.sort();
        let family = self.family();
        let part = |first, last| {
            (first <= last)
                .then(|| Self::new(family.address(first)?, family.address(last)?))
                .flatten()
        };
        let (mut next, last) = (number(self.first), number(self.last));
        let mut left = Vec::new();
        for hole in holes {
            let before = number(hole.first).checked_sub(1);
            left.extend(before.and_then(|before| part(next, before)));
            match number(hole.last).checked_add(1) {
                Some(after) => next = next.max(after),
                None => return left,
            }
        }
        left.extend(part(next, last));
        left
    }

    /// The lowest address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.last
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_has_one_family_and_ascends() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(Range::new(ip("192.168.50.1"), ip("192.168.50.1")).is_some());
        assert!(Range::new(ip("192.168.50.2"), ip("192.168.50.1")).is_none());
        assert!(Range::new(ip("192.168.50.2"), ip("fd00::1")).is_none());
    }

    #[test]
    fn without_returns_the_parts_between_holes() {
        let range =
            |first: &str, last: &str| Range::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
        let whole = range("10.0.0.0", "10.0.0.9");
        let left = |holes: &[Range]| {
            let left = whole.without(holes);
            left.iter().map(Range::to_string).collect::<Vec<_>>()
        };
        assert_eq!(left(&[]), ["10.0.0.0-10.0.0.9"]);
        let holes = [
            range("10.0.0.4", "10.0.0.5"),
            range("10.0.0.2", "10.0.0.4"),
            range("10.0.0.9", "10.1.0.0"),
            range("fd00::", "fd00::1"),
        ];
        assert_eq!(left(&holes), ["10.0.0.0-10.0.0.1", "10.0.0.6-10.0.0.8"]);
        assert_eq!(left(&[whole]), [""; 0]);
        let all = range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(
            all.without(&[range("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")])
                .len(),
            1
        );
    }

    #[test]
    fn addresses_and_numbers_round_trip() {
        for text in [
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Family::of(ip).address(number(ip)), Some(ip));
        }
        assert_eq!(Family::V4.address(1 << 32), None);
    }
}
