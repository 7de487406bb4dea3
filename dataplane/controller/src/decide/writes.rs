//! Which object is written next, and how an outcome changes the state: the oldest Service first, one write of an object
//! at a time, and the status of pools after the Services that it counts.

use std::collections::BTreeSet;
use std::time::Instant;

use jiff::Timestamp;
use lb_ipam::{Addresses, Assignment, Family};
use lb_runtime::ObjectKey;

use super::pending_write::UNCERTAIN_WINDOW;
use super::{LeaderState, MAX_ANNOUNCEMENT_WRITES, MAX_WRITES_IN_FLIGHT, PendingWrite};
use crate::allocation_key::AllocationKey;
use crate::announcements::AnnouncedCondition;
use crate::condition::{self, ConditionChange, ShownCondition};
use crate::events::ObjectEvent;
use crate::index::Index;
use crate::reason::Reason;
use crate::service::{CachedService, Role, ShownStatus};
use crate::target::WriteTarget;
use crate::write::{ObjectWrite, ServiceWrite, WriteOutcome};
use crate::{config_status, configuration_state};

impl LeaderState {
    /// The next write; `None` if there is nothing to write, or enough writes are in flight.
    pub fn next_write(&mut self, index: &Index, now: Instant, time: Timestamp) -> Option<ObjectWrite> {
        if self.inflight.in_flight() >= MAX_WRITES_IN_FLIGHT {
            return None;
        }
        // A Service that may not be written now is decided about again when that changes.
        while let Some((_, key)) = self.queue.pop_first() {
            if let Some(write) = self.start_service_write(index, &key, now, time) {
                return Some(ObjectWrite::Service(write));
            }
        }
        // Condition Announced follows after all addresses, a few Services at a time.
        while self.inflight.in_flight() == self.announcement_writes.len()
            && self.announcement_writes.len() < MAX_ANNOUNCEMENT_WRITES
        {
            let Some(key) = self.announcement_changes.pop_first() else {
                break;
            };
            if let Some(write) = self.start_service_write(index, &key, now, time) {
                self.announcement_writes.insert(key);
                return Some(ObjectWrite::Service(write));
            }
        }
        // Pools follow after all Services, so that a thousand Services do not cause a thousand writes of a pool.
        while let Some(target) = self.config_changes.pop_first() {
            let write = match target {
                WriteTarget::ConfigurationState => configuration_state::write(index, &self.allocator, time),
                WriteTarget::Service(_) | WriteTarget::Pool(_) | WriteTarget::Advertisement(_) => {
                    config_status::write(index, &self.allocator, &target, time)
                }
            };
            if let Some((version, write)) = write
                && self.inflight.may_write(&target, &version, now)
            {
                self.config_changes.sent(&target, now);
                self.inflight.sent(target, version);
                return Some(write);
            }
        }
        None
    }

    /// The write of a Service, counted as sent; `None` if it needs none or may not be written now.
    fn start_service_write(
        &mut self,
        index: &Index,
        key: &ObjectKey,
        now: Instant,
        time: Timestamp,
    ) -> Option<ServiceWrite> {
        let target = WriteTarget::Service(key.clone());
        let service = index.services.get(key)?;
        if !self.inflight.may_write(&target, &service.version, now) {
            return None;
        }
        let write = self.service_write(index, key, service, time)?;
        self.inflight.sent(target, service.version.clone());
        self.track_pending(&write);
        Some(write)
    }

    /// Applies the outcome of a write.
    pub fn handle_outcome(
        &mut self,
        index: &mut Index,
        write: ObjectWrite,
        outcome: WriteOutcome,
        now: Instant,
    ) {
        let target = write.target();
        match outcome {
            WriteOutcome::Written { version } => {
                let based_on = self.inflight.succeeded(&target);
                match write {
                    ObjectWrite::Service(write) => {
                        self.service_written(index, write, based_on.as_deref(), version)
                    }
                    ObjectWrite::ConfigStatus(write) => {
                        self.events.extend(config_status::record_written(
                            index,
                            write,
                            based_on.as_deref(),
                            version,
                        ));
                    }
                    ObjectWrite::ConfigurationState(write) => {
                        configuration_state::record_written(index, write, based_on.as_deref(), version)
                    }
                }
            }
            WriteOutcome::Outdated => self.inflight.outdated(&target),
            WriteOutcome::Failed { error } => {
                tracing::warn!(object = %target, error, "write failed; retrying");
                self.inflight.failed(&target, now);
                if let WriteTarget::Service(key) = &target
                    && let Some(pending) = self.pending_writes.get_mut(key)
                {
                    pending.uncertain_until = Some(now + UNCERTAIN_WINDOW);
                }
            }
        }
        if let WriteTarget::Service(key) = target {
            self.announcement_writes.remove(&key);
            self.dirty.insert(key);
        }
    }

    /// Records the addresses that a sent write may show.
    fn track_pending(&mut self, write: &ServiceWrite) {
        let Some(addresses) = write.status.filter(|addresses| !addresses.is_empty()) else {
            return;
        };
        let pending = self
            .pending_writes
            .entry(write.key.clone())
            .or_insert_with(|| PendingWrite {
                addresses: BTreeSet::new(),
                version: write.version.clone(),
                uncertain_until: None,
            });
        pending.addresses.extend(addresses.iter());
        pending.uncertain_until = None;
    }

    /// Queues a Service if there is something to write.
    pub(super) fn enqueue(&mut self, index: &Index, key: &ObjectKey) {
        let Some(service) = index.services.get(key) else {
            return;
        };
        // The time does not decide whether a write is needed.
        match self.service_write(index, key, service, Timestamp::UNIX_EPOCH) {
            Some(write) if write.changes_addresses() => {
                self.queue.insert((service.created, key.clone()));
            }
            Some(_) => {
                self.announcement_changes.insert(key.clone());
            }
            None => self.inflight.forget(&WriteTarget::Service(key.clone())),
        }
    }

    /// The difference between the decision about a Service and its object.
    fn service_write(
        &self,
        index: &Index,
        key: &ObjectKey,
        service: &CachedService,
        time: Timestamp,
    ) -> Option<ServiceWrite> {
        let has = self.allocator.assignment(&AllocationKey::Service(key.clone()));
        let addresses = has.map(Assignment::addresses).unwrap_or_default();
        let pool = has.and_then(Assignment::pool_names);
        let (address_assigned, announced) = match service.role {
            Role::Former | Role::OtherClass => (
                service.address_assigned.map(|_| ConditionChange::Remove),
                service.announced.map(|_| ConditionChange::Remove),
            ),
            Role::LoadBalancer(_) => (
                condition::address_assigned(has, self.reported.get(key))
                    .and_then(|text| ConditionChange::to(service.address_assigned, text, time)),
                match index.announcements.condition(key, &addresses) {
                    AnnouncedCondition::Set(text) => ConditionChange::to(service.announced, text, time),
                    AnnouncedCondition::Absent => service.announced.map(|_| ConditionChange::Remove),
                    AnnouncedCondition::Unknown => None,
                },
            ),
        };
        // The addresses and the annotation of a Service of another class are not ours.
        let is_ours = service.role != Role::OtherClass;
        let differs = addresses != service.status.addresses || service.status.other_ingress;
        let write = ServiceWrite {
            key: key.clone(),
            version: service.version.clone(),
            before: service.status.addresses,
            status: (is_ours && differs).then_some(addresses),
            pool: (is_ours && (pool != service.pool || service.deprecated_pool)).then_some(pool),
            deprecated_pool: service.deprecated_pool,
            address_assigned,
            announced,
        };
        (write.changes_addresses() || write.announced.is_some()).then_some(write)
    }

    fn service_written(
        &mut self,
        index: &mut Index,
        write: ServiceWrite,
        based_on: Option<&str>,
        version: String,
    ) {
        index.record_written(&version);
        let Some(service) = index.services.get_mut(&write.key) else {
            return;
        };
        let before = write.before;
        let new: Addresses = write
            .status
            .iter()
            .flat_map(Addresses::iter)
            .filter(|address| before.get(Family::of(*address)) != Some(*address))
            .collect();
        let after = write.status.unwrap_or(before);
        let service = service.clone();
        if !new.is_empty() {
            let pool = write.pool.clone().flatten().or_else(|| service.pool.clone());
            let event = if new == after {
                ObjectEvent::assigned
            } else {
                ObjectEvent::assigned_additional
            };
            self.events
                .push(event(&write.key, &service, new, pool.unwrap_or_default()));
            self.report_deprecated(&write.key, &service);
        }
        if let Some(ConditionChange::Set { text, .. }) = &write.address_assigned
            && text.status()
            && text.reason() == Reason::OutsidePools
        {
            self.events
                .push(ObjectEvent::outside_pools(&write.key, &service, text.message()));
        }
        // If the watch was quicker, the index is newer than this response.
        let Some(service) = index.services.get_mut(&write.key) else {
            return;
        };
        if Some(service.version.as_str()) == based_on {
            service.version = version;
            if let Some(addresses) = write.status {
                service.status = ShownStatus {
                    addresses,
                    other_ingress: false,
                };
            }
            if let Some(change) = &write.address_assigned {
                service.address_assigned = ShownCondition::after(change);
            }
            if let Some(change) = &write.announced {
                service.announced = ShownCondition::after(change);
            }
            if let Some(pool) = write.pool {
                service.pool = pool;
                service.deprecated_pool = false;
            }
        }
    }
}
