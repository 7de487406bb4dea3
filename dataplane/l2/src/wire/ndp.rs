//! Neighbor Discovery over Ethernet (RFC 4861): neighbor solicitations and advertisements, each with its Ethernet and
//! IPv6 headers as one frame.
//!
//! The decoder accepts only messages that pass the validation of RFC 4861 sections 7.1.1 and 7.1.2: among others, the
//! hop limit is 255, which proves that the message comes from this link, and the checksum is correct.

use std::net::Ipv6Addr;

use crate::MacAddr;

/// EtherType of IPv6.
pub const ETHERTYPE: u16 = 0x86dd;
/// Length of the frame of an advertisement or of a solicitation that is no probe, in bytes: Ethernet header (14), IPv6
/// header (40), message (24) and one option (8).
pub const ADVERTISEMENT_LEN: usize = 86;

/// Length of a probe's frame, in bytes: Ethernet header (14), IPv6 header (40) and a solicitation without options (24).
pub const PROBE_LEN: usize = ICMPV6_AT + MESSAGE_LEN;

const IPV6_AT: usize = 14;
const ICMPV6_AT: usize = 54;
const ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 255;
/// Length of a solicitation or advertisement without options, in bytes.
const MESSAGE_LEN: usize = 24;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// The link-local all-nodes multicast address (RFC 4291 section 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Why bytes are not a valid neighbor solicitation or advertisement: one variant per rejected field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NdpDecodeError {
    /// The frame is shorter than its headers, or than the IPv6 payload length.
    #[error("truncated frame: {0} bytes")]
    Truncated(usize),
    /// The EtherType is not IPv6.
    #[error("EtherType {0:#06x} is not IPv6")]
    EtherType(u16),
    /// The IP version is not 6.
    #[error("IP version {0} is not 6")]
    Version(u8),
    /// The next header is not ICMPv6.
    #[error("next header {0} is not ICMPv6")]
    NextHeader(u8),
    /// The hop limit is not 255: a router may have forwarded the packet from another link.
    #[error("hop limit {0} is not 255")]
    HopLimit(u8),
    /// The payload is shorter than the message.
    #[error("payload of {0} bytes is too short")]
    PayloadLength(u16),
    /// The ICMPv6 checksum is wrong.
    #[error("wrong checksum")]
    Checksum,
    /// The message is neither a solicitation nor an advertisement.
    #[error("ICMPv6 type {0} is neither neighbor solicitation nor advertisement")]
    Type(u8),
    /// The ICMPv6 code is not 0.
    #[error("ICMPv6 code {0} is not 0")]
    Code(u8),
    /// The target is a multicast address.
    #[error("target {0} is multicast")]
    Target(Ipv6Addr),
    /// The source is a multicast address (RFC 4291 section 2.7): a reply would go to many hosts.
    #[error("source {0} is multicast")]
    Source(Ipv6Addr),
    /// An option has length zero, or is longer than the rest of the message.
    #[error("option is truncated or has length zero")]
    Option,
    /// The source is unspecified (`::`), but the message is not a duplicate address detection probe.
    #[error("unspecified source, but not a duplicate address detection probe")]
    Unspecified,
    /// An advertisement with the Solicited flag has a multicast destination.
    #[error("solicited advertisement to a multicast address")]
    SolicitedMulticast,
    /// The link-layer address, or the Ethernet source in its place, is not unicast.
    #[error("link-layer address {0} is not unicast")]
    LinkLayer(MacAddr),
}

impl NdpDecodeError {
    /// A short constant name, for a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated(_) => "truncated",
            Self::EtherType(_) => "ethertype",
            Self::Version(_) => "version",
            Self::NextHeader(_) => "next_header",
            Self::HopLimit(_) => "hop_limit",
            Self::PayloadLength(_) => "payload_length",
            Self::Checksum => "checksum",
            Self::Type(_) => "type",
            Self::Code(_) => "code",
            Self::Target(_) => "target",
            Self::Source(_) => "source",
            Self::Option => "option",
            Self::Unspecified => "unspecified_source",
            Self::SolicitedMulticast => "solicited_multicast",
            Self::LinkLayer(_) => "link_layer",
        }
    }
}

/// A Neighbor Discovery message with its Ethernet and IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdpFrame {
    /// Ethernet destination.
    pub dst: MacAddr,
    /// Ethernet source.
    pub src: MacAddr,
    /// IPv6 source; `::` in a duplicate address detection probe (RFC 4862 section 5.4.2).
    pub source: Ipv6Addr,
    /// IPv6 destination.
    pub destination: Ipv6Addr,
    /// The solicited or advertised address.
    pub target: Ipv6Addr,
    /// The message type and its fields.
    pub message: NdpMessage,
}

/// A neighbor solicitation (RFC 4861 section 4.3) or advertisement (section 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdpMessage {
    /// Type 135.
    Solicitation {
        /// The Source Link-Layer Address option.
        link_layer: Option<MacAddr>,
    },
    /// Type 136.
    Advertisement {
        /// The Solicited flag: the message answers a solicitation.
        solicited: bool,
        /// The Override flag: the receiver replaces a cached link-layer address.
        overrides: bool,
        /// The Target Link-Layer Address option.
        link_layer: Option<MacAddr>,
    },
}

impl NdpFrame {
    /// Decodes a frame. Bytes after the IPv6 payload are ignored: Ethernet pads frames.
    ///
    /// # Errors
    /// If the frame is truncated or fails the validation of RFC 4861 section 7.1.
    pub fn decode(bytes: &[u8]) -> Result<Self, NdpDecodeError> {
        let truncated = NdpDecodeError::Truncated(bytes.len());
        let headers: &[u8; ICMPV6_AT] = bytes.first_chunk().ok_or(truncated)?;
        let header = |at: usize| headers.get(at).copied().unwrap_or_default();
        let ethertype = u16::from_be_bytes([header(12), header(13)]);
        if ethertype != ETHERTYPE {
            return Err(NdpDecodeError::EtherType(ethertype));
        }
        if header(IPV6_AT) >> 4 != 6 {
            return Err(NdpDecodeError::Version(header(IPV6_AT) >> 4));
        }
        if header(IPV6_AT + 6) != ICMPV6 {
            return Err(NdpDecodeError::NextHeader(header(IPV6_AT + 6)));
        }
        if header(IPV6_AT + 7) != HOP_LIMIT {
            return Err(NdpDecodeError::HopLimit(header(IPV6_AT + 7)));
        }
        let length = u16::from_be_bytes([header(IPV6_AT + 4), header(IPV6_AT + 5)]);
        let payload = bytes
            .get(ICMPV6_AT..ICMPV6_AT + usize::from(length))
            .ok_or(truncated)?;
        let (message, mut options) = payload
            .split_first_chunk::<MESSAGE_LEN>()
            .ok_or(NdpDecodeError::PayloadLength(length))?;
        let source = address(headers, IPV6_AT + 8);
        let destination = address(headers, IPV6_AT + 24);
        if source.is_multicast() {
            return Err(NdpDecodeError::Source(source));
        }
        if checksum(source, destination, payload) != 0 {
            return Err(NdpDecodeError::Checksum);
        }
        let &[kind, code, _, _, flags, ..] = message;
        if code != 0 {
            return Err(NdpDecodeError::Code(code));
        }
        let target = address(message, 8);
        if target.is_multicast() {
            return Err(NdpDecodeError::Target(target));
        }
        let link_layer_option = match kind {
            SOLICITATION => SOURCE_LINK_LAYER,
            ADVERTISEMENT => TARGET_LINK_LAYER,
            other => return Err(NdpDecodeError::Type(other)),
        };
        let mut link_layer = None;
        while !options.is_empty() {
            let (option, rest) = next_option(options)?;
            if let &[kind, _, a, b, c, d, e, f, ..] = option
                && kind == link_layer_option
            {
                link_layer = Some(MacAddr([a, b, c, d, e, f]));
            }
            options = rest;
        }
        if let Some(mac) = link_layer.filter(|mac| !mac.is_unicast()) {
            return Err(NdpDecodeError::LinkLayer(mac));
        }
        let message = if kind == SOLICITATION {
            NdpMessage::Solicitation { link_layer }
        } else {
            NdpMessage::Advertisement {
                solicited: flags & SOLICITED != 0,
                overrides: flags & OVERRIDE != 0,
                link_layer,
            }
        };
        let frame = Self {
            dst: mac(headers, 0),
            src: mac(headers, 6),
            source,
            destination,
            target,
            message,
        };
        frame.validate().map(|()| frame)
    }

    /// Validates combinations of fields (RFC 4861 sections 7.1.1 and 7.1.2).
    fn validate(&self) -> Result<(), NdpDecodeError> {
        match self.message {
            NdpMessage::Solicitation { link_layer } => {
                let is_probe = self.destination == solicited_node(self.target) && link_layer.is_none();
                if self.source.is_unspecified() && !is_probe {
                    return Err(NdpDecodeError::Unspecified);
                }
                // The reply goes to this address, and must not go to a group.
                let requester = link_layer.unwrap_or(self.src);
                if !requester.is_unicast() {
                    return Err(NdpDecodeError::LinkLayer(requester));
                }
            }
            NdpMessage::Advertisement { solicited: true, .. } if self.destination.is_multicast() => {
                return Err(NdpDecodeError::SolicitedMulticast);
            }
            NdpMessage::Advertisement { link_layer, .. } => {
                let owner = link_layer.unwrap_or(self.src);
                if !owner.is_unicast() {
                    return Err(NdpDecodeError::LinkLayer(owner));
                }
            }
        }
        Ok(())
    }
}

/// The frame of a neighbor advertisement with the Target Link-Layer Address option. `macs` are the sender's MAC and the
/// target's MAC.
#[must_use]
pub fn advertisement(
    macs: (MacAddr, MacAddr),
    to: (MacAddr, Ipv6Addr),
    target: Ipv6Addr,
    solicited: bool,
) -> [u8; ADVERTISEMENT_LEN] {
    let (sender, owner) = macs;
    // The source is an address of the sending interface (RFC 4861 section 4.4); on the link, `target` is one.
    let mut frame = headers::<ADVERTISEMENT_LEN>((sender, target), to);
    let (_, destination) = to;
    // With Override, neighbors replace the MAC of a previous owner (RFC 4861 section 7.2.5).
    let flags = if solicited { SOLICITED | OVERRIDE } else { OVERRIDE };
    put(&mut frame, ICMPV6_AT, [ADVERTISEMENT, 0, 0, 0, flags]);
    put(&mut frame, ICMPV6_AT + 8, target.octets());
    put(&mut frame, ICMPV6_AT + MESSAGE_LEN, [TARGET_LINK_LAYER, 1]);
    put(&mut frame, ICMPV6_AT + MESSAGE_LEN + 2, owner.0);
    let sum = checksum(target, destination, frame.get(ICMPV6_AT..).unwrap_or_default());
    put(&mut frame, ICMPV6_AT + 2, sum.to_be_bytes());
    frame
}

/// An unsolicited advertisement to all nodes (RFC 4861 section 7.2.6).
#[must_use]
pub fn unsolicited(mac: MacAddr, address: Ipv6Addr) -> [u8; ADVERTISEMENT_LEN] {
    advertisement((mac, mac), (multicast_mac(ALL_NODES), ALL_NODES), address, false)
}

/// A solicitation of `target`: unicast to `to`, as neighbor unreachability detection sends it (RFC 4861 section 7.3.3),
/// or to the solicited-node group. `from` is the interface's MAC and an address of ours on that interface.
#[must_use]
pub fn solicitation(
    from: (MacAddr, Ipv6Addr),
    to: Option<MacAddr>,
    target: Ipv6Addr,
) -> [u8; ADVERTISEMENT_LEN] {
    let group = solicited_node(target);
    let to = to.map_or((multicast_mac(group), group), |to| (to, target));
    let mut frame = headers::<ADVERTISEMENT_LEN>(from, to);
    put(&mut frame, ICMPV6_AT, [SOLICITATION]);
    put(&mut frame, ICMPV6_AT + 8, target.octets());
    put(&mut frame, ICMPV6_AT + MESSAGE_LEN, [SOURCE_LINK_LAYER, 1]);
    put(&mut frame, ICMPV6_AT + MESSAGE_LEN + 2, from.0.0);
    let sum = checksum(from.1, to.1, frame.get(ICMPV6_AT..).unwrap_or_default());
    put(&mut frame, ICMPV6_AT + 2, sum.to_be_bytes());
    frame
}

/// A duplicate address detection probe for `address` (RFC 4862 section 5.4.2), whose source is `::`. A host whose own
/// detection for the address is under way gives it up for good, so it is only for an address that we are about to claim.
#[must_use]
pub fn probe(mac: MacAddr, address: Ipv6Addr) -> [u8; PROBE_LEN] {
    let group = solicited_node(address);
    let mut frame = headers((mac, Ipv6Addr::UNSPECIFIED), (multicast_mac(group), group));
    put(&mut frame, ICMPV6_AT, [SOLICITATION]);
    put(&mut frame, ICMPV6_AT + 8, address.octets());
    let message = frame.get(ICMPV6_AT..).unwrap_or_default();
    let sum = checksum(Ipv6Addr::UNSPECIFIED, group, message);
    put(&mut frame, ICMPV6_AT + 2, sum.to_be_bytes());
    frame
}

/// A frame with Ethernet and IPv6 headers; an ICMPv6 message fills the rest.
fn headers<const N: usize>(from: (MacAddr, Ipv6Addr), to: (MacAddr, Ipv6Addr)) -> [u8; N] {
    let mut frame = [0; N];
    put(&mut frame, 0, to.0.0);
    put(&mut frame, 6, from.0.0);
    put(&mut frame, 12, ETHERTYPE.to_be_bytes());
    put(&mut frame, IPV6_AT, [0x60]);
    put(&mut frame, IPV6_AT + 4, [0, (N - ICMPV6_AT) as u8]);
    put(&mut frame, IPV6_AT + 6, [ICMPV6, HOP_LIMIT]);
    put(&mut frame, IPV6_AT + 8, from.1.octets());
    put(&mut frame, IPV6_AT + 24, to.1.octets());
    frame
}

/// The solicited-node multicast address of `address`: `ff02::1:ff00:0/104` and its last 24 bits (RFC 4291 section
/// 2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464 section 7).
#[must_use]
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Splits off the first option. Lengths are in units of 8 bytes (RFC 4861 section 4.6).
fn next_option(options: &[u8]) -> Result<(&[u8], &[u8]), NdpDecodeError> {
    let &[_, length, ..] = options else {
        return Err(NdpDecodeError::Option);
    };
    if length == 0 {
        return Err(NdpDecodeError::Option);
    }
    options
        .split_at_checked(usize::from(length) * 8)
        .ok_or(NdpDecodeError::Option)
}

/// The checksum of an ICMPv6 message with its pseudo-header (RFC 4443 section 2.3); 0 if the message contains its
/// correct checksum.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let pseudo = [source.octets(), destination.octets()];
    let words = pseudo.iter().flatten().chain(message).copied();
    let mut sum = (length >> 16) + (length & 0xffff) + u32::from(ICMPV6);
    for (at, byte) in words.enumerate() {
        sum += if at % 2 == 0 {
            u32::from(byte) << 8
        } else {
            u32::from(byte)
        };
        // Folding here prevents overflow for long messages.
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn address(bytes: &[u8], at: usize) -> Ipv6Addr {
    let octets = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>());
    Ipv6Addr::from(octets.copied().unwrap_or_default())
}

fn mac(bytes: &[u8], at: usize) -> MacAddr {
    let octets = bytes.get(at..).and_then(|rest| rest.first_chunk::<6>());
    MacAddr(octets.copied().unwrap_or_default())
}

fn put<const L: usize, const N: usize>(frame: &mut [u8; L], at: usize, bytes: [u8; N]) {
    for (to, from) in frame.iter_mut().skip(at).zip(bytes) {
        *to = from;
    }
}
