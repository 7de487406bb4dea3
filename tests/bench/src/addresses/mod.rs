//! How addresses are given and kept. `make bench-addresses` measures it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`writes`] | what a controller writes to the API |
//! | [`giving`] | measures: giving addresses to many Services |
//! | [`keeping`] | measures: rest, hand-over and restart with many Services |
//! | [`allocator`] | measure: the allocator by itself |

pub mod allocate;
pub mod allocator;
pub mod steady_state;
pub mod writes;

use std::time::{Duration, Instant};

use super::report::Figure;
use super::testbed::{Stack, Testbed};
use super::{say, services};
use lb_e2e::harness::{LONG_TIMEOUT, eventually};

/// What takes longer than this is not measured again.
const COSTLY: Duration = Duration::from_secs(100);
/// How many Services the goals of hand-over, restart and rest are for.
const MANY: usize = 10_000;

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Part {
    /// The allocator, without a cluster
    Allocator,
    /// Giving addresses to many Services at once
    Giving,
    /// Memory of the controller
    Memory,
    /// API writes while nothing happens
    Rest,
    /// The leader is deleted
    HandOver,
    /// All controllers are deleted
    Restart,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Numbers of Services, ascending.
    pub sizes: Vec<usize>,
    /// Which measures.
    pub parts: Vec<Part>,
    /// How often one is taken that does not take long.
    pub rounds: usize,
}

impl Plan {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Whether any of it needs a cluster.
    #[must_use]
    pub fn needs_lab(&self) -> bool {
        self.parts.iter().any(|part| *part != Part::Allocator)
    }
}

/// A lab of one node, the controller's writes counted, and a pool with room for 65,536 Services, as has the lab's range
/// of cluster addresses.
///
/// # Errors
/// When a part of it does not come up.
pub async fn testbed(stack: Stack, lab: &str, patience: Duration) -> anyhow::Result<Testbed> {
    let testbed = Testbed::up(stack, lab, 1, patience).await?;
    writes::count(&testbed.harness)?;
    // MetalLB takes pools only once its webhook is up.
    eventually("the pool to be taken", LONG_TIMEOUT, || {
        Ok(testbed.harness.apply_pool("bench", "10.0.0.0/16").ok())
    })?;
    Ok(testbed)
}

/// Measures one load balancer, from few Services to many: each size begins with none.
///
/// # Errors
/// When it does not do what it should; what was measured until then is in `figures`.
pub async fn measure(testbed: &Testbed, plan: &Plan, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    if plan.has(Part::Memory) {
        say(testbed, "idle");
        figures.extend(allocate::idle(testbed).await?);
    }
    for (index, size) in plan.sizes.iter().enumerate() {
        let is_last = index + 1 == plan.sizes.len();
        // What is only measured with most Services needs no others.
        if !is_last && !plan.has(Part::Giving) && !plan.has(Part::Memory) {
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

/// Measures again and again, as often as the plan says or until it takes too long. The action is told which round it is.
async fn repeat<T>(
    plan: &Plan,
    mut act: impl AsyncFnMut(usize) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<T>> {
    let mut results = Vec::new();
    for number in 1..=plan.rounds {
        let start = Instant::now();
        results.push(act(number).await?);
        if start.elapsed() > COSTLY {
            break;
        }
    }
    Ok(results)
}
