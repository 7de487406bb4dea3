//! Decides which Service gets which address. Takes the index, returns writes and events. No I/O; time is an argument.
//!
//! ```text
//!  changes ──► Index ──► dirty ──► sync (keep, adopt, release) ──► assign (oldest first) ──► queue ──► writes
//!                                     ▲                                                                  │
//!                                     └────────────────────────── outcome ◄──────────────────────────────┘
//! ```
//!
//! Only a leader has a [`LeaderState`]. It is created after everything has been listed: every address that a status shows
//! is adopted before the first one is assigned. From then on the allocator decides, and statuses follow it.
//!
//! An address that a status still shows, or may show by a write in flight, is assigned to no other Service, even after
//! the decision to clear it: it is *draining* until the API server has stored the write that removes it. So two statuses
//! never show the same address.

mod config_changes;
mod freed;
mod pending_write;
mod problems;
mod reported;
mod service;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lb_ipam::{Allocator, Family, Rejection};
use lb_runtime::ObjectKey;

use crate::allocation_key::AllocationKey;
use crate::announcements::AffectedServices;
use crate::events::ObjectEvent;
use crate::index::{Index, ServiceChange};
use crate::inflight::InFlightWrites;
use crate::service::{CachedService, Role};
use crate::target::WriteTarget;
use config_changes::ConfigChanges;
use freed::FreedFamilies;
use pending_write::PendingWrite;
use reported::ReportedProblems;

/// Writes in flight at once: enough to write 1,000 Services in a second, few enough for the queues of the API server.
pub const MAX_WRITES_IN_FLIGHT: usize = 32;
/// Of these, writes that change only condition Announced: they may wait.
pub const MAX_ANNOUNCEMENT_WRITES: usize = 8;

/// The state of a leader beyond the index.
#[derive(Debug)]
pub struct LeaderState {
    allocator: Allocator<AllocationKey>,
    /// Services to decide about.
    dirty: BTreeSet<ObjectKey>,
    /// Of these, Services that replaced another one of the same name.
    replaced: BTreeSet<ObjectKey>,
    /// Services that wait for an address.
    pending: BTreeSet<ObjectKey>,
    /// Services that have an address and request another one, of this family.
    incomplete: BTreeMap<ObjectKey, Family>,
    /// The last problem reported for each Service.
    reported: ReportedProblems,
    /// Services whose loss of an address was reported, but whose status still shows it.
    cleared: BTreeSet<ObjectKey>,
    /// Services whose deprecated annotations were reported.
    deprecation_reported: BTreeSet<ObjectKey>,
    /// The draining addresses of each Service.
    draining: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    pending_writes: BTreeMap<ObjectKey, PendingWrite>,
    /// Services to write, oldest first.
    queue: BTreeSet<(i64, ObjectKey)>,
    /// Services whose condition Announced may have to change.
    announcement_changes: BTreeSet<ObjectKey>,
    /// Of the writes in flight, those that change only condition Announced.
    announcement_writes: BTreeSet<ObjectKey>,
    /// Whether condition Announced of all Services has to be checked.
    recheck_announcements: bool,
    config_changes: ConfigChanges,
    inflight: InFlightWrites<WriteTarget>,
    pools_changed: bool,
    nodes_changed: bool,
    /// Whether nothing has been decided yet: then addresses in statuses that were in no pool before are kept.
    taking_over: bool,
    /// Both clocks at the last decision.
    clocks: Option<(Instant, Timestamp)>,
    events: Vec<ObjectEvent>,
}

impl LeaderState {
    /// Creates the state of a new leader. Its first decision adopts every address that a status shows, oldest Service
    /// first, before it assigns any.
    #[must_use]
    pub fn new(index: &Index) -> Self {
        Self {
            allocator: Allocator::default(),
            dirty: index.services.keys().cloned().collect(),
            replaced: BTreeSet::new(),
            pending: BTreeSet::new(),
            incomplete: BTreeMap::new(),
            reported: ReportedProblems::default(),
            cleared: BTreeSet::new(),
            deprecation_reported: BTreeSet::new(),
            draining: BTreeMap::new(),
            pending_writes: BTreeMap::new(),
            queue: BTreeSet::new(),
            announcement_changes: BTreeSet::new(),
            announcement_writes: BTreeSet::new(),
            recheck_announcements: false,
            config_changes: ConfigChanges::default(),
            inflight: InFlightWrites::default(),
            pools_changed: true,
            nodes_changed: true,
            taking_over: true,
            clocks: None,
            events: Vec::new(),
        }
    }

    /// The allocator with all assigned addresses.
    #[must_use]
    pub fn allocator(&self) -> &Allocator<AllocationKey> {
        &self.allocator
    }

    /// How many Services wait for an address.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many Services lack an address, by reason of condition AddressAssigned.
    #[must_use]
    pub fn unassigned(&self) -> &BTreeMap<&'static str, usize> {
        self.reported.unassigned()
    }

    /// Why a Service has no address, as last reported.
    #[must_use]
    pub fn rejection(&self, key: &ObjectKey) -> Option<&Rejection> {
        self.reported.get(key).map(|reported| &reported.rejection)
    }

    /// Marks changed Services for a decision.
    pub fn services_changed(&mut self, changes: impl IntoIterator<Item = ServiceChange>) {
        for ServiceChange { key, replaced } in changes {
            if replaced {
                self.replaced.insert(key.clone());
            }
            self.dirty.insert(key);
        }
    }

    /// Marks Services whose announcement has changed. That does not affect which address they get.
    pub fn announcements_changed(&mut self, touched: AffectedServices) {
        match touched {
            AffectedServices::Some(keys) => self.announcement_changes.extend(keys),
            AffectedServices::All => self.recheck_announcements = true,
        }
    }

    /// Marks the pools as changed.
    pub fn pools_changed(&mut self) {
        self.pools_changed = true;
    }

    /// Marks the addresses of nodes as changed.
    pub fn nodes_changed(&mut self) {
        self.nodes_changed = true;
    }

    /// Decides everything that changes have made necessary. Results are in [`LeaderState::next_write`] and
    /// [`LeaderState::take_events`]. `time` is for times that outlive this process.
    pub fn decide(&mut self, index: &Index, now: Instant, time: Timestamp) {
        self.clocks = Some((now, time));
        let hold_down_ended = self
            .allocator
            .next_hold_down_end()
            .is_some_and(|end| end <= time.as_second());
        self.allocator.advance_to(time.as_second());
        let mut freed = FreedFamilies::default();
        if std::mem::take(&mut self.nodes_changed) {
            self.allocator.set_reserved(index.node_addresses());
            freed = FreedFamilies::ALL;
        }
        if std::mem::take(&mut self.pools_changed) {
            self.apply_pools(index);
            freed = FreedFamilies::ALL;
        }
        if hold_down_ended {
            freed = FreedFamilies::ALL;
        }
        for target in self.inflight.due(now) {
            if let WriteTarget::Service(key) = target {
                self.dirty.insert(key);
            }
        }
        let ended = self
            .pending_writes
            .iter()
            .filter(|(_, pending)| pending.uncertain_until.is_some_and(|until| until <= now));
        self.dirty.extend(ended.map(|(key, _)| key.clone()));
        for key in std::mem::take(&mut self.replaced) {
            freed = freed.and(self.forget_service(&key));
        }
        let dirty = oldest_first(index, std::mem::take(&mut self.dirty));
        // Keep addresses of all Services before any is assigned.
        let mut waiting = BTreeSet::new();
        for key in &dirty {
            let result = self.sync_service(index, key, now);
            freed = freed.and(result.freed);
            self.pending.remove(key);
            self.incomplete.remove(key);
            if result.wants {
                waiting.insert(key.clone());
            }
        }
        if freed.any() {
            waiting.append(&mut self.pending);
        }
        let improvable = self.incomplete.iter().filter(|(_, family)| freed.of(**family));
        waiting.extend(improvable.map(|(key, _)| key.clone()));
        let waiting = oldest_first(index, waiting);
        for key in &waiting {
            self.incomplete.remove(key);
            self.assign(index, key);
        }
        self.taking_over = false;
        for key in dirty.iter().chain(&waiting) {
            self.enqueue(index, key);
        }
        if std::mem::take(&mut self.recheck_announcements) {
            self.announcement_changes.extend(index.services.keys().cloned());
        }
        self.config_changes.update(index, &self.allocator, now);
        for target in self.inflight.due(now) {
            if !matches!(target, WriteTarget::Service(_)) && !self.config_changes.contains(&target) {
                self.inflight.forget(&target);
            }
        }
    }

    /// The time of the next decision if nothing changes: a failed write may be repeated, or an address whose hold-down has ended
    /// may be assigned to a waiting Service.
    #[must_use]
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let uncertain = self
            .pending_writes
            .values()
            .filter_map(|pending| pending.uncertain_until);
        let writes = self.inflight.next_timeout(now);
        let others = [self.next_hold_down_end(), self.next_usage_write()];
        uncertain.chain(writes).chain(others.into_iter().flatten()).min()
    }

    /// When the usage of a pool is written next that was written within the last second.
    #[must_use]
    pub fn next_usage_write(&self) -> Option<Instant> {
        self.config_changes.poll_timeout()
    }

    fn next_hold_down_end(&self) -> Option<Instant> {
        if self.pending.is_empty() && self.incomplete.is_empty() {
            return None;
        }
        let (instant, time) = self.clocks?;
        let seconds = self
            .allocator
            .next_hold_down_end()?
            .saturating_sub(time.as_second());
        let seconds = u64::try_from(seconds).unwrap_or_default();
        // At most a day, in case somebody sets the clock.
        Some(instant + Duration::from_secs(seconds.min(24 * 3600)))
    }

    /// Whether the outcome of every write is known.
    #[must_use]
    pub fn has_certain_outcomes(&self) -> bool {
        self.inflight.in_flight() == 0
            && self
                .pending_writes
                .values()
                .all(|pending| pending.uncertain_until.is_none())
    }

    /// Takes the events to publish and to log, in order.
    pub fn take_events(&mut self) -> Vec<ObjectEvent> {
        std::mem::take(&mut self.events)
    }

    fn apply_pools(&mut self, index: &Index) {
        let changed = self.allocator.set_pools(index.candidates());
        for holder in changed.renamed {
            if let AllocationKey::Service(key) = holder {
                self.dirty.insert(key);
            }
        }
        if self.taking_over {
            for (name, pool) in &index.pools {
                self.allocator.restore_releases(name, &pool.released);
            }
        }
        for cleared in changed.cleared {
            let AllocationKey::Service(key) = cleared.service else {
                continue;
            };
            if let Some(service) = index.services.get(&key) {
                self.events
                    .push(ObjectEvent::cleared(&key, service, &cleared.rejection));
            }
            self.cleared.insert(key.clone());
            self.dirty.insert(key);
        }
        // Other pools may match them now.
        self.dirty.extend(index.services.keys().cloned());
        // An address outside pools may be in a pool now, and the status of a Service that lost it may still show it.
        for (key, service) in &index.services {
            self.hold_draining(key, service);
        }
    }
}

/// Sorts Services for a decision: the oldest first, those that are no load balancers now last, because their addresses
/// must not be kept from the others.
fn oldest_first(index: &Index, keys: BTreeSet<ObjectKey>) -> Vec<ObjectKey> {
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_by_cached_key(|key| {
        let service = index.services.get(key);
        let is_other = |service: &CachedService| !matches!(service.role, Role::LoadBalancer(_));
        service.map(|service| (is_other(service), service.created, key.clone()))
    });
    keys
}
