//! One entry of a pool's `addresses`: a CIDR (`192.168.50.0/24`) or a range (`192.168.50.10-192.168.50.20`).
//!
//! As in MetalLB, blanks around addresses and host bits in a CIDR are allowed. IPv4-mapped IPv6 addresses are rejected,
//! because their family is ambiguous.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// Consecutive addresses of one family, from first to last, inclusive.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why an entry is invalid. The message completes a sentence that begins with the name of the field.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddressRangeError {
    /// The entry is empty.
    #[error("is empty: write a CIDR (192.168.50.0/24) or a range (192.168.50.10-192.168.50.20)")]
    Empty,
    /// The entry has neither a `/` nor a `-`.
    #[error(
        "{0:?} is neither a CIDR nor a range: for one address write a prefix length of 32 (IPv4) or 128 (IPv6)"
    )]
    NeitherForm(String),
    /// An address is invalid.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// The prefix length is not a number or out of range.
    #[error("{prefix:?} is not a prefix length: use a number from 0 to {max}")]
    Prefix {
        /// The text after the `/`.
        prefix: String,
        /// The maximum of the family.
        max: u8,
    },
    /// An IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
    #[error("{0} is an IPv4-mapped IPv6 address: write it as IPv4")]
    Mapped(Ipv6Addr),
    /// The ends are of different families.
    #[error("{first} and {last} are of different families: write one range for each family")]
    Families {
        /// First address.
        first: IpAddr,
        /// Last address.
        last: IpAddr,
    },
    /// The first address is greater than the last.
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
    /// If the families differ, the order is wrong, or an address is IPv4-mapped.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, AddressRangeError> {
        reject_mapped(first)?;
        reject_mapped(last)?;
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

    /// Whether the range contains the address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // All IPv4 addresses sort before IPv6 addresses, so the other family is never between the ends.
        self.first <= address && address <= self.last
    }

    /// Whether the ranges have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether the addresses are IPv4.
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
        reject_mapped(network)?;
        let net =
            IpNet::new(network, prefix_length(prefix, network)?).map_err(|_| AddressRangeError::Prefix {
                prefix: prefix.to_owned(),
                max: max_prefix_length(network),
            })?;
        // `network` and `broadcast` ignore the host bits.
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

fn max_prefix_length(network: IpAddr) -> u8 {
    if network.is_ipv4() { 32 } else { 128 }
}

fn prefix_length(text: &str, network: IpAddr) -> Result<u8, AddressRangeError> {
    let text = text.trim();
    // Digits without leading zeros, as in Go and CEL: `u8::from_str` also accepts "+24" and "024".
    let is_canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() < 2 || !text.starts_with('0'));
    let length = text
        .parse()
        .ok()
        .filter(|length| is_canonical && *length <= max_prefix_length(network));
    length.ok_or_else(|| AddressRangeError::Prefix {
        prefix: text.to_owned(),
        max: max_prefix_length(network),
    })
}

fn reject_mapped(address: IpAddr) -> Result<(), AddressRangeError> {
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
    fn accepts_the_syntax_of_metallb() {
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
    fn rejects_invalid_entries_with_reason() {
        for (entry, part) in [
            ("", "is empty"),
            (" ", "is empty"),
            ("192.168.50.1", "neither a CIDR nor a range"),
            ("192.168.50.0/33", "use a number from 0 to 32"),
            ("192.168.50.0/+8", "not a prefix length"),
            ("192.168.50.0/024", "not a prefix length"),
            ("192.168.50.0/", "not a prefix length"),
            ("fd00::/129", "use a number from 0 to 128"),
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
        fn formatted_range_parses_to_itself(a: u128, b: u128, v4: bool) {
            let ip = |n: u128| if v4 { IpAddr::V4(Ipv4Addr::from(n as u32)) } else { IpAddr::V6(Ipv6Addr::from(n)) };
            let (first, last) = (ip(a).min(ip(b)), ip(a).max(ip(b)));
            prop_assume!(reject_mapped(first).is_ok() && reject_mapped(last).is_ok());
            let range = AddressRange::new(first, last).unwrap();
            prop_assert_eq!(range.to_string().parse(), Ok(range));
            prop_assert!(range.contains(first) && range.contains(last) && range.overlaps(&range));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            let _ = text.parse::<AddressRange>();
        }
    }
}
