//! The desired state: the spec with its defaults, and the objects rendered from it. Pure.

pub mod config;
pub mod image;
pub mod render;
pub mod validation;
