//! The speaker: announces the addresses that its node owns by ARP and NDP, and those that it can serve by BGP ([`bgp`]).
//!
//! The way of a change: [`k8s::watch`] → [`k8s::index`] → [`decide`] (candidates) → the coordinator of lb-l2, with the
//! heartbeats of the other speakers ([`transport`]) → [`packet`] (ARP and NDP) → [`k8s::l2_status`] and [`k8s::events`].
//! [`speaker`] connects them without I/O; [`run`] connects the speaker to the API server, the other speakers and the kernel.
//!
//! Without the API server everything continues with the last known objects. A speaker that stops asks its peers to keep its
//! addresses, and its successor on the node restores them.

pub mod address_metrics;
mod announcements;
pub mod args;
pub mod balance;
pub mod bgp;
pub mod decide;
mod decisions;
pub mod delay_queue;
mod event_loop;
pub mod interface_selection;
pub mod intern;
pub mod k8s;
pub mod metrics;
pub mod node_macs;
pub mod node_table;
pub mod packet;
pub mod peers;
pub mod reasons;
mod relist;
mod reporter;
pub mod small_map;
pub mod speaker;
pub mod transport;
mod unheard_peers;
pub mod verification;

use anyhow::Context as _;
use futures::Stream;
use lb_net::Snapshot;
use lb_runtime::Context;

use crate::args::Config;
use crate::event_loop::EventLoop;

/// Runs the speaker until shutdown is requested.
///
/// # Errors
/// If metrics cannot be registered, links cannot be watched, or packet sockets are not permitted. Other errors are retried.
pub async fn run(context: Context, config: Config) -> anyhow::Result<()> {
    let links = packet::links().context("watch network interfaces")?;
    run_on(context, config, links).await
}

/// Runs the speaker with other links: all of them at the start, and again after each change.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    context: Context,
    config: Config,
    links: impl Stream<Item = Snapshot> + Unpin,
) -> anyhow::Result<()> {
    EventLoop::new(context, config, links)?.run().await
}
