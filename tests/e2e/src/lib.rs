//! The lab, a real cluster on one machine, and what the scenarios that run on it share.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`lab`] | the cluster: nodes in namespaces on one LAN, with cables to cut and power to switch off |
//! | [`stage`] | a cluster with an administrator's shell and a LAN client's shell |
//! | [`guide`] | `docs/guide.md` as commands to run |
//! | [`image`] | container images from files, without Docker |
//! | [`peer`] | MetalLB in the lab in place of ours |
//! | [`releases`] | releases of other versions, good and broken, to upgrade between |
//! | [`bench`] | measures: how addresses are given and kept |

// This crate is support for tests and for people at a terminal: a lab that cannot be used ends the scenario, and the
// output goes to the terminal.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

pub mod bench;
pub mod guide;
pub mod image;
pub mod lab;
pub mod peer;
pub mod releases;
pub mod stage;

/// How a tool ends: with nothing, or with one line that says what went wrong.
#[must_use]
pub fn exit(program: &str, outcome: anyhow::Result<()>) -> std::process::ExitCode {
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
