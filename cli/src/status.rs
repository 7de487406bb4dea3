//! `status`: whether everything is all right, on one screen.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lb_crds::load_balancer_stack::StackPhase;
use serde::Serialize;

use crate::addresses::rows;
use crate::check::{Check, Finding, findings};
use crate::cluster::Cluster;
use crate::report::{Report, unread_text};
use crate::snapshot::Unread;
use crate::text::{Verdict, count, wrapped};

/// How many problems are shown.
const LIMIT: usize = 12;

/// The state of the load balancer.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    phase: Option<String>,
    version: Option<String>,
    operator: Option<String>,
    controllers: Option<String>,
    speakers: Option<String>,
    /// The step of an upgrade in progress.
    upgrade: Option<String>,
    pools: usize,
    pool_usage: String,
    services: usize,
    pending: usize,
    addresses: usize,
    announced: usize,
    verified: usize,
    /// Everything that is not fine.
    problems: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<Unread>,
}

/// Reads the state.
pub(crate) fn status(cluster: &Cluster<'_>) -> Status {
    let check: Check = findings(cluster);
    let rows = rows(cluster);
    let pools = crate::pools::pools(cluster);
    let used: u64 = pools.pools.iter().map(|pool| pool.used).sum();
    let fullest = pools.pools.iter().max_by_key(|pool| pool.percent);
    let services: BTreeSet<_> = rows.iter().map(|row| &row.key).collect();
    let of_stack = cluster
        .snapshot
        .stack()
        .and_then(|stack| stack.status.clone())
        .unwrap_or_default();
    let upgrade = of_stack.upgrade.as_ref().map(|upgrade| {
        format!(
            "{} to {}, step {}, {} of {} speakers",
            upgrade.from.version, upgrade.to.version, upgrade.step, upgrade.updated, upgrade.total
        )
    });
    let with_address = || rows.iter().filter(|row| row.address.is_some());
    Status {
        phase: of_stack.phase.map(|phase| phase.as_str().to_owned()),
        version: of_stack.version,
        operator: of_stack.operator_version,
        controllers: of_stack.controller,
        speakers: of_stack.speakers,
        upgrade,
        pools: pools.pools.len(),
        pool_usage: fullest.map_or_else(String::new, |pool| {
            format!(
                "{} in use; fullest: {}, {}%",
                count(
                    usize::try_from(used).unwrap_or(usize::MAX),
                    "address",
                    "addresses"
                ),
                pool.name,
                pool.percent
            )
        }),
        services: services.len(),
        pending: rows.iter().filter(|row| row.address.is_none()).count(),
        addresses: with_address().count(),
        announced: with_address()
            .filter(|row| row.problem.is_none() || row.owner.is_some())
            .count(),
        verified: with_address().filter(|row| row.verified == Some(true)).count(),
        problems: check
            .findings
            .into_iter()
            .filter(|one| !matches!(one.verdict, Verdict::Ok | Verdict::Skipped))
            .collect(),
        unread: cluster.snapshot.unread.clone(),
    }
}

impl Status {
    /// Whether the stack is ready and nothing is broken. Warnings do not count: some last for months.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase.as_deref() == Some(StackPhase::Ready.as_str()) && !self.has_problems()
    }

    /// One line, for progress.
    pub(crate) fn line(&self) -> String {
        let first = self.problems.first().map_or("", |one| one.text.as_str());
        format!(
            "{}: controllers {}, speakers {}{}{first}",
            self.phase.as_deref().unwrap_or("no stack"),
            self.controllers.as_deref().unwrap_or("-"),
            self.speakers.as_deref().unwrap_or("-"),
            if first.is_empty() { "" } else { "; " },
        )
    }
}

impl Report for Status {
    fn text(&self, _wide: bool) -> String {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let mut lines = vec![
            (
                "stack",
                format!("{}, {}", or_dash(&self.version), or_dash(&self.phase)),
            ),
            ("operator", or_dash(&self.operator)),
            ("controllers", format!("{} ready", or_dash(&self.controllers))),
            ("speakers", format!("{} ready", or_dash(&self.speakers))),
        ];
        if let Some(upgrade) = &self.upgrade {
            lines.push(("upgrade", upgrade.clone()));
        }
        let usage = match self.pool_usage.as_str() {
            "" => String::new(),
            usage => format!(", {usage}"),
        };
        lines.push(("pools", format!("{}{usage}", self.pools)));
        lines.push((
            "services",
            format!("{}, {} without an address", self.services, self.pending),
        ));
        lines.push((
            "addresses",
            format!(
                "{}, {} announced, {} verified",
                self.addresses, self.announced, self.verified
            ),
        ));
        let mut text = String::new();
        for (name, value) in lines {
            let _ = writeln!(text, "{name:<13}{value}");
        }
        text.push('\n');
        if self.problems.is_empty() {
            text.push_str("No problems.\n");
        }
        for finding in self.problems.iter().take(LIMIT) {
            let _ = writeln!(
                text,
                "{}  {}",
                finding.verdict.cell(),
                wrapped(&finding.text, 9, 9)
            );
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(text, "         → {}", wrapped(remedy, 11, 11));
            }
        }
        if self.problems.len() > LIMIT {
            let more = count(self.problems.len() - LIMIT, "more", "more");
            let _ = writeln!(text, "{more}: kubectl lb check");
        }
        text + &unread_text(&self.unread)
    }

    fn has_problems(&self) -> bool {
        self.problems.iter().any(|one| one.verdict == Verdict::Problem)
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}
