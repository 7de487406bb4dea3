//! Assignment of addresses. `make bench-addresses` measures it.
//!
//! | module | contents |
//! | --- | --- |
//! | [`writes`] | the controller's writes to the API |
//! | [`allocate`] | addresses for many Services |
//! | [`steady_state`] | rest, hand-over and restart with many Services |
//! | [`allocator`] | the allocator alone |

pub mod allocate;
pub mod allocator;
pub mod steady_state;
pub mod writes;

use std::time::{Duration, Instant};

use super::report::Figure;
use super::testbed::{Stack, Testbed};
use super::{say, services};
use lb_e2e::harness::{LONG_TIMEOUT, eventually};

/// A measurement that takes longer is not repeated.
const MAX_REPEATED_DURATION: Duration = Duration::from_secs(100);
/// Number of Services for the goals of hand-over, restart and rest.
const MANY: usize = 10_000;

/// A part of the benchmark that can run alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Part {
    /// The allocator, without a cluster
    Allocator,
    /// Assigning addresses to many Services at once
    Assign,
    /// Memory of the controller
    Memory,
    /// API writes at rest
    Rest,
    /// The leader is deleted
    HandOver,
    /// All controllers are deleted
    Restart,
}

/// The parts to measure, and repetitions.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Numbers of Services, ascending.
    pub sizes: Vec<usize>,
    /// The parts to measure.
    pub parts: Vec<Part>,
    /// Repetitions of measurements that do not take long.
    pub rounds: usize,
}

impl Plan {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Whether a part needs a cluster.
    #[must_use]
    pub fn needs_lab(&self) -> bool {
        self.parts.iter().any(|part| *part != Part::Allocator)
    }
}

/// A lab of one node, with counted API writes and a pool for 65,536 Services, as many as the lab's range of cluster
/// addresses allows.
///
/// # Errors
/// When a part does not start.
pub async fn testbed(stack: Stack, lab: &str, timeout: Duration) -> anyhow::Result<Testbed> {
    let testbed = Testbed::up(stack, lab, 1, timeout).await?;
    writes::count(&testbed.harness)?;
    // MetalLB accepts pools only when its webhook is ready.
    eventually("MetalLB to accept the pool", LONG_TIMEOUT, || {
        Ok(testbed.harness.apply_pool("bench", "10.0.0.0/16").ok())
    })?;
    Ok(testbed)
}

/// Measures one load balancer, from few Services to many. Each size starts without Services.
///
/// # Errors
/// When it misbehaves; `figures` has the results so far.
pub async fn measure(testbed: &Testbed, plan: &Plan, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    if plan.has(Part::Memory) {
        say(testbed, "idle");
        figures.extend(allocate::idle(testbed).await?);
    }
    for (index, size) in plan.sizes.iter().enumerate() {
        let is_last = index + 1 == plan.sizes.len();
        // The other parts are measured with the largest number only.
        if !is_last && !plan.has(Part::Assign) && !plan.has(Part::Memory) {
            continue;
        }
        let names = services::names(*size);
        if !allocate::many(testbed, plan, &names, figures).await? {
            return Ok(());
        }
        if is_last {
            steady_state::all(testbed, plan, &names, figures).await?;
        } else {
            allocate::remove(testbed, &names).await?;
        }
    }
    Ok(())
}

/// Repeats a measurement as often as planned or until it takes too long. `action` gets the number of the round.
async fn repeat<T>(
    plan: &Plan,
    mut act: impl AsyncFnMut(usize) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<T>> {
    let mut results = Vec::new();
    for number in 1..=plan.rounds {
        let start = Instant::now();
        results.push(act(number).await?);
        if start.elapsed() > MAX_REPEATED_DURATION {
            break;
        }
    }
    Ok(results)
}
