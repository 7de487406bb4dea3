//! Regression tests for bugs found by fuzzing.

mod support;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_l2::MacAddr;
use lb_l2::ownership::failure_detector::FailureDetectorConfig;
use lb_l2::ownership::{
    ApiState, Candidates, ConflictPolicy, Coordinator, CoordinatorConfig, NodeInfo, Output, PartitionPolicy,
};
use support::epoch;

fn coordinator(now: Instant, nodes: &[&str]) -> Coordinator {
    let config = CoordinatorConfig {
        node: "n0".to_owned(),
        version: "1.0.0".to_owned(),
        failure_detector: FailureDetectorConfig::default(),
        partition_policy: PartitionPolicy::Availability,
        failback: false,
        conflict_policy: ConflictPolicy::Warn,
    };
    let mut coordinator = Coordinator::new(now, 1, config);
    let node = |name| NodeInfo {
        name,
        api: ApiState::Absent,
        on_link: true,
    };
    coordinator.set_nodes(now, nodes.iter().copied().map(node));
    coordinator
}

fn outputs(coordinator: &mut Coordinator) -> Vec<Output> {
    std::iter::from_fn(|| coordinator.poll_output()).collect()
}

/// Advances the clock by `steps` of 50 ms. Returns all outputs.
fn advance(coordinator: &mut Coordinator, now: &mut Instant, steps: u32) -> Vec<Output> {
    let mut all = Vec::new();
    for _ in 0..steps {
        *now += Duration::from_millis(50);
        coordinator.handle_timeout(*now, usize::MAX);
        all.extend(outputs(coordinator));
    }
    all
}

#[test]
fn forged_macs_of_a_silent_node_use_no_memory() {
    let now = epoch();
    let mut coordinator = coordinator(now, &["n0", "n1"]);
    let flood = |coordinator: &mut Coordinator, numbers: std::ops::Range<u32>| {
        for number in numbers {
            let [a, b, c, d] = number.to_be_bytes();
            coordinator.handle_node_reply(now, "n1", MacAddr([2, 0, a, b, c, d]));
        }
        format!("{coordinator:?}").len()
    };
    let few = flood(&mut coordinator, 0..16);
    let many = flood(&mut coordinator, 16..5000);
    assert!(many < few + 64, "state has grown from {few} to {many} bytes");
}

#[test]
fn does_not_restore_an_address_without_interface() {
    let mut now = epoch();
    let address: IpAddr = "192.168.50.100".parse().unwrap();
    let mut coordinator = coordinator(now, &["n0"]);
    let candidates = Candidates {
        order: &["n0"],
        voters: &[],
        no_interface: true,
        preferred: None,
    };
    coordinator.set_candidates(address, Some(candidates));
    coordinator.restore_owned(address);
    coordinator.start(now);
    let outputs = advance(&mut coordinator, &mut now, 40);
    assert!(coordinator.is_running());
    assert!(
        !outputs
            .iter()
            .any(|output| matches!(output, Output::Announce { .. })),
        "{outputs:?}"
    );
}

#[test]
fn waiting_for_a_peer_after_a_stall_has_a_timeout() {
    let mut now = epoch();
    let mut coordinator = coordinator(now, &["n0", "n1"]);
    let candidates = Candidates {
        order: &["n1", "n0"],
        voters: &[],
        no_interface: false,
        preferred: None,
    };
    coordinator.set_candidates("192.168.50.100".parse().unwrap(), Some(candidates));
    coordinator.start(now);
    coordinator.handle_timeout(now, usize::MAX);
    outputs(&mut coordinator);
    now += Duration::from_secs(40);
    coordinator.handle_timeout(now, usize::MAX);
    outputs(&mut coordinator);
    assert!(!coordinator.is_running(), "the peer's time has not passed");
    assert!(coordinator.poll_timeout().is_some_and(|at| at > now));
}

/// More addresses than are probed at once lose their candidates before they are probed, and get them back later.
#[test]
fn probes_again_when_an_address_regains_candidates() {
    let mut now = epoch();
    let mut coordinator = coordinator(now, &["n0"]);
    let addresses: Vec<IpAddr> = (0..300_u32)
        .map(|number| IpAddr::V4((0x0a00_0000 + number).into()))
        .collect();
    let set = |coordinator: &mut Coordinator, known: bool| {
        for address in &addresses {
            let candidates = Candidates {
                order: &["n0"],
                voters: &[],
                no_interface: false,
                preferred: None,
            };
            coordinator.set_candidates(*address, known.then_some(candidates));
        }
    };
    set(&mut coordinator, true);
    coordinator.start(now);
    while !coordinator.is_running() {
        advance(&mut coordinator, &mut now, 1);
    }
    set(&mut coordinator, false);
    advance(&mut coordinator, &mut now, 20);
    set(&mut coordinator, true);
    let outputs = advance(&mut coordinator, &mut now, 1);
    assert!(
        !outputs
            .iter()
            .any(|output| matches!(output, Output::Announce { .. })),
        "no address is announced before its probes have ended"
    );
}
