//! Balanced placement: the preferred owner of each address. Computed from objects of the API server, which all speakers see
//! alike: the candidates that [`decide`](crate::decide) found, and the owners that the ServiceL2Statuses name. The coordinator
//! moves an address when both nodes prefer the same target.
//!
//! A ServiceL2Status covers the first address of its Service only. So the first addresses are balanced, shared ones once, and
//! the second address of a Service follows the first if it can.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_l2::ownership::ApiState;
use lb_l2::ownership::placement::{PlacementInput, compute_placement};

use crate::decide::MAX_CANDIDATES;
use crate::k8s::index::Index;
use crate::peers::Peers;

/// Minimum time between two computations, so that changes are batched.
const RECOMPUTE_INTERVAL: Duration = Duration::from_secs(1);

/// The preferred owner of each address.
#[derive(Debug, Default)]
pub struct Balance {
    /// Numbers of nodes: ten thousand addresses have sixteen candidates each.
    numbers: BTreeMap<Arc<str>, u32>,
    /// The first candidates of each address in order, by number, the same on all speakers.
    orders: BTreeMap<IpAddr, Box<[u32]>>,
    targets: BTreeMap<IpAddr, Arc<str>>,
    changed: bool,
    computed_at: Option<Instant>,
}

impl Balance {
    /// Marks the inputs as changed.
    pub fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Sets the election order of an address; empty without candidates.
    pub fn set_candidates(&mut self, address: IpAddr, order: &[&str]) {
        // The local node may follow behind, on this speaker only.
        let common = order.get(..MAX_CANDIDATES).unwrap_or(order);
        let numbers: Box<[u32]> = common.iter().map(|name| self.number(name)).collect();
        let before = if numbers.is_empty() {
            self.orders.remove(&address)
        } else {
            self.orders.insert(address, numbers)
        };
        self.changed |= before.as_ref() != self.orders.get(&address);
    }

    /// The preferred owner of the address.
    #[must_use]
    pub fn target(&self, address: IpAddr) -> Option<&str> {
        self.targets.get(&address).map(|name| &**name)
    }

    /// The time of the next call of [`recompute`](Self::recompute); `None` when nothing changed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let computed_at = self.computed_at.filter(|_| self.changed)?;
        Some(computed_at + RECOMPUTE_INTERVAL)
    }

    /// Computes the preferred owners if that is due. Returns the addresses whose preferred owner changed.
    pub fn recompute(&mut self, now: Instant, index: &Index, peers: &Peers) -> Vec<IpAddr> {
        if !self.changed || self.computed_at.is_some_and(|at| now < at + RECOMPUTE_INTERVAL) {
            return Vec::new();
        }
        (self.changed, self.computed_at) = (false, Some(now));
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
        // Nodes in the order of their names, the same on all speakers. Draining nodes get no address, and neither do nodes whose
        // speaker only some peers hear.
        let names: Vec<_> = self.numbers.iter().collect();
        let is_target = |name: &str| {
            let node = index.nodes.get(name);
            node.is_some_and(|node| !node.draining) && peers.api(name) != ApiState::Absent
        };
        let mut ranks = vec![None; names.len()];
        for (rank, (name, number)) in (0_u32..).zip(&names) {
            if let Some(place) = ranks.get_mut(**number as usize).filter(|_| is_target(name)) {
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
            // After a change of owner, or with objects of MetalLB, there may be several.
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
