//! Observations of an address from a machine on the LAN: probes that send requests from the client's network, each on a
//! thread of its own, and record the answers.
//!
//! | module | contents |
//! | --- | --- |
//! | [`arp`] | requests as from a host with a cold neighbor table, a flood of them, and round-trip times |
//! | [`ndp`] | the same for IPv6 |
//! | [`sweep`] | the same for thousands of addresses |
//! | [`http`] | new requests, which follow the client's own neighbor table |
//! | [`connections`] | connections that stay open |
//! | [`traffic`] | all of them at once, for a dual-stack Service |
//! | [`times`] | times of answers, and the gaps between them |

pub mod arp;
pub mod connections;
pub mod http;
pub mod ndp;
pub mod sweep;
pub mod times;
pub mod traffic;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::bail;

use lb_lab::Lab;

/// A probe that runs until it is ended or dropped.
#[derive(Debug)]
pub struct Probe<T> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// State shared by a probe's thread and its owner.
#[derive(Debug, Default)]
struct Shared<T> {
    over: AtomicBool,
    observed: Mutex<T>,
}

impl<T> Shared<T> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn observed(&self) -> MutexGuard<'_, T> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Default + Send + 'static> Probe<T> {
    fn start(
        lab: &Lab,
        work: impl FnOnce(&Arc<Shared<T>>) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            over: AtomicBool::new(false),
            observed: Mutex::new(T::default()),
        });
        let theirs = Arc::clone(&shared);
        let thread = lab.on_client(move || work(&theirs))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Inspects the observations so far.
    pub fn inspect<R>(&self, at: impl FnOnce(&T) -> R) -> R {
        at(&self.shared.observed())
    }

    /// Whether the probe has ended by itself, which it does on an error.
    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the probe and returns its observations.
    ///
    /// # Errors
    /// When the probe failed.
    pub fn end(mut self) -> anyhow::Result<T> {
        self.join()?;
        Ok(self.shared.observed().clone())
    }
}

impl<T> Probe<T> {
    fn join(&mut self) -> anyhow::Result<()> {
        self.shared.over.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => bail!("a probe panicked"),
            None => Ok(()),
        }
    }
}

impl<T> Drop for Probe<T> {
    fn drop(&mut self) {
        // A probe is dropped without `end` when another error is being reported.
        let _ = self.join();
    }
}
