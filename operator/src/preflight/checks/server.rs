//! Whether the API server is one that controller and speakers work with, and lets them do their work.

use semver::Version;

use crate::preflight::{Finding, Known, few, unknown};

/// The oldest minor version of Kubernetes that is supported. The chart's `kubeVersion` and the bundle's `minKubeVersion` say
/// the same, and a test compares them.
pub(in crate::preflight) const OLDEST: u64 = 31;
/// The newest one that the API types know (k8s-openapi's feature `v1_33`), and a little further: Kubernetes keeps its stable
/// APIs, so newer ones are expected to work.
pub(in crate::preflight) const NEWEST: u64 = 36;

pub(in crate::preflight) fn version(found: &Known<String>) -> Finding {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unknown("the version of Kubernetes", error),
    };
    let Some((major, minor)) = parse(found) else {
        return Finding::warning(format!(
            "the API server says that its version is {found:?}, which is none that can be read"
        ));
    };
    if (major, minor) < (1, OLDEST) {
        return Finding::failed(format!(
            "Kubernetes is {found}, and 1.{OLDEST} is the oldest supported: upgrade the cluster"
        ));
    }
    if (major, minor) > (1, NEWEST) {
        return Finding::warning(format!(
            "Kubernetes is {found}, and this operator has been tried with 1.{OLDEST} to 1.{NEWEST}: look for a newer operator"
        ));
    }
    Finding::passed(format!(
        "Kubernetes is {found}; 1.{OLDEST} to 1.{NEWEST} are supported"
    ))
}

/// Major and minor of `v1.33.2`, `v1.31.4+k3s1` or `v1.32.1-gke.1000`.
fn parse(text: &str) -> Option<(u64, u64)> {
    let version = Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()?;
    Some((version.major, version.minor))
}

pub(in crate::preflight) fn permissions(denied: &Known<Vec<String>>) -> Finding {
    match denied {
        Err(error) => unknown("the operator's permissions", error),
        Ok(denied) if denied.is_empty() => {
            Finding::passed("the operator holds every permission that controller and speakers need")
        }
        Ok(denied) => Finding::failed(format!(
            "the operator may not {}, and nobody can grant what they do not hold: install the ClusterRole of this operator's \
             version again (helm upgrade, or the bundle of OLM)",
            few(denied)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_below_the_range_fail_and_above_it_warn() {
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
            let found = version(&Ok(text.to_owned()));
            let what = match &found {
                Finding::Passed(_) => "passed",
                Finding::Warning(_) => "warning",
                Finding::Failed(_) => "failed",
            };
            assert_eq!(what, wanted, "{text}: {found:?}");
        }
    }

    #[test]
    fn a_permission_that_is_not_held_is_named_and_many_are_counted() {
        let denied: Vec<_> = (0..7).map(|number| format!("get things{number}")).collect();
        let Finding::Failed(message) = permissions(&Ok(denied)) else {
            panic!("a missing permission fails");
        };
        assert!(message.contains("get things4 and 2 more"), "{message}");
    }

    #[test]
    fn the_chart_asks_for_the_same_oldest_version() {
        let chart = include_str!("../../../../charts/lb-operator/Chart.yaml");
        assert!(
            chart.contains(&format!("kubeVersion: \">=1.{OLDEST}.0-0\"")),
            "{chart}"
        );
    }
}
