//! The ARP codec against captured frames, malformed frames and etherparse.

use std::net::Ipv4Addr;

use etherparse::{ArpHardwareId, ArpPacket, EtherType, Ethernet2Header};
use lb_l2::MacAddr;
use lb_l2::wire::arp::{ArpDecodeError, ArpFrame, ArpOperation, gratuitous, request};
use proptest::prelude::*;

/// A request of iputils arping, captured on a veth without padding.
const REQUEST: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x5a, 0x1d, 0x7c, 0x2e, 0x90, 0x41, 0x08, 0x06, 0x00, 0x01, 0x08,
    0x00, 0x06, 0x04, 0x00, 0x01, 0x5a, 0x1d, 0x7c, 0x2e, 0x90, 0x41, 0xc0, 0xa8, 0x32, 0x0a, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xc0, 0xa8, 0x32, 0xc8,
];

/// The captured reply of Linux, padded to the 60 bytes that a network card delivers.
const PADDED_REPLY: [u8; 60] = [
    0x5a, 0x1d, 0x7c, 0x2e, 0x90, 0x41, 0x02, 0x42, 0xc0, 0xa8, 0x32, 0x15, 0x08, 0x06, 0x00, 0x01, 0x08,
    0x00, 0x06, 0x04, 0x00, 0x02, 0x02, 0x42, 0xc0, 0xa8, 0x32, 0x15, 0xc0, 0xa8, 0x32, 0xc8, 0x5a, 0x1d,
    0x7c, 0x2e, 0x90, 0x41, 0xc0, 0xa8, 0x32, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

const CLIENT: MacAddr = MacAddr([0x5a, 0x1d, 0x7c, 0x2e, 0x90, 0x41]);
const NODE: MacAddr = MacAddr([0x02, 0x42, 0xc0, 0xa8, 0x32, 0x15]);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);
const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 200);

#[test]
fn decodes_a_captured_request() {
    let frame = ArpFrame::decode(&REQUEST).unwrap();
    assert_eq!(
        frame,
        ArpFrame {
            dst: MacAddr::BROADCAST,
            src: CLIENT,
            operation: ArpOperation::Request,
            sender_mac: CLIENT,
            sender_ip: CLIENT_IP,
            target_mac: MacAddr::BROADCAST,
            target_ip: SERVICE_IP,
        }
    );
    assert_eq!(frame.encode(), REQUEST);
}

#[test]
fn decodes_a_captured_reply_with_padding() {
    let frame = ArpFrame::decode(&PADDED_REPLY).unwrap();
    assert_eq!(
        frame,
        ArpFrame {
            dst: CLIENT,
            src: NODE,
            operation: ArpOperation::Reply,
            sender_mac: NODE,
            sender_ip: SERVICE_IP,
            target_mac: CLIENT,
            target_ip: CLIENT_IP,
        }
    );
    assert_eq!(frame.encode(), PADDED_REPLY[..42]);
}

#[test]
fn each_invalid_field_has_its_error() {
    let cases: &[(usize, &[u8], ArpDecodeError)] = &[
        (12, &[0x08, 0x00], ArpDecodeError::EtherType(0x0800)),
        (14, &[0x00, 0x06], ArpDecodeError::HardwareType(6)),
        (16, &[0x86, 0xdd], ArpDecodeError::ProtocolType(0x86dd)),
        (18, &[8], ArpDecodeError::HardwareLength(8)),
        (19, &[16], ArpDecodeError::ProtocolLength(16)),
        (20, &[0x00, 0x03], ArpDecodeError::Operation(3)),
        (
            22,
            &[0x01, 0x00, 0x5e, 0, 0, 1],
            ArpDecodeError::SenderMac(MacAddr([0x01, 0x00, 0x5e, 0, 0, 1])),
        ),
        (22, &[0xff; 6], ArpDecodeError::SenderMac(MacAddr::BROADCAST)),
        (22, &[0; 6], ArpDecodeError::SenderMac(MacAddr::ZERO)),
    ];
    for (at, bytes, error) in cases {
        let mut frame = REQUEST;
        frame[*at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(ArpFrame::decode(&frame), Err(*error));
    }
    for len in 0..42 {
        assert_eq!(
            ArpFrame::decode(&REQUEST[..len]),
            Err(ArpDecodeError::Truncated(len))
        );
    }
}

#[test]
fn gratuitous_arp_is_a_broadcast_request_and_reply() {
    let [request, reply] = gratuitous(NODE, SERVICE_IP).map(|frame| ArpFrame::decode(&frame).unwrap());
    for frame in [request, reply] {
        assert_eq!(
            (frame.dst, frame.src, frame.sender_mac),
            (MacAddr::BROADCAST, NODE, NODE)
        );
        assert_eq!((frame.sender_ip, frame.target_ip), (SERVICE_IP, SERVICE_IP));
    }
    // RFC 5227 sections 2.1.1 and 2.3: the target hardware address of an announcement is zero.
    assert_eq!(
        (request.operation, request.target_mac),
        (ArpOperation::Request, MacAddr::ZERO)
    );
    assert_eq!(reply.operation, ArpOperation::Reply);
}

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn ip() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

prop_compose! {
    fn frame()(
        dst in mac(), src in mac(), reply in any::<bool>(),
        sender_mac in mac().prop_filter("unicast", |mac| mac.is_unicast()),
        sender_ip in ip(), target_mac in mac(), target_ip in ip(),
    ) -> ArpFrame {
        let operation = if reply { ArpOperation::Reply } else { ArpOperation::Request };
        ArpFrame { dst, src, operation, sender_mac, sender_ip, target_mac, target_ip }
    }
}

/// The frame as etherparse decodes it.
fn decode_with_etherparse(bytes: &[u8]) -> Option<ArpFrame> {
    let (ethernet, rest) = Ethernet2Header::from_slice(bytes).ok()?;
    if ethernet.ether_type != EtherType::ARP {
        return None;
    }
    let packet = etherparse::ArpPacketSlice::from_slice(rest).ok()?.to_packet();
    let arp: etherparse::ArpEthIpv4Packet = packet.try_eth_ipv4().ok()?;
    let operation = match arp.operation {
        etherparse::ArpOperation::REQUEST => ArpOperation::Request,
        etherparse::ArpOperation::REPLY => ArpOperation::Reply,
        _ => return None,
    };
    let sender_mac = MacAddr(arp.sender_mac);
    sender_mac.is_unicast().then_some(ArpFrame {
        dst: MacAddr(ethernet.destination),
        src: MacAddr(ethernet.source),
        operation,
        sender_mac,
        sender_ip: arp.sender_ipv4.into(),
        target_mac: MacAddr(arp.target_mac),
        target_ip: arp.target_ipv4.into(),
    })
}

/// dhcpcd and RFC 5227 section 2.4 see a conflict in a request from our address, or from 0.0.0.0 for it.
#[test]
fn request_is_unicast_and_no_probe() {
    let (ours, theirs) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    let (source, target) = (Ipv4Addr::new(192, 168, 50, 11), Ipv4Addr::new(192, 168, 50, 12));
    for (to, dst) in [(Some(theirs), theirs), (None, MacAddr::BROADCAST)] {
        let sent = ArpFrame::decode(&request((ours, source), to, target)).unwrap();
        let expected = ArpFrame {
            dst,
            src: ours,
            operation: ArpOperation::Request,
            sender_mac: ours,
            sender_ip: source,
            target_mac: MacAddr::ZERO,
            target_ip: target,
        };
        assert_eq!(sent, expected);
    }
}

proptest! {
    #[test]
    fn frames_round_trip(
        frame in frame(),
        padding in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = frame.encode().to_vec();
        bytes.extend(padding);
        prop_assert_eq!(ArpFrame::decode(&bytes), Ok(frame));
    }

    #[test]
    fn decoder_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = ArpFrame::decode(&bytes);
    }

    #[test]
    fn decodes_damaged_frames_like_etherparse(
        frame in frame(),
        damage in prop::collection::vec((0..42_usize, any::<u8>()), 0..3),
        len in 30..=42_usize,
    ) {
        let mut bytes = frame.encode();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        let bytes = &bytes[..len];
        prop_assert_eq!(ArpFrame::decode(bytes).ok(), decode_with_etherparse(bytes));
    }

    #[test]
    fn encodes_like_etherparse(frame in frame()) {
        let operation = match frame.operation {
            ArpOperation::Request => etherparse::ArpOperation::REQUEST,
            ArpOperation::Reply => etherparse::ArpOperation::REPLY,
        };
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &frame.sender_mac.0,
            &frame.sender_ip.octets(),
            &frame.target_mac.0,
            &frame.target_ip.octets(),
        ).unwrap();
        let (source, destination) = (frame.src.0, frame.dst.0);
        let ethernet = Ethernet2Header { source, destination, ether_type: EtherType::ARP };
        let mut theirs = ethernet.to_bytes().to_vec();
        theirs.extend(arp.to_bytes());
        prop_assert_eq!(theirs, frame.encode().to_vec());
    }
}
