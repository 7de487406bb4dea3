//! `make bench-announcing`: how addresses are answered for when something happens, and at what cost, ours and MetalLB's.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum as _};
use lb_bench::announcing::{Part, Plan, measure};
use lb_bench::report::Report;
use lb_bench::testbed::{Stack, Testbed};
use lb_bench::{Sides, announcing};

/// Measures how addresses are answered for, and compares with MetalLB. Goals that are missed are told, and are no error
#[derive(Debug, Parser)]
#[command(name = "bench-announcing")]
struct Cli {
    /// Measure only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    #[command(flatten)]
    sides: Sides,
    /// How often the owner of an address is hit by each fault
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..))]
    times: u8,
    /// The same for MetalLB, where each takes long
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    peer_times: u8,
    /// How often everything else is done
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Measure MetalLB's memory with 10,000 Services too: it gives out the addresses for a quarter of an hour
    #[arg(long)]
    peer_most: bool,
    /// Seconds to wait for addresses to be given and answered for
    #[arg(long, default_value_t = 300)]
    patience: u64,
    /// The same for MetalLB, which takes longer
    #[arg(long, default_value_t = 1200)]
    peer_patience: u64,
}

fn main() -> ExitCode {
    let mut report = Report::default();
    let outcome = run(&Cli::parse(), &mut report);
    // What was measured before an error is worth showing.
    let shown = report.publish("announcing");
    lb_lab::exit("bench-announcing", outcome.and(shown))
}

fn run(cli: &Cli, report: &mut Report) -> anyhow::Result<()> {
    lb_bench::run(async {
        let mut failed = 0;
        for stack in cli.sides.stacks() {
            let testbed = Testbed::up(
                stack,
                &cli.sides.lab(stack),
                announcing::NODES,
                cli.patience(stack),
            )
            .await?;
            failed += measure(&testbed, &cli.plan(stack), report.of(stack))
                .await
                .context(stack.name())?;
        }
        if failed > 0 {
            bail!("{failed} parts could not be measured");
        }
        Ok(())
    })
}

impl Cli {
    fn plan(&self, stack: Stack) -> Plan {
        let parts = if self.only.is_empty() {
            Part::value_variants().to_vec()
        } else {
            self.only.clone()
        };
        let (faults, most) = match stack {
            Stack::Ours => (self.times, true),
            Stack::MetalLb => (self.peer_times, self.peer_most),
        };
        Plan {
            parts,
            faults: faults.into(),
            rounds: self.rounds.into(),
            most,
        }
    }

    fn patience(&self, stack: Stack) -> Duration {
        Duration::from_secs(match stack {
            Stack::Ours => self.patience,
            Stack::MetalLb => self.peer_patience,
        })
    }
}
