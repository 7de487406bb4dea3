//! `adopt`: how far a migration from MetalLB is, and what one would take over.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lb_crds::condition::find_condition;
use lb_crds::load_balancer_stack::{AdoptionStatus, AdoptionStep};
use lb_crds::names::STACK;
use serde::Serialize;
use serde_json::json;

use crate::addresses::rows;
use crate::cluster::Cluster;
use crate::remedy::{self, Remedy};
use crate::report::{Report, unread_text};
use crate::snapshot::Unread;
use crate::text::{count, wrapped};

/// How far a migration is.
#[derive(Debug, Serialize)]
pub(crate) struct Adoption {
    /// `spec.adopt`.
    requested: bool,
    status: Option<AdoptionStatus>,
    /// Message of a condition that stops it.
    blocked: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<Unread>,
}

/// Reads how far the migration is.
pub(crate) fn status(cluster: &Cluster<'_>) -> Adoption {
    let stack = cluster.snapshot.stack();
    let status = stack.and_then(|stack| stack.status.as_ref());
    let blocked = status.and_then(|status| {
        let condition = find_condition(&status.conditions, "Adopted")?;
        (condition.reason == "AdoptionBlocked").then(|| condition.message.clone())
    });
    Adoption {
        requested: stack.is_some_and(|stack| stack.spec.adopt),
        status: status.and_then(|status| status.adoption.clone()),
        blocked,
        unread: cluster.snapshot.unread.clone(),
    }
}

impl Report for Adoption {
    fn text(&self, _wide: bool) -> String {
        let steps = AdoptionStep::ALL.into_iter();
        let mut text = String::new();
        match &self.status {
            Some(status) => {
                let order: Vec<_> = steps
                    .filter(|step| *step != AdoptionStep::Restoring || status.step == AdoptionStep::Restoring)
                    .map(|step| match step == status.step {
                        true => format!("[{step}]"),
                        false => step.to_string(),
                    })
                    .collect();
                let _ = writeln!(text, "{}", order.join("  "));
                let _ = writeln!(text, "{}", wrapped(&status.message, 0, 0));
            }
            None if self.requested => {
                text.push_str(
                    "spec.adopt is set, and there is no MetalLB to adopt, or it was adopted long ago.\n",
                );
            }
            None => text.push_str("No migration: see kubectl lb adopt preview, and docs/adoption.md.\n"),
        }
        if let Some(blocked) = &self.blocked {
            let _ = writeln!(text, "Blocked: {}", wrapped(blocked, 9, 9));
        }
        text + &unread_text(&self.unread)
    }

    fn has_problems(&self) -> bool {
        self.blocked.is_some()
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}

/// The workloads and objects that a migration would take over.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Preview {
    /// Images of MetalLB's pods.
    metallb: BTreeSet<String>,
    /// The Services that would keep their addresses.
    services: usize,
    addresses: usize,
    /// Addresses that no pool contains.
    outside_pools: Vec<String>,
    pools: usize,
    advertisements: usize,
    remedies: Vec<Remedy>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<Unread>,
}

/// Looks at what is there.
pub(crate) fn preview(cluster: &Cluster<'_>) -> Preview {
    let snapshot = cluster.snapshot;
    let images = snapshot.pods.iter().filter_map(|pod| {
        let image = pod.spec.as_ref()?.containers.first()?.image.clone()?;
        image.contains("metallb").then_some(image)
    });
    let rows = rows(cluster);
    let with_address: Vec<_> = rows.iter().filter(|row| row.address.is_some()).collect();
    let outside = with_address.iter().filter(|row| row.pool.is_none());
    let services: BTreeSet<_> = with_address.iter().map(|row| &row.key).collect();
    let metallb: BTreeSet<_> = images.collect();
    let change = json!({"spec": {"adopt": true}});
    let requested = snapshot.stack().is_some_and(|stack| stack.spec.adopt);
    let remedies = match (metallb.is_empty(), requested, snapshot.stack()) {
        (false, false, Some(_)) => vec![Remedy::run(
            "migrate, after reading docs/adoption.md",
            remedy::patch("lbs", STACK, None, &change),
        )],
        _ => Vec::new(),
    };
    Preview {
        services: services.len(),
        addresses: with_address.len(),
        outside_pools: outside
            .map(|row| {
                format!(
                    "{} of {}",
                    row.address.map_or_else(String::new, |a| a.to_string()),
                    row.service
                )
            })
            .collect(),
        pools: snapshot
            .pools
            .iter()
            .filter(|pool| snapshot.is_ours(*pool))
            .count(),
        advertisements: snapshot
            .l2_advertisements
            .iter()
            .filter(|one| snapshot.is_ours(*one))
            .count(),
        metallb,
        remedies,
        unread: snapshot.unread.clone(),
    }
}

impl Report for Preview {
    fn text(&self, _wide: bool) -> String {
        let mut text = String::new();
        if self.metallb.is_empty() {
            text.push_str("No MetalLB runs in the stack's namespace: there is nothing to adopt.\n");
            return text + &unread_text(&self.unread);
        }
        let images: Vec<_> = self.metallb.iter().cloned().collect();
        let _ = writeln!(text, "MetalLB      {}", images.join(", "));
        let _ = writeln!(
            text,
            "would keep   {} with {}; {}, {}",
            count(self.services, "Service", "Services"),
            count(self.addresses, "address", "addresses"),
            count(self.pools, "pool", "pools"),
            count(self.advertisements, "L2Advertisement", "L2Advertisements")
        );
        if !self.outside_pools.is_empty() {
            let _ = writeln!(
                text,
                "no pool has  {}: kept, and not announced until a pool has them",
                wrapped(&lb_runtime::text::list_first(&self.outside_pools, 5), 13, 13)
            );
        }
        if !self.remedies.is_empty() {
            let _ = write!(text, "\n{}", remedy::text(&self.remedies));
        }
        text + &unread_text(&self.unread)
    }

    fn has_problems(&self) -> bool {
        !self.outside_pools.is_empty()
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}
