//! What is written when, and what comes of it: the oldest Service first, one write of an object at a time, and figures
//! after the Services that they count.

use std::collections::BTreeSet;
use std::time::Instant;

use jiff::Timestamp;
use lb_ipam::{Addresses, Assignment, Family};
use lb_runtime::ObjectKey;

use super::{Holder, LIMBO, Landing, Leading, MAX_REPEATS, MAX_UNDER_WAY};
use crate::condition::{self, Shown};
use crate::index::Index;
use crate::report::Report;
use crate::service::{Role, Service, Status};
use crate::write::{Outcome, ServiceWrite, Target, Write};
use crate::{state, verdict};

impl Leading {
    /// The next write, oldest Service first; none when there is nothing to write, or enough under way.
    pub fn next_write(&mut self, index: &Index, now: Instant, time: Timestamp) -> Option<Write> {
        if self.flights.under_way() >= MAX_UNDER_WAY {
            return None;
        }
        while let Some((_, key)) = self.queue.pop_first() {
            let target = Target::Service(key.clone());
            // One that may not be written now is looked at again when that changes.
            if let Some(service) = index.services.get(&key)
                && self.flights.may_write(&target, &service.version, now)
                && let Some(write) = self.service_write(index, &key, service, time)
            {
                self.flights.sent(target, service.version.clone());
                self.expect_landing(&write);
                return Some(Write::Service(write));
            }
        }
        // Who announces an address is said after every address has been given that can be, and a few at a time.
        while self.flights.under_way() == self.repeats.len() && self.repeats.len() < MAX_REPEATS {
            let Some(key) = self.announcements.pop_first() else {
                break;
            };
            let target = Target::Service(key.clone());
            if let Some(service) = index.services.get(&key)
                && self.flights.may_write(&target, &service.version, now)
                && let Some(write) = self.service_write(index, &key, service, time)
            {
                self.flights.sent(target, service.version.clone());
                self.expect_landing(&write);
                self.repeats.insert(key);
                return Some(Write::Service(write));
            }
        }
        // Figures follow once the Services have been written, so that a thousand of them do not mean a thousand counts.
        while let Some(target) = self.verdicts.pop_first() {
            let write = match target {
                Target::State => state::write(index, &self.allocator, time),
                Target::Service(_) | Target::Pool(_) | Target::Advertisement(_) => {
                    verdict::write(index, &self.allocator, &target, time)
                }
            };
            if let Some((version, write)) = write
                && self.flights.may_write(&target, &version, now)
            {
                self.flights.sent(target, version);
                return Some(write);
            }
        }
        None
    }

    /// Takes in what came of a write.
    pub fn written(&mut self, index: &mut Index, write: Write, outcome: Outcome, now: Instant) {
        let target = write.target();
        match outcome {
            Outcome::Written { version } => {
                let based_on = self.flights.succeeded(&target);
                match write {
                    Write::Service(write) => self.service_written(index, write, based_on.as_deref(), version),
                    Write::Verdict(write) => {
                        self.reports
                            .extend(verdict::written(index, write, based_on.as_deref(), version));
                    }
                    Write::State(write) => state::written(index, write, based_on.as_deref(), version),
                }
            }
            Outcome::Outdated => self.flights.outdated(&target),
            Outcome::Failed { error } => {
                tracing::warn!(object = %target, error, "write failed: trying again");
                self.flights.failed(&target, now);
                if let Target::Service(key) = &target
                    && let Some(landing) = self.landing.get_mut(key)
                {
                    landing.until = Some(now + LIMBO);
                }
            }
        }
        if let Target::Service(key) = target {
            self.repeats.remove(&key);
            self.dirty.insert(key);
        }
    }

    /// A write was sent: from now on its addresses may be shown.
    fn expect_landing(&mut self, write: &ServiceWrite) {
        let Some(addresses) = write.status.filter(|addresses| !addresses.is_empty()) else {
            return;
        };
        let landing = self.landing.entry(write.key.clone()).or_insert_with(|| Landing {
            addresses: BTreeSet::new(),
            version: write.version.clone(),
            until: None,
        });
        landing.addresses.extend(addresses.iter());
        landing.until = None;
    }

    /// Puts a Service into the queue if there is something to write.
    pub(super) fn enqueue(&mut self, index: &Index, key: &ObjectKey) {
        let Some(service) = index.services.get(key) else {
            return;
        };
        // When it says something does not make it say something else.
        match self.service_write(index, key, service, Timestamp::UNIX_EPOCH) {
            Some(write) if write.is_about_addresses() => {
                self.queue.insert((service.created, key.clone()));
            }
            Some(_) => {
                self.announcements.insert(key.clone());
            }
            None => self.flights.forget(&Target::Service(key.clone())),
        }
    }

    /// The difference between what a Service has and what its object shows.
    fn service_write(
        &self,
        index: &Index,
        key: &ObjectKey,
        service: &Service,
        time: Timestamp,
    ) -> Option<ServiceWrite> {
        let has = self.allocator.assignment(&Holder::Service(key.clone()));
        let addresses = has.map(Assignment::addresses).unwrap_or_default();
        let pool = has.and_then(Assignment::pool_names);
        let condition = match service.role {
            Role::Former => service.shown.map(|_| condition::Change::Remove),
            Role::Ours(_) => condition::change(service.shown, condition::says(has, self.told.get(key)), time),
        };
        let shown = service.announced;
        let announced = match service.role {
            Role::Former => shown.map(|_| condition::Change::Remove),
            Role::Ours(_) => match index.announcers.says(key, &addresses, shown.is_some()) {
                Some(Some(says)) => condition::change(shown, Some(says), time),
                Some(None) => shown.map(|_| condition::Change::Remove),
                None => None,
            },
        };
        let differs = addresses != service.status.addresses || service.status.foreign;
        let write = ServiceWrite {
            key: key.clone(),
            version: service.version.clone(),
            before: service.status.addresses,
            status: differs.then_some(addresses),
            pool: (pool != service.pool || service.deprecated_pool).then_some(pool),
            deprecated_pool: service.deprecated_pool,
            condition,
            announced,
        };
        (write.is_about_addresses() || write.announced.is_some()).then_some(write)
    }

    fn service_written(
        &mut self,
        index: &mut Index,
        write: ServiceWrite,
        based_on: Option<&str>,
        version: String,
    ) {
        index.service_written(&version);
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
            let report = if new == after {
                Report::allocated
            } else {
                Report::additional
            };
            self.reports
                .push(report(&write.key, &service, new, pool.unwrap_or_default()));
            self.mention_deprecated(&write.key, &service);
        }
        if let Some(condition::Change::Set { says, .. }) = &write.condition
            && says.is_about_outside()
        {
            self.reports
                .push(Report::outside(&write.key, &service, says.message()));
        }
        // If the watch was quicker, the index is newer than this answer.
        let Some(service) = index.services.get_mut(&write.key) else {
            return;
        };
        if Some(service.version.as_str()) == based_on {
            service.version = version;
            if let Some(addresses) = write.status {
                service.status = Status {
                    addresses,
                    foreign: false,
                };
            }
            if let Some(change) = &write.condition {
                service.shown = Shown::after(change);
            }
            if let Some(change) = &write.announced {
                service.announced = Shown::after(change);
            }
            if let Some(pool) = write.pool {
                service.pool = pool;
                service.deprecated_pool = false;
            }
        }
    }
}
