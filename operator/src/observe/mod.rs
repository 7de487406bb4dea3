//! Observed state: nodes, pods, lost heartbeats, and the health of the workloads. Pure.

pub mod heartbeats;
pub mod nodes;
pub mod pods;
pub mod workload_health;
