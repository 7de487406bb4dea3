//! Benchmarks that compare this project with MetalLB in equal labs. `make bench-addresses` and `make bench-announcing`
//! run them.
//!
//! | module | contents |
//! | --- | --- |
//! | [`testbed`] | a lab with a load balancer |
//! | [`services`] | thousands of Services, and the time when each got its address |
//! | [`report`] | the table and the JSON list of figures |
//! | [`addresses`] | assignment of addresses |
//! | [`announcing`] | announcement of addresses |

// Support for people at a terminal: output goes there.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

pub mod addresses;
pub mod announcing;
pub mod report;
pub mod services;
pub mod testbed;

use std::time::Duration;

use anyhow::Context;
use tokio::task::LocalSet;

use testbed::{Stack, Testbed};

/// The load balancers to measure, and their labs.
#[derive(Clone, Debug, clap::Args)]
pub struct Selection {
    /// Measure only lb-operator
    #[arg(long, alias = "skip-peer")]
    skip_metallb: bool,
    /// Measure only MetalLB
    #[arg(long, conflicts_with = "skip_metallb")]
    skip_ours: bool,
    /// The labs are called <NAME>-ours and <NAME>-metallb. Benchmarks that run at the same time need different names
    #[arg(long, value_name = "NAME", default_value = "bench")]
    lab: String,
}

impl Selection {
    /// The load balancers to measure.
    #[must_use]
    pub fn stacks(&self) -> Vec<Stack> {
        let mut stacks = Vec::new();
        if !self.skip_ours {
            stacks.push(Stack::Ours);
        }
        if !self.skip_metallb {
            stacks.push(Stack::MetalLb);
        }
        stacks
    }

    /// The name of a load balancer's lab.
    #[must_use]
    pub fn lab(&self, stack: Stack) -> String {
        match stack {
            Stack::Ours => format!("{}-ours", self.lab),
            Stack::MetalLb => format!("{}-metallb", self.lab),
        }
    }
}

/// Runs a benchmark on this thread, which a [`Testbed`] needs.
///
/// # Errors
/// When the runtime does not start, and those of the benchmark.
pub fn run(benchmark: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // Dependencies may compile in two providers. This fails only if one has been installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(LocalSet::new().run_until(benchmark))
}

/// Prints progress.
fn say(testbed: &Testbed, what: &str) {
    eprintln!("{}: {what}", testbed.stack.name());
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
