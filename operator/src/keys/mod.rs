//! The keys that authenticate heartbeats: their material, and their rotation. Pure.

pub mod material;
pub mod rotation;
