//! Decides the candidates of addresses, and passes them with the preferred and former owners to the coordinator.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_l2::ownership::{Candidates, PartitionPolicy};

use super::{Phase, Speaker};
use crate::bgp::decide::is_selected;
use crate::decide::{Decided, Decision, DecisionInput, decide, voters};
use crate::decisions::{Known, Outcome};
use crate::reasons::{NodeList, UnannouncedReason};

/// How long a starting speaker leaves an address to the node that MetalLB announces it from, for our speaker there to start.
const METALLB_OWNER_GRACE: Duration = Duration::from_secs(30);

impl Speaker {
    /// Updates the preferred owners once the candidates are known.
    pub(super) fn update_preferred_owners(&mut self, now: Instant) {
        if self.phase == Phase::Listing || self.decisions.is_pending() {
            return;
        }
        if let Some(balance) = &mut self.balance {
            for address in balance.recompute(now, &self.index, &self.peers) {
                self.coordinator.set_preferred(address, balance.target(address));
            }
        }
    }

    /// Restores the addresses that this node owned before this process started, by the ServiceL2Statuses.
    ///
    /// A status names the owner of the first address only. The second may belong to another node whose heartbeats have not
    /// arrived yet: announcing it would break its connections. The peers know its owner; if they do not, it is probed like
    /// any other address. MetalLB announces all addresses of a Service from one node.
    pub(super) fn restore_owned(&mut self, now: Instant) {
        for status in self.index.statuses.values() {
            let Some(service) = self.index.services.get(&status.service) else {
                continue;
            };
            let is_ours = *status.node == *self.config.node;
            let is_of_metallb = status.is_of_metallb() && self.index.nodes.contains_key(&*status.node);
            for address in &service.addresses {
                if is_ours && status.address.is_none_or(|own| own == *address) {
                    self.coordinator.restore_owned(*address);
                } else if is_of_metallb {
                    self.coordinator.defer_claim(*address, now + METALLB_OWNER_GRACE);
                }
            }
        }
    }

    /// Decides about an address and updates its candidates in the coordinator.
    pub(super) fn update_candidates(&mut self, now: Instant, address: IpAddr) {
        self.metrics.decided();
        let input = DecisionInput {
            local_node: &self.config.node,
            index: &self.index,
            nodes: self.decisions.nodes(),
        };
        let Decided { decision, horizon } = decide(&input, address);
        let (order, local) = match decision {
            Decision::Candidates { order, local } => (order, local),
            Decision::NoCandidates { reason, we_report } => {
                let is_missing = we_report && !self.is_announced_by_bgp(address, &reason);
                self.no_candidates(now, address, is_missing.then_some(&reason));
                let known = Known::no_candidates(reason, horizon);
                return self.decisions.remember(address, Some(known));
            }
            Decision::Unused => {
                self.no_candidates(now, address, None);
                self.metrics.forget(address);
                return self.decisions.remember(address, None);
            }
        };
        if let Some(balance) = &mut self.balance {
            balance.set_candidates(address, &order);
        }
        let no_interface = local
            .as_ref()
            .is_ok_and(|announcement| !self.announcer.can_announce(address, &announcement.interfaces));
        let voters = match self.config.partition_policy {
            PartitionPolicy::Majority => voters(&input, address),
            PartitionPolicy::Availability => Vec::new(),
        };
        let candidates = Candidates {
            order: &order,
            voters: &voters,
            no_interface,
            preferred: self.balance.as_ref().and_then(|balance| balance.target(address)),
        };
        self.coordinator.set_candidates(address, Some(candidates));
        let known = Known {
            is_first: order.first() == Some(&&*self.config.node),
            outcome: match local {
                Ok(announcement) => Outcome::Eligible(announcement.into()),
                Err(reason) => Outcome::Ineligible(reason),
            },
            horizon,
            no_interface,
        };
        if let Outcome::Eligible(announcement) = &known.outcome
            && self.coordinator.announces(address)
        {
            self.set_announcement(now, address, announcement.clone(), false);
        }
        self.reporter
            .has_candidates(now, &self.index, address, no_interface && known.is_first);
        self.decisions.remember(address, Some(known));
    }

    /// Reports the addresses that this node is the first to announce, and does not because it reaches no majority.
    pub(super) fn update_missing_majorities(&mut self, now: Instant) {
        if self.config.partition_policy == PartitionPolicy::Availability {
            return;
        }
        for (address, known) in self.decisions.iter() {
            let is_eligible = matches!(known.outcome, Outcome::Eligible(_)) && !known.no_interface;
            let claims = known.is_first && is_eligible && !self.coordinator.announces(address);
            match self.coordinator.missing_majority(address).filter(|_| claims) {
                Some(voters) => {
                    let mut unreached = NodeList::default();
                    voters.into_iter().for_each(|name| unreached.push(name));
                    let node = self.config.node.clone();
                    let reason = UnannouncedReason::NoMajority { node, unreached };
                    self.reporter.unannounced(now, address, reason);
                }
                None if self.reporter.lacks_majority(address) => {
                    self.reporter.clear_unannounced(now, &self.index, address);
                }
                None => {}
            }
        }
    }

    /// Whether the address is announced by BGP alone, as configured.
    fn is_announced_by_bgp(&self, address: IpAddr, reason: &UnannouncedReason) -> bool {
        let not_in_layer_2 = matches!(
            reason,
            UnannouncedReason::NoAdvertisement { .. } | UnannouncedReason::ServiceNotSelected { .. }
        );
        not_in_layer_2 && is_selected(&self.index, &self.bgp_advertisements, address)
    }

    /// No node can announce the address, for a reason that this node reports, or no Service has it.
    fn no_candidates(&mut self, now: Instant, address: IpAddr, reason: Option<&UnannouncedReason>) {
        if let Some(balance) = &mut self.balance {
            balance.set_candidates(address, &[]);
        }
        self.coordinator.set_candidates(address, None);
        match reason {
            None => self.reporter.clear_unannounced(now, &self.index, address),
            Some(reason) => self.reporter.unannounced(now, address, reason.clone()),
        }
    }
}
