//! The Neighbor Discovery codec and responder against frames as Linux sends them, malformed frames and etherparse.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

use std::net::Ipv6Addr;

use etherparse::{Icmpv6Type, NetHeaders, PacketHeaders, TransportHeader};
use lb_l2::MacAddr;
use lb_l2::NdpResponder;
use lb_l2::responder::{FrameOutcome, IgnoreReason};
use lb_l2::wire::ndp::{
    ADVERTISEMENT_LEN, NdpDecodeError, NdpFrame, NdpMessage, advertisement, multicast_mac, probe,
    solicitation as solicitation_to, solicited_node, unsolicited,
};
use proptest::prelude::*;

const CLIENT: MacAddr = MacAddr([0x02, 0x1b, 0, 0, 0, 0x14]);
const NODE: MacAddr = MacAddr([0x02, 0x1b, 0, 0, 0, 0x0b]);

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A solicitation as Linux sends it, with a checksum computed by etherparse.
fn solicitation(source: &str, destination: Ipv6Addr, target: &str, link_layer: Option<MacAddr>) -> Vec<u8> {
    let (source, target) = (ip(source), ip(target));
    let mut payload = vec![0; 4];
    payload.extend(target.octets());
    if let Some(mac) = link_layer {
        payload.extend([1, 1]);
        payload.extend(mac.0);
    }
    let group = if destination.is_multicast() {
        multicast_mac(destination).0
    } else {
        NODE.0
    };
    let builder = etherparse::PacketBuilder::ethernet2(CLIENT.0, group)
        .ipv6(source.octets(), destination.octets(), 255)
        .icmpv6(Icmpv6Type::Unknown {
            type_u8: 135,
            code_u8: 0,
            bytes5to8: [0; 4],
        });
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload[4..]).unwrap();
    frame
}

fn multicast_solicitation() -> Vec<u8> {
    let target = "fc00:50::100";
    solicitation("fc00:50::14", solicited_node(ip(target)), target, Some(CLIENT))
}

#[test]
fn decodes_multicast_and_unicast_solicitations() {
    let frame = NdpFrame::decode(&multicast_solicitation()).unwrap();
    assert_eq!(
        frame,
        NdpFrame {
            dst: MacAddr([0x33, 0x33, 0xff, 0, 1, 0]),
            src: CLIENT,
            source: ip("fc00:50::14"),
            destination: ip("ff02::1:ff00:100"),
            target: ip("fc00:50::100"),
            message: NdpMessage::Solicitation {
                link_layer: Some(CLIENT)
            },
        }
    );
    // Neighbor unreachability detection sends unicast solicitations, where the link-layer option is optional (RFC 4861
    // section 7.2.2).
    let unicast = solicitation("fe80::14", ip("fc00:50::100"), "fc00:50::100", None);
    let frame = NdpFrame::decode(&unicast).unwrap();
    assert_eq!(
        (frame.dst, frame.message),
        (NODE, NdpMessage::Solicitation { link_layer: None })
    );
}

#[test]
fn validates_duplicate_address_detection_probes() {
    let group = solicited_node(ip("fc00:50::100"));
    let probe = NdpFrame::decode(&solicitation("::", group, "fc00:50::100", None)).unwrap();
    assert!(probe.source.is_unspecified());
    for invalid in [
        solicitation("::", group, "fc00:50::100", Some(CLIENT)),
        solicitation("::", ip("fc00:50::100"), "fc00:50::100", None),
    ] {
        assert_eq!(NdpFrame::decode(&invalid), Err(NdpDecodeError::Unspecified));
    }
}

#[test]
fn advertisements_are_valid_for_etherparse() {
    let frame = advertisement(
        (NODE, NODE),
        (CLIENT, ip("fc00:50::14")),
        ip("fc00:50::100"),
        true,
    );
    let packet = PacketHeaders::from_ethernet_slice(&frame).unwrap();
    let Some(NetHeaders::Ipv6(header, _)) = packet.net else {
        panic!("not IPv6");
    };
    assert_eq!(
        (header.hop_limit, usize::from(header.payload_length)),
        (255, ADVERTISEMENT_LEN - 54)
    );
    let Some(TransportHeader::Icmpv6(icmp)) = packet.transport else {
        panic!("not ICMPv6");
    };
    let expected = icmp
        .icmp_type
        .calc_checksum(header.source, header.destination, packet.payload.slice());
    assert_eq!(icmp.checksum, expected.unwrap());
    assert_eq!(
        NdpFrame::decode(&frame).unwrap().message,
        NdpMessage::Advertisement {
            solicited: true,
            overrides: true,
            link_layer: Some(NODE)
        }
    );
    let announcement = NdpFrame::decode(&unsolicited(NODE, ip("fc00:50::100"))).unwrap();
    assert_eq!(
        (announcement.dst.to_string().as_str(), announcement.destination),
        ("33:33:00:00:00:01", ip("ff02::1"))
    );
    assert!(matches!(
        announcement.message,
        NdpMessage::Advertisement {
            solicited: false,
            overrides: true,
            ..
        }
    ));
}

#[test]
fn each_invalid_field_has_its_error() {
    let cases: &[(usize, u8, NdpDecodeError)] = &[
        (13, 0x06, NdpDecodeError::EtherType(0x8606)),
        (14, 0x40, NdpDecodeError::Version(4)),
        (20, 17, NdpDecodeError::NextHeader(17)),
        (21, 64, NdpDecodeError::HopLimit(64)),
        (19, 20, NdpDecodeError::PayloadLength(20)),
        (19, 200, NdpDecodeError::Truncated(86)),
        (56, 0, NdpDecodeError::Checksum),
    ];
    for (at, byte, error) in cases {
        let mut frame = multicast_solicitation();
        frame[*at] = *byte;
        assert_eq!(NdpFrame::decode(&frame), Err(*error), "byte {at}");
    }
    // Fields that the checksum covers.
    let cases: &[(usize, u8, NdpDecodeError)] = &[
        (54, 133, NdpDecodeError::Type(133)),
        (55, 1, NdpDecodeError::Code(1)),
        (62, 0xff, NdpDecodeError::Target(ip("ff00:50::100"))),
        (79, 0, NdpDecodeError::Option),
        (79, 2, NdpDecodeError::Option),
        (
            80,
            0x03,
            NdpDecodeError::LinkLayer(MacAddr([3, 0x1b, 0, 0, 0, 0x14])),
        ),
    ];
    for (at, byte, error) in cases {
        let mut frame = multicast_solicitation();
        frame[*at] = *byte;
        if *at == 62 {
            frame[63] = 0;
        }
        update_checksum(&mut frame);
        assert_eq!(NdpFrame::decode(&frame), Err(*error), "byte {at}");
    }
    let mut frame = advertisement(
        (NODE, NODE),
        (MacAddr::BROADCAST, ip("ff02::1")),
        ip("fc00:50::100"),
        true,
    );
    assert_eq!(NdpFrame::decode(&frame), Err(NdpDecodeError::SolicitedMulticast));
    frame[0] = 0;
    for length in 0..54 {
        assert_eq!(
            NdpFrame::decode(&frame[..length]),
            Err(NdpDecodeError::Truncated(length))
        );
    }
}

fn reply_to(frame: &[u8]) -> Result<NdpFrame, IgnoreReason> {
    let mut responder = NdpResponder::new();
    assert!(responder.insert(ip("fc00:50::100")) && !responder.insert(ip("fc00:50::100")));
    match responder.handle(NODE, frame) {
        FrameOutcome::Reply { frame, address } => {
            assert_eq!(address, ip("fc00:50::100"));
            Ok(NdpFrame::decode(&frame).unwrap())
        }
        FrameOutcome::ReplySeen { .. } => panic!("not a solicitation"),
        FrameOutcome::Ignore(reason) => Err(reason),
        FrameOutcome::Malformed(error) => panic!("{error}"),
    }
}

#[test]
fn replies_to_the_requester_with_our_mac() {
    let unicast = solicitation("fe80::14", ip("fc00:50::100"), "fc00:50::100", None);
    for (request, source) in [(multicast_solicitation(), "fc00:50::14"), (unicast, "fe80::14")] {
        let reply = reply_to(&request).unwrap();
        assert_eq!(
            (reply.dst, reply.src, reply.destination),
            (CLIENT, NODE, ip(source))
        );
        let message = NdpMessage::Advertisement {
            solicited: true,
            overrides: true,
            link_layer: Some(NODE),
        };
        assert_eq!((reply.target, reply.message), (ip("fc00:50::100"), message));
    }
}

#[test]
fn replies_to_a_solicitation_without_source_go_to_all_nodes() {
    let group = solicited_node(ip("fc00:50::100"));
    let reply = reply_to(&solicitation("::", group, "fc00:50::100", None)).unwrap();
    assert_eq!(
        (reply.dst.to_string().as_str(), reply.destination),
        ("33:33:00:00:00:01", ip("ff02::1"))
    );
    assert!(matches!(
        reply.message,
        NdpMessage::Advertisement { solicited: false, .. }
    ));
}

#[test]
fn ignores_frames_for_others_with_the_reason() {
    let other = solicitation(
        "fe80::14",
        solicited_node(ip("fc00:50::200")),
        "fc00:50::200",
        Some(CLIENT),
    );
    let mut own = multicast_solicitation();
    own[6..12].copy_from_slice(&NODE.0);
    let mut elsewhere = multicast_solicitation();
    elsewhere[0..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    for (frame, reason) in [
        (other, IgnoreReason::NotOwned),
        (own, IgnoreReason::OwnFrame),
        (elsewhere, IgnoreReason::OtherDestination),
    ] {
        assert_eq!(reply_to(&frame), Err(reason));
    }
}

#[test]
fn proxy_reply_has_the_mac_of_the_owner() {
    let (address, owner) = (ip("fc00:50::100"), MacAddr([2, 0, 0, 0, 0, 0x77]));
    let mut responder = NdpResponder::new();
    responder.insert_proxy(address, owner);
    let FrameOutcome::Reply { frame, .. } = responder.handle(NODE, &multicast_solicitation()) else {
        panic!("no reply");
    };
    let seen = FrameOutcome::ReplySeen { address, mac: owner };
    assert_eq!(frame[6..12], NODE.0, "the Ethernet source is ours");
    assert_eq!(NdpResponder::new().handle(CLIENT, &frame), seen);
}

#[test]
fn probe_is_answered_to_all_nodes() {
    let address = ip("fc00:50::100");
    let reply = reply_to(&probe(CLIENT, address)).unwrap();
    assert_eq!((reply.destination, reply.src), (ip("ff02::1"), NODE));
    let announcement = unsolicited(NODE, address);
    let seen = FrameOutcome::ReplySeen { address, mac: NODE };
    assert_eq!(NdpResponder::new().handle(CLIENT, &announcement), seen);
}

/// Sets the correct checksum of a changed frame: the ones' complement sum of RFC 1071.
fn update_checksum(frame: &mut [u8]) {
    frame[56] = 0;
    frame[57] = 0;
    let length = (frame.len() - 54) as u32;
    let mut bytes = frame[22..].to_vec();
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    frame[56..58].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// A host whose detection of duplicates is under way takes only a solicitation from `::` for a conflict.
#[test]
fn solicitation_is_unicast_and_no_probe() {
    let (source, target) = (ip("fe80::11"), ip("fc00:50::100"));
    let group = solicited_node(target);
    for (to, dst, destination) in [(Some(NODE), NODE, target), (None, multicast_mac(group), group)] {
        let bytes = solicitation_to((CLIENT, source), to, target);
        let sent = NdpFrame::decode(&bytes).unwrap();
        let expected = NdpFrame {
            dst,
            src: CLIENT,
            source,
            destination,
            target,
            message: NdpMessage::Solicitation {
                link_layer: Some(CLIENT),
            },
        };
        assert_eq!(sent, expected);
        let mut responder = NdpResponder::new();
        responder.insert(target);
        assert!(matches!(
            responder.handle(NODE, &bytes),
            FrameOutcome::Reply { .. }
        ));
    }
}

proptest! {
    #[test]
    fn decoder_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = NdpFrame::decode(&bytes);
    }

    #[test]
    fn decoder_never_panics_on_changed_frames(changes in prop::collection::vec((0usize..86, any::<u8>()), 0..6), cut in 0usize..=86) {
        let mut frame = multicast_solicitation();
        for (at, byte) in changes {
            frame[at] = byte;
        }
        update_checksum(&mut frame);
        frame.truncate(cut);
        let _ = NdpFrame::decode(&frame);
    }

    #[test]
    fn advertisements_round_trip(target in any::<u128>(), destination in any::<u128>(), mac in any::<[u8; 6]>(), solicited in any::<bool>()) {
        let (target, destination) = (Ipv6Addr::from(target), Ipv6Addr::from(destination));
        let mac = MacAddr(mac);
        let is_valid = !target.is_multicast() && mac.is_unicast() && !(solicited && destination.is_multicast());
        let frame = NdpFrame::decode(&advertisement((mac, mac), (CLIENT, destination), target, solicited));
        prop_assert_eq!(frame.is_ok(), is_valid);
        if let Ok(frame) = frame {
            prop_assert_eq!((frame.target, frame.source, frame.destination, frame.src), (target, target, destination, mac));
        }
    }
}

#[test]
fn rejects_solicitations_with_multicast_source() {
    let target = "fc00:50::100";
    let frame = solicitation("ff02::1", solicited_node(ip(target)), target, Some(CLIENT));
    assert_eq!(
        NdpFrame::decode(&frame),
        Err(NdpDecodeError::Source(ip("ff02::1")))
    );
    let mut responder = NdpResponder::new();
    responder.insert(ip(target));
    assert!(matches!(
        responder.handle(NODE, &frame),
        FrameOutcome::Malformed(_)
    ));
}

#[test]
fn rejects_advertisements_without_a_unicast_mac() {
    let mut frame = unsolicited(CLIENT, ip("fc00:50::100"));
    // The advertisement without its option.
    let mut bare = probe(CLIENT, ip("fc00:50::100"));
    bare[..54].copy_from_slice(&frame[..54]);
    bare[18..20].copy_from_slice(&24_u16.to_be_bytes());
    bare[54..78].copy_from_slice(&frame[54..78]);
    bare[56..58].fill(0);
    let checksum = etherparse::Icmpv6Type::Unknown {
        type_u8: 136,
        code_u8: 0,
        bytes5to8: [frame[58], 0, 0, 0],
    };
    let addresses = (bare[22..38].try_into().unwrap(), bare[38..54].try_into().unwrap());
    let sum = checksum
        .calc_checksum(addresses.0, addresses.1, &bare[62..])
        .unwrap();
    bare[56..58].copy_from_slice(&sum.to_be_bytes());
    assert!(NdpFrame::decode(&bare).is_ok());
    let group = [0x33, 0x33, 0, 0, 0, 1];
    bare[6..12].copy_from_slice(&group);
    assert_eq!(
        NdpFrame::decode(&bare),
        Err(NdpDecodeError::LinkLayer(MacAddr(group)))
    );
    // With the option, the Ethernet source is not used.
    frame[6..12].copy_from_slice(&group);
    assert!(NdpFrame::decode(&frame).is_ok());
}
