//! The allocator's metrics. MetalLB's have its names.

use std::collections::{BTreeMap, BTreeSet};

use lb_ipam::{Allocator, Family};
use prometheus::{IntGaugeVec, Opts, Registry};

use crate::allocation_key::AllocationKey;

/// Usage of the pools, by pool. Only the leader exposes it.
#[derive(Debug)]
pub struct Metrics {
    addresses: Gauges,
    ipv4: Gauges,
    ipv6: Gauges,
    services: IntGaugeVec,
    unassigned: IntGaugeVec,
    pools: BTreeSet<String>,
}

#[derive(Debug)]
struct Gauges {
    total: IntGaugeVec,
    in_use: IntGaugeVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a metric of the same name is registered.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            addresses: Gauges::new(registry, "", "IP addresses")?,
            ipv4: Gauges::new(registry, "ipv4_", "IPv4 addresses")?,
            ipv6: Gauges::new(registry, "ipv6_", "IPv6 addresses")?,
            services: gauge(
                registry,
                "metallb_allocator_services_allocated_total",
                "Number of services that have an address, per pool",
            )?,
            unassigned: gauge_by(
                registry,
                "lb_controller_unassigned_services",
                "Services without the address that they request, by reason of condition AddressAssigned",
                "reason",
            )?,
            pools: BTreeSet::new(),
        })
    }

    /// Sets the metrics to the present usage.
    pub fn update(
        &mut self,
        allocator: &Allocator<AllocationKey>,
        unassigned: &BTreeMap<&'static str, usize>,
    ) {
        self.unassigned.reset();
        for (reason, count) in unassigned {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.unassigned.with_label_values(&[*reason]).set(count);
        }
        let mut shown = BTreeSet::new();
        for (name, pool) in allocator.pools() {
            // The last values of a pool that has become invalid stay, as in MetalLB: alerts go on.
            let Ok(pool) = pool else {
                if self.pools.contains(name) {
                    shown.insert(name.to_owned());
                }
                continue;
            };
            let count = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
            let [v4, v6] = [Family::V4, Family::V6].map(|family| (pool.capacity(family), pool.used(family)));
            self.ipv4.set(name, count(v4.0), count(v4.1.into()));
            self.ipv6.set(name, count(v6.0), count(v6.1.into()));
            let total = v4.0.saturating_add(v6.0);
            self.addresses
                .set(name, count(total), count((v4.1 + v6.1).into()));
            // A Service has at most one address of each family, so the fuller family counts the Services, except shared
            // ones.
            self.services
                .with_label_values(&[name])
                .set(count(v4.1.max(v6.1).into()));
            shown.insert(name.to_owned());
        }
        self.remove_others(shown);
    }

    /// Removes all values: this process does not lead.
    pub fn clear(&mut self) {
        self.unassigned.reset();
        self.remove_others(BTreeSet::new());
    }

    fn remove_others(&mut self, shown: BTreeSet<String>) {
        for gone in self.pools.difference(&shown) {
            for gauges in [&self.addresses, &self.ipv4, &self.ipv6] {
                gauges.remove(gone);
            }
            // An absent value needs no removal.
            let _ = self.services.remove_label_values(&[gone]);
        }
        self.pools = shown;
    }
}

impl Gauges {
    fn new(registry: &Registry, infix: &str, noun: &str) -> Result<Self, prometheus::Error> {
        Ok(Self {
            total: gauge(
                registry,
                &format!("metallb_allocator_{infix}addresses_total"),
                &format!("Number of usable {noun}, per pool"),
            )?,
            in_use: gauge(
                registry,
                &format!("metallb_allocator_{infix}addresses_in_use_total"),
                &format!("Number of {noun} in use, per pool"),
            )?,
        })
    }

    fn set(&self, pool: &str, total: i64, in_use: i64) {
        self.total.with_label_values(&[pool]).set(total);
        self.in_use.with_label_values(&[pool]).set(in_use);
    }

    fn remove(&self, pool: &str) {
        // Absent values need no removal.
        let _ = self.total.remove_label_values(&[pool]);
        let _ = self.in_use.remove_label_values(&[pool]);
    }
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGaugeVec, prometheus::Error> {
    gauge_by(registry, name, help, "pool")
}

fn gauge_by(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntGaugeVec, prometheus::Error> {
    let gauge = IntGaugeVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lb_ipam::{PoolCandidate, PoolSpec, Range};

    use super::*;

    #[test]
    fn clear_removes_all_pools() {
        let registry = Registry::new();
        let mut metrics = Metrics::new(&registry).unwrap();
        let mut allocator = Allocator::default();
        let spec = PoolSpec {
            name: "lan".to_owned(),
            ranges: vec![
                Range::of_net("::/0".parse().unwrap()),
                Range::of_net("10.0.0.0/30".parse().unwrap()),
            ],
            auto_assign: true,
            avoid_buggy_ips: false,
            access: lb_ipam::Access::All,
            annotations: lb_ipam::PoolAnnotations::default(),
        };
        let candidate = PoolCandidate {
            spec: Ok(spec),
            was_invalid: false,
            created: 0,
        };
        allocator.set_pools(BTreeMap::from([("lan".to_owned(), candidate)]));
        metrics.update(&allocator, &BTreeMap::new());
        let values: BTreeMap<_, _> = registry
            .gather()
            .iter()
            .map(|family| {
                (
                    family.name().to_owned(),
                    family.get_metric()[0].get_gauge().get_value(),
                )
            })
            .collect();
        assert_eq!(values.len(), 7);
        assert_eq!(values["metallb_allocator_ipv4_addresses_total"] as i64, 4);
        assert_eq!(
            values["metallb_allocator_addresses_total"] as i64,
            i64::MAX,
            "more than a gauge can hold"
        );
        metrics.clear();
        assert!(
            registry
                .gather()
                .iter()
                .all(|family| family.get_metric().is_empty())
        );
    }
}
