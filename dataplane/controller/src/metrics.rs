//! The allocator's metrics, under MetalLB's names.

use std::collections::BTreeSet;

use lb_ipam::{Allocator, Family};
use prometheus::{IntGaugeVec, Opts, Registry};

use crate::decide::Holder;

/// How full the pools are, by pool. Only the leader knows, and only the leader shows it.
#[derive(Debug)]
pub struct Metrics {
    addresses: Gauges,
    ipv4: Gauges,
    ipv6: Gauges,
    services: IntGaugeVec,
    pools: BTreeSet<String>,
}

#[derive(Debug)]
struct Gauges {
    total: IntGaugeVec,
    in_use: IntGaugeVec,
}

impl Metrics {
    /// Makes and registers the metrics.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
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
            pools: BTreeSet::new(),
        })
    }

    /// Shows what is so.
    pub fn show(&mut self, allocator: &Allocator<Holder>) {
        let mut shown = BTreeSet::new();
        for (name, pool) in allocator.pools() {
            let Ok(pool) = pool else { continue };
            let count = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
            let [v4, v6] = [Family::V4, Family::V6].map(|family| (pool.capacity(family), pool.used(family)));
            self.ipv4.set(name, count(v4.0), count(v4.1.into()));
            self.ipv6.set(name, count(v6.0), count(v6.1.into()));
            let total = v4.0.saturating_add(v6.0);
            self.addresses
                .set(name, count(total), count((v4.1 + v6.1).into()));
            // Without sharing, a Service is one primary address: the fuller family counts them.
            self.services
                .with_label_values(&[name])
                .set(count(v4.1.max(v6.1).into()));
            shown.insert(name.to_owned());
        }
        self.forget_others(shown);
    }

    /// Shows nothing: this process does not lead.
    pub fn hide(&mut self) {
        self.forget_others(BTreeSet::new());
    }

    fn forget_others(&mut self, shown: BTreeSet<String>) {
        for gone in self.pools.difference(&shown) {
            for gauges in [&self.addresses, &self.ipv4, &self.ipv6] {
                gauges.forget(gone);
            }
            // Absent is what it is to be.
            let _ = self.services.remove_label_values(&[gone]);
        }
        self.pools = shown;
    }
}

impl Gauges {
    fn new(registry: &Registry, infix: &str, what: &str) -> Result<Self, prometheus::Error> {
        Ok(Self {
            total: gauge(
                registry,
                &format!("metallb_allocator_{infix}addresses_total"),
                &format!("Number of usable {what}, per pool"),
            )?,
            in_use: gauge(
                registry,
                &format!("metallb_allocator_{infix}addresses_in_use_total"),
                &format!("Number of {what} in use, per pool"),
            )?,
        })
    }

    fn set(&self, pool: &str, total: i64, in_use: i64) {
        self.total.with_label_values(&[pool]).set(total);
        self.in_use.with_label_values(&[pool]).set(in_use);
    }

    fn forget(&self, pool: &str) {
        // Absent is what they are to be.
        let _ = self.total.remove_label_values(&[pool]);
        let _ = self.in_use.remove_label_values(&[pool]);
    }
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGaugeVec, prometheus::Error> {
    let gauge = IntGaugeVec::new(Opts::new(name, help), &["pool"])?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lb_ipam::{Candidate, PoolSpec, Range};

    use super::*;

    #[test]
    fn a_pool_that_is_gone_is_shown_no_more() {
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
            access: lb_ipam::Access::Everybody,
            extras: lb_ipam::Extras::default(),
        };
        let candidate = Candidate {
            spec: Ok(spec),
            found_invalid: false,
            created: 0,
        };
        allocator.set_pools(BTreeMap::from([("lan".to_owned(), candidate)]));
        metrics.show(&allocator);
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
        metrics.hide();
        assert!(
            registry
                .gather()
                .iter()
                .all(|family| family.get_metric().is_empty())
        );
    }
}
