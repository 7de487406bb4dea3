//! How addresses are answered for, seen by a client on the LAN. `make bench-announcing` measures it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`fixture`] | three nodes, a Service with a pod on each, and how all of it comes to rest |
//! | [`faults`] | measures: the owner's cable is cut, the owner loses power |
//! | [`many`] | measures: a node dies that has a thousand addresses; memory with Services by the thousand |
//! | [`maintenance`] | measures: speakers restart, nodes are drained and excluded |
//! | [`costs`] | measures: processor time, and how long an answer takes |

pub mod costs;
pub mod faults;
pub mod fixture;
pub mod maintenance;
pub mod scale;

use std::time::{Duration, Instant};

use super::report::Figure;
use super::say;
use super::testbed::Testbed;
use faults::Fault;
use fixture::Fixture;
pub use fixture::NODES;

/// Between one question of a probe and the next.
const PERIOD: Duration = Duration::from_millis(10);

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Part {
    /// Memory of a speaker: idle, with 1,000 and with 10,000 Services
    Memory,
    /// Processor time of a speaker while others ask for what it does not have
    Flood,
    /// How long an answer takes, beside the kernel's own
    Answer,
    /// The owner's cable is cut
    Cut,
    /// The owner loses power
    Power,
    /// The owner's speaker is deleted
    Speaker,
    /// All speakers are restarted, one after the other
    Rollout,
    /// The owner is drained
    Drain,
    /// The owner is excluded by label
    Exclude,
    /// A node with 1,000 addresses loses power
    Many,
}

/// What to measure, and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which measures.
    pub parts: Vec<Part>,
    /// How often the owner of one address is hit by each fault.
    pub faults: usize,
    /// How often everything else is done.
    pub rounds: usize,
    /// Whether memory is measured with 10,000 Services too, which may take long.
    pub most: bool,
}

impl Plan {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn has_any(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.has(*part))
    }
}

/// Measures one load balancer. A part that fails is told and left out, and the rest goes on. Returns how many failed.
///
/// # Errors
/// When the load balancer does not even come to its place.
pub async fn measure(testbed: &Testbed, plan: &Plan, figures: &mut Vec<Figure>) -> anyhow::Result<usize> {
    let mut failed = 0;
    let fixture = Fixture::set(testbed).await?;
    if plan.has(Part::Memory) {
        say(testbed, "memory, idle");
        failed += keep(testbed, figures, costs::memory(testbed, "idle", Some(10.0)).await);
    }
    fixture.serve()?;
    if plan.has(Part::Flood) {
        failed += keep(testbed, figures, costs::flood(&fixture, "").await);
    }
    if plan.has(Part::Answer) {
        failed += keep(testbed, figures, costs::answer(&fixture).await);
    }
    for (part, fault) in [(Part::Cut, Fault::Cut), (Part::Power, Fault::Power)] {
        if plan.has(part) {
            failed += keep(testbed, figures, faults::all(&fixture, fault, plan.faults).await);
        }
    }
    for (part, work) in [
        (Part::Speaker, maintenance::Work::Speaker),
        (Part::Rollout, maintenance::Work::Rollout),
        (Part::Drain, maintenance::Work::Drain),
        (Part::Exclude, maintenance::Work::Exclude),
    ] {
        if plan.has(part) {
            failed += keep(
                testbed,
                figures,
                maintenance::all(&fixture, work, plan.rounds).await,
            );
        }
    }
    if plan.has_any(&[Part::Memory, Part::Many]) {
        failed += keep(testbed, figures, scale::all(&fixture, plan).await);
    }
    Ok(failed)
}

/// Keeps the figures of a part, or tells why there are none. Returns how many parts failed.
fn keep(testbed: &Testbed, figures: &mut Vec<Figure>, outcome: anyhow::Result<Vec<Figure>>) -> usize {
    match outcome {
        Ok(more) => {
            figures.extend(more);
            0
        }
        Err(error) => {
            say(testbed, &format!("NOT MEASURED: {error:#}"));
            1
        }
    }
}

/// Looks at something again and again until it is so, and no longer than this. Whether it is.
async fn until(within: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > within {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}
