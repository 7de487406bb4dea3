//! With `Balanced`: the opinion about who is to have each address, made from what all speakers see alike, the API server's
//! objects. Reads the candidates as [`decide`](crate::decide) found them, and the owners as the ServiceL2Statuses name them;
//! the coordinator acts on it, if the other side is of the same opinion.
//!
//! A ServiceL2Status tells of the first address of its Service only. So the first addresses are balanced, each once whoever
//! shares it, and the second address of a Service follows the first one where it may.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_l2::ownership::ApiState;
use lb_l2::ownership::placement::{PlacementInput, compute_placement};

use crate::decide::MAX_CANDIDATES;
use crate::k8s::index::Index;
use crate::peers::Peers;

/// Least time between two looks: what changes together is looked at together.
const PAUSE: Duration = Duration::from_secs(1);

/// Who is to have each address.
#[derive(Debug, Default)]
pub struct Balance {
    /// Numbers of nodes, because ten thousand addresses name sixteen each.
    numbers: BTreeMap<Arc<str>, u32>,
    /// The candidates of each address in order, by number: the first of them, as all speakers see them.
    orders: BTreeMap<IpAddr, Box<[u32]>>,
    targets: BTreeMap<IpAddr, Arc<str>>,
    changed: bool,
    looked: Option<Instant>,
}

impl Balance {
    /// Something may have changed that the opinion is made from.
    pub fn touch(&mut self) {
        self.changed = true;
    }

    /// These may have the address, in this order; nobody may if it is empty.
    pub fn set_order(&mut self, address: IpAddr, order: &[&str]) {
        // We ourselves may stand behind the others, for us alone.
        let common = order.get(..MAX_CANDIDATES).unwrap_or(order);
        let numbers: Box<[u32]> = common.iter().map(|name| self.number(name)).collect();
        let before = if numbers.is_empty() {
            self.orders.remove(&address)
        } else {
            self.orders.insert(address, numbers)
        };
        self.changed |= before.as_ref() != self.orders.get(&address);
    }

    /// The node that is to have the address.
    #[must_use]
    pub fn target(&self, address: IpAddr) -> Option<&str> {
        self.targets.get(&address).map(|name| &**name)
    }

    /// When to look again; none when nothing has changed.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let looked = self.looked.filter(|_| self.changed)?;
        Some(looked + PAUSE)
    }

    /// Looks again, if something has changed and it is time; returns the addresses that are to be somewhere else now.
    pub fn look(&mut self, now: Instant, index: &Index, peers: &Peers) -> Vec<IpAddr> {
        if !self.changed || self.looked.is_some_and(|at| now < at + PAUSE) {
            return Vec::new();
        }
        (self.changed, self.looked) = (false, Some(now));
        let targets = self.targets(index, peers);
        let before = std::mem::replace(&mut self.targets, targets);
        let after = &self.targets;
        let gone = before.keys().filter(|address| !after.contains_key(*address));
        let differ = after
            .iter()
            .filter(|(address, node)| before.get(*address) != Some(*node));
        gone.chain(differ.map(|(address, _)| address)).copied().collect()
    }

    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        self.numbers.insert(name.into(), number);
        number
    }

    fn targets(&self, index: &Index, peers: &Peers) -> BTreeMap<IpAddr, Arc<str>> {
        // Nodes by the order of their names, which is the same for all speakers. One that is being drained is to get nothing,
        // and neither is one whose speaker the API server does not show, though some of us may hear it.
        let names: Vec<_> = self.numbers.iter().collect();
        let fit = |name: &str| {
            let node = index.nodes.get(name);
            node.is_some_and(|node| !node.leaving) && peers.api(name) != ApiState::Absent
        };
        let mut ranks = vec![None; names.len()];
        for (rank, (name, number)) in (0_u32..).zip(&names) {
            if let Some(place) = ranks.get_mut(**number as usize).filter(|_| fit(name)) {
                *place = Some(rank);
            }
        }
        let rank = |number: &u32| ranks.get(*number as usize).copied().flatten();
        let orders: BTreeMap<IpAddr, Vec<u32>> = self
            .orders
            .iter()
            .map(|(address, order)| (*address, order.iter().filter_map(rank).collect()))
            .collect();
        let mut known: BTreeMap<IpAddr, PlacementInput<'_, u32>> = BTreeMap::new();
        for (key, service) in &index.services {
            let Some((address, candidates)) = service.first().and_then(|first| orders.get_key_value(&first))
            else {
                continue;
            };
            let known = known.entry(*address).or_insert(PlacementInput {
                candidates,
                owner: None,
            });
            // While an owner has changed, or MetalLB's objects are still there, there may be more than one.
            let owners = index.statuses_of(key).filter_map(|(_, record)| {
                let number = self.numbers.get(&record.node)?;
                rank(number).filter(|owner| candidates.contains(owner))
            });
            known.owner = known.owner.or_else(|| owners.min());
        }
        let mut placed = compute_placement(&known);
        for service in index.services.values() {
            let mut addresses = service.addresses.iter();
            let target = addresses.next().and_then(|first| placed.get(first).copied());
            for address in addresses.filter(|address| !known.contains_key(*address)) {
                if let Some(target) = target
                    && orders.get(address).is_some_and(|order| order.contains(&target))
                {
                    placed.entry(*address).or_insert(target);
                }
            }
        }
        let name = |rank: u32| names.get(rank as usize).map(|(name, _)| Arc::clone(name));
        placed
            .into_iter()
            .filter_map(|(address, rank)| Some((address, name(rank)?)))
            .collect()
    }
}
