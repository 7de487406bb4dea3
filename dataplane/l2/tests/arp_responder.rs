//! The ARP responder: its replies, and each reason to ignore a frame.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

use std::net::Ipv4Addr;

use lb_l2::ArpResponder;
use lb_l2::MacAddr;
use lb_l2::responder::{FrameOutcome, IgnoreReason};
use lb_l2::wire::arp::{ArpDecodeError, ArpFrame, ArpOperation, gratuitous};
use proptest::prelude::*;

const CLIENT: MacAddr = MacAddr([0x5a, 0x1d, 0x7c, 0x2e, 0x90, 0x41]);
const NODE: MacAddr = MacAddr([0x02, 0x42, 0xc0, 0xa8, 0x32, 0x15]);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);
const OWNED: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 200);

fn responder() -> ArpResponder {
    let mut responder = ArpResponder::new();
    assert!(responder.insert(OWNED));
    responder
}

fn request() -> ArpFrame {
    ArpFrame {
        dst: MacAddr::BROADCAST,
        src: CLIENT,
        operation: ArpOperation::Request,
        sender_mac: CLIENT,
        sender_ip: CLIENT_IP,
        target_mac: MacAddr::ZERO,
        target_ip: OWNED,
    }
}

fn ignore_reason(frame: ArpFrame) -> Option<IgnoreReason> {
    match responder().handle(NODE, &frame.encode()) {
        FrameOutcome::Ignore(reason) => Some(reason),
        FrameOutcome::Reply { .. } | FrameOutcome::ReplySeen { .. } | FrameOutcome::Malformed(_) => None,
    }
}

#[track_caller]
fn reply_to(interface_mac: MacAddr, frame: ArpFrame) -> ArpFrame {
    match responder().handle(interface_mac, &frame.encode()) {
        FrameOutcome::Reply { frame, address } => {
            assert_eq!(address, OWNED);
            ArpFrame::decode(&frame).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn expected(interface_mac: MacAddr) -> ArpFrame {
    ArpFrame {
        dst: CLIENT,
        src: interface_mac,
        operation: ArpOperation::Reply,
        sender_mac: interface_mac,
        sender_ip: OWNED,
        target_mac: CLIENT,
        target_ip: CLIENT_IP,
    }
}

#[test]
fn replies_to_a_broadcast_request_by_unicast() {
    assert_eq!(reply_to(NODE, request()), expected(NODE));
}

#[test]
fn replies_to_a_unicast_request() {
    assert_eq!(
        reply_to(
            NODE,
            ArpFrame {
                dst: NODE,
                ..request()
            }
        ),
        expected(NODE)
    );
}

#[test]
fn replies_to_a_probe() {
    let reply = reply_to(
        NODE,
        ArpFrame {
            sender_ip: Ipv4Addr::UNSPECIFIED,
            ..request()
        },
    );
    assert_eq!(
        reply,
        ArpFrame {
            target_ip: Ipv4Addr::UNSPECIFIED,
            ..expected(NODE)
        }
    );
}

#[test]
fn reply_has_the_current_mac_of_the_interface() {
    let changed = MacAddr([2, 0, 0, 0, 0, 9]);
    assert_eq!(reply_to(changed, request()), expected(changed));
}

#[test]
fn reports_replies_of_other_hosts() {
    let reply = ArpFrame {
        operation: ArpOperation::Reply,
        ..request()
    };
    let seen = FrameOutcome::ReplySeen {
        address: CLIENT_IP,
        mac: CLIENT,
    };
    assert_eq!(responder().handle(NODE, &reply.encode()), seen);
}

#[test]
fn ignores_frames_for_other_hosts() {
    for dst in [MacAddr([2, 0, 0, 0, 0, 7]), MacAddr([0x01, 0, 0x5e, 0, 0, 1])] {
        assert_eq!(
            ignore_reason(ArpFrame { dst, ..request() }),
            Some(IgnoreReason::OtherDestination)
        );
    }
}

#[test]
fn ignores_our_own_frames() {
    assert_eq!(
        ignore_reason(ArpFrame {
            sender_mac: NODE,
            ..request()
        }),
        Some(IgnoreReason::OwnFrame)
    );
}

#[test]
fn reports_announcements_of_other_hosts() {
    let seen = FrameOutcome::ReplySeen {
        address: OWNED,
        mac: CLIENT,
    };
    let announcement = ArpFrame {
        sender_ip: OWNED,
        ..request()
    };
    assert_eq!(responder().handle(NODE, &announcement.encode()), seen);
    for frame in gratuitous(CLIENT, OWNED) {
        assert_eq!(responder().handle(NODE, &frame), seen);
    }
}

#[test]
fn proxy_reply_has_the_mac_of_the_owner() {
    let owner = MacAddr([2, 0, 0, 0, 0, 0x77]);
    let mut responder = ArpResponder::new();
    assert!(responder.insert_proxy(OWNED, owner) && !responder.insert_proxy(OWNED, owner));
    let FrameOutcome::Reply { frame, .. } = responder.handle(NODE, &request().encode()) else {
        panic!("no reply");
    };
    assert_eq!(frame[6..12], NODE.0, "the Ethernet source is ours");
    assert_eq!(ArpFrame::decode(&frame).unwrap().sender_mac, owner);
    // An own address stays an own address.
    responder.insert(OWNED);
    assert!(!responder.insert_proxy(OWNED, owner));
    let FrameOutcome::Reply { frame, .. } = responder.handle(NODE, &request().encode()) else {
        panic!("no reply");
    };
    assert_eq!(ArpFrame::decode(&frame).unwrap().sender_mac, NODE);
}

#[test]
fn reply_to_our_probe_is_reported() {
    let probe = lb_l2::wire::arp::probe(CLIENT, OWNED);
    let FrameOutcome::Reply { frame, .. } = responder().handle(NODE, &probe) else {
        panic!("no reply");
    };
    let seen = FrameOutcome::ReplySeen {
        address: OWNED,
        mac: NODE,
    };
    assert_eq!(ArpResponder::new().handle(CLIENT, &frame), seen);
}

#[test]
fn ignores_requests_for_other_addresses() {
    let target_ip = Ipv4Addr::new(192, 168, 50, 201);
    assert_eq!(
        ignore_reason(ArpFrame {
            target_ip,
            ..request()
        }),
        Some(IgnoreReason::NotOwned)
    );
}

#[test]
fn ignores_requests_for_a_withdrawn_address() {
    let mut responder = responder();
    assert!(responder.remove(&OWNED));
    assert_eq!(
        responder.handle(NODE, &request().encode()),
        FrameOutcome::Ignore(IgnoreReason::NotOwned)
    );
    assert!(responder.addresses().next().is_none());
}

#[test]
fn reports_malformed_frames_with_the_reason() {
    let mut frame = request().encode();
    frame[18] = 7;
    assert_eq!(
        responder().handle(NODE, &frame),
        FrameOutcome::Malformed(ArpDecodeError::HardwareLength(7))
    );
}

#[test]
fn metric_labels_are_distinct() {
    let labels: std::collections::BTreeSet<_> =
        IgnoreReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(labels.len(), IgnoreReason::ALL.len());
}

proptest! {
    #[test]
    fn any_reply_is_unicast_and_for_an_owned_address(
        mut frame in prop::collection::vec(any::<u8>(), 42..64),
        owned in any::<bool>(),
    ) {
        // Turn the random bytes into a valid ARP header.
        frame[..6].copy_from_slice(&NODE.0);
        frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        if owned {
            frame[38..42].copy_from_slice(&OWNED.octets());
        }
        if let FrameOutcome::Reply { frame: reply, address } = responder().handle(NODE, &frame) {
            let reply = ArpFrame::decode(&reply).unwrap();
            prop_assert!(reply.dst.is_unicast() && reply.dst != NODE);
            prop_assert_eq!((reply.sender_mac, reply.sender_ip, address), (NODE, OWNED, OWNED));
        }
    }
}
