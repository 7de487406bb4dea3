//! Tests of everything after the snapshot, on constructed clusters.

mod addresses;
mod announcing;
pub(crate) mod fixture;
mod lists;
mod scale;
mod upgrades;
