//! The schedule of gratuitous ARP, under a virtual clock.

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lb_l2::gratuitous::{BURSTS, BURSTS_PER_PACE, GratuitousSchedule, PACE};
use proptest::prelude::*;
use support::epoch;

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from(0xc0a8_3200 + n).into()
}

const MS: Duration = Duration::from_millis(1);

fn drain(announcer: &mut GratuitousSchedule) -> Vec<IpAddr> {
    std::iter::from_fn(|| announcer.poll_output()).collect()
}

/// Lets the clock run from one timeout to the next until `end`, and records what came out when.
fn run(announcer: &mut GratuitousSchedule, now: &mut Instant, end: Instant) -> Vec<(Instant, IpAddr)> {
    let mut seen: Vec<_> = drain(announcer)
        .into_iter()
        .map(|address| (*now, address))
        .collect();
    while let Some(next) = announcer.poll_timeout().filter(|next| *next <= end) {
        assert!(next > *now, "a timeout in the past would make the caller spin");
        *now = next;
        announcer.handle_timeout(*now);
        seen.extend(drain(announcer).into_iter().map(|address| (*now, address)));
    }
    *now = end;
    announcer.handle_timeout(*now);
    seen
}

#[test]
fn a_claim_is_announced_at_once_and_for_five_seconds() {
    let start = epoch();
    let mut announcer = GratuitousSchedule::new();
    announcer.claim(start, address(1));
    let seen = run(&mut announcer, &mut start.clone(), start + 60_000 * MS);
    let offsets: Vec<_> = seen.iter().map(|(at, _)| (*at - start).as_millis()).collect();
    assert_eq!(offsets, [0, 100, 500, 1100, 2200, 3300, 4400, 5000]);
    assert!(seen.iter().all(|(_, seen)| *seen == address(1)));
    assert_eq!(
        announcer.poll_timeout(),
        None,
        "at rest nothing wakes the process"
    );
    assert!(announcer.is_claimed(address(1)));
}

#[test]
fn a_withdrawn_address_is_never_announced_again() {
    let start = epoch();
    let mut announcer = GratuitousSchedule::new();
    announcer.claim(start, address(1));
    announcer.withdraw(address(1));
    assert_eq!(announcer.poll_output(), None);
    assert_eq!(announcer.poll_timeout(), None);
    announcer.again_all(start);
    announcer.again(start, address(1));
    assert_eq!(announcer.poll_output(), None);
}

#[test]
fn a_link_that_came_up_gets_the_whole_series() {
    let start = epoch();
    let mut now = start;
    let mut announcer = GratuitousSchedule::new();
    announcer.claim(now, address(1));
    announcer.claim(now, address(2));
    run(&mut announcer, &mut now, start + 600 * MS);
    announcer.again(now, address(1));
    let seen = run(&mut announcer, &mut now, start + 60_000 * MS);
    assert_eq!(
        seen.iter().filter(|(_, seen)| *seen == address(1)).count(),
        BURSTS.len()
    );
    assert_eq!(
        seen.iter().filter(|(_, seen)| *seen == address(2)).count(),
        BURSTS.len() - 3
    );
    announcer.again_all(now);
    assert_eq!(drain(&mut announcer), [address(1), address(2)]);
}

#[test]
fn a_thousand_claims_at_once_are_paced_and_each_is_heard_before_any_is_repeated() {
    let start = epoch();
    let mut announcer = GratuitousSchedule::new();
    for n in 0..1000 {
        announcer.claim(start, address(n));
    }
    let seen = run(&mut announcer, &mut start.clone(), start + 60_000 * MS);
    assert_eq!(seen.len(), 1000 * BURSTS.len());
    let first: Vec<_> = seen.iter().take(1000).map(|(_, address)| *address).collect();
    assert_eq!(first, (0..1000).map(address).collect::<Vec<_>>());
    assert!(seen[999].0 - start <= 160 * MS);
    for window in seen.chunk_by(|a, b| a.0 == b.0) {
        assert!(window.len() <= BURSTS_PER_PACE as usize);
    }
}

#[test]
fn a_clock_that_steps_back_is_harmless() {
    let start = epoch();
    let mut announcer = GratuitousSchedule::new();
    announcer.claim(start + 1000 * MS, address(1));
    announcer.handle_timeout(start);
    assert_eq!(announcer.poll_output(), Some(address(1)));
}

#[derive(Clone, Debug)]
enum Action {
    Claim(u32),
    Withdraw(u32),
    Again(u32),
    AgainAll,
    Sleep(u64),
}

fn step() -> impl Strategy<Value = Action> {
    let n = 0..8_u32;
    prop_oneof![
        3 => n.clone().prop_map(Action::Claim),
        2 => n.clone().prop_map(Action::Withdraw),
        1 => n.prop_map(Action::Again),
        1 => Just(Action::AgainAll),
        4 => (0..2000_u64).prop_map(Action::Sleep),
    ]
}

proptest! {
    #[test]
    fn every_claim_gets_exactly_its_bursts_and_a_withdrawn_address_none(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let start = epoch();
        let mut now = start;
        let mut announcer = GratuitousSchedule::new();
        // The model: since when each address is claimed, and how many bursts of that claim were seen.
        let mut model: BTreeMap<IpAddr, (Instant, usize)> = BTreeMap::new();
        let check = |model: &mut BTreeMap<IpAddr, (Instant, usize)>, seen: Vec<(Instant, IpAddr)>| {
            for (at, address) in seen {
                let Some((since, count)) = model.get_mut(&address) else {
                    return Err(TestCaseError::fail("a withdrawn address was announced"));
                };
                let due = BURSTS.get(*count).map(|offset| *since + *offset);
                let in_time = due.is_some_and(|due| due <= at && at <= due + 2 * PACE);
                prop_assert!(in_time, "burst {} at a wrong time", count);
                *count += 1;
            }
            Ok(())
        };
        for step in steps {
            match step {
                Action::Claim(n) => {
                    announcer.claim(now, address(n));
                    model.insert(address(n), (now, 0));
                }
                Action::Withdraw(n) => {
                    announcer.withdraw(address(n));
                    model.remove(&address(n));
                }
                Action::Again(n) => {
                    announcer.again(now, address(n));
                    model.entry(address(n)).and_modify(|claim| *claim = (now, 0));
                }
                Action::AgainAll => {
                    announcer.again_all(now);
                    model.values_mut().for_each(|claim| *claim = (now, 0));
                }
                Action::Sleep(ms) => {
                    let end = now + Duration::from_millis(ms);
                    let seen = run(&mut announcer, &mut now, end);
                    check(&mut model, seen)?;
                }
            }
        }
        let end = now + Duration::from_secs(60);
        let seen = run(&mut announcer, &mut now, end);
        check(&mut model, seen)?;
        prop_assert!(model.values().all(|(_, count)| *count == BURSTS.len()));
        prop_assert_eq!(announcer.poll_timeout(), None);
    }
}
