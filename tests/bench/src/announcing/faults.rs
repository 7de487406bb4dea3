//! Failures of the owner of one address, as a client sees them.

use std::time::{Duration, Instant};

use super::fixture::{Fixture, node_of, number};
use super::{PROBE_INTERVAL, until};
use crate::report::{Figure, Unit};
use crate::{say, seconds};
use lb_e2e::client::{arp, http};

/// Timeout for a recovery.
pub(super) const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time without a gap after which the address has recovered.
const STEADY: Duration = Duration::from_secs(2);
const MAX_BUSY_GAP: Duration = Duration::from_millis(200);

/// A failure of the owner.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// Its cable is unplugged at the switch.
    Cut,
    /// It is switched off.
    Power,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Cut => "owner's cable cut",
            Self::Power => "owner powered off",
        }
    }

    fn strike(self, fixture: &Fixture<'_>, node: usize) -> anyhow::Result<()> {
        match self {
            Self::Cut => fixture.testbed.lab().cut(node),
            Self::Power => fixture.testbed.lab().crash(node),
        }
    }

    fn mend(self, fixture: &Fixture<'_>, node: usize) -> anyhow::Result<()> {
        match self {
            Self::Cut => fixture.testbed.lab().join(node),
            Self::Power => fixture.testbed.lab().start(node),
        }
    }
}

/// Results of one round.
struct Round {
    /// The longest time without an HTTP answer.
    http: Duration,
    /// The longest time without an ARP reply.
    arp: Duration,
    /// Whether the recovery timed out.
    timed_out: bool,
}

/// Lets the current owner fail, `times` times.
pub(super) async fn all(fixture: &Fixture<'_>, fault: Fault, times: usize) -> anyhow::Result<Vec<Figure>> {
    let mut rounds = Vec::new();
    for index in 1..=times {
        rounds.push(round(fixture, fault, &format!("{index} of {times}")).await?);
    }
    let name = fault.name();
    let timed_out = rounds.iter().filter(|round| round.timed_out).count();
    let figure = |what: &str, time: fn(&Round) -> Duration| {
        let times = rounds.iter().map(time).map(seconds);
        Figure::new(format!("{name}: {what}"), Unit::Seconds, times.collect())
            .timed_out(2 * timed_out > rounds.len())
    };
    let outage = figure("outage for HTTP", |round| round.http).goal(0.25);
    let worst = outage
        .worst(format!("{name}: worst outage for HTTP"), 0.5)
        .timed_out(timed_out > 0);
    Ok(vec![outage, worst, figure("outage for ARP", |round| round.arp)])
}

async fn round(fixture: &Fixture<'_>, fault: Fault, which: &str) -> anyhow::Result<Round> {
    let testbed = fixture.testbed;
    let owner = fixture.settle().await?;
    let node = number(&owner)?;
    let by_http = http::probe(
        testbed.lab(),
        fixture.address,
        PROBE_INTERVAL,
        http::REQUEST_TIMEOUT,
    )?;
    let by_arp = arp::probe(testbed.lab(), fixture.address, PROBE_INTERVAL)?;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let start = Instant::now();
    let struck = fault.strike(fixture, node);
    let over = until(RECOVERY_TIMEOUT, || {
        let now = Instant::now();
        now > start + STEADY
            && by_http.inspect(|seen| seen.answered.steady(now, STEADY, MAX_BUSY_GAP))
            && by_arp.inspect(|seen| seen.times.steady(now, STEADY, MAX_BUSY_GAP))
    })
    .await;
    let end = Instant::now();
    let next = by_arp.inspect(|seen| seen.since(end.checked_sub(STEADY).unwrap_or(start)));
    let next: Vec<_> = next.iter().map(|from| node_of(testbed.lab(), *from)).collect();
    let mended = fault.mend(fixture, node);
    let (by_http, by_arp) = (by_http.end()?, by_arp.end()?);
    struck.and(mended)?;

    let round = Round {
        http: by_http
            .answered
            .longest_gap(start, end)
            .saturating_sub(PROBE_INTERVAL),
        arp: by_arp
            .times
            .longest_gap(start, end)
            .saturating_sub(PROBE_INTERVAL),
        timed_out: !over,
    };
    say(
        testbed,
        &format!(
            "{}, {which}: {owner} to {}: HTTP {:.3} s, ARP {:.3} s, {} of {} requests lost{}",
            fault.name(),
            next.join(" and "),
            seconds(round.http),
            seconds(round.arp),
            by_http.lost(),
            by_http.begun,
            if over {
                ""
            } else {
                ", NOT RECOVERED before the timeout"
            }
        ),
    );
    Ok(round)
}
