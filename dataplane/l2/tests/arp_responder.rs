//! The responder: what is answered, and each reason for silence.

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

fn ignored(frame: ArpFrame) -> Option<IgnoreReason> {
    match responder().handle(NODE, &frame.encode()) {
        FrameOutcome::Ignore(reason) => Some(reason),
        FrameOutcome::Reply { .. } | FrameOutcome::ReplySeen { .. } | FrameOutcome::Malformed(_) => None,
    }
}

#[track_caller]
fn answer(interface_mac: MacAddr, frame: ArpFrame) -> ArpFrame {
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
fn a_broadcast_request_is_answered_to_the_asker_alone() {
    assert_eq!(answer(NODE, request()), expected(NODE));
}

#[test]
fn a_unicast_request_to_our_mac_is_answered() {
    assert_eq!(
        answer(
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
fn a_probe_is_answered_so_that_the_prober_learns_of_the_conflict() {
    let reply = answer(
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
fn the_answer_names_the_mac_that_the_interface_has_now() {
    let changed = MacAddr([2, 0, 0, 0, 0, 9]);
    assert_eq!(answer(changed, request()), expected(changed));
}

#[test]
fn a_reply_shows_who_has_the_address() {
    let reply = ArpFrame {
        operation: ArpOperation::Reply,
        ..request()
    };
    let sighted = FrameOutcome::ReplySeen {
        address: CLIENT_IP,
        mac: CLIENT,
    };
    assert_eq!(responder().handle(NODE, &reply.encode()), sighted);
}

#[test]
fn a_frame_for_another_station_is_ignored() {
    for dst in [MacAddr([2, 0, 0, 0, 0, 7]), MacAddr([0x01, 0, 0x5e, 0, 0, 1])] {
        assert_eq!(
            ignored(ArpFrame { dst, ..request() }),
            Some(IgnoreReason::OtherDestination)
        );
    }
}

#[test]
fn what_our_own_interface_sent_is_ignored() {
    assert_eq!(
        ignored(ArpFrame {
            sender_mac: NODE,
            ..request()
        }),
        Some(IgnoreReason::OwnFrame)
    );
}

#[test]
fn an_announcement_is_no_question_and_shows_who_has_the_address() {
    let sighted = FrameOutcome::ReplySeen {
        address: OWNED,
        mac: CLIENT,
    };
    let announcement = ArpFrame {
        sender_ip: OWNED,
        ..request()
    };
    assert_eq!(responder().handle(NODE, &announcement.encode()), sighted);
    for frame in gratuitous(CLIENT, OWNED) {
        assert_eq!(responder().handle(NODE, &frame), sighted);
    }
}

#[test]
fn who_stands_in_answers_with_the_hardware_address_of_the_owner() {
    let owner = MacAddr([2, 0, 0, 0, 0, 0x77]);
    let mut responder = ArpResponder::new();
    assert!(responder.insert_proxy(OWNED, owner) && !responder.insert_proxy(OWNED, owner));
    let FrameOutcome::Reply { frame, .. } = responder.handle(NODE, &request().encode()) else {
        panic!("no answer");
    };
    assert_eq!(frame[6..12], NODE.0, "switches see it come from us");
    assert_eq!(ArpFrame::decode(&frame).unwrap().sender_mac, owner);
    // What is our own stays so.
    responder.insert(OWNED);
    assert!(!responder.insert_proxy(OWNED, owner));
    let FrameOutcome::Reply { frame, .. } = responder.handle(NODE, &request().encode()) else {
        panic!("no answer");
    };
    assert_eq!(ArpFrame::decode(&frame).unwrap().sender_mac, NODE);
}

#[test]
fn a_question_is_answered_and_its_answer_shows_who_has_the_address() {
    let question = lb_l2::wire::arp::probe(CLIENT, OWNED);
    let FrameOutcome::Reply { frame, .. } = responder().handle(NODE, &question) else {
        panic!("no answer");
    };
    let sighted = FrameOutcome::ReplySeen {
        address: OWNED,
        mac: NODE,
    };
    assert_eq!(ArpResponder::new().handle(CLIENT, &frame), sighted);
}

#[test]
fn an_address_that_is_not_owned_is_left_to_others() {
    let target_ip = Ipv4Addr::new(192, 168, 50, 201);
    assert_eq!(
        ignored(ArpFrame {
            target_ip,
            ..request()
        }),
        Some(IgnoreReason::NotOwned)
    );
}

#[test]
fn a_withdrawn_address_gets_no_answer_from_the_next_frame_on() {
    let mut responder = responder();
    assert!(responder.remove(&OWNED));
    assert_eq!(
        responder.handle(NODE, &request().encode()),
        FrameOutcome::Ignore(IgnoreReason::NotOwned)
    );
    assert!(responder.addresses().next().is_none());
}

#[test]
fn a_malformed_frame_is_reported_with_its_reason() {
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
    fn whatever_comes_a_reply_goes_to_one_station_for_an_owned_address(
        mut frame in prop::collection::vec(any::<u8>(), 42..64),
        owned in any::<bool>(),
    ) {
        // Most random bytes are not ARP: make them so.
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
