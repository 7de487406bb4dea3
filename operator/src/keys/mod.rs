//! The keys that authenticate heartbeats: the Secret that holds them, and their rotation. Pure.

pub mod rotation;
pub mod secret;
