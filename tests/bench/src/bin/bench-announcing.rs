//! `make bench-announcing`: measures the announcement of addresses by lb-operator and MetalLB, during failures and
//! maintenance.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum as _};
use lb_bench::announcing::{Part, Plan, measure};
use lb_bench::report::Report;
use lb_bench::testbed::{Stack, Testbed};
use lb_bench::{Selection, announcing};

/// Measures the announcement of addresses, and compares with MetalLB. A missed goal is reported and is not an error
#[derive(Debug, Parser)]
#[command(name = "bench-announcing")]
struct Cli {
    /// Measure only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    #[command(flatten)]
    selection: Selection,
    /// Repetitions of each failure of an address's owner
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..))]
    times: u8,
    /// The same for MetalLB, where each takes long
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    metallb_times: u8,
    /// Repetitions of everything else
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Of the matrix, measure only the rounds whose name contains one of these texts
    #[arg(long, default_value = "", value_name = "TEXT;TEXT")]
    cells: String,
    /// Measure MetalLB's memory with 10,000 Services too: it takes a quarter of an hour to assign their addresses
    #[arg(long)]
    metallb_large: bool,
    /// Timeout for addresses to be assigned and announced, in seconds
    #[arg(long, alias = "patience", default_value_t = 300)]
    timeout: u64,
    /// The same for MetalLB, which takes longer
    #[arg(long, default_value_t = 1200)]
    metallb_timeout: u64,
}

fn main() -> ExitCode {
    let mut report = Report::default();
    let outcome = run(&Cli::parse(), &mut report);
    // Figures measured before an error are shown too.
    let shown = report.publish("announcing");
    lb_lab::exit("bench-announcing", outcome.and(shown))
}

fn run(cli: &Cli, report: &mut Report) -> anyhow::Result<()> {
    lb_bench::run(async {
        let mut failed = 0;
        for stack in cli.selection.stacks() {
            let testbed = Testbed::up(
                stack,
                &cli.selection.lab(stack),
                announcing::NODES,
                cli.timeout(stack),
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
            let all = Part::value_variants().iter();
            all.copied().filter(|part| *part != Part::Matrix).collect()
        } else {
            self.only.clone()
        };
        let (faults, large) = match stack {
            Stack::Ours => (self.times, true),
            Stack::MetalLb => (self.metallb_times, self.metallb_large),
        };
        Plan {
            parts,
            faults: faults.into(),
            rounds: self.rounds.into(),
            large,
            cells: self.cells.clone(),
        }
    }

    fn timeout(&self, stack: Stack) -> Duration {
        Duration::from_secs(match stack {
            Stack::Ours => self.timeout,
            Stack::MetalLb => self.metallb_timeout,
        })
    }
}
