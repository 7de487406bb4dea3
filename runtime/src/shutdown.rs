//! Request to stop the program, by a signal or by the program itself.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Request to stop. Clones share it.
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
    /// A shutdown requested by SIGTERM and SIGINT.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
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

    /// Requests the shutdown.
    pub fn request(&self) {
        self.requested.send_replace(true);
    }

    /// Waits for the request; returns immediately if it was made before.
    pub async fn requested(&self) {
        // `self` keeps the sender, so this cannot fail.
        let _ = self.requested.subscribe().wait_for(|requested| *requested).await;
    }
}
