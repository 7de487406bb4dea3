//! What is to be known about pools and advertisements: whether they are valid, why not, and how full a pool is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lb_crds::condition::{find_condition, set_condition};
use lb_ipam::{Allocator, Assignment, Family};

use crate::decide::Holder;
use crate::index::{Index, ObjectRef};
use crate::report::Report;
use crate::write::{Target, VerdictWrite, Write};

/// How many released addresses a pool's status names: some ten kilobytes.
const MOST_RELEASED: usize = 256;

/// The one condition of pools and advertisements.
pub const VALID: &str = "Valid";

/// Whether what is shown of a pool or an advertisement is not what is so.
#[must_use]
pub fn differs(index: &Index, allocator: &Allocator<Holder>, target: &Target) -> bool {
    subject(index, allocator, target).is_some_and(|subject| {
        let mut conditions = subject.conditions.to_vec();
        subject.has_other_figures() || subject.set(&mut conditions, Timestamp::UNIX_EPOCH)
    })
}

/// What is wrong with pools and advertisements, each with its object.
#[must_use]
pub fn errors(index: &Index, allocator: &Allocator<Holder>) -> Vec<String> {
    let pools = index.pools.keys().filter_map(|name| {
        let error = allocator.pool(name)?.err()?;
        Some(format!("IPAddressPool {name}: {error}"))
    });
    let advertisements = index.advertisements.keys().filter_map(|key| {
        let subject = advertisement(index, key).filter(|subject| !subject.valid)?;
        Some(format!("L2Advertisement {}: {}", key.name(), subject.message))
    });
    pools.chain(advertisements).collect()
}

/// The write that makes it so, and the version that it is based on.
#[must_use]
pub fn write(
    index: &Index,
    allocator: &Allocator<Holder>,
    target: &Target,
    time: Timestamp,
) -> Option<(String, Write)> {
    let subject = subject(index, allocator, target)?;
    let mut conditions = subject.conditions.to_vec();
    let changed = subject.set(&mut conditions, time);
    (changed || subject.has_other_figures()).then(|| {
        let version = subject.object.version.clone();
        let write = VerdictWrite {
            target: target.clone(),
            version: version.clone(),
            report: subject.news(target),
            conditions,
            counts: subject.counts,
            released: subject.released,
        };
        (version, Write::Verdict(write))
    })
}

/// Takes in that it was written. What it means for the object's owner, if anything, is returned.
pub fn written(
    index: &mut Index,
    write: VerdictWrite,
    based_on: Option<&str>,
    version: String,
) -> Option<Report> {
    let (object, conditions, figures) = match &write.target {
        Target::Pool(name) => {
            let pool = index.pools.get_mut(name)?;
            let figures = (&mut pool.counts, &mut pool.released);
            (&mut pool.object, &mut pool.conditions, Some(figures))
        }
        Target::Advertisement(key) => {
            let advertisement = index.advertisements.get_mut(key)?;
            (&mut advertisement.object, &mut advertisement.conditions, None)
        }
        Target::Service(_) | Target::State => return None,
    };
    // If the watch was quicker, the index is newer than this answer.
    if Some(object.version.as_str()) == based_on {
        object.version = version;
        conditions.clone_from(&write.conditions);
        if let Some((counts, released)) = figures {
            *counts = write.counts;
            *released = write.released;
        }
    }
    write.report
}

/// A pool or an advertisement: what is so, and what is shown.
struct Subject<'a> {
    object: &'a ObjectRef,
    conditions: &'a [Condition],
    shown_counts: Option<[i64; 4]>,
    valid: bool,
    reason: &'static str,
    message: String,
    counts: Option<[i64; 4]>,
    shown_released: &'a [(IpAddr, i64)],
    released: Vec<(IpAddr, i64)>,
}

impl Subject<'_> {
    /// Whether the counts are others, or something was released that is not shown. What is over is left standing until
    /// then: it does no harm, and is no reason to write.
    fn has_other_figures(&self) -> bool {
        let newest = self.released.first();
        self.counts != self.shown_counts || newest.is_some_and(|newest| !self.shown_released.contains(newest))
    }

    /// What a write of this tells the object's owner: that it turned invalid or valid, or is invalid for another reason.
    /// It goes by what is shown, so that nothing is told twice, whoever leads.
    fn news(&self, target: &Target) -> Option<Report> {
        let shown = find_condition(self.conditions, VALID);
        let shown_invalid = shown.filter(|condition| condition.status == "False");
        let uid = self.object.uid.clone();
        if self.valid {
            return shown_invalid.map(|_| Report::valid(target.clone(), uid));
        }
        let same = shown_invalid.is_some_and(|condition| condition.message == self.message);
        (!same).then(|| Report::invalid(target.clone(), uid, self.reason, &self.message))
    }

    fn set(&self, conditions: &mut Vec<Condition>, time: Timestamp) -> bool {
        let generation = self.object.generation;
        set_condition(
            conditions,
            VALID,
            self.valid,
            self.reason,
            &self.message,
            generation,
            time,
        )
    }
}

fn subject<'a>(index: &'a Index, allocator: &Allocator<Holder>, target: &Target) -> Option<Subject<'a>> {
    let subject = match target {
        Target::Pool(name) => pool(index, allocator, name)?,
        Target::Advertisement(key) => advertisement(index, key)?,
        Target::Service(_) | Target::State => return None,
    };
    // One that cannot be read has no version to base a write on: the log has said so.
    (!subject.object.version.is_empty()).then_some(subject)
}

fn pool<'a>(index: &'a Index, allocator: &Allocator<Holder>, name: &str) -> Option<Subject<'a>> {
    let pool = index.pools.get(name)?;
    let (valid, reason, message, counts) = match allocator.pool(name)? {
        Ok(_) => (
            true,
            "Accepted",
            "Services can get addresses of this pool".to_owned(),
            None,
        ),
        // What Services have of it they keep; see the allocator.
        Err(error) => (
            false,
            error.word(),
            error.to_string(),
            Some(kept(allocator, name)),
        ),
    };
    let counts = counts.or_else(|| {
        let pool = allocator.pool(name)?.ok()?;
        let assigned = |family| i64::try_from(pool.used(family)).unwrap_or(i64::MAX);
        let available = |family| i64::try_from(pool.free(family)).unwrap_or(i64::MAX);
        Some([
            assigned(Family::V4),
            assigned(Family::V6),
            available(Family::V4),
            available(Family::V6),
        ])
    });
    let released = match allocator.pool(name)? {
        Ok(pool) => pool.released(MOST_RELEASED),
        Err(_) => Vec::new(),
    };
    Some(Subject {
        object: &pool.object,
        conditions: &pool.conditions,
        shown_counts: pool.counts,
        valid,
        reason,
        message,
        counts,
        shown_released: &pool.released,
        released,
    })
}

/// How many addresses Services keep of a pool that is invalid; it has none to give.
fn kept(allocator: &Allocator<Holder>, name: &str) -> [i64; 4] {
    let kept = |family: Family| {
        let of_pool = |assignment: &Assignment| {
            let pool = assignment.origin(family)?.pool()?;
            (**pool == *name)
                .then(|| assignment.addresses().get(family))
                .flatten()
        };
        // One that is shared counts once.
        let addresses: BTreeSet<_> = allocator
            .assignments()
            .filter_map(|(_, assignment)| of_pool(assignment))
            .collect();
        i64::try_from(addresses.len()).unwrap_or(i64::MAX)
    };
    [kept(Family::V4), kept(Family::V6), 0, 0]
}

fn advertisement<'a>(index: &'a Index, key: &lb_runtime::ObjectKey) -> Option<Subject<'a>> {
    let advertisement = index.advertisements.get(key)?;
    let named = advertisement.pools.iter().enumerate();
    let mut unknown = named.filter(|(_, pool)| !index.pools.contains_key(*pool));
    let (valid, reason, message) = match (&advertisement.error, unknown.next()) {
        (Some(error), _) => (false, "InvalidSelector", error.clone()),
        (None, Some((at, pool))) => (
            false,
            "UnknownPool",
            format!(
                "spec.ipAddressPools[{at}]: there is no IPAddressPool {pool:?}: create it, or correct the name"
            ),
        ),
        (None, None) => (true, "Accepted", "the advertisement is in force".to_owned()),
    };
    Some(Subject {
        object: &advertisement.object,
        conditions: &advertisement.conditions,
        shown_counts: None,
        valid,
        reason,
        message,
        counts: None,
        shown_released: &[],
        released: Vec::new(),
    })
}
