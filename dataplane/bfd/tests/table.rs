//! The table of RFC 5880 section 6.8.6, resumption from every state of a router, absurd routers, and a late process.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use lb_bfd::session::{Output, Resume, Session, SessionConfig};
use lb_bfd::sessions::{SessionId, Sessions};
use lb_bfd::wire::{Diagnostic, Packet, State};

const ALL: [State; 4] = [State::AdminDown, State::Down, State::Init, State::Up];
const OURS: u32 = 7;
const EARLIER: u32 = 8;
const THEIRS: u32 = 9;

const CONFIG: SessionConfig = SessionConfig {
    transmit_interval: ms(50),
    receive_interval: ms(50),
    echo_interval: ms(50),
    multiplier: 3,
    passive: false,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[allow(clippy::disallowed_methods, reason = "where time begins")]
fn epoch() -> Instant {
    Instant::now()
}

fn packet(state: State, your_discriminator: u32) -> Packet {
    Packet {
        diagnostic: Diagnostic::None,
        state,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: THEIRS,
        your_discriminator,
        desired_min_tx: 50_000,
        required_min_rx: 50_000,
        required_min_echo_rx: 0,
    }
}

fn outputs(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

fn sent(outputs: &[Output]) -> Vec<Packet> {
    let packets = outputs.iter().filter_map(|output| match output {
        Output::Send(octets) => Some(Packet::decode(octets).unwrap()),
        _ => None,
    });
    packets.collect()
}

fn news(outputs: &[Output]) -> Vec<Output> {
    let news = outputs.iter().filter(|output| !matches!(output, Output::Send(_)));
    news.copied().collect()
}

/// A session in this state, which has been up for a minute if it is up.
fn session_in(state: State) -> (Session, Instant) {
    let mut now = epoch();
    let mut session = Session::new(now, CONFIG, OURS, Resume::default());
    match state {
        State::Down => {}
        State::Init => session.handle_packet(now, &packet(State::Down, 0)),
        State::Up => {
            session.handle_packet(now, &packet(State::Init, OURS));
            // 20 packets a second for a minute.
            for _ in 0..1200 {
                now += ms(50);
                session.handle_packet(now, &packet(State::Up, OURS));
            }
        }
        State::AdminDown => session.switch_off(now),
    }
    outputs(&mut session);
    assert_eq!(session.state(), state);
    (session, now)
}

#[test]
fn every_state_handles_every_packet() {
    use State::{AdminDown, Down, Init, Up};
    let timeout = Output::Down(Diagnostic::DetectionTimeExpired);
    let table: [(State, [State; 4], State); 4] = [
        // After AdminDown, Down, Init, Up, and after silence.
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown], AdminDown),
        (Down, [Down, Init, Up, Down], Down),
        (Init, [Down, Init, Up, Up], Down),
        (Up, [Down, Down, Up, Up], Down),
    ];
    for (before, after, after_silence) in table {
        for (received, after) in ALL.into_iter().zip(after) {
            let (mut session, now) = session_in(before);
            session.handle_packet(now, &packet(received, OURS));
            assert_eq!(session.state(), after, "{before:?} receives {received:?}");
            let news = news(&outputs(&mut session));
            let expected = match (before, received) {
                (Down, Init) | (Init, Init | Up) => vec![Output::Up],
                (Up, Down) => vec![Output::Down(Diagnostic::NeighborDown)],
                (Up, AdminDown) => vec![Output::RemoteAdminDown],
                _ => vec![],
            };
            assert_eq!(news, expected, "{before:?} receives {received:?}");
        }
        let (mut session, now) = session_in(before);
        session.handle_timeout(now + ms(100_000));
        assert_eq!(session.state(), after_silence, "{before:?} receives nothing");
        let expected = if before == Up { vec![timeout] } else { vec![] };
        assert_eq!(news(&outputs(&mut session)), expected);
    }
}

/// Only a router that shows the session as up, with our discriminator, resumes it.
#[test]
fn session_is_resumed_from_no_other_state_than_up() {
    for state in ALL {
        for discriminator in [0, OURS, EARLIER, 1234] {
            if discriminator == 0 && matches!(state, State::Init | State::Up) {
                continue; // Such a packet is malformed.
            }
            let now = epoch();
            let resume = Resume {
                within: ms(10_000),
                discriminators: vec![EARLIER],
            };
            let mut session = Session::new(now, CONFIG, OURS, resume);
            session.handle_packet(now + ms(1), &packet(state, discriminator));
            session.handle_timeout(now + ms(1));
            let is_known = [OURS, EARLIER].contains(&discriminator);
            let expected = match state {
                // The router has heard this node before, so both directions work.
                State::Init | State::Up if is_known => State::Up,
                State::Down if discriminator != 1234 => State::Init,
                _ => State::Down,
            };
            let case = format!("{state:?} for {discriminator}");
            assert_eq!(session.state(), expected, "{case}");
            let outputs = outputs(&mut session);
            for packet in sent(&outputs) {
                assert_ne!(packet.state, State::AdminDown, "{case}");
                let own = if is_known { discriminator } else { OURS };
                assert_eq!(packet.my_discriminator, own, "{case}");
            }
            // An unknown session says nothing until the window closes: the router might take it for a failure.
            assert!(discriminator != 1234 || sent(&outputs).is_empty(), "{case}");
        }
    }
}

/// The router goes on with the interval of the earlier process until it has confirmed the new one.
#[test]
fn resumed_session_waits_at_the_earlier_interval() {
    let now = epoch();
    let resume = Resume {
        within: ms(10_000),
        ..Resume::default()
    };
    let mut session = Session::new(now, CONFIG, OURS, resume);
    session.handle_packet(now, &packet(State::Up, OURS));
    session.handle_timeout(now + ms(3000));
    assert_eq!(session.state(), State::Up);
    let confirmed = Packet {
        is_final: true,
        ..packet(State::Up, OURS)
    };
    session.handle_packet(now + ms(3000), &confirmed);
    session.handle_timeout(now + ms(3151));
    assert_eq!(session.state(), State::Down);
}

/// Intervals and multipliers of a router that make no sense change neither our rate nor the time that we wait.
#[test]
fn absurd_intervals_cost_nothing() {
    for (multiplier, tx, rx) in [
        (1, 0, 0),
        (1, 1, 1),
        (255, u32::MAX, u32::MAX),
        (1, 0, 1),
        (3, u32::MAX, 0),
        (255, 0, u32::MAX),
    ] {
        let (mut session, start) = session_in(State::Up);
        let absurd = |poll: bool, is_final: bool| Packet {
            multiplier,
            desired_min_tx: tx,
            required_min_rx: rx,
            poll,
            is_final,
            ..packet(State::Up, OURS)
        };
        let (mut now, mut packets) = (start, 0);
        session.handle_packet(now, &absurd(true, true));
        for _ in 0..1000 {
            session.handle_packet(now, &absurd(false, false));
            now += ms(10);
            session.handle_timeout(now);
            packets += sent(&outputs(&mut session)).len();
        }
        // 10 s at 50 ms less a quarter, and the answer to the poll.
        assert!(packets <= 268, "{packets} packets with {multiplier}, {tx}, {rx}");
        assert_eq!(session.state(), State::Up, "{multiplier}, {tx}, {rx}");
        // A router is not declared dead before a second packet is missing at our own receive interval.
        session.handle_timeout(now + ms(89));
        assert_eq!(session.state(), State::Up, "{multiplier}, {tx}, {rx}");
    }
}

/// A router that changes its state with every packet: at most one failure per second, and fewer with time.
#[test]
fn flapping_router_causes_few_changes() {
    let (mut session, start) = session_in(State::Up);
    let (mut now, mut downs, mut ups) = (start, 0, 0);
    while now < start + Duration::from_secs(120) {
        for state in [State::Down, State::Init, State::AdminDown, State::Init] {
            now += ms(1);
            session.handle_packet(now, &packet(state, OURS));
            session.handle_timeout(now);
            for output in outputs(&mut session) {
                match output {
                    Output::Up => ups += 1,
                    Output::Down(_) | Output::RemoteAdminDown => downs += 1,
                    Output::Send(_) | Output::SlowedDown => {}
                }
            }
        }
    }
    // Immediately, then after 1, 2, 4, 8, 16, 30, 30, 30 s.
    assert!((5..=10).contains(&downs), "{downs} failures");
    assert!(ups <= downs + 1, "{ups} ups");
    // The router has recovered: after the hold-down the session comes up, and stays.
    for _ in 0..2000 {
        now += ms(50);
        let state = if session.state() == State::Up {
            State::Up
        } else {
            State::Init
        };
        session.handle_packet(now, &packet(state, OURS));
        session.handle_timeout(now);
    }
    assert_eq!(session.state(), State::Up);
}

fn two_sessions() -> (Sessions, Instant, [SessionId; 2]) {
    let (now, ids) = (epoch(), [SessionId(1), SessionId(2)]);
    let mut sessions = Sessions::default();
    for id in ids {
        sessions.start(now, id, CONFIG, OURS, Resume::default());
        sessions.handle_packet(now, id, &packet(State::Init, OURS));
        let confirmed = Packet {
            is_final: true,
            ..packet(State::Up, OURS)
        };
        sessions.handle_packet(now, id, &confirmed);
    }
    (sessions, now, ids)
}

fn failed(sessions: &mut Sessions) -> Vec<SessionId> {
    let outputs = std::iter::from_fn(|| sessions.poll_output());
    let failed = outputs.filter(|(_, output)| matches!(output, Output::Down(_)));
    failed.map(|(id, _)| id).collect()
}

/// The machine stood still for 300 ms: packets that arrived meanwhile may be lost, and a router gets that time again, once.
#[test]
fn late_process_does_not_declare_routers_dead() {
    let (mut sessions, start, [one, other]) = two_sessions();
    assert!(!sessions.handle_timeout(start));
    let mut now = start + ms(300);
    // The packet of one router was in the socket, that of the other is lost.
    sessions.handle_packet(now, one, &packet(State::Up, OURS));
    assert!(sessions.is_any_silent(now));
    assert!(sessions.handle_timeout(now));
    assert_eq!(failed(&mut sessions), []);
    now += ms(100);
    for id in [one, other] {
        sessions.handle_packet(now, id, &packet(State::Up, OURS));
    }
    sessions.handle_timeout(now);
    assert_eq!(failed(&mut sessions), []);
    // A process that is always late gives no second chance without a packet.
    for _ in 0..20 {
        now += ms(100);
        sessions.handle_packet(now, one, &packet(State::Up, OURS));
        sessions.handle_timeout(now);
    }
    assert_eq!(failed(&mut sessions), [other]);
}

#[test]
fn sessions_share_one_queue() {
    let (mut sessions, start, [one, other]) = two_sessions();
    let mut packets = [0, 0];
    let mut now = start;
    while now < start + Duration::from_secs(10) {
        now = sessions.poll_timeout().unwrap().max(now);
        for id in [one, other] {
            sessions.handle_packet(now, id, &packet(State::Up, OURS));
        }
        assert!(!sessions.handle_timeout(now));
        while let Some((id, output)) = sessions.poll_output() {
            let Output::Send(_) = output else { continue };
            packets[usize::from(id == other)] += 1;
        }
    }
    for count in packets {
        assert!((200..=270).contains(&count), "{packets:?}");
    }
    sessions.switch_off(now, one);
    let last = sessions.poll_output();
    let Some((id, Output::Send(octets))) = last else {
        panic!("{last:?}");
    };
    assert_eq!(
        (id, Packet::decode(&octets).unwrap().state),
        (one, State::AdminDown)
    );
    assert_eq!(
        (sessions.state(one), sessions.state(other)),
        (None, Some(State::Up))
    );
    sessions.remove(other);
    assert_eq!(sessions.poll_timeout(), None);
}
