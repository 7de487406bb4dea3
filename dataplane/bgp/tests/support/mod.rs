//! Settings, a router's OPEN, and the outputs of a session.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use lb_bgp::session::{ConnectionId, NextHops, Output, RemoteAsn, Session, SessionConfig, State};
use lb_bgp::wire::{Capabilities, Family, Message, NextHop, Open};

pub(crate) const LOCAL_ASN: u32 = 65000;
pub(crate) const ROUTER_ASN: u32 = 65001;

#[allow(clippy::disallowed_methods, reason = "where time begins")]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn config() -> SessionConfig {
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

pub(crate) fn router_open() -> Open {
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

pub(crate) fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

pub(crate) fn outputs(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

/// The connection of the last attempt.
pub(crate) fn dialed(outputs: &[Output]) -> Option<ConnectionId> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Dial(connection) => Some(*connection),
        _ => None,
    })
}

/// The code of the NOTIFICATION that was sent.
pub(crate) fn notified(outputs: &[Output]) -> Option<[u8; 2]> {
    outputs.iter().find_map(|output| match output {
        Output::Send(_, octets) if octets[18] == 3 => Some([octets[19], octets[20]]),
        _ => None,
    })
}

/// Opens a session; returns its connection.
pub(crate) fn establish(session: &mut Session, now: Instant, open: Open) -> ConnectionId {
    session.start(now);
    let connection = dialed(&outputs(session)).unwrap();
    session.handle_dialed(now, connection, Ok(()));
    session.handle_received(now, connection, &encoded(&Message::Open(open)));
    session.handle_received(now, connection, &encoded(&Message::Keepalive));
    assert_eq!(session.state(), State::Established, "{}", session.down_reason());
    connection
}

pub(crate) fn next_hops() -> NextHops {
    NextHops {
        ipv4: Some(NextHop::Ipv4(Ipv4Addr::new(192, 168, 50, 11))),
        ipv6: Some(NextHop::Ipv6("fc00:50::11".parse().unwrap(), None)),
    }
}
