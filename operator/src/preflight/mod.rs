//! The checks before an installation or a change. Pure, except for [`collect`] and
//! `access_reviews`.
//!
//! ```text
//! collect ──► ClusterFacts ──► one Finding per check ──► PreflightReport ──► status, events
//!                                                               └──────────► gate: what waits until no check fails
//! ```
//!
//! A failed check blocks a first installation and changes of a workload. It does not affect running workloads or their
//! repair; it is reported only. `spec.preflight.skip` overrides checks by name.

pub(crate) mod access_reviews;
mod checks;
pub mod collect;
pub(crate) mod detect;
mod facts;
pub mod gate;
mod host_ports;
mod kube_proxy;
mod schedule;

pub use facts::{
    ClusterFacts, CrdFacts, Fact, LoadBalancerProduct, NodeFacts, ObjectRef, OtherLoadBalancer, PoolFacts,
    ServedClasses, UnknownFact,
};
pub use host_ports::HostPortUser;
pub use kube_proxy::{DistributionArgs, KubeProxyFacts};
pub use schedule::PreflightSchedule;

use lb_crds::load_balancer_stack::{PreflightCheck, PreflightName, PreflightResult};

use crate::desired::config::StackConfig;

/// The result of one check, with its message.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Finding {
    Passed(String),
    /// Blocks nothing.
    Warning(String),
    /// The check could not look. Blocks nothing, and is never taken for `Passed`.
    Unknown(String),
    /// Blocks installation and changes.
    Failed(String),
}

impl Finding {
    fn passed(message: impl Into<String>) -> Self {
        Self::Passed(message.into())
    }

    fn warning(message: impl Into<String>) -> Self {
        Self::Warning(message.into())
    }

    fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }
}

/// The results of all checks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PreflightReport {
    /// For `status.preflight`; empty before the checks have run.
    pub checks: Vec<PreflightCheck>,
    /// Why no installation or change may begin now. A change in progress is not affected.
    pub blocked_by: Option<String>,
}

impl PreflightReport {
    /// The checks have not run for the present spec.
    #[must_use]
    pub fn pending() -> Self {
        Self {
            checks: Vec::new(),
            blocked_by: Some("the preflight checks have not run yet".to_owned()),
        }
    }

    /// Whether the checks have run.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.checks.is_empty()
    }
}

/// Runs every check. `skip` names the checks that must not block.
#[must_use]
pub fn run_checks(config: &StackConfig, skip: &[PreflightName], facts: &ClusterFacts) -> PreflightReport {
    let checks: Vec<_> = PreflightName::ALL
        .into_iter()
        .map(|name| check_status(name, run_check(name, config, facts), skip.contains(&name)))
        .collect();
    let blocked_by = failures(&checks);
    PreflightReport { checks, blocked_by }
}

fn run_check(name: PreflightName, config: &StackConfig, facts: &ClusterFacts) -> Finding {
    match name {
        PreflightName::ServerVersion => checks::server_version(&facts.server_version),
        PreflightName::Permissions => checks::permissions(&facts.denied),
        PreflightName::CrdOwnership => checks::crd_ownership(config.crds, &facts.crds),
        PreflightName::ConflictingLoadBalancer => {
            checks::conflicting_load_balancer(config, &facts.load_balancers, &facts.nodes)
        }
        PreflightName::ObjectOwnership => checks::object_ownership(config.adopt, &facts.foreign_objects),
        PreflightName::LeftoverWebhook => checks::leftover_webhook(config.adopt, &facts.dead_webhook),
        PreflightName::HostPorts => checks::host_ports(config, &facts.host_ports),
        PreflightName::BgpObjects => checks::bgp_objects(&facts.bgp_objects),
        PreflightName::ExcludedNodes => checks::excluded_nodes(config.ignore_exclude_label, &facts.nodes),
        PreflightName::StrictArp => checks::strict_arp(&facts.kube_proxy),
        PreflightName::PoolOverlap => checks::pool_overlap(&facts.pools, &facts.nodes, &facts.services),
        PreflightName::Images => {
            checks::images([&config.controller.image, &config.speaker.image], &facts.nodes)
        }
    }
}

fn check_status(name: PreflightName, finding: Finding, skipped: bool) -> PreflightCheck {
    let (result, message) = match finding {
        Finding::Passed(message) => (PreflightResult::Passed, message),
        Finding::Warning(message) => (PreflightResult::Warning, message),
        Finding::Unknown(message) => (PreflightResult::Unknown, message),
        Finding::Failed(message) => (PreflightResult::Failed, message),
    };
    PreflightCheck {
        name,
        overridden: skipped && result == PreflightResult::Failed,
        result: if skipped { PreflightResult::Skipped } else { result },
        message,
    }
}

/// The failed checks with their messages; `None` if no check failed.
#[must_use]
pub fn failures(checks: &[PreflightCheck]) -> Option<String> {
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.result == PreflightResult::Failed)
        .collect();
    let first = failed.first()?.name.as_str();
    let messages: Vec<_> = failed
        .iter()
        .map(|check| format!("{}: {}", check.name.as_str(), check.message))
        .collect();
    Some(format!(
        "{} (to override a check, add it to spec.preflight.skip: [{first}])",
        messages.join("; ")
    ))
}

/// The finding of a check whose facts are unknown. A transient error is worth waiting for; missing permission to read
/// is no reason to block.
fn unknown(what: &str, fact: &UnknownFact) -> Finding {
    let error = &fact.error;
    if fact.is_transient {
        Finding::failed(format!("cannot check {what}: {error}; will retry"))
    } else {
        Finding::Unknown(format!("cannot check {what}: {error}"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::desired::config::tests::mk_config;

    pub(crate) fn mk_facts() -> ClusterFacts {
        ClusterFacts {
            generation: 1,
            server_version: Ok("v1.33.0".to_owned()),
            denied: Ok(Vec::new()),
            crds: Ok(Vec::new()),
            load_balancers: Ok(Vec::new()),
            foreign_objects: Ok(Vec::new()),
            nodes: Ok(Vec::new()),
            kube_proxy: Ok(KubeProxyFacts::Mode {
                mode: "iptables".to_owned(),
                strict_arp: false,
                source: "Pod kube-system/kube-proxy".to_owned(),
            }),
            host_ports: Ok(Vec::new()),
            dead_webhook: Ok(None),
            bgp_objects: Ok(Vec::new()),
            pools: Ok(Vec::new()),
            services: Ok(Vec::new()),
        }
    }

    fn mk_unknown(error: &str, is_transient: bool) -> ClusterFacts {
        let why = UnknownFact {
            error: error.to_owned(),
            is_transient,
        };
        ClusterFacts::unknown(1, &why)
    }

    fn result(report: &PreflightReport, name: PreflightName) -> (PreflightResult, &str) {
        let found = report.checks.iter().find(|check| check.name == name).unwrap();
        (found.result, &found.message)
    }

    #[test]
    fn all_checks_are_reported_and_pass_on_a_clean_cluster() {
        let report = run_checks(&mk_config(), &[], &mk_facts());
        let names: Vec<_> = report.checks.iter().map(|check| check.name).collect();
        assert_eq!(names, PreflightName::ALL);
        for check in &report.checks {
            assert_eq!(check.result, PreflightResult::Passed, "{check:?}");
        }
        assert_eq!(report.blocked_by, None);
    }

    #[test]
    fn failed_check_blocks_unless_overridden() {
        let mut facts = mk_facts();
        facts.denied = Ok(vec!["patch services/status".to_owned()]);
        let failed = run_checks(&mk_config(), &[], &facts);
        let message = failed.blocked_by.unwrap();
        assert!(message.starts_with("Permissions: "), "{message}");
        assert!(
            message.contains("spec.preflight.skip: [Permissions]"),
            "{message}"
        );
        let skipped = run_checks(&mk_config(), &[PreflightName::Permissions], &facts);
        assert_eq!(skipped.blocked_by, None);
        let (result, message) = result(&skipped, PreflightName::Permissions);
        assert_eq!(result, PreflightResult::Skipped);
        assert!(message.contains("patch services/status"), "{message}");
        let overridden = skipped.checks.iter().filter(|check| check.overridden);
        let overridden: Vec<_> = overridden.map(|check| check.name).collect();
        assert_eq!(overridden, [PreflightName::Permissions]);
    }

    #[test]
    fn unknown_fact_fails_if_transient_and_is_unknown_otherwise() {
        for (is_transient, result) in [(false, PreflightResult::Unknown), (true, PreflightResult::Failed)] {
            let facts = mk_unknown("no answer", is_transient);
            let report = run_checks(&mk_config(), &[], &facts);
            assert_eq!(report.blocked_by.is_some(), is_transient);
            for check in report.checks {
                if check.name != PreflightName::Images {
                    assert_eq!(check.result, result, "{check:?}");
                    assert!(check.message.contains("no answer"), "{check:?}");
                }
            }
        }
    }

    #[test]
    fn known_facts_are_kept_for_the_same_generation() {
        assert_eq!(
            mk_unknown("no answer", true).or_known(Some(mk_facts())),
            mk_facts()
        );
        let mut other = mk_facts();
        other.generation = 2;
        let unread = mk_unknown("no answer", true);
        assert_eq!(unread.clone().or_known(Some(other)), unread);
        assert_eq!(mk_facts().or_known(Some(unread)), mk_facts());
    }

    #[test]
    fn skipped_check_that_passes_is_not_overridden() {
        let report = run_checks(&mk_config(), &[PreflightName::StrictArp], &mk_facts());
        assert_eq!(
            result(&report, PreflightName::StrictArp).0,
            PreflightResult::Skipped
        );
        assert!(!report.checks.iter().any(|check| check.overridden));
    }
}
