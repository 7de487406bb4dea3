//! How addresses are given, measured: ours and MetalLB's, in labs that are alike. `make bench-addresses` runs it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`stand`] | a lab with a load balancer in it |
//! | [`services`] | Services by the thousand, and when each got its address |
//! | [`process`] | memory and processor time of a controller |
//! | [`writes`] | what a controller writes to the API |
//! | [`giving`] | measures: giving addresses to many Services |
//! | [`keeping`] | measures: rest, hand-over and restart with many Services |
//! | [`allocator`] | measure: the allocator by itself |
//! | [`report`] | the table and the list |

pub mod allocator;
pub mod giving;
pub mod keeping;
pub mod process;
pub mod report;
pub mod services;
pub mod stand;
pub mod writes;

use std::time::{Duration, Instant};

use report::Figure;
use stand::Stand;

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

/// Measures one load balancer, from few Services to many: each size begins with none.
///
/// # Errors
/// When it does not do what it should; what was measured until then is in `figures`.
pub async fn measure(stand: &Stand, plan: &Plan, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    if plan.has(Part::Memory) {
        say(stand, "idle");
        figures.extend(giving::idle(stand).await?);
    }
    for (index, size) in plan.sizes.iter().enumerate() {
        let is_last = index + 1 == plan.sizes.len();
        // What is only measured with most Services needs no others.
        if !is_last && !plan.has(Part::Giving) && !plan.has(Part::Memory) {
            continue;
        }
        let names = services::names(*size);
        if !giving::many(stand, plan, &names, figures).await? {
            return Ok(());
        }
        if is_last {
            keeping::all(stand, plan, &names, figures).await?;
        } else {
            giving::remove(stand, &names).await?;
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

/// Tells whoever waits where the benchmark is.
fn say(stand: &Stand, what: &str) {
    eprintln!("{}: {what}", stand.stack.name());
}

/// In seconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
