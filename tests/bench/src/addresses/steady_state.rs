//! With many Services: the controller's writes at rest, a hand-over between leaders, and a restart of all controllers.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::writes::Writes;
use super::{MANY, Part, Plan, allocate, repeat};
use crate::report::{self, Figure, Unit};
use crate::testbed::{Stack, Testbed};
use crate::{say, seconds};
use lb_e2e::process::Process;

/// Duration of the measurement at rest.
const REST: Duration = Duration::from_secs(60);
/// Interval between new Services while the leader changes: short enough to hit the gap, long enough to be no load.
const PACE: Duration = Duration::from_millis(20);

/// Measures all of it.
pub(super) async fn all(
    testbed: &Testbed,
    plan: &Plan,
    names: &[String],
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    if plan.has(Part::Rest) {
        figures.push(rest(testbed, names).await?);
    }
    if plan.has(Part::HandOver) {
        figures.extend(hand_overs(testbed, plan, names).await?);
    }
    if plan.has(Part::Restart) {
        figures.extend(restarts(testbed, plan, names).await?);
        figures.extend(restart_writes(testbed, names).await?);
        if plan.has(Part::Memory) {
            let situation = format!("{} after a restart", report::services(names.len()));
            figures.extend(allocate::memory_now(testbed, &situation).await?);
        }
    }
    Ok(())
}

/// The goal, which is for one number of Services only.
fn goal(names: &[String], goal: f64) -> Option<f64> {
    (names.len() == MANY).then_some(goal)
}

async fn rest(testbed: &Testbed, names: &[String]) -> anyhow::Result<Figure> {
    let services = report::services(names.len());
    say(testbed, &format!("{services}, at rest for {} s", REST.as_secs()));
    let before = Writes::quiet(&testbed.client, testbed.timeout).await?;
    tokio::time::sleep(REST).await;
    let writes = Writes::now(&testbed.client).await?.since(&before);
    say(testbed, &format!("at rest the controller wrote: {writes}"));
    let an_hour = writes.beyond_leases() as f64 * 3600.0 / seconds(REST);
    let name = format!("{services} at rest: API writes beyond the Lease");
    Ok(Figure::new(name, Unit::PerHour, vec![an_hour]).goal(goal(names, 0.0)))
}

/// Results of one hand-over.
struct HandOver {
    /// Until the new leader is active and the Service that waited longest has its address.
    whole: Duration,
    /// Until the new leader is active, if that is observable.
    acts: Option<Duration>,
    /// The longest wait of a Service.
    longest: Duration,
    /// Whether that Service still waited at the timeout.
    timed_out: bool,
}

async fn hand_overs(testbed: &Testbed, plan: &Plan, names: &[String]) -> anyhow::Result<Vec<Figure>> {
    let services = report::services(names.len());
    let all = repeat(plan, async |number| {
        say(testbed, &format!("{services}, hand-over {number}"));
        hand_over(testbed, names).await
    })
    .await?;
    let timed_out = all.iter().any(|one| one.timed_out);
    let figure = |what: &str, time: fn(&HandOver) -> Option<Duration>| {
        let times = all.iter().filter_map(time).map(seconds);
        let name = format!("{services}, hand-over: {what}");
        Figure::new(name, Unit::Seconds, times.collect()).timed_out(timed_out)
    };
    let mut figures = vec![
        figure("until new Services are served", |one| Some(one.whole)).goal(goal(names, 1.0)),
        figure("longest wait of a new Service", |one| Some(one.longest)),
    ];
    if testbed.stack == Stack::Ours {
        figures.push(figure("until another holds the Lease", |one| one.acts).timed_out(false));
    }
    Ok(figures)
}

/// Deletes the leader and, from that moment, creates Services one after the other, each as soon as the last one has its
/// address. One of them hits the gap between the leaders.
async fn hand_over(testbed: &Testbed, names: &[String]) -> anyhow::Result<HandOver> {
    testbed.wait_for_controllers()?;
    Writes::quiet(&testbed.client, testbed.timeout).await?;
    let (leader, _) = testbed.leader().await?;
    let process = Process::of(testbed.lab(), &leader)?;
    let leader = [leader];
    let mut acts = testbed.acts_after(&leader);

    let start = Instant::now();
    testbed.delete(&leader).await?;
    let mut probes = Vec::new();
    let mut longest = Duration::ZERO;
    let mut over = start;
    let mut timed_out = false;
    while !timed_out {
        // The old leader may serve until its process ends: only a Service created later was certainly served by the new
        // one.
        let is_last = acts.is_finished() && !process.runs();
        let probe = format!("hand-over-{}", probes.len());
        probes.push(probe.clone());
        let (made, served) = serve(testbed, &probe).await?;
        timed_out = served.is_none();
        let served = served.unwrap_or_else(Instant::now);
        if served - made >= longest {
            (longest, over) = (served - made, served);
        }
        if is_last {
            break;
        }
        if start.elapsed() > testbed.timeout && !timed_out {
            bail!("no other controller is active after {:?}", testbed.timeout);
        }
        tokio::time::sleep(PACE).await;
    }
    let acts = (&mut acts).await??;
    let acts = (testbed.stack == Stack::Ours).then(|| acts - start);
    forget(testbed, names, &probes).await?;
    Ok(HandOver {
        whole: (over - start).max(acts.unwrap_or_default()),
        acts,
        longest,
        timed_out,
    })
}

/// Results of one restart.
struct Restart {
    /// Until a controller is ready.
    ready: Duration,
    /// Until a Service created then has its address.
    served: Duration,
    /// Whether that Service still waited at the timeout.
    timed_out: bool,
}

async fn restarts(testbed: &Testbed, plan: &Plan, names: &[String]) -> anyhow::Result<Vec<Figure>> {
    let services = report::services(names.len());
    let all = repeat(plan, async |number| {
        say(testbed, &format!("{services}, restart {number}"));
        testbed.wait_for_controllers()?;
        Writes::quiet(&testbed.client, testbed.timeout).await?;
        let (start, ready) = restart(testbed).await?;
        let probe = "restart".to_owned();
        let (_, served) = serve(testbed, &probe).await?;
        let now = Instant::now();
        forget(testbed, names, &[probe]).await?;
        Ok(Restart {
            ready: ready - start,
            served: served.unwrap_or(now) - start,
            timed_out: served.is_none(),
        })
    })
    .await?;
    let timed_out = all.iter().any(|one| one.timed_out);
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
            .timed_out(timed_out),
        figure("until ready", |one| one.ready),
    ])
}

/// A restart alone, which causes all writes that follow.
async fn restart_writes(testbed: &Testbed, names: &[String]) -> anyhow::Result<Vec<Figure>> {
    let services = report::services(names.len());
    say(
        testbed,
        &format!("{services}, a restart whose writes are counted"),
    );
    testbed.wait_for_controllers()?;
    let before = Writes::quiet(&testbed.client, testbed.timeout).await?;
    let versions = testbed.watch.versions(names);
    let old = testbed.controllers().await?;
    let acts = testbed.acts_after(&old);
    restart(testbed).await?;
    acts.await??;
    testbed.wait_for_controllers()?;
    let writes = Writes::quiet(&testbed.client, testbed.timeout)
        .await?
        .since(&before);
    say(
        testbed,
        &format!("after a restart the controller wrote: {writes}"),
    );
    // Once it serves this Service, the controller has processed all others.
    let probe = "restart".to_owned();
    let (_, served) = serve(testbed, &probe).await?;
    if served.is_none() {
        bail!(
            "after a restart a Service got no address in {:?}",
            testbed.timeout
        );
    }
    let now = testbed.watch.versions(names);
    let changed = versions
        .iter()
        .filter(|(name, version)| now.get(*name) != Some(version));
    let changed = changed.count() as f64;
    forget(testbed, names, &[probe]).await?;

    let figure = |what: &str, value| {
        Figure::new(format!("{services}, restart: {what}"), Unit::Count, vec![value]).goal(goal(names, 0.0))
    };
    Ok(vec![
        figure("API writes beyond the Lease", writes.beyond_leases() as f64),
        figure("Services written", changed),
    ])
}

/// Deletes all controllers at once. Returns the times of the request and of the first ready controller.
async fn restart(testbed: &Testbed) -> anyhow::Result<(Instant, Instant)> {
    let old = testbed.controllers().await?;
    let ready = testbed.ready_after(&old);
    let start = Instant::now();
    testbed.delete(&old).await?;
    let ready = ready.await??;
    Ok((start, ready))
}

/// Creates a Service. Returns the times of its acknowledgement and of its address, if it got one in time.
async fn serve(testbed: &Testbed, name: &String) -> anyhow::Result<(Instant, Option<Instant>)> {
    let acknowledged = testbed.services.create(std::slice::from_ref(name)).await?;
    let served = testbed.watch.address(name, testbed.timeout).await;
    let made = acknowledged.get(name).copied().context("it was acknowledged")?;
    // The watch may be faster than the acknowledgement.
    Ok((served.map_or(made, |served| made.min(served)), served))
}

/// Deletes the additional Services.
async fn forget(testbed: &Testbed, names: &[String], probes: &[String]) -> anyhow::Result<()> {
    testbed.services.delete(probes).await?;
    testbed.watch.left(names.len(), testbed.timeout).await
}
