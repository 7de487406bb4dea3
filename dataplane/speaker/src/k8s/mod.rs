//! The Kubernetes API: watched objects and their index, objects that the speaker writes, and events.

pub mod events;
pub mod index;
pub mod l2_status;
pub mod labels;
pub mod objects;
pub mod speaker_state;
pub mod unannounced;
pub mod watch;
