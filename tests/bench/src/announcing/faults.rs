//! The owner of one address is hit, and the client waits for another.

use std::time::{Duration, Instant};

use super::fixture::{Fixture, node_of, number};
use super::{PERIOD, until};
use crate::report::{Figure, Unit};
use crate::{say, seconds};
use lb_e2e::client::{arp, http};

/// How long a recovery is waited for.
pub(super) const BOUND: Duration = Duration::from_secs(60);
/// It has recovered when it has gone on for so long without a gap worth the name.
const STEADY: Duration = Duration::from_secs(2);
const GAP: Duration = Duration::from_millis(200);

/// What hits the owner.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// Its cable is pulled out at the switch.
    Cut,
    /// All of it ends at once.
    Power,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Cut => "owner's cable cut",
            Self::Power => "owner without power",
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

/// What came of one round.
struct Round {
    /// The longest time without an answer to a request by HTTP.
    http: Duration,
    /// The same for questions by ARP.
    arp: Duration,
    /// It was not over when it was waited for no longer.
    gave_up: bool,
}

/// Hits whoever owns the address, again and again.
pub(super) async fn all(fixture: &Fixture<'_>, fault: Fault, times: usize) -> anyhow::Result<Vec<Figure>> {
    let mut rounds = Vec::new();
    for index in 1..=times {
        rounds.push(round(fixture, fault, &format!("{index} of {times}")).await?);
    }
    let name = fault.name();
    let gave_up = rounds.iter().filter(|round| round.gave_up).count();
    let figure = |what: &str, time: fn(&Round) -> Duration| {
        let times = rounds.iter().map(time).map(seconds);
        Figure::new(format!("{name}: {what}"), Unit::Seconds, times.collect())
            .gave_up(2 * gave_up > rounds.len())
    };
    let outage = figure("outage for HTTP", |round| round.http).goal(0.25);
    let worst = outage
        .worst(format!("{name}: worst outage for HTTP"), 0.5)
        .gave_up(gave_up > 0);
    Ok(vec![outage, worst, figure("outage for ARP", |round| round.arp)])
}

async fn round(fixture: &Fixture<'_>, fault: Fault, which: &str) -> anyhow::Result<Round> {
    let testbed = fixture.testbed;
    let owner = fixture.settle().await?;
    let node = number(&owner)?;
    let by_http = http::probe(testbed.lab(), fixture.address, PERIOD, http::REQUEST_TIMEOUT)?;
    let by_arp = arp::probe(testbed.lab(), fixture.address, PERIOD)?;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let start = Instant::now();
    let struck = fault.strike(fixture, node);
    let over = until(BOUND, || {
        let now = Instant::now();
        now > start + STEADY
            && by_http.inspect(|seen| seen.answered.steady(now, STEADY, GAP))
            && by_arp.inspect(|seen| seen.times.steady(now, STEADY, GAP))
    })
    .await;
    let end = Instant::now();
    let next = by_arp.inspect(|seen| seen.since(end.checked_sub(STEADY).unwrap_or(start)));
    let next: Vec<_> = next.iter().map(|from| node_of(testbed.lab(), *from)).collect();
    let mended = fault.mend(fixture, node);
    let (by_http, by_arp) = (by_http.end()?, by_arp.end()?);
    struck.and(mended)?;

    let round = Round {
        http: by_http.answered.longest_gap(start, end).saturating_sub(PERIOD),
        arp: by_arp.times.longest_gap(start, end).saturating_sub(PERIOD),
        gave_up: !over,
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
                ", NOT OVER when waited for no longer"
            }
        ),
    );
    Ok(round)
}
