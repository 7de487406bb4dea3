//! Leader election against the API: watches one Lease, writes it, and reports whether this process leads.

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

use crate::lease::{LeaderElector, LeaseRecord, LeaseTiming, LeaseWrite, LeaseWriteResult};
use crate::watch::{Change, watch};
use crate::{ObjectKey, Shutdown, sleep_until};

/// Time limit for the release at shutdown.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(800);
/// Time limit for one write: shorter than the renew deadline, so that a lost response leaves time for a retry.
const LEASE_WRITE_TIMEOUT: Duration = Duration::from_secs(4);

/// Annotation of a released Lease: note of the last holder for its successor.
const HANDOFF_ANNOTATION: &str = "lb-operator.io/handoff";

/// Settings of a leader election.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Identity of this process, unique among the candidates: the pod name.
    pub identity: String,
    /// LeaseTiming of the Lease.
    pub timing: LeaseTiming,
}

/// Handle of a running leader election.
#[derive(Debug)]
pub struct Leadership {
    /// True while this process leads.
    pub leads: channel::Receiver<bool>,
    handoff: Arc<OnceLock<String>>,
    predecessor_handoff: Arc<Mutex<String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Leadership {
    /// Sets the note for the next holder, written with the release. Only the first call has an effect.
    pub fn set_handoff(&self, handoff: String) {
        let _ = self.handoff.set(handoff);
    }

    /// Note of the previous holder, valid while this process leads; empty if it wrote no note.
    #[must_use]
    pub fn predecessor_handoff(&self) -> String {
        self.predecessor_handoff
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the Lease is released, at most for the release timeout. Call it after shutdown was requested.
    pub async fn released(self) {
        // The task fails only by a panic, which is already reported.
        let _ = self.task.await;
    }
}

/// Runs a leader election until shutdown is requested, then releases the Lease.
#[must_use]
pub fn lead(client: Client, config: LeaderConfig, shutdown: Shutdown) -> Leadership {
    let (sender, leads) = channel::channel(false);
    let shared = LeadershipState {
        leads: sender,
        handoff: Arc::default(),
        predecessor_handoff: Arc::default(),
    };
    Leadership {
        leads,
        handoff: Arc::clone(&shared.handoff),
        predecessor_handoff: Arc::clone(&shared.predecessor_handoff),
        task: tokio::spawn(run_election(client, config, shutdown, shared)),
    }
}

/// The task's side of [`Leadership`].
struct LeadershipState {
    leads: channel::Sender<bool>,
    handoff: Arc<OnceLock<String>>,
    predecessor_handoff: Arc<Mutex<String>>,
}

async fn run_election(client: Client, config: LeaderConfig, shutdown: Shutdown, shared: LeadershipState) {
    let api: Api<Lease> = Api::namespaced(client.clone(), &config.namespace);
    let lease_key = ObjectKey::new(&config.namespace, &config.name);
    let filter = watcher::Config::default().fields(&format!("metadata.name={}", config.name));
    let mut changes = std::pin::pin!(watch::<Lease>(Api::namespaced(client, &config.namespace), filter));
    let mut elector = LeaderElector::new(config.identity.clone(), config.timing);
    let mut acquired = Timestamp::now();
    let mut exists = false;
    let mut writing: OptionFuture<_> = None.into();
    let mut deadline: Option<tokio::time::Instant> = None;
    loop {
        let now = Instant::now();
        if let Some(write) = elector.poll_write(now) {
            if write.acquires {
                acquired = Timestamp::now();
            }
            writing = Some(Box::pin(write_lease(&api, &config, write, acquired))).into();
        }
        elector.predecessor_handoff().clone_into(
            &mut shared
                .predecessor_handoff
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        publish(&shared.leads, elector.is_leader(now), &config);
        if elector.is_released() {
            return;
        }
        // A deadline that passes during a write has been handled: the result of the write comes next.
        let due = elector
            .poll_timeout()
            .filter(|due| *due > now || !elector.is_writing());
        tokio::select! {
            Some(change) = changes.next() => match change {
                Change::Apply(lease) => {
                    exists = true;
                    elector.observe(Instant::now(), Some(lease_record(&lease)));
                }
                Change::Delete(key) if key == lease_key => {
                    exists = false;
                    elector.observe(Instant::now(), None);
                }
                Change::Synced if !exists => elector.observe(Instant::now(), None),
                Change::Invalid { error, .. } => {
                    exists = true;
                    tracing::warn!(lease = config.name, error, "cannot decode the Lease; delete it");
                }
                Change::Delete(_) | Change::Listing | Change::Synced => {}
            },
            Some(result) = &mut writing => {
                writing = None.into();
                elector.handle_result(Instant::now(), result);
            }
            () = sleep_until(due) => {}
            () = shutdown.requested(), if deadline.is_none() => {
                deadline = Some(tokio::time::Instant::now() + RELEASE_TIMEOUT);
                elector.release(Instant::now(), shared.handoff.get().cloned().unwrap_or_default());
            }
            () = sleep_until(deadline) => return,
        }
    }
}

fn publish(leads: &channel::Sender<bool>, now_leads: bool, config: &LeaderConfig) {
    leads.send_if_modified(|leads| {
        let changed = *leads != now_leads;
        if changed {
            let identity = &config.identity;
            let lease = &config.name;
            if now_leads {
                tracing::info!(lease, identity, "became leader");
            } else {
                tracing::info!(lease, identity, "lost leadership");
            }
        }
        *leads = now_leads;
        changed
    });
}

fn lease_record(lease: &Lease) -> LeaseRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    LeaseRecord {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: seconds.map_or(LeaseTiming::default().duration, Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        handoff: lease
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(HANDOFF_ANNOTATION))
            .cloned()
            .unwrap_or_default(),
    }
}

/// Creates or replaces the Lease. No other client writes fields of it, so it is replaced as a whole.
async fn write_lease(
    api: &Api<Lease>,
    config: &LeaderConfig,
    write: LeaseWrite,
    acquired: Timestamp,
) -> LeaseWriteResult {
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            namespace: Some(config.namespace.clone()),
            resource_version: write.replaces.clone(),
            annotations: (!write.handoff.is_empty())
                .then(|| [(HANDOFF_ANNOTATION.to_owned(), write.handoff.clone())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            acquire_time: Some(MicroTime(acquired)),
            // A released Lease is free immediately; one second is the minimum that the API accepts.
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
        let written = match write.replaces {
            Some(_) => api.replace(&config.name, &PostParams::default(), &lease).await,
            None => api.create(&PostParams::default(), &lease).await,
        };
        match written {
            Ok(lease) => Ok(LeaseWriteResult::Written(lease_record(&lease))),
            // The watch may lag, or be dead.
            Err(kube::Error::Api(status))
                if status.code == 409 || status.code == 404 && write.replaces.is_some() =>
            {
                let lease = api.get_opt(&config.name).await?;
                Ok(LeaseWriteResult::Conflict(lease.as_ref().map(lease_record)))
            }
            Err(error) => Err(error),
        }
    };
    match tokio::time::timeout(LEASE_WRITE_TIMEOUT, request).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => {
            tracing::warn!(lease = config.name, %error, "Lease update failed");
            LeaseWriteResult::Failed
        }
        Err(_) => {
            tracing::warn!(lease = config.name, "Lease update timed out");
            LeaseWriteResult::Failed
        }
    }
}
