//! The three programs as releases of other versions, built from the same libraries, for upgrade tests in the lab. One program plays
//! all of them, because linking is most of the build time. Its image decides which:
//!
//! | source | meaning |
//! | --- | --- |
//! | file name | `lb-operator`, `lb-controller` or `lb-speaker` |
//! | `LB_TEST_VERSION` | the version |
//! | `LB_TEST_FAULT` | the fault of its speaker: see [`fault`] |

mod fault;

use std::path::Path;

use anyhow::{Context as _, bail};

use fault::Fault;

const VERSION_VARIABLE: &str = "LB_TEST_VERSION";
const FAULT_VARIABLE: &str = "LB_TEST_FAULT";

fn main() -> anyhow::Result<()> {
    let version = std::env::var(VERSION_VARIABLE)
        .with_context(|| format!("{VERSION_VARIABLE} is not set: run it in an image of the upgrade tests"))?;
    // Lives as long as the program, like a version that is compiled in.
    let version: &'static str = version.leak();
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("lb-operator") => operator(version),
        Some("lb-controller") => controller(version),
        Some("lb-speaker") => speaker(version),
        other => bail!("started as {other:?}: name it lb-operator, lb-controller or lb-speaker"),
    }
}

fn operator(version: &'static str) -> anyhow::Result<()> {
    let args: lb_operator::args::Args = lb_runtime::arguments(version);
    let mut config = args.config();
    version.clone_into(&mut config.version);
    lb_runtime::run(&args.common, version, |context| lb_operator::run(context, config))
}

fn controller(version: &'static str) -> anyhow::Result<()> {
    let args: lb_controller::args::Args = lb_runtime::arguments(version);
    let config = args.config();
    lb_runtime::run(&args.common, version, |context| {
        lb_controller::run(context, config)
    })
}

fn speaker(version: &'static str) -> anyhow::Result<()> {
    let args: lb_speaker::args::Args = lb_runtime::arguments(version);
    let mut config = args.config()?;
    version.clone_into(&mut config.version);
    let fault = match std::env::var(FAULT_VARIABLE) {
        Ok(text) => Some(text.parse::<Fault>()?),
        Err(_) => None,
    };
    match fault {
        None => lb_runtime::run(&args.common, version, |context| lb_speaker::run(context, config)),
        Some(fault) => fault::speaker(fault, &args.common, version, config),
    }
}
