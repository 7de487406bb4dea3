//! One entry of a pool's `addresses`: a CIDR (`192.168.50.0/24`) or a range (`192.168.50.10-192.168.50.20`).
//!
//! What MetalLB accepts is accepted: blanks around the addresses, and a CIDR whose address has host bits, which
//! stands for the whole network. IPv4-mapped IPv6 is refused: it is an IPv4 address in disguise, and which family a
//! Service would get is anybody's guess.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// Consecutive addresses of one family, from first to last, both included.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// What is wrong with an entry, in words for the user who wrote it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddressRangeError {
    /// There is nothing in it.
    #[error("is empty: write a CIDR (192.168.50.0/24) or a range (192.168.50.10-192.168.50.20)")]
    Empty,
    /// There is neither a `/` nor a `-`.
    #[error(
        "{0:?} is neither a CIDR nor a range: for one address write a prefix length of 32 (IPv4) or 128 (IPv6)"
    )]
    NeitherForm(String),
    /// One of the addresses cannot be read.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// The part after `/` is not a number that the family has.
    #[error("{prefix:?} is not a prefix length: it goes from 0 to {most}")]
    Prefix {
        /// What stands after the `/`.
        prefix: String,
        /// The longest prefix of the family.
        most: u8,
    },
    /// IPv4 written as IPv6.
    #[error("{0} is an IPv4-mapped IPv6 address: write it as IPv4")]
    Mapped(Ipv6Addr),
    /// One end is IPv4, the other is IPv6.
    #[error("{first} and {last} are of different families: write one range for each family")]
    Families {
        /// First address.
        first: IpAddr,
        /// Last address.
        last: IpAddr,
    },
    /// The range runs backwards.
    #[error("{first} comes after {last}: write the lower address first")]
    Order {
        /// First address.
        first: IpAddr,
        /// Last address.
        last: IpAddr,
    },
}

impl AddressRange {
    /// The range from `first` to `last`.
    ///
    /// # Errors
    /// When the families differ, the order is wrong, or an address is IPv4-mapped.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, AddressRangeError> {
        unmapped(first)?;
        unmapped(last)?;
        if first.is_ipv4() != last.is_ipv4() {
            return Err(AddressRangeError::Families { first, last });
        }
        if first > last {
            return Err(AddressRangeError::Order { first, last });
        }
        Ok(Self { first, last })
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

    /// Whether the address is one of the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // IPv4 sorts before IPv6 as a whole, so the other family is never in between.
        self.first <= address && address <= self.last
    }

    /// Whether some address is in both ranges.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether these are IPv4 addresses.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(entry: &str) -> Result<Self, AddressRangeError> {
        let entry = entry.trim();
        if entry.is_empty() {
            return Err(AddressRangeError::Empty);
        }
        if let Some((first, last)) = entry.split_once('-') {
            return Self::new(address(first)?, address(last)?);
        }
        let Some((network, prefix)) = entry.split_once('/') else {
            return Err(AddressRangeError::NeitherForm(entry.to_owned()));
        };
        let network = address(network)?;
        unmapped(network)?;
        let net =
            IpNet::new(network, prefix_length(prefix, network)?).map_err(|_| AddressRangeError::Prefix {
                prefix: prefix.to_owned(),
                most: most(network),
            })?;
        // `network` and `broadcast` are the ends of the network whatever the host bits were.
        Self::new(net.network(), net.broadcast())
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

fn address(text: &str) -> Result<IpAddr, AddressRangeError> {
    let text = text.trim();
    text.parse()
        .map_err(|_| AddressRangeError::Address(text.to_owned()))
}

fn most(network: IpAddr) -> u8 {
    if network.is_ipv4() { 32 } else { 128 }
}

fn prefix_length(text: &str, network: IpAddr) -> Result<u8, AddressRangeError> {
    let text = text.trim();
    // Digits only and no zeros in front, as Go and CEL have it: `u8::from_str` alone would take "+24" and "024".
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() < 2 || !text.starts_with('0'));
    let length = text
        .parse()
        .ok()
        .filter(|length| plain && *length <= most(network));
    length.ok_or_else(|| AddressRangeError::Prefix {
        prefix: text.to_owned(),
        most: most(network),
    })
}

fn unmapped(address: IpAddr) -> Result<(), AddressRangeError> {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(AddressRangeError::Mapped(v6)),
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
    }
}

impl From<Ipv4Addr> for AddressRange {
    fn from(address: Ipv4Addr) -> Self {
        Self {
            first: address.into(),
            last: address.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(entry: &str) -> Result<(String, String), String> {
        let range: AddressRange = entry
            .parse()
            .map_err(|error: AddressRangeError| error.to_string())?;
        Ok((range.first().to_string(), range.last().to_string()))
    }

    #[test]
    fn what_metallb_accepts_is_accepted() {
        for (entry, first, last) in [
            ("192.168.50.0/24", "192.168.50.0", "192.168.50.255"),
            ("192.168.50.10/32", "192.168.50.10", "192.168.50.10"),
            ("192.168.50.77/24", "192.168.50.0", "192.168.50.255"),
            ("192.168.50.10-192.168.50.20", "192.168.50.10", "192.168.50.20"),
            (
                "  192.168.50.10 - 192.168.50.20 ",
                "192.168.50.10",
                "192.168.50.20",
            ),
            ("192.168.50.9-192.168.50.9", "192.168.50.9", "192.168.50.9"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("fd00::/120", "fd00::", "fd00::ff"),
            ("FD00:0::1-fd00::ff", "fd00::1", "fd00::ff"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            assert_eq!(ends(entry), Ok((first.to_owned(), last.to_owned())), "{entry}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_words() {
        for (entry, part) in [
            ("", "is empty"),
            (" ", "is empty"),
            ("192.168.50.1", "neither a CIDR nor a range"),
            ("192.168.50.0/33", "goes from 0 to 32"),
            ("192.168.50.0/+8", "not a prefix length"),
            ("192.168.50.0/024", "not a prefix length"),
            ("192.168.50.0/", "not a prefix length"),
            ("fd00::/129", "goes from 0 to 128"),
            ("192.168.050.1/32", "not an IP address"),
            ("192.168.50.10-20", "\"20\" is not an IP address"),
            ("192.168.50.10-", "\"\" is not an IP address"),
            ("192.168.50.10-192.168.50.20-192.168.50.30", "not an IP address"),
            ("192.168.50.20-192.168.50.10", "write the lower address first"),
            ("192.168.50.20-fd00::1", "different families"),
            ("::ffff:192.168.50.1-::ffff:192.168.50.2", "write it as IPv4"),
            ("::ffff:192.168.50.0/120", "write it as IPv4"),
            ("fe80::1%eth0-fe80::2%eth0", "not an IP address"),
            ("pool", "neither a CIDR nor a range"),
        ] {
            let error = ends(entry).unwrap_err();
            assert!(error.contains(part), "{entry}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_range_reads_back_as_itself(a: u128, b: u128, v4: bool) {
            let ip = |n: u128| if v4 { IpAddr::V4(Ipv4Addr::from(n as u32)) } else { IpAddr::V6(Ipv6Addr::from(n)) };
            let (first, last) = (ip(a).min(ip(b)), ip(a).max(ip(b)));
            prop_assume!(unmapped(first).is_ok() && unmapped(last).is_ok());
            let range = AddressRange::new(first, last).unwrap();
            prop_assert_eq!(range.to_string().parse(), Ok(range));
            prop_assert!(range.contains(first) && range.contains(last) && range.overlaps(&range));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".{0,60}") {
            let _ = text.parse::<AddressRange>();
        }
    }
}
