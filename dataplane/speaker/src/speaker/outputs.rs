//! The outputs of the coordinator, carried out: announcements, probes, queries, proxy replies and reports.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use lb_l2::ownership::{AcquireReason, Output, QueryTarget, ReleaseReason};

use super::Speaker;
use crate::decide::Announcement;
use crate::decisions::Outcome;
use crate::interface_selection::InterfaceSelection;
use crate::k8s::events::{EventReason, ServiceEvent};
use crate::reasons::WithdrawReason;

impl Speaker {
    pub(super) fn handle_output(&mut self, now: Instant, output: Output) {
        match output {
            Output::Send { to, datagram } => self.datagrams.push((to, datagram)),
            Output::Announce { address, reason } => self.announce(now, address, reason),
            Output::Withdraw { address, reason } => self.withdraw(now, address, reason),
            Output::Reannounce { address } => self.announcer.reannounce(now, address),
            // A probe makes some hosts give the address up (RFC 5227 section 2.4), and a node has this one.
            Output::ProbeAddress { address } if self.index.nodes_with(address).count() == 1 => {}
            Output::ProbeAddress { address } => {
                let interfaces = self.selected_interfaces(address);
                let interfaces = interfaces.unwrap_or(InterfaceSelection::All);
                self.announcer.probe(now, address, &interfaces);
            }
            Output::QueryAddress { address, to } => self.query_address(now, address, &to),
            Output::QueryNode { node } => self.query_node(now, &node),
            Output::StartProxy { address, node } => {
                self.start_proxy(address, &node);
                self.proxied.insert(address, node);
            }
            Output::StopProxy { address } => {
                self.proxied.remove(&address);
                self.announcer.stop_proxy(address);
            }
            Output::ConflictDetected { address, hosts } => {
                self.reporter.conflict_detected(now, &self.index, address, hosts);
                self.schedule_statuses(now, address);
            }
            Output::ConflictResolved { address } => {
                self.reporter.conflict_resolved(address);
                self.schedule_statuses(now, address);
            }
            Output::Verified {
                address,
                by,
                answered,
            } => self.verified(now, address, &by, answered),
        }
    }

    /// Starts announcing an address that this node owns now.
    fn announce(&mut self, now: Instant, address: IpAddr, reason: AcquireReason) {
        let Some(announcement) = self.eligible(address).cloned() else {
            return;
        };
        self.metrics.acquired(&reason, now);
        let node = &self.config.node;
        match &reason {
            AcquireReason::Failover { from, last_heard } => {
                let silent_for = now.saturating_duration_since(*last_heard);
                tracing::info!(ip = %address, node, %from, ?silent_for, "failover: took over the address");
            }
            AcquireReason::HandOver { from } => {
                tracing::info!(ip = %address, node, %from, "hand-over: received the address");
            }
            AcquireReason::Initial | AcquireReason::Restored => {}
        }
        self.set_announcement(now, address, announcement, reason == AcquireReason::Restored);
    }

    /// Announces an address, or changes its announcement.
    pub(super) fn set_announcement(
        &mut self,
        now: Instant,
        address: IpAddr,
        announcement: Arc<Announcement>,
        restored: bool,
    ) {
        let interfaces = announcement.interfaces.clone();
        let Some(change) = self.announcements.set(address, announcement, restored) else {
            return;
        };
        if change.selection_changed {
            self.announcer.announce(now, address, interfaces);
        }
        for service in &change.removed_services {
            self.reporter.withdrawn(now, service, address);
        }
        for service in &change.new_services {
            self.reporter.announced(now, service, address);
        }
    }

    fn withdraw(&mut self, now: Instant, address: IpAddr, reason: ReleaseReason) {
        let reason = match self.decisions.get(address).map(|known| &known.outcome) {
            None => WithdrawReason::Unused,
            Some(Outcome::NoCandidates(reason)) => WithdrawReason::Unannounced(reason.clone()),
            Some(Outcome::Ineligible(ineligible)) => WithdrawReason::Released(reason, Some(*ineligible)),
            Some(Outcome::Eligible(_)) => WithdrawReason::Released(reason, None),
        };
        let Some(active) = self.announcements.remove(address) else {
            return;
        };
        self.announcer.withdraw(address);
        let (node, reason) = (&self.config.node, reason.message(address));
        for service in active.announcement.services.keys() {
            tracing::info!(%service, ip = %address, node, reason, "withdrawn");
            self.reporter.withdrawn(now, service, address);
        }
    }

    /// Reports changes of the interfaces that addresses are announced on.
    pub(super) fn update_interfaces(&mut self, now: Instant) {
        let dirty = self.announcements.take_interfaces_dirty();
        if !dirty.is_empty() {
            // Their order depends on the announced addresses.
            self.coordinator.set_macs(now, self.announcer.macs());
        }
        for address in dirty {
            let interfaces = self.announcer.interfaces_of(address);
            let Some(change) = self.announcements.set_interfaces(address, interfaces) else {
                continue;
            };
            let Some(active) = self.announcements.get(address) else {
                continue;
            };
            let available = !active.interfaces.is_empty();
            if change.changed {
                for service in active.announcement.services.keys() {
                    let first = change.availability_changed && available;
                    self.reporter.interfaces_changed(now, service, first);
                }
            }
            if !available {
                continue;
            }
            let (node, pool) = (&self.config.node, &active.announcement.pool);
            for (service, uid) in active.announcement.services.iter() {
                let is_new = change.new_services.contains(service);
                if is_new || change.changed {
                    let interfaces = active.interfaces.join(",");
                    tracing::info!(%service, ip = %address, node, interfaces, %pool, "announcing");
                }
                if is_new {
                    self.reporter.push_event(ServiceEvent {
                        service: service.clone(),
                        uid: uid.clone(),
                        address,
                        reason: EventReason::Announcing,
                    });
                }
            }
        }
    }

    fn query_address(&mut self, now: Instant, address: IpAddr, to: &QueryTarget) {
        let interfaces = self.selected_interfaces(address);
        let interfaces = interfaces.unwrap_or(InterfaceSelection::All);
        let open = self.announcer.open_interfaces(address, &interfaces);
        let queries = match to {
            QueryTarget::Node(node) => {
                let told = self.coordinator.told_macs(node);
                self.node_macs.queries(node, told, address, &open, &self.index)
            }
            QueryTarget::Host(mac) => {
                let host = Some(*mac);
                self.node_macs.queries_to(host, address, &open, &self.index)
            }
            QueryTarget::Everyone => self.node_macs.queries_to(None, address, &open, &self.index),
        };
        if queries.is_empty() {
            self.coordinator.handle_unsent_query(now, address);
        } else {
            self.announcer.query(now, address, &queries);
        }
    }

    /// Queries a node for one of its addresses, in turn: a filter may drop one family.
    fn query_node(&mut self, now: Instant, node: &str) {
        let Some(object) = self.index.nodes.get(node) else {
            return;
        };
        let told = self.coordinator.told_macs(node);
        if let Some((address, open)) = self.node_macs.next_address(node, &object.addresses) {
            let queries = self.node_macs.queries(node, told, address, &open, &self.index);
            self.announcer.query(now, address, &queries);
        }
    }

    /// Sends proxy replies on the interfaces where the hardware address of the owner is known, as its heartbeats told it.
    pub(super) fn start_proxy(&mut self, address: IpAddr, owner: &str) {
        let Some(interfaces) = self.selected_interfaces(address) else {
            return;
        };
        let macs = self.node_macs.macs_of(owner, self.coordinator.told_macs(owner));
        for (interface, mac) in macs.filter(|(interface, _)| interfaces.includes(interface)) {
            self.announcer.start_proxy(address, interface, mac);
        }
    }

    /// Another node has verified an address of ours.
    fn verified(&mut self, now: Instant, address: IpAddr, by: &Arc<str>, answered: bool) {
        self.metrics.verified(answered);
        if self.announcements.set_verification(now, address, by, answered) {
            self.schedule_statuses(now, address);
        }
        if answered {
            tracing::debug!(ip = %address, %by, "verified by another node");
        } else {
            tracing::warn!(ip = %address, %by, "verification failed: peer got no ARP/NDP reply");
            // The last announcement may have been lost too.
            self.announcer.reannounce(now, address);
        }
    }

    /// Checks the ServiceL2Statuses of all Services that have the address.
    fn schedule_statuses(&mut self, now: Instant, address: IpAddr) {
        for service in self.announcements.services(address) {
            self.reporter.schedule_status(service.clone(), now);
        }
    }
}
