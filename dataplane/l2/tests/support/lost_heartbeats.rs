//! The matrix of lost heartbeats: which of them are lost, since when, and what happens then. ARP and NDP still work.
//!
//! In each cell, frames pass between the nodes, so two owners see each other. The bounds are in milliseconds.

use std::net::IpAddr;

use super::network::{LOSSLESS, Network, NetworkConditions, ms};

const NODES: usize = 4;
const STEP_MS: u64 = 10;
/// Longest time with two owners between which frames pass.
const MAX_TWO_OWNERS_MS: u64 = 100;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lost {
    Nothing,
    All,
    /// Between the owner and its first backup.
    OwnerAndBackup,
    /// Between the two first backups.
    Backups,
    /// From the owner to its first backup.
    ToBackup,
    /// From the first backup to the owner.
    ToOwner,
    /// From the first to the second backup.
    BetweenBackups,
    /// From the second to the first backup.
    BackBetweenBackups,
}

const LOST: [Lost; 7] = [
    Lost::All,
    Lost::OwnerAndBackup,
    Lost::Backups,
    Lost::ToBackup,
    Lost::ToOwner,
    Lost::BetweenBackups,
    Lost::BackBetweenBackups,
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    NewService,
    PowerLoss,
    Restart,
    /// The node shuts down: its speaker tells that it restarts.
    Shutdown,
    Drain,
    CableCut,
    /// No node sees the API any longer, then the owner loses power.
    PowerLossWithoutApi,
    /// The owner does not see that it may not announce the address any longer.
    ExcludedUnseen,
    /// The next owner does not see that the owner may not announce the address any longer.
    ExcludedUnseenByNext,
}

const FAULTS: [Fault; 9] = [
    Fault::NewService,
    Fault::PowerLoss,
    Fault::Restart,
    Fault::Shutdown,
    Fault::Drain,
    Fault::CableCut,
    Fault::PowerLossWithoutApi,
    Fault::ExcludedUnseen,
    Fault::ExcludedUnseenByNext,
];

impl Fault {
    const fn takes_the_owner(self) -> bool {
        matches!(
            self,
            Self::PowerLoss | Self::Shutdown | Self::CableCut | Self::PowerLossWithoutApi
        )
    }

    /// The time to observe: longer than the grace period after a restart.
    const fn observed_ms(self) -> u64 {
        match self {
            Self::Restart => 64_000,
            Self::ExcludedUnseen | Self::ExcludedUnseenByNext => 40_000,
            Self::Shutdown => 20_000,
            _ => 15_000,
        }
    }
}

/// What was observed in one cell.
#[derive(Clone, Copy, Debug, Default)]
struct Observed {
    /// The longest time with two owners between which frames pass.
    two_owners_ms: u64,
    /// The longest time in which nobody answered, although an eligible node lives.
    no_owner_ms: u64,
    /// How often the owner changed.
    moves: usize,
    /// Whether the address moved within the last third of the time.
    unsettled: bool,
    /// Whether the address had not exactly one owner before the fault or at the end, moved in a restart, or another
    /// address moved.
    wrong: bool,
}

impl Observed {
    fn max(self, other: Self) -> Self {
        Self {
            two_owners_ms: self.two_owners_ms.max(other.two_owners_ms),
            no_owner_ms: self.no_owner_ms.max(other.no_owner_ms),
            moves: self.moves.max(other.moves),
            unsettled: self.unsettled | other.unsettled,
            wrong: self.wrong | other.wrong,
        }
    }
}

/// Runs for `time` milliseconds and observes one address. Owners in `gone` reach nobody.
fn observe(lan: &mut Network, address: IpAddr, time: u64, gone: &[usize]) -> Observed {
    let mut observed = Observed::default();
    let (mut two, mut none) = (0, 0);
    let reachable = |lan: &Network| -> Vec<usize> {
        let mut owners = lan.owners(address);
        owners.retain(|node| !gone.contains(node));
        owners
    };
    let mut last = reachable(lan);
    for step in 0..time / STEP_MS {
        lan.run(ms(STEP_MS));
        let owners = reachable(lan);
        two = if lan.any_connected(&owners) || lan.is_proxied_beside(address, &owners) {
            two + STEP_MS
        } else {
            0
        };
        let answered = !owners.is_empty() || lan.is_proxied(address);
        let able = (0..NODES).any(|node| !gone.contains(&node) && lan.is_active(node));
        none = if answered || !able { 0 } else { none + STEP_MS };
        observed.two_owners_ms = observed.two_owners_ms.max(two);
        observed.no_owner_ms = observed.no_owner_ms.max(none);
        if owners != last {
            observed.moves += usize::from(!owners.is_empty());
            observed.unsettled |= step * 3 > 2 * (time / STEP_MS);
            last = owners;
        }
    }
    observed
}

fn block(lan: &mut Network, lost: Lost, address: IpAddr) {
    let [owner, first, second] = lan.first_of(address);
    let pairs: &[_] = match lost {
        Lost::Nothing => &[],
        Lost::All => {
            lan.drop_all_heartbeats = true;
            &[]
        }
        Lost::OwnerAndBackup => &[(owner, first), (first, owner)],
        Lost::Backups => &[(first, second), (second, first)],
        Lost::ToBackup => &[(owner, first)],
        Lost::ToOwner => &[(first, owner)],
        Lost::BetweenBackups => &[(first, second)],
        Lost::BackBetweenBackups => &[(second, first)],
    };
    lan.blocked.extend(pairs);
}

fn run_cell(seed: u64, (lost, heard_before, fault): Cell, off_link: bool) -> Observed {
    let conditions = NetworkConditions {
        drift: seed % 2,
        delay: 300 + 1000 * (seed % 3),
        ..LOSSLESS
    };
    let mut lan = Network::new(seed, NODES, 8, conditions);
    lan.off_link = off_link;
    let address = lan.addresses[0];
    if !heard_before {
        block(&mut lan, lost, address);
    }
    lan.run(ms(4000));
    if fault == Fault::NewService {
        lan.release(address);
    }
    if heard_before {
        block(&mut lan, lost, address);
    }
    strike(&mut lan, address, fault, off_link)
}

/// Lets the fault happen, and observes the address.
fn strike(lan: &mut Network, address: IpAddr, fault: Fault, off_link: bool) -> Observed {
    let pause = lan.rng.below(5000);
    lan.run(ms(2000 + pause));
    let others: Vec<_> = lan.addresses[1..]
        .iter()
        .map(|address| (*address, lan.owners(*address)))
        .collect();
    let owners = lan.owners(address);
    if owners.len() != usize::from(fault != Fault::NewService) {
        return Observed {
            wrong: true,
            ..Observed::default()
        };
    }
    let owner = owners.first().copied().unwrap_or(NODES);
    let mut gone = Vec::new();
    match fault {
        Fault::NewService => lan.create(address),
        Fault::PowerLoss => lan.power_off(owner),
        Fault::Restart => {
            lan.outdated_records.insert(owner, vec![address]);
            lan.leave(owner);
            lan.start_after(owner, ms(1500));
        }
        Fault::Shutdown => {
            lan.leave(owner);
            lan.run(ms(200));
            lan.power_off(owner);
        }
        Fault::Drain => lan.drain(owner, true),
        Fault::CableCut => {
            lan.split(&[owner], 1);
            gone.push(owner);
        }
        Fault::PowerLossWithoutApi => {
            lan.stale_api = (0..NODES).collect();
            lan.power_off(owner);
        }
        Fault::ExcludedUnseen => {
            lan.stale_api.insert(owner);
            lan.exclude(owner, address);
        }
        Fault::ExcludedUnseenByNext => {
            let [_, next, _] = lan.first_of(address);
            lan.stale_api.insert(next);
            lan.exclude(owner, address);
        }
    }
    let time = fault.observed_ms() + if off_link { 30_000 } else { 0 };
    let mut observed = observe(lan, address, time, &gone);
    let in_reach = |lan: &Network, address| -> Vec<usize> {
        let mut owners = lan.owners(address);
        owners.retain(|node| !gone.contains(node));
        owners
    };
    let at_the_end = in_reach(lan, address);
    observed.wrong |= at_the_end.len() != 1;
    observed.wrong |= fault == Fault::Restart && at_the_end != owners;
    for (other, had) in others {
        let unaffected = had != [owner];
        observed.wrong |= unaffected && in_reach(lan, other) != had;
    }
    observed
}

/// The longest time without an owner, by fault: the failover time, or the time until the network shows that a peer
/// whose heartbeats are lost does not announce.
fn max_no_owner_ms((lost, heard_before, fault): Cell) -> u64 {
    let unheard_owner = match lost {
        Lost::All => true,
        Lost::OwnerAndBackup | Lost::ToBackup | Lost::ToOwner => !heard_before,
        _ => false,
    };
    match fault {
        Fault::NewService => 1500,
        _ if fault.takes_the_owner() && unheard_owner && !heard_before => 12_000,
        _ if fault.takes_the_owner() => 1500,
        Fault::Restart => 2500,
        // Only the network shows that the owner has withdrawn, and it is asked every 8 s.
        Fault::ExcludedUnseenByNext if lost == Lost::All => 12_000,
        _ => 1500,
    }
}

/// A cell of the matrix: the lost heartbeats, whether they were heard before, and the event.
type Cell = (Lost, bool, Fault);

/// Runs the cells and prints the results.
#[allow(clippy::print_stdout, clippy::unwrap_used, reason = "a helper of tests")]
fn run_matrix(lost: &[Lost], off_link: bool, max_no_owner_ms: impl Fn(Cell) -> u64) {
    #[allow(clippy::disallowed_methods, reason = "a longer run by hand")]
    let seeds = std::env::var("SEEDS").map_or(1, |seeds| seeds.parse().unwrap());
    println!("| lost heartbeats | heard before | fault | two owners | no owner | moves |");
    let mut failed = Vec::new();
    let with_faults = |lost, heard| FAULTS.map(move |fault| (lost, heard, fault));
    let cells = lost
        .iter()
        .flat_map(|lost| [false, true].map(|heard| (*lost, heard)));
    for cell in cells.flat_map(|(lost, heard)| with_faults(lost, heard)) {
        let observed = (0..seeds)
            .map(|seed| run_cell(seed, cell, off_link))
            .fold(Observed::default(), Observed::max);
        let (lost, heard_before, fault) = cell;
        println!(
            "| {lost:?} | {heard_before} | {fault:?} | {} ms | {} ms | {} |",
            observed.two_owners_ms, observed.no_owner_ms, observed.moves
        );
        if observed.two_owners_ms > MAX_TWO_OWNERS_MS
            || observed.no_owner_ms > max_no_owner_ms(cell)
            || observed.unsettled
            || observed.wrong
        {
            failed.push((cell, observed));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn one_owner_whatever_heartbeats_are_lost() {
    run_matrix(&LOST, false, max_no_owner_ms);
}

/// The InternalIPs are on another network than the addresses: only speakers can be queried, for their addresses.
#[test]
fn one_owner_if_nodes_cannot_be_queried() {
    let lost = [Lost::Nothing, Lost::All, Lost::OwnerAndBackup, Lost::ToBackup];
    run_matrix(&lost, true, |cell| match cell {
        // Nothing shows that the owner does not announce any longer, except to nodes that try to claim.
        (lost, false, fault) if lost != Lost::Nothing && fault.takes_the_owner() => 15_000,
        (_, false, Fault::ExcludedUnseenByNext) => 12_000,
        // The node looks like one that restarts its speaker.
        (_, _, Fault::Shutdown) => 10_500,
        _ => max_no_owner_ms(cell),
    });
}

/// Which node owns the address depends on history, because ownership is sticky: each position in the order, with each
/// peer from or to which heartbeats are lost.
#[test]
fn one_owner_whichever_node_it_is() {
    const FEW: usize = 3;
    let mut failed = Vec::new();
    for (owner, peer) in (0..FEW).flat_map(|owner| (0..FEW).map(move |peer| (owner, peer))) {
        if owner == peer {
            continue;
        }
        for lost in [Lost::OwnerAndBackup, Lost::ToBackup, Lost::ToOwner] {
            for fault in FAULTS.into_iter().filter(|fault| *fault != Fault::NewService) {
                let mut lan = Network::new(owner as u64, FEW, 4, LOSSLESS);
                let address = lan.addresses[0];
                lan.run(ms(4000));
                let order = [0, 1, 2].map(|position| lan.candidate(address, position));
                for node in &order[..owner] {
                    lan.drain(*node, true);
                    lan.run(ms(3000));
                }
                for node in &order[..owner] {
                    lan.drain(*node, false);
                }
                lan.run(ms(3000));
                assert_eq!(lan.owners(address), [order[owner]]);
                let (to_peer, to_owner) = ((order[owner], order[peer]), (order[peer], order[owner]));
                let pairs: &[_] = match lost {
                    Lost::OwnerAndBackup => &[to_peer, to_owner],
                    Lost::ToBackup => &[to_peer],
                    _ => &[to_owner],
                };
                lan.blocked.extend(pairs);
                let observed = strike(&mut lan, address, fault, false);
                if observed.two_owners_ms > MAX_TWO_OWNERS_MS
                    || observed.no_owner_ms > max_no_owner_ms((lost, true, fault))
                    || observed.unsettled
                    || observed.wrong
                {
                    failed.push((owner, peer, lost, fault, observed));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A machine that stood still for longer than the timeout, while the next owner served: the address stays there.
#[test]
fn stalled_owner_takes_nothing_back() {
    for seed in 0..30 {
        let mut lan = Network::new(seed, NODES, 20, LOSSLESS);
        lan.run(ms(2000));
        let node = lan.first_candidate(lan.addresses[0]);
        let time = 700 + lan.rng.below(2300);
        lan.stun(node, ms(time));
        lan.run(ms(time - 50));
        let claimed: Vec<_> = lan
            .changes
            .iter()
            .filter(|change| change.announced && change.node != node)
            .collect();
        let claimed: std::collections::BTreeMap<_, _> = claimed
            .iter()
            .map(|change| (change.address, change.node))
            .collect();
        lan.run(ms(3000));
        for (address, owner) in lan.sole_owners() {
            assert_eq!(owner, claimed[&address], "seed {seed}, {time} ms: {address}");
        }
    }
}

/// A virtual machine stands still for the time of a live migration.
#[test]
fn stall_of_200_milliseconds_moves_no_address() {
    for seed in 0..40 {
        let mut lan = Network::new(seed, NODES, 20, LOSSLESS);
        lan.run(ms(2000));
        let before = lan.sole_owners();
        for node in 0..NODES {
            let pause = lan.rng.below(500);
            lan.run(ms(pause));
            lan.stun(node, ms(200));
            lan.run(ms(1500));
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
        assert_eq!(lan.causes.len(), 20, "seed {seed}");
    }
}

/// The same at every time between two heartbeats, because the last one before the stall is then of another age.
#[test]
fn stall_of_200_milliseconds_is_tolerated_at_every_phase_of_the_heartbeat() {
    for (phase, node) in (0..=80).flat_map(|phase| (0..3).map(move |node| (phase, node))) {
        let mut lan = Network::new(node as u64, 3, 6, LOSSLESS);
        lan.run(ms(2000) + ms(phase) / 2);
        let before = lan.sole_owners();
        lan.stun(node, ms(200));
        lan.run(ms(1500));
        assert_eq!(lan.sole_owners(), before, "after {phase} / 2 ms: n{node}");
        assert_eq!(lan.causes.len(), 6, "after {phase} / 2 ms: {:?}", lan.causes);
    }
}

/// A longer stall moves the addresses once: they do not return when the machine wakes up.
#[test]
fn long_stall_ends_with_one_owner() {
    for seed in 0..30 {
        let mut lan = Network::new(seed, NODES, 20, LOSSLESS);
        lan.run(ms(2000));
        let address = lan.addresses[0];
        let owner = lan.owners(address)[0];
        let time = 250 + lan.rng.below(2750);
        lan.stun(owner, ms(time));
        let observed = observe(&mut lan, address, 8000, &[]);
        lan.sole_owners();
        assert!(
            observed.two_owners_ms <= 300 && !observed.unsettled,
            "seed {seed}, {time} ms: {observed:?}"
        );
        assert!(
            observed.no_owner_ms <= 100,
            "seed {seed}, {time} ms: {observed:?}"
        );
    }
}

/// A burst of loss that hits all nodes. Up to 400 ms, nobody claims anything.
#[test]
fn burst_of_loss_on_all_links_moves_no_address() {
    for seed in 0..40 {
        let mut lan = Network::new(seed, NODES, 20, LOSSLESS);
        lan.run(ms(2000));
        let before = lan.sole_owners();
        for _ in 0..4 {
            let (pause, time) = (lan.rng.below(500), lan.rng.below(400));
            lan.run(ms(pause));
            lan.lose_everything(ms(time));
            lan.run(ms(1500));
            assert_eq!(lan.sole_owners(), before, "seed {seed}, {time} ms");
        }
        assert_eq!(lan.causes.len(), 20, "seed {seed}");
    }
}

/// Without the Node object its heartbeats are not accepted any longer, but its speaker still answers.
#[test]
fn deleted_node_that_lives_keeps_its_address() {
    for seed in 0..10 {
        let mut lan = Network::new(seed, NODES, 20, LOSSLESS);
        lan.run(ms(2000));
        let address = lan.addresses[0];
        let owner = lan.owners(address)[0];
        lan.stale_api.insert(owner);
        lan.delete_node(owner);
        let observed = observe(&mut lan, address, 10_000, &[]);
        assert!(observed.two_owners_ms <= 300, "seed {seed}: {observed:?}");
        assert_eq!(lan.owners(address).len(), 1, "seed {seed}");
        lan.power_off(owner);
        let observed = observe(&mut lan, address, 15_000, &[]);
        assert!(observed.no_owner_ms <= 12_000, "seed {seed}: {observed:?}");
        assert_eq!(lan.owners(address).len(), 1, "seed {seed}");
    }
}
