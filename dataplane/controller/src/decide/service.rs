//! Decides about one Service: which addresses it keeps, loses or gets.
//!
//! | it has in the allocator | its status shows | decision |
//! | --- | --- | --- |
//! | an address | | keeps it while it requests it and the pool matches |
//! | none | an address | adopts it, unless another Service has it |
//! | none | none | gets one, oldest Service first |
//!
//! An address that its status shows, or may come to show, and that it no longer has is *draining*: no other Service
//! gets it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use lb_ipam::{AdoptRequest, Assignment, Families, Family, RecordedPools, Rejection, Request, SharingMode};
use lb_runtime::ObjectKey;

use super::{AllocationKey, FreedFamilies, LeaderState, PendingWrite};
use crate::condition::Problem;
use crate::index::Index;
use crate::service::{CachedService, Role};
use crate::target::WriteTarget;

/// The result of [`LeaderState::sync_service`].
pub(super) struct SyncResult {
    /// Families of which it no longer reserves an address.
    pub(super) freed: FreedFamilies,
    /// Whether it requests another address.
    pub(super) wants: bool,
}

impl LeaderState {
    /// Makes the allocator agree with a Service about the addresses that it keeps.
    pub(super) fn sync_service(&mut self, index: &Index, key: &ObjectKey, now: Instant) -> SyncResult {
        let holder = AllocationKey::Service(key.clone());
        let before = self.reserved_addresses(key);
        let Some(service) = index.services.get(key) else {
            return SyncResult {
                freed: self.forget_service(key),
                wants: false,
            };
        };
        let has_ended = |pending: &mut PendingWrite| {
            pending.version != service.version || pending.uncertain_until.is_some_and(|until| until <= now)
        };
        if self.pending_writes.get_mut(key).is_some_and(has_ended) {
            self.pending_writes.remove(key);
        }
        if service.status.addresses.is_empty() {
            self.cleared.remove(key);
        }
        let sharing_mode = self.allocator.sharing_mode(&holder).cloned();
        let has_something = self.allocator.assignment(&holder).is_some();
        let wants = match &service.role {
            Role::Former | Role::OtherClass => {
                self.reported.remove(key);
                self.allocator.release(&holder);
                false
            }
            Role::LoadBalancer(Ok(request)) => {
                if !has_something {
                    self.adopt_shown(index, key, service, request.families, &request.sharing_mode);
                }
                self.keep_permitted(index, key, service, request)
            }
            // An invalid request is reported, but costs no address: it may be a typing error.
            Role::LoadBalancer(Err(invalid)) => {
                if !has_something {
                    let families = Families::PreferDualStack;
                    self.adopt_shown(index, key, service, families, &invalid.sharing_mode);
                }
                let keeps = self.allocator.assignment(&holder).is_some();
                if keeps {
                    self.report_problem(key, service, Problem::InvalidRequest, invalid.rejection.clone());
                }
                !keeps
            }
        };
        self.hold_draining(key, service);
        let mut freed = self.freed_since(&before, key);
        if let (Some(before), Some(after)) = (&sharing_mode, self.allocator.sharing_mode(&holder))
            && before != after
        {
            // A removed key or port may make room for others on the same address.
            freed = FreedFamilies::ALL;
        }
        SyncResult { freed, wants }
    }

    /// Forgets a Service that is gone, with its addresses. Returns the families of which it reserved an address.
    pub(super) fn forget_service(&mut self, key: &ObjectKey) -> FreedFamilies {
        let before = self.reserved_addresses(key);
        self.reported.remove(key);
        self.deprecation_reported.remove(key);
        self.cleared.remove(key);
        self.inflight.forget(&WriteTarget::Service(key.clone()));
        self.pending_writes.remove(key);
        self.allocator.release(&AllocationKey::Service(key.clone()));
        self.stop_draining(key);
        self.freed_since(&before, key)
    }

    /// Adopts the addresses in the status of a Service without an assignment, if it may have them. The first decision
    /// of a leader also adopts addresses in no pool, if they were in no pool before: it must not keep what its
    /// predecessor was about to clear.
    fn adopt_shown(
        &mut self,
        index: &Index,
        key: &ObjectKey,
        service: &CachedService,
        families: Families,
        sharing_mode: &SharingMode,
    ) {
        let addresses = families.restrict(&service.status.addresses);
        if addresses.is_empty() || service.has_foreign_status() {
            return;
        }
        self.stop_draining(key);
        let had_outside = service.had_address_outside_pools(|pool| index.pools.contains_key(pool));
        let request = AdoptRequest {
            addresses,
            recorded: RecordedPools(service.pool.as_deref()),
            sharing_mode: sharing_mode.clone(),
            allow_outside_pools: self.taking_over && had_outside,
        };
        if let Err(rejection) = self
            .allocator
            .adopt(&AllocationKey::Service(key.clone()), request)
        {
            self.report_cleared(key, service, &rejection);
        }
    }

    /// Keeps the addresses that are still requested and allowed. Returns whether the Service requests others or more.
    fn keep_permitted(
        &mut self,
        index: &Index,
        key: &ObjectKey,
        service: &CachedService,
        request: &Request,
    ) -> bool {
        let holder = AllocationKey::Service(key.clone());
        self.release_disallowed(index, key, service);
        let Some(has) = self.allocator.assignment(&holder) else {
            return true;
        };
        let part = request.families.restrict(&has.addresses());
        if part != has.addresses() {
            self.allocator.reduce(&holder, &part);
        }
        if self
            .allocator
            .sharing_mode(&holder)
            .is_some_and(|sharing_mode| *sharing_mode != request.sharing_mode)
        {
            self.readopt(key, service, &request.sharing_mode);
        }
        match self.allocator.assignment(&holder) {
            Some(has) if request.permits(has) => {
                let wants_more = request.missing_family(has).is_some();
                if !wants_more {
                    self.reported.remove(key);
                }
                wants_more
            }
            Some(_) => {
                self.allocator.release(&holder);
                true
            }
            None => true,
        }
    }

    /// Releases addresses of pools that no longer match the Service.
    fn release_disallowed(&mut self, index: &Index, key: &ObjectKey, service: &CachedService) {
        if !index.knows_labels_of(key.namespace()) {
            return;
        }
        let holder = AllocationKey::Service(key.clone());
        let pool_filter = index.pool_filter(key, service);
        while let Some(has) = self.allocator.assignment(&holder)
            && let Some((address, pool)) = self.allocator.first_disallowed(has, &pool_filter)
        {
            let rejection = Rejection::NotSelected {
                pool: pool.to_owned(),
            };
            let kept = has.addresses().only(Family::of(address).other());
            self.allocator.reduce(&holder, &kept);
            self.report_cleared(key, service, &rejection);
        }
    }

    /// Checks whether the Service can keep its addresses with another key or other ports.
    fn readopt(&mut self, key: &ObjectKey, service: &CachedService, sharing_mode: &SharingMode) {
        let holder = AllocationKey::Service(key.clone());
        let Some(has) = self.allocator.assignment(&holder) else {
            return;
        };
        let (addresses, names) = (has.addresses(), has.pool_names());
        let request = AdoptRequest {
            addresses,
            recorded: RecordedPools(names.as_deref()),
            sharing_mode: sharing_mode.clone(),
            allow_outside_pools: true,
        };
        if let Err(rejection) = self.allocator.adopt(&holder, request) {
            self.report_cleared(key, service, &rejection);
        }
    }

    /// Assigns the requested addresses. A Service that does not get all of them waits.
    pub(super) fn assign(&mut self, index: &Index, key: &ObjectKey) {
        let Some(service) = index.load_balancer(key) else {
            return;
        };
        let request = match &service.role {
            Role::LoadBalancer(Ok(request)) => request,
            Role::LoadBalancer(Err(invalid)) => {
                self.pending.insert(key.clone());
                self.report_problem(key, service, Problem::Failed, invalid.rejection.clone());
                return;
            }
            Role::Former | Role::OtherClass => return,
        };
        if !index.knows_labels_of(key.namespace()) {
            // A Service is in a namespace: the watch of namespaces lags behind that of Services.
            self.pending.insert(key.clone());
            return;
        }
        // It may get back a draining address.
        self.stop_draining(key);
        let holder = AllocationKey::Service(key.clone());
        let result = self
            .allocator
            .assign(&holder, request, &index.pool_filter(key, service));
        self.hold_draining(key, service);
        let assigned = match result {
            Ok(assigned) => assigned,
            Err(rejection) => {
                self.pending.insert(key.clone());
                self.report_problem(key, service, Problem::Failed, rejection);
                return;
            }
        };
        self.cleared.remove(key);
        if let (Some(rejection), Some(family)) =
            (assigned.incomplete, request.missing_family(&assigned.assignment))
        {
            self.incomplete.insert(key.clone(), family);
            let problem = match request.families {
                Families::PreferDualStack => Problem::Incomplete,
                Families::RequireDualStack | Families::Single(_) => Problem::Failed,
            };
            self.report_problem(key, service, problem, rejection);
        } else {
            self.reported.remove(key);
        }
    }

    /// Reserves the addresses that the status of a Service shows, or may come to show, and that it no longer has.
    pub(super) fn hold_draining(&mut self, key: &ObjectKey, service: &CachedService) {
        self.stop_draining(key);
        let has = self.allocator.assignment(&AllocationKey::Service(key.clone()));
        let has = has.map(Assignment::addresses).unwrap_or_default();
        let pending = self
            .pending_writes
            .get(key)
            .into_iter()
            .flat_map(|pending| &pending.addresses);
        let shown: BTreeSet<_> = service.status.addresses.iter().chain(pending.copied()).collect();
        let mut draining = BTreeSet::new();
        for address in shown {
            let holder = AllocationKey::Draining(key.clone(), address);
            // Fails only if no Service could get the address anyway.
            let request = AdoptRequest {
                addresses: address.into(),
                recorded: RecordedPools(service.pool.as_deref()),
                sharing_mode: SharingMode::Draining,
                allow_outside_pools: false,
            };
            if !has.iter().any(|other| other == address) && self.allocator.adopt(&holder, request).is_ok() {
                draining.insert(address);
            }
        }
        if !draining.is_empty() {
            self.draining.insert(key.clone(), draining);
        }
    }

    /// Releases the draining addresses of a Service.
    fn stop_draining(&mut self, key: &ObjectKey) {
        for address in self.draining.remove(key).into_iter().flatten() {
            self.allocator
                .release(&AllocationKey::Draining(key.clone(), address));
        }
    }

    /// Families of which a Service reserves fewer addresses than before.
    fn freed_since(&self, before: &BTreeSet<IpAddr>, key: &ObjectKey) -> FreedFamilies {
        let mut freed = FreedFamilies::default();
        for address in before.difference(&self.reserved_addresses(key)) {
            freed.add(*address);
        }
        freed
    }

    /// Every address that a Service reserves.
    fn reserved_addresses(&self, key: &ObjectKey) -> BTreeSet<IpAddr> {
        let has = self.allocator.assignment(&AllocationKey::Service(key.clone()));
        let has = has.into_iter().flat_map(|has| has.addresses().iter());
        has.chain(self.draining.get(key).into_iter().flatten().copied())
            .collect()
    }
}
