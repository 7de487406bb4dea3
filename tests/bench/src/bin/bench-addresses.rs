//! `make bench-addresses`: measures address assignment of lb-operator and MetalLB.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum as _};
use lb_bench::Selection;
use lb_bench::addresses::{self, Part, Plan, allocator, measure};
use lb_bench::report::Report;
use lb_bench::testbed::Stack;

/// Measures address assignment, and compares with MetalLB. A missed goal is reported and is not an error
#[derive(Debug, Parser)]
#[command(name = "bench-addresses")]
struct Cli {
    /// Numbers of Services
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    sizes: Vec<usize>,
    /// Measure only this part; may be repeated
    #[arg(long)]
    only: Vec<Part>,
    #[command(flatten)]
    selection: Selection,
    /// Repetitions of measurements that do not take long
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Timeout of slow operations, in seconds
    #[arg(long, alias = "patience", default_value_t = 300)]
    timeout: u64,
    /// The same for MetalLB, which takes longer
    #[arg(long, default_value_t = 900)]
    metallb_timeout: u64,
}

fn main() -> ExitCode {
    let mut report = Report::default();
    let outcome = run(&Cli::parse(), &mut report);
    // Figures measured before an error are shown too.
    let shown = report.publish("addresses");
    lb_lab::exit("bench-addresses", outcome.and(shown))
}

fn run(cli: &Cli, report: &mut Report) -> anyhow::Result<()> {
    let plan = plan(cli)?;
    let stacks = cli.selection.stacks();
    if plan.parts.contains(&Part::Allocator) && stacks.contains(&Stack::Ours) {
        eprintln!("ours: the allocator");
        report.ours.extend(allocator::measure(plan.rounds)?);
    }
    if !plan.needs_lab() {
        return Ok(());
    }
    lb_bench::run(async {
        for stack in stacks {
            let timeout = match stack {
                Stack::Ours => cli.timeout,
                Stack::MetalLb => cli.metallb_timeout,
            };
            let testbed =
                addresses::testbed(stack, &cli.selection.lab(stack), Duration::from_secs(timeout)).await?;
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
        bail!("--sizes must be 1 to 60000: the pool has no room for more");
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
