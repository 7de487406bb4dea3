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

use lb_daemon::Key;
use lb_ipam::{Addresses, Assignment, Rejection, Request, Tenancy};

use super::{Holder, Landing, Leading};
use crate::index::Index;
use crate::report::Report;
use crate::service::{Role, Service};
use crate::write::Target;

/// What came of looking at one Service.
pub(super) struct Settled {
    /// Whether an address is kept for it no longer.
    pub(super) freed: bool,
    /// Whether it wants an address and has none.
    pub(super) wants: bool,
}

impl Leading {
    /// Makes the allocator agree with a Service as far as what it has is concerned.
    pub(super) fn settle(&mut self, index: &Index, key: &Key, now: Instant) -> Settled {
        let holder = Holder::Service(key.clone());
        let Some(service) = index.services.get(key) else {
            self.told.remove(key);
            self.told_deprecated.remove(key);
            self.cleared.remove(key);
            self.flights.forget(&Target::Service(key.clone()));
            self.landing.remove(key);
            let had = self.allocator.release(&holder).is_some();
            let left = self.unleave(key);
            return Settled {
                freed: had || left,
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
        let before = self.kept_for(key);
        let tenancy = self.allocator.tenancy(&holder).cloned();
        let wants = match &service.role {
            Role::Former => {
                self.told.remove(key);
                self.allocator.release(&holder);
                false
            }
            Role::Ours(request) => match (self.allocator.assignment(&holder).cloned(), request) {
                (Some(has), Ok(request)) => self.keep(index, key, service, &has, request),
                (None, Ok(request)) => self.adopt(index, key, service, request),
                // An address is not lost by a slip of the pen: what cannot be understood is told, and changes nothing.
                (Some(_), Err(reason)) => {
                    self.complain(key, service, reason, Report::invalid_request);
                    false
                }
                (None, Err(reason)) => {
                    let status = service.status.addresses;
                    let kept =
                        !status.is_empty() && self.take_on(key, service, status, Tenancy::Alone).is_ok();
                    if kept {
                        self.complain(key, service, reason, Report::invalid_request);
                    }
                    !kept
                }
            },
        };
        self.leave(key, service);
        let after = self.kept_for(key);
        // A key or a port that it has no more may make room as well.
        let freed = !before.is_subset(&after) || tenancy.as_ref() != self.allocator.tenancy(&holder);
        Settled { freed, wants }
    }

    /// A Service that has something keeps it, or the part of it that it still wants. Returns whether it wants another.
    fn keep(
        &mut self,
        index: &Index,
        key: &Key,
        service: &Service,
        has: &Assignment,
        request: &Request,
    ) -> bool {
        let holder = &Holder::Service(key.clone());
        if !self.may_keep(index, key, service, &has.pool) {
            return true;
        }
        let part = request.families.among(&has.addresses);
        if !request.is_met_by(&part, &has.pool) {
            self.allocator.release(holder);
            return true;
        }
        if part != has.addresses || self.allocator.tenancy(holder) != Some(&request.tenancy) {
            // Under another key, or with other ports, it may not have a place there any more.
            let pool = Some(&*has.pool);
            if let Err(reason) = self.allocator.adopt(holder, part, pool, request.tenancy.clone()) {
                self.clear(key, service, &reason);
                return true;
            }
        }
        self.told.remove(key);
        false
    }

    /// A Service that has nothing, as far as we know, keeps what its status shows, if it may. Returns whether it wants
    /// something else.
    fn adopt(&mut self, index: &Index, key: &Key, service: &Service, request: &Request) -> bool {
        let status = request.families.among(&service.status.addresses);
        if status.is_empty() {
            return true;
        }
        match self.take_on(key, service, status, request.tenancy.clone()) {
            Ok(has) if !self.may_keep(index, key, service, &has.pool) => true,
            Ok(has) if request.is_met_by(&has.addresses, &has.pool) => {
                self.told.remove(key);
                false
            }
            Ok(_) => {
                self.allocator.release(&Holder::Service(key.clone()));
                true
            }
            Err(reason) => {
                self.clear(key, service, &reason);
                true
            }
        }
    }

    /// Whether the pool that a Service has addresses of is for it still; if not, it has them no longer.
    fn may_keep(&mut self, index: &Index, key: &Key, service: &Service, pool: &str) -> bool {
        if self.allocator.admits(pool, &index.chosen(key, service)) {
            return true;
        }
        let reason = Rejection::NotChosen {
            pool: pool.to_owned(),
        };
        self.clear(key, service, &reason);
        self.allocator.release(&Holder::Service(key.clone()));
        false
    }

    /// Tells a Service, once, that it loses what it has.
    fn clear(&mut self, key: &Key, service: &Service, reason: &Rejection) {
        if self.cleared.insert(key.clone()) {
            self.reports.push(Report::cleared(key, service, reason));
        }
    }

    fn take_on(
        &mut self,
        key: &Key,
        service: &Service,
        addresses: Addresses,
        tenancy: Tenancy,
    ) -> Result<Assignment, Rejection> {
        self.unleave(key);
        let holder = Holder::Service(key.clone());
        self.allocator
            .adopt(&holder, addresses, service.pool.as_deref(), tenancy)
    }

    /// Tries to give a Service what it asks for. Returns whether it has it now.
    pub(super) fn serve(&mut self, index: &Index, key: &Key) -> bool {
        let Some(service) = index.ours(key) else {
            return true;
        };
        let Role::Ours(request) = &service.role else {
            return true;
        };
        // It may have back what it is leaving.
        self.unleave(key);
        let holder = Holder::Service(key.clone());
        let result = match request {
            Ok(request) => {
                let chosen = index.chosen(key, service);
                self.allocator.assign(&holder, request, &chosen).map(drop)
            }
            Err(reason) => Err(reason.clone()),
        };
        self.leave(key, service);
        match result {
            Ok(()) => {
                self.told.remove(key);
                self.cleared.remove(key);
                true
            }
            Err(reason) => {
                self.complain(key, service, &reason, Report::failed);
                false
            }
        }
    }

    /// Keeps for a Service what its status shows, or may come to show, and it no longer has.
    pub(super) fn leave(&mut self, key: &Key, service: &Service) {
        self.unleave(key);
        let has = self.allocator.assignment(&Holder::Service(key.clone()));
        let has = has.map(|has| has.addresses).unwrap_or_default();
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
            if !has.iter().any(|other| other == address)
                && self
                    .allocator
                    .adopt(&holder, address.into(), service.pool.as_deref(), Tenancy::Leaves)
                    .is_ok()
            {
                left.insert(address);
            }
        }
        if !left.is_empty() {
            self.leaving.insert(key.clone(), left);
        }
    }

    /// Gives up what is kept for a Service that is leaving it. Returns whether there was something.
    fn unleave(&mut self, key: &Key) -> bool {
        let left = self.leaving.remove(key);
        for address in left.iter().flatten() {
            self.allocator.release(&Holder::Leaving(key.clone(), *address));
        }
        left.is_some()
    }

    /// Every address that nobody else can have because of a Service.
    fn kept_for(&self, key: &Key) -> BTreeSet<IpAddr> {
        let has = self.allocator.assignment(&Holder::Service(key.clone()));
        let has = has.into_iter().flat_map(|has| has.addresses.iter());
        has.chain(self.leaving.get(key).into_iter().flatten().copied())
            .collect()
    }
}
