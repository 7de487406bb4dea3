//! One Service at a time: what it keeps, what it loses and why, and what it is given.
//!
//! | the allocator says | the Service's status says | it |
//! | --- | --- | --- |
//! | it has an address | | keeps it, as long as it asks for it and the pool is for it |
//! | it has none | an address | keeps that, if nobody else has it by right |
//! | it has none | none | is served, the oldest first |
//!
//! What its status shows, or may come to show, and it no longer has, it is *leaving*: nobody new gets that.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use lb_ipam::{Assignment, Claimed, Families, Family, Keep, Rejection, Request, Tenancy};
use lb_runtime::ObjectKey;

use super::{Freed, Holder, Landing, Leading};
use crate::condition::Trouble;
use crate::index::Index;
use crate::report::Report;
use crate::service::{Role, Service};
use crate::write::Target;

/// What came of looking at one Service.
pub(super) struct Settled {
    /// Of which families addresses are kept for it no longer.
    pub(super) freed: Freed,
    /// Whether it wants an address that it has not.
    pub(super) wants: bool,
}

impl Leading {
    /// Makes the allocator agree with a Service as far as what it has is concerned.
    pub(super) fn settle(&mut self, index: &Index, key: &ObjectKey, now: Instant) -> Settled {
        let holder = Holder::Service(key.clone());
        let before = self.kept_for(key);
        let Some(service) = index.services.get(key) else {
            self.told.remove(key);
            self.told_deprecated.remove(key);
            self.cleared.remove(key);
            self.flights.forget(&Target::Service(key.clone()));
            self.landing.remove(key);
            self.allocator.release(&holder);
            self.unleave(key);
            return Settled {
                freed: self.freed_since(&before, key),
                wants: false,
            };
        };
        let is_over = |landing: &mut Landing| {
            landing.version != service.version || landing.until.is_some_and(|until| until <= now)
        };
        if self.landing.get_mut(key).is_some_and(is_over) {
            self.landing.remove(key);
        }
        if service.status.addresses.is_empty() {
            self.cleared.remove(key);
        }
        let tenancy = self.allocator.tenancy(&holder).cloned();
        let has_something = self.allocator.assignment(&holder).is_some();
        let wants = match &service.role {
            Role::Former => {
                self.told.remove(key);
                self.allocator.release(&holder);
                false
            }
            Role::Ours(Ok(request)) => {
                if !has_something {
                    self.take_on(key, service, request.families, &request.tenancy);
                }
                self.keep(index, key, service, request)
            }
            // An address is not lost by a slip of the pen: what cannot be understood is told, and changes nothing.
            Role::Ours(Err(reason)) => {
                if !has_something {
                    self.take_on(key, service, Families::Prefer, &Tenancy::Alone);
                }
                let keeps = self.allocator.assignment(&holder).is_some();
                if keeps {
                    self.complain(key, service, Trouble::NotUnderstood, reason.clone());
                }
                !keeps
            }
        };
        self.leave(key, service);
        let mut freed = self.freed_since(&before, key);
        if let (Some(before), Some(after)) = (&tenancy, self.allocator.tenancy(&holder))
            && before != after
        {
            // A key or a port that it has no more may make room where it stays.
            freed = Freed::ALL;
        }
        Settled { freed, wants }
    }

    /// A Service that has nothing, as far as we know, keeps what its status shows, if it may. Who takes over leaves it
    /// also what no pool has: nobody has changed anything.
    fn take_on(&mut self, key: &ObjectKey, service: &Service, families: Families, tenancy: &Tenancy) {
        let addresses = families.among(&service.status.addresses);
        if addresses.is_empty() {
            return;
        }
        self.unleave(key);
        let keep = Keep {
            addresses,
            claimed: Claimed(service.pool.as_deref()),
            tenancy: tenancy.clone(),
            outside: self.takes_over,
        };
        if let Err(reason) = self.allocator.adopt(&Holder::Service(key.clone()), keep) {
            self.clear(key, service, &reason);
        }
    }

    /// A Service keeps what it has, or the part of it that it wants and may have. Returns whether it wants something else
    /// or something more.
    fn keep(&mut self, index: &Index, key: &ObjectKey, service: &Service, request: &Request) -> bool {
        let holder = Holder::Service(key.clone());
        self.leave_closed_pools(index, key, service);
        let Some(has) = self.allocator.assignment(&holder) else {
            return true;
        };
        let part = request.families.among(&has.addresses());
        if part != has.addresses() {
            self.allocator.reduce(&holder, &part);
        }
        if self
            .allocator
            .tenancy(&holder)
            .is_some_and(|tenancy| *tenancy != request.tenancy)
        {
            self.take_place_again(key, service, &request.tenancy);
        }
        match self.allocator.assignment(&holder) {
            Some(has) if request.allows(has) => {
                let wants_more = request.missing(has).is_some();
                if !wants_more {
                    self.told.remove(key);
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

    /// A Service loses what it has of pools that are not for it any more.
    fn leave_closed_pools(&mut self, index: &Index, key: &ObjectKey, service: &Service) {
        let holder = Holder::Service(key.clone());
        let chosen = index.chosen(key, service);
        while let Some(has) = self.allocator.assignment(&holder)
            && let Some((address, pool)) = self.allocator.shuts_out(has, &chosen)
        {
            let reason = Rejection::NotChosen {
                pool: pool.to_owned(),
            };
            let rest = has.addresses().only(Family::of(address).other());
            self.allocator.reduce(&holder, &rest);
            self.clear(key, service, &reason);
        }
    }

    /// Under another key, or with other ports, a Service may not have a place any more where it is.
    fn take_place_again(&mut self, key: &ObjectKey, service: &Service, tenancy: &Tenancy) {
        let holder = Holder::Service(key.clone());
        let Some(has) = self.allocator.assignment(&holder) else {
            return;
        };
        let (addresses, names) = (has.addresses(), has.pool_names());
        let keep = Keep {
            addresses,
            claimed: Claimed(names.as_deref()),
            tenancy: tenancy.clone(),
            outside: true,
        };
        if let Err(reason) = self.allocator.adopt(&holder, keep) {
            self.clear(key, service, &reason);
        }
    }

    /// Tells a Service, once, that it loses what it has.
    fn clear(&mut self, key: &ObjectKey, service: &Service, reason: &Rejection) {
        if self.cleared.insert(key.clone()) {
            self.reports.push(Report::cleared(key, service, reason));
        }
    }

    /// Tries to give a Service what it asks for. If there is something that it wants and does not get, it waits.
    pub(super) fn serve(&mut self, index: &Index, key: &ObjectKey) {
        let Some(service) = index.ours(key) else {
            return;
        };
        let request = match &service.role {
            Role::Ours(Ok(request)) => request,
            Role::Ours(Err(reason)) => {
                self.pending.insert(key.clone());
                self.complain(key, service, Trouble::Failed, reason.clone());
                return;
            }
            Role::Former => return,
        };
        // It may have back what it is leaving.
        self.unleave(key);
        let holder = Holder::Service(key.clone());
        let result = self
            .allocator
            .assign(&holder, request, &index.chosen(key, service));
        self.leave(key, service);
        let given = match result {
            Ok(given) => given,
            Err(reason) => {
                self.pending.insert(key.clone());
                self.complain(key, service, Trouble::Failed, reason);
                return;
            }
        };
        self.cleared.remove(key);
        if let (Some(reason), Some(family)) = (given.lacks, request.missing(&given.assignment)) {
            self.incomplete.insert(key.clone(), family);
            let trouble = match request.families {
                Families::Prefer => Trouble::Incomplete,
                Families::Both | Families::One(_) => Trouble::Failed,
            };
            self.complain(key, service, trouble, reason);
        } else {
            self.told.remove(key);
        }
    }

    /// Keeps for a Service what its status shows, or may come to show, and it no longer has.
    pub(super) fn leave(&mut self, key: &ObjectKey, service: &Service) {
        self.unleave(key);
        let has = self.allocator.assignment(&Holder::Service(key.clone()));
        let has = has.map(Assignment::addresses).unwrap_or_default();
        let landing = self
            .landing
            .get(key)
            .into_iter()
            .flat_map(|landing| &landing.addresses);
        let shown: BTreeSet<_> = service.status.addresses.iter().chain(landing.copied()).collect();
        let mut left = BTreeSet::new();
        for address in shown {
            let holder = Holder::Leaving(key.clone(), address);
            // It cannot be kept where nobody could be given it anyway.
            let keep = Keep {
                addresses: address.into(),
                claimed: Claimed(service.pool.as_deref()),
                tenancy: Tenancy::Leaves,
                outside: false,
            };
            if !has.iter().any(|other| other == address) && self.allocator.adopt(&holder, keep).is_ok() {
                left.insert(address);
            }
        }
        if !left.is_empty() {
            self.leaving.insert(key.clone(), left);
        }
    }

    /// Gives up what is kept for a Service that is leaving it.
    fn unleave(&mut self, key: &ObjectKey) {
        for address in self.leaving.remove(key).into_iter().flatten() {
            self.allocator.release(&Holder::Leaving(key.clone(), address));
        }
    }

    /// The families of which a Service keeps others from less than before.
    fn freed_since(&self, before: &BTreeSet<IpAddr>, key: &ObjectKey) -> Freed {
        let mut freed = Freed::default();
        for address in before.difference(&self.kept_for(key)) {
            freed.add(*address);
        }
        freed
    }

    /// Every address that nobody else can have because of a Service.
    fn kept_for(&self, key: &ObjectKey) -> BTreeSet<IpAddr> {
        let has = self.allocator.assignment(&Holder::Service(key.clone()));
        let has = has.into_iter().flat_map(|has| has.addresses().iter());
        has.chain(self.leaving.get(key).into_iter().flatten().copied())
            .collect()
    }
}
