//! The Neighbor Discovery decoder and responder. The bytes are one frame. It is handled as it is, and again with the
//! correct length, hop limit and checksum, which mutations rarely find.

use std::net::Ipv6Addr;

use lb_l2::MacAddr;
use lb_l2::NdpResponder;
use lb_l2::responder::FrameOutcome;
use lb_l2::wire::ndp::{NdpFrame, NdpMessage};

const NODE: MacAddr = MacAddr([0x02, 0x1b, 0, 0, 0, 0x0b]);
const OTHER: MacAddr = MacAddr([0x02, 0x1b, 0, 0, 0, 0x0c]);
const OWNED: Ipv6Addr = Ipv6Addr::new(0xfc00, 0x50, 0, 0, 0, 0, 0, 0x100);
/// Owned by `OTHER`; gets proxy replies.
const PROXIED: Ipv6Addr = Ipv6Addr::new(0xfc00, 0x50, 0, 0, 0, 0, 0, 0x101);
const ICMPV6_AT: usize = 54;

/// Exactly the solicitations for an owned address that are valid by RFC 4861 section 7.1.1 get an advertisement, with
/// the flags of section 7.2.4.
pub fn target(bytes: &[u8]) {
    let mut responder = NdpResponder::new();
    responder.insert(OWNED);
    responder.insert_proxy(PROXIED, OTHER);
    check(&responder, bytes);
    let mut repaired = bytes.to_vec();
    if repair(&mut repaired) {
        check(&responder, &repaired);
        if let Ok(frame) = NdpFrame::decode(&repaired) {
            responder.insert(frame.target);
            check(&responder, &repaired);
        }
    }
}

/// Sets the correct length, hop limit and checksum. Returns false if the frame is too short.
fn repair(frame: &mut [u8]) -> bool {
    let Some(length) = frame
        .len()
        .checked_sub(ICMPV6_AT)
        .and_then(|length| u16::try_from(length).ok())
    else {
        return false;
    };
    if length < 4 {
        return false;
    }
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60 | (frame[14] & 0xf);
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20..22].copy_from_slice(&[58, 255]);
    frame[56..58].fill(0);
    let sum = sum(&frame[22..54], &frame[ICMPV6_AT..]);
    frame[56..58].copy_from_slice(&(!sum).to_be_bytes());
    true
}

/// The Internet checksum (RFC 1071) over pseudo-header and message, not complemented: 0xffff if the message contains
/// its correct checksum.
fn sum(addresses: &[u8], message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
        bytes.chunks(2).map(word).sum()
    };
    let mut sum = words(addresses) + words(message) + message.len() as u64 + 58;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn check(responder: &NdpResponder, bytes: &[u8]) {
    let owned = |address: Ipv6Addr| responder.addresses().any(|other| *other == address);
    let decoded = NdpFrame::decode(bytes);
    let (frame, address) = match responder.handle(NODE, bytes) {
        FrameOutcome::Reply { frame, address } => (frame, address),
        FrameOutcome::ReplySeen { address, mac } => {
            let seen = decoded.expect("only well-formed frames report a reply");
            assert!(matches!(seen.message, NdpMessage::Advertisement { .. }));
            assert!(seen.target == address && !address.is_multicast());
            assert!(
                mac.is_unicast() && seen.src != NODE,
                "the MAC is unicast and not ours"
            );
            return;
        }
        FrameOutcome::Ignore(_) => {
            assert!(decoded.is_ok());
            return;
        }
        FrameOutcome::Malformed(_) => {
            assert!(decoded.is_err());
            return;
        }
    };
    // Parse the solicitation without the decoder.
    let length = usize::from(u16::from_be_bytes([bytes[18], bytes[19]]));
    let message = &bytes[ICMPV6_AT..ICMPV6_AT + length];
    let ip = |at: usize| Ipv6Addr::from(*bytes[at..].first_chunk::<16>().unwrap());
    let (source, destination, asked) = (ip(22), ip(38), ip(62));
    assert_eq!(bytes[12..14], [0x86, 0xdd]);
    assert_eq!(bytes[14] >> 4, 6);
    assert_eq!(bytes[20..22], [58, 255], "from this link");
    assert_eq!(sum(&bytes[22..54], message), 0xffff, "undamaged");
    assert_eq!(message[..2], [135, 0], "only solicitations get a reply");
    assert!(length >= 24 && asked == address && owned(address));
    let [.., a, b, c] = address.octets();
    assert!(bytes[..6] == NODE.0 || bytes[..6] == [0x33, 0x33, 0xff, a, b, c]);
    assert_ne!(bytes[6..12], NODE.0, "our own frames get no reply");
    let mut link_layer = None;
    let mut options = &message[24..];
    while let [kind, units, ..] = options {
        let (option, rest) = options.split_at(usize::from(*units) * 8);
        if *kind == 1 {
            link_layer = Some(option[2..8].to_vec());
        }
        options = rest;
    }
    // Check the reply.
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let (to_mac, to, flags) = if source.is_unspecified() {
        assert!(link_layer.is_none(), "a probe has no link-layer address");
        assert_eq!(
            destination.octets()[..13],
            [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
        );
        (vec![0x33, 0x33, 0, 0, 0, 1], all_nodes, 0x20)
    } else {
        (link_layer.unwrap_or(bytes[6..12].to_vec()), source, 0x60)
    };
    assert!(to_mac[0] & 1 == 0 || to == all_nodes, "one probe, one reply");
    let mut expected = [
        to_mac,
        NODE.0.to_vec(),
        vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255],
    ]
    .concat();
    expected.extend(address.octets());
    expected.extend(to.octets());
    expected.extend([136, 0, frame[56], frame[57], flags, 0, 0, 0]);
    expected.extend(address.octets());
    expected.extend([2, 1]);
    expected.extend(&frame[80..]);
    assert_eq!(frame[..], expected);
    assert_eq!(sum(&frame[22..54], &frame[ICMPV6_AT..]), 0xffff);
    let is_proxy = address == PROXIED && frame[80..] == OTHER.0;
    assert!(is_proxy || frame[80..] == NODE.0, "the MAC is the owner's");
    let read = NdpFrame::decode(&frame).expect("our replies are valid");
    assert!(matches!(read.message, NdpMessage::Advertisement { .. }));
    let outcome = responder.handle(OTHER, &frame);
    assert!(
        !matches!(outcome, FrameOutcome::Reply { .. }),
        "no reply to a reply"
    );
}
