//! BGP-4 messages (RFC 4271 section 4): encoded into octets, and decoded from a stream.
//!
//! | module | contents |
//! | --- | --- |
//! | [`message`] | the header, and the messages that a router sends |
//! | [`open`] | OPEN |
//! | [`capability`] | the capabilities in an OPEN (RFC 5492) |
//! | [`update`] | UPDATE: announcing and withdrawing prefixes |
//! | [`attributes`] | the path attributes of an UPDATE |
//! | [`notification`] | NOTIFICATION, and the error codes |

pub mod attributes;
pub mod capability;
pub mod message;
pub mod notification;
pub mod open;
pub mod update;

mod reader;

use std::net::IpAddr;

pub use attributes::{Attributes, LargeCommunity, NextHop};
pub use capability::{Capabilities, GracefulRestart};
pub use message::{Message, Received};
pub use notification::{Notification, NotificationCode};
pub use open::Open;

/// The longest message; extended messages (RFC 8654) are not offered.
pub const MAX_MESSAGE_LEN: usize = 4096;
/// Marker, length and type.
pub const HEADER_LEN: usize = 19;
/// The AS number in 2-octet fields for one that does not fit (RFC 6793 section 2).
pub const AS_TRANS: u16 = 23456;

/// An address family with unicast routes (SAFI 1).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4 unicast.
    Ipv4,
    /// IPv6 unicast.
    Ipv6,
}

/// Unicast, the only Subsequent Address Family Identifier in use.
const SAFI_UNICAST: u8 = 1;

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The Address Family Identifier.
    const fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    const fn from_afi(afi: u16) -> Option<Self> {
        match afi {
            1 => Some(Self::Ipv4),
            2 => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// `None` for a family or SAFI that is not in use.
    const fn from_afi_safi(afi: u16, safi: u8) -> Option<Self> {
        if safi == SAFI_UNICAST {
            Self::from_afi(afi)
        } else {
            None
        }
    }
}

/// The AS number for a 2-octet field.
fn two_octet_asn(asn: u32) -> u16 {
    u16::try_from(asn).unwrap_or(AS_TRANS)
}
