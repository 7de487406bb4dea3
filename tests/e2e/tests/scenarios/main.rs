//! Every scenario, each in a lab of its own. `tests/tools/run-scenarios.sh` runs two at a time, because scenarios
//! mostly wait for a cluster to notice something.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a scenario that meets what it does not expect is to fail there"
)]

mod addresses;
mod adoption;
mod alerts;
mod allocation;
mod api;
mod api_bgp;
mod bgp;
mod capture;
mod chart;
mod cli;
mod dead_connections;
mod deletion;
mod dependency_rules;
mod drift;
mod failover;
mod faults;
mod gitops;
mod guide;
mod keys;
mod lab;
mod layer2;
mod leader_failover;
mod metallb;
mod netpol;
mod olm;
mod operator;
mod permissions;
mod preflight;
mod prometheus;
mod release;
mod speaker;
mod speaker_restart;
mod two_operators;
mod upgrade;
