//! Which node is to have which address, so that each has about as many as the others.
//!
//! A pure function of who may have each address and who has it: speakers that know the same come to the same answer, whatever
//! they knew before. Who has an address keeps it unless balance needs a move, because a move breaks established connections.
//!
//! The answer is balanced when no address can go, directly or by pushing others along, from a node to one that has two
//! fewer. So where every node may have every address no node has more than the average, rounded up, and none fewer than
//! the average, rounded down; where not, the greatest number that a node has is the least that is possible (Harvey,
//! Ladner, Lovász, Tamir: *Semi-Matchings for Bipartite Graphs and Load Balancing*, 2006).
//!
//! Where every node may have every address, no fewer moves lead there. Where not, each step takes the way with the fewest
//! moves, which is not always the fewest in all.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// What is known of an address. `N` names a node; its order decides where nothing else does.
#[derive(Clone, Copy, Debug)]
pub struct PlacementInput<'a, N> {
    /// The nodes that may have it, in the order of [`crate::ownership::election::order`].
    pub candidates: &'a [N],
    /// The node that has it, if any is known. One that may not have it counts for nothing.
    pub owner: Option<N>,
}

/// Who is to have each address; nobody where nobody may.
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

/// An address, with nodes by number.
#[derive(Debug)]
struct Assignment {
    candidates: Vec<usize>,
    owner: Option<usize>,
    target: Option<usize>,
}

impl Assignment {
    /// Whether to give it to another than its present target is one more move.
    fn is_with_owner(&self) -> bool {
        self.owner.is_some() && self.owner == self.target
    }
}

#[derive(Debug, Default)]
struct NodeLoad {
    /// The addresses that it is to have, by number.
    assignments: Vec<usize>,
    /// Those among them that it has already.
    kept: usize,
    /// Nothing that it has can make it any better: it is looked at no more.
    unrelievable: bool,
}

#[derive(Debug)]
struct AssignmentTable {
    assignments: Vec<Assignment>,
    nodes: Vec<NodeLoad>,
}

/// A way by which a node can be relieved: the moves, the last one first, each an address and where it goes.
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

    /// Gives each address that nobody has to the candidate with the fewest, the first in the order among equals.
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

    /// Relieves the nodes that have the most, as long as there is a way.
    fn balance(&mut self) {
        // By how many they have: the first of those with the most is next. A node that is relieved goes to the next pile, and
        // no node ever grows to more than who is being relieved has afterwards.
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

    /// One address of the node that can go to one with two fewer: to the one with the fewest, and rather one that the node
    /// does not have yet.
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
            // Better there is not.
            if best.is_some_and(|(rank, _)| rank == (best_cost, least)) {
                break;
            }
        }
        best.map(|(_, step)| vec![step])
    }

    /// Addresses that can be pushed along, each to a candidate whose own address goes on, until one with two fewer than the
    /// node is reached; with the fewest moves. If there is no way, nothing that was reached needs to be looked at again:
    /// all of it has as many as the node or one fewer, and leads nowhere else.
    fn find_move_chain(&mut self, from: usize) -> Option<MovePath> {
        let limit = self.load(from).checked_sub(2)?;
        // By node: the moves up to it, and the last of them: an address, and who gives it.
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
