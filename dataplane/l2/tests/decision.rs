//! The ownership decision: single rules, and an exhaustive check of all states of three nodes.

mod support;

use std::time::Duration;

use lb_l2::ownership::decision::{Action, CLAIM_PATIENCE, HandOverOffer, OwnershipInput};
use lb_l2::ownership::failure_detector::PeerHealth;
use support::epoch;

const NODES: [&str; 3] = ["a", "b", "c"];

/// The state of a node, which all nodes agree on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Node {
    view: PeerHealth,
    candidate: bool,
    has: bool,
}

type World = [Node; 3];

fn step(world: &World, me: usize) -> Action {
    let candidates: Vec<_> = (0..3)
        .filter(|at| world[*at].candidate)
        .map(|at| NODES[at])
        .collect();
    let claimants = (0..3).filter(|at| *at != me && world[*at].has);
    let claimants: Vec<_> = claimants.map(|at| NODES[at]).collect();
    let input = OwnershipInput {
        me: NODES[me],
        draining: world[me].view == PeerHealth::Draining,
        mine: world[me].has,
        failback: false,
        candidates: &candidates,
        announcers: &claimants,
        preferred: None,
        offer: HandOverOffer::None,
        seen: &[],
        passive: &[],
        withheld: &[],
        stronger: &[],
        weaker: &[],
    };
    input.decide(|name| world[NODES.iter().position(|node| *node == name).unwrap_or_default()].view)
}

fn node(view: PeerHealth, has: bool) -> Node {
    Node {
        view,
        candidate: true,
        has,
    }
}

const FREE: Node = Node {
    view: PeerHealth::Up,
    candidate: true,
    has: false,
};
const PROBE_AND_CLAIM: Action = Action::Claim {
    probe: true,
    after: Duration::ZERO,
};
const TAKE: Action = Action::Claim {
    probe: false,
    after: Duration::ZERO,
};
/// In case that the candidate before us does nothing.
const CLAIM_LATER: Action = Action::Claim {
    probe: true,
    after: CLAIM_PATIENCE,
};
const TAKE_LATER: Action = Action::Claim {
    probe: false,
    after: CLAIM_PATIENCE,
};
const OWNER: Node = Node { has: true, ..FREE };

fn steps(world: World) -> [Action; 3] {
    [0, 1, 2].map(|me| step(&world, me))
}

#[test]
fn returning_node_takes_nothing_back() {
    assert_eq!(
        steps([FREE, OWNER, FREE]),
        [Action::None, Action::Keep, Action::None]
    );
}

#[test]
fn first_of_two_owners_in_order_remains() {
    assert_eq!(
        steps([FREE, OWNER, OWNER]),
        [Action::None, Action::Keep, Action::Withdraw]
    );
}

#[test]
fn first_live_candidate_probes_and_replaces_failed_owner() {
    let dead = node(PeerHealth::Down, true);
    assert_eq!(steps([dead, FREE, FREE])[1..], [PROBE_AND_CLAIM, CLAIM_LATER]);
}

#[test]
fn restarting_owner_keeps_its_address() {
    let until = epoch() + Duration::from_secs(10);
    let held = node(PeerHealth::Restarting { until }, true);
    assert_eq!(steps([FREE, held, FREE])[0], Action::None);
}

#[test]
fn leaving_owner_announces_until_its_successor_does() {
    let drains = node(PeerHealth::Draining, true);
    let unchosen = Node {
        candidate: false,
        ..OWNER
    };
    for leaves in [drains, unchosen] {
        let asks_nobody = TAKE;
        assert_eq!(
            steps([leaves, FREE, FREE]),
            [Action::HandOver, asks_nobody, TAKE_LATER]
        );
        assert_eq!(steps([leaves, OWNER, FREE])[1], Action::Keep);
        assert_eq!(steps([leaves, OWNER, FREE])[0], Action::Withdraw);
    }
}

#[test]
fn waits_for_a_preceding_unknown_candidate() {
    let unknown = node(PeerHealth::Unknown, false);
    assert_eq!(steps([unknown, FREE, FREE])[1..], [Action::Wait, Action::Wait]);
    assert_eq!(
        steps([FREE, unknown, FREE])[0],
        PROBE_AND_CLAIM,
        "not for those who come later"
    );
    assert_eq!(
        steps([unknown, OWNER, FREE])[1],
        Action::Keep,
        "nor by who has it"
    );
}

/// The decision of node `me` with this preference and offer.
fn placed(world: &World, me: usize, preferred: Option<usize>, offer: HandOverOffer<&'static str>) -> Action {
    let claimants = (0..3).filter(|at| *at != me && world[*at].has);
    let claimants: Vec<_> = claimants.map(|at| NODES[at]).collect();
    let input = OwnershipInput {
        me: NODES[me],
        draining: world[me].view == PeerHealth::Draining,
        mine: world[me].has,
        failback: false,
        candidates: &NODES,
        announcers: &claimants,
        preferred: preferred.map(|at| NODES[at]),
        offer,
        seen: &[],
        passive: &[],
        withheld: &[],
        stronger: &[],
        weaker: &[],
    };
    input.decide(|name| world[NODES.iter().position(|node| *node == name).unwrap_or_default()].view)
}

#[test]
fn preferred_node_goes_first_only_without_an_owner() {
    let asks = PROBE_AND_CLAIM;
    let free = [FREE, FREE, FREE];
    assert_eq!(placed(&free, 2, Some(2), HandOverOffer::None), asks);
    assert_eq!(placed(&free, 0, Some(2), HandOverOffer::None), Action::None);
    let dead = [FREE, FREE, node(PeerHealth::Down, true)];
    assert_eq!(
        placed(&dead, 0, Some(2), HandOverOffer::None),
        asks,
        "as if there were none"
    );
    let owned = [FREE, OWNER, FREE];
    assert_eq!(placed(&owned, 2, Some(2), HandOverOffer::None), Action::None);
    assert_eq!(placed(&owned, 1, Some(2), HandOverOffer::None), Action::Keep);
}

#[test]
fn offer_moves_the_address_to_the_named_node_only() {
    let world = [FREE, OWNER, FREE];
    let take = TAKE;
    assert_eq!(placed(&world, 2, Some(2), HandOverOffer::From("b")), take);
    assert_eq!(
        placed(&world, 0, None, HandOverOffer::None),
        Action::None,
        "it is not for others"
    );
    assert_eq!(placed(&world, 1, Some(2), HandOverOffer::To("c")), Action::Keep);
    let both = [FREE, OWNER, OWNER];
    assert_eq!(
        placed(&both, 1, Some(2), HandOverOffer::To("c")),
        Action::Withdraw
    );
    assert_eq!(placed(&both, 2, Some(2), HandOverOffer::From("b")), Action::Keep);
    // Without an offer the election order decides, whatever the preference.
    assert_eq!(placed(&both, 1, Some(2), HandOverOffer::None), Action::Keep);
    assert_eq!(placed(&both, 2, Some(2), HandOverOffer::None), Action::Withdraw);
}

fn worlds() -> Vec<World> {
    let until = epoch() + Duration::from_secs(10);
    let views = [
        PeerHealth::Up,
        PeerHealth::Restarting { until },
        PeerHealth::Draining,
        PeerHealth::Down,
    ];
    let nodes: Vec<_> = views
        .into_iter()
        .flat_map(|view| [false, true].map(|candidate| (view, candidate)))
        .flat_map(|(view, candidate)| [false, true].map(|has| Node { view, candidate, has }))
        .collect();
    let mut worlds = Vec::new();
    for a in &nodes {
        for b in &nodes {
            worlds.extend(nodes.iter().map(|c| [*a, *b, *c]));
        }
    }
    worlds
}

/// The state after each live node has acted on its decision. A restarting node does not act.
fn next(world: &World) -> World {
    let mut next = *world;
    for me in 0..3 {
        if matches!(world[me].view, PeerHealth::Up | PeerHealth::Draining) {
            next[me].has = match step(world, me) {
                Action::Keep
                | Action::Claim {
                    after: Duration::ZERO,
                    ..
                }
                | Action::HandOver => true,
                Action::Withdraw => false,
                Action::Wait | Action::None | Action::Claim { .. } => world[me].has,
            };
        }
    }
    next
}

#[test]
fn every_state_has_one_claimer_and_converges_to_one_owner() {
    for world in worlds() {
        let claims = |step: &Action| {
            matches!(
                step,
                Action::Claim {
                    after: Duration::ZERO,
                    ..
                }
            )
        };
        let alive = |at: &usize| matches!(world[*at].view, PeerHealth::Up | PeerHealth::Draining);
        let claiming = (0..3)
            .filter(alive)
            .filter(|me| claims(&step(&world, *me)))
            .count();
        assert!(claiming <= 1, "{world:?}");

        // Once the nodes have heard each other's announcements, nothing changes.
        let settled = next(&next(&world));
        assert_eq!(next(&settled), settled, "{world:?}");
        let owners = |world: &World| {
            let present = world
                .iter()
                .filter(|node| node.has && node.view != PeerHealth::Down);
            present.count()
        };
        let able = |node: &Node| node.candidate && node.view == PeerHealth::Up;
        let kept =
            |node: &Node| node.candidate && node.has && matches!(node.view, PeerHealth::Restarting { .. });
        if world.iter().any(able) || world.iter().any(kept) {
            // A restarting node that is no candidate, or not the first, withdraws when it is back.
            let held = settled
                .iter()
                .filter(|node| matches!(node.view, PeerHealth::Restarting { .. }) && node.has)
                .count();
            assert!(
                (1..=1 + held).contains(&owners(&settled)),
                "{world:?} becomes {settled:?}"
            );
        }
        // Make before break: an announced address stays announced as long as some node can.
        let answered = |world: &World| {
            world
                .iter()
                .any(|node| node.has && matches!(node.view, PeerHealth::Up | PeerHealth::Draining))
        };
        if answered(&world) {
            let held = world
                .iter()
                .any(|node| node.has && node.candidate && matches!(node.view, PeerHealth::Restarting { .. }));
            assert!(answered(&next(&world)) || held, "{world:?}");
        }
    }
}
