//! ARP: decoder and responder. The bytes are one frame.

use std::net::Ipv4Addr;

use lb_l2::ArpResponder;
use lb_l2::MacAddr;
use lb_l2::responder::FrameOutcome;
use lb_l2::wire::arp::{ArpFrame, ArpOperation};

const NODE: MacAddr = MacAddr([0x02, 0x42, 0xc0, 0xa8, 0x32, 0x15]);
const OTHER: MacAddr = MacAddr([0x02, 0x42, 0xc0, 0xa8, 0x32, 0x16]);
const OWNED: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 200);
/// Answered for in place of `OTHER`.
const LENT: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 201);

/// A reply goes to a well-formed request for an owned address, to every such one, and to nothing else.
pub fn target(bytes: &[u8]) {
    let decoded = ArpFrame::decode(bytes);
    if let Ok(frame) = decoded {
        assert_eq!(frame.encode()[..], bytes[..42], "what was read is what is there");
    }
    let mut responder = ArpResponder::new();
    responder.insert(OWNED);
    responder.insert_proxy(LENT, OTHER);
    check(&responder, bytes);
    // And where it asks for an address of ours whatever it asks for.
    if let Ok(frame) = decoded {
        responder.insert(frame.target_ip);
        check(&responder, bytes);
    }
}

fn check(responder: &ArpResponder, bytes: &[u8]) {
    let owned = |address: Ipv4Addr| responder.addresses().any(|other| *other == address);
    let wanted = question(bytes).filter(|(_, _, target)| owned(*target));
    match responder.handle(NODE, bytes) {
        FrameOutcome::Reply { frame, address } => {
            let (asker, asker_ip, target) = wanted.expect("only a question for an owned address is answered");
            assert_eq!(address, target);
            let owner = if address == LENT { OTHER } else { NODE };
            let reply = ArpFrame::decode(&frame).expect("a reply is well-formed");
            let expected = ArpFrame {
                dst: asker,
                src: NODE,
                operation: ArpOperation::Reply,
                sender_mac: reply.sender_mac,
                sender_ip: target,
                target_mac: asker,
                target_ip: asker_ip,
            };
            assert_eq!(reply, expected);
            // The address of a stand-in is its owner's, unless it has become our own.
            assert!(reply.sender_mac == owner || (address == LENT && reply.sender_mac == NODE));
            for mac in [NODE, OTHER] {
                let verdict = responder.handle(mac, &frame);
                assert!(
                    !matches!(verdict, FrameOutcome::Reply { .. }),
                    "no reply to a reply"
                );
            }
        }
        FrameOutcome::ReplySeen { address, mac } => {
            assert!(wanted.is_none(), "a question for an owned address is answered");
            assert!(mac.is_unicast() && mac != NODE && mac.0 == bytes[22..28]);
            assert!(!address.is_unspecified() && address.octets() == bytes[28..32]);
        }
        FrameOutcome::Ignore(_) => {
            assert!(wanted.is_none(), "a question for an owned address is answered");
            assert!(ArpFrame::decode(bytes).is_ok());
        }
        FrameOutcome::Malformed(_) => {
            assert!(wanted.is_none(), "a question for an owned address is answered");
            assert!(ArpFrame::decode(bytes).is_err());
        }
    }
}

/// Who asks, and for what, when the frame is a question to us or to all: read without the decoder, after RFC 826.
fn question(bytes: &[u8]) -> Option<(MacAddr, Ipv4Addr, Ipv4Addr)> {
    let frame: &[u8; 42] = bytes.first_chunk()?;
    let mac = |at: usize| {
        let octets: [u8; 6] = frame[at..at + 6].try_into().unwrap();
        MacAddr(octets)
    };
    let ip = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let form = frame[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    let to_us = frame[..6] == [0xff; 6] || mac(0) == NODE;
    let (asker, asker_ip, target) = (mac(22), ip(28), ip(38));
    let station = asker.0[0] & 1 == 0 && asker.0 != [0; 6] && asker != NODE;
    let announces = asker_ip == target && !asker_ip.is_unspecified();
    (form && to_us && station && !announces).then_some((asker, asker_ip, target))
}
