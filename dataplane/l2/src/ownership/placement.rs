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
pub struct Known<'a, N> {
    /// The nodes that may have it, in the order of [`crate::ownership::election::order`].
    pub candidates: &'a [N],
    /// The node that has it, if any is known. One that may not have it counts for nothing.
    pub owner: Option<N>,
}

/// Who is to have each address; nobody where nobody may.
#[must_use]
pub fn place<N: Copy + Ord>(addresses: &BTreeMap<IpAddr, Known<'_, N>>) -> BTreeMap<IpAddr, N> {
    let mut nodes: Vec<N> = addresses
        .values()
        .flat_map(|known| known.candidates.iter().copied())
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    let number = |node: &N| nodes.binary_search(node).ok();
    let mut seats = Vec::with_capacity(addresses.len());
    for known in addresses.values() {
        let candidates: Vec<_> = known.candidates.iter().filter_map(number).collect();
        let owner = known.owner.as_ref().and_then(number);
        let owner = owner.filter(|owner| candidates.contains(owner));
        seats.push(Seat {
            candidates,
            owner,
            target: owner,
        });
    }
    let mut table = Table::new(nodes.len(), seats);
    table.fill();
    table.balance();
    let target = |(address, seat): (&IpAddr, &Seat)| Some((*address, *nodes.get(seat.target?)?));
    addresses.keys().zip(&table.seats).filter_map(target).collect()
}

/// An address, with nodes by number.
#[derive(Debug)]
struct Seat {
    candidates: Vec<usize>,
    owner: Option<usize>,
    target: Option<usize>,
}

impl Seat {
    /// Whether to give it to another than its present target is one more move.
    fn stays(&self) -> bool {
        self.owner.is_some() && self.owner == self.target
    }
}

#[derive(Debug, Default)]
struct Node {
    /// The addresses that it is to have, by number.
    seats: Vec<usize>,
    /// Those among them that it has already.
    staying: usize,
    /// Nothing that it has can make it any better: it is looked at no more.
    done: bool,
}

#[derive(Debug)]
struct Table {
    seats: Vec<Seat>,
    nodes: Vec<Node>,
}

/// A way by which a node can be relieved: the moves, the last one first, each an address and where it goes.
type Way = Vec<(usize, usize)>;

impl Table {
    fn new(nodes: usize, seats: Vec<Seat>) -> Self {
        let mut table = Self {
            seats,
            nodes: (0..nodes).map(|_| Node::default()).collect(),
        };
        for at in 0..table.seats.len() {
            let owner = table.seats.get(at).and_then(|seat| seat.owner);
            if let Some(node) = owner.and_then(|owner| table.nodes.get_mut(owner)) {
                node.seats.push(at);
                node.staying += 1;
            }
        }
        table
    }

    fn load(&self, node: usize) -> usize {
        self.nodes.get(node).map_or(0, |node| node.seats.len())
    }

    /// Gives each address that nobody has to the candidate with the fewest, the first in the order among equals.
    fn fill(&mut self) {
        for at in 0..self.seats.len() {
            let Some(seat) = self.seats.get(at).filter(|seat| seat.target.is_none()) else {
                continue;
            };
            let candidates = seat.candidates.iter().copied();
            if let Some(least) = candidates.min_by_key(|node| self.load(*node)) {
                self.put(at, least);
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
                while self.load(node) == load && self.nodes.get(node).is_some_and(|node| !node.done) {
                    let Some(way) = self.direct(node).or_else(|| self.detour(node)) else {
                        break;
                    };
                    for (at, to) in way {
                        self.put(at, to);
                    }
                }
            }
        }
    }

    /// One address of the node that can go to one with two fewer: to the one with the fewest, and rather one that the node
    /// does not have yet.
    fn direct(&self, from: usize) -> Option<Way> {
        let node = self.nodes.get(from)?;
        let least = self.nodes.iter().map(|node| node.seats.len()).min()?;
        let best_cost = usize::from(node.staying == node.seats.len());
        let mut best: Option<((usize, usize), (usize, usize))> = None;
        for at in node.seats.iter().rev() {
            let Some(seat) = self.seats.get(*at) else { continue };
            let cost = usize::from(seat.stays());
            for to in &seat.candidates {
                let rank = (cost, self.load(*to));
                if rank.1 + 2 <= node.seats.len() && best.is_none_or(|(before, _)| rank < before) {
                    best = Some((rank, (*at, *to)));
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
    fn detour(&mut self, from: usize) -> Option<Way> {
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
                let mut way = Vec::new();
                let mut to = node;
                while let Some((_, Some((at, giver)))) = reached.get(&to) {
                    way.push((*at, to));
                    to = *giver;
                }
                return Some(way);
            }
            for at in self.nodes.get(node).into_iter().flat_map(|node| &node.seats) {
                let Some(seat) = self.seats.get(*at) else { continue };
                let moves = moves + usize::from(seat.stays());
                for to in &seat.candidates {
                    let done = self.nodes.get(*to).is_none_or(|to| to.done);
                    if done || reached.get(to).is_some_and(|(fewest, _)| *fewest <= moves) {
                        continue;
                    }
                    reached.insert(*to, (moves, Some((*at, node))));
                    if seat.stays() {
                        queue.push_back((moves, *to));
                    } else {
                        queue.push_front((moves, *to));
                    }
                }
            }
        }
        for node in reached.into_keys() {
            if let Some(node) = self.nodes.get_mut(node) {
                node.done = true;
            }
        }
        None
    }

    fn put(&mut self, at: usize, to: usize) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        let stayed = seat.stays();
        let from = seat.target.replace(to);
        let stays = seat.stays();
        if let Some(from) = from.and_then(|from| self.nodes.get_mut(from)) {
            if let Some(place) = from.seats.iter().rposition(|seat| *seat == at) {
                from.seats.remove(place);
            }
            from.staying -= usize::from(stayed);
        }
        if let Some(to) = self.nodes.get_mut(to) {
            to.seats.push(at);
            to.staying += usize::from(stays);
        }
    }
}
