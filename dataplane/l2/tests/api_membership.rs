//! The API server's view of speakers: the transition table, and the bound on grace periods.

mod support;

use std::time::{Duration, Instant};

use lb_l2::ownership::api_membership::{ApiMembership, ApiState};
use proptest::prelude::*;
use support::epoch;

const GRACE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

fn membership() -> ApiMembership {
    ApiMembership::new("me", GRACE)
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Ready,
    UnreadyOnReadyNode,
    UnreadyOnFailedNode,
    Gone,
    NodeGone,
    Hold,
}

const EVENTS: [Event; 6] = [
    Event::Ready,
    Event::UnreadyOnReadyNode,
    Event::UnreadyOnFailedNode,
    Event::Gone,
    Event::NodeGone,
    Event::Hold,
];

fn feed(membership: &mut ApiMembership, now: Instant, node: &str, event: Event) {
    match event {
        Event::Ready => membership.speaker_ready(now, node),
        Event::UnreadyOnReadyNode => membership.speaker_unready(now, node, true),
        Event::UnreadyOnFailedNode => membership.speaker_unready(now, node, false),
        Event::Gone => membership.speaker_gone(now, node),
        Event::NodeGone => membership.node_gone(now, node),
        Event::Hold => membership.hold(now, node),
    }
}

/// A peer in each of the four phases, entered at `start`.
fn phases(start: Instant) -> [(&'static str, ApiMembership); 4] {
    let new = membership();
    let mut up = membership();
    up.speaker_ready(start, "n");
    let mut held = up.clone();
    held.speaker_gone(start, "n");
    let mut down = up.clone();
    down.speaker_unready(start, "n", false);
    [("new", new), ("up", up), ("held", held), ("down", down)]
}

#[test]
fn transition_table_covers_every_event_in_every_phase() {
    let start = epoch();
    let now = start + 3 * SECOND;
    let up = ApiState::Ready;
    let down = ApiState::Absent;
    let held = ApiState::Restarting { until: start + GRACE };
    let held_from_now = ApiState::Restarting { until: now + GRACE };
    let table = [
        // Ready, unready on a ready node, unready on a failed node, Pod gone, Node gone, hold.
        ("new", [up, down, down, down, down, held_from_now]),
        ("up", [up, held_from_now, down, held_from_now, down, up]),
        ("held", [up, held, down, held, down, held]),
        ("down", [up, down, down, down, down, down]),
    ];
    for ((name, membership), (row, expected)) in phases(start).into_iter().zip(table) {
        assert_eq!(name, row);
        for (event, expected) in EVENTS.into_iter().zip(expected) {
            let mut membership = membership.clone();
            let before = membership.state("n");
            membership.take_changed();
            feed(&mut membership, now, "n", event);
            assert_eq!(membership.state("n"), expected, "{name} and {event:?}");
            assert_eq!(membership.is_candidate("n"), expected != ApiState::Absent);
            assert_eq!(
                membership.take_changed(),
                before != expected,
                "{name} and {event:?}"
            );
            assert!(!membership.take_changed());
        }
    }
}

#[test]
fn grace_period_ends_exactly_on_time() {
    let start = epoch();
    let mut membership = membership();
    membership.speaker_ready(start, "n");
    assert_eq!(membership.poll_timeout(), None);
    membership.speaker_gone(start, "n");
    assert_eq!(membership.poll_timeout(), Some(start + GRACE));
    membership.handle_timeout(start + GRACE - SECOND);
    assert!(membership.is_candidate("n"));
    membership.take_changed();
    membership.handle_timeout(start + GRACE);
    assert_eq!(membership.state("n"), ApiState::Absent);
    assert!(membership.take_changed());
    assert_eq!(membership.poll_timeout(), None);
}

#[test]
fn expired_grace_period_is_not_revived_by_an_event() {
    let start = epoch();
    let mut membership = membership();
    membership.speaker_ready(start, "n");
    membership.speaker_gone(start, "n");
    membership.speaker_unready(start + 2 * GRACE, "n", true);
    assert_eq!(membership.state("n"), ApiState::Absent);
}

#[test]
fn node_stays_candidate_during_a_rolling_restart() {
    let start = epoch();
    let mut membership = membership();
    membership.speaker_ready(start, "n");
    membership.take_changed();
    membership.speaker_unready(start + SECOND, "n", true);
    membership.speaker_gone(start + 2 * SECOND, "n");
    membership.speaker_unready(start + 3 * SECOND, "n", true);
    membership.handle_timeout(start + 5 * SECOND);
    assert!(membership.is_candidate("n"));
    membership.speaker_ready(start + 6 * SECOND, "n");
    assert_eq!(membership.state("n"), ApiState::Ready);
    // A second restart gets its own grace period.
    membership.speaker_gone(start + 30 * SECOND, "n");
    assert_eq!(
        membership.state("n"),
        ApiState::Restarting {
            until: start + 30 * SECOND + GRACE
        }
    );
}

#[test]
fn failed_node_is_absent_even_if_its_event_comes_last() {
    let start = epoch();
    let mut membership = membership();
    membership.speaker_ready(start, "n");
    membership.speaker_unready(start, "n", true);
    assert!(membership.is_candidate("n"));
    membership.speaker_unready(start + SECOND, "n", false);
    assert!(!membership.is_candidate("n"));
}

#[test]
fn recorded_owner_gets_one_grace_period_at_startup() {
    let start = epoch();
    for events in [
        [Event::UnreadyOnReadyNode, Event::Hold],
        [Event::Hold, Event::UnreadyOnReadyNode],
    ] {
        let mut membership = membership();
        for event in events {
            feed(&mut membership, start, "n", event);
        }
        assert_eq!(
            membership.state("n"),
            ApiState::Restarting { until: start + GRACE }
        );
        membership.handle_timeout(start + GRACE);
        membership.hold(start + GRACE, "n");
        assert_eq!(membership.state("n"), ApiState::Absent);
    }
}

#[test]
fn local_node_is_always_ready() {
    let now = epoch();
    for event in EVENTS {
        let mut membership = membership();
        feed(&mut membership, now, "me", event);
        assert_eq!(membership.state("me"), ApiState::Ready);
        assert!(!membership.take_changed());
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop::sample::select(EVENTS.to_vec())
}

proptest! {
    #[test]
    fn node_without_ready_speaker_has_one_grace_period(
        events in prop::collection::vec((event(), 0..4000_u64), 0..100),
    ) {
        let start = epoch();
        let mut now = start;
        let mut membership = membership();
        let mut last_ready_or_first_held = None;
        for (event, ms) in events {
            // A deleted Node counts as new and may get another grace period.
            if matches!(event, Event::Ready | Event::NodeGone) {
                last_ready_or_first_held = None;
            }
            feed(&mut membership, now, "n", event);
            if let ApiState::Restarting { until } = membership.state("n") {
                let since = *last_ready_or_first_held.get_or_insert(now);
                prop_assert!(until <= since + GRACE);
            }
            now += Duration::from_millis(ms);
            if membership.poll_timeout().is_some_and(|timeout| timeout <= now) {
                membership.handle_timeout(now);
            }
            if let Some(since) = last_ready_or_first_held && now >= since + GRACE {
                prop_assert!(!membership.is_candidate("n"));
            }
        }
    }
}
