//! All that a client on the LAN does with a Service, at once and for as long as somebody works on what serves it: it holds
//! connections, makes new ones, and asks as one that knows nothing yet for who has the addresses. In IPv4 and IPv6.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::bail;
use jiff::Timestamp;
use lb_l2::MacAddr;

use super::arp::Answers;
use super::connections::{self, Held};
use super::http::{self, Requests};
use super::{Probe, arp, ndp};
use crate::harness::{SOON, eventually};
use lb_lab::Lab;

/// Connections that are held, of both families together.
pub const CONNECTIONS: usize = 30;
/// Between two new connections, and between two questions for the owner, of each family.
const PERIOD: Duration = Duration::from_millis(50);
/// A new request that is not answered by then is lost: as long as a connection that is held is waited for. How long the
/// slowest took is told.
const PATIENCE: Duration = Duration::from_secs(5);
/// The client's interface.
const INTERFACE: &str = "eth0";

/// A client at work.
#[derive(Debug)]
pub struct Traffic {
    begun: Instant,
    held: [Probe<Held>; 2],
    requests: [Probe<Requests>; 2],
    arp: Probe<Answers>,
    ndp: Option<Probe<Answers>>,
}

/// What the client has seen.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// For how long it was at work.
    pub time: Duration,
    /// Connections that were held.
    pub opened: usize,
    /// Of these, the ones that broke: when, and of what.
    pub broken: Vec<(Timestamp, ErrorKind)>,
    /// The longest that one of the others waited for an answer.
    pub stall: Duration,
    /// New requests.
    pub requests: usize,
    /// The longest that one of these took which was answered.
    pub slowest: Duration,
    /// How many of these were not answered, by what became of them.
    pub lost: BTreeMap<&'static str, usize>,
    /// The longest time that nobody answered for the IPv4 address.
    pub arp: Duration,
    /// The longest time that nobody answered for the IPv6 address; zero where that was not asked.
    pub ndp: Duration,
    /// Whose hardware address was given for the IPv4 address.
    pub owners: Vec<MacAddr>,
}

impl Traffic {
    /// Begins, and waits until all connections are open and everything is answered.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub fn start(lab: &Lab, four: Ipv4Addr, six: Ipv6Addr) -> anyhow::Result<Self> {
        let ndp = ndp::probe_on(lab, INTERFACE, six, PERIOD)?;
        Self::start_with(lab, four, six, Some(ndp))
    }

    /// The same where MetalLB may have the address: a question from nobody, as the one for the owner of an IPv6 address is, it
    /// does not answer. So that one is not asked.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub fn start_at_metallb(lab: &Lab, four: Ipv4Addr, six: Ipv6Addr) -> anyhow::Result<Self> {
        Self::start_with(lab, four, six, None)
    }

    fn start_with(
        lab: &Lab,
        four: Ipv4Addr,
        six: Ipv6Addr,
        ndp: Option<Probe<Answers>>,
    ) -> anyhow::Result<Self> {
        let half = CONNECTIONS / 2;
        let mut traffic = Self {
            held: [
                connections::hold(lab, four, half)?,
                connections::hold(lab, six, CONNECTIONS - half)?,
            ],
            requests: [
                http::probe(lab, four, PERIOD, PATIENCE)?,
                http::probe(lab, six, PERIOD, PATIENCE)?,
            ],
            arp: arp::probe(lab, four, PERIOD)?,
            ndp,
            begun: Instant::now(),
        };
        eventually("a client's traffic to flow", SOON, || {
            let held: [Held; 2] = traffic.held.each_ref().map(|probe| probe.look(Held::clone));
            if let Some(held) = held.iter().find(|held| held.refused + held.broken.len() > 0) {
                bail!("connections fail before anything has happened: {held:?}");
            }
            let opened: usize = held.iter().map(|held| held.opened).sum();
            let requests = traffic.requests.each_ref();
            let answered = requests.map(|probe| probe.look(|seen| seen.answered.count() > 0));
            let mut owners = [Some(&traffic.arp), traffic.ndp.as_ref()].into_iter().flatten();
            let owned = owners.all(|probe| probe.look(|seen| seen.times.count() > 0));
            let flows = opened == CONNECTIONS && answered == [true; 2] && owned;
            Ok(flows.then_some(()))
        })?;
        traffic.begun = Instant::now();
        Ok(traffic)
    }

    /// Ends, and tells what there was.
    ///
    /// # Errors
    /// When one of the probes could not ask.
    pub fn end(self) -> anyhow::Result<Account> {
        let (begun, end) = (self.begun, Instant::now());
        let mut account = Account {
            time: end - begun,
            ..Account::default()
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
        let gap = |answers: &Answers| answers.times.longest_gap(begun, end).saturating_sub(PERIOD);
        account.arp = gap(&arp);
        if let Some(ndp) = self.ndp {
            account.ndp = gap(&ndp.end()?);
        }
        account.owners = arp.since(begun);
        Ok(account)
    }
}

impl Account {
    /// How many requests were not answered.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.lost.values().sum()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} s: {} of {} connections broken {:?}, the others waited {:.3} s at most; {} of {} new requests lost \
             {:?}, the slowest took {:.3} s; nobody answered ARP for {:.3} s, NDP for {:.3} s at the longest",
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
