//! A client's complete use of a Service during maintenance: it holds connections, makes new requests, and resolves the
//! addresses as a host with a cold neighbor table. In IPv4 and IPv6.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::bail;
use jiff::Timestamp;
use lb_l2::MacAddr;

use super::arp::Answers;
use super::connections::{self, HeldConnections};
use super::http::{self, Requests};
use super::{Probe, arp, ndp};
use crate::harness::{SHORT_TIMEOUT, eventually};
use lb_lab::Lab;

/// Number of held connections, of both families together.
pub const HELD_CONNECTIONS: usize = 30;
/// Interval between two new requests, and between two resolutions, of each family.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// Timeout of a new request: the same as that of a held connection. The slowest answer is reported.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The client's interface on the LAN.
const INTERFACE: &str = "eth0";

/// A running client.
#[derive(Debug)]
pub struct Traffic {
    begun: Instant,
    held: [Probe<HeldConnections>; 2],
    requests: [Probe<Requests>; 2],
    arp: Probe<Answers>,
    ndp: Option<Probe<Answers>>,
}

/// The client's observations.
#[derive(Clone, Debug, Default)]
pub struct TrafficReport {
    /// Duration of the observation.
    pub time: Duration,
    /// Connections that were held.
    pub opened: usize,
    /// Times and causes of held connections that broke.
    pub broken: Vec<(Timestamp, ErrorKind)>,
    /// The longest wait for an answer on the other connections.
    pub stall: Duration,
    /// Number of new requests.
    pub requests: usize,
    /// The longest time to an answer.
    pub slowest: Duration,
    /// Numbers of requests without an answer, by cause.
    pub lost: BTreeMap<&'static str, usize>,
    /// The longest time without an ARP reply for the IPv4 address.
    pub arp: Duration,
    /// The longest time without an advertisement for the IPv6 address; zero if it was not probed.
    pub ndp: Duration,
    /// MAC addresses in ARP replies for the IPv4 address.
    pub owners: Vec<MacAddr>,
}

impl Traffic {
    /// Starts the client and waits until all connections are open and every probe has an answer.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn start(lab: &Lab, four: Ipv4Addr, six: Ipv6Addr) -> anyhow::Result<Self> {
        let ndp = ndp::probe_on(lab, INTERFACE, six, PROBE_INTERVAL)?;
        Self::start_with(lab, four, six, Some(ndp))
    }

    /// The same without a probe of the IPv6 address: MetalLB does not answer solicitations from the unspecified
    /// address.
    ///
    /// # Errors
    /// As [`Traffic::start`].
    pub fn start_without_ndp(lab: &Lab, four: Ipv4Addr, six: Ipv6Addr) -> anyhow::Result<Self> {
        Self::start_with(lab, four, six, None)
    }

    fn start_with(
        lab: &Lab,
        four: Ipv4Addr,
        six: Ipv6Addr,
        ndp: Option<Probe<Answers>>,
    ) -> anyhow::Result<Self> {
        let half = HELD_CONNECTIONS / 2;
        let mut traffic = Self {
            held: [
                connections::hold(lab, four, half)?,
                connections::hold(lab, six, HELD_CONNECTIONS - half)?,
            ],
            requests: [
                http::probe(lab, four, PROBE_INTERVAL, REQUEST_TIMEOUT)?,
                http::probe(lab, six, PROBE_INTERVAL, REQUEST_TIMEOUT)?,
            ],
            arp: arp::probe(lab, four, PROBE_INTERVAL)?,
            ndp,
            begun: Instant::now(),
        };
        eventually("the client's traffic", SHORT_TIMEOUT, || {
            let held: [HeldConnections; 2] = traffic
                .held
                .each_ref()
                .map(|probe| probe.inspect(HeldConnections::clone));
            if let Some(held) = held.iter().find(|held| held.refused + held.broken.len() > 0) {
                bail!("connections fail before the test begins: {held:?}");
            }
            let opened: usize = held.iter().map(|held| held.opened).sum();
            let requests = traffic.requests.each_ref();
            let answered = requests.map(|probe| probe.inspect(|observed| observed.answered.count() > 0));
            let mut owners = [Some(&traffic.arp), traffic.ndp.as_ref()].into_iter().flatten();
            let owned = owners.all(|probe| probe.inspect(|observed| observed.times.count() > 0));
            let flows = opened == HELD_CONNECTIONS && answered == [true; 2] && owned;
            Ok(flows.then_some(()))
        })?;
        traffic.begun = Instant::now();
        Ok(traffic)
    }

    /// Ends the client and returns its observations.
    ///
    /// # Errors
    /// When a probe failed.
    pub fn end(self) -> anyhow::Result<TrafficReport> {
        let (begun, end) = (self.begun, Instant::now());
        let mut account = TrafficReport {
            time: end - begun,
            ..TrafficReport::default()
        };
        for probe in self.held {
            let held = probe.end()?;
            account.opened += held.opened;
            account.broken.extend(held.broken);
            account.stall = account.stall.max(held.stall);
        }
        for probe in self.requests {
            let requests = probe.end()?;
            account.requests += requests.begun;
            account.slowest = account.slowest.max(requests.slowest);
            for (what, count) in requests.lost {
                *account.lost.entry(what).or_default() += count;
            }
        }
        let arp = self.arp.end()?;
        let gap = |answers: &Answers| {
            answers
                .times
                .longest_gap(begun, end)
                .saturating_sub(PROBE_INTERVAL)
        };
        account.arp = gap(&arp);
        if let Some(ndp) = self.ndp {
            account.ndp = gap(&ndp.end()?);
        }
        account.owners = arp.since(begun);
        Ok(account)
    }
}

impl TrafficReport {
    /// Number of requests without an answer.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.lost.values().sum()
    }
}

impl fmt::Display for TrafficReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} s: {} of {} connections broken {:?}, longest wait of the others {:.3} s; {} of {} new requests lost \
             {:?}, slowest answer {:.3} s; longest time without an answer: ARP {:.3} s, NDP {:.3} s",
            self.time.as_secs_f64(),
            self.broken.len(),
            self.opened,
            self.broken,
            self.stall.as_secs_f64(),
            self.lost(),
            self.requests,
            self.lost,
            self.slowest.as_secs_f64(),
            self.arp.as_secs_f64(),
            self.ndp.as_secs_f64()
        )
    }
}
