//! Addresses for many Services at once: time, cost, and the controller's memory afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::writes::Writes;
use super::{Part, Plan, repeat};
use crate::report::{self, Figure, Unit};
use crate::testbed::Testbed;
use crate::{say, seconds};
use lb_e2e::process::{Memory, Process};

/// Results of one round.
struct Round {
    /// From the first request to the last acknowledgement.
    creating: Duration,
    /// From the last acknowledgement to the last address.
    after_last: Duration,
    /// From the first request to the last address.
    in_all: Duration,
    /// From each Service's acknowledgement to its address, in ascending order.
    waits: Vec<Duration>,
    /// The controller's API writes.
    writes: Writes,
    /// The controller's processor time.
    processor_time: Duration,
    memory: Memories,
}

/// Memory of the active controller, and of those on standby.
struct Memories {
    leader: Memory,
    standbys: Vec<Memory>,
}

/// Memory without Services.
pub(super) async fn idle(testbed: &Testbed) -> anyhow::Result<Vec<Figure>> {
    Writes::quiet(&testbed.client, testbed.timeout).await?;
    Ok(memory_figures("idle", Some(12.0), &[memory(testbed).await?]))
}

/// Creates Services and measures until all have addresses, repeatedly unless it takes long. Leaves the Services.
/// Returns false after a timeout.
pub(super) async fn many(
    testbed: &Testbed,
    plan: &Plan,
    names: &[String],
    figures: &mut Vec<Figure>,
) -> anyhow::Result<bool> {
    let services = report::services(names.len());
    let outcomes = repeat(plan, async |number| {
        if number > 1 {
            remove(testbed, names).await?;
        }
        say(testbed, &format!("{services}, round {number}"));
        round(testbed, names).await
    })
    .await?;
    let rounds = match outcomes.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(rounds) => rounds,
        Err(given) => {
            let limit = testbed.timeout;
            say(
                testbed,
                &format!("{given} of {services} have an address after {limit:?}: stopped"),
            );
            if plan.has(Part::Assign) {
                let name = after_last_name(&services);
                figures.push(Figure::new(name, Unit::Seconds, vec![seconds(limit)]).timed_out(true));
            }
            return Ok(false);
        }
    };
    if plan.has(Part::Assign) {
        figures.extend(giving_figures(&services, names.len(), &rounds));
    }
    if plan.has(Part::Memory) {
        let goal = match names.len() {
            1000 => Some(16.0),
            10_000 => Some(40.0),
            _ => None,
        };
        let memories: Vec<_> = rounds.into_iter().map(|round| round.memory).collect();
        figures.extend(memory_figures(&services, goal, &memories));
    }
    Ok(true)
}

/// Creates Services and waits for their addresses; the number of addresses after a timeout.
async fn round(testbed: &Testbed, names: &[String]) -> anyhow::Result<Result<Round, usize>> {
    let (leader, _) = testbed.processes().await?;
    let writes = Writes::quiet(&testbed.client, testbed.timeout).await?;
    let processor_time = leader.processor_time()?;

    let start = Instant::now();
    let acknowledged = testbed.services.create(names).await?;
    let given = testbed.watch.assigned(names.len(), testbed.timeout).await;
    if given < names.len() {
        return Ok(Err(given));
    }

    let assigned = testbed.watch.when(names);
    let last_acknowledged = acknowledged.values().max().copied().unwrap_or(start);
    let last_assigned = assigned.values().max().copied().unwrap_or(start);
    match testbed.watch.doubles() {
        0 => {}
        doubles => bail!("{doubles} Services share an address with another"),
    }
    // Events and pool counters are written after the addresses.
    let after = Writes::quiet(&testbed.client, testbed.timeout).await?;
    Ok(Ok(Round {
        creating: last_acknowledged - start,
        after_last: last_assigned.saturating_duration_since(last_acknowledged),
        in_all: last_assigned - start,
        waits: waits(&acknowledged, &assigned),
        writes: after.since(&writes),
        processor_time: leader.processor_time()? - processor_time,
        memory: memory(testbed).await?,
    }))
}

/// Deletes Services and waits until they are gone and the controller is idle.
pub(super) async fn remove(testbed: &Testbed, names: &[String]) -> anyhow::Result<()> {
    testbed.services.delete(names).await?;
    testbed.watch.left(0, testbed.timeout).await?;
    Writes::quiet(&testbed.client, testbed.timeout).await?;
    Ok(())
}

/// The time that each Service waited, in ascending order; zero if the watch was faster than the acknowledgement.
fn waits(from: &BTreeMap<String, Instant>, to: &BTreeMap<String, Instant>) -> Vec<Duration> {
    let wait = |(name, to): (&String, &Instant)| Some(to.saturating_duration_since(*from.get(name)?));
    let mut waits: Vec<_> = to.iter().filter_map(wait).collect();
    waits.sort();
    waits
}

async fn memory(testbed: &Testbed) -> anyhow::Result<Memories> {
    let (leader, standbys) = testbed.processes().await?;
    Ok(Memories {
        leader: leader.memory()?,
        standbys: standbys
            .into_iter()
            .map(Process::memory)
            .collect::<anyhow::Result<_>>()?,
    })
}

fn after_last_name(services: &str) -> String {
    format!("{services}: last creation to last address")
}

fn giving_figures(services: &str, count: usize, rounds: &[Round]) -> Vec<Figure> {
    let goal = match count {
        1000 => Some(1.0),
        10_000 => Some(3.0),
        _ => None,
    };
    let figure = |what: &str, unit, value: fn(&Round) -> f64| {
        Figure::new(
            format!("{services}: {what}"),
            unit,
            rounds.iter().map(value).collect(),
        )
    };
    let writes = |round: &Round| round.writes.beyond_leases() as f64 / count as f64;
    let writes = Figure::new(
        format!("{services}: controller's API writes for each"),
        Unit::Count,
        rounds.iter().map(writes).collect(),
    );
    vec![
        Figure {
            name: after_last_name(services),
            ..figure("", Unit::Seconds, |round| seconds(round.after_last)).goal(goal)
        },
        figure("first creation to last address", Unit::Seconds, |round| {
            seconds(round.in_all)
        }),
        figure("creating them", Unit::Seconds, |round| seconds(round.creating)),
        figure("a Service's wait, median", Unit::Milliseconds, |round| {
            milliseconds(round.waits.get(round.waits.len() / 2))
        }),
        figure("a Service's wait, longest", Unit::Milliseconds, |round| {
            milliseconds(round.waits.last())
        }),
        figure("controller's processor time", Unit::Seconds, |round| {
            seconds(round.processor_time)
        }),
        writes,
    ]
}

fn milliseconds(wait: Option<&Duration>) -> f64 {
    wait.map_or(f64::NAN, |wait| 1000.0 * seconds(*wait))
}

/// Memory figures of one situation.
fn memory_figures(situation: &str, goal: Option<f64>, memories: &[Memories]) -> Vec<Figure> {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let figure = |what: &str, samples| Figure::new(format!("{what}, {situation}"), Unit::Megabytes, samples);
    let leaders = || memories.iter().map(|memories| memories.leader);
    let mut figures = vec![
        figure(
            "controller's memory",
            leaders().map(|memory| megabytes(memory.now)).collect(),
        )
        .goal(goal),
        figure(
            "controller's peak memory",
            leaders().map(|memory| megabytes(memory.peak)).collect(),
        ),
    ];
    let standbys = memories.iter().flat_map(|memories| &memories.standbys);
    let standbys: Vec<_> = standbys.map(|memory| megabytes(memory.now)).collect();
    if !standbys.is_empty() {
        figures.push(figure("standby's memory", standbys));
    }
    figures
}

/// Memory at the end of all measurements.
pub(super) async fn memory_now(testbed: &Testbed, situation: &str) -> anyhow::Result<Vec<Figure>> {
    let memory = memory(testbed).await.context("measure the memory")?;
    Ok(memory_figures(situation, None, &[memory]))
}
