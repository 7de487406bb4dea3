//! Services by the thousand: a node dies that has the addresses of a thousand, and what speakers hold in memory.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::bail;
use lb_crds::names::NAMESPACE;
use lb_l2::MacAddr;

use super::faults::BOUND;
use super::fixture::{Fixture, first_in_order, number};
use super::{Part, Plan, costs, until};
use crate::report::{self, Figure, Unit};
use crate::services::Announced;
use crate::{say, seconds};
use lb_e2e::client::sweep;

/// How many a node loses.
const MANY: usize = 1000;
/// How many there are at most.
const MOST: usize = 10_000;
/// The node that loses them. They are chosen so that it comes first in the order for each.
const VICTIM: &str = "n2";
/// How long announcements of new addresses go on, with a margin.
const BURSTS: Duration = Duration::from_secs(10);

/// All measures with many Services.
pub(super) async fn all(fixture: &Fixture<'_>, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let testbed = fixture.testbed;
    let mut figures = Vec::new();
    let chosen: Vec<_> = candidates()
        .filter(|address| first_in_order(&testbed.lab().nodes(), *address).as_deref() == Some(VICTIM))
        .take(MANY)
        .collect();
    announce(fixture, &chosen, &chosen).await?;
    if plan.has(Part::Memory) {
        figures.extend(costs::memory(testbed, &report::services(MANY), Some(14.0)).await?);
    }
    if plan.has(Part::Flood) {
        let situation = format!(", {}", report::services(MANY));
        figures.extend(costs::flood(fixture, &situation).await?);
    }
    if plan.has(Part::Many) {
        figures.extend(deaths(fixture, plan.rounds, &chosen).await?);
    }
    if plan.has(Part::Memory) && plan.most {
        let known: BTreeSet<_> = chosen.iter().copied().collect();
        let others = candidates().filter(|address| !known.contains(address));
        let others: Vec<_> = others.take(MOST - MANY).collect();
        let all: Vec<_> = chosen.iter().chain(&others).copied().collect();
        announce(fixture, &others, &all).await?;
        figures.extend(costs::memory(testbed, &report::services(MOST), Some(32.0)).await?);
    }
    Ok(figures)
}

/// Addresses of the large pool.
fn candidates() -> impl Iterator<Item = Ipv4Addr> {
    (0..=u16::MAX).map(|number| {
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(10, 0, high, low)
    })
}

/// Makes Services with these addresses, and waits until all that there are by then are answered for.
async fn announce(fixture: &Fixture<'_>, more: &[Ipv4Addr], all: &[Ipv4Addr]) -> anyhow::Result<()> {
    let testbed = fixture.testbed;
    say(testbed, &format!("making {}", report::services(more.len())));
    let services = more.iter().map(|address| Announced {
        name: format!("many-{}", address.to_string().replace('.', "-")),
        address: *address,
    });
    testbed.hands.announce(&services.collect::<Vec<_>>()).await?;
    let given = testbed.watch.assigned(all.len(), testbed.patience).await;
    if given < all.len() {
        bail!(
            "{given} of {} have an address after {:?}",
            report::services(all.len()),
            testbed.patience
        );
    }
    answered(fixture, all, |owners| !owners.is_empty()).await?;
    tokio::time::sleep(BURSTS).await;
    Ok(())
}

/// Waits until the owners of all addresses are as they should be.
async fn answered(
    fixture: &Fixture<'_>,
    addresses: &[Ipv4Addr],
    is_so: impl Fn(&BTreeSet<MacAddr>) -> bool,
) -> anyhow::Result<()> {
    let testbed = fixture.testbed;
    let start = Instant::now();
    loop {
        let owners = sweep::owners(testbed.lab(), addresses)?;
        let good = owners.values().filter(|owners| is_so(owners)).count();
        if good == addresses.len() {
            return Ok(());
        }
        if start.elapsed() > testbed.patience {
            bail!(
                "after {:?} {good} of {} addresses are answered for as they should be",
                testbed.patience,
                addresses.len()
            );
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Lets one node announce the many, or all nodes. MetalLB's webhook has its say about it, from a pod that may be on the node
/// that was without power: it is waited for.
async fn pin(fixture: &Fixture<'_>, to: Option<&str>) -> anyhow::Result<()> {
    let selectors = to.map_or(String::new(), |node| {
        format!(", nodeSelectors: [{{matchLabels: {{kubernetes.io/hostname: {node}}}}}]")
    });
    let advertisement = format!(
        "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: many, namespace: {NAMESPACE}}}\n\
         spec: {{ipAddressPools: [many]{selectors}}}"
    );
    let start = Instant::now();
    while let Err(error) = fixture.testbed.harness.apply(&advertisement) {
        if start.elapsed() > fixture.testbed.patience {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn deaths(fixture: &Fixture<'_>, times: usize, addresses: &[Ipv4Addr]) -> anyhow::Result<Vec<Figure>> {
    let mut took = Vec::new();
    let mut counts = Vec::new();
    let mut gave_up = false;
    for index in 1..=times {
        let death = death(fixture, addresses, &format!("{index} of {times}")).await?;
        took.push(seconds(death.took.unwrap_or(BOUND)));
        counts.push(death.count as f64);
        gave_up |= death.took.is_none();
    }
    let figure = |what: &str, unit, samples| {
        let name = format!("node with {MANY} addresses without power: {what}");
        Figure::new(name, unit, samples)
    };
    Ok(vec![
        figure("until all are answered for", Unit::Seconds, took)
            .goal(1.0)
            .gave_up(gave_up),
        figure("addresses that it had", Unit::Count, counts).higher(),
    ])
}

/// What came of one death.
struct Death {
    /// How many addresses the node had.
    count: usize,
    /// From its last answer until the last of them was answered for by another.
    took: Option<Duration>,
}

async fn death(fixture: &Fixture<'_>, addresses: &[Ipv4Addr], which: &str) -> anyhow::Result<Death> {
    let testbed = fixture.testbed;
    let lab = testbed.lab();
    let victim = MacAddr(lab.mac_address(VICTIM)?);
    let node = number(VICTIM)?;
    fixture.settle().await?;
    // All of them go to the victim, and stay there when others may have them: for an owner that has no memory because it
    // comes first, for one that has because it has them.
    pin(fixture, Some(VICTIM)).await?;
    let only = BTreeSet::from([victim]);
    answered(fixture, addresses, |owners| *owners == only).await?;
    pin(fixture, None).await?;
    tokio::time::sleep(BURSTS).await;
    answered(fixture, addresses, |owners| owners.len() == 1).await?;
    let owners = sweep::owners(lab, addresses)?;
    let its: Vec<_> = owners
        .iter()
        .filter(|(_, owners)| **owners == only)
        .map(|(address, _)| *address)
        .collect();

    let moves = sweep::moves(lab, its.clone(), victim)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let crashed = lab.crash(node);
    let over = until(BOUND, || moves.inspect(|moved| moved.answered.len() == its.len())).await;
    let started = lab.start(node);
    let moved = moves.end()?;
    crashed.and(started)?;
    let took = moved.duration().filter(|_| over);
    say(
        testbed,
        &format!(
            "{VICTIM} without power, {which}: it had {} of {} addresses; {} are answered for, after {}",
            its.len(),
            addresses.len(),
            moved.answered.len(),
            took.map_or_else(
                || format!("{BOUND:?} not all of them"),
                |took| format!("{:.3} s", seconds(took))
            )
        ),
    );
    Ok(Death {
        count: its.len(),
        took,
    })
}
