//! MetalLB's metrics with a label for the address. Thousands of addresses: so the counters are plain numbers, converted while
//! Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_runtime::ObjectKey;
use prometheus::Opts;
use prometheus::core::{Collector, Desc, Describer};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// The protocol of ARP and NDP, in metrics and events.
pub const PROTOCOL: &str = "layer2";
/// The protocol of routes, in metrics and events.
pub(crate) const BGP: &str = "bgp";

/// A monotonic counter.
#[derive(Debug, Default)]
pub struct AtomicCounter(AtomicU64);

impl AtomicCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one address.
#[derive(Debug, Default)]
pub struct AddressCounters {
    /// `metallb_layer2_requests_received`.
    pub requests: AtomicCounter,
    /// `metallb_layer2_responses_sent`.
    pub responses: AtomicCounter,
    /// `metallb_layer2_gratuitous_sent`.
    pub gratuitous: AtomicCounter,
}

/// Selects one of the counters.
type Selector = fn(&AddressCounters) -> &AtomicCounter;

/// The counters of all addresses, and the Services that are announced. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct AddressMetrics(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: String,
    announced: Desc,
    counters: [(Desc, Selector); 3],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// With the protocol.
    announced: BTreeSet<(ObjectKey, IpAddr, &'static str)>,
    counters: BTreeMap<IpAddr, Arc<AddressCounters>>,
}

impl AddressMetrics {
    /// Metrics of this node, without any address.
    pub(crate) fn new(node: &str) -> Result<Self, prometheus::Error> {
        let by_ip = |name, help| Opts::new(name, help).variable_label("ip").describe();
        let announced = Opts::new(
            "metallb_speaker_announced",
            "Services being announced from this node. This is desired state, it does not guarantee that clients see the \
             announcement.",
        )
        .variable_labels(["service", "protocol", "node", "ip"].map(str::to_owned).to_vec());
        Ok(Self(Arc::new(Shared {
            node: node.to_owned(),
            announced: announced.describe()?,
            counters: [
                (
                    by_ip(
                        "metallb_layer2_requests_received",
                        "Number of layer2 requests received for owned IPs",
                    )?,
                    |counters| &counters.requests,
                ),
                (
                    by_ip(
                        "metallb_layer2_responses_sent",
                        "Number of layer2 responses sent for owned IPs in response to requests",
                    )?,
                    |counters| &counters.responses,
                ),
                (
                    by_ip(
                        "metallb_layer2_gratuitous_sent",
                        "Number of gratuitous layer2 packets sent for owned IPs as result of failovers",
                    )?,
                    |counters| &counters.gratuitous,
                ),
            ],
            state: Mutex::default(),
        })))
    }

    /// The counters of an address. They continue when the address returns to this node, until it is
    /// [forgotten](Self::forget).
    pub(crate) fn address(&self, address: IpAddr) -> Arc<AddressCounters> {
        self.0.lock().counters.entry(address).or_default().clone()
    }

    /// Removes the counters of an address that no Service has.
    pub(crate) fn forget(&self, address: IpAddr) {
        self.0.lock().counters.remove(&address);
    }

    /// Sets whether the address of a Service is announced by a protocol.
    pub(crate) fn set_announced(
        &self,
        protocol: &'static str,
        service: &ObjectKey,
        address: IpAddr,
        announced: bool,
    ) {
        let (entry, mut state) = ((service.clone(), address, protocol), self.0.lock());
        if announced {
            state.announced.insert(entry);
        } else {
            state.announced.remove(&entry);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for AddressMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.0.counters.iter().map(|(desc, _)| desc);
        counters.chain([&self.0.announced]).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // The main loop does not wait while thousands of series are made.
        let (announced, addresses) = {
            let state = self.0.lock();
            let addresses: Vec<_> = state
                .counters
                .iter()
                .map(|(ip, all)| (*ip, all.clone()))
                .collect();
            (state.announced.iter().cloned().collect::<Vec<_>>(), addresses)
        };
        let announced = announced.iter().map(|(service, address, protocol)| {
            let (service, ip) = (service.to_string(), address.to_string());
            let mut gauge = Gauge::default();
            gauge.set_value(1.0);
            let mut metric = Metric::from_gauge(gauge);
            metric.set_label(labels([
                ("ip", &ip),
                ("node", &self.0.node),
                ("protocol", *protocol),
                ("service", &service),
            ]));
            metric
        });
        let announced = family(&self.0.announced, MetricType::GAUGE, announced.collect());
        let counters = self.0.counters.iter().map(|(desc, count)| {
            let metrics = addresses.iter().map(|(address, counters)| {
                let mut counter = Counter::default();
                // Prometheus has only floating-point numbers.
                counter.set_value(count(counters).get() as f64);
                let mut metric = Metric::from_label(labels([("ip", &address.to_string())]));
                metric.set_counter(counter);
                metric
            });
            family(desc, MetricType::COUNTER, metrics.collect())
        });
        counters.chain([announced]).collect()
    }
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Vec<LabelPair> {
    let label = |(name, value): (&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    };
    pairs.map(label).to_vec()
}

fn family(desc: &Desc, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(desc.fq_name.clone());
    family.set_help(desc.help.clone());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, Registry, TextEncoder};

    use super::*;

    proptest::proptest! {
        /// Addresses come and go: series exist for those that Services have, and no others.
        #[test]
        fn series_of_released_addresses_are_removed(
            steps in proptest::collection::vec((0..16_u8, proptest::prelude::any::<bool>()), 0..200)
        ) {
            let registry = Registry::new();
            let metrics = crate::metrics::Metrics::new(&registry, "n1").unwrap();
            let mut used = BTreeSet::new();
            for (number, used_now) in steps {
                let address = IpAddr::from([10, 0, 0, number]);
                let service = ObjectKey::new("default", format!("s{number}"));
                if used_now {
                    used.insert(address);
                    metrics.announced(&service, address);
                    metrics.address(address).requests.inc();
                    metrics.conflict(address);
                } else {
                    used.remove(&address);
                    metrics.withdrawn(&service, address);
                    metrics.conflict_over(address);
                    metrics.forget(address);
                }
            }
            let mut shown = BTreeSet::new();
            for metric in registry.gather().iter().flat_map(MetricFamily::get_metric) {
                let labels = metric.get_label().iter().filter(|label| label.name() == "ip");
                shown.extend(labels.map(|label| label.value().parse::<IpAddr>().unwrap()));
            }
            proptest::prop_assert_eq!(shown, used);
        }
    }

    #[test]
    fn addresses_are_exposed_as_by_metallb() {
        let registry = Registry::new();
        let counts = AddressMetrics::new("n1").unwrap();
        registry.register(Box::new(counts.clone())).unwrap();
        let (address, other) = ([192, 168, 50, 50].into(), [192, 168, 50, 51].into());
        let web = ObjectKey::new("default", "web");
        counts.set_announced(PROTOCOL, &web, other, true);
        counts.set_announced(PROTOCOL, &web, address, true);
        counts.set_announced(PROTOCOL, &web, other, false);
        counts.address(address).requests.inc();
        counts.address(address).requests.inc();
        counts.address(address).gratuitous.inc();
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let values: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            values,
            [
                r#"metallb_layer2_gratuitous_sent{ip="192.168.50.50"} 1"#,
                r#"metallb_layer2_requests_received{ip="192.168.50.50"} 2"#,
                r#"metallb_layer2_responses_sent{ip="192.168.50.50"} 0"#,
                r#"metallb_speaker_announced{ip="192.168.50.50",node="n1",protocol="layer2",service="default/web"} 1"#,
            ]
        );
        assert!(text.contains("# TYPE metallb_layer2_requests_received counter\n"));
        assert!(text.contains("# TYPE metallb_speaker_announced gauge\n"));
    }
}
