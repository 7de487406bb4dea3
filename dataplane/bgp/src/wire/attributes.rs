//! Path attributes (RFC 4271 section 5), in ascending order of their types.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::two_octet_asn;

const ORIGIN: u8 = 1;
const AS_PATH: u8 = 2;
const NEXT_HOP: u8 = 3;
const LOCAL_PREF: u8 = 5;
/// RFC 1997.
const COMMUNITIES: u8 = 8;
/// RFC 4760 section 3.
pub(super) const MP_REACH: u8 = 14;
/// RFC 4760 section 4.
pub(super) const MP_UNREACH: u8 = 15;
/// RFC 4360.
const EXTENDED_COMMUNITIES: u8 = 16;
/// RFC 6793 section 3.
const AS4_PATH: u8 = 17;
/// RFC 8092.
const LARGE_COMMUNITIES: u8 = 32;

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED_LENGTH: u8 = 0x10;
/// Flags of MP_REACH and MP_UNREACH.
pub(super) const MP_FLAGS: u8 = OPTIONAL;

const ORIGIN_IGP: u8 = 0;
const AS_SEQUENCE: u8 = 2;
/// Link bandwidth, non-transitive, two-octet AS specific (draft-ietf-idr-link-bandwidth section 2).
const LINK_BANDWIDTH: [u8; 2] = [0x40, 0x04];

/// A large community (RFC 8092): the global administrator and two local parts.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

/// The path attributes of a set of prefixes, without the next hop.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Attributes {
    /// The AS path: empty towards an internal peer.
    pub as_path: Vec<u32>,
    /// The local preference, for internal peers only.
    pub local_pref: Option<u32>,
    /// Communities.
    pub communities: BTreeSet<u32>,
    /// The weight of this node among several, for routers that weigh equal paths.
    pub link_bandwidth: Option<LinkBandwidth>,
    /// Large communities.
    pub large_communities: BTreeSet<LargeCommunity>,
}

/// The bandwidth of the link to this node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LinkBandwidth {
    /// The AS number of the sender; `AS_TRANS` if it has four octets.
    pub asn: u32,
    /// Octets per second.
    pub bandwidth: u32,
}

/// Where routers send the packets for a prefix.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NextHop {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// A global IPv6 address, and a link-local one for a router on the same link (RFC 2545 section 3).
    Ipv6(Ipv6Addr, Option<Ipv6Addr>),
}

/// The encoded attributes of an UPDATE, before and after MP_REACH.
pub(super) struct Encoded {
    pub(super) before: Vec<u8>,
    pub(super) after: Vec<u8>,
}

impl Attributes {
    /// Encodes the attributes. `next_hop` is the attribute of that name; `None` if MP_REACH has the next hop.
    /// `four_octet` is whether both sides know AS numbers of four octets (RFC 6793 section 4.2.2).
    pub(super) fn encode(&self, next_hop: Option<Ipv4Addr>, four_octet: bool) -> Encoded {
        let mut before = Vec::new();
        put_attribute(&mut before, TRANSITIVE, ORIGIN, [ORIGIN_IGP]);
        if four_octet {
            put_attribute(&mut before, TRANSITIVE, AS_PATH, self.path(u32::to_be_bytes));
        } else {
            let short = |asn| two_octet_asn(asn).to_be_bytes();
            put_attribute(&mut before, TRANSITIVE, AS_PATH, self.path(short));
        }
        if let Some(next_hop) = next_hop {
            put_attribute(&mut before, TRANSITIVE, NEXT_HOP, next_hop.octets());
        }
        if let Some(local_pref) = self.local_pref {
            put_attribute(&mut before, TRANSITIVE, LOCAL_PREF, local_pref.to_be_bytes());
        }
        if !self.communities.is_empty() {
            let values = self.communities.iter().flat_map(|value| value.to_be_bytes());
            put_attribute(&mut before, OPTIONAL | TRANSITIVE, COMMUNITIES, values);
        }
        let mut after = Vec::new();
        if let Some(LinkBandwidth { asn, bandwidth }) = self.link_bandwidth {
            #[expect(
                clippy::cast_precision_loss,
                reason = "the field is a float; weights need no more precision"
            )]
            let bandwidth = (bandwidth as f32).to_be_bytes();
            let asn = two_octet_asn(asn).to_be_bytes();
            let value = LINK_BANDWIDTH.into_iter().chain(asn).chain(bandwidth);
            put_attribute(&mut after, OPTIONAL | TRANSITIVE, EXTENDED_COMMUNITIES, value);
        }
        if !four_octet && self.as_path.iter().any(|asn| u16::try_from(*asn).is_err()) {
            let path = self.path(u32::to_be_bytes);
            put_attribute(&mut after, OPTIONAL | TRANSITIVE, AS4_PATH, path);
        }
        if !self.large_communities.is_empty() {
            let parts = |community: &LargeCommunity| [community.0, community.1, community.2];
            let values = self
                .large_communities
                .iter()
                .flat_map(parts)
                .flat_map(u32::to_be_bytes);
            put_attribute(&mut after, OPTIONAL | TRANSITIVE, LARGE_COMMUNITIES, values);
        }
        Encoded { before, after }
    }

    /// One segment with all AS numbers; no segment for an empty path (RFC 4271 section 5.1.2).
    fn path<const N: usize>(&self, encode: impl Fn(u32) -> [u8; N]) -> Vec<u8> {
        let mut path = Vec::new();
        for segment in self.as_path.chunks(usize::from(u8::MAX)) {
            path.extend_from_slice(&[AS_SEQUENCE, u8::try_from(segment.len()).unwrap_or(u8::MAX)]);
            path.extend(segment.iter().flat_map(|asn| encode(*asn)));
        }
        path
    }
}

impl NextHop {
    /// The next hop field of MP_REACH: its length and the addresses.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Ipv4(address) => {
                out.push(4);
                out.extend_from_slice(&address.octets());
            }
            Self::Ipv6(global, None) => {
                out.push(16);
                out.extend_from_slice(&global.octets());
            }
            Self::Ipv6(global, Some(link_local)) => {
                out.push(32);
                out.extend_from_slice(&global.octets());
                out.extend_from_slice(&link_local.octets());
            }
        }
    }
}

/// Appends an attribute, with a length of two octets if one does not suffice.
pub(super) fn put_attribute(out: &mut Vec<u8>, flags: u8, kind: u8, value: impl IntoIterator<Item = u8>) {
    let value: Vec<u8> = value.into_iter().collect();
    match u8::try_from(value.len()) {
        Ok(len) => out.extend_from_slice(&[flags, kind, len]),
        Err(_) => {
            let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
            out.extend_from_slice(&[flags | EXTENDED_LENGTH, kind, high, low]);
        }
    }
    out.extend_from_slice(&value);
}
