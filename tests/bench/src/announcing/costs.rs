//! The cost of a speaker, and its response time.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::bail;
use lb_crds::names::SPEAKER;

use super::fixture::Fixture;
use crate::report::{Figure, Unit};
use crate::testbed::Testbed;
use crate::{say, seconds};
use lb_e2e::client::arp;
use lb_e2e::process::Process;

/// ARP requests per second for addresses that no node has.
const FLOOD_RATE: u32 = 5000;
const FLOOD: Duration = Duration::from_secs(10);
/// Requests for each address when response times are measured.
const ARP_REQUESTS: usize = 600;
const PAUSE: Duration = Duration::from_millis(4);
/// Requests of arping for each address.
const ARPING_REQUESTS: usize = 60;

/// The processes of all speakers.
async fn speakers(testbed: &Testbed) -> anyhow::Result<Vec<Process>> {
    let pods = testbed.pods_of(SPEAKER).await?;
    pods.iter().map(|pod| Process::of(testbed.lab(), pod)).collect()
}

/// The speakers' current memory.
pub(super) async fn memory(
    testbed: &Testbed,
    situation: &str,
    goal: Option<f64>,
) -> anyhow::Result<Vec<Figure>> {
    let mut samples = Vec::new();
    for speaker in speakers(testbed).await? {
        samples.push(speaker.memory()?.now as f64 / 1e6);
    }
    Ok(vec![
        Figure::new(format!("speaker's memory, {situation}"), Unit::Megabytes, samples).goal(goal),
    ])
}

/// The speakers' processor time during a flood of requests for addresses that no node has, and at rest.
pub(super) async fn flood(fixture: &Fixture<'_>, situation: &str) -> anyhow::Result<Vec<Figure>> {
    let testbed = fixture.testbed;
    fixture.settle().await?;
    say(testbed, &format!("processor time{situation}"));
    let rest = share(testbed, || {
        std::thread::sleep(FLOOD);
        Ok(())
    })
    .await?;
    let foreign: Vec<_> = (200..250).map(|host| Ipv4Addr::new(192, 168, 50, host)).collect();
    let mut asked = 0;
    let flooded = share(testbed, || {
        asked = arp::flood(testbed.lab(), foreign, FLOOD_RATE, FLOOD)?;
        Ok(())
    })
    .await?;
    say(
        testbed,
        &format!("sent {asked} requests in {} s", FLOOD.as_secs()),
    );
    if f64::from(asked) < 0.95 * f64::from(FLOOD_RATE) * seconds(FLOOD) {
        bail!("only {asked} requests were sent: the machine is too busy");
    }
    let figure = |what: &str, samples| {
        Figure::new(
            format!("speaker's processor time, {what}{situation}"),
            Unit::OfProcessor,
            samples,
        )
    };
    Ok(vec![
        figure("at rest", rest),
        figure("5,000 foreign ARP requests a second", flooded).goal(0.3),
    ])
}

/// The share of one processor that each speaker uses.
async fn share(
    testbed: &Testbed,
    meanwhile: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let speakers = speakers(testbed).await?;
    let times = || -> anyhow::Result<Vec<Duration>> {
        speakers
            .iter()
            .map(|speaker| speaker.exact_processor_time())
            .collect()
    };
    let before = times()?;
    let start = Instant::now();
    meanwhile()?;
    let (after, took) = (times()?, start.elapsed());
    let used = before
        .iter()
        .zip(after)
        .map(|(before, after)| after.saturating_sub(*before));
    Ok(used.map(|used| 100.0 * seconds(used) / seconds(took)).collect())
}

/// Response times for the address, and of the same node's kernel for the node's own address: as arping prints them,
/// which the goal is for and which adds half a millisecond to both, and to the microsecond.
pub(super) async fn answer(fixture: &Fixture<'_>) -> anyhow::Result<Vec<Figure>> {
    let testbed = fixture.testbed;
    let owner = fixture.settle().await?;
    say(testbed, "response times");
    let addresses = [fixture.address, testbed.lab().address(&owner)?];
    let shown = by_arping(testbed, addresses)?;
    let exact = arp::round_trips(testbed.lab(), addresses.to_vec(), ARP_REQUESTS, PAUSE)?;
    let mut figures = answer_figures("ARP answer by arping", &shown, ARPING_REQUESTS, Some(1.1))?;
    figures.extend(answer_figures("ARP answer", &exact, ARP_REQUESTS, None)?);
    Ok(figures)
}

/// Figures of both addresses, and their ratio.
fn answer_figures(
    name: &str,
    trips: &[Vec<Duration>],
    asked: usize,
    goal: Option<f64>,
) -> anyhow::Result<Vec<Figure>> {
    let [address, node] = trips else {
        bail!("two addresses were asked for, not {}", trips.len());
    };
    if address.len().min(node.len()) < asked * 9 / 10 {
        bail!(
            "{} and {} of {asked} requests were answered",
            address.len(),
            node.len()
        );
    }
    let figure = |of: &str, trips: &[Duration]| {
        let samples = trips.iter().map(|trip| 1e6 * seconds(*trip)).collect();
        Figure::new(format!("{name}: {of}"), Unit::Microseconds, samples)
    };
    let (address, node) = (
        figure("an address", address),
        figure("a node, by its kernel", node),
    );
    let ratio = vec![address.value() / node.value()];
    let ratio = Figure::new(format!("{name}: address against node"), Unit::Times, ratio).goal(goal);
    Ok(vec![address, node, ratio])
}

/// Runs arping, which sends one request a second, for two addresses at the same time, half a second apart.
fn by_arping(testbed: &Testbed, addresses: [Ipv4Addr; 2]) -> anyhow::Result<Vec<Vec<Duration>>> {
    let [first, second] = addresses;
    let arping = |address| format!("arping -c {ARPING_REQUESTS} -I eth0 {address}");
    let both = format!("{} & sleep 0.5; {}; wait", arping(first), arping(second));
    let text = testbed.harness.client(&both)?;
    Ok(addresses.map(|address| shown(&text, address)).to_vec())
}

/// The times for an address in arping's output: `Unicast reply from 192.168.50.50 [02:1B:00:00:00:0B]  0.630ms`.
fn shown(text: &str, address: Ipv4Addr) -> Vec<Duration> {
    let from = format!("Unicast reply from {address} ");
    let lines = text.lines().filter(|line| line.starts_with(&from));
    let milliseconds = lines.filter_map(|line| line.split_whitespace().last()?.strip_suffix("ms"));
    milliseconds
        .filter_map(|number| number.parse::<f64>().ok())
        .map(|milliseconds| Duration::from_secs_f64(milliseconds / 1000.0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arpings_times_are_read_by_address() {
        let text = "ARPING 192.168.50.11 from 192.168.50.20 eth0\n\
                    Unicast reply from 192.168.50.11 [02:1B:00:00:00:0B]  0.630ms\n\
                    Unicast reply from 192.168.50.1 [02:1B:00:00:00:0C]  1.5ms\nSent 2 probes (1 broadcast(s))\n";
        let of = |host| shown(text, Ipv4Addr::new(192, 168, 50, host));
        assert_eq!(of(11), [Duration::from_micros(630)]);
        assert_eq!(of(1), [Duration::from_micros(1500)]);
        assert!(of(2).is_empty());
    }
}
