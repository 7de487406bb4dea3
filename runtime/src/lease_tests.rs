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
            return LeaseWriteResult::Conflict(self.record.clone());
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

fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

#[test]
fn missed_deadline_ends_leadership_and_outdates_the_handoff() {
    let (mut server, mut electors, start) = (Server::default(), candidates(2), Instant::now());
    for elector in &mut electors {
        step(&mut server, elector, start);
    }
    electors[0].release(start, "4711".to_owned());
    step(&mut server, &mut electors[0], start);
    step(&mut server, &mut electors[1], start);
    let elector = &mut electors[1];
    assert_eq!(elector.predecessor_handoff(), "4711");
    for tenth in 1..120u32 {
        let now = start + Duration::from_millis(100) * tenth;
        if elector.poll_write(now).is_some() {
            elector.handle_result(now, LeaseWriteResult::Failed);
        }
        assert_eq!(elector.is_leader(now), now < start + seconds(10.0));
        assert!(elector.poll_timeout().is_none_or(|due| due > now));
    }
    let now = start + seconds(14.0);
    let write = elector.poll_write(now).unwrap();
    assert!(write.acquires, "it starts like a new leader");
    let result = server.apply(&write);
    elector.handle_result(now, result);
    assert!(elector.is_leader(now));
    assert_eq!(elector.predecessor_handoff(), "");
}

#[test]
fn renewal_that_answers_after_the_deadline_outdates_the_handoff() {
    let (mut server, mut electors, start) = (Server::default(), candidates(1), Instant::now());
    server.record = Some(LeaseRecord {
        handoff: "4711".to_owned(),
        version: "0".to_owned(),
        ..LeaseRecord::default()
    });
    step(&mut server, &mut electors[0], start);
    assert_eq!(electors[0].predecessor_handoff(), "4711");
    let write = electors[0].poll_write(start + seconds(8.0)).unwrap();
    let result = server.apply(&write);
    electors[0].handle_result(start + seconds(11.0), result);
    assert!(electors[0].is_leader(start + seconds(11.0)));
    assert_eq!(electors[0].predecessor_handoff(), "");
}

/// The leader is isolated, its successor acquires the Lease, and then a write of the old leader fails.
#[test]
fn holder_observed_during_a_write_is_not_replaced() {
    let (mut server, mut electors, start) = (Server::default(), candidates(2), Instant::now());
    for elector in &mut electors {
        step(&mut server, elector, start);
    }
    let in_flight = electors[0].poll_write(start + seconds(9.0));
    assert!(in_flight.is_some());
    step(&mut server, &mut electors[1], start + seconds(15.0));
    assert!(electors[1].is_leader(start + seconds(15.0)));
    electors[0].observe(start + seconds(15.1), server.record.clone());
    electors[0].handle_result(start + seconds(15.2), LeaseWriteResult::Failed);
    for tenth in 152..300u32 {
        let now = start + Duration::from_millis(100) * tenth;
        assert_eq!(electors[0].poll_write(now), None);
        assert!(!electors[0].is_leader(now));
    }
}

#[test]
fn conflict_shows_the_state_without_a_watch() {
    let (mut server, mut electors, start) = (Server::default(), candidates(1), Instant::now());
    step(&mut server, &mut electors[0], start);
    // A renewal succeeds, but its response is lost, and the watch is dead.
    let now = start + seconds(2.0);
    let write = electors[0].poll_write(now).unwrap();
    server.apply(&write);
    electors[0].handle_result(now + seconds(4.0), LeaseWriteResult::Failed);
    for tenth in 60..200u32 {
        let now = start + Duration::from_millis(100) * tenth;
        if let Some(write) = electors[0].poll_write(now) {
            let result = server.apply(&write);
            electors[0].handle_result(now, result);
        }
        assert!(electors[0].is_leader(now), "at {tenth} tenths of a second");
    }
}

#[test]
fn older_state_from_the_watch_is_ignored() {
    let (mut server, mut electors, now) = (Server::default(), candidates(2), Instant::now());
    step(&mut server, &mut electors[0], now);
    electors[0].release(now, String::new());
    step(&mut server, &mut electors[0], now);
    let released = server.record.clone();
    step(&mut server, &mut electors[1], now);
    electors[1].observe(now, released);
    assert!(electors[1].is_leader(now));
    assert_eq!(electors[1].poll_write(now), None);
}

#[test]
fn deleted_lease_is_created_again_by_its_holder() {
    let (mut server, mut electors, start) = (Server::default(), candidates(2), Instant::now());
    for elector in &mut electors {
        step(&mut server, elector, start);
    }
    server.record = None;
    step(&mut server, &mut electors[1], start);
    assert_eq!(
        leaders(&electors, start),
        [0],
        "the other candidate does not know whether the holder is alive"
    );
    step(&mut server, &mut electors[0], start);
    assert_eq!(server.record.as_ref().unwrap().holder, "pod-0");
    // Without a holder that creates it, it expires.
    server.record = None;
    electors[1].observe(start, None);
    step(
        &mut server,
        &mut electors[1],
        start + LeaseTiming::default().duration,
    );
    assert!(electors[1].is_leader(start + LeaseTiming::default().duration));
}

/// Candidates whose writes and observations are in flight.
struct Cluster {
    server: Server,
    /// Every state of the object, oldest first.
    history: Vec<Option<LeaseRecord>>,
    electors: Vec<LeaderElector>,
    in_flight: Vec<Option<(LeaseWrite, Option<LeaseWriteResult>)>>,
    /// Writes that the candidates have given up, and that the server may still process.
    late: Vec<LeaseWrite>,
    now: Instant,
}

impl Cluster {
    fn new() -> Self {
        Self {
            server: Server::default(),
            history: vec![None],
            electors: candidates(3),
            in_flight: vec![None, None, None],
            late: Vec::new(),
            now: Instant::now(),
        }
    }

    fn store(&mut self, write: &LeaseWrite) -> LeaseWriteResult {
        let result = self.server.apply(write);
        self.history.push(self.server.record.clone());
        result
    }

    fn handle(&mut self, candidate: usize, event: u8) {
        match event {
            0 => self.electors[candidate].observe(self.now, self.server.record.clone()),
            // The watch lags.
            1 => {
                let behind = self.history.len().saturating_sub(3);
                let record = self.history[behind].clone();
                // The watch cannot tell that the object does not exist before it existed.
                if record.is_some() {
                    self.electors[candidate].observe(self.now, record);
                }
            }
            2 | 3 => {
                if let Some(write) = self.electors[candidate].poll_write(self.now) {
                    assert!(self.in_flight[candidate].is_none());
                    self.in_flight[candidate] = Some((write, None));
                }
            }
            4 | 5 => {
                if let Some((write, None)) = self.in_flight[candidate].clone() {
                    let result = self.store(&write);
                    self.in_flight[candidate] = Some((write, Some(result)));
                }
            }
            // The response arrives; a conflict is followed by a read.
            6 | 7 => {
                if let Some((write, result)) = self.in_flight[candidate].take() {
                    let result = match result {
                        Some(LeaseWriteResult::Conflict(_)) => {
                            LeaseWriteResult::Conflict(self.server.record.clone())
                        }
                        Some(result) => result,
                        None => {
                            self.late.push(write);
                            LeaseWriteResult::Failed
                        }
                    };
                    self.electors[candidate].handle_result(self.now, result);
                }
            }
            // The response is lost.
            8 => {
                if self.in_flight[candidate].take().is_some() {
                    self.electors[candidate].handle_result(self.now, LeaseWriteResult::Failed);
                }
            }
            9 => {
                if let Some(write) = self.late.pop() {
                    self.store(&write);
                }
            }
            10 => {
                self.electors[candidate].release(self.now, String::new());
                self.electors[candidate].observe(self.now, self.server.record.clone());
                if let Some(write) = self.electors[candidate].poll_write(self.now) {
                    self.store(&write);
                }
                self.late
                    .extend(self.in_flight[candidate].take().map(|(write, _)| write));
                self.electors[candidate] =
                    LeaderElector::new(format!("pod-{candidate}"), LeaseTiming::default());
            }
            _ => {
                self.server.record = None;
                self.history.push(None);
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let leading = leaders(&self.electors, self.now);
        prop_assert!(leading.len() <= 1, "{leading:?} lead");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Also with observations while a write is in flight, lost responses, late writes, lagging watches and restarts.
    #[test]
    fn at_most_one_candidate_leads(events in prop::collection::vec((0usize..3, 0u8..11, 1u64..3000), 1..300)) {
        let mut cluster = Cluster::new();
        for (candidate, event, millis) in events {
            cluster.now += Duration::from_millis(millis);
            cluster.handle(candidate, event);
            cluster.check()?;
        }
    }

    /// Also if somebody deletes the Lease. A candidate that starts while it does not exist knows of no holder, so none
    /// starts here.
    #[test]
    fn at_most_one_candidate_leads_after_deletion(
        events in prop::collection::vec((0usize..3, 0u8..11, 1u64..3000), 1..300),
    ) {
        let mut cluster = Cluster::new();
        cluster.handle(0, 0);
        cluster.handle(0, 2);
        cluster.handle(0, 4);
        cluster.handle(0, 6);
        for candidate in 1..3 {
            cluster.handle(candidate, 0);
        }
        for (candidate, event, millis) in events {
            cluster.now += Duration::from_millis(millis);
            cluster.handle(candidate, if event == 10 { 11 } else { event });
            cluster.check()?;
        }
    }
}
