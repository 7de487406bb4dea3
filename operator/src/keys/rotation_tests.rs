use std::collections::BTreeSet;

use serde_json::json;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn today() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn mk_policy() -> Policy {
    Policy {
        every: Some(30 * DAY),
        spread: SPREAD,
        asked: None,
    }
}

fn mk_record(days: i64) -> Record {
    Record {
        generation: 4,
        since: today() - jiff::SignedDuration::from_hours(24 * days),
        asked: String::new(),
    }
}

fn mk_seen(next: bool, previous: bool, record: Option<Record>) -> Seen {
    Seen {
        uid: "u".to_owned(),
        entries: Entries {
            current: true,
            next,
            previous,
        },
        generation: Some(4),
        record,
    }
}

fn asked(value: &str) -> Policy {
    Policy {
        asked: Some(value.to_owned()),
        ..mk_policy()
    }
}

#[test]
fn a_key_is_replaced_when_it_is_old_or_when_somebody_asks() {
    let never = Policy {
        every: None,
        ..mk_policy()
    };
    let met = Record {
        asked: "a".to_owned(),
        ..mk_record(1)
    };
    // (what of the stack, what of the Secret, what is done)
    let cases = [
        ("young", mk_policy(), mk_record(1), Step::Wait(Some(DAY))),
        ("almost due", mk_policy(), mk_record(29), Step::Wait(Some(DAY))),
        (
            "due",
            mk_policy(),
            mk_record(30),
            Step::Do(Change::Spread(mk_record(30))),
        ),
        (
            "overdue",
            mk_policy(),
            mk_record(300),
            Step::Do(Change::Spread(mk_record(300))),
        ),
        ("made tomorrow", mk_policy(), mk_record(-1), Step::Wait(Some(DAY))),
        (
            "made next year",
            mk_policy(),
            mk_record(-365),
            Step::Do(Change::Spread(mk_record(-365))),
        ),
        (
            "old, never to be replaced",
            never.clone(),
            mk_record(300),
            Step::Wait(None),
        ),
        (
            "asked for",
            asked("a"),
            mk_record(1),
            Step::Do(Change::Spread(met.clone())),
        ),
        (
            "asked for, and done",
            asked("a"),
            met.clone(),
            Step::Wait(Some(DAY)),
        ),
        (
            "asked for again",
            asked("b"),
            met.clone(),
            Step::Do(Change::Spread(Record {
                asked: "b".to_owned(),
                ..met.clone()
            })),
        ),
        (
            "no longer asked for",
            mk_policy(),
            met.clone(),
            Step::Wait(Some(DAY)),
        ),
    ];
    for (what, policy, record, expected) in cases {
        let seen = mk_seen(false, false, Some(record));
        let step = Rotation::default().step(Instant::now(), today(), &seen, &policy, false);
        assert_eq!(step, expected, "{what}");
    }
}

#[test]
fn a_secret_without_a_record_gets_one_whatever_its_phase() {
    for (next, previous) in [(false, false), (true, false), (false, true)] {
        let seen = mk_seen(next, previous, None);
        let step = Rotation::default().step(Instant::now(), today(), &seen, &asked("a"), false);
        let Step::Do(Change::Record(record)) = step else {
            panic!("{step:?}");
        };
        assert_eq!(
            (record.generation, record.asked.as_str()),
            (5, "a"),
            "the request before it is met"
        );
    }
}

#[test]
fn each_phase_lasts_until_every_speaker_whose_node_answers_has_seen_it() {
    let switched = Record {
        generation: 5,
        since: today(),
        asked: String::new(),
    };
    // (next, previous, what ends the phase)
    let cases = [
        (true, false, Change::Switch(switched)),
        (false, true, Change::Retire),
        // Somebody has put a next key there too early: its turn comes later.
        (true, true, Change::Retire),
    ];
    for (next, previous, change) in cases {
        let seen = mk_seen(next, previous, Some(mk_record(1)));
        let start = Instant::now();
        let mut rotation = Rotation::default();
        let mut step = |after, lost| rotation.step(start + after, today(), &seen, &mk_policy(), lost);
        assert_eq!(step(Duration::ZERO, false), Step::Wait(Some(SPREAD)));
        assert_eq!(step(4 * MINUTE, false), Step::Wait(Some(MINUTE)));
        // A node is cut off from the API server for three minutes.
        assert_eq!(step(4 * MINUTE, true), Step::Wait(Some(SPREAD)));
        assert_eq!(step(7 * MINUTE, true), Step::Wait(Some(SPREAD)));
        assert_eq!(step(8 * MINUTE, false), Step::Wait(Some(4 * MINUTE)));
        assert_eq!(step(12 * MINUTE, false), Step::Do(change));
    }
}

#[test]
fn a_node_that_is_gone_for_good_does_not_hold_up_a_rotation_for_ever() {
    let seen = mk_seen(true, false, Some(mk_record(1)));
    let start = Instant::now();
    let mut rotation = Rotation::default();
    let mut step = |after| rotation.step(start + after, today(), &seen, &mk_policy(), true);
    assert_eq!(step(Duration::ZERO), Step::Wait(Some(SPREAD)));
    assert_eq!(step(58 * MINUTE), Step::Wait(Some(2 * MINUTE)));
    assert!(matches!(step(PATIENCE), Step::Do(Change::Switch(_))));
}

#[test]
fn an_operator_that_takes_over_waits_anew() {
    let seen = mk_seen(true, false, Some(mk_record(1)));
    let start = Instant::now();
    let mut first = Rotation::default();
    first.step(start, today(), &seen, &mk_policy(), false);
    let mut second = Rotation::default();
    let step = second.step(start + 4 * MINUTE, today(), &seen, &mk_policy(), false);
    assert_eq!(step, Step::Wait(Some(SPREAD)));
}

#[test]
fn the_stack_says_how_often_and_its_annotation_asks() {
    let stack = |heartbeat: serde_json::Value, annotations: serde_json::Value| {
        let json = json!({
            "apiVersion": "lb-operator.io/v1alpha1", "kind": "LoadBalancerStack",
            "metadata": {"name": "default", "annotations": annotations},
            "spec": {"speaker": {"heartbeat": heartbeat}},
        });
        Policy::of(&serde_json::from_value(json).unwrap())
    };
    assert_eq!(stack(json!({}), json!({})), mk_policy());
    assert_eq!(stack(json!({"keyRotationDays": 0}), json!({})).every, None);
    let policy = stack(
        json!({"keyRotationDays": 7, "keyPropagationSeconds": 10}),
        json!({ASK: "now"}),
    );
    assert_eq!(
        (policy.every, policy.spread),
        (Some(7 * DAY), Duration::from_secs(10))
    );
    let again = stack(json!({}), json!({ASK: "again"}));
    assert!(policy.asked.is_some() && again.asked.is_some() && policy.asked != again.asked);
}

/// The Secret, with numbers for keys.
#[derive(Clone, Debug)]
struct Secret {
    current: u32,
    next: Option<u32>,
    previous: Option<u32>,
    record: Option<Record>,
}

impl Secret {
    fn seen(&self) -> Seen {
        Seen {
            uid: "u".to_owned(),
            entries: Entries {
                current: true,
                next: self.next.is_some(),
                previous: self.previous.is_some(),
            },
            generation: self.record.as_ref().map(|record| record.generation),
            record: self.record.clone(),
        }
    }

    fn change(&mut self, change: Change, fresh: u32) {
        match change {
            Change::Record(record) => self.record = Some(record),
            Change::Spread(record) => (self.next, self.record) = (Some(fresh), Some(record)),
            Change::Switch(record) => {
                self.previous = Some(self.current);
                self.current = self.next.take().unwrap();
                self.record = Some(record);
            }
            Change::Retire => self.previous = None,
        }
    }

    fn believes(&self, key: u32) -> bool {
        [Some(self.current), self.next, self.previous].contains(&Some(key))
    }
}

/// Numbers that look random, the same from the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // Of Steele, Lea and Flood's SplitMix.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A node: what its speaker has of the Secret, when its kubelet looks again, and from when until when it cannot reach the API
/// server, in seconds.
struct Node {
    has: Secret,
    looks: u64,
    cut_off: std::ops::Range<u64>,
}

/// Time after which a node that cannot reach the API server is said not to answer (the controller manager's
/// `--node-monitor-grace-period`), in seconds.
const NOTICED: u64 = 50;
/// Longest time between two looks of a kubelet, and of what it looks at: see the module.
const KUBELET: u64 = 150;
/// How long a run is, in seconds.
const RUN: u64 = 40_000;

/// One rotation after another: the speakers see the Secret when their kubelets get to it, nodes are cut off from the API
/// server and come back, speakers restart, operators restart and take over. Returns how many keys there were.
fn simulate(seed: u64) -> u64 {
    let mut dice = Dice(seed);
    let start = Instant::now();
    let mut secret = Secret {
        current: 0,
        next: None,
        previous: None,
        record: None,
    };
    let mut nodes: Vec<_> = (0..6)
        .map(|_| Node {
            has: secret.clone(),
            looks: dice.below(KUBELET),
            cut_off: 0..0,
        })
        .collect();
    let mut operator = Rotation::default();
    let (mut fresh, mut policy) = (0, mk_policy());
    for second in 0..RUN {
        for node in &mut nodes {
            if node.looks <= second || dice.below(2_000) == 0 {
                // By its turn, or because the speaker restarts.
                node.looks = second + 1 + dice.below(KUBELET);
                if !node.cut_off.contains(&second) {
                    node.has = secret.clone();
                }
            }
            if node.cut_off.end + 2 * KUBELET < second && dice.below(20_000) == 0 {
                node.cut_off = second..second + dice.below(PATIENCE.as_secs() / 4);
            }
        }
        match dice.below(3_000) {
            0 => operator = Rotation::default(),
            1 | 2 => policy.asked = Some(second.to_string()),
            _ => {}
        }
        let lost = |node: &Node| node.cut_off.contains(&second) && node.cut_off.start + NOTICED <= second;
        let now = start + Duration::from_secs(second);
        let today = today() + Duration::from_secs(second);
        let step = operator.step(now, today, &secret.seen(), &policy, nodes.iter().any(lost));
        if let Step::Do(change) = step {
            fresh += 1;
            secret.change(change, fresh);
        }
        let sent: BTreeSet<_> = nodes.iter().map(|node| node.has.current).collect();
        for (number, node) in nodes.iter().enumerate() {
            for key in &sent {
                assert!(
                    node.has.believes(*key),
                    "seed {seed}, second {second}: node {number} with {:?} refuses key {key}; the Secret is {secret:?}",
                    node.has,
                );
            }
        }
    }
    secret.seen().generation.unwrap_or_default()
}

#[test]
fn no_speaker_ever_refuses_what_another_sends() {
    let runs = 25;
    let keys: u64 = (0..runs).map(simulate).sum();
    assert!(
        keys > 10 * runs,
        "keys are rotated all the while, and not {keys} times in {runs} runs"
    );
}
