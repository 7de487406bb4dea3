//! The three programs once more, as releases of another version: the same libraries, linked anew. The tests of upgrades
//! run it in the lab. What it is, it is told by its image:
//!
//! | from | what |
//! | --- | --- |
//! | the name it is started by | `lb-operator`, `lb-controller` or `lb-speaker` |
//! | `LB_TEST_VERSION` | the version that it is |
//! | `LB_TEST_FAULT` | what is wrong with its speaker: see [`fault`] |
//!
//! So one link, which is most of what a build of it costs, gives all releases.

mod fault;

use std::path::Path;

use anyhow::{Context as _, bail};
use clap::{CommandFactory, FromArgMatches};

use fault::Fault;

/// Variable with the version.
const VERSION: &str = "LB_TEST_VERSION";
/// Variable with the fault.
const FAULT: &str = "LB_TEST_FAULT";

fn main() -> anyhow::Result<()> {
    let version = std::env::var(VERSION).with_context(|| format!("{VERSION} is not set"))?;
    // It lives as long as the program, as a version that is compiled in does.
    let version: &'static str = version.leak();
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("lb-operator") => operator(version),
        Some("lb-controller") => controller(version),
        Some("lb-speaker") => speaker(version),
        other => bail!("started as {other:?}: its name is lb-operator, lb-controller or lb-speaker"),
    }
}

/// The arguments of a program that is of this version, as `--version` tells.
fn arguments<A: CommandFactory + FromArgMatches>(version: &'static str) -> anyhow::Result<A> {
    let matches = A::command().version(version).get_matches();
    A::from_arg_matches(&matches).context("read the arguments")
}

fn operator(version: &'static str) -> anyhow::Result<()> {
    let args: lb_operator::args::Args = arguments(version)?;
    let mut config = args.config();
    version.clone_into(&mut config.version);
    lb_runtime::run(&args.common, version, |context| lb_operator::run(context, config))
}

fn controller(version: &'static str) -> anyhow::Result<()> {
    let args: lb_controller::args::Args = arguments(version)?;
    let config = args.config();
    lb_runtime::run(&args.common, version, |context| {
        lb_controller::run(context, config)
    })
}

fn speaker(version: &'static str) -> anyhow::Result<()> {
    let args: lb_speaker::args::Args = arguments(version)?;
    let mut config = args.config()?;
    version.clone_into(&mut config.version);
    let fault = match std::env::var(FAULT) {
        Ok(text) => Some(text.parse::<Fault>()?),
        Err(_) => None,
    };
    match fault {
        None => lb_runtime::run(&args.common, version, |context| lb_speaker::run(context, config)),
        Some(fault) => fault::speaker(fault, &args.common, version, config),
    }
}
