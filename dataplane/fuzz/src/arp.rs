//! The ARP decoder and responder. The bytes are one frame.

use std::net::Ipv4Addr;

use lb_l2::ArpResponder;
use lb_l2::MacAddr;
use lb_l2::responder::FrameOutcome;
use lb_l2::wire::arp::{ArpFrame, ArpOperation};

const NODE: MacAddr = MacAddr([0x02, 0x42, 0xc0, 0xa8, 0x32, 0x15]);
const OTHER: MacAddr = MacAddr([0x02, 0x42, 0xc0, 0xa8, 0x32, 0x16]);
const OWNED: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 200);
/// Owned by `OTHER`; gets proxy replies.
const PROXIED: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 201);

/// Exactly the well-formed requests for an owned address get a reply.
pub fn target(bytes: &[u8]) {
    let decoded = ArpFrame::decode(bytes);
    if let Ok(frame) = decoded {
        assert_eq!(
            frame.encode()[..],
            bytes[..42],
            "decoding and encoding preserve the frame"
        );
    }
    let mut responder = ArpResponder::new();
    responder.insert(OWNED);
    responder.insert_proxy(PROXIED, OTHER);
    check(&responder, bytes);
    // The requested address is owned, whichever it is.
    if let Ok(frame) = decoded {
        responder.insert(frame.target_ip);
        check(&responder, bytes);
    }
}

fn check(responder: &ArpResponder, bytes: &[u8]) {
    let owned = |address: Ipv4Addr| responder.addresses().any(|other| *other == address);
    let wanted = parse_request(bytes).filter(|(_, _, target)| owned(*target));
    match responder.handle(NODE, bytes) {
        FrameOutcome::Reply { frame, address } => {
            let (requester, requester_ip, target) =
                wanted.expect("only requests for owned addresses get a reply");
            assert_eq!(address, target);
            let owner = if address == PROXIED { OTHER } else { NODE };
            let reply = ArpFrame::decode(&frame).expect("a reply is well-formed");
            let expected = ArpFrame {
                dst: requester,
                src: NODE,
                operation: ArpOperation::Reply,
                sender_mac: reply.sender_mac,
                sender_ip: target,
                target_mac: requester,
                target_ip: requester_ip,
            };
            assert_eq!(reply, expected);
            // A proxy reply has the owner's MAC, unless the address has become ours.
            assert!(reply.sender_mac == owner || (address == PROXIED && reply.sender_mac == NODE));
            for mac in [NODE, OTHER] {
                let outcome = responder.handle(mac, &frame);
                assert!(
                    !matches!(outcome, FrameOutcome::Reply { .. }),
                    "no reply to a reply"
                );
            }
        }
        FrameOutcome::ReplySeen { address, mac } => {
            assert!(wanted.is_none(), "a request for an owned address gets a reply");
            assert!(mac.is_unicast() && mac != NODE && mac.0 == bytes[22..28]);
            assert!(!address.is_unspecified() && address.octets() == bytes[28..32]);
        }
        FrameOutcome::Ignore(_) => {
            assert!(wanted.is_none(), "a request for an owned address gets a reply");
            assert!(ArpFrame::decode(bytes).is_ok());
        }
        FrameOutcome::Malformed(_) => {
            assert!(wanted.is_none(), "a request for an owned address gets a reply");
            assert!(ArpFrame::decode(bytes).is_err());
        }
    }
}

/// The requester's MAC and IP address and the requested address, if the frame is a request to us or to all hosts.
/// Parsed without the decoder, from the layout in RFC 826.
fn parse_request(bytes: &[u8]) -> Option<(MacAddr, Ipv4Addr, Ipv4Addr)> {
    let frame: &[u8; 42] = bytes.first_chunk()?;
    let mac = |at: usize| {
        let octets: [u8; 6] = frame[at..at + 6].try_into().unwrap();
        MacAddr(octets)
    };
    let ip = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let is_arp = frame[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    let to_us = frame[..6] == [0xff; 6] || mac(0) == NODE;
    let (requester, requester_ip, target) = (mac(22), ip(28), ip(38));
    let is_unicast = requester.0[0] & 1 == 0 && requester.0 != [0; 6] && requester != NODE;
    let announces = requester_ip == target && !requester_ip.is_unspecified();
    (is_arp && to_us && is_unicast && !announces).then_some((requester, requester_ip, target))
}
