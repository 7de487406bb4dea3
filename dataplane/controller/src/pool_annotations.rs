//! Parses a pool's annotations under `lb-operator.io/`.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use lb_crds::AddressRange;
use lb_crds::names::{ALLOCATION_STRATEGY, EXCLUDED_ADDRESSES, HOLD_DOWN, NAMESPACE_QUOTA, SHARING_SCOPE};
use lb_ipam::rejection::excerpt;
use lb_ipam::{AllocationStrategy, PoolAnnotations, PoolError, Range, SharingScope};

/// The longest hold-down, 30 days: a longer one is a typing error.
const MAX_HOLD_DOWN_SECONDS: i64 = 30 * 24 * 3600;

/// Parses the annotations of a pool.
///
/// # Errors
/// If one is invalid; the text names it and says what to write.
pub fn read(annotations: &BTreeMap<String, String>) -> Result<PoolAnnotations, PoolError> {
    let value = |key: &str| {
        annotations
            .get(key)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    };
    Ok(PoolAnnotations {
        excluded: value(EXCLUDED_ADDRESSES).map_or(Ok(Vec::new()), excluded)?,
        strategy: value(ALLOCATION_STRATEGY).map_or(Ok(AllocationStrategy::First), strategy)?,
        hold_down: value(HOLD_DOWN).map_or(Ok(0), hold_down)?,
        namespace_quota: value(NAMESPACE_QUOTA).map(quota).transpose()?,
        sharing_scope: value(SHARING_SCOPE).map_or(Ok(SharingScope::Cluster), sharing_scope)?,
    })
}

fn invalid(key: &str, value: &str, write: &str) -> PoolError {
    PoolError::Annotation(format!(
        "metadata.annotations[{key}]: {:?}: write {write}",
        excerpt(value)
    ))
}

fn strategy(value: &str) -> Result<AllocationStrategy, PoolError> {
    match value {
        "first" => Ok(AllocationStrategy::First),
        "leastRecentlyUsed" => Ok(AllocationStrategy::LeastRecentlyUsed),
        _ => Err(invalid(ALLOCATION_STRATEGY, value, "first or leastRecentlyUsed")),
    }
}

fn sharing_scope(value: &str) -> Result<SharingScope, PoolError> {
    match value {
        "cluster" => Ok(SharingScope::Cluster),
        "namespace" => Ok(SharingScope::Namespace),
        _ => Err(invalid(SHARING_SCOPE, value, "cluster or namespace")),
    }
}

fn hold_down(value: &str) -> Result<u32, PoolError> {
    let duration = value.parse::<SignedDuration>().ok();
    duration
        .map(|duration| duration.as_secs())
        .filter(|seconds| (0..=MAX_HOLD_DOWN_SECONDS).contains(seconds))
        .and_then(|seconds| u32::try_from(seconds).ok())
        .ok_or_else(|| invalid(HOLD_DOWN, value, "a time from 0s to 720h, such as 90s, 10m or 1h"))
}

fn quota(value: &str) -> Result<u32, PoolError> {
    value
        .parse()
        .map_err(|_| invalid(NAMESPACE_QUOTA, value, "a number of addresses, such as 5"))
}

fn excluded(value: &str) -> Result<Vec<Range>, PoolError> {
    let entry = |(index, text): (usize, &str)| {
        let range = text
            .parse::<AddressRange>()
            .map_err(|error| error.to_string())
            .and_then(|range| {
                Range::new(range.first(), range.last()).ok_or_else(|| "runs backwards".to_owned())
            });
        range.map_err(|reason| {
            PoolError::Annotation(format!(
                "metadata.annotations[{EXCLUDED_ADDRESSES}]: entry {index}: {reason}"
            ))
        })
    };
    value.split(',').enumerate().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(key: &str, value: &str) -> Result<PoolAnnotations, String> {
        read(&BTreeMap::from([(key.to_owned(), value.to_owned())])).map_err(|error| error.to_string())
    }

    #[test]
    fn parses_annotations_and_ignores_empty_ones() {
        let none = BTreeMap::new();
        assert_eq!(read(&none), Ok(PoolAnnotations::default()));
        for key in [
            ALLOCATION_STRATEGY,
            HOLD_DOWN,
            EXCLUDED_ADDRESSES,
            NAMESPACE_QUOTA,
            SHARING_SCOPE,
        ] {
            assert_eq!(read_one(key, " "), Ok(PoolAnnotations::default()));
        }
        let strategy = read_one(ALLOCATION_STRATEGY, "leastRecentlyUsed")
            .unwrap()
            .strategy;
        assert_eq!(strategy, AllocationStrategy::LeastRecentlyUsed);
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1h30m", 5400), ("720h", 2_592_000)] {
            assert_eq!(read_one(HOLD_DOWN, text).unwrap().hold_down, seconds, "{text}");
        }
        let excluded = read_one(EXCLUDED_ADDRESSES, "10.0.0.4-10.0.0.5, fd00::/127")
            .unwrap()
            .excluded;
        let excluded: Vec<_> = excluded.iter().map(Range::to_string).collect();
        assert_eq!(excluded, ["10.0.0.4-10.0.0.5", "fd00::-fd00::1"]);
        let scope = read_one(SHARING_SCOPE, "namespace").unwrap().sharing_scope;
        assert_eq!(scope, SharingScope::Namespace);
        assert_eq!(read_one(NAMESPACE_QUOTA, "5").unwrap().namespace_quota, Some(5));
    }

    #[test]
    fn invalid_values_are_quoted_with_the_expected_form() {
        for (key, value, expected) in [
            (
                ALLOCATION_STRATEGY,
                "random",
                "\"random\": write first or leastRecentlyUsed",
            ),
            (HOLD_DOWN, "10", "\"10\": write a time"),
            (HOLD_DOWN, "-1m", "\"-1m\": write a time"),
            (HOLD_DOWN, "99999h", "write a time from 0s to 720h"),
            (
                NAMESPACE_QUOTA,
                "many",
                "\"many\": write a number of addresses, such as 5",
            ),
            (SHARING_SCOPE, "none", "\"none\": write cluster or namespace"),
            (NAMESPACE_QUOTA, "-1", "\"-1\": write a number"),
            (EXCLUDED_ADDRESSES, "10.0.0.1/32,", "entry 1: "),
            (EXCLUDED_ADDRESSES, "10.0.0.9-10.0.0.1", "entry 0: "),
        ] {
            let error = read_one(key, value).unwrap_err();
            assert!(
                error.starts_with(&format!("metadata.annotations[{key}]: ")) && error.contains(expected),
                "{error}"
            );
        }
    }
}
