//! Sessions under a virtual clock, with a router that keeps what it learns.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lb_bgp::session::{
    ConnectionId, DialError, DownReason, NextHops, Output, RemoteAsn, RoutePolicy, Session, SessionConfig,
    SkipReason, State, Stop,
};
use lb_bgp::table::{AdvertisementId, Table};
use lb_bgp::wire::{
    Attributes, Capabilities, Family, LargeCommunity, Message, NextHop, Notification, NotificationCode, Open,
};
use proptest::prelude::*;
use rustbgpd_wire as oracle;

const LOCAL_ASN: u32 = 65000;
const ROUTER_ASN: u32 = 65001;

#[allow(clippy::disallowed_methods, reason = "where time begins")]
fn epoch() -> Instant {
    Instant::now()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn config() -> SessionConfig {
    SessionConfig {
        local_asn: LOCAL_ASN,
        remote_asn: RemoteAsn::Is(ROUTER_ASN),
        router_id: Ipv4Addr::new(192, 168, 50, 11),
        families: BTreeSet::from(Family::ALL),
        hold_time: secs(90),
        keepalive_time: secs(30),
        connect_time: secs(10),
        ipv6_next_hop: false,
        restart_time: Some(secs(120)),
    }
}

fn router_open() -> Open {
    Open {
        asn: ROUTER_ASN,
        hold_time: 90,
        router_id: Ipv4Addr::new(192, 168, 50, 1),
        capabilities: Capabilities {
            families: BTreeSet::from(Family::ALL),
            route_refresh: true,
            four_octet_asn: Some(ROUTER_ASN),
            ..Capabilities::default()
        },
    }
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn outputs(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

/// The connection of the last attempt.
fn dialed(outputs: &[Output]) -> Option<ConnectionId> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Dial(connection) => Some(*connection),
        _ => None,
    })
}

/// The code of the NOTIFICATION that was sent.
fn notified(outputs: &[Output]) -> Option<[u8; 2]> {
    outputs.iter().find_map(|output| match output {
        Output::Send(_, octets) if octets[18] == 3 => Some([octets[19], octets[20]]),
        _ => None,
    })
}

/// Opens a session; returns its connection.
fn establish(session: &mut Session, now: Instant, open: Open) -> ConnectionId {
    session.start(now);
    let connection = dialed(&outputs(session)).unwrap();
    session.handle_dialed(now, connection, Ok(()));
    session.handle_received(now, connection, &encoded(&Message::Open(open)));
    session.handle_received(now, connection, &encoded(&Message::Keepalive));
    assert_eq!(session.state(), State::Established, "{}", session.down_reason());
    connection
}

#[test]
fn session_is_established_by_open_and_keepalive() {
    let (now, mut session) = (epoch(), Session::new(config(), 1));
    session.start(now);
    let connection = dialed(&outputs(&mut session)).unwrap();
    session.handle_dialed(now, connection, Ok(()));
    assert_eq!(session.state(), State::OpenSent);
    let sent = outputs(&mut session);
    assert!(
        matches!(&sent[0], Output::Send(_, octets) if octets[18] == 1),
        "{sent:?}"
    );
    session.handle_received(now, connection, &encoded(&Message::Open(router_open())));
    assert_eq!(session.state(), State::OpenConfirm);
    session.handle_received(now, connection, &encoded(&Message::Keepalive));
    assert_eq!(session.state(), State::Established);
    let agreed = session.negotiated().unwrap();
    assert_eq!((agreed.hold_time, agreed.keepalive_time), (secs(90), secs(30)));
    assert!(!agreed.internal && !agreed.graceful_restart);
}

#[test]
fn octets_may_arrive_in_any_pieces() {
    let stream = [
        encoded(&Message::Open(router_open())),
        encoded(&Message::Keepalive),
        encoded(&Message::Keepalive),
    ]
    .concat();
    for piece in 1..stream.len() {
        let (now, mut session) = (epoch(), Session::new(config(), 1));
        session.start(now);
        let connection = dialed(&outputs(&mut session)).unwrap();
        session.handle_dialed(now, connection, Ok(()));
        for octets in stream.chunks(piece) {
            session.handle_received(now, connection, octets);
        }
        assert_eq!(session.state(), State::Established);
    }
}

/// An OPEN that does not fit the settings: code and subcode of the NOTIFICATION.
#[test]
fn unacceptable_open_ends_the_session_with_its_code() {
    type Edit = fn(&mut SessionConfig, &mut Open);
    let cases: [(Edit, [u8; 2]); 4] = [
        (|_, open| open.capabilities.four_octet_asn = Some(65002), [2, 2]),
        (|config, _| config.remote_asn = RemoteAsn::Internal, [2, 2]),
        (
            |config, open| {
                config.remote_asn = RemoteAsn::External;
                open.capabilities.four_octet_asn = Some(LOCAL_ASN);
            },
            [2, 2],
        ),
        (
            |config, open| {
                config.remote_asn = RemoteAsn::Internal;
                open.capabilities.four_octet_asn = Some(LOCAL_ASN);
                open.router_id = config.router_id;
            },
            [2, 3],
        ),
    ];
    for (edit, code) in cases {
        let (mut config, mut open) = (config(), router_open());
        edit(&mut config, &mut open);
        // The 2-octet field follows the 4-octet one.
        open.asn = open.capabilities.four_octet_asn.unwrap();
        let (now, mut session) = (epoch(), Session::new(config, 1));
        session.start(now);
        let connection = dialed(&outputs(&mut session)).unwrap();
        session.handle_dialed(now, connection, Ok(()));
        session.handle_received(now, connection, &encoded(&Message::Open(open)));
        assert_eq!(notified(&outputs(&mut session)), Some(code));
        assert_eq!(session.state(), State::Active);
        // Several seconds pass before the next attempt: a misconfigured session must not hammer the router.
        let next = session.poll_timeout().unwrap();
        assert!(next >= now + secs(5), "{:?}", next - now);
    }
}

#[test]
fn wrong_as_number_is_named() {
    let (now, mut session) = (epoch(), Session::new(config(), 1));
    session.start(now);
    let connection = dialed(&outputs(&mut session)).unwrap();
    session.handle_dialed(now, connection, Ok(()));
    let mut open = router_open();
    (open.asn, open.capabilities.four_octet_asn) = (4_200_000_000, Some(4_200_000_000));
    session.handle_received(now, connection, &encoded(&Message::Open(open)));
    assert_eq!(session.down_reason().to_string(), "router has AS 4200000000");
}

#[test]
fn failed_connections_are_repeated_ever_more_slowly_up_to_the_connect_time() {
    let (mut now, mut session) = (epoch(), Session::new(config(), 7));
    session.start(now);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let connection = dialed(&outputs(&mut session)).unwrap();
        session.handle_dialed(now, connection, Err(DialError::Refused));
        let next = session.poll_timeout().unwrap();
        pauses.push(next - now);
        now = next;
        session.handle_timeout(now);
        assert_eq!(session.state(), State::Connect);
    }
    assert!(pauses[0] >= Duration::from_millis(750) && pauses[0] <= secs(1));
    assert!(pauses.iter().all(|pause| *pause <= secs(10)), "{pauses:?}");
    assert!(pauses[8..].iter().all(|pause| *pause >= secs(7)), "{pauses:?}");
}

#[test]
fn connection_and_open_have_a_limit() {
    let (now, mut session) = (epoch(), Session::new(config(), 1));
    session.start(now);
    let connection = dialed(&outputs(&mut session)).unwrap();
    assert_eq!(session.poll_timeout(), Some(now + secs(5)));
    session.handle_timeout(now + secs(5));
    assert_eq!(session.down_reason(), &DownReason::Dial(DialError::Unreachable));
    // The result of the old attempt comes too late.
    outputs(&mut session);
    session.handle_dialed(now + secs(6), connection, Ok(()));
    assert_eq!(session.state(), State::Active);

    let mut session = Session::new(config(), 1);
    session.start(now);
    let connection = dialed(&outputs(&mut session)).unwrap();
    session.handle_dialed(now, connection, Ok(()));
    session.handle_timeout(now + secs(30));
    assert_eq!(notified(&outputs(&mut session)), Some([4, 0]));
}

#[test]
fn silent_router_is_given_up_after_the_hold_time() {
    let mut open = router_open();
    open.hold_time = 9;
    let (start, mut session) = (epoch(), Session::new(config(), 1));
    let connection = establish(&mut session, start, open);
    outputs(&mut session);
    // KEEPALIVEs are sent every three seconds at most, and do not count as a sign of life of the router.
    let (mut now, mut keepalives) = (start, Vec::new());
    while session.state() == State::Established {
        now = session.poll_timeout().unwrap();
        session.handle_timeout(now);
        let sent = outputs(&mut session);
        if session.state() == State::Established {
            assert!(
                matches!(&sent[..], [Output::Send(_, octets)] if octets[18] == 4),
                "{sent:?}"
            );
            keepalives.push(now - start);
            session.handle_written(now, connection, 19);
        } else {
            assert_eq!(notified(&sent), Some([4, 0]));
        }
    }
    assert_eq!(now, start + secs(9));
    assert!(keepalives.len() >= 3, "{keepalives:?}");
    for pair in keepalives.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(2250) && pair[1] - pair[0] <= secs(3));
    }
}

#[test]
fn router_that_accepts_no_data_is_given_up() {
    let mut open = router_open();
    open.hold_time = 0;
    let (start, mut session) = (epoch(), Session::new(config(), 1));
    let connection = establish(&mut session, start, open);
    // Some octets of the OPEN have been sent.
    session.handle_written(start + secs(60), connection, 10);
    let mut now = start;
    while session.state() == State::Established {
        now = session.poll_timeout().unwrap();
        session.handle_timeout(now);
    }
    assert_eq!(now, start + secs(60 + 480));
    assert_eq!(session.down_reason(), &DownReason::SendBlocked);
}

#[test]
fn notification_delays_the_next_attempt() {
    for (notification, at_least) in [
        (Notification::new(NotificationCode::AdministrativeReset), secs(5)),
        (Notification::new(NotificationCode::MaximumPrefixes), secs(300)),
    ] {
        let (now, mut session) = (epoch(), Session::new(config(), 1));
        let connection = establish(&mut session, now, router_open());
        session.handle_received(
            now,
            connection,
            &encoded(&Message::Notification(notification.clone())),
        );
        assert_eq!(session.state(), State::Active);
        assert_eq!(session.down_reason(), &DownReason::Received(notification));
        assert!(session.poll_timeout().unwrap() >= now + at_least);
    }
}

#[test]
fn bfd_ends_a_session_and_hastens_the_next_attempt() {
    let (now, mut session) = (epoch(), Session::new(config(), 1));
    establish(&mut session, now, router_open());
    outputs(&mut session);
    session.handle_bfd_down(now);
    assert_eq!(notified(&outputs(&mut session)), Some([6, 10]));
    assert_eq!(session.state(), State::Active);
    session.handle_bfd_up(now);
    assert_eq!(session.state(), State::Connect);
}

#[test]
fn stopped_silently_for_a_restart_or_with_a_reason() {
    for (how, code) in [
        (Stop::Silently, None),
        (
            Stop::Notify(Notification::with_text(
                NotificationCode::AdministrativeShutdown,
                "n1 leaves",
            )),
            Some([6, 2]),
        ),
    ] {
        let (now, mut session) = (epoch(), Session::new(config(), 1));
        let connection = establish(&mut session, now, router_open());
        outputs(&mut session);
        session.stop(how);
        let left = outputs(&mut session);
        assert_eq!(notified(&left), code);
        assert!(left.contains(&Output::Close(connection)));
        assert_eq!((session.state(), session.poll_timeout()), (State::Idle, None));
    }
}

/// Only the first OPEN after the start of the program says that it has restarted (RFC 4724 section 4.1).
#[test]
fn restart_is_stated_until_a_session_was_established() {
    let (now, mut session) = (epoch(), Session::new(config(), 1));
    let restart_state = |outputs: &[Output]| {
        let open = outputs.iter().find_map(|output| match output {
            Output::Send(_, octets) if octets[18] == 1 => Some(octets.clone()),
            _ => None,
        });
        let mut open = bytes::Bytes::from(open.unwrap());
        let oracle::Message::Open(open) = oracle::decode_message(&mut open, 4096).unwrap() else {
            panic!("no OPEN");
        };
        open.capabilities.iter().any(|capability| {
            matches!(
                capability,
                oracle::Capability::GracefulRestart {
                    restart_state: true,
                    ..
                }
            )
        })
    };
    session.start(now);
    let mut connection = dialed(&outputs(&mut session)).unwrap();
    session.handle_dialed(now, connection, Ok(()));
    assert!(restart_state(&outputs(&mut session)));
    session.handle_received(now, connection, &encoded(&Message::Open(router_open())));
    session.handle_received(now, connection, &encoded(&Message::Keepalive));
    session.handle_closed(now, connection);
    session.handle_timeout(now + secs(10));
    connection = dialed(&outputs(&mut session)).unwrap();
    session.handle_dialed(now + secs(10), connection, Ok(()));
    assert!(!restart_state(&outputs(&mut session)));
}

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

fn next_hops() -> NextHops {
    NextHops {
        ipv4: Some(NextHop::Ipv4(Ipv4Addr::new(192, 168, 50, 11))),
        ipv6: Some(NextHop::Ipv6("fc00:50::11".parse().unwrap(), None)),
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

    /// No octets and no order of events make the machine panic, keep two connections, or send without one.
    #[test]
    fn any_events_leave_at_most_one_connection(
        events in proptest::collection::vec((0..9_u8, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..60),
    ) {
        let mut now = epoch();
        let mut session = Session::new(config(), 5);
        let table: Table<u8> = Table::default();
        let mut open = BTreeSet::new();
        for (kind, which, octets) in events {
            let connection = ConnectionId(u64::from(which % 8));
            match kind {
                0 => session.start(now),
                1 => session.handle_dialed(now, connection, Ok(())),
                2 => session.handle_dialed(now, connection, Err(DialError::Other)),
                3 => session.handle_received(now, connection, &octets),
                4 => session.handle_received(now, connection, &encoded(&Message::Open(router_open()))),
                5 => session.handle_received(now, connection, &encoded(&Message::Keepalive)),
                6 => session.handle_closed(now, connection),
                7 => {
                    now = session.poll_timeout().unwrap_or(now);
                    session.handle_timeout(now);
                }
                _ => session.stop(Stop::Silently),
            }
            session.send_routes(now, &table, &Policy, next_hops());
            for output in outputs(&mut session) {
                match output {
                    Output::Dial(connection) => {
                        prop_assert!(open.is_empty(), "{open:?}");
                        open.insert(connection);
                    }
                    Output::Close(connection) => {
                        open.remove(&connection);
                    }
                    Output::Send(connection, _) => prop_assert!(open.contains(&connection)),
                    Output::Changed(_) | Output::Skipped(..) => {}
                }
            }
            prop_assert_eq!(open.is_empty(), matches!(session.state(), State::Idle | State::Active));
        }
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
