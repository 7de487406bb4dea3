//! The Kubernetes API: watched objects and their index, ServiceL2Status objects and events.

pub mod events;
pub mod index;
pub mod l2_status;
pub mod labels;
pub mod objects;
pub mod unannounced;
pub mod watch;
