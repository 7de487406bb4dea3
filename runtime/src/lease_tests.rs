//! Several candidates, one Lease object with optimistic concurrency, and a clock that the test moves.

use proptest::prelude::*;

use super::*;

/// The Lease object as the API server keeps it.
#[derive(Default)]
struct Server {
    record: Option<Record>,
    version: u64,
}

impl Server {
    fn apply(&mut self, write: &Write) -> Outcome {
        let current = self.record.as_ref().map(|record| record.version.clone());
        if current != write.replaces {
            return Outcome::Failed;
        }
        self.version += 1;
        let record = Record {
            holder: write.holder.clone(),
            duration: Timing::default().duration,
            transitions: write.transitions,
            version: self.version.to_string(),
            handoff: write.handoff.clone(),
        };
        self.record = Some(record.clone());
        Outcome::Written(record)
    }
}

fn step(server: &mut Server, machine: &mut Machine, now: Instant) {
    machine.observe(now, server.record.clone());
    if let Some(write) = machine.poll_write(now) {
        let outcome = server.apply(&write);
        machine.written(now, outcome);
    }
}

fn candidates(count: usize) -> Vec<Machine> {
    (0..count)
        .map(|i| Machine::new(format!("pod-{i}"), Timing::default()))
        .collect()
}

fn leaders(machines: &[Machine], now: Instant) -> Vec<usize> {
    (0..machines.len()).filter(|i| machines[*i].leads(now)).collect()
}

#[test]
fn the_first_candidate_leads_at_once_and_the_second_waits() {
    let (mut server, mut machines, now) = (Server::default(), candidates(2), Instant::now());
    for machine in &mut machines {
        step(&mut server, machine, now);
    }
    assert_eq!(leaders(&machines, now), [0]);
}

#[test]
fn a_release_hands_over_at_once() {
    let (mut server, mut machines, now) = (Server::default(), candidates(2), Instant::now());
    for machine in &mut machines {
        step(&mut server, machine, now);
    }
    machines[0].release(now, "7".to_owned());
    assert!(
        !machines[0].leads(now),
        "leadership ends before the release is written"
    );
    step(&mut server, &mut machines[0], now);
    assert!(machines[0].released());
    step(&mut server, &mut machines[1], now);
    assert_eq!(leaders(&machines, now), [1]);
    assert_eq!((machines[0].inherited(), machines[1].inherited()), ("", "7"));
    assert_eq!(
        server.record.unwrap().transitions,
        1,
        "a release is no change of hands, the take-over is"
    );
}

#[test]
fn a_leader_that_cannot_renew_stops_before_another_may_start() {
    let (mut server, mut machines, start) = (Server::default(), candidates(2), Instant::now());
    for machine in &mut machines {
        step(&mut server, machine, start);
    }
    let mut taken_over = None;
    for tenth in 1..300u32 {
        let now = start + Duration::from_millis(100) * tenth;
        // pod-0 is cut off: it observes nothing, and its writes fail.
        if machines[0].poll_write(now).is_some() {
            machines[0].written(now, Outcome::Failed);
        }
        step(&mut server, &mut machines[1], now);
        assert!(leaders(&machines, now).len() <= 1);
        if taken_over.is_none() && machines[1].leads(now) {
            taken_over = Some(now - start);
        }
    }
    assert_eq!(taken_over, Some(Timing::default().duration));
}

#[test]
fn a_write_that_never_returns_does_not_prolong_leadership() {
    let (mut server, mut machines, start) = (Server::default(), candidates(1), Instant::now());
    step(&mut server, &mut machines[0], start);
    let renewal = start + Timing::default().retry;
    assert!(machines[0].poll_write(renewal).is_some());
    assert_eq!(
        machines[0].poll_timeout(),
        Some(start + Timing::default().renew_deadline)
    );
    assert!(!machines[0].leads(start + Timing::default().renew_deadline));
}

#[test]
fn nothing_is_written_before_the_lease_was_looked_at() {
    let mut machine = Machine::new("pod-0".to_owned(), Timing::default());
    assert_eq!(machine.poll_timeout(), None);
    assert_eq!(machine.poll_write(Instant::now()), None);
}

proptest! {
    /// Whatever is lost, delayed or restarted, at most one candidate leads.
    #[test]
    fn at_most_one_candidate_leads(events in prop::collection::vec((0usize..3, 0u8..5, 1u64..4000), 1..300)) {
        let (mut server, mut machines, mut now) = (Server::default(), candidates(3), Instant::now());
        for (who, what, millis) in events {
            now += Duration::from_millis(millis);
            match what {
                0..=2 => step(&mut server, &mut machines[who], now),
                // The write arrives, the answer does not: the candidate must learn of it by observation.
                3 => {
                    machines[who].observe(now, server.record.clone());
                    if let Some(write) = machines[who].poll_write(now) {
                        server.apply(&write);
                        machines[who].written(now, Outcome::Failed);
                    }
                }
                _ => {
                    machines[who].release(now, String::new());
                    step(&mut server, &mut machines[who], now);
                    machines[who] = Machine::new(format!("pod-{who}"), Timing::default());
                }
            }
            prop_assert!(leaders(&machines, now).len() <= 1);
        }
    }
}
