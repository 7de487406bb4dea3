//! Who gets which address: the index in, wanted writes and things to tell out. No I/O; time is an argument.
//!
//! ```text
//!  changes ──► Index ──► dirty ──► settle (keep, adopt, release) ──► serve (assign, oldest first) ──► queue ──► writes
//!                                        ▲                                                                       │
//!                                        └───────────────────────────── outcome ◄────────────────────────────────┘
//! ```
//!
//! Only a leader has a [`Leading`], and it is made only after everything has been listed: every address that a status
//! shows is adopted before the first one is given. From then on the allocator is the truth, and statuses follow it.
//!
//! An address that a status still shows, or that a write under way may yet make it show, is given to nobody else, even
//! when the decision to clear it has been taken: its Service is *leaving* it until the API server has the write that says
//! so. So no two statuses ever show one address.

mod send;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lb_ipam::{Allocator, Family, Rejection, Tenant};
use lb_runtime::ObjectKey;

use crate::announced::Touched;
use crate::condition::{self, Told, Trouble};
use crate::flight::Flights;
use crate::index::Index;
use crate::report::Report;
use crate::service::{Role, Service};
use crate::write::Target;
use crate::{state, verdict};

/// Writes under way at once: enough to write 1,000 Services in a second, few enough for the API server's queues.
pub const MAX_UNDER_WAY: usize = 32;
/// Of these, those that only repeat who announces an address: they may wait.
pub const MAX_REPEATS: usize = 8;

/// Who an address is kept for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Holder {
    /// The Service that has it.
    Service(ObjectKey),
    /// The Service whose status still shows it, or may yet. One for each address.
    Leaving(ObjectKey, IpAddr),
}

/// Addresses that a Service's status may come to show by writes that were sent.
#[derive(Debug)]
struct Landing {
    addresses: BTreeSet<IpAddr>,
    /// The version that the writes were based on. Once another is known, its status tells what came of them.
    version: String,
    /// If the last of them failed without an answer: when it cannot come into force any more.
    until: Option<Instant>,
}

/// How long the API server may work on a request whose sender has given up: its own limit is a minute.
const LIMBO: Duration = Duration::from_secs(60);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) | Self::Leaving(key, _) => key.fmt(f),
        }
    }
}

impl Tenant for Holder {
    /// What a Service is leaving counts for no quota: it must not keep it from what it moves to.
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Service(key) => Some(key.namespace()),
            Self::Leaving(..) => None,
        }
    }
}

/// What a leader knows beyond the index.
#[derive(Debug)]
pub struct Leading {
    allocator: Allocator<Holder>,
    /// Services to look at.
    dirty: BTreeSet<ObjectKey>,
    /// Services of ours without an address.
    pending: BTreeSet<ObjectKey>,
    /// Services of ours that have an address, and want one of this family as well.
    incomplete: BTreeMap<ObjectKey, Family>,
    /// What each Service in trouble was told last.
    told: BTreeMap<ObjectKey, Told>,
    /// Services that were told that they lose an address, and show it still.
    cleared: BTreeSet<ObjectKey>,
    /// Services that were told of their deprecated annotations.
    told_deprecated: BTreeSet<ObjectKey>,
    /// The addresses that each Service is leaving.
    leaving: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    landing: BTreeMap<ObjectKey, Landing>,
    /// Services to write, oldest first.
    queue: BTreeSet<(i64, ObjectKey)>,
    /// Services of which something else is announced than their condition says, as far as is known.
    announcements: BTreeSet<ObjectKey>,
    /// Of the writes under way, those that only repeat who announces an address.
    repeats: BTreeSet<ObjectKey>,
    /// Whether all Services are to be looked at, as to who announces them.
    announcers_listed: bool,
    /// Pools and advertisements to write.
    verdicts: BTreeSet<Target>,
    flights: Flights<Target>,
    pools_changed: bool,
    /// Whether nothing has been decided yet: what statuses show then is kept, also what no pool has.
    takes_over: bool,
    /// What the two clocks showed when something was decided last.
    clocks: Option<(Instant, Timestamp)>,
    reports: Vec<Report>,
}

impl Leading {
    /// Takes over: the first decision adopts every address that a status shows, oldest Service first, before anything is
    /// given.
    #[must_use]
    pub fn new(index: &Index) -> Self {
        Self {
            allocator: Allocator::default(),
            dirty: index.services.keys().cloned().collect(),
            pending: BTreeSet::new(),
            incomplete: BTreeMap::new(),
            told: BTreeMap::new(),
            cleared: BTreeSet::new(),
            told_deprecated: BTreeSet::new(),
            leaving: BTreeMap::new(),
            landing: BTreeMap::new(),
            queue: BTreeSet::new(),
            announcements: BTreeSet::new(),
            repeats: BTreeSet::new(),
            announcers_listed: false,
            verdicts: BTreeSet::new(),
            flights: Flights::default(),
            pools_changed: true,
            takes_over: true,
            clocks: None,
            reports: Vec::new(),
        }
    }

    /// Who has what.
    #[must_use]
    pub fn allocator(&self) -> &Allocator<Holder> {
        &self.allocator
    }

    /// How many Services wait for an address.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What is wrong with a Service, as it was told last.
    #[must_use]
    pub fn reason(&self, key: &ObjectKey) -> Option<&Rejection> {
        self.told.get(key).map(|told| &told.reason)
    }

    /// These Services have changed.
    pub fn services_changed(&mut self, keys: impl IntoIterator<Item = ObjectKey>) {
        self.dirty.extend(keys);
    }

    /// These Services are announced in another way. It has no part in who gets which address, so the Services are not
    /// dirty.
    pub fn announcers_changed(&mut self, touched: Touched) {
        match touched {
            Touched::These(keys) => self.announcements.extend(keys),
            Touched::All => self.announcers_listed = true,
        }
    }

    /// What pools offer has changed.
    pub fn pools_changed(&mut self) {
        self.pools_changed = true;
    }

    /// Decides everything that changes made necessary. What comes of it is in [`Leading::next_write`] and
    /// [`Leading::take_reports`]. `time` is for what outlives this process.
    pub fn decide(&mut self, index: &Index, now: Instant, time: Timestamp) {
        self.clocks = Some((now, time));
        let wakes = self
            .allocator
            .next_wake()
            .is_some_and(|wake| wake <= time.as_second());
        self.allocator.pass_to(time.as_second());
        let mut freed = Freed::default();
        if std::mem::take(&mut self.pools_changed) {
            self.change_pools(index);
            freed = Freed::ALL;
        }
        if wakes {
            freed = Freed::ALL;
        }
        for target in self.flights.due(now) {
            if let Target::Service(key) = target {
                self.dirty.insert(key);
            }
        }
        let landed = self
            .landing
            .iter()
            .filter(|(_, landing)| landing.until.is_some_and(|until| until <= now));
        self.dirty.extend(landed.map(|(key, _)| key.clone()));
        let dirty = by_age(index, std::mem::take(&mut self.dirty));
        // First everyone settles what they have, then what is free is given: an address is kept before it is given.
        let mut waiting = BTreeSet::new();
        for key in &dirty {
            let settled = self.settle(index, key, now);
            freed = freed.and(settled.freed);
            self.pending.remove(key);
            self.incomplete.remove(key);
            if settled.wants {
                waiting.insert(key.clone());
            }
        }
        if freed.any() {
            waiting.append(&mut self.pending);
        }
        let hopeful = self.incomplete.iter().filter(|(_, family)| freed.of(**family));
        waiting.extend(hopeful.map(|(key, _)| key.clone()));
        let waiting = by_age(index, waiting);
        for key in &waiting {
            self.incomplete.remove(key);
            self.serve(index, key);
        }
        self.takes_over = false;
        for key in dirty.iter().chain(&waiting) {
            self.enqueue(index, key);
        }
        if std::mem::take(&mut self.announcers_listed) {
            self.announcements.extend(index.services.keys().cloned());
        }
        self.judge(index, now);
    }

    /// When to decide again although nothing has changed: a write that failed may be tried again, or an address that was
    /// held back may be given to somebody who waits.
    #[must_use]
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let limbo = self.landing.values().filter_map(|landing| landing.until);
        let writes = self.flights.next_timeout(now);
        limbo.chain(writes).chain(self.next_wake()).min()
    }

    fn next_wake(&self) -> Option<Instant> {
        if self.pending.is_empty() && self.incomplete.is_empty() {
            return None;
        }
        let (instant, time) = self.clocks?;
        let seconds = self.allocator.next_wake()?.saturating_sub(time.as_second());
        let seconds = u64::try_from(seconds).unwrap_or_default();
        // At most for a day, in case somebody sets the clock.
        Some(instant + Duration::from_secs(seconds.min(24 * 3600)))
    }

    /// Whether it is known of every write what came of it.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.flights.under_way() == 0 && self.landing.values().all(|landing| landing.until.is_none())
    }

    /// What to tell: events and log lines, in order.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    fn change_pools(&mut self, index: &Index) {
        let changed = self.allocator.set_pools(index.candidates());
        for holder in changed.renamed {
            if let Holder::Service(key) = holder {
                self.dirty.insert(key);
            }
        }
        if self.takes_over {
            for pool in index.pools.values() {
                for (address, since) in pool.released.iter().rev() {
                    self.allocator.remember_release(*address, *since);
                }
            }
        }
        for cleared in changed.cleared {
            let Holder::Service(key) = cleared.service else {
                continue;
            };
            if let Some(service) = index.services.get(&key) {
                self.reports.push(Report::cleared(&key, service, &cleared.reason));
            }
            self.cleared.insert(key.clone());
            self.dirty.insert(key);
        }
        // Other pools may be for them now.
        self.dirty.extend(index.services.keys().cloned());
        // What was of no pool may be of one now, and be shown still by a Service that lost it.
        for (key, service) in &index.services {
            self.leave(key, service);
        }
    }

    /// Tells a Service what is wrong, once. What it was told it goes on being told as long as that says the same.
    fn complain(&mut self, key: &ObjectKey, service: &Service, trouble: Trouble, reason: Rejection) {
        if self
            .told
            .get(key)
            .is_some_and(|told| told.trouble == trouble && told.reason.says_the_same_as(&reason))
        {
            return;
        }
        let report = match trouble {
            Trouble::Failed => Report::failed(key, service, &reason),
            Trouble::NotUnderstood => Report::invalid_request(key, service, &reason),
            Trouble::Incomplete => Report::incomplete(key, service, &reason),
        };
        let told = Told { trouble, reason };
        let has = self.allocator.assignment(&Holder::Service(key.clone()));
        // Another leader has told it before.
        if condition::shows(service.shown, condition::says(has, Some(&told)).as_ref()) {
            self.reports.push(report.known());
        } else {
            self.reports.push(report);
            self.mention_deprecated(key, service);
        }
        self.told.insert(key.clone(), told);
    }

    fn mention_deprecated(&mut self, key: &ObjectKey, service: &Service) {
        if !service.deprecated.is_empty() && self.told_deprecated.insert(key.clone()) {
            let annotations = service.deprecated.iter();
            let reports = annotations.map(|annotation| Report::deprecated(key, service, annotation));
            self.reports.extend(reports);
        }
    }

    fn judge(&mut self, index: &Index, now: Instant) {
        let pools = index.pools.keys().map(|name| Target::Pool(name.clone()));
        let advertisements = index
            .advertisements
            .keys()
            .map(|key| Target::Advertisement(key.clone()));
        self.verdicts = pools
            .chain(advertisements)
            .filter(|target| verdict::differs(index, &self.allocator, target))
            .chain(Some(Target::State).filter(|_| state::differs(index, &self.allocator)))
            .collect();
        for target in self.flights.due(now) {
            if !matches!(target, Target::Service(_)) && !self.verdicts.contains(&target) {
                self.flights.forget(&target);
            }
        }
    }
}

/// The families of which addresses have become free.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Freed {
    v4: bool,
    v6: bool,
}

impl Freed {
    pub(crate) const ALL: Self = Self { v4: true, v6: true };

    fn and(self, other: Self) -> Self {
        Self {
            v4: self.v4 || other.v4,
            v6: self.v6 || other.v6,
        }
    }

    fn any(self) -> bool {
        self.v4 || self.v6
    }

    fn of(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    fn add(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(_) => self.v4 = true,
            IpAddr::V6(_) => self.v6 = true,
        }
    }
}

/// Services in the order in which they are looked at: the oldest first, and those that are load balancers no more last,
/// because what another Service has by right must not be kept for them.
fn by_age(index: &Index, keys: BTreeSet<ObjectKey>) -> Vec<ObjectKey> {
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_by_cached_key(|key| {
        let service = index.services.get(key);
        service.map(|service| (service.role == Role::Former, service.created, key.clone()))
    });
    keys
}
