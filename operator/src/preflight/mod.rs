//! The checks before something is installed or changed. Pure, but for [`gather`].
//!
//! ```text
//! gather ──► Facts ──► one finding for each check ──► Verdict ──► status, events
//!                                                        └──────► hold: what waits until no check fails
//! ```
//!
//! A check that fails stops a first installation, and a change of a workload. What runs as the spec says goes on, and is
//! repaired as ever: there a check that fails is only told. `spec.preflight.skip` overrides a check by its name.

mod access_reviews;
mod checks;
pub mod collect;
pub(crate) mod detect;
mod facts;
pub mod gate;
mod schedule;

use checks::{conflicting_lb, crds, images, nodes, pool_overlap, server};
pub use facts::{Balancer, Definition, Facts, Known, Node, ObjectRef, Pool, Product, Serves, Unread};
pub use schedule::Turn;

use lb_crds::load_balancer_stack::{PreflightCheck, PreflightName, PreflightResult};

use crate::desired::config::StackConfig;

/// Names that a message lists; the rest is counted.
const LISTED: usize = 5;

/// What one check found, in words for the user.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Finding {
    /// All is well.
    Passed(String),
    /// Worth knowing.
    Warning(String),
    /// Nothing is to be installed or changed before it is put right.
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

/// What came of all checks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// The lines of the status; empty before the checks have been made.
    pub checks: Vec<PreflightCheck>,
    /// Why nothing may be installed or changed now. Ask this before anything begins; what has begun is not for it to
    /// stop.
    pub blocks: Option<String>,
}

impl Verdict {
    /// The checks have not been made for the present spec.
    #[must_use]
    pub fn pending() -> Self {
        Self {
            checks: Vec::new(),
            blocks: Some("waits for the checks of status.preflight".to_owned()),
        }
    }

    /// Whether the checks have been made.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.checks.is_empty()
    }
}

/// Makes every check of what a plan asks for. `skip` names those that are not to stop anything.
#[must_use]
pub fn verdict(plan: &StackConfig, skip: &[PreflightName], facts: &Facts) -> Verdict {
    let checks: Vec<_> = PreflightName::ALL
        .into_iter()
        .map(|name| line(name, find(name, plan, facts), skip.contains(&name)))
        .collect();
    let blocks = failures(&checks);
    Verdict { checks, blocks }
}

fn find(name: PreflightName, plan: &StackConfig, facts: &Facts) -> Finding {
    match name {
        PreflightName::ServerVersion => server::version(&facts.server_version),
        PreflightName::Permissions => server::permissions(&facts.denied),
        PreflightName::CrdOwnership => crds::owned(plan.crds, &facts.definitions),
        PreflightName::ConflictingLoadBalancer => {
            let adopts = plan.adopt.then_some(plan.namespace.as_str());
            conflicting_lb::balancers(plan.load_balancer_class.as_deref(), adopts, &facts.balancers)
        }
        PreflightName::ExcludedNodes => nodes::excluded(plan.ignore_exclude_label, &facts.nodes),
        PreflightName::StrictArp => nodes::strict_arp(&facts.proxy),
        PreflightName::PoolOverlap => pool_overlap::overlaps(&facts.pools, &facts.nodes, &facts.services),
        PreflightName::Images => images::names([&plan.controller.image, &plan.speaker.image]),
    }
}

fn line(name: PreflightName, finding: Finding, skipped: bool) -> PreflightCheck {
    let (result, message) = match finding {
        Finding::Passed(message) => (PreflightResult::Passed, message),
        Finding::Warning(message) => (PreflightResult::Warning, message),
        Finding::Failed(message) => (PreflightResult::Failed, message),
    };
    PreflightCheck {
        name,
        overridden: skipped && result == PreflightResult::Failed,
        result: if skipped { PreflightResult::Skipped } else { result },
        message,
    }
}

/// Why nothing may be installed or changed, with what to do about it; `None` where no check failed.
#[must_use]
pub fn failures(checks: &[PreflightCheck]) -> Option<String> {
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.result == PreflightResult::Failed)
        .collect();
    let first = failed.first()?.name.as_str();
    let said: Vec<_> = failed
        .iter()
        .map(|check| format!("{}: {}", check.name.as_str(), check.message))
        .collect();
    Some(format!(
        "{} (to go on all the same, name it in spec.preflight.skip, as in [{first}])",
        said.join("; ")
    ))
}

/// The first few, and how many more.
fn few<T: std::fmt::Display>(items: &[T]) -> String {
    let first = items.iter().take(LISTED).map(ToString::to_string);
    let mut text = first.collect::<Vec<_>>().join(", ");
    if items.len() > LISTED {
        text.push_str(&format!(" and {} more", items.len() - LISTED));
    }
    text
}

/// What a check says whose facts could not be had. What may be had in a moment is worth waiting for; that the operator may
/// not see it is no reason to stop anything.
fn unknown(what: &str, unread: &Unread) -> Finding {
    let because = &unread.because;
    if unread.may_pass {
        Finding::failed(format!(
            "{what} could not be looked at, and will be again: {because}"
        ))
    } else {
        Finding::warning(format!("{what} could not be looked at: {because}"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::desired::config::tests::mk_config;

    pub(crate) fn mk_facts() -> Facts {
        Facts {
            generation: 1,
            server_version: Ok("v1.33.0".to_owned()),
            denied: Ok(Vec::new()),
            definitions: Ok(Vec::new()),
            balancers: Ok(Vec::new()),
            nodes: Ok(Vec::new()),
            proxy: Ok(None),
            pools: Ok(Vec::new()),
            services: Ok(Vec::new()),
        }
    }

    fn mk_unread(because: &str, may_pass: bool) -> Facts {
        let error = || Unread {
            because: because.to_owned(),
            may_pass,
        };
        Facts {
            generation: 1,
            server_version: Err(error()),
            denied: Err(error()),
            definitions: Err(error()),
            balancers: Err(error()),
            nodes: Err(error()),
            proxy: Err(error()),
            pools: Err(error()),
            services: Err(error()),
        }
    }

    fn result(verdict: &Verdict, name: PreflightName) -> (PreflightResult, &str) {
        let found = verdict.checks.iter().find(|check| check.name == name).unwrap();
        (found.result, &found.message)
    }

    #[test]
    fn every_check_is_told_and_a_cluster_without_trouble_passes_them_all() {
        let verdict = verdict(&mk_config(), &[], &mk_facts());
        let names: Vec<_> = verdict.checks.iter().map(|check| check.name).collect();
        assert_eq!(names, PreflightName::ALL);
        for check in &verdict.checks {
            assert_eq!(check.result, PreflightResult::Passed, "{check:?}");
        }
        assert_eq!(verdict.blocks, None);
    }

    #[test]
    fn a_check_that_fails_blocks_and_says_how_to_skip_it_and_skipped_it_says_so() {
        let mut facts = mk_facts();
        facts.denied = Ok(vec!["patch services/status".to_owned()]);
        let failed = verdict(&mk_config(), &[], &facts);
        let message = failed.blocks.unwrap();
        assert!(message.starts_with("Permissions: "), "{message}");
        assert!(
            message.contains("spec.preflight.skip, as in [Permissions]"),
            "{message}"
        );
        let skipped = verdict(&mk_config(), &[PreflightName::Permissions], &facts);
        assert_eq!(skipped.blocks, None);
        let (result, message) = result(&skipped, PreflightName::Permissions);
        assert_eq!(result, PreflightResult::Skipped);
        assert!(message.contains("patch services/status"), "{message}");
        let overridden = skipped.checks.iter().filter(|check| check.overridden);
        let overridden: Vec<_> = overridden.map(|check| check.name).collect();
        assert_eq!(overridden, [PreflightName::Permissions]);
    }

    #[test]
    fn what_may_not_be_looked_at_is_a_warning_and_what_cannot_be_now_is_waited_for() {
        for (may_pass, result) in [(false, PreflightResult::Warning), (true, PreflightResult::Failed)] {
            let facts = mk_unread("no answer", may_pass);
            let verdict = verdict(&mk_config(), &[], &facts);
            assert_eq!(verdict.blocks.is_some(), may_pass);
            for check in verdict.checks {
                if check.name != PreflightName::Images {
                    assert_eq!(check.result, result, "{check:?}");
                    assert!(check.message.ends_with("no answer"), "{check:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_seen_before_counts_while_it_cannot_be_seen_and_for_this_generation_only() {
        assert_eq!(mk_unread("no answer", true).after(Some(mk_facts())), mk_facts());
        let mut other = mk_facts();
        other.generation = 2;
        let unread = mk_unread("no answer", true);
        assert_eq!(unread.clone().after(Some(other)), unread);
        assert_eq!(mk_facts().after(Some(unread)), mk_facts());
    }

    #[test]
    fn a_skip_of_what_passes_is_no_event() {
        let verdict = verdict(&mk_config(), &[PreflightName::StrictArp], &mk_facts());
        assert_eq!(
            result(&verdict, PreflightName::StrictArp).0,
            PreflightResult::Skipped
        );
        assert!(!verdict.checks.iter().any(|check| check.overridden));
    }
}
