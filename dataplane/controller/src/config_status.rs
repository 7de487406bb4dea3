//! The status of pools and advertisements: whether they are valid, and how full a pool is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lb_crds::condition::set_condition;
use lb_crds::names::EXCLUDED_ADDRESSES;
use lb_ipam::{Allocator, Assignment, Family, Pool};
use lb_runtime::ObjectKey;
use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::allocation_key::AllocationKey;
use crate::condition::{ConditionText, ShownCondition};
use crate::events::ObjectEvent;
use crate::index::Index;
use crate::objects::{ObjectRef, PoolCounts, VALID};
use crate::reason::Reason;
use crate::target::WriteTarget;
use crate::write::{ConfigStatusWrite, ObjectWrite};

/// How many released addresses the status of a pool lists: about 10 KiB.
const MAX_RELEASED_SHOWN: usize = 256;

/// How the status of a pool or an advertisement differs from the decisions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Difference {
    /// Its condition.
    Condition,
    /// Only the counts or the released addresses of a pool.
    Usage,
}

/// Whether and how the status of a pool or an advertisement has to be written.
#[must_use]
pub fn difference(
    index: &Index,
    allocator: &Allocator<AllocationKey>,
    target: &WriteTarget,
) -> Option<Difference> {
    let desired = desired(index, allocator, target)?;
    let mut conditions = desired.conditions.to_vec();
    if desired.set_condition(&mut conditions, Timestamp::UNIX_EPOCH) {
        return Some(Difference::Condition);
    }
    desired.has_other_usage().then_some(Difference::Usage)
}

/// The errors of all pools and advertisements, each with the name of its object.
#[must_use]
pub fn errors(index: &Index, allocator: &Allocator<AllocationKey>) -> Vec<String> {
    let pools = index.pools.keys().filter_map(|name| {
        let error = allocator.pool(name)?.err()?;
        Some(format!("IPAddressPool {name}: {error}"))
    });
    let advertisements = index.advertisements.keys().filter_map(|key| {
        let desired = advertisement(index, key).filter(|desired| !desired.text.status())?;
        Some(format!(
            "L2Advertisement {}: {}",
            key.name(),
            desired.text.message()
        ))
    });
    pools.chain(advertisements).collect()
}

/// The write that corrects the status, if it needs one, and the version that it is based on.
#[must_use]
pub fn write(
    index: &Index,
    allocator: &Allocator<AllocationKey>,
    target: &WriteTarget,
    time: Timestamp,
) -> Option<(String, ObjectWrite)> {
    let desired = desired(index, allocator, target)?;
    let mut conditions = desired.conditions.to_vec();
    let changed = desired.set_condition(&mut conditions, time);
    (changed || desired.has_other_usage()).then(|| {
        let version = desired.object.version.clone();
        let write = ConfigStatusWrite {
            target: target.clone(),
            version: version.clone(),
            event: desired.event(target),
            conditions,
            counts: desired.counts,
            released: desired.released,
        };
        (version, ObjectWrite::ConfigStatus(write))
    })
}

/// Updates the index after a successful write. Returns the event to publish, if any.
pub fn record_written(
    index: &mut Index,
    write: ConfigStatusWrite,
    based_on: Option<&str>,
    version: String,
) -> Option<ObjectEvent> {
    let (object, conditions, usage) = match &write.target {
        WriteTarget::Pool(name) => {
            let pool = index.pools.get_mut(name)?;
            let usage = (&mut pool.counts, &mut pool.released);
            (&mut pool.object, &mut pool.conditions, Some(usage))
        }
        WriteTarget::Advertisement(key) => {
            let advertisement = index.advertisements.get_mut(key)?;
            (&mut advertisement.object, &mut advertisement.conditions, None)
        }
        WriteTarget::Service(_) | WriteTarget::ConfigurationState => return None,
    };
    // If the watch was quicker, the index is newer than this response.
    if Some(object.version.as_str()) == based_on {
        object.version = version;
        conditions.clone_from(&write.conditions);
        if let Some((counts, released)) = usage {
            *counts = write.counts;
            *released = write.released;
        }
    }
    write.event
}

/// The desired status of a pool or an advertisement, and its present status.
struct DesiredStatus<'a> {
    object: &'a ObjectRef,
    text: ConditionText,
    conditions: &'a [Condition],
    counts: Option<PoolCounts>,
    shown_counts: Option<PoolCounts>,
    released: Vec<(IpAddr, i64)>,
    shown_released: &'a [(IpAddr, i64)],
}

impl DesiredStatus<'_> {
    /// Whether the counts differ, or the newest release is not shown. Releases whose hold-down has ended are removed only
    /// with the next such write: they do no harm.
    fn has_other_usage(&self) -> bool {
        let newest = self.released.first();
        self.counts != self.shown_counts || newest.is_some_and(|newest| !self.shown_released.contains(newest))
    }

    /// The event for a write of this status: the object has become valid or invalid, or has another error. Compared with
    /// the condition in the object, so that a new leader does not publish it again.
    fn event(&self, target: &WriteTarget) -> Option<ObjectEvent> {
        let shown = ShownCondition::read(self.conditions, VALID);
        let uid = self.object.uid.clone();
        if self.text.status() {
            let was_invalid = shown.is_some_and(|shown| !shown.status());
            return was_invalid.then(|| ObjectEvent::valid(target.clone(), uid));
        }
        let is_shown = shown.is_some_and(|shown| shown.has_text(&self.text));
        (!is_shown)
            .then(|| ObjectEvent::invalid(target.clone(), uid, self.text.reason(), self.text.message()))
    }

    fn set_condition(&self, conditions: &mut Vec<Condition>, time: Timestamp) -> bool {
        set_condition(
            conditions,
            VALID,
            self.text.status(),
            self.text.reason().as_str(),
            self.text.message(),
            self.object.generation,
            time,
        )
    }
}

fn desired<'a>(
    index: &'a Index,
    allocator: &Allocator<AllocationKey>,
    target: &WriteTarget,
) -> Option<DesiredStatus<'a>> {
    let desired = match target {
        WriteTarget::Pool(name) => pool(index, allocator, name)?,
        WriteTarget::Advertisement(key) => advertisement(index, key)?,
        WriteTarget::Service(_) | WriteTarget::ConfigurationState => return None,
    };
    // An object that cannot be decoded has no version to base a write on.
    (!desired.object.version.is_empty()).then_some(desired)
}

fn pool<'a>(index: &'a Index, allocator: &Allocator<AllocationKey>, name: &str) -> Option<DesiredStatus<'a>> {
    let cached = index.pools.get(name)?;
    let count = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
    let (text, counts) = match allocator.pool(name)? {
        Ok(pool) => (
            usable_pool(index, pool),
            PoolCounts {
                assigned_ipv4: count(pool.used(Family::V4).into()),
                assigned_ipv6: count(pool.used(Family::V6).into()),
                available_ipv4: count(pool.free(Family::V4)),
                available_ipv6: count(pool.free(Family::V6)),
            },
        ),
        // Services keep their addresses of an invalid pool.
        Err(error) => (
            ConditionText::new(false, error.into(), error.to_string()),
            PoolCounts {
                assigned_ipv4: assigned(allocator, name, Family::V4),
                assigned_ipv6: assigned(allocator, name, Family::V6),
                available_ipv4: 0,
                available_ipv6: 0,
            },
        ),
    };
    Some(DesiredStatus {
        object: &cached.object,
        text,
        conditions: &cached.conditions,
        counts: Some(counts),
        shown_counts: cached.counts,
        released: allocator.released(name, MAX_RELEASED_SHOWN),
        shown_released: &cached.released,
    })
}

/// The condition of a valid pool. Addresses of nodes are named, because they are assigned on request only.
fn usable_pool(index: &Index, pool: &Pool) -> ConditionText {
    let named = index
        .node_addresses_in(pool)
        .map(|(address, node)| format!("{address} (node {node})"));
    let named = list_first(named, LIST_LIMIT);
    if named.is_empty() {
        return ConditionText::new(true, Reason::Accepted, "Services can use this pool".to_owned());
    }
    let text = format!(
        "Services can use this pool, but it contains addresses of nodes: {named}: each is assigned only to a Service that \
         requests it, and announced only by its node; exclude them with the annotation {EXCLUDED_ADDRESSES}"
    );
    ConditionText::new(true, Reason::ContainsNodeAddresses, text)
}

/// How many addresses of an invalid pool Services have. Shared addresses count once.
fn assigned(allocator: &Allocator<AllocationKey>, name: &str, family: Family) -> i64 {
    let of_pool = |assignment: &Assignment| {
        let pool = assignment.origin(family)?.pool()?;
        (**pool == *name)
            .then(|| assignment.addresses().get(family))
            .flatten()
    };
    let addresses: BTreeSet<_> = allocator
        .assignments()
        .filter_map(|(_, assignment)| of_pool(assignment))
        .collect();
    i64::try_from(addresses.len()).unwrap_or(i64::MAX)
}

fn advertisement<'a>(index: &'a Index, key: &ObjectKey) -> Option<DesiredStatus<'a>> {
    let cached = index.advertisements.get(key)?;
    let named = cached.pools.iter().enumerate();
    let mut unknown = named.filter(|(_, pool)| !index.pools.contains_key(*pool));
    let text = match (&cached.error, unknown.next()) {
        (Some(error), _) => ConditionText::new(false, Reason::InvalidSelector, error.clone()),
        (None, Some((at, pool))) => ConditionText::new(
            false,
            Reason::UnknownPool,
            format!(
                "spec.ipAddressPools[{at}]: there is no IPAddressPool {pool:?}: create it, or correct the name"
            ),
        ),
        (None, None) => ConditionText::new(
            true,
            Reason::Accepted,
            "the advertisement is in effect".to_owned(),
        ),
    };
    Some(DesiredStatus {
        object: &cached.object,
        text,
        conditions: &cached.conditions,
        counts: None,
        shown_counts: None,
        released: Vec::new(),
        shown_released: &[],
    })
}
