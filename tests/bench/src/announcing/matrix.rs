//! Ownership while heartbeats are lost: for every way to lose them and every fault, the nodes that answer for the address
//! in the end, for how long two of them did, and for how long none did.
//!
//! Frames other than heartbeats pass in all rounds, as behind a firewall that blocks UDP 7947.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use lb_crds::names::SPEAKER;
use lb_e2e::client::arp;

use super::PROBE_INTERVAL;
use super::fixture::{Fixture, WEB, node_of, number};
use crate::report::{Figure, Unit};
use crate::{say, seconds};

/// Time between the loss of heartbeats and the fault: everything that must happen at once has happened.
const LOSS_BEFORE_FAULT: Duration = Duration::from_secs(5);
/// Time after a fault in which ownership must settle.
const SETTLE_TIME: Duration = Duration::from_secs(15);
/// The same after a restart of the owner's speaker: a little longer than its grace period of 60 s.
const SETTLE_TIME_RESTART: Duration = Duration::from_secs(75);
/// The nodes that answer within this time before the end are the owners.
const OWNERSHIP_WINDOW: Duration = Duration::from_secs(2);
/// An address of the large pool, for the Service that is created during the loss.
const NEW_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 200, 1);
const NEW_SERVICE: &str = "created-later";

/// Which heartbeats are lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// All.
    All,
    /// Between the owner and another node, in both directions.
    Pair,
    /// From the owner to another node.
    OneWay,
}

/// When the loss begins.
#[derive(Clone, Copy, Debug)]
enum Begin {
    /// Before the speakers start: they never hear each other.
    BeforeStart,
    /// While the speakers run.
    Running,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    NewService,
    PowerOff,
    SpeakerRestart,
    Drain,
    CableCut,
    /// The API server stops, and then the owner is switched off.
    ApiServerStopped,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all heartbeats lost",
            Self::Pair => "lost between two nodes",
            Self::OneWay => "lost from the owner to one node",
        }
    }

    /// Adds (`-I`) or deletes (`-D`) the rules.
    fn apply(self, fixture: &Fixture<'_>, change: &str, owner: &str, other: &str) -> anyhow::Result<()> {
        let lab = fixture.testbed.lab();
        let drop_from = |node: &str, from: Option<&str>| -> anyhow::Result<()> {
            let source = match from {
                Some(from) => {
                    let mac = lab.mac_address(from)?.map(|byte| format!("{byte:02x}")).join(":");
                    format!("-m mac --mac-source {mac} ")
                }
                None => String::new(),
            };
            let rule = format!("-t raw -{change} PREROUTING {source}-p udp --dport 7947 -j DROP");
            // A node that was switched off in between has lost its rules.
            let ignore = if change == "D" { "; true" } else { "" };
            let command = format!("iptables -w {rule} && ip6tables -w {rule}{ignore}");
            fixture.testbed.harness.run_on(node, &command)?;
            Ok(())
        };
        match self {
            Self::All => lab.nodes().iter().try_for_each(|node| drop_from(node, None)),
            Self::Pair => {
                drop_from(owner, Some(other))?;
                drop_from(other, Some(owner))
            }
            Self::OneWay => drop_from(other, Some(owner)),
        }
    }
}

impl Begin {
    fn name(self) -> &'static str {
        match self {
            Self::BeforeStart => "before the start",
            Self::Running => "while running",
        }
    }
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::NewService => "new Service",
            Self::PowerOff => "owner powered off",
            Self::SpeakerRestart => "owner's speaker restarts",
            Self::Drain => "owner drained",
            Self::CableCut => "owner's cable cut",
            Self::ApiServerStopped => "API server stopped, then owner powered off",
        }
    }

    const fn settle_time(self) -> Duration {
        match self {
            Self::SpeakerRestart => SETTLE_TIME_RESTART,
            Self::NewService | Self::PowerOff | Self::Drain | Self::CableCut | Self::ApiServerStopped => {
                SETTLE_TIME
            }
        }
    }

    async fn strike(self, fixture: &Fixture<'_>, owner: &str) -> anyhow::Result<()> {
        let (lab, harness) = (fixture.testbed.lab(), &fixture.testbed.harness);
        match self {
            Self::NewService => {
                harness.apply(&format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: {NEW_SERVICE}, annotations: \
                     {{metallb.universe.tf/loadBalancerIPs: {NEW_ADDRESS}}}}}\n\
                     spec: {{type: LoadBalancer, selector: {{app: {WEB}}}, ports: [{{port: 80}}]}}"
                ))?;
            }
            Self::PowerOff => lab.crash(number(owner)?)?,
            Self::SpeakerRestart => {
                let mut speakers = fixture.testbed.pods_of(SPEAKER).await?;
                speakers.retain(|pod| {
                    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                    node == Some(owner)
                });
                fixture.testbed.delete(&speakers).await?;
            }
            Self::Drain => {
                harness.admin(&format!(
                    "kubectl drain {owner} --ignore-daemonsets --delete-emptydir-data --timeout=120s"
                ))?;
            }
            Self::CableCut => lab.cut(number(owner)?)?,
            Self::ApiServerStopped => {
                lab.stop_api_server()?;
                lab.crash(number(owner)?)?;
            }
        }
        Ok(())
    }

    fn mend(self, fixture: &Fixture<'_>, owner: &str) -> anyhow::Result<()> {
        let (lab, harness) = (fixture.testbed.lab(), &fixture.testbed.harness);
        match self {
            Self::NewService => {
                harness.admin(&format!("kubectl delete service {NEW_SERVICE}"))?;
            }
            Self::SpeakerRestart => {}
            Self::Drain => {
                harness.admin(&format!("kubectl uncordon {owner}"))?;
            }
            Self::CableCut => lab.join(number(owner)?)?,
            Self::PowerOff => lab.start(number(owner)?)?,
            Self::ApiServerStopped => {
                lab.start_api_server()?;
                lab.start(number(owner)?)?;
            }
        }
        Ok(())
    }
}

/// What the client saw from the fault on.
struct Outcome {
    owners: Vec<String>,
    two_owners: Duration,
    silence: Duration,
}

/// Measures every combination whose name contains one of the texts in `cells`, separated by semicolons, once.
pub(super) async fn all(fixture: &Fixture<'_>, cells: &str) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for begin in [Begin::Running, Begin::BeforeStart] {
        for loss in [Loss::All, Loss::Pair, Loss::OneWay] {
            for fault in [
                Fault::NewService,
                Fault::PowerOff,
                Fault::SpeakerRestart,
                Fault::Drain,
                Fault::CableCut,
                Fault::ApiServerStopped,
            ] {
                let name = format!("{}, {}, {}", loss.name(), begin.name(), fault.name());
                if !cells.split(';').any(|text| name.contains(text)) {
                    continue;
                }
                let outcome = round(fixture, loss, begin, fault).await?;
                say(
                    fixture.testbed,
                    &format!(
                        "{name}: answered by {} in the end, by two for {:.2} s, by none for {:.2} s",
                        outcome.owners.join(" and "),
                        seconds(outcome.two_owners),
                        seconds(outcome.silence)
                    ),
                );
                let figure =
                    |what: &str, unit, value| Figure::new(format!("{name}: {what}"), unit, vec![value]);
                figures.push(figure("owners", Unit::Count, outcome.owners.len() as f64).goal(1.0));
                figures.push(figure("two owners", Unit::Seconds, seconds(outcome.two_owners)));
                figures.push(figure("no owner", Unit::Seconds, seconds(outcome.silence)));
            }
        }
    }
    Ok(figures)
}

async fn round(fixture: &Fixture<'_>, loss: Loss, begin: Begin, fault: Fault) -> anyhow::Result<Outcome> {
    let testbed = fixture.testbed;
    let lab = testbed.lab();
    let mut owner = fixture.settle().await?;
    let other = |owner: &str| {
        lab.nodes()
            .into_iter()
            .find(|node| node != owner)
            .unwrap_or_default()
    };
    let peer = other(&owner);
    // The rules stay those of the first owner, whichever node owns the address after a restart of all speakers.
    let blocked = owner.clone();
    loss.apply(fixture, "I", &blocked, &peer)?;
    match begin {
        Begin::Running => tokio::time::sleep(LOSS_BEFORE_FAULT).await,
        Begin::BeforeStart => {
            testbed.delete(&testbed.pods_of(SPEAKER).await?).await?;
            owner = fixture.settle().await?;
        }
    }
    let address = match fault {
        Fault::NewService => NEW_ADDRESS,
        Fault::PowerOff
        | Fault::SpeakerRestart
        | Fault::Drain
        | Fault::CableCut
        | Fault::ApiServerStopped => fixture.address,
    };
    let probe = arp::probe(lab, address, PROBE_INTERVAL)?;
    tokio::time::sleep(OWNERSHIP_WINDOW).await;

    let start = Instant::now();
    let struck = fault.strike(fixture, &owner).await;
    tokio::time::sleep(fault.settle_time()).await;
    let end = Instant::now();
    let answers = probe.end()?;
    let mended = fault.mend(fixture, &owner);
    let unblocked = loss.apply(fixture, "D", &blocked, &peer);
    struck.and(mended).and(unblocked)?;

    let window = end.checked_sub(OWNERSHIP_WINDOW).unwrap_or(start);
    let owners = answers.since(window).into_iter().map(|mac| node_of(lab, mac));
    Ok(Outcome {
        owners: owners.collect(),
        two_owners: answers.longest_dispute(start),
        silence: answers
            .times
            .longest_gap(start, end)
            .saturating_sub(PROBE_INTERVAL),
    })
}
