//! The pools and their usage.

use std::collections::BTreeMap;

use lb_controller::allocation_key::AllocationKey;
use lb_crds::IPAddressPool;
use lb_ipam::Family;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::report::{Report, unread_text};
use crate::snapshot::Unread;
use crate::text::table;

/// All pools.
#[derive(Debug, Serialize)]
pub(crate) struct Pools {
    pub(crate) pools: Vec<PoolRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<Unread>,
}

/// A pool.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoolRow {
    pub(crate) name: String,
    pub(crate) auto_assign: bool,
    pub(crate) used: u64,
    /// Usable addresses, as text because of IPv6.
    pub(crate) capacity: String,
    /// Of the fuller family, in percent.
    pub(crate) percent: u8,
    /// Released addresses that rest.
    hold_down: usize,
    /// The namespace with the most addresses, with their number.
    largest: Option<(String, usize)>,
    /// It is in another namespace than the stack's.
    pub(crate) misplaced: bool,
    /// Why it is invalid, or has no effect.
    pub(crate) problem: Option<String>,
}

/// Reads the pools.
pub(crate) fn pools(cluster: &Cluster<'_>) -> Pools {
    let mut tenants: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (holder, has) in cluster.allocator.assignments() {
        let AllocationKey::Service(key) = holder else {
            continue;
        };
        for (_, origin) in has.parts() {
            if let Some(pool) = origin.name() {
                *tenants
                    .entry(pool)
                    .or_default()
                    .entry(key.namespace())
                    .or_default() += 1;
            }
        }
    }
    let row = |object: &IPAddressPool| {
        let name = object.metadata.name.clone().unwrap_or_default();
        let own = object.metadata.namespace.as_deref().unwrap_or_default();
        let mut row = PoolRow {
            name: name.clone(),
            auto_assign: object.spec.auto_assign,
            used: 0,
            capacity: "0".to_owned(),
            percent: 0,
            hold_down: 0,
            largest: None,
            misplaced: !cluster.snapshot.is_ours(object),
            problem: None,
        };
        if row.misplaced {
            row.name = format!("{own}/{name}");
            row.problem = Some(format!(
                "in namespace {own}: only pools in {} have an effect",
                cluster.snapshot.namespace()
            ));
            return row;
        }
        match cluster.allocator.pool(&name) {
            Some(Ok(pool)) => {
                let families = [Family::V4, Family::V6];
                row.used = families.iter().map(|family| pool.used(*family)).sum();
                let capacity = families.iter().map(|family| pool.capacity(*family));
                row.capacity = capacity.fold(0_u128, u128::saturating_add).to_string();
                row.percent = families
                    .iter()
                    .map(|family| percent(pool.used(*family), pool.capacity(*family)))
                    .max()
                    .unwrap_or_default();
                let now = cluster.snapshot.now.as_second();
                row.hold_down = families
                    .iter()
                    .map(|family| pool.in_hold_down(*family, now))
                    .sum();
            }
            Some(Err(error)) => row.problem = Some(format!("invalid: {error}")),
            None => row.problem = Some("not read".to_owned()),
        }
        let largest = tenants.get(name.as_str()).into_iter().flatten();
        row.largest = largest
            .max_by_key(|(namespace, count)| (**count, std::cmp::Reverse(**namespace)))
            .map(|(namespace, count)| ((*namespace).to_owned(), *count));
        row
    };
    let mut pools: Vec<_> = cluster.snapshot.pools.iter().map(row).collect();
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    Pools {
        pools,
        unread: cluster.snapshot.unread.clone(),
    }
}

fn percent(used: u64, capacity: u128) -> u8 {
    let share = (u128::from(used) * 100).checked_div(capacity).unwrap_or_default();
    u8::try_from(share).unwrap_or(100)
}

impl Report for Pools {
    fn text(&self, _wide: bool) -> String {
        if self.pools.is_empty() {
            return format!("No pools.\n{}", unread_text(&self.unread));
        }
        let row = |pool: &PoolRow| {
            let largest = pool.largest.as_ref();
            [
                pool.name.clone(),
                if pool.auto_assign { "yes" } else { "on request" }.to_owned(),
                format!("{} of {}", pool.used, pool.capacity),
                format!("{}%", pool.percent),
                pool.hold_down.to_string(),
                largest.map_or_else(|| "-".to_owned(), |(name, count)| format!("{name} ({count})")),
                pool.problem.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = self.pools.iter().map(row).collect();
        let headers = [
            "POOL",
            "AUTO",
            "IN USE",
            "FULL",
            "HOLD-DOWN",
            "MOST IN NAMESPACE",
            "PROBLEM",
        ];
        table(0, &headers, &rows) + &unread_text(&self.unread)
    }

    fn has_problems(&self) -> bool {
        self.pools.iter().any(|pool| pool.problem.is_some())
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}
