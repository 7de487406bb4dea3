//! Maintenance by administrators, as a client sees it: speakers restart, nodes are drained and excluded.

use std::time::{Duration, Instant};

use anyhow::Context;
use lb_crds::names::{LABEL_EXCLUDE, NAMESPACE, SPEAKER};

use super::PROBE_INTERVAL;
use super::fixture::Fixture;
use crate::report::{Figure, Unit};
use crate::{say, seconds};
use lb_e2e::client::{arp, connections, http};

/// Connections that the client holds open.
const CONNECTIONS: usize = 30;
/// Time for the client before and after the work, because some effects come late.
const MARGIN: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(10);

/// A task of an administrator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Work {
    /// The owner's speaker is deleted and replaced.
    Speaker,
    /// All speakers restart, one after the other.
    Rollout,
    /// The owner is drained.
    Drain,
    /// The owner is excluded by label.
    Exclude,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Speaker => "owner's speaker deleted",
            Self::Rollout => "all speakers restarted",
            Self::Drain => "owner drained",
            Self::Exclude => "owner excluded by label",
        }
    }

    /// Whether the address has no reason to move.
    fn stays(self) -> bool {
        match self {
            Self::Speaker | Self::Rollout => true,
            Self::Drain | Self::Exclude => false,
        }
    }

    async fn begin(self, fixture: &Fixture<'_>, owner: &str) -> anyhow::Result<()> {
        let harness = &fixture.testbed.harness;
        match self {
            Self::Speaker => {
                let mut speakers = fixture.testbed.pods_of(SPEAKER).await?;
                speakers.retain(|pod| {
                    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                    node == Some(owner)
                });
                fixture.testbed.delete(&speakers).await?;
                fixture.all_run().await?;
            }
            Self::Rollout => {
                let daemon_set = format!("-n {NAMESPACE} daemonset/{SPEAKER}");
                harness.admin(&format!("kubectl rollout restart {daemon_set}"))?;
                harness.admin(&format!("kubectl rollout status {daemon_set} --timeout=240s"))?;
                fixture.all_run().await?;
            }
            Self::Drain => {
                harness.admin(&format!(
                    "kubectl drain {owner} --ignore-daemonsets --delete-emptydir-data --timeout=120s"
                ))?;
            }
            Self::Exclude => {
                harness.admin(&format!("kubectl label node {owner} {LABEL_EXCLUDE}="))?;
            }
        }
        Ok(())
    }

    fn end(self, fixture: &Fixture<'_>, owner: &str) -> anyhow::Result<()> {
        let harness = &fixture.testbed.harness;
        match self {
            Self::Speaker | Self::Rollout => {}
            Self::Drain => {
                harness.admin(&format!("kubectl uncordon {owner}"))?;
            }
            Self::Exclude => {
                harness.admin(&format!("kubectl label node {owner} {LABEL_EXCLUDE}-"))?;
            }
        }
        Ok(())
    }
}

/// Results of one round.
struct Round {
    /// Held connections that broke.
    broken: usize,
    /// Requests without an answer.
    lost: usize,
    /// The longest time without an ARP reply.
    silence: Duration,
}

/// Does the work `times` times, each time to the current owner.
pub(super) async fn all(fixture: &Fixture<'_>, work: Work, times: usize) -> anyhow::Result<Vec<Figure>> {
    let mut rounds = Vec::new();
    for index in 1..=times {
        rounds.push(round(fixture, work, &format!("{index} of {times}")).await?);
    }
    let figure = |what: &str, unit, value: fn(&Round) -> f64| {
        let values = rounds.iter().map(value).collect();
        Figure::new(format!("{}: {what}", work.name()), unit, values)
    };
    let stays = |goal: f64| work.stays().then_some(goal);
    Ok(vec![
        figure(
            &format!("connections broken, of {CONNECTIONS}"),
            Unit::Count,
            |round| round.broken as f64,
        )
        .goal(stays(0.0)),
        figure("requests lost", Unit::Count, |round| round.lost as f64).goal(0.0),
        figure("longest without answer for ARP", Unit::Seconds, |round| {
            seconds(round.silence)
        })
        .goal(stays(1.0)),
    ])
}

async fn round(fixture: &Fixture<'_>, work: Work, which: &str) -> anyhow::Result<Round> {
    let lab = fixture.testbed.lab();
    let owner = fixture.settle().await?;
    let held = connections::hold(lab, fixture.address, CONNECTIONS)?;
    let by_http = http::probe(lab, fixture.address, PROBE_INTERVAL, http::REQUEST_TIMEOUT)?;
    let by_arp = arp::probe(lab, fixture.address, PROBE_INTERVAL)?;
    tokio::time::sleep(MARGIN).await;

    let start = Instant::now();
    let begun = work.begin(fixture, &owner).await;
    let took = start.elapsed();
    tokio::time::sleep(AFTER).await;
    let end = Instant::now();
    let (held, by_http, by_arp) = (held.end()?, by_http.end()?, by_arp.end()?);
    let ended = work.end(fixture, &owner);
    begun
        .and(ended)
        .with_context(|| format!("{}, {which}", work.name()))?;

    let round = Round {
        broken: held.broken.len() + held.refused,
        lost: by_http.lost(),
        silence: by_arp
            .times
            .longest_gap(start, end)
            .saturating_sub(PROBE_INTERVAL),
    };
    say(
        fixture.testbed,
        &format!(
            "{}, {which}: {owner}, in {:.1} s: {} of {} connections broken, the others waited {:.3} s at large, {} of {} requests \
             lost {:?}, ARP {:.3} s",
            work.name(),
            seconds(took),
            held.broken.len(),
            held.opened,
            seconds(held.stall),
            by_http.lost(),
            by_http.begun,
            by_http.lost,
            seconds(round.silence)
        ),
    );
    Ok(round)
}
