//! Benchmarks: ours and MetalLB, in labs that are alike. `make bench-addresses` and `make bench-announcing` run them.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`testbed`] | a lab with a load balancer in it |
//! | [`services`] | Services by the thousand, and when each got its address |
//! | [`report`] | the table and the list |
//! | [`addresses`] | measures: giving addresses, and keeping them |
//! | [`announcing`] | measures: answering for addresses |

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

/// Which load balancers are measured, and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Sides {
    /// Measure ours alone
    #[arg(long)]
    skip_peer: bool,
    /// Measure MetalLB alone
    #[arg(long, conflicts_with = "skip_peer")]
    skip_ours: bool,
    /// The labs are called <NAME>-ours and <NAME>-peer. Benchmarks that run at a time need names of their own
    #[arg(long, value_name = "NAME", default_value = "bench")]
    lab: String,
}

impl Sides {
    /// Those that are to be measured.
    #[must_use]
    pub fn stacks(&self) -> Vec<Stack> {
        let mut stacks = Vec::new();
        if !self.skip_ours {
            stacks.push(Stack::Ours);
        }
        if !self.skip_peer {
            stacks.push(Stack::MetalLb);
        }
        stacks
    }

    /// The name of the lab of one.
    #[must_use]
    pub fn lab(&self, stack: Stack) -> String {
        match stack {
            Stack::Ours => format!("{}-ours", self.lab),
            Stack::MetalLb => format!("{}-peer", self.lab),
        }
    }
}

/// Runs a benchmark to its end on this thread, which is where a [`Testbed`] lives.
///
/// # Errors
/// When the runtime does not start, and the benchmark's own.
pub fn run(benchmark: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // Two providers could be compiled in by dependencies; the choice is made here, once. It fails only if made before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(LocalSet::new().run_until(benchmark))
}

/// Tells whoever waits where the benchmark is.
fn say(testbed: &Testbed, what: &str) {
    eprintln!("{}: {what}", testbed.stack.name());
}

/// In seconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
