//! What a speaker costs, and how soon it answers.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::bail;
use lb_crds::names::SPEAKER;

use super::scene::Scene;
use crate::bench::client::arp;
use crate::bench::process::Process;
use crate::bench::report::{Figure, Unit};
use crate::bench::stand::Stand;
use crate::bench::{say, seconds};

/// Questions a second for what nobody in the cluster has, and for how long.
const RATE: u32 = 5000;
const FLOOD: Duration = Duration::from_secs(10);
/// How often each address is asked for when the time is taken, and the pause between.
const QUESTIONS: usize = 600;
const PAUSE: Duration = Duration::from_millis(4);

/// The processes of all speakers.
async fn speakers(stand: &Stand) -> anyhow::Result<Vec<Process>> {
    let pods = stand.pods_of(SPEAKER).await?;
    pods.iter().map(|pod| Process::of(stand.lab(), pod)).collect()
}

/// Memory of the speakers now.
pub(super) async fn memory(stand: &Stand, situation: &str, goal: Option<f64>) -> anyhow::Result<Vec<Figure>> {
    let mut samples = Vec::new();
    for speaker in speakers(stand).await? {
        samples.push(speaker.memory()?.now as f64 / 1e6);
    }
    Ok(vec![
        Figure::new(format!("speaker's memory, {situation}"), Unit::Megabytes, samples).goal(goal),
    ])
}

/// Processor time of the speakers while a machine on the LAN asks for addresses that nobody has, and at rest.
pub(super) async fn flood(scene: &Scene<'_>, situation: &str) -> anyhow::Result<Vec<Figure>> {
    let stand = scene.stand;
    scene.settle().await?;
    say(stand, &format!("processor time{situation}"));
    let rest = share(stand, || {
        std::thread::sleep(FLOOD);
        Ok(())
    })
    .await?;
    let foreign: Vec<_> = (200..250).map(|host| Ipv4Addr::new(192, 168, 50, host)).collect();
    let mut asked = 0;
    let flooded = share(stand, || {
        asked = arp::flood(stand.lab(), foreign, RATE, FLOOD)?;
        Ok(())
    })
    .await?;
    say(stand, &format!("asked {asked} times in {} s", FLOOD.as_secs()));
    if f64::from(asked) < 0.95 * f64::from(RATE) * seconds(FLOOD) {
        bail!("only {asked} questions were sent: the machine is too busy");
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

/// The part of one processor that each speaker takes meanwhile.
async fn share(stand: &Stand, meanwhile: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    let speakers = speakers(stand).await?;
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

/// How long an answer for the address takes, and one of the kernel of the same node for the node's own.
pub(super) async fn answer(scene: &Scene<'_>) -> anyhow::Result<Vec<Figure>> {
    let stand = scene.stand;
    let owner = scene.settle().await?;
    say(stand, "how long an answer takes");
    let addresses = vec![scene.address, stand.lab().address(&owner)?];
    let trips = arp::round_trips(stand.lab(), addresses, QUESTIONS, PAUSE)?;
    let [ours, kernels] = &trips[..] else {
        bail!("two addresses were asked for, not {}", trips.len());
    };
    if ours.len().min(kernels.len()) < QUESTIONS * 9 / 10 {
        bail!(
            "{} and {} of {QUESTIONS} questions were answered",
            ours.len(),
            kernels.len()
        );
    }
    let figure = |what: &str, trips: &[Duration]| {
        let samples = trips.iter().map(|trip| 1e6 * seconds(*trip)).collect();
        Figure::new(format!("ARP answer: {what}"), Unit::Microseconds, samples)
    };
    let (ours, kernels) = (
        figure("for an address", ours),
        figure("for a node, by its kernel", kernels),
    );
    let ratio = ours.value() / kernels.value();
    let ratio = Figure::new("ARP answer: address against node", Unit::Times, vec![ratio]).goal(1.1);
    Ok(vec![ours, kernels, ratio])
}
