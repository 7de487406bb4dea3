//! The checks, one per file. Pure.

mod bgp_objects;
mod conflicting_load_balancer;
mod crd_ownership;
mod excluded_nodes;
mod host_ports;
mod images;
mod leftover_webhook;
mod object_ownership;
mod permissions;
mod pool_overlap;
mod server_version;
mod strict_arp;

pub(super) use bgp_objects::bgp_objects;
pub(super) use conflicting_load_balancer::conflicting_load_balancer;
pub(super) use crd_ownership::{CRD_NAMES, crd_ownership};
pub(super) use excluded_nodes::excluded_nodes;
pub(super) use host_ports::host_ports;
pub(super) use images::images;
pub(super) use leftover_webhook::leftover_webhook;
pub(super) use object_ownership::object_ownership;
pub(super) use permissions::permissions;
pub(super) use pool_overlap::pool_overlap;
pub(super) use server_version::server_version;
pub(super) use strict_arp::strict_arp;
