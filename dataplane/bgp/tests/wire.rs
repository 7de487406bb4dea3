//! BGP messages: round trips, comparison with an independent codec, literal captures, and malformed input.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_bgp::wire::attributes::LinkBandwidth;
use lb_bgp::wire::{
    AS_TRANS, Attributes, Capabilities, Family, GracefulRestart, HEADER_LEN, LargeCommunity, MAX_MESSAGE_LEN,
    Message, NextHop, Notification, NotificationCode, Open, Received, update,
};
use proptest::prelude::*;
use rustbgpd_wire as oracle;

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// All messages of a stream, as the independent codec reads them.
fn read_by_oracle(stream: Vec<u8>) -> Vec<oracle::Message> {
    let mut rest = bytes::Bytes::from(stream);
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let max = u16::try_from(MAX_MESSAGE_LEN).unwrap();
        messages.push(oracle::decode_message(&mut rest, max).unwrap());
    }
    messages
}

fn families() -> impl Strategy<Value = BTreeSet<Family>> {
    proptest::sample::subsequence(Family::ALL.to_vec(), 0..=2).prop_map(BTreeSet::from_iter)
}

prop_compose! {
    fn graceful_restart()(
        restarted in any::<bool>(),
        notification in any::<bool>(),
        restart_time in 0..4096_u16,
        families in proptest::collection::btree_map(
            prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)], any::<bool>(), 0..=2),
    ) -> GracefulRestart {
        GracefulRestart { restarted, notification, restart_time, families: families.into_iter().collect() }
    }
}

prop_compose! {
    fn open()(
        asn in 1..u32::MAX,
        hold_time in prop_oneof![Just(0), 3..=u16::MAX],
        router_id in 1..=u32::MAX,
        families in families(),
        route_refresh in any::<bool>(),
        ipv6_next_hop in families(),
        graceful_restart in proptest::option::of(graceful_restart()),
    ) -> Open {
        let capabilities = Capabilities {
            families, route_refresh, four_octet_asn: Some(asn), ipv6_next_hop, graceful_restart,
        };
        Open { asn, hold_time, router_id: Ipv4Addr::from(router_id), capabilities }
    }
}

fn ipv4_prefix() -> impl Strategy<Value = IpNet> {
    (any::<u32>(), 0..=32_u8)
        .prop_map(|(bits, len)| IpNet::V4(Ipv4Net::new(bits.into(), len).unwrap().trunc()))
}

fn ipv6_prefix() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 0..=128_u8)
        .prop_map(|(bits, len)| IpNet::V6(Ipv6Net::new(bits.into(), len).unwrap().trunc()))
}

prop_compose! {
    fn attributes()(
        as_path in proptest::collection::vec(1..u32::MAX, 0..12),
        local_pref in proptest::option::of(any::<u32>()),
        communities in proptest::collection::btree_set(any::<u32>(), 0..80),
        bandwidth in proptest::option::of((1..70_000_u32, 1..1_000_000_u32)),
        large in proptest::collection::btree_set(any::<(u32, u32, u32)>(), 0..80),
    ) -> Attributes {
        Attributes {
            as_path,
            local_pref,
            communities,
            link_bandwidth: bandwidth.map(|(asn, bandwidth)| LinkBandwidth { asn, bandwidth }),
            large_communities: large.into_iter().map(|(a, b, c)| LargeCommunity(a, b, c)).collect(),
        }
    }
}

/// An UPDATE as the independent codec reads it, in our types.
#[derive(Debug, Default, PartialEq)]
struct Told {
    announced: Vec<IpNet>,
    withdrawn: Vec<IpNet>,
    next_hop: Option<NextHop>,
    attributes: Attributes,
    types: Vec<u8>,
}

fn net(prefix: oracle::Prefix) -> IpNet {
    match prefix {
        oracle::Prefix::V4(prefix) => IpNet::V4(Ipv4Net::new(prefix.addr, prefix.len).unwrap()),
        oracle::Prefix::V6(prefix) => IpNet::V6(Ipv6Net::new(prefix.addr, prefix.len).unwrap()),
    }
}

fn told(message: &oracle::Message, four_octet: bool) -> Told {
    let oracle::Message::Update(update) = message else {
        panic!("{message:?}");
    };
    let parsed = update.parse(four_octet, false, &[]).unwrap();
    let mut told = Told::default();
    let classic = |entry: &oracle::Ipv4NlriEntry| net(oracle::Prefix::V4(entry.prefix));
    told.announced.extend(parsed.announced.iter().map(classic));
    told.withdrawn.extend(parsed.withdrawn.iter().map(classic));
    for attribute in &parsed.attributes {
        told.types.push(attribute.type_code());
        match attribute {
            oracle::PathAttribute::AsPath(path) => {
                for segment in &path.segments {
                    let oracle::AsPathSegment::AsSequence(sequence) = segment else {
                        panic!("{segment:?}");
                    };
                    told.attributes.as_path.extend(sequence);
                }
            }
            oracle::PathAttribute::NextHop(address) => told.next_hop = Some(NextHop::Ipv4(*address)),
            oracle::PathAttribute::LocalPref(value) => told.attributes.local_pref = Some(*value),
            oracle::PathAttribute::Communities(values) => told.attributes.communities.extend(values),
            oracle::PathAttribute::LargeCommunities(values) => {
                let ours = values
                    .iter()
                    .map(|value| LargeCommunity(value.global_admin, value.local_data1, value.local_data2));
                told.attributes.large_communities.extend(ours);
            }
            oracle::PathAttribute::MpReachNlri(reach) => {
                told.next_hop = Some(match reach.next_hop {
                    IpAddr::V4(address) => NextHop::Ipv4(address),
                    IpAddr::V6(address) => NextHop::Ipv6(address, reach.link_local_next_hop),
                });
                told.announced
                    .extend(reach.announced.iter().map(|entry| net(entry.prefix)));
            }
            oracle::PathAttribute::MpUnreachNlri(unreach) => {
                told.withdrawn
                    .extend(unreach.withdrawn.iter().map(|entry| net(entry.prefix)));
            }
            _ => {}
        }
    }
    told
}

proptest! {
    #[test]
    fn open_survives_a_round_trip(open in open()) {
        let stream = encoded(&Message::Open(open.clone()));
        let len = stream.len();
        prop_assert_eq!(Received::decode(&stream).unwrap(), Some((Received::Open(open.clone()), len)));
        // Any part of it is incomplete.
        for cut in 0..len {
            prop_assert_eq!(Received::decode(&stream[..cut]).unwrap(), None);
        }
        let messages = read_by_oracle(stream);
        let [oracle::Message::Open(theirs)] = &messages[..] else {
            panic!("{messages:?}");
        };
        prop_assert_eq!(theirs.four_byte_as(), open.asn);
        prop_assert_eq!(theirs.my_as, u16::try_from(open.asn).unwrap_or(AS_TRANS));
        prop_assert_eq!((theirs.hold_time, theirs.bgp_identifier), (open.hold_time, open.router_id));
        for capability in &theirs.capabilities {
            prop_assert!(!matches!(capability, oracle::Capability::Unknown { .. }), "{:?}", capability);
        }
        // The other way round.
        let theirs = oracle::encode_message(&messages[0]).unwrap();
        let (ours, _) = Received::decode(&theirs).unwrap().unwrap();
        prop_assert_eq!(ours, Received::Open(open));
    }

    #[test]
    fn announcement_is_read_alike_by_another_codec(
        (family, prefixes, next_hop) in prop_oneof![
            (proptest::collection::vec(ipv4_prefix(), 0..2000), any::<u32>())
                .prop_map(|(prefixes, hop)| (Family::Ipv4, prefixes, NextHop::Ipv4(Ipv4Addr::from(hop)))),
            (proptest::collection::vec(ipv4_prefix(), 0..2000), any::<u128>())
                .prop_map(|(prefixes, hop)| (Family::Ipv4, prefixes, NextHop::Ipv6(Ipv6Addr::from(hop), None))),
            (proptest::collection::vec(ipv6_prefix(), 0..800), any::<u128>(), any::<bool>())
                .prop_map(|(prefixes, hop, link)| {
                    let link_local = link.then_some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
                    (Family::Ipv6, prefixes, NextHop::Ipv6(Ipv6Addr::from(hop), link_local))
                }),
        ],
        attributes in attributes(),
        four_octet in any::<bool>(),
    ) {
        let mut out = Vec::new();
        let count = update::announce(&mut out, family, &attributes, next_hop, four_octet, &prefixes).unwrap();
        let messages = read_by_oracle(out);
        prop_assert_eq!(messages.len(), count);
        let mut seen = Vec::new();
        for message in &messages {
            let told = told(message, four_octet);
            prop_assert!(told.withdrawn.is_empty());
            prop_assert!(told.types.is_sorted(), "{:?}", told.types);
            prop_assert_eq!(told.next_hop, Some(next_hop));
            // With AS numbers of two octets, AS4_PATH has the true ones.
            let expected = Attributes { link_bandwidth: None, ..attributes.clone() };
            prop_assert_eq!(&told.attributes, &expected);
            seen.extend(told.announced);
        }
        prop_assert_eq!(seen, prefixes);
    }

    #[test]
    fn withdrawal_is_read_alike_by_another_codec(
        (family, prefixes) in prop_oneof![
            proptest::collection::vec(ipv4_prefix(), 0..2000).prop_map(|prefixes| (Family::Ipv4, prefixes)),
            proptest::collection::vec(ipv6_prefix(), 0..800).prop_map(|prefixes| (Family::Ipv6, prefixes)),
        ],
    ) {
        let mut out = Vec::new();
        update::withdraw(&mut out, family, &prefixes);
        let mut seen = Vec::new();
        for message in read_by_oracle(out) {
            let told = told(&message, true);
            prop_assert!(told.announced.is_empty());
            seen.extend(told.withdrawn);
        }
        prop_assert_eq!(seen, prefixes);
    }

    #[test]
    fn any_octets_are_decoded_or_refused(mut stream in proptest::collection::vec(any::<u8>(), 0..200), kind in 1..6_u8) {
        let _ = Received::decode(&stream);
        // The same behind a valid header.
        let len = u16::try_from(HEADER_LEN + stream.len()).unwrap().to_be_bytes();
        let mut message = vec![0xff; 16];
        message.extend_from_slice(&len);
        message.push(kind);
        message.append(&mut stream);
        match Received::decode(&message) {
            Ok(Some((_, used))) => prop_assert_eq!(used, message.len()),
            Ok(None) => panic!("it is complete"),
            Err(notification) => prop_assert_ne!(notification.code.octets()[0], 0),
        }
    }
}

#[test]
fn open_of_frr_is_decoded() {
    // FRR 8.4.4, AS 65001, hold time 180 s.
    let capabilities = [
        &[2, 6, 1, 4, 0, 1, 0, 1][..],            // IPv4 unicast
        &[2, 2, 128, 0],                          // route refresh, as before RFC 2918
        &[2, 2, 2, 0],                            // route refresh
        &[2, 2, 70, 0],                           // enhanced route refresh
        &[2, 6, 65, 4, 0, 0, 0xfd, 0xe9],         // AS 65001
        &[2, 2, 6, 0],                            // extended messages
        &[2, 6, 69, 4, 0, 1, 1, 1],               // ADD-PATH
        &[2, 8, 64, 6, 0x40, 120, 0, 1, 1, 0x80], // graceful restart, 120 s
    ]
    .concat();
    let mut body = vec![4, 0xfd, 0xe9, 0, 180, 192, 168, 50, 1];
    body.push(u8::try_from(capabilities.len()).unwrap());
    body.extend_from_slice(&capabilities);
    let mut message = vec![0xff; 16];
    message.extend_from_slice(&u16::try_from(HEADER_LEN + body.len()).unwrap().to_be_bytes());
    message.push(1);
    message.extend_from_slice(&body);
    let (received, _) = Received::decode(&message).unwrap().unwrap();
    let expected = Open {
        asn: 65001,
        hold_time: 180,
        router_id: Ipv4Addr::new(192, 168, 50, 1),
        capabilities: Capabilities {
            families: BTreeSet::from([Family::Ipv4]),
            route_refresh: true,
            four_octet_asn: Some(65001),
            ipv6_next_hop: BTreeSet::new(),
            graceful_restart: Some(GracefulRestart {
                restarted: false,
                notification: true,
                restart_time: 120,
                families: vec![(Family::Ipv4, true)],
            }),
        },
    };
    assert_eq!(received, Received::Open(expected));
}

/// Each malformed message, and the code and subcode of the NOTIFICATION (RFC 4271 sections 6.1 and 6.2).
#[test]
fn malformed_messages_are_refused_with_their_code() {
    let valid = encoded(&Message::Open(Open {
        asn: 65001,
        hold_time: 90,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: Capabilities::default(),
    }));
    let keepalive = encoded(&Message::Keepalive);
    type Edit = fn(&mut Vec<u8>);
    let cases: [(&[u8], Edit, [u8; 2]); 13] = [
        (&valid, |m| m[3] = 0, [1, 1]),
        (&valid, |m| m[16..18].copy_from_slice(&[0, 18]), [1, 2]),
        (&valid, |m| m[16..18].copy_from_slice(&[0x10, 1]), [1, 2]),
        (&valid, |m| m[16..18].copy_from_slice(&[0, 28]), [1, 2]),
        (&keepalive, |m| m[17] = 20, [1, 2]),
        (&valid, |m| m[18] = 0, [1, 3]),
        (&valid, |m| m[18] = 6, [1, 3]),
        (&valid, |m| m[19] = 3, [2, 1]),
        (&valid, |m| m[20..22].copy_from_slice(&[0, 0]), [2, 2]),
        (&valid, |m| m[22..24].copy_from_slice(&[0, 2]), [2, 6]),
        (&valid, |m| m[24..28].fill(0), [2, 3]),
        (&valid, |m| m[28] = 1, [2, 0]),
        (
            &valid,
            |m| {
                m[28] = 2;
                m.extend([1, 0]);
                m[17] += 2;
            },
            [2, 4],
        ),
    ];
    for (message, edit, code) in cases {
        let mut message = message.to_vec();
        edit(&mut message);
        let refused = Received::decode(&message).unwrap_err();
        assert_eq!(refused.code.octets(), code, "{message:02x?}");
    }
}

#[test]
fn shutdown_carries_a_text_and_control_characters_are_replaced() {
    let sent = Notification::with_text(
        NotificationCode::AdministrativeShutdown,
        "node n1 is shutting down",
    );
    let stream = encoded(&Message::Notification(sent.clone()));
    let (received, _) = Received::decode(&stream).unwrap().unwrap();
    let Received::Notification(received) = received else {
        panic!("{received:?}");
    };
    assert_eq!(received, sent);
    assert_eq!(
        received.to_string(),
        "administrative shutdown (6/2): node n1 is shutting down"
    );
    let hostile = Notification::with_text(NotificationCode::AdministrativeReset, "a\nb\u{1b}[2J");
    assert_eq!(hostile.text().unwrap(), "a\u{fffd}b\u{fffd}[2J");
    let long = Notification::with_text(NotificationCode::AdministrativeShutdown, &"ä".repeat(200));
    assert_eq!(long.text().unwrap().chars().count(), 127);
    assert_eq!(
        Notification::new(NotificationCode::BfdDown).to_string(),
        "BFD down (6/10)"
    );
}

#[test]
fn ten_thousand_host_prefixes_need_thirteen_messages() {
    let prefixes: Vec<IpNet> = (0..10_000_u32)
        .map(|n| IpNet::V4(Ipv4Net::new((0x0a00_0000 + n).into(), 32).unwrap()))
        .collect();
    let attributes = Attributes {
        as_path: vec![65000],
        ..Attributes::default()
    };
    let mut out = Vec::new();
    let next_hop = NextHop::Ipv4(Ipv4Addr::new(192, 168, 50, 11));
    let count = update::announce(&mut out, Family::Ipv4, &attributes, next_hop, true, &prefixes).unwrap();
    assert_eq!(count, 13);
    assert!(out.len() < 51_000, "{}", out.len());
}

#[test]
fn attributes_that_fill_a_message_are_refused() {
    let attributes = Attributes {
        large_communities: (0..400).map(|n| LargeCommunity(65000, 0, n)).collect(),
        ..Attributes::default()
    };
    let mut out = Vec::new();
    let prefix = "192.0.2.1/32".parse().unwrap();
    let next_hop = NextHop::Ipv4(Ipv4Addr::new(192, 168, 50, 11));
    assert!(update::announce(&mut out, Family::Ipv4, &attributes, next_hop, true, &[prefix]).is_err());
    assert!(out.is_empty());
}

#[test]
fn end_of_rib_is_an_empty_update() {
    for (family, body) in [
        (Family::Ipv4, &[0, 0, 0, 0][..]),
        (Family::Ipv6, &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]),
    ] {
        let mut out = Vec::new();
        update::end_of_rib(&mut out, family);
        assert_eq!(&out[HEADER_LEN..], body);
        assert!(matches!(Received::decode(&out), Ok(Some((Received::Update, _)))));
    }
}
