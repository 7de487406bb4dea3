//! BFD packets in the name of a router, at any time, with restarts and changed settings of this node.

use std::time::{Duration, Instant};

use lb_bfd::session::{Output, Resume, SessionConfig};
use lb_bfd::sessions::{SessionId, Sessions};
use lb_bfd::wire::{Packet, State};

use crate::bytes::Bytes;

const ID: SessionId = SessionId(1);
const DISCRIMINATOR: u32 = 1;

/// A session sends at most one packet for each input, and is up only after a packet that says that the router hears it.
/// The number of changes is bounded by the time.
pub fn target(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let begin = Instant::now();
    let (mut now, mut sessions, mut changes) = (begin, Sessions::default(), 0_u64);
    sessions.start(now, ID, config(&mut bytes), DISCRIMINATOR, Resume::default());
    let (mut is_heard, mut restarts) = (false, 0);
    while !bytes.is_empty() {
        let most = match bytes.u8() % 8 {
            0 => {
                sessions.set_config(now, ID, config(&mut bytes));
                0
            }
            1 => {
                let resume = Resume {
                    within: Duration::from_millis(bytes.u16().into()),
                    discriminators: vec![2],
                };
                sessions.start(now, ID, config(&mut bytes), DISCRIMINATOR, resume);
                is_heard = false;
                restarts += 1;
                1
            }
            2 => {
                sessions.slow_down(now, ID, Duration::from_secs(10));
                0
            }
            3 => {
                now += Duration::from_millis(bytes.u16().into());
                sessions.handle_timeout(now);
                assert!(
                    sessions.poll_timeout().is_none_or(|at| at > now),
                    "a timer is handled once"
                );
                1
            }
            _ => {
                if let Ok(packet) = Packet::decode(bytes.take(24)) {
                    assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
                    is_heard |= matches!(packet.state, State::Init | State::Up)
                        && sessions
                            .discriminators(ID)
                            .any(|own| own == packet.your_discriminator);
                    sessions.handle_packet(now, ID, &packet);
                }
                1
            }
        };
        let mut sent = 0;
        while let Some((_, output)) = sessions.poll_output() {
            match output {
                Output::Send(octets) => {
                    assert!(Packet::decode(&octets).is_ok(), "own packets are valid");
                    sent += 1;
                }
                Output::Up => changes += 1,
                Output::Down(_) | Output::RemoteAdminDown | Output::SlowedDown => {}
            }
        }
        assert!(sent <= most, "{sent} packets for one input");
        assert!(
            sessions.state(ID) != Some(State::Up) || is_heard,
            "up although not heard"
        );
    }
    // A session that flaps is held down; a restart forgets that.
    let seconds = (now - begin).as_secs();
    assert!(
        changes <= (1 + restarts) * (2 + seconds),
        "{changes} changes in {seconds} s"
    );
}

fn config(bytes: &mut Bytes<'_>) -> SessionConfig {
    let mut interval = || Duration::from_millis(u64::from(bytes.u16() % 1000) + 10);
    let (transmit_interval, receive_interval) = (interval(), interval());
    let flags = bytes.u8();
    SessionConfig {
        transmit_interval,
        receive_interval,
        echo_interval: Duration::from_millis(50),
        multiplier: (flags >> 1).max(2),
        passive: flags & 1 == 1,
    }
}
