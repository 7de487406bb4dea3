//! Assigns addresses to Services of type LoadBalancer and writes them into their status.
//!
//! [`watch`] → [`index`] → [`decide`] → [`write`]. Only `watch`, the sending in `write`, and the main loop do I/O. Several
//! replicas run: one leads and writes; the others watch everything, so that they can take over at once.

pub mod allocation_key;
pub mod announcements;
pub mod args;
pub mod condition;
pub mod config_status;
pub mod configuration_state;
pub mod decide;
pub mod events;
pub mod index;
pub mod inflight;
pub mod listed;
pub mod metrics;
pub mod objects;
pub mod pool_annotations;
pub mod reason;
mod run;
pub mod service;
pub mod service_allocation;
pub mod speakers;
pub mod standby;
pub mod target;
pub mod watch;
pub mod write;

pub use run::run;
