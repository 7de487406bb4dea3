//! The gratuitous ARP schedule under a virtual clock.

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lb_l2::gratuitous::{GratuitousSchedule, MAX_PER_RATE_WINDOW, RATE_WINDOW, SERIES_OFFSETS};
use proptest::prelude::*;
use support::epoch;

const MS: Duration = Duration::from_millis(1);

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from(0xc0a8_3200 + n).into()
}

fn drain(schedule: &mut GratuitousSchedule) -> Vec<IpAddr> {
    std::iter::from_fn(|| schedule.poll_transmit()).collect()
}

/// Advances the clock from timeout to timeout until `end`. Returns all announcements with their times.
fn run(schedule: &mut GratuitousSchedule, now: &mut Instant, end: Instant) -> Vec<(Instant, IpAddr)> {
    let mut sent: Vec<_> = drain(schedule)
        .into_iter()
        .map(|address| (*now, address))
        .collect();
    while let Some(next) = schedule.poll_timeout().filter(|next| *next <= end) {
        assert!(next > *now, "a timeout in the past makes the caller spin");
        *now = next;
        schedule.handle_timeout(*now);
        sent.extend(drain(schedule).into_iter().map(|address| (*now, address)));
    }
    *now = end;
    schedule.handle_timeout(*now);
    sent
}

#[test]
fn announces_at_once_and_for_five_seconds() {
    let start = epoch();
    let mut schedule = GratuitousSchedule::new(None);
    schedule.announce(start, address(1));
    let sent = run(&mut schedule, &mut start.clone(), start + 60_000 * MS);
    let offsets: Vec<_> = sent.iter().map(|(at, _)| (*at - start).as_millis()).collect();
    assert_eq!(offsets, [0, 100, 500, 1100, 2200, 3300, 4400, 5000]);
    assert!(sent.iter().all(|(_, sent)| *sent == address(1)));
    assert_eq!(schedule.poll_timeout(), None, "an idle schedule has no timeout");
    // The address is still in the schedule.
    schedule.restart(start + 60_000 * MS, address(1));
    assert_eq!(schedule.poll_transmit(), Some(address(1)));
}

#[test]
fn never_announces_a_withdrawn_address() {
    let start = epoch();
    let mut schedule = GratuitousSchedule::new(None);
    schedule.announce(start, address(1));
    schedule.withdraw(address(1));
    assert_eq!(schedule.poll_transmit(), None);
    assert_eq!(schedule.poll_timeout(), None);
    schedule.restart(start, address(1));
    assert_eq!(schedule.poll_transmit(), None);
}

#[test]
fn restart_repeats_the_whole_series() {
    let start = epoch();
    let mut now = start;
    let mut schedule = GratuitousSchedule::new(None);
    schedule.announce(now, address(1));
    schedule.announce(now, address(2));
    run(&mut schedule, &mut now, start + 600 * MS);
    schedule.restart(now, address(1));
    let sent = run(&mut schedule, &mut now, start + 60_000 * MS);
    let count = |of: u32| sent.iter().filter(|(_, sent)| *sent == address(of)).count();
    assert_eq!(count(1), SERIES_OFFSETS.len());
    assert_eq!(count(2), SERIES_OFFSETS.len() - 3);
    for n in [1, 2] {
        schedule.restart(now, address(n));
    }
    assert_eq!(drain(&mut schedule), [address(1), address(2)]);
}

#[test]
fn rate_limit_sends_each_first_announcement_before_repeats() {
    let start = epoch();
    let mut schedule = GratuitousSchedule::new(None);
    for n in 0..1000 {
        schedule.announce(start, address(n));
    }
    let sent = run(&mut schedule, &mut start.clone(), start + 60_000 * MS);
    assert_eq!(sent.len(), 1000 * SERIES_OFFSETS.len());
    let first: Vec<_> = sent.iter().take(1000).map(|(_, address)| *address).collect();
    assert_eq!(first, (0..1000).map(address).collect::<Vec<_>>());
    assert!(sent[999].0 - start <= 160 * MS);
    for window in sent.chunk_by(|a, b| a.0 == b.0) {
        assert!(window.len() <= MAX_PER_RATE_WINDOW as usize);
    }
}

#[test]
fn tolerates_a_clock_that_steps_back() {
    let start = epoch();
    let mut schedule = GratuitousSchedule::new(None);
    schedule.announce(start + 1000 * MS, address(1));
    schedule.handle_timeout(start);
    assert_eq!(schedule.poll_transmit(), Some(address(1)));
}

#[derive(Clone, Debug)]
enum Action {
    Announce(u32),
    Withdraw(u32),
    Restart(u32),
    RestartAll,
    Sleep(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let n = 0..8_u32;
    prop_oneof![
        3 => n.clone().prop_map(Action::Announce),
        2 => n.clone().prop_map(Action::Withdraw),
        1 => n.prop_map(Action::Restart),
        1 => Just(Action::RestartAll),
        4 => (0..2000_u64).prop_map(Action::Sleep),
    ]
}

proptest! {
    #[test]
    fn sends_exactly_the_series_of_each_announced_address(
        actions in prop::collection::vec(action(), 0..60),
    ) {
        let start = epoch();
        let mut now = start;
        let mut schedule = GratuitousSchedule::new(None);
        // The model: per address, the start of its series and the announcements sent so far.
        let mut model: BTreeMap<IpAddr, (Instant, usize)> = BTreeMap::new();
        let check = |model: &mut BTreeMap<IpAddr, (Instant, usize)>, sent: Vec<(Instant, IpAddr)>| {
            for (at, address) in sent {
                let Some((start, count)) = model.get_mut(&address) else {
                    return Err(TestCaseError::fail("a withdrawn address was announced"));
                };
                let due = SERIES_OFFSETS.get(*count).map(|offset| *start + *offset);
                let in_time = due.is_some_and(|due| due <= at && at <= due + 2 * RATE_WINDOW);
                prop_assert!(in_time, "announcement {} at a wrong time", count);
                *count += 1;
            }
            Ok(())
        };
        for action in actions {
            match action {
                Action::Announce(n) => {
                    schedule.announce(now, address(n));
                    model.insert(address(n), (now, 0));
                }
                Action::Withdraw(n) => {
                    schedule.withdraw(address(n));
                    model.remove(&address(n));
                }
                Action::Restart(n) => {
                    schedule.restart(now, address(n));
                    model.entry(address(n)).and_modify(|series| *series = (now, 0));
                }
                Action::RestartAll => {
                    for (address, series) in &mut model {
                        schedule.restart(now, *address);
                        *series = (now, 0);
                    }
                }
                Action::Sleep(ms) => {
                    let end = now + Duration::from_millis(ms);
                    let sent = run(&mut schedule, &mut now, end);
                    check(&mut model, sent)?;
                }
            }
        }
        let end = now + Duration::from_secs(60);
        let sent = run(&mut schedule, &mut now, end);
        check(&mut model, sent)?;
        prop_assert!(model.values().all(|(_, count)| *count == SERIES_OFFSETS.len()));
        prop_assert_eq!(schedule.poll_timeout(), None);
    }
}

#[test]
fn a_thousand_addresses_at_rest_cost_one_frame_a_second() {
    let interval = Duration::from_secs(2400);
    let mut schedule = GratuitousSchedule::new(Some(interval));
    let start = epoch();
    for number in 0..1_000 {
        schedule.announce(start, address(number));
    }
    let mut now = start;
    run(&mut schedule, &mut now, start + Duration::from_secs(60));
    let rest = Duration::from_secs(7200);
    let sent = run(&mut schedule, &mut now, start + Duration::from_secs(60) + rest);
    let frames = lb_l2::wire::arp::gratuitous(lb_l2::MacAddr([2; 6]), Ipv4Addr::LOCALHOST).len();
    let rate = (sent.len() * frames) as f64 / rest.as_secs_f64();
    assert!((0.5..=1.0).contains(&rate), "{rate}");
}
