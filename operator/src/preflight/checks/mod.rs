//! The checks, one per file. Pure.

pub(super) mod conflicting_lb;
pub(super) mod crds;
pub(super) mod images;
pub(super) mod nodes;
pub(super) mod pool_overlap;
pub(super) mod server;
