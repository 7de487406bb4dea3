//! Which pools of a set are valid. A bad pool is out by itself; the others never notice.
//!
//! Of two pools that overlap, the one that is in force unchanged stays; then one that was not found invalid before; then
//! the older one; then the lower name. So the pool whose edit caused the overlap is the one that is told, and a restart
//! comes to the same verdict.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::pool::{Pool, PoolSpec};
use crate::range::{Family, Range};

/// A pool as it is offered, valid or not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// What its owner wrote, or why that cannot be read.
    pub spec: Result<PoolSpec, PoolError>,
    /// Whether it was found invalid before, as it is written now: its own status says so.
    pub found_invalid: bool,
    /// When it was created, in seconds since 1970.
    pub created: i64,
}

/// Why a pool is out. The text names the field and what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PoolError {
    /// It lists nothing.
    #[error("spec.addresses is empty: list at least one CIDR or range (pool has no prefixes defined)")]
    NoAddresses,
    /// One entry cannot be read.
    #[error("spec.addresses[{index}] {reason}")]
    Entry {
        /// Which entry, from 0.
        index: usize,
        /// What is wrong with it, and what to write.
        reason: String,
    },
    /// Two of its own entries overlap.
    #[error("spec.addresses[{index}] ({range}) overlaps {other} of the same pool: remove one of them")]
    OverlapsItself {
        /// Which entry, from 0.
        index: usize,
        /// Its range.
        range: Range,
        /// The earlier entry.
        other: Range,
    },
    /// An entry overlaps another pool.
    #[error(
        "spec.addresses[{index}] ({range}) overlaps {other} of pool {pool:?}: remove the common addresses from one of \
         the two pools"
    )]
    Overlaps {
        /// Which entry, from 0.
        index: usize,
        /// Its range.
        range: Range,
        /// The other pool's range.
        other: Range,
        /// The other pool.
        pool: String,
    },
    /// `avoidBuggyIPs` and exclusions leave nothing.
    #[error(
        "spec.avoidBuggyIPs, or the annotation lb-operator.io/excluded-addresses, leaves no address of spec.addresses: \
         add addresses, those of IPv4 ending in neither .0 nor .255"
    )]
    NothingLeft,
    /// An annotation of ours cannot be read; the text names it.
    #[error("{0}")]
    Annotation(String),
    /// A selector of its `serviceAllocation` says nothing; the text names the field.
    #[error("{0}")]
    Selector(String),
    /// The object does not have the shape of a pool.
    #[error("the object cannot be read: {0}: correct it, or update the CustomResourceDefinition")]
    Unreadable(String),
}

impl PoolError {
    /// One word for the kind of error, as conditions want it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoAddresses | Self::NothingLeft => "NoAddresses",
            Self::Entry { .. } => "InvalidAddresses",
            Self::OverlapsItself { .. } | Self::Overlaps { .. } => "OverlappingAddresses",
            Self::Selector(_) => "InvalidSelector",
            Self::Annotation(_) => "InvalidAnnotation",
            Self::Unreadable(_) => "Unreadable",
        }
    }
}

/// The ranges of valid pools, by first address: which pool has an address is one look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges(BTreeMap<IpAddr, (Range, Arc<str>)>);

impl Ranges {
    /// The range and the pool that have an address.
    pub(crate) fn find(&self, address: IpAddr) -> Option<(&Range, &Arc<str>)> {
        let (_, (range, pool)) = self.0.range(..=address).next_back()?;
        range.contains(address).then_some((range, pool))
    }

    /// A range that overlaps this one. Ranges in here never overlap, so only the last that begins before the end can.
    fn overlapping(&self, range: &Range) -> Option<(&Range, &Arc<str>)> {
        let (_, (other, pool)) = self.0.range(..=range.last()).next_back()?;
        other.overlaps(range).then_some((other, pool))
    }

    fn add(&mut self, spec: &PoolSpec) {
        let name: Arc<str> = spec.name.as_str().into();
        for range in &spec.ranges {
            self.0.insert(range.first(), (*range, name.clone()));
        }
    }
}

/// Which candidates are valid, by name, and their ranges.
pub(crate) fn judge(
    candidates: BTreeMap<String, Candidate>,
    in_force: &BTreeMap<String, Result<Pool, PoolError>>,
) -> (BTreeMap<String, Result<PoolSpec, PoolError>>, Ranges) {
    let stays = |spec: &PoolSpec| match in_force.get(&spec.name) {
        Some(Ok(pool)) => pool.spec().ranges == spec.ranges,
        Some(Err(_)) | None => false,
    };
    let mut verdicts = BTreeMap::new();
    let mut specs = Vec::new();
    for (name, candidate) in candidates {
        match candidate.spec {
            Ok(spec) => specs.push((!stays(&spec), candidate.found_invalid, candidate.created, spec)),
            Err(error) => {
                verdicts.insert(name, Err(error));
            }
        }
    }
    specs.sort_by(|a, b| (a.0, a.1, a.2, &a.3.name).cmp(&(b.0, b.1, b.2, &b.3.name)));
    let mut ranges = Ranges::default();
    for (_, _, _, spec) in specs {
        let verdict = check(&spec, &ranges);
        if verdict.is_ok() {
            ranges.add(&spec);
        }
        verdicts.insert(spec.name.clone(), verdict.map(|()| spec));
    }
    (verdicts, ranges)
}

/// What is wrong with a pool: first what is wrong by itself, which does not depend on the others.
fn check(spec: &PoolSpec, others: &Ranges) -> Result<(), PoolError> {
    if spec.ranges.is_empty() {
        return Err(PoolError::NoAddresses);
    }
    let mut own = Ranges::default();
    let name: Arc<str> = spec.name.as_str().into();
    for (index, range) in spec.ranges.iter().enumerate() {
        if let Some((other, _)) = own.overlapping(range) {
            return Err(PoolError::OverlapsItself {
                index,
                range: *range,
                other: *other,
            });
        }
        own.0.insert(range.first(), (*range, name.clone()));
    }
    let empty = Pool::new(spec.clone());
    if [Family::V4, Family::V6]
        .iter()
        .all(|family| empty.capacity(*family) == 0)
    {
        return Err(PoolError::NothingLeft);
    }
    for (index, range) in spec.ranges.iter().enumerate() {
        if let Some((other, pool)) = others.overlapping(range) {
            return Err(PoolError::Overlaps {
                index,
                range: *range,
                other: *other,
                pool: pool.to_string(),
            });
        }
    }
    Ok(())
}
