//! `make bench-addresses`: how fast and at what cost addresses are given and kept, ours and MetalLB's.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum as _};
use lb_bench::Sides;
use lb_bench::addresses::{self, Part, Plan, allocator, measure};
use lb_bench::report::Report;
use lb_bench::testbed::Stack;

/// Measures how addresses are given and kept, and compares with MetalLB. Goals that are missed are told, and are no error
#[derive(Debug, Parser)]
#[command(name = "bench-addresses")]
struct Cli {
    /// Numbers of Services
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    sizes: Vec<usize>,
    /// Measure only this part; may be given more than once
    #[arg(long)]
    only: Vec<Part>,
    #[command(flatten)]
    sides: Sides,
    /// How often a measure is taken that does not take long
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Seconds to wait for what may take long
    #[arg(long, default_value_t = 300)]
    patience: u64,
    /// The same for MetalLB, which takes longer
    #[arg(long, default_value_t = 900)]
    peer_patience: u64,
}

fn main() -> ExitCode {
    let mut report = Report::default();
    let outcome = run(&Cli::parse(), &mut report);
    // What was measured before an error is worth showing.
    let shown = report.publish("addresses");
    lb_lab::exit("bench-addresses", outcome.and(shown))
}

fn run(cli: &Cli, report: &mut Report) -> anyhow::Result<()> {
    let plan = plan(cli)?;
    let stacks = cli.sides.stacks();
    if plan.parts.contains(&Part::Allocator) && stacks.contains(&Stack::Ours) {
        eprintln!("ours: the allocator");
        report.ours.extend(allocator::measure(plan.rounds)?);
    }
    if !plan.needs_lab() {
        return Ok(());
    }
    lb_bench::run(async {
        for stack in stacks {
            let patience = match stack {
                Stack::Ours => cli.patience,
                Stack::MetalLb => cli.peer_patience,
            };
            let testbed =
                addresses::testbed(stack, &cli.sides.lab(stack), Duration::from_secs(patience)).await?;
            measure(&testbed, &plan, report.of(stack))
                .await
                .context(stack.name())?;
        }
        Ok(())
    })
}

fn plan(cli: &Cli) -> anyhow::Result<Plan> {
    let mut sizes = cli.sizes.clone();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.first() == Some(&0) || sizes.last().is_some_and(|most| *most > 60_000) {
        bail!("--sizes are from 1 to 60000: the pool has room for no more");
    }
    let parts = if cli.only.is_empty() {
        Part::value_variants().to_vec()
    } else {
        cli.only.clone()
    };
    Ok(Plan {
        sizes,
        parts,
        rounds: cli.rounds.into(),
    })
}
