//! The desired state: from the spec to the objects of the stack. Pure.

pub mod config;
pub mod image;
pub mod render;
pub mod validation;
