//! Tests of everything after the snapshot, on constructed clusters.

mod addresses;
mod announcing;
mod fixture;
