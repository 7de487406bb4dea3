//! Several candidates, one Lease object with optimistic concurrency, and a clock that the test advances.

use proptest::prelude::*;

use super::*;

/// The Lease object as the API server keeps it.
#[derive(Default)]
struct Server {
    record: Option<LeaseRecord>,
    version: u64,
}

impl Server {
    fn apply(&mut self, write: &LeaseWrite) -> LeaseWriteResult {
        let current = self.record.as_ref().map(|record| record.version.clone());
        if current != write.replaces {
            return LeaseWriteResult::Failed;
        }
        self.version += 1;
        let record = LeaseRecord {
            holder: write.holder.clone(),
            duration: LeaseTiming::default().duration,
            transitions: write.transitions,
            version: self.version.to_string(),
            handoff: write.handoff.clone(),
        };
        self.record = Some(record.clone());
        LeaseWriteResult::Written(record)
    }
}

fn step(server: &mut Server, elector: &mut LeaderElector, now: Instant) {
    elector.observe(now, server.record.clone());
    if let Some(write) = elector.poll_write(now) {
        let result = server.apply(&write);
        elector.handle_result(now, result);
    }
}

fn candidates(count: usize) -> Vec<LeaderElector> {
    (0..count)
        .map(|i| LeaderElector::new(format!("pod-{i}"), LeaseTiming::default()))
        .collect()
}

fn leaders(electors: &[LeaderElector], now: Instant) -> Vec<usize> {
    (0..electors.len())
        .filter(|i| electors[*i].is_leader(now))
        .collect()
}

#[test]
fn first_candidate_leads_and_second_waits() {
    let (mut server, mut electors, now) = (Server::default(), candidates(2), Instant::now());
    for elector in &mut electors {
        step(&mut server, elector, now);
    }
    assert_eq!(leaders(&electors, now), [0]);
}

#[test]
fn release_lets_next_candidate_lead_immediately() {
    let (mut server, mut electors, now) = (Server::default(), candidates(2), Instant::now());
    for elector in &mut electors {
        step(&mut server, elector, now);
    }
    electors[0].release(now, "7".to_owned());
    assert!(
        !electors[0].is_leader(now),
        "leadership ends before the release is written"
    );
    step(&mut server, &mut electors[0], now);
    assert!(electors[0].is_released());
    step(&mut server, &mut electors[1], now);
    assert_eq!(leaders(&electors, now), [1]);
    assert_eq!(
        (
            electors[0].predecessor_handoff(),
            electors[1].predecessor_handoff()
        ),
        ("", "7")
    );
    assert_eq!(
        server.record.unwrap().transitions,
        1,
        "only the acquisition counts as a transition"
    );
}

#[test]
fn isolated_leader_stops_before_successor_starts() {
    let (mut server, mut electors, start) = (Server::default(), candidates(2), Instant::now());
    for elector in &mut electors {
        step(&mut server, elector, start);
    }
    let mut acquired_after = None;
    for tenth in 1..300u32 {
        let now = start + Duration::from_millis(100) * tenth;
        // pod-0 is isolated: it observes nothing, and its writes fail.
        if electors[0].poll_write(now).is_some() {
            electors[0].handle_result(now, LeaseWriteResult::Failed);
        }
        step(&mut server, &mut electors[1], now);
        assert!(leaders(&electors, now).len() <= 1);
        if acquired_after.is_none() && electors[1].is_leader(now) {
            acquired_after = Some(now - start);
        }
    }
    assert_eq!(acquired_after, Some(LeaseTiming::default().duration));
}

#[test]
fn pending_renewal_does_not_extend_leadership() {
    let (mut server, mut electors, start) = (Server::default(), candidates(1), Instant::now());
    step(&mut server, &mut electors[0], start);
    let renewal = start + LeaseTiming::default().retry;
    assert!(electors[0].poll_write(renewal).is_some());
    assert_eq!(
        electors[0].poll_timeout(),
        Some(start + LeaseTiming::default().renew_deadline)
    );
    assert!(!electors[0].is_leader(start + LeaseTiming::default().renew_deadline));
}

#[test]
fn no_write_before_first_observation() {
    let mut elector = LeaderElector::new("pod-0".to_owned(), LeaseTiming::default());
    assert_eq!(elector.poll_timeout(), None);
    assert_eq!(elector.poll_write(Instant::now()), None);
}

proptest! {
    /// Also with lost responses, delays and restarts.
    #[test]
    fn at_most_one_candidate_leads(events in prop::collection::vec((0usize..3, 0u8..5, 1u64..4000), 1..300)) {
        let (mut server, mut electors, mut now) = (Server::default(), candidates(3), Instant::now());
        for (candidate, event, millis) in events {
            now += Duration::from_millis(millis);
            match event {
                0..=2 => step(&mut server, &mut electors[candidate], now),
                // The write succeeds and its response is lost: the candidate learns of it from the next observation.
                3 => {
                    electors[candidate].observe(now, server.record.clone());
                    if let Some(write) = electors[candidate].poll_write(now) {
                        server.apply(&write);
                        electors[candidate].handle_result(now, LeaseWriteResult::Failed);
                    }
                }
                _ => {
                    electors[candidate].release(now, String::new());
                    step(&mut server, &mut electors[candidate], now);
                    electors[candidate] = LeaderElector::new(format!("pod-{candidate}"), LeaseTiming::default());
                }
            }
            prop_assert!(leaders(&electors, now).len() <= 1);
        }
    }
}
