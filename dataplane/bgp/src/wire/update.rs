//! UPDATE (RFC 4271 section 4.3): prefixes that share their attributes are packed into as few messages as possible.
//!
//! IPv4 prefixes with an IPv4 next hop use the fields of BGP-4; all others use MP_REACH and MP_UNREACH (RFC 4760).

use std::net::IpAddr;

use ipnet::IpNet;

use super::attributes::{Attributes, Encoded, MP_FLAGS, MP_REACH, MP_UNREACH, NextHop, put_attribute};
use super::message::put_update;
use super::{Family, HEADER_LEN, MAX_MESSAGE_LEN, SAFI_UNICAST};

/// Octets of an IPv6 host prefix, the longest.
const MAX_PREFIX_LEN: usize = 17;
/// The lengths of the withdrawn routes and of the attributes.
const LENGTHS_LEN: usize = 4;
/// Flags, type and length of an attribute, with a length of two octets.
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Family and the reserved octet of MP_REACH.
const MP_REACH_FIXED_LEN: usize = 4;
/// The longest next hop with its length.
const MAX_NEXT_HOP_LEN: usize = 33;

/// The attributes leave no room for a prefix in a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the attributes are longer than a BGP message ({MAX_MESSAGE_LEN} octets)")]
pub struct AttributesTooLong;

/// Appends the messages that announce prefixes of one family. `four_octet` is whether both sides know AS numbers of four
/// octets. Returns the number of messages.
///
/// # Errors
/// When the attributes leave no room for a prefix; then nothing is appended.
pub fn announce(
    out: &mut Vec<u8>,
    family: Family,
    attributes: &Attributes,
    next_hop: NextHop,
    four_octet: bool,
    prefixes: &[IpNet],
) -> Result<usize, AttributesTooLong> {
    let classic = match (family, next_hop) {
        (Family::Ipv4, NextHop::Ipv4(address)) => Some(address),
        (Family::Ipv4 | Family::Ipv6, _) => None,
    };
    let Encoded { before, after } = attributes.encode(classic, four_octet);
    let mut used = HEADER_LEN + LENGTHS_LEN + before.len() + after.len();
    if classic.is_none() {
        used += ATTRIBUTE_HEADER_LEN + MP_REACH_FIXED_LEN + MAX_NEXT_HOP_LEN;
    }
    let room = MAX_MESSAGE_LEN
        .checked_sub(used)
        .filter(|room| *room >= MAX_PREFIX_LEN)
        .ok_or(AttributesTooLong)?;
    let mut messages = 0;
    for packed in (Packs { prefixes, room }) {
        put_update(out, |out| {
            out.extend_from_slice(&[0, 0]);
            if classic.is_some() {
                put_len(out, before.len() + after.len());
                out.extend_from_slice(&before);
                out.extend_from_slice(&after);
                out.extend_from_slice(&packed);
                return;
            }
            let mut reach = Vec::with_capacity(packed.len() + MP_REACH_FIXED_LEN + MAX_NEXT_HOP_LEN);
            reach.extend_from_slice(&family.afi().to_be_bytes());
            reach.push(SAFI_UNICAST);
            next_hop.encode(&mut reach);
            reach.push(0);
            reach.extend_from_slice(&packed);
            let mut all = before.clone();
            put_attribute(&mut all, MP_FLAGS, MP_REACH, reach);
            all.extend_from_slice(&after);
            put_len(out, all.len());
            out.extend_from_slice(&all);
        });
        messages += 1;
    }
    Ok(messages)
}

/// Appends the messages that withdraw prefixes of one family. Returns their number.
pub fn withdraw(out: &mut Vec<u8>, family: Family, prefixes: &[IpNet]) -> usize {
    let used = HEADER_LEN + LENGTHS_LEN + ATTRIBUTE_HEADER_LEN + MP_REACH_FIXED_LEN;
    let room = MAX_MESSAGE_LEN.saturating_sub(used);
    let mut messages = 0;
    for packed in (Packs { prefixes, room }) {
        put_update(out, |out| match family {
            Family::Ipv4 => {
                put_len(out, packed.len());
                out.extend_from_slice(&packed);
                out.extend_from_slice(&[0, 0]);
            }
            Family::Ipv6 => put_unreachable(out, family, &packed),
        });
        messages += 1;
    }
    messages
}

/// Appends End-of-RIB: all routes of the family have been sent (RFC 4724 section 2).
pub fn end_of_rib(out: &mut Vec<u8>, family: Family) {
    put_update(out, |out| match family {
        Family::Ipv4 => out.extend_from_slice(&[0; LENGTHS_LEN]),
        Family::Ipv6 => put_unreachable(out, family, &[]),
    });
}

fn put_unreachable(out: &mut Vec<u8>, family: Family, packed: &[u8]) {
    let mut unreachable = family.afi().to_be_bytes().to_vec();
    unreachable.push(SAFI_UNICAST);
    unreachable.extend_from_slice(packed);
    let mut attribute = Vec::new();
    put_attribute(&mut attribute, MP_FLAGS, MP_UNREACH, unreachable);
    out.extend_from_slice(&[0, 0]);
    put_len(out, attribute.len());
    out.extend_from_slice(&attribute);
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    // Below MAX_MESSAGE_LEN.
    out.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
}

/// Encoded prefixes, in packs of at most `room` octets.
struct Packs<'a> {
    prefixes: &'a [IpNet],
    room: usize,
}

impl Iterator for Packs<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut packed = Vec::new();
        while let [first, rest @ ..] = self.prefixes
            && packed.len() + encoded_len(first) <= self.room
        {
            put_prefix(&mut packed, first);
            self.prefixes = rest;
        }
        (!packed.is_empty()).then_some(packed)
    }
}

fn encoded_len(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len().div_ceil(8))
}

/// The length in bits, and as many octets as hold them (RFC 4271 section 4.3).
fn put_prefix(out: &mut Vec<u8>, prefix: &IpNet) {
    out.push(prefix.prefix_len());
    let octets = usize::from(prefix.prefix_len().div_ceil(8));
    match prefix.network() {
        IpAddr::V4(address) => out.extend(address.octets().into_iter().take(octets)),
        IpAddr::V6(address) => out.extend(address.octets().into_iter().take(octets)),
    }
}
