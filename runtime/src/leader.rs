//! Drives the Lease machine against the API: watches the one Lease, makes the writes, tells who leads.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::OptionFuture;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch as channel;

use crate::lease::{Machine, Outcome, Record, Timing, Write};
use crate::watch::{Change, watch};
use crate::{Key, Shutdown, sleep_until};

/// How long a release may take before the program goes without it.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(800);
/// How long one write may take: shorter than the renew deadline, so that a lost answer leaves time for another try.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

/// Annotation of a Lease that was given back: what its last holder has left for the next one.
const FAREWELL: &str = "lb-operator.io/handoff";

/// Which Lease, and who asks for it.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who this process is: its pod's name. Unique among the candidates.
    pub identity: String,
    /// Timing of the Lease.
    pub timing: Timing,
}

/// Leadership of this process: a value to watch, and a task that gives the Lease back at shutdown.
#[derive(Debug)]
pub struct Leadership {
    /// True while this process leads.
    pub leads: channel::Receiver<bool>,
    handoff: Arc<OnceLock<String>>,
    inherited: Arc<Mutex<String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Leadership {
    /// Leaves something for the next holder to know; it is written when the Lease is given back.
    pub fn leave(&self, handoff: String) {
        // The first is the one that counts, and nobody says two.
        let _ = self.handoff.set(handoff);
    }

    /// While this process leads: what the last holder has left when it gave the Lease back; empty when nothing.
    #[must_use]
    pub fn inherited(&self) -> String {
        self.inherited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the Lease has been given back; call it after shutdown was requested.
    pub async fn released(self) {
        // The task ends by itself after the release or its timeout. It can fail only by a panic, already reported.
        let _ = self.task.await;
    }
}

/// Competes for a Lease until shutdown is requested, then gives it back.
#[must_use]
pub fn lead(client: Client, config: LeaderConfig, shutdown: Shutdown) -> Leadership {
    let (sender, leads) = channel::channel(false);
    let (handoff, inherited) = (Arc::default(), Arc::default());
    let ends = Ends {
        leads: sender,
        handoff: Arc::clone(&handoff),
        inherited: Arc::clone(&inherited),
    };
    let task = tokio::spawn(drive(client, config, shutdown, ends));
    Leadership {
        leads,
        handoff,
        inherited,
        task,
    }
}

/// The task's ends of what [`Leadership`] holds.
struct Ends {
    leads: channel::Sender<bool>,
    handoff: Arc<OnceLock<String>>,
    inherited: Arc<Mutex<String>>,
}

async fn drive(client: Client, config: LeaderConfig, shutdown: Shutdown, ends: Ends) {
    let api: Api<Lease> = Api::namespaced(client.clone(), &config.namespace);
    let mine = Key::new(&config.namespace, &config.name);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", config.name));
    let mut changes = std::pin::pin!(watch::<Lease>(Api::namespaced(client, &config.namespace), only));
    let mut machine = Machine::new(config.identity.clone(), config.timing);
    let mut acquired = Timestamp::now();
    let mut seen = false;
    let mut writing: OptionFuture<_> = None.into();
    let mut deadline: Option<tokio::time::Instant> = None;
    loop {
        let now = Instant::now();
        if let Some(write) = machine.poll_write(now) {
            if write.acquires {
                acquired = Timestamp::now();
            }
            writing = Some(Box::pin(perform(&api, &config, write, acquired))).into();
        }
        machine
            .inherited()
            .clone_into(&mut ends.inherited.lock().unwrap_or_else(PoisonError::into_inner));
        announce(&ends.leads, machine.leads(now), &config);
        if machine.released() {
            return;
        }
        // With a write under way, a deadline that has passed has been acted on: its outcome is what comes next.
        let due = machine
            .poll_timeout()
            .filter(|due| *due > now || !machine.is_writing());
        tokio::select! {
            Some(change) = changes.next() => match change {
                Change::Apply(lease) => {
                    seen = true;
                    machine.observe(Instant::now(), Some(record(&lease)));
                }
                Change::Delete(key) | Change::Invalid { key, .. } if key == mine => {
                    seen = false;
                    machine.observe(Instant::now(), None);
                }
                Change::Synced if !seen => machine.observe(Instant::now(), None),
                Change::Delete(_) | Change::Invalid { .. } | Change::Listing | Change::Synced => {}
            },
            Some(outcome) = &mut writing => {
                writing = None.into();
                machine.written(Instant::now(), outcome);
            }
            () = sleep_until(due) => {}
            () = shutdown.requested(), if deadline.is_none() => {
                deadline = Some(tokio::time::Instant::now() + RELEASE_TIMEOUT);
                machine.release(Instant::now(), ends.handoff.get().cloned().unwrap_or_default());
            }
            () = sleep_until(deadline) => return,
        }
    }
}

fn announce(leads: &channel::Sender<bool>, now_leads: bool, config: &LeaderConfig) {
    leads.send_if_modified(|leads| {
        let changed = *leads != now_leads;
        if changed {
            let identity = &config.identity;
            let lease = &config.name;
            if now_leads {
                tracing::info!(lease, identity, "leading");
            } else {
                tracing::info!(lease, identity, "no longer leading");
            }
        }
        *leads = now_leads;
        changed
    });
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: seconds.map_or(Timing::default().duration, Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        handoff: lease
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(FAREWELL))
            .cloned()
            .unwrap_or_default(),
    }
}

/// Creates or replaces the Lease. A Lease is ours whole, so replacing it drops nobody's fields.
async fn perform(api: &Api<Lease>, config: &LeaderConfig, write: Write, acquired: Timestamp) -> Outcome {
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            namespace: Some(config.namespace.clone()),
            resource_version: write.replaces.clone(),
            annotations: (!write.handoff.is_empty())
                .then(|| [(FAREWELL.to_owned(), write.handoff.clone())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            acquire_time: Some(MicroTime(acquired)),
            // A released Lease is free at once: one second is the least the API accepts.
            lease_duration_seconds: Some(if write.holder.is_empty() {
                1
            } else {
                i32::try_from(config.timing.duration.as_secs()).unwrap_or(i32::MAX)
            }),
            holder_identity: Some(write.holder),
            lease_transitions: Some(write.transitions),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    let request = async {
        match write.replaces {
            Some(_) => api.replace(&config.name, &PostParams::default(), &lease).await,
            None => api.create(&PostParams::default(), &lease).await,
        }
    };
    match tokio::time::timeout(WRITE_TIMEOUT, request).await {
        Ok(Ok(lease)) => Outcome::Written(record(&lease)),
        Ok(Err(error)) => {
            let conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
            if !conflict {
                tracing::warn!(lease = config.name, %error, "lease not written");
            }
            Outcome::Failed
        }
        Err(_) => {
            tracing::warn!(lease = config.name, "lease not written: no answer");
            Outcome::Failed
        }
    }
}
