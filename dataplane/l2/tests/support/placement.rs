//! Placement on the simulated network: the records of the API server, and the preferences that follow.

use super::{BTreeMap, IpAddr, Network, ms};
use lb_l2::ownership::placement::{PlacementInput, compute_placement};

impl Network {
    /// Advances the clock; every second all speakers recompute placement.
    pub(crate) fn balance(&mut self, seconds: u64) {
        let everybody: Vec<_> = (0..self.hosts.len()).collect();
        for _ in 0..seconds {
            self.record();
            self.look(&everybody);
            self.run(ms(1000));
        }
    }

    /// Records the present owners.
    pub(crate) fn record(&mut self) {
        for address in self.addresses.clone() {
            if let [owner] = self.owners(address)[..] {
                self.records.insert(address, owner);
            }
        }
    }

    /// Recomputes the preferences of these speakers from the records.
    pub(crate) fn look(&mut self, nodes: &[usize]) {
        let orders: Vec<Vec<usize>> = self
            .addresses
            .iter()
            .zip(&self.orders)
            .map(|(address, order)| {
                let may = |node: &&usize| {
                    self.hosts[**node].powered && !self.excluded.contains(&(**node, *address))
                };
                order.iter().filter(may).take(16).copied().collect()
            })
            .collect();
        let known: BTreeMap<_, _> = self
            .addresses
            .iter()
            .zip(&orders)
            .map(|(address, candidates)| {
                let owner = self.records.get(address).copied();
                (*address, PlacementInput { candidates, owner })
            })
            .collect();
        let placed = compute_placement(&known);
        for node in nodes {
            for (address, target) in &placed {
                self.set_preferred(*node, *address, *target);
            }
            self.work(*node);
        }
    }

    /// Sets the preferred owner of an address on one node.
    pub(crate) fn set_preferred(&mut self, node: usize, address: IpAddr, target: usize) {
        self.preferences.insert((node, address), target);
        if let Some(process) = &mut self.hosts[node].process {
            process
                .coordinator
                .set_preferred(address, Some(&self.names[target]));
        }
    }

    /// The number of addresses of each node.
    pub(crate) fn loads(&self) -> Vec<usize> {
        let mut loads = vec![0; self.hosts.len()];
        for owner in self.sole_owners().into_values() {
            loads[owner] += 1;
        }
        loads
    }
}
