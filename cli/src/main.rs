//! `kubectl lb`: shows what the load balancer does and why, and what to change.
//!
//! [`snapshot`] reads the cluster once, with the rights of the user; everything after it is pure. [`cluster`] decides with
//! the same code as controller and speakers, so that the answers are theirs.

mod addresses;
mod args;
mod check;
mod cluster;
mod connection;
mod docs;
mod drain;
mod nodes;
mod pools;
mod remedy;
mod report;
mod snapshot;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod version;
mod why;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command, Format, Global};
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::snapshot::{Scope, Snapshot};
use crate::target::Target;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(error.into()),
    };
    result.unwrap_or_else(|error| {
        report::note(&format!("error: {error:#}"));
        ExitCode::from(report::COULD_NOT_LOOK)
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    let format = global.output;
    if format == Some(Format::Junit) && !matches!(cli.command, Command::Check { .. }) {
        bail!("-o junit is for check only");
    }
    match cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            let shell = clap_complete::Shell::from(shell);
            clap_complete::generate(shell, &mut Cli::command(), "kubectl-lb", &mut script);
            report::write(&String::from_utf8(script)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Version { client: true } => report::print(&version::client(), format),
        Command::Version { client: false } => {
            let (_, snapshot) = look(global, Scope::Stack).await?;
            report::print(&version::versions(&snapshot), format)
        }
        Command::Why { target } => why(global, &target).await,
        Command::Status { wait, timeout } => status(global, wait.then(|| Duration::from_secs(timeout))).await,
        Command::Check { pre } => check(global, pre).await,
        Command::Addresses { problems, node, pool } => {
            let (connection, snapshot) = look(global, Scope::All).await?;
            let filter = addresses::Filter {
                // As `kubectl get`, but without -n all namespaces: addresses are the cluster's.
                namespace: global.namespace.clone().map(|_| connection.namespace),
                node,
                pool,
                problems,
            };
            report::print(&addresses::list(&Cluster::new(&snapshot), &filter), format)
        }
        Command::Pools => {
            let (_, snapshot) = look(global, Scope::All).await?;
            report::print(&pools::pools(&Cluster::new(&snapshot)), format)
        }
        Command::Drain { node } => {
            let (_, snapshot) = look(global, Scope::All).await?;
            match drain::drain(&Cluster::new(&snapshot), &node) {
                Some(drain) => report::print(&drain, format),
                None => bail!("there is no node {node:?}"),
            }
        }
        Command::Nodes => {
            let (_, snapshot) = look(global, Scope::All).await?;
            report::print(&nodes::nodes(&Cluster::new(&snapshot)), format)
        }
    }
}

/// Connects and reads the cluster.
async fn look(global: &Global, scope: Scope) -> anyhow::Result<(Connection, Snapshot)> {
    let connection = connection::connect(global).await?;
    let snapshot = snapshot::read(&connection.client, &scope).await?;
    if let Some(warning) = version::skew(&snapshot) {
        report::note(&warning);
    }
    Ok((connection, snapshot))
}

/// How often `status --wait` looks.
const WAIT_INTERVAL: Duration = Duration::from_secs(2);

async fn status(global: &Global, wait: Option<Duration>) -> anyhow::Result<ExitCode> {
    let connection = connection::connect(global).await?;
    let start = Instant::now();
    let mut shown = String::new();
    loop {
        let snapshot = snapshot::read(&connection.client, &Scope::All).await?;
        let status = status::status(&Cluster::new(&snapshot));
        if status.is_ready() || wait.is_none_or(|wait| start.elapsed() >= wait) {
            if let Some(warning) = version::skew(&snapshot) {
                report::note(&warning);
            }
            return report::print(&status, global.output);
        }
        let line = status.line();
        if line != shown {
            report::note(&line);
            shown = line;
        }
        tokio::time::sleep(WAIT_INTERVAL).await;
    }
}

async fn check(global: &Global, pre: bool) -> anyhow::Result<ExitCode> {
    let scope = if pre { Scope::Stack } else { Scope::All };
    let (connection, snapshot) = look(global, scope).await?;
    let check = match pre {
        true => check::before_installation(&connection.client, snapshot.stack()).await?,
        false => check::findings(&Cluster::new(&snapshot)),
    };
    if global.output == Some(Format::Junit) {
        report::write(&check.junit())?;
        return Ok(report::code(&check));
    }
    report::print(&check, global.output)
}

async fn why(global: &Global, text: &str) -> anyhow::Result<ExitCode> {
    let connection = connection::connect(global).await?;
    let target = Target::parse(text, &connection.namespace);
    let scope = match &target {
        Target::Service(key) => Scope::One(key.clone()),
        Target::Address(_) => Scope::All,
    };
    let mut snapshot = snapshot::read(&connection.client, &scope).await?;
    if let Some(warning) = version::skew(&snapshot) {
        report::note(&warning);
    }
    let pending = |service: &&_| snapshot::addresses(service).is_empty();
    if scope != Scope::All && target.services(&snapshot).iter().any(pending) {
        // Which other Services could free an address depends on their endpoints.
        snapshot = snapshot::read(&connection.client, &Scope::All).await?;
    }
    let services = target.services(&snapshot);
    let cluster = Cluster::new(&snapshot);
    match (&target, services.as_slice()) {
        (Target::Service(key), []) => bail!(
            "there is no Service {key}: name its namespace with -n, or as NAMESPACE/NAME{}",
            snapshot
                .unread
                .iter()
                .map(|one| format!("; {one}"))
                .collect::<String>()
        ),
        (Target::Address(address), []) => {
            report::print(&why::explain_unused(&cluster, *address), global.output)
        }
        (_, services) => {
            let mut code = ExitCode::SUCCESS;
            for service in services {
                let explained = why::explain(&cluster, service);
                let this = report::print(&explained, global.output)?;
                if this != ExitCode::SUCCESS {
                    code = this;
                }
            }
            Ok(code)
        }
    }
}
