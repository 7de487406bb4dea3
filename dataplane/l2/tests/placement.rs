//! Placement: balance, few moves, deterministic results, and speed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lb_l2::ownership::placement::{PlacementInput, compute_placement};
use proptest::prelude::*;

type Placed = BTreeMap<IpAddr, u32>;

/// The candidates of each address.
type OwnershipInput = BTreeMap<IpAddr, Vec<u32>>;

fn address(number: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).unwrap_or_default()).into()
}

fn placed(scene: &OwnershipInput, owners: &Placed) -> Placed {
    let known = scene.iter().map(|(address, candidates)| {
        let owner = owners.get(address).copied();
        (*address, PlacementInput { candidates, owner })
    });
    compute_placement(&known.collect())
}

fn loads(placed: &Placed, nodes: impl IntoIterator<Item = u32>) -> BTreeMap<u32, usize> {
    let mut loads: BTreeMap<_, _> = nodes.into_iter().map(|node| (node, 0)).collect();
    for node in placed.values() {
        *loads.entry(*node).or_default() += 1;
    }
    loads
}

fn moves(before: &Placed, after: &Placed) -> usize {
    let moved = |(address, node): &(&IpAddr, &u32)| after.get(*address) != Some(*node);
    before.iter().filter(moved).count()
}

/// A linear congruential generator.
fn roll(seed: &mut u64, sides: u32) -> u32 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    u32::try_from((*seed >> 33) % u64::from(sides)).unwrap_or_default()
}

/// Every node is a candidate of every address, in random order.
fn equal(addresses: usize, nodes: &[u32], mut seed: u64) -> OwnershipInput {
    let order = |at: usize| {
        let mut ranked: Vec<_> = nodes.iter().map(|node| (roll(&mut seed, 1000), *node)).collect();
        ranked.sort_unstable();
        (address(at), ranked.into_iter().map(|(_, node)| node).collect())
    };
    (0..addresses).map(order).collect()
}

/// The least possible greatest load: the maximum over all sets of nodes of the addresses bound to the set, per node.
fn least_most(scene: &OwnershipInput, nodes: u32) -> usize {
    let sets = 1..1_u32 << nodes;
    let within = |set: u32| {
        let bound = |candidates: &&Vec<u32>| {
            !candidates.is_empty() && candidates.iter().all(|node| set & (1 << node) != 0)
        };
        scene
            .values()
            .filter(bound)
            .count()
            .div_ceil(set.count_ones() as usize)
    };
    sets.map(within).max().unwrap_or(0)
}

#[test]
fn election_order_breaks_ties() {
    let scene = OwnershipInput::from([(address(0), vec![2, 0, 1]), (address(1), vec![2, 1, 0])]);
    assert_eq!(
        placed(&scene, &Placed::new()),
        Placed::from([(address(0), 2), (address(1), 1)])
    );
    assert_eq!(
        placed(&OwnershipInput::from([(address(0), vec![])]), &Placed::new()),
        Placed::new()
    );
}

#[test]
fn owner_that_is_no_candidate_is_ignored() {
    let scene = OwnershipInput::from([(address(0), vec![1])]);
    assert_eq!(
        placed(&scene, &Placed::from([(address(0), 7)])),
        Placed::from([(address(0), 1)])
    );
}

#[test]
fn chain_of_moves_balances_without_a_direct_move() {
    // Node 0 owns three that only 0 and 1 may own, node 1 three that only 1 and 2 may own, node 2 none at all.
    let scene: OwnershipInput = (0..6)
        .map(|at| (address(at), if at < 3 { vec![0, 1] } else { vec![1, 2] }))
        .collect();
    let owners: Placed = (0..6).map(|at| (address(at), u32::from(at >= 3))).collect();
    let after = placed(&scene, &owners);
    assert_eq!(loads(&after, 0..3), BTreeMap::from([(0, 2), (1, 2), (2, 2)]));
    assert_eq!(moves(&owners, &after), 3);
}

proptest! {
    #[test]
    fn equal_candidates_get_the_average_with_minimal_moves(
        addresses in 0..80_usize, nodes in 1..9_u32, owners in prop::collection::vec(0..12_u32, 80), seed in any::<u64>(),
    ) {
        let all: Vec<_> = (0..nodes).collect();
        let scene = equal(addresses, &all, seed);
        // Some owners are removed nodes.
        let owners: Placed = owners.iter().enumerate().take(addresses).map(|(at, node)| (address(at), *node)).collect();
        let after = placed(&scene, &owners);
        prop_assert_eq!(after.len(), addresses);
        let loads = loads(&after, all);
        let average = |up: bool| if up { addresses.div_ceil(nodes as usize) } else { addresses / nodes as usize };
        prop_assert!(loads.values().all(|load| (average(false)..=average(true)).contains(load)), "{:?}", loads);
        // The number of moves is minimal: each node keeps as many as it may.
        let mut had: Vec<usize> = (0..nodes).map(|node| owners.values().filter(|owner| **owner == node).count()).collect();
        had.sort_unstable_by(|a, b| b.cmp(a));
        let larger = addresses % nodes as usize;
        let kept = had.iter().enumerate().map(|(rank, had)| (*had).min(average(false) + usize::from(rank < larger)));
        prop_assert_eq!(moves(&owners, &after), addresses - kept.sum::<usize>());
    }

    #[test]
    fn greatest_load_is_minimal(
        candidates in prop::collection::vec(prop::collection::btree_set(0..6_u32, 0..4), 0..30),
        owners in prop::collection::vec(0..6_u32, 30),
    ) {
        let scene: OwnershipInput = candidates.into_iter().enumerate().map(|(at, set)| (address(at), set.into_iter().collect())).collect();
        let owners: Placed = owners.into_iter().enumerate().map(|(at, node)| (address(at), node)).collect();
        let after = placed(&scene, &owners);
        for (address, node) in &after {
            prop_assert!(scene[address].contains(node));
        }
        prop_assert_eq!(loads(&after, []).into_values().max().unwrap_or(0), least_most(&scene, 6));
        prop_assert_eq!(placed(&scene, &after), after, "what is in balance rests");
    }

    #[test]
    fn leaving_and_joining_nodes_move_only_their_share(
        addresses in 1..100_usize, nodes in 2..10_u32, seed in any::<u64>(),
    ) {
        let all: Vec<_> = (0..nodes).collect();
        let scene = equal(addresses, &all, seed);
        let before = placed(&scene, &Placed::new());
        let without: OwnershipInput = scene.iter().map(|(address, order)| {
            (*address, order.iter().copied().filter(|node| *node != 0).collect())
        }).collect();
        let after = placed(&without, &before);
        prop_assert!(before.iter().all(|(address, node)| *node == 0 || after[address] == *node));
        let returned = placed(&scene, &after);
        let moved: BTreeSet<_> = after.iter().filter(|(address, node)| returned[*address] != **node).collect();
        prop_assert!(moved.len() <= addresses.div_ceil(nodes as usize));
        prop_assert!(moved.iter().all(|(address, _)| returned[*address] == 0), "only to who joined");
        prop_assert!(loads(&returned, all)[&0] >= addresses / nodes as usize);
    }
}

/// 10,000 addresses, 1,000 nodes, 16 candidates each: unowned, after a tenth of the nodes left, after they returned,
/// and crowded on few nodes.
#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "what is measured is the time that it takes"
)]
fn ten_thousand_addresses_are_placed_quickly() {
    let mut seed = 1;
    let scene: OwnershipInput = (0..10_000)
        .map(|at| {
            let mut order = Vec::new();
            while order.len() < 16 {
                let node = roll(&mut seed, 1000);
                if !order.contains(&node) {
                    order.push(node);
                }
            }
            (address(at), order)
        })
        .collect();
    let fewer: OwnershipInput = scene
        .iter()
        .map(|(address, order)| {
            (
                *address,
                order.iter().copied().filter(|node| node % 10 != 0).collect(),
            )
        })
        .collect();
    let crowded: Placed = scene
        .iter()
        .filter_map(|(address, order)| Some((*address, *order.iter().min()?)))
        .collect();
    let mut slowest = Duration::ZERO;
    let mut timed = |name: &str, scene: &OwnershipInput, owners: &Placed| {
        let begun = std::time::Instant::now();
        let after = placed(scene, owners);
        let took = begun.elapsed();
        slowest = slowest.max(took);
        let loads = loads(&after, []);
        let most = loads.values().max().copied().unwrap_or_default();
        println!(
            "{name}: {took:?}, {} moves, {most} at most",
            moves(owners, &after)
        );
        (after, most)
    };
    let (all, most) = timed("new", &scene, &Placed::new());
    assert_eq!(most, 10);
    let (left, most) = timed("a tenth left", &fewer, &all);
    assert!(most <= 12);
    let (_, most) = timed("they returned", &scene, &left);
    assert_eq!(most, 10);
    let (_, most) = timed("crowded", &scene, &crowded);
    assert_eq!(most, 10);
    let (_, most) = timed("at rest", &scene, &all);
    assert_eq!(most, 10);
    // An unoptimized build takes less than 100 ms; the rest is for busy machines.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
