//! Check `ServerVersion`: whether the API server's version is supported.

use semver::Version;

use crate::preflight::{Fact, Finding, unknown};

/// Oldest supported minor version of Kubernetes. A test compares it with the chart's `kubeVersion`; the bundle's
/// `minKubeVersion` is the same.
const MIN_MINOR: u64 = 31;
/// Newest expected minor version: a little newer than the API types (k8s-openapi's feature `v1_33`), because Kubernetes
/// keeps its stable APIs.
const MAX_TESTED_MINOR: u64 = 36;

pub(in crate::preflight) fn server_version(found: &Fact<String>) -> Finding {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unknown("the version of Kubernetes", error),
    };
    let Some((major, minor)) = parse(found) else {
        return Finding::warning(format!(
            "the API server reported an unparseable version: {found:?}"
        ));
    };
    if (major, minor) < (1, MIN_MINOR) {
        return Finding::failed(format!(
            "Kubernetes {found} is not supported: the oldest supported version is 1.{MIN_MINOR}; upgrade the cluster"
        ));
    }
    if (major, minor) > (1, MAX_TESTED_MINOR) {
        return Finding::warning(format!(
            "Kubernetes {found} is newer than 1.{MAX_TESTED_MINOR}, the newest supported version; check for a newer operator"
        ));
    }
    Finding::passed(format!(
        "Kubernetes {found} is supported (1.{MIN_MINOR} to 1.{MAX_TESTED_MINOR})"
    ))
}

/// Major and minor of `v1.33.2`, `v1.31.4+k3s1` or `v1.32.1-gke.1000`.
fn parse(text: &str) -> Option<(u64, u64)> {
    let version = Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()?;
    Some((version.major, version.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_fail_and_new_ones_warn() {
        let cases = [
            ("v1.31.0", "passed"),
            ("v1.31.4+k3s1", "passed"),
            ("v1.32.1-gke.1000", "passed"),
            ("v1.36.9", "passed"),
            ("v1.30.99", "failed"),
            ("v0.99.0", "failed"),
            ("v1.37.0-alpha.1", "warning"),
            ("v2.0.0", "warning"),
            ("1.x", "warning"),
        ];
        for (text, wanted) in cases {
            let found = server_version(&Ok(text.to_owned()));
            let what = match &found {
                Finding::Passed(_) => "passed",
                Finding::Warning(_) => "warning",
                Finding::Unknown(_) => "unknown",
                Finding::Failed(_) => "failed",
            };
            assert_eq!(what, wanted, "{text}: {found:?}");
        }
    }

    #[test]
    fn chart_requires_the_same_version() {
        let chart = include_str!("../../../../charts/lb-operator/Chart.yaml");
        assert!(
            chart.contains(&format!("kubeVersion: \">=1.{MIN_MINOR}.0-0\"")),
            "{chart}"
        );
    }
}
