//! Who lives: each arrow of the table, our own stalls, and a lossy network.

#![allow(clippy::unwrap_used, reason = "what a test writes down is right")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_proto::heartbeat::State;
use lb_proto::liveness::{Config, Evidence, Liveness, NodeId, View};
use proptest::prelude::*;
use support::epoch;

const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);
const INTERVAL: Duration = Duration::from_millis(50);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Lets time pass as the program does: in steps as long as the machine asks for.
fn pass(peers: &mut Liveness, from: Instant, time: Duration) -> Instant {
    let end = from + time;
    let mut now = from;
    loop {
        let due = peers.poll_timeout().unwrap().max(now).min(end);
        now = due;
        peers.handle_timeout(now);
        peers.take_sends();
        peers.take_asks();
        if now >= end {
            return end;
        }
    }
}

fn known() -> (Liveness, Instant) {
    let now = epoch();
    let mut peers = Liveness::new(now, Config::default());
    peers.set_wanted(now, &BTreeSet::from([N2]));
    peers.heard(now, N2, State::Up, INTERVAL);
    peers.take_changed();
    (peers, now)
}

#[test]
fn who_was_never_heard_is_unknown_for_as_long_as_the_others_may_be_silent() {
    let now = epoch();
    let mut peers = Liveness::new(now, Config::default());
    peers.set_wanted(now, &BTreeSet::from([N2, N3]));
    assert!(!peers.is_complete() && peers.view(N2) == View::Unknown && peers.view(NodeId(9)) == View::Down);
    peers.heard(now, N2, State::Up, INTERVAL);
    let now = pass(&mut peers, now, ms(149));
    assert_eq!(peers.view(N3), View::Unknown);
    pass(&mut peers, now, ms(1));
    assert_eq!(peers.view(N3), View::Down);
    assert!(peers.is_complete());
}

#[test]
fn all_come_to_speak_at_the_same_time_and_no_more_often() {
    // Three that have started at different times.
    let start = epoch();
    let ids = [NodeId(1), N2, N3];
    let mut all: Vec<_> = [0, 17, 29]
        .iter()
        .zip(ids)
        .map(|(after, me)| {
            let mut peers = Liveness::new(start + ms(*after), Config::default());
            let others = ids.into_iter().filter(|id| *id != me).collect();
            peers.set_wanted(start + ms(*after), &others);
            peers
        })
        .collect();
    let mut sent = Vec::new();
    let end = start + ms(3000);
    loop {
        let dues = all.iter().map(|peers| peers.poll_timeout().unwrap());
        let (from, now) = dues.enumerate().min_by_key(|(_, due)| *due).unwrap();
        if now >= end {
            break;
        }
        all[from].handle_timeout(now);
        all[from].take_asks();
        for to in all[from].take_sends() {
            sent.push((now, to));
            let to = ids.iter().position(|id| *id == to).unwrap();
            all[to].heard(now, ids[from], State::Up, INTERVAL);
        }
    }
    let late: Vec<_> = sent.iter().filter(|(at, _)| *at >= start + ms(1000)).collect();
    let times: BTreeSet<_> = late.iter().map(|(at, _)| *at).collect();
    assert_eq!((times.len(), late.len()), (40, 40 * 6), "in two seconds");
}

#[test]
fn silence_for_three_intervals_is_death_and_two_are_not() {
    let (mut peers, now) = known();
    let now = pass(&mut peers, now, ms(149));
    assert_eq!(peers.view(N2), View::Up);
    let now = pass(&mut peers, now, ms(1));
    assert_eq!(peers.view(N2), View::Down);
    assert_eq!(peers.take_changed().len(), 1);
    peers.heard(now, N2, State::Up, INTERVAL);
    assert_eq!(peers.view(N2), View::Up);
}

#[test]
fn who_restarts_is_waited_for_until_its_grace_is_over_and_no_longer() {
    let (mut peers, now) = known();
    let grace = Duration::from_secs(10);
    peers.heard(now, N2, State::Leaving { grace }, INTERVAL);
    let now = pass(&mut peers, now, Duration::from_secs(9));
    peers.heard(now, N2, State::Leaving { grace }, INTERVAL);
    assert!(matches!(peers.view(N2), View::Held { .. }));
    let now = pass(&mut peers, now, Duration::from_secs(1));
    assert_eq!(peers.view(N2), View::Down, "asking again extends nothing");
    peers.heard(now, N2, State::Leaving { grace: Duration::MAX }, INTERVAL);
    let longest = Config::default().longest_grace;
    assert_eq!(peers.view(N2), View::Held { until: now + longest });
    peers.heard(now, N2, State::Up, INTERVAL);
    assert_eq!(peers.view(N2), View::Up, "it is back");
}

#[test]
fn who_drains_lives_until_it_is_silent() {
    let (mut peers, now) = known();
    peers.heard(now, N2, State::Draining, INTERVAL);
    let now = pass(&mut peers, now, ms(100));
    assert_eq!(peers.view(N2), View::Draining);
    pass(&mut peers, now, ms(50));
    assert_eq!(peers.view(N2), View::Down);
}

#[test]
fn a_stall_of_ours_kills_nobody() {
    let (mut peers, now) = known();
    // We were not on a processor for two seconds; what they sent meanwhile is still to be read.
    let now = now + Duration::from_secs(2);
    peers.handle_timeout(now);
    assert_eq!(peers.view(N2), View::Up);
    peers.heard(now, N2, State::Up, INTERVAL);
    // Those that are dead are found out all the same.
    let now = now + Duration::from_secs(2);
    peers.handle_timeout(now);
    pass(&mut peers, now, ms(150));
    assert_eq!(peers.view(N2), View::Down);
}

/// Lets time pass, and tells what the wire shows about the peer each time that it is asked.
fn pass_on_the_wire(peers: &mut Liveness, from: Instant, time: Duration, shows: &[Evidence]) -> Instant {
    let end = from + time;
    let mut now = from;
    while now < end {
        now = peers.poll_timeout().unwrap().max(now).min(end);
        peers.handle_timeout(now);
        peers.take_sends();
        for asked in peers.take_asks() {
            for evidence in shows {
                peers.answered(now, asked, *evidence);
            }
        }
    }
    end
}

#[test]
fn what_the_wire_shows_of_a_silent_peer_decides_what_it_is() {
    // Its heartbeats are lost: it answers for its addresses.
    let (mut peers, now) = known();
    let both = [Evidence::Node, Evidence::Speaker];
    let now = pass_on_the_wire(&mut peers, now, ms(5000), &both);
    assert_eq!(peers.view(N2), View::Up);
    // Then it dies.
    pass_on_the_wire(&mut peers, now, ms(210), &[]);
    assert_eq!(peers.view(N2), View::Down);

    // Its speaker has crashed: only its node answers. It is waited for.
    let (mut peers, now) = known();
    let now = pass_on_the_wire(&mut peers, now, ms(200), &[Evidence::Node]);
    assert!(matches!(peers.view(N2), View::Held { .. }));
    let later = pass_on_the_wire(&mut peers, now, ms(9900), &[Evidence::Node]);
    assert!(matches!(peers.view(N2), View::Held { .. }));
    pass_on_the_wire(&mut peers, later, ms(100), &[Evidence::Node]);
    assert_eq!(peers.view(N2), View::Down, "its grace is over");
    // Or its node dies too.
    let (mut peers, now) = known();
    let now = pass_on_the_wire(&mut peers, now, ms(3000), &[Evidence::Node]);
    pass_on_the_wire(&mut peers, now, ms(210), &[]);
    assert_eq!(peers.view(N2), View::Down);
}

#[test]
fn with_many_peers_each_is_spoken_to_less_often_and_knows_it() {
    let now = epoch();
    let mut peers = Liveness::new(now, Config::default());
    let many: BTreeSet<_> = (1..=100).map(NodeId).collect();
    peers.set_wanted(now, &many);
    let rate = Config::default().rate;
    assert_eq!(peers.interval(), Duration::from_secs(100) / rate);
    peers.heard(now, N2, State::Up, ms(200));
    let now = pass(&mut peers, now, ms(550));
    assert_eq!(peers.view(N2), View::Up, "it sends every 200 ms");
    pass(&mut peers, now, ms(60));
    assert_eq!(peers.view(N2), View::Down);
}

#[test]
fn each_peer_gets_a_heartbeat_each_interval_and_after_a_stall_one_not_forty() {
    let (mut peers, now) = known();
    let mut sent = 0;
    let mut count = |peers: &mut Liveness, now| {
        peers.handle_timeout(now);
        sent += peers.take_sends().len();
        sent
    };
    assert_eq!(count(&mut peers, now), 1);
    assert_eq!(count(&mut peers, now + INTERVAL / 2), 1);
    assert_eq!(count(&mut peers, now + INTERVAL), 2);
    assert_eq!(count(&mut peers, now + INTERVAL * 41), 3);
    let (mut nobodys, now) = (Liveness::new(now, Config::default()), now);
    nobodys.handle_timeout(now);
    assert_eq!(nobodys.poll_timeout(), None);
}

proptest! {
    /// Heartbeats come each interval, with a delay of up to 20 ms, and some are lost.
    #[test]
    fn lost_heartbeats_kill_nobody_as_long_as_one_of_three_arrives(lost in prop::collection::vec(any::<bool>(), 1..200), delays in prop::collection::vec(0..20u64, 200)) {
        let (mut peers, start) = known();
        let mut now = start;
        let mut in_a_row = 0;
        let mut longest = 0;
        for (number, lost) in lost.iter().enumerate() {
            if *lost {
                in_a_row += 1;
                longest = longest.max(in_a_row);
                continue;
            }
            in_a_row = 0;
            let arrives = start + INTERVAL * (number as u32 + 1) + ms(delays[number]);
            now = pass(&mut peers, now, arrives - now);
            // Two lost in a row leave 150 ms and the delay between two that arrive.
            prop_assert!(longest >= 2 || peers.view(N2) == View::Up);
            peers.heard(now, N2, State::Up, INTERVAL);
        }
        let end = pass(&mut peers, now, ms(150));
        prop_assert_eq!(peers.view(N2), View::Down, "found out within three intervals");
        prop_assert!(end - now <= ms(150));
    }
}
