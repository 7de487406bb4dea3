//! Neighbour discovery over Ethernet (RFC 4861): neighbour solicitations and advertisements, each with its Ethernet and
//! IPv6 headers as one frame.
//!
//! Reads bytes of a frame as the packet socket gives them, writes frames ready to send; the same shape as [`crate::wire::arp`].
//! A message is believed only when RFC 4861 section 7.1 would have a node believe it: the hop limit is 255, so it comes
//! from this link, and the checksum is right.

use std::net::Ipv6Addr;

use crate::MacAddr;

/// EtherType of IPv6.
pub const ETHERTYPE: u16 = 0x86dd;
/// Bytes of an advertisement's frame: Ethernet header (14), IPv6 header (40), advertisement (24) and its one option (8).
pub const ADVERTISEMENT_LEN: usize = 86;

const IPV6_AT: usize = 14;
const ICMPV6_AT: usize = 54;
const ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 255;
/// Bytes of a solicitation or an advertisement without options.
const MESSAGE_LEN: usize = 24;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// All nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Why bytes are not a neighbour solicitation or advertisement to be believed: one variant per field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the headers and the message need, or than the IPv6 header says.
    #[error("frame of {0} bytes is cut off")]
    Truncated(usize),
    /// The Ethernet header does not say IPv6.
    #[error("EtherType {0:#06x} is not IPv6")]
    EtherType(u16),
    /// The IPv6 header has another version.
    #[error("IP version {0} is not 6")]
    Version(u8),
    /// What follows the IPv6 header is not ICMPv6.
    #[error("next header {0} is not ICMPv6")]
    NextHeader(u8),
    /// A router has forwarded it: it is not from this link.
    #[error("hop limit {0} is not 255")]
    HopLimit(u8),
    /// The payload is too short for the message.
    #[error("payload of {0} bytes is too short")]
    PayloadLength(u16),
    /// The checksum is wrong.
    #[error("the checksum is wrong")]
    Checksum,
    /// Neither a solicitation nor an advertisement.
    #[error("ICMPv6 type {0} is neither a neighbour solicitation nor an advertisement")]
    Type(u8),
    /// The ICMPv6 code is not 0.
    #[error("ICMPv6 code {0} is not 0")]
    Code(u8),
    /// The target is a group.
    #[error("target {0} is a group")]
    Target(Ipv6Addr),
    /// The source is a group: an answer to it would go to many (RFC 4291 section 2.7).
    #[error("source {0} is a group")]
    Source(Ipv6Addr),
    /// An option has no length, or a longer one than there are bytes.
    #[error("an option is cut off or has no length")]
    Option,
    /// From nobody (`::`), which only a probe for duplicates is, and not in the form of one.
    #[error("from no address, and not in the form of a probe")]
    Unspecified,
    /// An advertisement that went to a group and says that somebody asked for it.
    #[error("solicited, and sent to a group")]
    SolicitedGroup,
    /// The hardware address to answer to, or that is claimed, is not that of one station.
    #[error("link-layer address {0} is not that of one station")]
    LinkLayer(MacAddr),
}

impl DecodeError {
    /// A short constant name, for the label of a metric.
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
            Self::SolicitedGroup => "solicited_group",
            Self::LinkLayer(_) => "link_layer",
        }
    }
}

/// A message and the headers that it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Ethernet destination.
    pub dst: MacAddr,
    /// Ethernet source.
    pub src: MacAddr,
    /// IPv6 source; `::` in a probe for duplicates (RFC 4862 section 5.4).
    pub source: Ipv6Addr,
    /// IPv6 destination.
    pub destination: Ipv6Addr,
    /// The address asked for, or claimed.
    pub target: Ipv6Addr,
    /// What it is.
    pub message: Message,
}

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// "Who has the target?"
    Solicitation {
        /// The hardware address of who asks, where it says so.
        link_layer: Option<MacAddr>,
    },
    /// "I have the target."
    Advertisement {
        /// Whether it answers a solicitation.
        solicited: bool,
        /// Whether what is known of the target is to be replaced.
        replaces: bool,
        /// The hardware address of the target, where it says so.
        link_layer: Option<MacAddr>,
    },
}

impl Frame {
    /// Reads a frame. Bytes after the IPv6 payload are ignored: Ethernet pads.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let cut_off = DecodeError::Truncated(bytes.len());
        let headers: &[u8; ICMPV6_AT] = bytes.first_chunk().ok_or(cut_off)?;
        let header = |at: usize| headers.get(at).copied().unwrap_or_default();
        let ethertype = u16::from_be_bytes([header(12), header(13)]);
        if ethertype != ETHERTYPE {
            return Err(DecodeError::EtherType(ethertype));
        }
        if header(IPV6_AT) >> 4 != 6 {
            return Err(DecodeError::Version(header(IPV6_AT) >> 4));
        }
        if header(IPV6_AT + 6) != ICMPV6 {
            return Err(DecodeError::NextHeader(header(IPV6_AT + 6)));
        }
        if header(IPV6_AT + 7) != HOP_LIMIT {
            return Err(DecodeError::HopLimit(header(IPV6_AT + 7)));
        }
        let length = u16::from_be_bytes([header(IPV6_AT + 4), header(IPV6_AT + 5)]);
        let payload = bytes
            .get(ICMPV6_AT..ICMPV6_AT + usize::from(length))
            .ok_or(cut_off)?;
        let (message, mut options) = payload
            .split_first_chunk::<MESSAGE_LEN>()
            .ok_or(DecodeError::PayloadLength(length))?;
        let source = address(headers, IPV6_AT + 8);
        let destination = address(headers, IPV6_AT + 24);
        if source.is_multicast() {
            return Err(DecodeError::Source(source));
        }
        if checksum(source, destination, payload) != 0 {
            return Err(DecodeError::Checksum);
        }
        let &[kind, code, _, _, flags, ..] = message;
        if code != 0 {
            return Err(DecodeError::Code(code));
        }
        let target = address(message, 8);
        if target.is_multicast() {
            return Err(DecodeError::Target(target));
        }
        let wanted = match kind {
            SOLICITATION => SOURCE_LINK_LAYER,
            ADVERTISEMENT => TARGET_LINK_LAYER,
            other => return Err(DecodeError::Type(other)),
        };
        let mut link_layer = None;
        while !options.is_empty() {
            let (option, rest) = next_option(options)?;
            if let &[kind, _, a, b, c, d, e, f, ..] = option
                && kind == wanted
            {
                link_layer = Some(MacAddr([a, b, c, d, e, f]));
            }
            options = rest;
        }
        if let Some(mac) = link_layer.filter(|mac| !mac.is_unicast()) {
            return Err(DecodeError::LinkLayer(mac));
        }
        let message = if kind == SOLICITATION {
            Message::Solicitation { link_layer }
        } else {
            Message::Advertisement {
                solicited: flags & SOLICITED != 0,
                replaces: flags & OVERRIDE != 0,
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
        frame.check().map(|()| frame)
    }

    /// What the fields say together (RFC 4861 sections 7.1.1 and 7.1.2).
    fn check(&self) -> Result<(), DecodeError> {
        match self.message {
            Message::Solicitation { link_layer } => {
                let probes = self.destination == solicited_node(self.target) && link_layer.is_none();
                if self.source.is_unspecified() && !probes {
                    return Err(DecodeError::Unspecified);
                }
                // It is answered there, and one question must not buy many answers.
                let asker = link_layer.unwrap_or(self.src);
                if !asker.is_unicast() {
                    return Err(DecodeError::LinkLayer(asker));
                }
            }
            Message::Advertisement { solicited: true, .. } if self.destination.is_multicast() => {
                return Err(DecodeError::SolicitedGroup);
            }
            Message::Advertisement { link_layer, .. } => {
                let owner = link_layer.unwrap_or(self.src);
                if !owner.is_unicast() {
                    return Err(DecodeError::LinkLayer(owner));
                }
            }
        }
        Ok(())
    }
}

/// Bytes of a question: Ethernet, IPv6 and the solicitation, without an option.
pub const QUESTION_LEN: usize = ICMPV6_AT + MESSAGE_LEN;

/// The frame of a neighbour advertisement, with the option that names the target's hardware address. `macs`: who sends it,
/// and who has the target.
#[must_use]
pub fn advertisement(
    macs: (MacAddr, MacAddr),
    to: (MacAddr, Ipv6Addr),
    target: Ipv6Addr,
    solicited: bool,
) -> [u8; ADVERTISEMENT_LEN] {
    let (sender, owner) = macs;
    // The address itself is the source: it is one of ours as far as the link is concerned (RFC 4861 section 7.2.4).
    let mut frame = headers::<ADVERTISEMENT_LEN>((sender, target), to);
    let (_, destination) = to;
    // Override, so that who knows another owner's hardware address takes ours (RFC 4861 section 7.2.6).
    let flags = if solicited { SOLICITED | OVERRIDE } else { OVERRIDE };
    put(&mut frame, ICMPV6_AT, [ADVERTISEMENT, 0, 0, 0, flags]);
    put(&mut frame, ICMPV6_AT + 8, target.octets());
    put(&mut frame, ICMPV6_AT + MESSAGE_LEN, [TARGET_LINK_LAYER, 1]);
    put(&mut frame, ICMPV6_AT + MESSAGE_LEN + 2, owner.0);
    let sum = checksum(target, destination, frame.get(ICMPV6_AT..).unwrap_or_default());
    put(&mut frame, ICMPV6_AT + 2, sum.to_be_bytes());
    frame
}

/// One burst after a change of owner: an unsolicited advertisement to all nodes.
#[must_use]
pub fn unsolicited(mac: MacAddr, address: Ipv6Addr) -> [u8; ADVERTISEMENT_LEN] {
    advertisement((mac, mac), (multicast_mac(ALL_NODES), ALL_NODES), address, false)
}

/// The question who has `address`, in the form of a probe for duplicates (RFC 4862 section 5.4.2): from nobody, so that it
/// changes no cache. The answer goes to all nodes.
#[must_use]
pub fn question(mac: MacAddr, address: Ipv6Addr) -> [u8; QUESTION_LEN] {
    let group = solicited_node(address);
    let mut frame = headers((mac, Ipv6Addr::UNSPECIFIED), (multicast_mac(group), group));
    put(&mut frame, ICMPV6_AT, [SOLICITATION]);
    put(&mut frame, ICMPV6_AT + 8, address.octets());
    let message = frame.get(ICMPV6_AT..).unwrap_or_default();
    let sum = checksum(Ipv6Addr::UNSPECIFIED, group, message);
    put(&mut frame, ICMPV6_AT + 2, sum.to_be_bytes());
    frame
}

/// A frame with its Ethernet and IPv6 headers, for an ICMPv6 message that fills the rest.
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

/// The group in which solicitations for an address are sent: `ff02::1:ff` and its last 24 bits (RFC 4291 section 2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The Ethernet group of an IPv6 group (RFC 2464 section 7).
#[must_use]
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// The first option, and what follows it. Lengths are in units of eight bytes.
fn next_option(options: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let &[_, length, ..] = options else {
        return Err(DecodeError::Option);
    };
    if length == 0 {
        return Err(DecodeError::Option);
    }
    options
        .split_at_checked(usize::from(length) * 8)
        .ok_or(DecodeError::Option)
}

/// The checksum of an ICMPv6 message with its pseudo-header (RFC 4443 section 2.3). Over a message that holds a right
/// one it is 0.
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
        // Folded at once: a message may be long.
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
