//! Validation of a set of pools. An invalid pool is left out; the others are not affected.
//!
//! Of two pools that overlap one is valid: preferably the one that is in force with the same ranges, then one that was
//! valid before, then the older one, then the lower name. So the pool whose edit caused the overlap becomes invalid, also
//! after a restart.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::pool::Pool;
use crate::pool_error::PoolError;
use crate::pool_spec::PoolSpec;
use crate::range::{Family, Range};

/// A pool before validation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolCandidate {
    /// Its configuration, or why that cannot be parsed.
    pub spec: Result<PoolSpec, PoolError>,
    /// Whether its status says that this generation is invalid.
    pub was_invalid: bool,
    /// Creation time, in seconds since 1970.
    pub created: i64,
}

/// The ranges of valid pools, by first address.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeIndex(BTreeMap<IpAddr, (Range, Arc<str>)>);

impl RangeIndex {
    /// The range that contains an address, and its pool.
    pub(crate) fn find(&self, address: IpAddr) -> Option<(&Range, &Arc<str>)> {
        let (_, (range, pool)) = self.0.range(..=address).next_back()?;
        range.contains(address).then_some((range, pool))
    }

    /// A range that overlaps this one. Indexed ranges never overlap, so only the last one that starts before its end can.
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

/// Validates the candidates against each other and against the pools in force. Returns the ranges of the valid ones too.
pub(crate) fn validate(
    candidates: BTreeMap<String, PoolCandidate>,
    in_force: &BTreeMap<String, Result<Pool, PoolError>>,
) -> (BTreeMap<String, Result<PoolSpec, PoolError>>, RangeIndex) {
    let is_in_force = |spec: &PoolSpec| match in_force.get(&spec.name) {
        Some(Ok(pool)) => pool.spec().ranges == spec.ranges,
        Some(Err(_)) | None => false,
    };
    let mut results = BTreeMap::new();
    let mut specs = Vec::new();
    for (name, candidate) in candidates {
        match candidate.spec {
            Ok(spec) => specs.push((
                !is_in_force(&spec),
                candidate.was_invalid,
                candidate.created,
                spec,
            )),
            Err(error) => {
                results.insert(name, Err(error));
            }
        }
    }
    specs.sort_by(|a, b| (a.0, a.1, a.2, &a.3.name).cmp(&(b.0, b.1, b.2, &b.3.name)));
    let mut ranges = RangeIndex::default();
    for (_, _, _, spec) in specs {
        let result = check(&spec, &ranges);
        if result.is_ok() {
            ranges.add(&spec);
        }
        results.insert(spec.name.clone(), result.map(|()| spec));
    }
    (results, ranges)
}

/// Checks a pool by itself first, so that the reported error does not depend on other pools if it need not.
fn check(spec: &PoolSpec, others: &RangeIndex) -> Result<(), PoolError> {
    if spec.ranges.is_empty() {
        return Err(PoolError::NoAddresses);
    }
    let mut own = RangeIndex::default();
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
    let unused = Pool::new(spec.clone());
    if [Family::V4, Family::V6]
        .iter()
        .all(|family| unused.capacity(*family) == 0)
    {
        return Err(PoolError::NoUsableAddress);
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
