//! Computes which node should own each address, so that all nodes own about the same number.
//!
//! A pure function of the candidates and the owner of each address: speakers with the same input get the same result,
//! whatever their history. An owner keeps its address unless balance requires a move, because a move breaks established
//! connections.
//!
//! The result is balanced when no address can move, directly or by a chain of moves, from a node to one that has at
//! least two fewer. If every node is a candidate of every address, each node gets the average, rounded up or down.
//! Otherwise the greatest load is the least possible (Harvey, Ladner, Lovász, Tamir: *Semi-Matchings for Bipartite
//! Graphs and Load Balancing*, 2006).
//!
//! If every node is a candidate of every address, the number of moves is minimal. Otherwise each step uses a path with
//! the fewest moves, whose total is not always minimal.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// One address. `N` identifies a node; its order breaks ties.
#[derive(Clone, Copy, Debug)]
pub struct PlacementInput<'a, N> {
    /// The candidates in [election order](crate::ownership::election::order).
    pub candidates: &'a [N],
    /// The owner, if known; ignored if it is no candidate.
    pub owner: Option<N>,
}

/// Returns the target node of each address; addresses without candidates are left out.
#[must_use]
pub fn compute_placement<N: Copy + Ord>(
    addresses: &BTreeMap<IpAddr, PlacementInput<'_, N>>,
) -> BTreeMap<IpAddr, N> {
    let mut nodes: Vec<N> = addresses
        .values()
        .flat_map(|known| known.candidates.iter().copied())
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    let number = |node: &N| nodes.binary_search(node).ok();
    let mut assignments = Vec::with_capacity(addresses.len());
    for known in addresses.values() {
        let candidates: Vec<_> = known.candidates.iter().filter_map(number).collect();
        let owner = known.owner.as_ref().and_then(number);
        let owner = owner.filter(|owner| candidates.contains(owner));
        assignments.push(Assignment {
            candidates,
            owner,
            target: owner,
        });
    }
    let mut table = AssignmentTable::new(nodes.len(), assignments);
    table.assign_unowned();
    table.balance();
    let target =
        |(address, assignment): (&IpAddr, &Assignment)| Some((*address, *nodes.get(assignment.target?)?));
    addresses
        .keys()
        .zip(&table.assignments)
        .filter_map(target)
        .collect()
}

/// An address; nodes are indexes.
#[derive(Debug)]
struct Assignment {
    candidates: Vec<usize>,
    owner: Option<usize>,
    target: Option<usize>,
}

impl Assignment {
    /// Whether its target is its owner, so that another target costs one move.
    fn is_with_owner(&self) -> bool {
        self.owner.is_some() && self.owner == self.target
    }
}

#[derive(Debug, Default)]
struct NodeLoad {
    /// Indexes of the addresses with this target.
    assignments: Vec<usize>,
    /// The number of them that the node already owns.
    kept: usize,
    /// Nothing that its addresses can reach has a lower load; not searched again.
    unrelievable: bool,
}

#[derive(Debug)]
struct AssignmentTable {
    assignments: Vec<Assignment>,
    nodes: Vec<NodeLoad>,
}

/// The moves that relieve a node, last one first: address and new target.
type MovePath = Vec<(usize, usize)>;

impl AssignmentTable {
    fn new(nodes: usize, assignments: Vec<Assignment>) -> Self {
        let mut table = Self {
            assignments,
            nodes: (0..nodes).map(|_| NodeLoad::default()).collect(),
        };
        for index in 0..table.assignments.len() {
            let owner = table
                .assignments
                .get(index)
                .and_then(|assignment| assignment.owner);
            if let Some(node) = owner.and_then(|owner| table.nodes.get_mut(owner)) {
                node.assignments.push(index);
                node.kept += 1;
            }
        }
        table
    }

    fn load(&self, node: usize) -> usize {
        self.nodes.get(node).map_or(0, |node| node.assignments.len())
    }

    /// Gives each unowned address to its candidate with the least load; among equals, to the first in the order.
    fn assign_unowned(&mut self) {
        for index in 0..self.assignments.len() {
            let Some(assignment) = self
                .assignments
                .get(index)
                .filter(|assignment| assignment.target.is_none())
            else {
                continue;
            };
            let candidates = assignment.candidates.iter().copied();
            if let Some(least) = candidates.min_by_key(|node| self.load(*node)) {
                self.assign(index, least);
            }
        }
    }

    /// Relieves the nodes with the greatest load as long as possible.
    fn balance(&mut self) {
        // By descending load. A relieved node is handled again with the next lower load, and no node grows beyond the
        // load that the relieved one has afterwards.
        let most = (0..self.nodes.len()).map(|node| self.load(node)).max();
        for load in (2..=most.unwrap_or(0)).rev() {
            for node in 0..self.nodes.len() {
                while self.load(node) == load && self.nodes.get(node).is_some_and(|node| !node.unrelievable) {
                    let Some(path) = self.find_direct_move(node).or_else(|| self.find_move_chain(node))
                    else {
                        break;
                    };
                    for (index, to) in path {
                        self.assign(index, to);
                    }
                }
            }
        }
    }

    /// Finds an address of the node that can move to a node with at least two fewer. Prefers one that the node does not
    /// own yet, then the target with the least load.
    fn find_direct_move(&self, from: usize) -> Option<MovePath> {
        let node = self.nodes.get(from)?;
        let least = self.nodes.iter().map(|node| node.assignments.len()).min()?;
        let best_cost = usize::from(node.kept == node.assignments.len());
        let mut best: Option<((usize, usize), (usize, usize))> = None;
        for index in node.assignments.iter().rev() {
            let Some(assignment) = self.assignments.get(*index) else {
                continue;
            };
            let cost = usize::from(assignment.is_with_owner());
            for to in &assignment.candidates {
                let rank = (cost, self.load(*to));
                if rank.1 + 2 <= node.assignments.len() && best.is_none_or(|(before, _)| rank < before) {
                    best = Some((rank, (*index, *to)));
                }
            }
            // Nothing better exists.
            if best.is_some_and(|(rank, _)| rank == (best_cost, least)) {
                break;
            }
        }
        best.map(|(_, step)| vec![step])
    }

    /// Finds the chain with the fewest moves to a node with at least two fewer addresses; each node in between passes
    /// one address on. If no chain exists, the nodes reached need not be searched again: their loads are equal or one
    /// lower, and they lead nowhere else.
    fn find_move_chain(&mut self, from: usize) -> Option<MovePath> {
        let limit = self.load(from).checked_sub(2)?;
        // Per node: the moves up to it, and the last of them as (address, source node).
        let mut reached: BTreeMap<usize, (usize, Option<(usize, usize)>)> =
            BTreeMap::from([(from, (0, None))]);
        let mut queue = VecDeque::from([(0, from)]);
        while let Some((moves, node)) = queue.pop_front() {
            if reached.get(&node).is_some_and(|(fewest, _)| *fewest < moves) {
                continue;
            }
            if self.load(node) <= limit {
                let mut path = Vec::new();
                let mut to = node;
                while let Some((_, Some((index, giver)))) = reached.get(&to) {
                    path.push((*index, to));
                    to = *giver;
                }
                return Some(path);
            }
            for index in self
                .nodes
                .get(node)
                .into_iter()
                .flat_map(|node| &node.assignments)
            {
                let Some(assignment) = self.assignments.get(*index) else {
                    continue;
                };
                let moves = moves + usize::from(assignment.is_with_owner());
                for to in &assignment.candidates {
                    let unrelievable = self.nodes.get(*to).is_none_or(|to| to.unrelievable);
                    if unrelievable || reached.get(to).is_some_and(|(fewest, _)| *fewest <= moves) {
                        continue;
                    }
                    reached.insert(*to, (moves, Some((*index, node))));
                    if assignment.is_with_owner() {
                        queue.push_back((moves, *to));
                    } else {
                        queue.push_front((moves, *to));
                    }
                }
            }
        }
        for node in reached.into_keys() {
            if let Some(node) = self.nodes.get_mut(node) {
                node.unrelievable = true;
            }
        }
        None
    }

    fn assign(&mut self, index: usize, to: usize) {
        let Some(assignment) = self.assignments.get_mut(index) else {
            return;
        };
        let stayed = assignment.is_with_owner();
        let from = assignment.target.replace(to);
        let stays = assignment.is_with_owner();
        if let Some(from) = from.and_then(|from| self.nodes.get_mut(from)) {
            if let Some(place) = from
                .assignments
                .iter()
                .rposition(|assignment| *assignment == index)
            {
                from.assignments.remove(place);
            }
            from.kept -= usize::from(stayed);
        }
        if let Some(to) = self.nodes.get_mut(to) {
            to.assignments.push(index);
            to.kept += usize::from(stays);
        }
    }
}
