//! ARP and NDP on the interfaces of this node. Knows nothing of Kubernetes.

pub mod announcer;
mod interface;
mod responder_thread;

use std::time::Duration;

use futures::stream::{self, LocalBoxStream, StreamExt};
use lb_net::{LinkError, LinkWatcher, Snapshot};
use lb_runtime::error::chain;

pub use responder_thread::ObservedReply;

/// Delay before the links are listed again after an error.
const LIST_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The links of this host: at once, and again after each change. Never ends. Call within a Tokio runtime.
///
/// # Errors
/// If the kernel refuses the subscription to link changes.
pub fn links() -> Result<LocalBoxStream<'static, Snapshot>, LinkError> {
    let snapshots = stream::unfold(LinkWatcher::new()?, |mut watcher| async move {
        loop {
            match watcher.next().await {
                Ok(snapshot) => return Some((snapshot, watcher)),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "failed to list links; retrying");
                    tokio::time::sleep(LIST_RETRY_DELAY).await;
                }
            }
        }
    });
    Ok(snapshots.boxed_local())
}
