//! Speakers start, restart, crash and drain, nodes lose power; and what a speaker says about itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use lb_l2::ownership::{Coordinator, CoordinatorConfig, HeartbeatLoad};

use super::{Event, Network, Process, ms};

/// How often a speaker announces its restart.
const RESTART_ANNOUNCEMENTS: usize = 3;

impl Network {
    /// Ends the process without notice; its node stays up.
    pub(crate) fn kill(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        (host.process, host.wakes, host.cpu_wait_until) = (None, None, None);
        host.inbox.clear();
        self.proxies.retain(|(on, _), _| *on != node);
    }

    /// Announces a restart, and ends the process.
    pub(crate) fn leave(&mut self, node: usize) {
        let local = self.local(node);
        for _ in 0..RESTART_ANNOUNCEMENTS {
            if let Some(process) = &mut self.hosts[node].process {
                process.coordinator.prepare_restart(local);
            }
            self.work(node);
        }
        self.kill(node);
    }

    pub(crate) fn start_after(&mut self, node: usize, after: Duration) {
        self.plan(after, Event::Start(node));
    }

    pub(crate) fn power_off(&mut self, node: usize) {
        self.kill(node);
        self.hosts[node].powered = false;
    }

    pub(crate) fn power_on(&mut self, node: usize) {
        self.hosts[node].powered = true;
        self.plan(ms(5000), Event::Start(node));
    }

    pub(crate) fn drain(&mut self, node: usize, draining: bool) {
        if let Some(process) = &mut self.hosts[node].process {
            process.coordinator.set_draining(draining);
        }
        self.work(node);
    }

    pub(crate) fn is_running(&self, node: usize) -> bool {
        let process = self.hosts[node].process.as_ref();
        process.is_some_and(|process| process.coordinator.is_running())
    }

    pub(super) fn boot(&mut self, node: usize) {
        if !self.hosts[node].powered || self.hosts[node].process.is_some() {
            return;
        }
        let local = self.local(node);
        let host = &mut self.hosts[node];
        host.started += 1;
        let config = CoordinatorConfig {
            node: host.name.clone(),
            version: "0.1.0".to_owned(),
            failure_detector: self.heartbeats,
            partition_policy: self.policy,
            failback: self.failback,
            conflict_policy: self.conflicts_policy,
        };
        let mut coordinator = Coordinator::new(local, 1000 + host.started, config);
        coordinator.set_macs(local, vec![host.mac]);
        let run = u32::try_from(host.started).unwrap();
        host.process = Some(Process {
            coordinator,
            run,
            answers: BTreeSet::new(),
            watched: BTreeMap::new(),
        });
        self.tell_nodes(node);
        self.tell_candidates(node, None);
        if let Some(process) = &mut self.hosts[node].process {
            for address in self.outdated_records.get(&node).into_iter().flatten() {
                process.coordinator.restore_owned(*address);
            }
            process.coordinator.start(local);
        }
        self.work(node);
    }

    /// The nodes that a node would have to reach for a majority, in ascending order.
    pub(crate) fn missing_majority(&self, node: usize, address: IpAddr) -> Option<Vec<usize>> {
        let process = self.hosts[node].process.as_ref()?;
        let missing = process.coordinator.missing_majority(address)?;
        let missing: BTreeSet<_> = missing.into_iter().map(|name| self.number(name)).collect();
        Some(missing.into_iter().collect())
    }

    pub(crate) fn heartbeat_load(&self, node: usize) -> HeartbeatLoad {
        self.hosts[node]
            .process
            .as_ref()
            .unwrap()
            .coordinator
            .heartbeat_load()
    }
}
