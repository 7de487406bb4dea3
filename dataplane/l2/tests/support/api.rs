//! What the API server tells the speakers: nodes and candidates. A node in `stale_api` keeps its view.

use std::net::IpAddr;

use lb_l2::ownership::{ApiState, Candidates, NodeInfo};

use super::Network;

impl Network {
    pub(super) fn tell_nodes(&mut self, to: usize) {
        let local = self.local(to);
        let version = self.api_version;
        let (names, deleted) = (&self.names, &self.deleted);
        if let Some(process) = &mut self.hosts[to].process {
            process.coordinator.set_api_version(local, version);
            let nodes = names
                .iter()
                .enumerate()
                .filter(|(node, _)| !deleted.contains(node));
            process.coordinator.set_nodes(
                local,
                nodes.map(|(_, name)| NodeInfo {
                    name,
                    api: ApiState::Ready,
                    on_link: !self.off_link,
                }),
            );
        }
    }

    pub(super) fn tell_candidates(&mut self, to: usize, only: Option<IpAddr>) {
        let (local, version) = (self.local(to), self.api_version);
        if let Some(process) = &mut self.hosts[to].process {
            process.coordinator.set_api_version(local, version);
        }
        for (at, address) in self.addresses.iter().enumerate() {
            if only.is_some_and(|only| only != *address) {
                continue;
            }
            let may =
                |node: &&usize| !self.excluded.contains(&(**node, *address)) && !self.deleted.contains(*node);
            let mut nodes: Vec<_> = self.orders[at].iter().filter(may).copied().collect();
            nodes.truncate(16);
            let order: Vec<_> = nodes.iter().map(|node| self.names[*node].as_str()).collect();
            let voters = self.orders[at]
                .iter()
                .filter(|node| !self.deleted.contains(*node));
            let voters: Vec<_> = voters.map(|node| self.names[*node].as_str()).collect();
            let preferred = self.preferences.get(&(to, *address));
            let preferred = preferred.map(|node| self.names[*node].as_str());
            if let Some(process) = &mut self.hosts[to].process {
                process.coordinator.set_candidates(
                    *address,
                    Some(Candidates {
                        order: &order,
                        voters: &voters,
                        no_interface: self.unplugged.contains(&to),
                        preferred,
                    }),
                );
            }
        }
    }

    /// The nodes that see changes of the API objects.
    fn informed(&mut self) -> Vec<usize> {
        self.api_version += u64::from(self.counts_versions);
        let all = 0..self.hosts.len();
        all.filter(|node| !self.stale_api.contains(node)).collect()
    }

    /// Excludes a node from an address, as a changed selector does.
    pub(crate) fn exclude(&mut self, node: usize, address: IpAddr) {
        self.excluded.insert((node, address));
        for to in self.informed() {
            self.tell_candidates(to, Some(address));
            self.work(to);
        }
    }

    /// Makes a node eligible for an address again.
    pub(crate) fn include(&mut self, node: usize, address: IpAddr) {
        self.excluded.remove(&(node, address));
        self.create(address);
    }

    /// Removes the address from its Service, so that no node is a candidate.
    pub(crate) fn release(&mut self, address: IpAddr) {
        for node in self.informed() {
            if let Some(process) = &mut self.hosts[node].process {
                process.coordinator.set_candidates(address, None);
            }
            self.work(node);
        }
    }

    /// Creates a Service with an address that was released before.
    pub(crate) fn create(&mut self, address: IpAddr) {
        for to in self.informed() {
            self.tell_candidates(to, Some(address));
            self.work(to);
        }
    }

    /// Deletes the Node object.
    pub(crate) fn delete_node(&mut self, node: usize) {
        self.deleted.insert(node);
        for to in self.informed().into_iter().filter(|to| *to != node) {
            self.tell_nodes(to);
            self.tell_candidates(to, None);
            self.work(to);
        }
    }
}
