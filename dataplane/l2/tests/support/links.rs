//! Links and partitions.

use lb_l2::MacAddr;

use super::Network;

impl Network {
    /// Puts the nodes on a side of a partition; only nodes of one side hear each other.
    pub(crate) fn split(&mut self, nodes: &[usize], side: u32) {
        for node in nodes {
            self.hosts[*node].side = side;
        }
    }

    pub(crate) fn heal(&mut self) {
        for host in &mut self.hosts {
            host.side = 0;
        }
    }

    /// Takes the link of a node down; the node notices at once that it has no interface.
    pub(crate) fn link_down(&mut self, node: usize) {
        self.split(&[node], 1);
        self.unplugged.insert(node);
        self.tell_macs(node, Vec::new());
        self.tell_candidates(node, None);
        self.work(node);
    }

    /// Takes the link up; the node notices before it hears any peer.
    pub(crate) fn link_up(&mut self, node: usize) {
        self.heal();
        self.unplugged.remove(&node);
        self.tell_macs(node, vec![self.hosts[node].mac]);
        self.tell_candidates(node, None);
        self.work(node);
    }

    fn tell_macs(&mut self, node: usize, macs: Vec<MacAddr>) {
        let local = self.local(node);
        if let Some(process) = &mut self.hosts[node].process {
            process.coordinator.set_macs(local, macs);
        }
    }
}
