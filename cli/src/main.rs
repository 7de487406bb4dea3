//! `kubectl lb`: shows what the load balancer does and why, and what to change.
//!
//! [`snapshot`] reads the cluster once, with the rights of the user; everything after it is pure. [`cluster`] decides with
//! the same code as controller and speakers, so that the answers are theirs.

mod args;
mod cluster;
mod connection;
mod docs;
mod nodes;
mod remedy;
mod report;
mod snapshot;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod version;
mod why;

use std::process::ExitCode;

use anyhow::bail;
use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command, Global};
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::snapshot::{Scope, Snapshot, addresses};
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
    let pending = |service: &&_| addresses(service).is_empty();
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
