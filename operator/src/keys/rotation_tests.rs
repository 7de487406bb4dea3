use std::collections::BTreeSet;

use serde_json::json;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn today() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn mk_policy() -> RotationPolicy {
    RotationPolicy {
        interval: Some(30 * DAY),
        propagation: DEFAULT_PROPAGATION,
        requested: None,
    }
}

fn mk_record(days: i64) -> KeyRecord {
    KeyRecord {
        generation: 4,
        since: today() - jiff::SignedDuration::from_hours(24 * days),
        requested: String::new(),
    }
}

fn mk_secret(next: bool, previous: bool, record: Option<KeyRecord>) -> KeySecret {
    KeySecret {
        uid: "u".to_owned(),
        entries: KeyEntries {
            current: true,
            next,
            previous,
        },
        generation: Some(4),
        record,
    }
}

fn requested(value: &str) -> RotationPolicy {
    RotationPolicy {
        requested: Some(value.to_owned()),
        ..mk_policy()
    }
}

#[test]
fn old_or_requested_key_is_rotated() {
    let never = RotationPolicy {
        interval: None,
        ..mk_policy()
    };
    let met = KeyRecord {
        requested: "a".to_owned(),
        ..mk_record(1)
    };
    // (case, policy, record, expected step)
    let cases = [
        ("young", mk_policy(), mk_record(1), RotationStep::Wait(Some(DAY))),
        (
            "almost due",
            mk_policy(),
            mk_record(29),
            RotationStep::Wait(Some(DAY)),
        ),
        (
            "due",
            mk_policy(),
            mk_record(30),
            RotationStep::Apply(KeyChange::Distribute(mk_record(30))),
        ),
        (
            "overdue",
            mk_policy(),
            mk_record(300),
            RotationStep::Apply(KeyChange::Distribute(mk_record(300))),
        ),
        (
            "made tomorrow",
            mk_policy(),
            mk_record(-1),
            RotationStep::Wait(Some(DAY)),
        ),
        (
            "made next year",
            mk_policy(),
            mk_record(-365),
            RotationStep::Apply(KeyChange::Distribute(mk_record(-365))),
        ),
        (
            "old, never to be replaced",
            never.clone(),
            mk_record(300),
            RotationStep::Wait(None),
        ),
        (
            "requested",
            requested("a"),
            mk_record(1),
            RotationStep::Apply(KeyChange::Distribute(met.clone())),
        ),
        (
            "requested, and done",
            requested("a"),
            met.clone(),
            RotationStep::Wait(Some(DAY)),
        ),
        (
            "requested again",
            requested("b"),
            met.clone(),
            RotationStep::Apply(KeyChange::Distribute(KeyRecord {
                requested: "b".to_owned(),
                ..met.clone()
            })),
        ),
        (
            "no longer requested",
            mk_policy(),
            met.clone(),
            RotationStep::Wait(Some(DAY)),
        ),
    ];
    for (what, policy, record, expected) in cases {
        let seen = mk_secret(false, false, Some(record));
        let step = KeyRotation::default().step(Instant::now(), today(), &seen, &policy, false);
        assert_eq!(step, expected, "{what}");
    }
}

#[test]
fn secret_without_record_gets_one_in_any_phase() {
    for (next, previous) in [(false, false), (true, false), (false, true)] {
        let seen = mk_secret(next, previous, None);
        let step = KeyRotation::default().step(Instant::now(), today(), &seen, &requested("a"), false);
        let RotationStep::Apply(KeyChange::Annotate(record)) = step else {
            panic!("{step:?}");
        };
        assert_eq!(
            (record.generation, record.requested.as_str()),
            (5, "a"),
            "the earlier request is handled"
        );
    }
}

#[test]
fn phase_lasts_until_reachable_speakers_have_the_secret() {
    let switched = KeyRecord {
        generation: 5,
        since: today(),
        requested: String::new(),
    };
    // (next, previous, change that ends the phase)
    let cases = [
        (true, false, KeyChange::Activate(switched)),
        (false, true, KeyChange::Retire),
        // A user added a next key too early: it is used later.
        (true, true, KeyChange::Retire),
    ];
    for (next, previous, change) in cases {
        let seen = mk_secret(next, previous, Some(mk_record(1)));
        let start = Instant::now();
        let mut rotation = KeyRotation::default();
        let mut step = |after, lost| rotation.step(start + after, today(), &seen, &mk_policy(), lost);
        assert_eq!(
            step(Duration::ZERO, false),
            RotationStep::Wait(Some(DEFAULT_PROPAGATION))
        );
        assert_eq!(step(4 * MINUTE, false), RotationStep::Wait(Some(MINUTE)));
        // A node is cut off from the API server for three minutes.
        assert_eq!(
            step(4 * MINUTE, true),
            RotationStep::Wait(Some(DEFAULT_PROPAGATION))
        );
        assert_eq!(
            step(7 * MINUTE, true),
            RotationStep::Wait(Some(DEFAULT_PROPAGATION))
        );
        assert_eq!(step(8 * MINUTE, false), RotationStep::Wait(Some(4 * MINUTE)));
        assert_eq!(step(12 * MINUTE, false), RotationStep::Apply(change));
    }
}

#[test]
fn lost_node_delays_a_rotation_for_an_hour_at_most() {
    let seen = mk_secret(true, false, Some(mk_record(1)));
    let start = Instant::now();
    let mut rotation = KeyRotation::default();
    let mut step = |after| rotation.step(start + after, today(), &seen, &mk_policy(), true);
    assert_eq!(
        step(Duration::ZERO),
        RotationStep::Wait(Some(DEFAULT_PROPAGATION))
    );
    assert_eq!(step(58 * MINUTE), RotationStep::Wait(Some(2 * MINUTE)));
    assert!(matches!(
        step(MAX_LOST_NODE_WAIT),
        RotationStep::Apply(KeyChange::Activate(_))
    ));
}

#[test]
fn new_leader_restarts_the_wait() {
    let seen = mk_secret(true, false, Some(mk_record(1)));
    let start = Instant::now();
    let mut first = KeyRotation::default();
    first.step(start, today(), &seen, &mk_policy(), false);
    let mut second = KeyRotation::default();
    let step = second.step(start + 4 * MINUTE, today(), &seen, &mk_policy(), false);
    assert_eq!(step, RotationStep::Wait(Some(DEFAULT_PROPAGATION)));
}

#[test]
fn policy_is_read_from_spec_and_annotation() {
    let stack = |heartbeat: serde_json::Value, annotations: serde_json::Value| {
        let json = json!({
            "apiVersion": "lb-operator.io/v1alpha1", "kind": "LoadBalancerStack",
            "metadata": {"name": "default", "annotations": annotations},
            "spec": {"speaker": {"heartbeat": heartbeat}},
        });
        RotationPolicy::of(&serde_json::from_value(json).unwrap())
    };
    assert_eq!(stack(json!({}), json!({})), mk_policy());
    assert_eq!(stack(json!({"keyRotationDays": 0}), json!({})).interval, None);
    let policy = stack(
        json!({"keyRotationDays": 7, "keyPropagationSeconds": 10}),
        json!({ROTATE_ANNOTATION: "now"}),
    );
    assert_eq!(
        (policy.interval, policy.propagation),
        (Some(7 * DAY), Duration::from_secs(10))
    );
    let again = stack(json!({}), json!({ROTATE_ANNOTATION: "again"}));
    assert!(policy.requested.is_some() && again.requested.is_some() && policy.requested != again.requested);
}

/// The Secret, with numbers for keys.
#[derive(Clone, Debug)]
struct Secret {
    current: u32,
    next: Option<u32>,
    previous: Option<u32>,
    record: Option<KeyRecord>,
}

impl Secret {
    fn seen(&self) -> KeySecret {
        KeySecret {
            uid: "u".to_owned(),
            entries: KeyEntries {
                current: true,
                next: self.next.is_some(),
                previous: self.previous.is_some(),
            },
            generation: self.record.as_ref().map(|record| record.generation),
            record: self.record.clone(),
        }
    }

    fn change(&mut self, change: KeyChange, fresh: u32) {
        match change {
            KeyChange::Annotate(record) => self.record = Some(record),
            KeyChange::Distribute(record) => (self.next, self.record) = (Some(fresh), Some(record)),
            KeyChange::Activate(record) => {
                self.previous = Some(self.current);
                self.current = self.next.take().unwrap();
                self.record = Some(record);
            }
            KeyChange::Retire => self.previous = None,
        }
    }

    fn accepts(&self, key: u32) -> bool {
        [Some(self.current), self.next, self.previous].contains(&Some(key))
    }
}

/// Deterministic pseudo-random numbers.
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

/// A node: its copy of the Secret, its next kubelet sync, and when it is cut off from the API server, in seconds.
struct Node {
    has: Secret,
    next_sync: u64,
    cut_off: std::ops::Range<u64>,
}

/// Time after which a node that cannot reach the API server is marked unreachable (the controller manager's
/// `--node-monitor-grace-period`), in seconds.
const NOTICED: u64 = 50;
/// Longest delay of a kubelet sync and its cache: see the module.
const KUBELET: u64 = 150;
/// Simulated seconds.
const RUN: u64 = 40_000;

/// Repeated rotations while kubelets sync late, nodes lose and regain the API server, and speakers and operators
/// restart. Returns the number of keys.
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
            next_sync: dice.below(KUBELET),
            cut_off: 0..0,
        })
        .collect();
    let mut operator = KeyRotation::default();
    let (mut fresh, mut policy) = (0, mk_policy());
    for second in 0..RUN {
        for node in &mut nodes {
            if node.next_sync <= second || dice.below(2_000) == 0 {
                // Its periodic sync, or a restart of the speaker.
                node.next_sync = second + 1 + dice.below(KUBELET);
                if !node.cut_off.contains(&second) {
                    node.has = secret.clone();
                }
            }
            if node.cut_off.end + 2 * KUBELET < second && dice.below(20_000) == 0 {
                node.cut_off = second..second + dice.below(MAX_LOST_NODE_WAIT.as_secs() / 4);
            }
        }
        match dice.below(3_000) {
            0 => operator = KeyRotation::default(),
            1 | 2 => policy.requested = Some(second.to_string()),
            _ => {}
        }
        let lost = |node: &Node| node.cut_off.contains(&second) && node.cut_off.start + NOTICED <= second;
        let now = start + Duration::from_secs(second);
        let today = today() + Duration::from_secs(second);
        let step = operator.step(now, today, &secret.seen(), &policy, nodes.iter().any(lost));
        if let RotationStep::Apply(change) = step {
            fresh += 1;
            secret.change(change, fresh);
        }
        let sent: BTreeSet<_> = nodes.iter().map(|node| node.has.current).collect();
        for (number, node) in nodes.iter().enumerate() {
            for key in &sent {
                assert!(
                    node.has.accepts(*key),
                    "seed {seed}, second {second}: node {number} with {:?} rejects key {key}; the Secret is {secret:?}",
                    node.has,
                );
            }
        }
    }
    secret.seen().generation.unwrap_or_default()
}

#[test]
fn speakers_always_accept_each_others_keys() {
    let runs = 25;
    let keys: u64 = (0..runs).map(simulate).sum();
    assert!(keys > 10 * runs, "only {keys} rotations in {runs} runs");
}
