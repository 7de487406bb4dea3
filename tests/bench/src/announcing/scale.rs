//! Thousands of Services: failure of a node with a thousand addresses, and the speakers' memory.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::bail;
use lb_crds::names::NAMESPACE;
use lb_l2::MacAddr;

use super::faults::RECOVERY_TIMEOUT;
use super::fixture::{Fixture, first_in_order, number};
use super::{Part, Plan, costs, until};
use crate::report::{self, Figure, Unit};
use crate::services::Announced;
use crate::{say, seconds};
use lb_e2e::client::sweep;

/// Addresses of the node that fails.
const MANY: usize = 1000;
/// Maximum number of addresses.
const MAX_ADDRESSES: usize = 10_000;
/// The node that fails. The addresses are chosen so that it comes first in their election orders.
const FAILING_NODE: &str = "n2";
/// Duration of gratuitous announcements for new addresses, with a margin.
const GRATUITOUS_DURATION: Duration = Duration::from_secs(10);

/// Measures everything with many Services.
pub(super) async fn all(fixture: &Fixture<'_>, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let testbed = fixture.testbed;
    let mut figures = Vec::new();
    let chosen: Vec<_> = candidates()
        .filter(|address| first_in_order(&testbed.lab().nodes(), *address).as_deref() == Some(FAILING_NODE))
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
    if plan.has(Part::Scale) {
        figures.extend(deaths(fixture, plan.rounds, &chosen).await?);
    }
    if plan.has(Part::Memory) && plan.large {
        let known: BTreeSet<_> = chosen.iter().copied().collect();
        let others = candidates().filter(|address| !known.contains(address));
        let others: Vec<_> = others.take(MAX_ADDRESSES - MANY).collect();
        let all: Vec<_> = chosen.iter().chain(&others).copied().collect();
        announce(fixture, &others, &all).await?;
        figures.extend(costs::memory(testbed, &report::services(MAX_ADDRESSES), Some(32.0)).await?);
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

/// Creates Services with the addresses `more`, and waits until `all` are answered for.
async fn announce(fixture: &Fixture<'_>, more: &[Ipv4Addr], all: &[Ipv4Addr]) -> anyhow::Result<()> {
    let testbed = fixture.testbed;
    say(testbed, &format!("making {}", report::services(more.len())));
    let services = more.iter().map(|address| Announced {
        name: format!("many-{}", address.to_string().replace('.', "-")),
        address: *address,
    });
    testbed.services.announce(&services.collect::<Vec<_>>()).await?;
    let given = testbed.watch.assigned(all.len(), testbed.timeout).await;
    if given < all.len() {
        bail!(
            "{given} of {} have an address after {:?}",
            report::services(all.len()),
            testbed.timeout
        );
    }
    answered(fixture, all, |owners| !owners.is_empty()).await?;
    tokio::time::sleep(GRATUITOUS_DURATION).await;
    Ok(())
}

/// Waits until all addresses have the expected owners.
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
        if start.elapsed() > testbed.timeout {
            bail!(
                "after {:?} {good} of {} addresses are answered for as they should be",
                testbed.timeout,
                addresses.len()
            );
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Lets only one node announce the addresses, or all nodes. Waits for MetalLB's webhook, whose pod may be on a node
/// that was switched off.
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
        if start.elapsed() > fixture.testbed.timeout {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn deaths(fixture: &Fixture<'_>, times: usize, addresses: &[Ipv4Addr]) -> anyhow::Result<Vec<Figure>> {
    let mut took = Vec::new();
    let mut counts = Vec::new();
    let mut timed_out = false;
    for index in 1..=times {
        let node_failure = node_failure(fixture, addresses, &format!("{index} of {times}")).await?;
        took.push(seconds(node_failure.took.unwrap_or(RECOVERY_TIMEOUT)));
        counts.push(node_failure.count as f64);
        timed_out |= node_failure.took.is_none();
    }
    let figure = |what: &str, unit, samples| {
        let name = format!("node with {MANY} addresses powered off: {what}");
        Figure::new(name, unit, samples)
    };
    Ok(vec![
        figure("until all are answered for", Unit::Seconds, took)
            .goal(1.0)
            .timed_out(timed_out),
        figure("addresses that it had", Unit::Count, counts).higher(),
    ])
}

/// Results of one node failure.
struct NodeFailure {
    /// Number of the node's addresses.
    count: usize,
    /// From the node's last answer to the moment when the last address had a new owner.
    took: Option<Duration>,
}

async fn node_failure(
    fixture: &Fixture<'_>,
    addresses: &[Ipv4Addr],
    which: &str,
) -> anyhow::Result<NodeFailure> {
    let testbed = fixture.testbed;
    let lab = testbed.lab();
    let victim = MacAddr(lab.mac_address(FAILING_NODE)?);
    let node = number(FAILING_NODE)?;
    fixture.settle().await?;
    // All addresses move to the node, and stay there when other nodes may announce them too: MetalLB's owner because it
    // is the first candidate, ours because owners keep their addresses.
    pin(fixture, Some(FAILING_NODE)).await?;
    let only = BTreeSet::from([victim]);
    answered(fixture, addresses, |owners| *owners == only).await?;
    pin(fixture, None).await?;
    tokio::time::sleep(GRATUITOUS_DURATION).await;
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
    let over = until(RECOVERY_TIMEOUT, || {
        moves.inspect(|moved| moved.answered.len() == its.len())
    })
    .await;
    let started = lab.start(node);
    let moved = moves.end()?;
    crashed.and(started)?;
    let took = moved.duration().filter(|_| over);
    say(
        testbed,
        &format!(
            "{FAILING_NODE} powered off, {which}: it had {} of {} addresses; {} have a new owner, after {}",
            its.len(),
            addresses.len(),
            moved.answered.len(),
            took.map_or_else(
                || format!("{RECOVERY_TIMEOUT:?} not all"),
                |took| format!("{:.3} s", seconds(took))
            )
        ),
    );
    Ok(NodeFailure {
        count: its.len(),
        took,
    })
}
