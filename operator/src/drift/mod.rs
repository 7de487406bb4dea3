//! Drift: how existing objects differ from the desired ones, who changed them, and how often they are corrected. Pure.

pub mod attribution;
pub mod diff;
pub mod limiter;
