//! `make bench-addresses`: how fast and at what cost addresses are given and kept, ours and MetalLB's.

// What it prints is what it is for.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum as _};
use lb_e2e::bench::report::Report;
use lb_e2e::bench::stand::{Stack, Stand};
use lb_e2e::bench::{Part, Plan, allocator, measure};
use lb_e2e::stage::repository;
use tokio::task::LocalSet;

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
    /// Measure ours alone
    #[arg(long)]
    skip_peer: bool,
    /// Measure MetalLB alone
    #[arg(long, conflicts_with = "skip_peer")]
    skip_ours: bool,
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
    let shown = show(&report);
    lb_e2e::exit("bench-addresses", outcome.and(shown))
}

fn run(cli: &Cli, report: &mut Report) -> anyhow::Result<()> {
    let plan = plan(cli)?;
    // Two providers could be compiled in by dependencies; the choice is made here, once. It fails only if made before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if plan.parts.contains(&Part::Allocator) && !cli.skip_ours {
        eprintln!("ours: the allocator");
        report.ours.extend(allocator::measure(plan.rounds)?);
    }
    if !plan.needs_lab() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(LocalSet::new().run_until(async {
        if !cli.skip_ours {
            let stand = Stand::up(Stack::Ours, Duration::from_secs(cli.patience)).await?;
            measure(&stand, &plan, &mut report.ours).await.context("ours")?;
        }
        if cli.skip_peer {
            return Ok(());
        }
        let stand = Stand::up(Stack::MetalLb, Duration::from_secs(cli.peer_patience)).await?;
        measure(&stand, &plan, &mut report.peer).await.context("MetalLB")
    }))
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

fn show(report: &Report) -> anyhow::Result<()> {
    if report.ours.is_empty() && report.peer.is_empty() {
        return Ok(());
    }
    let path = repository().join("target/bench/addresses.json");
    report.save(&path)?;
    println!(
        "\n{}\nValues are medians, with the range where a measure was taken more than once. MB are 10^6 bytes. {} processors, load {}.\n\
         {}",
        report.table(),
        std::thread::available_parallelism().map_or(0, usize::from),
        load(),
        path.display()
    );
    Ok(())
}

/// The machine's load over the last minutes: what else ran here.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
