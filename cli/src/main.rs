//! `kubectl lb`: shows what the load balancer does and why, and what to change.
//!
//! [`snapshot`] reads the cluster once, with the rights of the user; everything after it is pure. [`cluster`] decides with
//! the same code as controller and speakers, so that the answers are theirs.

mod addresses;
mod adopt;
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
mod sysdump;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod upgrade;
mod version;
mod watch;
mod why;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{CommandFactory, Parser};

use crate::args::{AdoptAction, Cli, Command, Format, Global, UpgradeAction};
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::report::Report;
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
        report::note(&format!("error: {}", report::chain(&error)));
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
            let (_, snapshot) = look(global, Scope::All).await?;
            let filter = addresses::Filter {
                // As `kubectl get`, but without -n all namespaces: addresses are the cluster's.
                namespace: (global.namespace.clone()).filter(|_| !global.all_namespaces),
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
        Command::Upgrade { action } => upgrade(global, action.unwrap_or(UpgradeAction::Status)).await,
        Command::Adopt { action } => {
            let (_, snapshot) = look(global, Scope::All).await?;
            let cluster = Cluster::new(&snapshot);
            match action.unwrap_or(AdoptAction::Status) {
                AdoptAction::Status => report::print(&adopt::status(&cluster), format),
                AdoptAction::Preview => report::print(&adopt::preview(&cluster), format),
            }
        }
        Command::Watch => {
            let (connection, snapshot) = look(global, Scope::Stack).await?;
            watch::watch(&connection.client, snapshot.namespace()).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Sysdump { file, redact } => sysdump(global, &file, redact).await,
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

async fn upgrade(global: &Global, action: UpgradeAction) -> anyhow::Result<ExitCode> {
    let (connection, snapshot) = look(global, Scope::Stack).await?;
    let (intervention, yes) = match action {
        UpgradeAction::Status => return report::print(&upgrade::upgrade(&snapshot)?, global.output),
        UpgradeAction::Plan => return report::print(&upgrade::plan(&snapshot)?, global.output),
        UpgradeAction::History => return report::print(&upgrade::history(&snapshot)?, global.output),
        UpgradeAction::Approve { yes } => {
            report::note(&upgrade::plan(&snapshot)?.text(false));
            (upgrade::approve as fn(&_) -> _, yes)
        }
        UpgradeAction::Retry { yes } => (upgrade::retry as fn(&_) -> _, yes),
        UpgradeAction::Abort { yes } => (upgrade::abort as fn(&_) -> _, yes),
    };
    let Some(stack) = snapshot.stack() else {
        bail!("there is no LoadBalancerStack that could be read");
    };
    upgrade::intervene(&connection.client, stack, intervention(stack)?, yes).await
}

async fn sysdump(global: &Global, file: &std::path::Path, redact: bool) -> anyhow::Result<ExitCode> {
    let (connection, snapshot) = look(global, Scope::All).await?;
    let cluster = Cluster::new(&snapshot);
    let plain = |text: String| anstream::adapter::strip_str(&text).to_string();
    let everything = addresses::Filter::default();
    let reports = vec![
        ("version", version::versions(&snapshot).text(true)),
        ("status", plain(status::status(&cluster).text(true))),
        ("check", plain(check::findings(&cluster).text(true))),
        ("addresses", addresses::list(&cluster, &everything).text(true)),
        ("pools", pools::pools(&cluster).text(true)),
        ("nodes", nodes::nodes(&cluster).text(true)),
    ];
    sysdump::write(&connection.client, &snapshot, reports, file, redact).await?;
    let hint = if redact {
        ""
    } else {
        "; names and addresses are in it: --redact replaces them"
    };
    report::write(&format!("{}{hint}\n", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

async fn why(global: &Global, text: &str) -> anyhow::Result<ExitCode> {
    let connection = connection::connect(global).await?;
    let namespace = (!global.all_namespaces).then_some(connection.namespace.as_str());
    let target = Target::parse(text, namespace);
    let scope = match &target {
        Target::Service(key) => Scope::One(key.clone()),
        Target::Named(_) | Target::Address(_) => Scope::All,
    };
    let mut snapshot = snapshot::read(&connection.client, &scope).await?;
    if let Some(warning) = version::skew(&snapshot) {
        report::note(&warning);
    }
    let pending = |service: &&_| snapshot::addresses(service).is_empty();
    if scope != Scope::All && target.services(&snapshot).iter().any(pending) {
        // Which other Services could free an address depends on their endpoints.
        snapshot::read_all_endpoints(&connection.client, &mut snapshot).await?;
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
        (Target::Named(name), []) => bail!("there is no load balancer Service {name} in any namespace"),
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
