//! The session machine under a virtual clock.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use lb_bgp::session::{
    ConnectionId, DialError, DownReason, Output, RemoteAsn, Session, SessionConfig, State, Stop,
};
use lb_bgp::wire::{Message, Notification, NotificationCode, Open};
use proptest::prelude::*;
use rustbgpd_wire as oracle;

use support::{LOCAL_ASN, config, dialed, encoded, epoch, establish, notified, outputs, router_open, secs};

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
    let later = now + secs(60);
    session.handle_bfd_down(later);
    assert_eq!(notified(&outputs(&mut session)), Some([6, 10]));
    assert_eq!(session.state(), State::Active);
    session.handle_bfd_up(later);
    assert_eq!(session.state(), State::Connect);
}

/// A path on which only BFD fails: BGP is tried again after the connect time.
#[test]
fn bfd_that_stays_down_delays_the_next_attempt() {
    let (now, mut session) = (epoch(), Session::new(config(), 1));
    establish(&mut session, now, router_open());
    session.handle_bfd_down(now);
    let retry = session.poll_timeout().unwrap();
    assert_eq!(retry, now + config().connect_time);
    session.handle_timeout(retry);
    assert_eq!(session.state(), State::Connect);
}

/// BFD that comes and goes ends a short session once per pause, and the pauses grow.
#[test]
fn flapping_bfd_hastens_no_attempt() {
    let (mut now, mut session) = (epoch(), Session::new(config(), 1));
    let mut pauses = Vec::new();
    establish(&mut session, now, router_open());
    for _ in 0..4 {
        now += secs(1);
        session.handle_bfd_down(now);
        outputs(&mut session);
        session.handle_bfd_up(now);
        assert_eq!(session.state(), State::Active);
        let retry = session.poll_timeout().unwrap();
        pauses.push(retry - now);
        now = retry;
        session.handle_timeout(now);
        let connection = dialed(&outputs(&mut session)).unwrap();
        session.handle_dialed(now, connection, Ok(()));
        session.handle_received(now, connection, &encoded(&Message::Open(router_open())));
        session.handle_received(now, connection, &encoded(&Message::Keepalive));
        assert_eq!(session.state(), State::Established);
    }
    assert!(
        pauses.is_sorted() && pauses[0] >= Duration::from_millis(750),
        "{pauses:?}"
    );
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

proptest! {
    /// No octets and no order of events make the machine panic, keep two connections, or send without one.
    #[test]
    fn any_events_leave_at_most_one_connection(
        events in proptest::collection::vec((0..9_u8, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..60),
    ) {
        let mut now = epoch();
        let mut session = Session::new(config(), 5);
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
