//! What a machine on the LAN sees of an address: probes that ask again and again from the client's network, each on a
//! thread of its own, and note when they were answered.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`arp`] | who has the address, asked as a host with a cold table asks; a flood of such questions; how long an answer takes |
//! | [`ndp`] | the same for IPv6 |
//! | [`sweep`] | the same for addresses by the thousand |
//! | [`http`] | new requests, as the client's own table of neighbours leads them |
//! | [`connections`] | connections that stay open |
//! | [`traffic`] | all of them at once, on a Service with an address of each family |
//! | [`times`] | when answers came, and the gaps between them |

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

/// What a probe's thread and its owner have in common.
#[derive(Debug, Default)]
struct Shared<T> {
    over: AtomicBool,
    seen: Mutex<T>,
}

impl<T> Shared<T> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn seen(&self) -> MutexGuard<'_, T> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Default + Send + 'static> Probe<T> {
    fn start(
        lab: &Lab,
        work: impl FnOnce(&Arc<Shared<T>>) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            over: AtomicBool::new(false),
            seen: Mutex::new(T::default()),
        });
        let theirs = Arc::clone(&shared);
        let thread = lab.on_client(move || work(&theirs))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Looks at what it has seen so far.
    pub fn look<R>(&self, at: impl FnOnce(&T) -> R) -> R {
        at(&self.shared.seen())
    }

    /// Whether it has ended by itself, which it does when it cannot ask.
    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it, and returns all that it has seen.
    ///
    /// # Errors
    /// When it could not ask.
    pub fn end(mut self) -> anyhow::Result<T> {
        self.join()?;
        Ok(self.shared.seen().clone())
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
        // Who drops a probe has an error of its own to tell.
        let _ = self.join();
    }
}
