//! What fuzzing has found, each in its shortest form.

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

/// Lets so many steps of 50 ms pass.
fn pass(coordinator: &mut Coordinator, now: &mut Instant, steps: u32) -> Vec<Output> {
    let mut all = Vec::new();
    for _ in 0..steps {
        *now += Duration::from_millis(50);
        coordinator.handle_timeout(*now, usize::MAX);
        all.extend(outputs(coordinator));
    }
    all
}

#[test]
fn hardware_addresses_that_anybody_makes_up_for_a_silent_node_take_no_room() {
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
    assert!(many < few + 64, "{few} bytes have become {many}");
}

#[test]
fn an_address_that_cannot_be_announced_is_not_resumed() {
    let mut now = epoch();
    let address: IpAddr = "192.168.50.100".parse().unwrap();
    let mut coordinator = coordinator(now, &["n0"]);
    let candidates = Candidates {
        order: &["n0"],
        no_interface: true,
        preferred: None,
    };
    coordinator.set_candidates(address, Some(candidates));
    coordinator.restore_owned(address);
    coordinator.start(now);
    let said = pass(&mut coordinator, &mut now, 40);
    assert!(coordinator.is_running());
    assert!(
        !said
            .iter()
            .any(|output| matches!(output, Output::Announce { .. })),
        "{said:?}"
    );
}

#[test]
fn who_waits_for_a_peer_after_a_stall_sleeps_meanwhile() {
    let mut now = epoch();
    let mut coordinator = coordinator(now, &["n0", "n1"]);
    let candidates = Candidates {
        order: &["n1", "n0"],
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
    assert!(!coordinator.is_running(), "the peer has not had its time");
    assert!(coordinator.poll_timeout().is_some_and(|at| at > now));
}

/// More addresses than are probed at once, which lose their candidates before their turn comes and get them again later.
#[test]
fn an_address_is_asked_about_anew_when_it_gets_candidates_again() {
    let mut now = epoch();
    let mut coordinator = coordinator(now, &["n0"]);
    let addresses: Vec<IpAddr> = (0..300_u32)
        .map(|number| IpAddr::V4((0x0a00_0000 + number).into()))
        .collect();
    let set = |coordinator: &mut Coordinator, known: bool| {
        for address in &addresses {
            let candidates = Candidates {
                order: &["n0"],
                no_interface: false,
                preferred: None,
            };
            coordinator.set_candidates(*address, known.then_some(candidates));
        }
    };
    set(&mut coordinator, true);
    coordinator.start(now);
    while !coordinator.is_running() {
        pass(&mut coordinator, &mut now, 1);
    }
    set(&mut coordinator, false);
    pass(&mut coordinator, &mut now, 20);
    set(&mut coordinator, true);
    let said = pass(&mut coordinator, &mut now, 1);
    assert!(
        !said
            .iter()
            .any(|output| matches!(output, Output::Announce { .. })),
        "nothing is claimed before the wire has had time to answer"
    );
}
