//! The failure detector: each transition, local stalls, and lossy networks.

#![allow(clippy::unwrap_used, reason = "what a test writes down is right")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_l2::ownership::failure_detector::{
    Evidence, FailureDetector, FailureDetectorConfig, NodeId, PeerHealth,
};
use lb_l2::wire::heartbeat::SpeakerState;
use proptest::prelude::*;
use support::epoch;

const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);
/// The heartbeat period: a sixth of the failure timeout of 245 ms.
const PERIOD: Duration = Duration::from_millis(40);

fn config() -> FailureDetectorConfig {
    FailureDetectorConfig {
        grace: Duration::from_secs(10),
        ..FailureDetectorConfig::default()
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Advances the clock in the steps that the detector asks for.
fn pass(peers: &mut FailureDetector, from: Instant, time: Duration) -> Instant {
    let end = from + time;
    let mut now = from;
    loop {
        let due = peers.poll_timeout().unwrap().max(now).min(end);
        now = due;
        peers.handle_timeout(now);
        peers.take_due_heartbeats();
        peers.take_due_queries();
        if now >= end {
            return end;
        }
    }
}

fn known() -> (FailureDetector, Instant) {
    let now = epoch();
    let mut peers = FailureDetector::new(now, config());
    peers.set_monitored(now, &BTreeSet::from([N2]));
    peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
    peers.take_changed();
    (peers, now)
}

#[test]
fn unheard_peer_is_unknown_until_the_timeout() {
    let now = epoch();
    let mut peers = FailureDetector::new(now, config());
    peers.set_monitored(now, &BTreeSet::from([N2, N3]));
    assert!(
        !peers.all_heard_or_timed_out()
            && peers.health(N2) == PeerHealth::Unknown
            && peers.health(NodeId(9)) == PeerHealth::Down
    );
    peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
    let now = pass(&mut peers, now, ms(244));
    assert_eq!(peers.health(N3), PeerHealth::Unknown);
    pass(&mut peers, now, ms(1));
    assert_eq!(peers.health(N3), PeerHealth::Down);
    assert!(peers.all_heard_or_timed_out());
}

/// An interface of ours was down, so the silence of the peers means nothing.
#[test]
fn reset_timers_gives_down_peers_a_new_timeout() {
    let (mut peers, now) = known();
    peers.set_monitored(now, &BTreeSet::from([N2, N3]));
    let now = pass(&mut peers, now, ms(1000));
    assert_eq!(
        (peers.health(N2), peers.health(N3)),
        (PeerHealth::Down, PeerHealth::Down)
    );
    assert!(peers.requests_reply(N2), "it is to answer as soon as it hears us");
    peers.reset_timers(now);
    assert_eq!(peers.health(N2), PeerHealth::Unknown);
    assert_eq!(peers.health(N3), PeerHealth::Down, "it was never heard");
    assert!(peers.take_due_heartbeats().contains(&N2));
    assert!(peers.take_due_queries().is_empty(), "it may answer our heartbeat");
    let now = pass(&mut peers, now, ms(244));
    assert_eq!(peers.health(N2), PeerHealth::Unknown);
    pass(&mut peers, now, ms(1));
    assert_eq!(peers.health(N2), PeerHealth::Down);
}

#[test]
fn heartbeats_of_all_peers_synchronize_at_the_same_rate() {
    // Three detectors that start at different times.
    let start = epoch();
    let ids = [NodeId(1), N2, N3];
    let mut all: Vec<_> = [0, 17, 29]
        .iter()
        .zip(ids)
        .map(|(after, me)| {
            let mut peers = FailureDetector::new(start + ms(*after), config());
            let others = ids.into_iter().filter(|id| *id != me).collect();
            peers.set_monitored(start + ms(*after), &others);
            peers
        })
        .collect();
    let mut sent = Vec::new();
    let end = start + ms(5000);
    loop {
        let dues = all.iter().map(|peers| peers.poll_timeout().unwrap());
        let (from, now) = dues.enumerate().min_by_key(|(_, due)| *due).unwrap();
        if now >= end {
            break;
        }
        all[from].handle_timeout(now);
        all[from].take_due_queries();
        for to in all[from].take_due_heartbeats() {
            sent.push((now, to));
            let to = ids.iter().position(|id| *id == to).unwrap();
            all[to].handle_heartbeat(now, ids[from], SpeakerState::Up, PERIOD);
        }
    }
    let late: Vec<_> = sent.iter().filter(|(at, _)| *at >= start + ms(1000)).collect();
    let times: BTreeSet<_> = late.iter().map(|(at, _)| *at).collect();
    assert_eq!((times.len(), late.len()), (100, 100 * 6), "in four seconds");
}

#[test]
fn peer_is_down_exactly_at_the_failure_timeout() {
    let (mut peers, now) = known();
    let now = pass(&mut peers, now, ms(170));
    assert!(!peers.is_suspected(N2));
    let now = pass(&mut peers, now, ms(74));
    assert_eq!(peers.health(N2), PeerHealth::Up);
    assert!(peers.is_suspected(N2), "its addresses are probed by now");
    assert_eq!(peers.take_changed().len(), 1);
    let now = pass(&mut peers, now, ms(1));
    assert_eq!(peers.health(N2), PeerHealth::Down);
    assert!(!peers.is_suspected(N2));
    assert_eq!(peers.take_changed().len(), 1);
    peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
    assert_eq!(peers.health(N2), PeerHealth::Up);
}

/// Milliseconds of silence until a peer that has just been heard is no longer up.
fn found_out_after(peers: &mut FailureDetector, from: Instant) -> u128 {
    let mut now = from;
    while peers.health(N2) == PeerHealth::Up {
        now = peers.poll_timeout().unwrap().max(now);
        peers.handle_timeout(now);
        peers.take_due_heartbeats();
        peers.take_due_queries();
    }
    (now - from).as_millis()
}

#[test]
fn lateness_extends_the_timeout_for_one_to_two_minutes() {
    let (mut peers, now) = known();
    let mut now = pass(&mut peers, now, PERIOD + ms(100));
    peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
    assert_eq!(found_out_after(&mut peers.clone(), now), 245 + 100);
    for seconds in 1..=124 {
        for _ in 0..25 {
            now = pass(&mut peers, now, PERIOD);
            peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
        }
        let after = found_out_after(&mut peers.clone(), now);
        assert!(
            after == 245 || (seconds < 123 && after == 345),
            "after {seconds} s: {after}"
        );
        assert!(after == 345 || seconds >= 60, "after {seconds} s: {after}");
    }
}

#[test]
fn false_failure_extends_the_timeout_by_half_at_most() {
    for (late, more) in [(206, 122), (244, 122), (246, 0), (60_000, 0)] {
        let (mut peers, now) = known();
        let now = pass(&mut peers, now, PERIOD + ms(late));
        assert_eq!(peers.health(N2), PeerHealth::Down);
        peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
        assert_eq!(found_out_after(&mut peers, now), 245 + more, "{late} ms");
    }
}

#[test]
fn restarting_peer_is_down_at_the_end_of_its_grace() {
    let (mut peers, now) = known();
    let grace = Duration::from_secs(10);
    peers.handle_heartbeat(now, N2, SpeakerState::Restarting { grace }, PERIOD);
    let now = pass(&mut peers, now, Duration::from_secs(9));
    peers.handle_heartbeat(now, N2, SpeakerState::Restarting { grace }, PERIOD);
    assert!(matches!(peers.health(N2), PeerHealth::Restarting { .. }));
    let now = pass(&mut peers, now, Duration::from_secs(1));
    assert_eq!(peers.health(N2), PeerHealth::Down, "asking again extends nothing");
    peers.handle_heartbeat(now, N2, SpeakerState::Restarting { grace: Duration::MAX }, PERIOD);
    let longest = config().max_grace;
    assert_eq!(peers.health(N2), PeerHealth::Restarting { until: now + longest });
    peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
    assert_eq!(peers.health(N2), PeerHealth::Up, "it is back");
}

#[test]
fn draining_peer_stays_alive_until_the_timeout() {
    let (mut peers, now) = known();
    peers.handle_heartbeat(now, N2, SpeakerState::Draining, PERIOD);
    let now = pass(&mut peers, now, ms(195));
    assert_eq!(peers.health(N2), PeerHealth::Draining);
    pass(&mut peers, now, ms(50));
    assert_eq!(peers.health(N2), PeerHealth::Down);
}

#[test]
fn local_stall_fails_no_peer() {
    let (mut peers, now) = known();
    // We stalled for two seconds; the heartbeats sent since then are still to be read.
    let now = now + Duration::from_secs(2);
    peers.handle_timeout(now);
    assert_eq!(peers.health(N2), PeerHealth::Up);
    peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
    // A failed peer is detected after a stall, too.
    let now = now + Duration::from_secs(2);
    peers.handle_timeout(now);
    pass(&mut peers, now, ms(245));
    assert_eq!(peers.health(N2), PeerHealth::Down);
}

/// Advances the clock, and answers each probe of the peer with this evidence.
fn pass_on_the_wire(
    peers: &mut FailureDetector,
    from: Instant,
    time: Duration,
    shows: &[Evidence],
) -> Instant {
    let end = from + time;
    let mut now = from;
    while now < end {
        now = peers.poll_timeout().unwrap().max(now).min(end);
        peers.handle_timeout(now);
        peers.take_due_heartbeats();
        for asked in peers.take_due_queries() {
            for evidence in shows {
                peers.handle_probe_reply(now, asked, *evidence);
            }
        }
    }
    end
}

#[test]
fn probe_replies_decide_the_state_of_a_silent_peer() {
    // Its heartbeats are lost, but it replies for its addresses.
    let (mut peers, now) = known();
    let both = [Evidence::Node, Evidence::Speaker];
    let now = pass_on_the_wire(&mut peers, now, ms(5000), &both);
    assert_eq!(peers.health(N2), PeerHealth::HeartbeatLost);
    // Then it fails.
    pass_on_the_wire(&mut peers, now, ms(1000 + 245), &[]);
    assert_eq!(peers.health(N2), PeerHealth::Down);

    // Its speaker crashed: only its node replies. It keeps its addresses for the grace period.
    let (mut peers, now) = known();
    let now = pass_on_the_wire(&mut peers, now, ms(300), &[Evidence::Node]);
    assert_eq!(peers.health(N2), PeerHealth::NodeOnly { keeps: true });
    let later = pass_on_the_wire(&mut peers, now, ms(9900), &[Evidence::Node]);
    assert_eq!(peers.health(N2), PeerHealth::NodeOnly { keeps: true });
    let later = pass_on_the_wire(&mut peers, later, ms(100), &[Evidence::Node]);
    assert_eq!(
        peers.health(N2),
        PeerHealth::NodeOnly { keeps: false },
        "its grace is over"
    );
    // Its heartbeats are lost, and its speaker is back.
    pass_on_the_wire(&mut peers, later, ms(300), &both);
    assert_eq!(peers.health(N2), PeerHealth::HeartbeatLost);
    // Its node fails as well.
    let (mut peers, now) = known();
    let now = pass_on_the_wire(&mut peers, now, ms(3000), &[Evidence::Node]);
    pass_on_the_wire(&mut peers, now, ms(250 + 245), &[]);
    assert_eq!(peers.health(N2), PeerHealth::Down);
}

/// The end of the grace period of a speaker that announced its restart.
#[test]
fn owner_that_replies_at_the_end_of_its_grace_is_not_down() {
    let grace = Duration::from_secs(10);
    for (shows, health) in [
        (
            &[Evidence::Node, Evidence::Speaker][..],
            PeerHealth::HeartbeatLost,
        ),
        (&[Evidence::Node], PeerHealth::NodeOnly { keeps: false }),
    ] {
        let (mut peers, now) = known();
        peers.handle_heartbeat(now, N2, SpeakerState::Restarting { grace }, PERIOD);
        let now = pass_on_the_wire(&mut peers, now, ms(9_900), shows);
        assert!(matches!(peers.health(N2), PeerHealth::Restarting { .. }));
        pass_on_the_wire(&mut peers, now, ms(200), shows);
        assert_eq!(peers.health(N2), health);
    }
}

#[test]
fn most_peers_silent_at_once_get_more_time() {
    const N4: NodeId = NodeId(4);
    for (silent, after) in [(&[N2][..], 245), (&[N2, N3], 490), (&[N2, N3, N4], 490)] {
        let start = epoch();
        let mut peers = FailureDetector::new(start, config());
        peers.set_monitored(start, &BTreeSet::from([N2, N3, N4]));
        let mut now = start;
        for id in [N2, N3, N4] {
            peers.handle_heartbeat(now, id, SpeakerState::Up, PERIOD);
        }
        while peers.health(N2) == PeerHealth::Up {
            now += ms(1);
            for id in [N2, N3, N4].into_iter().filter(|id| !silent.contains(id)) {
                peers.handle_heartbeat(now, id, SpeakerState::Up, PERIOD);
            }
            peers.handle_timeout(now);
            peers.take_due_heartbeats();
            peers.take_due_queries();
        }
        assert_eq!((now - start).as_millis(), after, "{silent:?}");
    }
}

#[test]
fn many_peers_lengthen_the_announced_period() {
    let now = epoch();
    let mut peers = FailureDetector::new(now, config());
    let many: BTreeSet<_> = (1..=100).map(NodeId).collect();
    peers.set_monitored(now, &many);
    let rate = config().max_rate;
    assert_eq!(peers.period(), Duration::from_secs(100) / rate);
    peers.handle_heartbeat(now, N2, SpeakerState::Up, ms(300));
    let now = pass(&mut peers, now, ms(500));
    assert_eq!(peers.health(N2), PeerHealth::Up, "it sends every 300 ms");
    pass(&mut peers, now, ms(10));
    assert_eq!(peers.health(N2), PeerHealth::Down);
}

#[test]
fn stall_is_followed_by_a_single_heartbeat() {
    let (mut peers, now) = known();
    let mut sent = 0;
    let mut count = |peers: &mut FailureDetector, now| {
        peers.handle_timeout(now);
        sent += peers.take_due_heartbeats().len();
        sent
    };
    assert_eq!(count(&mut peers, now), 1);
    assert_eq!(count(&mut peers, now + PERIOD / 2), 1);
    assert_eq!(count(&mut peers, now + PERIOD), 2);
    assert_eq!(count(&mut peers, now + PERIOD * 41), 3);
    let (mut nobodys, now) = (FailureDetector::new(now, config()), now);
    nobodys.handle_timeout(now);
    assert_eq!(nobodys.poll_timeout(), None);
}

/// Advances the clock; a live peer answers a requested heartbeat after `after`. `lost` gives for each request whether
/// it or its reply is lost; `answer` is when the next reply arrives.
fn pass_asking(
    peers: &mut FailureDetector,
    from: Instant,
    time: Duration,
    answer: &mut Option<Instant>,
    (lost, after): (&mut dyn Iterator<Item = bool>, Duration),
) -> Instant {
    let end = from + time;
    let mut now = from;
    while now < end {
        let due = peers.poll_timeout().unwrap();
        now = answer.map_or(due, |at| at.min(due)).max(now).min(end);
        if answer.is_some_and(|at| at <= now) {
            *answer = None;
            peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
        }
        peers.handle_timeout(now);
        peers.take_due_queries();
        if !peers.take_due_heartbeats().is_empty() && peers.requests_reply(N2) && !lost.next().unwrap() {
            answer.get_or_insert(now + after);
        }
    }
    end
}

#[test]
fn late_heartbeat_is_requested_four_times_before_failure() {
    let (mut peers, mut now) = known();
    let start = now;
    let mut asked = Vec::new();
    while peers.health(N2) == PeerHealth::Up {
        now = peers.poll_timeout().unwrap();
        peers.handle_timeout(now);
        peers.take_due_queries();
        if !peers.take_due_heartbeats().is_empty() && peers.requests_reply(N2) {
            asked.push((now - start).as_millis());
        }
    }
    asked.retain(|at| *at < 245);
    assert_eq!((asked, now - start), (vec![81, 122, 163, 204], ms(245)));
}

#[test]
fn requests_are_limited_when_all_peers_are_late() {
    let now = epoch();
    let mut peers = FailureDetector::new(now, config());
    let many: BTreeSet<_> = (1..=40).map(NodeId).collect();
    peers.set_monitored(now, &many);
    peers.take_due_heartbeats();
    for id in &many {
        peers.handle_heartbeat(now, *id, SpeakerState::Up, PERIOD);
    }
    let (mut due, mut sent) = (now, 0);
    while due < now + ms(244) {
        due = peers.poll_timeout().unwrap();
        peers.handle_timeout(due);
        peers.take_due_queries();
        sent += peers.take_due_heartbeats().len();
    }
    assert!((40 * 3..=40 * 3 + 16 * 4).contains(&sent), "{sent}");
}

proptest! {
    /// Heartbeats arrive up to 40 ms late, replies after up to 40 ms, and some are lost. The peer stays up as long as a
    /// heartbeat or a requested one arrives.
    #[test]
    fn peer_stays_up_while_a_request_is_answered(
        lost in prop::collection::vec(any::<bool>(), 1..100),
        delays in prop::collection::vec(0..40u64, 100),
        after in 0..40u64,
        question in 0..3usize,
    ) {
        let (mut peers, start) = known();
        let mut now = start;
        // One of three requests is answered.
        let mut answer = None;
        let mut questions = (0..).map(|each| each % 3 != question);
        for (number, lost) in lost.iter().enumerate() {
            let arrives = start + PERIOD * (number as u32 + 1) + ms(delays[number]);
            now = pass_asking(&mut peers, now, arrives - now, &mut answer, (&mut questions, ms(after)));
            prop_assert_eq!(peers.health(N2), PeerHealth::Up);
            if !lost {
                peers.handle_heartbeat(now, N2, SpeakerState::Up, PERIOD);
            }
        }
        // No reply was later than the last of these.
        pass(&mut peers, now, ms(245 + 123));
        prop_assert_eq!(peers.health(N2), PeerHealth::Down, "found out within three intervals and what it was late by");
    }
}

#[test]
fn first_heartbeats_to_many_peers_are_spread() {
    let start = epoch();
    let mut peers = FailureDetector::new(start, config());
    peers.set_monitored(start, &(1..=1_000).map(NodeId).collect());
    let mut contacted = BTreeSet::new();
    for window in 0..16 {
        let now = start + ms(10) * window;
        peers.handle_timeout(now);
        let sent = peers.take_due_heartbeats();
        assert!(sent.len() <= 64, "{}", sent.len());
        contacted.extend(sent);
        assert!(peers.poll_timeout().unwrap() <= now + ms(10));
    }
    assert_eq!(contacted.len(), 1_000);
    assert!(!peers.all_heard_or_timed_out(), "the last ones still have time");
}
