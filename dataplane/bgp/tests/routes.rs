//! Routes over a session, to a router that keeps what it learns, under a virtual clock.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ipnet::IpNet;
use lb_bgp::session::{NextHops, Output, RoutePolicy, Session, SkipReason};
use lb_bgp::table::{AdvertisementId, Table};
use lb_bgp::wire::{Attributes, Family, LargeCommunity, Message};
use proptest::prelude::*;
use rustbgpd_wire as oracle;

use support::{LOCAL_ASN, config, dialed, encoded, epoch, establish, next_hops, outputs, router_open};

/// Communities by advertisement; advertisement 3 is for other routers.
struct Policy;

impl RoutePolicy for Policy {
    fn attributes(&self, advertisements: &BTreeSet<AdvertisementId>) -> Option<Attributes> {
        let ours: BTreeSet<_> = advertisements
            .iter()
            .filter(|id| id.0 != 3)
            .map(|id| id.0)
            .collect();
        (!ours.is_empty()).then(|| Attributes {
            as_path: vec![LOCAL_ASN],
            communities: ours,
            ..Attributes::default()
        })
    }
}

/// A router that answers, and keeps the routes of the present connection.
#[derive(Default)]
struct Router {
    routes: BTreeMap<IpNet, BTreeSet<u32>>,
    ends_of_rib: usize,
    stream: VecDeque<u8>,
}

impl Router {
    fn receive(&mut self, octets: &[u8]) {
        self.stream.extend(octets);
        let mut stream = bytes::Bytes::from(Vec::from(std::mem::take(&mut self.stream)));
        while !stream.is_empty() {
            let oracle::Message::Update(message) = oracle::decode_message(&mut stream, 4096).unwrap() else {
                continue;
            };
            let parsed = message.parse(true, false, &[]).unwrap();
            let net = |prefix: oracle::Prefix| -> IpNet {
                match prefix {
                    oracle::Prefix::V4(prefix) => format!("{}/{}", prefix.addr, prefix.len),
                    oracle::Prefix::V6(prefix) => format!("{}/{}", prefix.addr, prefix.len),
                }
                .parse()
                .unwrap()
            };
            let classic = |entry: &oracle::Ipv4NlriEntry| net(oracle::Prefix::V4(entry.prefix));
            let mut announced: Vec<_> = parsed.announced.iter().map(classic).collect();
            let mut withdrawn: Vec<_> = parsed.withdrawn.iter().map(classic).collect();
            let (mut communities, mut reachability) = (BTreeSet::new(), false);
            for attribute in &parsed.attributes {
                match attribute {
                    oracle::PathAttribute::Communities(values) => communities.extend(values),
                    oracle::PathAttribute::MpReachNlri(reach) => {
                        announced.extend(reach.announced.iter().map(|entry| net(entry.prefix)));
                    }
                    oracle::PathAttribute::MpUnreachNlri(unreach) => {
                        reachability = true;
                        withdrawn.extend(unreach.withdrawn.iter().map(|entry| net(entry.prefix)));
                    }
                    _ => {}
                }
            }
            let empty = announced.is_empty() && withdrawn.is_empty();
            self.ends_of_rib += usize::from(empty && (reachability || parsed.attributes.is_empty()));
            for prefix in withdrawn {
                self.routes.remove(&prefix);
            }
            for prefix in announced {
                self.routes.insert(prefix, communities.clone());
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, BTreeSet<(IpNet, AdvertisementId)>),
    Send,
    /// The connection takes over everything.
    Write,
    Break,
    Refresh(bool),
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let prefix = prop_oneof![
        (0..6_u8).prop_map(|last| format!("192.0.2.{last}/32").parse::<IpNet>().unwrap()),
        (0..6_u8).prop_map(|last| format!("2001:db8::{last}/128").parse::<IpNet>().unwrap()),
    ];
    let route = (prefix, (0..4_u32).prop_map(AdvertisementId));
    prop_oneof![
        6 => (0..5_u8, proptest::collection::btree_set(route, 0..5)).prop_map(|(of, routes)| Step::Set(of, routes)),
        4 => Just(Step::Send),
        2 => Just(Step::Write),
        1 => Just(Step::Break),
        1 => any::<bool>().prop_map(Step::Refresh),
        1 => Just(Step::Forget),
    ]
}

proptest! {
    /// Whatever happens in between, the router ends with the wanted routes and their attributes.
    #[test]
    fn router_learns_exactly_the_wanted_routes(steps in proptest::collection::vec(step(), 0..80)) {
        let mut now = epoch();
        let mut session = Session::new(config(), 3);
        let mut connection = establish(&mut session, now, router_open());
        outputs(&mut session);
        let (mut table, mut router, mut model) = (Table::default(), Router::default(), BTreeMap::new());
        let mut unwritten = 0;
        let deliver = |session: &mut Session, router: &mut Router, unwritten: &mut usize| {
            for output in outputs(session) {
                if let Output::Send(_, octets) = output {
                    *unwritten += octets.len();
                    router.receive(&octets);
                }
            }
        };
        for step in steps.into_iter().chain([Step::Write, Step::Send, Step::Write, Step::Send]) {
            match step {
                Step::Set(service, routes) => {
                    model.insert(service, routes.clone());
                    table.set_service(service, routes);
                }
                Step::Send => {
                    session.send_routes(now, &table, &Policy, next_hops());
                    deliver(&mut session, &mut router, &mut unwritten);
                }
                Step::Write => {
                    session.handle_written(now, connection, unwritten);
                    unwritten = 0;
                }
                Step::Break => {
                    session.handle_closed(now, connection);
                    now = session.poll_timeout().unwrap();
                    session.handle_timeout(now);
                    connection = dialed(&outputs(&mut session)).unwrap();
                    session.handle_dialed(now, connection, Ok(()));
                    session.handle_received(now, connection, &encoded(&Message::Open(router_open())));
                    session.handle_received(now, connection, &encoded(&Message::Keepalive));
                    outputs(&mut session);
                    (router, unwritten) = (Router::default(), 0);
                }
                Step::Refresh(six) => {
                    let refresh = [&[0xff; 16][..], &[0, 23, 5, 0, if six { 2 } else { 1 }, 0, 1]].concat();
                    session.handle_received(now, connection, &refresh);
                }
                Step::Forget => table.forget_withdrawals(session.sent_version().unwrap_or_default()),
            }
        }
        let mut wanted: BTreeMap<IpNet, BTreeSet<u32>> = BTreeMap::new();
        for (prefix, advertisement) in model.values().flatten().filter(|(_, id)| id.0 != 3) {
            wanted.entry(*prefix).or_default().insert(advertisement.0);
        }
        prop_assert_eq!(&router.routes, &wanted);
        prop_assert_eq!(router.ends_of_rib, 2, "one for each family");
    }
}

#[test]
fn prefixes_without_next_hop_or_room_are_reported_and_withdrawn() {
    struct Long;
    impl RoutePolicy for Long {
        fn attributes(&self, advertisements: &BTreeSet<AdvertisementId>) -> Option<Attributes> {
            let count = if advertisements.contains(&AdvertisementId(2)) {
                400
            } else {
                1
            };
            Some(Attributes {
                large_communities: (0..count).map(|n| LargeCommunity(LOCAL_ASN, 0, n)).collect(),
                ..Attributes::default()
            })
        }
    }
    let (now, mut session) = (epoch(), Session::new(config(), 1));
    establish(&mut session, now, router_open());
    outputs(&mut session);
    let (four, six): (IpNet, IpNet) = (
        "192.0.2.1/32".parse().unwrap(),
        "2001:db8::1/128".parse().unwrap(),
    );
    let mut table = Table::default();
    table.set_service(
        "a",
        BTreeSet::from([(four, AdvertisementId(1)), (six, AdvertisementId(1))]),
    );
    let ipv4_only = NextHops {
        ipv6: None,
        ..next_hops()
    };
    session.send_routes(now, &table, &Long, ipv4_only);
    let sent = outputs(&mut session);
    assert!(sent.contains(&Output::Skipped(Family::Ipv6, SkipReason::NoNextHop, vec![six])));
    table.set_service("a", BTreeSet::from([(four, AdvertisementId(2))]));
    session.send_routes(now, &table, &Long, ipv4_only);
    let sent = outputs(&mut session);
    assert!(sent.contains(&Output::Skipped(
        Family::Ipv4,
        SkipReason::AttributesTooLong,
        vec![four]
    )));
    let mut router = Router::default();
    router.routes.insert(four, BTreeSet::new());
    for output in sent {
        if let Output::Send(_, octets) = output {
            router.receive(&octets);
        }
    }
    assert!(router.routes.is_empty());
}
