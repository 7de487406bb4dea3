//! CPU starvation: a process acts late, although its packets arrive in time.

use std::time::{Duration, Instant};

use super::{Event, Network, Process, ms};

impl Network {
    /// Lets a process take in all that has arrived, and then handle its timers; later, if it has no CPU.
    pub(super) fn turn(&mut self, node: usize) {
        if self.is_starving(node) {
            return;
        }
        let mut any = false;
        for event in std::mem::take(&mut self.hosts[node].inbox) {
            any |= self.take_in(event);
        }
        if any || self.hosts[node].wakes.is_none() {
            self.work(node);
            self.starve(node);
        }
    }

    /// Returns whether a process took it in.
    fn take_in(&mut self, event: Event) -> bool {
        match event {
            Event::Deliver { to, datagram } => {
                let local = self.local(to);
                if !self.connected(self.number(&datagram.node), to) {
                    return false;
                }
                let Some(process) = &mut self.hosts[to].process else {
                    return false;
                };
                let _ = process.coordinator.handle_datagram(local, datagram);
            }
            Event::Reply {
                to,
                run,
                address,
                mac,
            } => {
                let local = self.local(to);
                let Some(process) = self.process(to, run) else {
                    return false;
                };
                process.coordinator.handle_reply(local, address, mac);
            }
            Event::NodeReply { to, run, node } => {
                let local = self.local(to);
                let (name, mac) = (self.hosts[node].name.clone(), self.hosts[node].mac);
                let Some(process) = self.process(to, run) else {
                    return false;
                };
                process.coordinator.handle_node_reply(local, &name, mac);
            }
            Event::Gratuitous { .. } | Event::Wake(_) | Event::CpuAvailable(_) | Event::Start(_) => {
                return false;
            }
        }
        true
    }

    /// The process that sent the probe, if it still runs.
    fn process(&mut self, node: usize, run: u32) -> Option<&mut Process> {
        self.hosts[node]
            .process
            .as_mut()
            .filter(|process| process.run == run)
    }

    pub(super) fn is_starving(&self, node: usize) -> bool {
        self.hosts[node]
            .cpu_wait_until
            .is_some_and(|until| until > self.now)
    }

    /// How long a process has to wait for the CPU.
    pub(super) fn waits(&self, node: usize) -> Duration {
        let until = self.hosts[node].cpu_wait_until;
        until.map_or(Duration::ZERO, |until: Instant| {
            until.saturating_duration_since(self.now)
        })
    }

    /// Makes a process wait for the CPU after it has run.
    fn starve(&mut self, node: usize) {
        if self.max_cpu_wait_ms == 0 || self.hosts[node].process.is_none() {
            return;
        }
        let wait = ms(self.rng.below(self.max_cpu_wait_ms));
        self.hosts[node].cpu_wait_until = Some(self.now + wait);
        self.plan(wait, Event::CpuAvailable(node));
    }
}
