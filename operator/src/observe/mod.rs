//! Observed state: pods, and the health of the workloads. Pure.

pub mod pods;
pub mod workload_health;
