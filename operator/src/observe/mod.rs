//! Observed state: nodes, pods, and the health of the workloads. Pure.

pub mod nodes;
pub mod pods;
pub mod workload_health;
