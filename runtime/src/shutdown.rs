//! One place that knows whether the program has been asked to stop.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells every task that the program has been asked to stop.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            requested: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Shutdown {
    /// A shutdown that SIGTERM and SIGINT request.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub(crate) fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let requested = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping");
            requested.request();
        });
        Ok(shutdown)
    }

    /// Asks the program to stop.
    pub fn request(&self) {
        self.requested.send_replace(true);
    }

    /// Whether the program has been asked to stop.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Resolves once the program has been asked to stop; at once when that was before.
    pub async fn requested(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.requested.subscribe().wait_for(|requested| *requested).await;
    }
}
