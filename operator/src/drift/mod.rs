//! Drift: differences between the desired and the actual objects, who caused them, and how often they are corrected. Pure.

pub mod diff;
pub mod field_owner;
pub mod limiter;
