//! What the speaker counts, under MetalLB's names where it has them.

use std::net::IpAddr;

use lb_daemon::Key;
use lb_proto::responder::IgnoreReason;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// The protocol of ARP and NDP, in metrics and events.
pub const PROTOCOL: &str = "layer2";

/// The metrics of the speaker. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    announced: IntGaugeVec,
    requests: IntCounterVec,
    responses: IntCounterVec,
    gratuitous: IntCounterVec,
    malformed: IntCounterVec,
    ignored: IntCounterVec,
}

/// The counters of one address, looked up once and not for every packet.
#[derive(Clone, Debug)]
pub struct AddressCounters {
    /// `metallb_layer2_requests_received`.
    pub requests: IntCounter,
    /// `metallb_layer2_responses_sent`.
    pub responses: IntCounter,
    /// `metallb_layer2_gratuitous_sent`.
    pub gratuitous: IntCounter,
}

impl Metrics {
    /// Makes and registers the metrics.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name, help, label| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let announced = IntGaugeVec::new(
            Opts::new(
                "metallb_speaker_announced",
                "Services being announced from this node. This is desired state, it does not guarantee that clients \
                 see the announcement.",
            ),
            &["service", "protocol", "node", "ip"],
        )?;
        registry.register(Box::new(announced.clone()))?;
        Ok(Self {
            announced,
            requests: counters(
                "metallb_layer2_requests_received",
                "Number of layer2 requests received for owned IPs",
                "ip",
            )?,
            responses: counters(
                "metallb_layer2_responses_sent",
                "Number of layer2 responses sent for owned IPs in response to requests",
                "ip",
            )?,
            gratuitous: counters(
                "metallb_layer2_gratuitous_sent",
                "Number of gratuitous layer2 packets sent for owned IPs as result of failovers",
                "ip",
            )?,
            malformed: counters(
                "lb_speaker_malformed_frames_total",
                "Frames that are neither ARP nor neighbour discovery as it should be, by what is wrong with them",
                "reason",
            )?,
            ignored: counters(
                "lb_speaker_ignored_frames_total",
                "Well-formed frames that got no answer, by reason",
                "reason",
            )?,
        })
    }

    /// The counters of an address.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> AddressCounters {
        let ip = &[&*address.to_string()];
        AddressCounters {
            requests: self.requests.with_label_values(ip),
            responses: self.responses.with_label_values(ip),
            gratuitous: self.gratuitous.with_label_values(ip),
        }
    }

    /// We announce the address of a Service.
    pub fn announced(&self, service: &Key, node: &str, address: IpAddr) {
        let labels = [&*service.to_string(), PROTOCOL, node, &*address.to_string()];
        self.announced.with_label_values(&labels).set(1);
    }

    /// We announce it no longer.
    pub fn withdrawn(&self, service: &Key, node: &str, address: IpAddr) {
        let labels = [&*service.to_string(), PROTOCOL, node, &*address.to_string()];
        // It fails when there was no such series, which is as well.
        let _ = self.announced.remove_label_values(&labels);
    }

    /// A frame could not be read.
    pub fn malformed(&self, reason: &str) {
        self.malformed.with_label_values(&[reason]).inc();
    }

    /// A frame got no answer.
    pub fn ignored(&self, reason: IgnoreReason) {
        self.ignored.with_label_values(&[reason.as_str()]).inc();
    }
}
