//! Services to addresses: which address each Service of type LoadBalancer gets, written into its status.
//!
//! [`watch`] → [`index`] → [`decide`] → [`write`]. All but `watch`, the sending in `write`, and this file are without
//! I/O. Several replicas run; one leads and writes, the others watch everything and are ready at once.

pub mod allocation;
pub mod announced;
pub mod args;
pub mod condition;
pub mod decide;
pub mod extras;
pub mod flight;
pub mod index;
pub mod metrics;
pub mod report;
mod run;
pub mod service;
pub mod standby;
pub mod state;
pub mod verdict;
pub mod watch;
pub mod write;

pub use run::run;
