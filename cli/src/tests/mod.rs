//! Tests of everything after the snapshot, on constructed clusters.

mod addresses;
mod announcing;
mod fixture;
mod lists;
mod scale;
