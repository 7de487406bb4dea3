//! Announcement of addresses, as a client on the LAN sees it. `make bench-announcing` measures it.
//!
//! | module | contents |
//! | --- | --- |
//! | [`fixture`] | three nodes, a Service with a pod on each, and how all of it settles |
//! | [`faults`] | the owner's cable is unplugged, the owner is switched off |
//! | [`scale`] | a node with a thousand addresses fails; memory with thousands of Services |
//! | [`maintenance`] | speakers restart, nodes are drained and excluded |
//! | [`matrix`] | every fault while heartbeats are lost |
//! | [`costs`] | processor time and response times |

pub mod costs;
pub mod faults;
pub mod fixture;
pub mod maintenance;
pub mod matrix;
pub mod scale;

use std::time::{Duration, Instant};

use super::report::Figure;
use super::say;
use super::testbed::Testbed;
use faults::Fault;
use fixture::Fixture;
pub use fixture::NODES;

/// Interval between two requests of a probe.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);

/// A part of the benchmark that can run alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Part {
    /// Memory of a speaker: idle, with 1,000 and with 10,000 Services
    Memory,
    /// Processor time of a speaker during a flood of requests for other addresses
    Flood,
    /// Response time, compared with the kernel's
    Answer,
    /// The owner's cable is unplugged
    Cut,
    /// The owner is switched off
    Power,
    /// The owner's speaker is deleted
    Speaker,
    /// All speakers restart, one after the other
    Rollout,
    /// The owner is drained
    Drain,
    /// The owner is excluded by label
    Exclude,
    /// A node with 1,000 addresses is switched off
    Scale,
    /// Every fault while heartbeats are lost; only by name, because it takes half an hour
    Matrix,
}

/// The parts to measure, and repetitions.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The parts to measure.
    pub parts: Vec<Part>,
    /// Repetitions of each failure of the owner of one address.
    pub faults: usize,
    /// Repetitions of everything else.
    pub rounds: usize,
    /// Whether to measure memory with 10,000 Services, which may take long.
    pub large: bool,
    /// Only the rounds of the matrix whose name contains this.
    pub cells: String,
}

impl Plan {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn has_any(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.has(*part))
    }
}

/// Measures one load balancer. A part that fails is reported and left out. Returns the number of failed parts.
///
/// # Errors
/// When the fixture cannot be set up.
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
    if plan.has(Part::Matrix) {
        failed += keep(testbed, figures, matrix::all(&fixture, &plan.cells).await);
    }
    if plan.has_any(&[Part::Memory, Part::Scale]) {
        failed += keep(testbed, figures, scale::all(&fixture, plan).await);
    }
    Ok(failed)
}

/// Keeps the figures of a part, or reports why it failed. Returns the number of failed parts.
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

/// Repeats a check until it succeeds, at most `within`. Whether it succeeded.
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
