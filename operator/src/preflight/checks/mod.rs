//! The checks, one per file. Pure.

mod conflicting_load_balancer;
mod crd_ownership;
mod excluded_nodes;
mod images;
mod permissions;
mod pool_overlap;
mod server_version;
mod strict_arp;

pub(super) use conflicting_load_balancer::conflicting_load_balancer;
pub(super) use crd_ownership::{CRD_NAMES, crd_ownership};
pub(super) use excluded_nodes::excluded_nodes;
pub(super) use images::images;
pub(super) use permissions::permissions;
pub(super) use pool_overlap::pool_overlap;
pub(super) use server_version::server_version;
pub(super) use strict_arp::strict_arp;
