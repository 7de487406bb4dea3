//! With many Services in place: what the controller writes while nothing happens, when its leader goes, and when all
//! controllers go at once.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::writes::Writes;
use super::{MANY, Part, Plan, giving, repeat};
use crate::bench::process::Process;
use crate::bench::report::{self, Figure, Unit};
use crate::bench::stand::{Stack, Stand};
use crate::bench::{say, seconds};

/// How long the controller is watched at rest.
const REST: Duration = Duration::from_secs(60);
/// Between one Service and the next while the leader changes: often enough to meet the gap, seldom enough to be no load.
const PACE: Duration = Duration::from_millis(20);

/// All of these measures.
pub(super) async fn all(
    stand: &Stand,
    plan: &Plan,
    names: &[String],
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    if plan.has(Part::Rest) {
        figures.push(rest(stand, names).await?);
    }
    if plan.has(Part::HandOver) {
        figures.extend(hand_overs(stand, plan, names).await?);
    }
    if plan.has(Part::Restart) {
        figures.extend(restarts(stand, plan, names).await?);
        figures.extend(restart_writes(stand, names).await?);
        if plan.has(Part::Memory) {
            let situation = format!("{} after a restart", report::services(names.len()));
            figures.extend(giving::memory_now(stand, &situation).await?);
        }
    }
    Ok(())
}

/// The goal, where it is for so many Services.
fn goal(names: &[String], goal: f64) -> Option<f64> {
    (names.len() == MANY).then_some(goal)
}

async fn rest(stand: &Stand, names: &[String]) -> anyhow::Result<Figure> {
    let services = report::services(names.len());
    say(stand, &format!("{services}, at rest for {} s", REST.as_secs()));
    let before = Writes::quiet(&stand.client, stand.patience).await?;
    tokio::time::sleep(REST).await;
    let writes = Writes::now(&stand.client).await?.since(&before);
    say(stand, &format!("at rest the controller wrote: {writes}"));
    let an_hour = writes.beyond_leases() as f64 * 3600.0 / seconds(REST);
    let name = format!("{services} at rest: API writes beyond the Lease");
    Ok(Figure::new(name, Unit::PerHour, vec![an_hour]).goal(goal(names, 0.0)))
}

/// What came of a hand-over.
struct HandOver {
    /// Until another acts and the Service that had to wait longest has its address.
    whole: Duration,
    /// Until another acts, if that can be seen.
    acts: Option<Duration>,
    /// How long that Service had to wait.
    longest: Duration,
    /// It waits still.
    gave_up: bool,
}

async fn hand_overs(stand: &Stand, plan: &Plan, names: &[String]) -> anyhow::Result<Vec<Figure>> {
    let services = report::services(names.len());
    let all = repeat(plan, async |number| {
        say(stand, &format!("{services}, hand-over {number}"));
        hand_over(stand, names).await
    })
    .await?;
    let gave_up = all.iter().any(|one| one.gave_up);
    let figure = |what: &str, time: fn(&HandOver) -> Option<Duration>| {
        let times = all.iter().filter_map(time).map(seconds);
        let name = format!("{services}, hand-over: {what}");
        Figure::new(name, Unit::Seconds, times.collect()).gave_up(gave_up)
    };
    let mut figures = vec![
        figure("until new Services are served", |one| Some(one.whole)).goal(goal(names, 1.0)),
        figure("longest wait of a new Service", |one| Some(one.longest)),
    ];
    if stand.stack == Stack::Ours {
        figures.push(figure("until another holds the Lease", |one| one.acts).gave_up(false));
    }
    Ok(figures)
}

/// Deletes the leader, and from that moment makes one Service after the other, each as soon as the last one has its
/// address. One of them falls into the gap between the leaders and waits until it is over.
async fn hand_over(stand: &Stand, names: &[String]) -> anyhow::Result<HandOver> {
    stand.whole()?;
    Writes::quiet(&stand.client, stand.patience).await?;
    let (leader, _) = stand.leader().await?;
    let process = Process::of(stand.lab(), &leader)?;
    let leader = [leader];
    let mut acts = stand.acts_after(&leader);

    let start = Instant::now();
    stand.delete(&leader).await?;
    let mut probes = Vec::new();
    let mut longest = Duration::ZERO;
    let mut over = start;
    let mut gave_up = false;
    while !gave_up {
        // The old one may serve until its very end: only a Service made after that was served by the new one for sure.
        let is_last = acts.is_finished() && !process.runs();
        let probe = format!("hand-over-{}", probes.len());
        probes.push(probe.clone());
        let (made, served) = serve(stand, &probe).await?;
        gave_up = served.is_none();
        let served = served.unwrap_or_else(Instant::now);
        if served - made >= longest {
            (longest, over) = (served - made, served);
        }
        if is_last {
            break;
        }
        if start.elapsed() > stand.patience && !gave_up {
            bail!(
                "waited {:?} in vain for another controller to act",
                stand.patience
            );
        }
        tokio::time::sleep(PACE).await;
    }
    let acts = (&mut acts).await??;
    let acts = (stand.stack == Stack::Ours).then(|| acts - start);
    forget(stand, names, &probes).await?;
    Ok(HandOver {
        whole: (over - start).max(acts.unwrap_or_default()),
        acts,
        longest,
        gave_up,
    })
}

/// What came of a restart.
struct Restart {
    /// Until a controller is ready.
    ready: Duration,
    /// Until a Service that was made then has its address.
    served: Duration,
    /// It waits still.
    gave_up: bool,
}

async fn restarts(stand: &Stand, plan: &Plan, names: &[String]) -> anyhow::Result<Vec<Figure>> {
    let services = report::services(names.len());
    let all = repeat(plan, async |number| {
        say(stand, &format!("{services}, restart {number}"));
        stand.whole()?;
        Writes::quiet(&stand.client, stand.patience).await?;
        let (start, ready) = restart(stand).await?;
        let probe = "restart".to_owned();
        let (_, served) = serve(stand, &probe).await?;
        let now = Instant::now();
        forget(stand, names, &[probe]).await?;
        Ok(Restart {
            ready: ready - start,
            served: served.unwrap_or(now) - start,
            gave_up: served.is_none(),
        })
    })
    .await?;
    let gave_up = all.iter().any(|one| one.gave_up);
    let figure = |what: &str, time: fn(&Restart) -> Duration| {
        let times = all.iter().map(time).map(seconds);
        Figure::new(
            format!("{services}, restart: {what}"),
            Unit::Seconds,
            times.collect(),
        )
    };
    Ok(vec![
        figure("until ready, and a new Service is served", |one| one.served)
            .goal(goal(names, 5.0))
            .gave_up(gave_up),
        figure("until ready", |one| one.ready),
    ])
}

/// A restart and nothing else: whatever is written is written because of it.
async fn restart_writes(stand: &Stand, names: &[String]) -> anyhow::Result<Vec<Figure>> {
    let services = report::services(names.len());
    say(stand, &format!("{services}, a restart whose writes are counted"));
    stand.whole()?;
    let before = Writes::quiet(&stand.client, stand.patience).await?;
    let versions = stand.watch.versions(names);
    let old = stand.controllers().await?;
    let acts = stand.acts_after(&old);
    restart(stand).await?;
    acts.await??;
    stand.whole()?;
    let writes = Writes::quiet(&stand.client, stand.patience).await?.since(&before);
    say(stand, &format!("after a restart the controller wrote: {writes}"));
    // That it serves a Service shows that it had come to its work before.
    let probe = "restart".to_owned();
    let (_, served) = serve(stand, &probe).await?;
    if served.is_none() {
        bail!("after a restart a Service got no address in {:?}", stand.patience);
    }
    let now = stand.watch.versions(names);
    let changed = versions
        .iter()
        .filter(|(name, version)| now.get(*name) != Some(version));
    let changed = changed.count() as f64;
    forget(stand, names, &[probe]).await?;

    let figure = |what: &str, value| {
        Figure::new(format!("{services}, restart: {what}"), Unit::Count, vec![value]).goal(goal(names, 0.0))
    };
    Ok(vec![
        figure("API writes beyond the Lease", writes.beyond_leases() as f64),
        figure("Services written", changed),
    ])
}

/// Deletes all controllers at once. Returns when that was asked for, and when a new one was ready.
async fn restart(stand: &Stand) -> anyhow::Result<(Instant, Instant)> {
    let old = stand.controllers().await?;
    let ready = stand.ready_after(&old);
    let start = Instant::now();
    stand.delete(&old).await?;
    let ready = ready.await??;
    Ok((start, ready))
}

/// Makes one Service. Returns when that was acknowledged, and when the Service had its address, if it had it in time.
async fn serve(stand: &Stand, name: &String) -> anyhow::Result<(Instant, Option<Instant>)> {
    let acknowledged = stand.hands.create(std::slice::from_ref(name)).await?;
    let served = stand.watch.address(name, stand.patience).await;
    let made = acknowledged.get(name).copied().context("it was acknowledged")?;
    // The watch may be quicker than the acknowledgement.
    Ok((served.map_or(made, |served| made.min(served)), served))
}

/// Deletes what was made beside the many.
async fn forget(stand: &Stand, names: &[String], probes: &[String]) -> anyhow::Result<()> {
    stand.hands.delete(probes).await?;
    stand.watch.left(names.len(), stand.patience).await
}
