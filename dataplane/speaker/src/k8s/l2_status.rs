//! ServiceL2Status: one object per Service, which names the owner of its first address.
//!
//! Only differences from the watched objects are written. A new owner overwrites the status of the previous one; a node that
//! is not the owner deletes a status only while it names that node. The object is owned by the Node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use lb_crds::ServiceL2Status;
use lb_crds::names::{LABEL_NODE, LABEL_SERVICE_NAME, LABEL_SERVICE_NAMESPACE};
use lb_runtime::error::chain;
use lb_runtime::rate_limit::RateLimiter;
use lb_runtime::{Backoff, ObjectKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::k8s::index::{Index, Update};
use crate::k8s::objects::ReportedStatus;
use crate::k8s::unannounced::UnannouncedStatus;
use crate::verification::AddressHealth;

/// Field manager of all speakers, so that a new owner replaces all fields of the previous one.
const FIELD_MANAGER: &str = "lb-speaker";
/// Maximum number of requests in flight.
const MAX_REQUESTS: usize = 4;
/// Timeout of a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Minimum time before the same status is written again: two owners of an address, as in a partition, overwrite each other.
const MIN_REWRITE_INTERVAL: Duration = Duration::from_secs(5);
/// Writes about one Service at once, and the time between two after that.
const MAX_WRITE_BURST: u32 = 6;
const WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum time between two reports why no node announces the address of a Service.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// Delays after failed writes.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(300);

/// Name of the status of a Service: independent of the owner, and of fixed length.
#[must_use]
pub fn object_name(service: &ObjectKey) -> String {
    let hash = Sha256::digest(service.to_string());
    hash.iter()
        .take(10)
        .fold("l2-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// The status that the owner wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DesiredStatus {
    /// The first address of the Service.
    pub address: IpAddr,
    /// The interfaces in use, if an advertisement names interfaces; otherwise empty, which stands for all.
    pub interfaces: Box<[Arc<str>]>,
    /// The health of the address, as other nodes see it.
    pub health: AddressHealth,
}

/// How the status of a Service should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Desired {
    /// This node owns the address.
    Announced(DesiredStatus),
    /// No node announces the address, and this node reports why.
    Unannounced(UnannouncedStatus),
    /// As it is, unless it names this node: this node is about to report why no node announces the address.
    Unchanged,
    /// Without any status of this node.
    Absent,
}

/// The next write about a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StatusAction {
    /// Write the status.
    Write {
        /// The status.
        desired: DesiredStatus,
        /// Whether the rest of the object is up to date.
        status_only: bool,
    },
    /// Report that no node announces the address.
    Report(UnannouncedStatus),
    /// Delete this object if it still has this version.
    Delete {
        /// Its name.
        name: String,
        /// Its version.
        version: Box<str>,
    },
}

/// The next write that brings the statuses of a Service to the desired one, if any. `desired` is `None` when this node does
/// not own the address; `node` is the name and uid of this node.
pub fn next_action<'a>(
    node: (&str, &str),
    service: &ObjectKey,
    desired: Option<DesiredStatus>,
    statuses: impl IntoIterator<Item = (&'a str, &'a ReportedStatus)>,
) -> Option<StatusAction> {
    let (local_node, uid) = node;
    let own_name = object_name(service);
    let mut found = None;
    let mut stale = None;
    for (name, status) in statuses {
        if desired.is_some() && name == own_name {
            found = Some(status);
        } else if *status.node == *local_node
            || status.node.is_empty() && status.owner.as_deref() == Some(uid)
        {
            stale = Some(StatusAction::Delete {
                name: name.to_owned(),
                version: status.version.clone(),
            });
        }
    }
    let Some(mut desired) = desired else {
        return stale;
    };
    // The status of another node, or of a deleted node of the same name, is not ours.
    let ours = found.filter(|status| {
        *status.node == *local_node && status.service == *service && status.owner.as_deref() == Some(uid)
    });
    if let Some(status) = ours
        && status.address == Some(desired.address)
    {
        if let Some(reported) = &status.health {
            desired.health = desired.health.merged_with(reported);
        }
        if status.interfaces == desired.interfaces && status.health.as_ref() == Some(&desired.health) {
            return stale;
        }
    }
    Some(StatusAction::Write {
        desired,
        status_only: ours.is_some(),
    })
}

/// A failed write.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("failed to {action} ServiceL2Status {name}")]
    Request {
        action: &'static str,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("the API server did not answer within {} s", WRITE_TIMEOUT.as_secs())]
    Timeout,
}

/// The end of a write.
#[derive(Debug)]
pub struct WriteResult {
    /// The Service.
    pub service: ObjectKey,
    /// The time of the next check of its status.
    pub check_at: Instant,
    /// The object as written.
    pub update: Option<Update>,
}

type Request = BoxFuture<'static, (ObjectKey, Result<Option<Update>, WriteError>)>;

/// Writes ServiceL2Statuses, a few at the same time.
pub struct StatusWriter {
    api: Api<ServiceL2Status>,
    namespace: String,
    node: String,
    requests: FuturesUnordered<Request>,
    /// Services with a request in flight.
    busy: BTreeSet<ObjectKey>,
    /// The statuses written within the last [`MIN_REWRITE_INTERVAL`].
    written: BTreeMap<ObjectKey, (Instant, DesiredStatus)>,
    /// Services that a report was written about within the last [`REPORT_INTERVAL`].
    reported: BTreeMap<ObjectKey, Instant>,
    /// Length of `written` after the last removal of old entries.
    retained: usize,
    backoffs: BTreeMap<ObjectKey, Backoff>,
    limiter: RateLimiter<ObjectKey>,
}

impl StatusWriter {
    /// A writer for objects in `namespace` about `node`.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, node: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            node: node.to_owned(),
            requests: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            written: BTreeMap::new(),
            reported: BTreeMap::new(),
            retained: 0,
            backoffs: BTreeMap::new(),
            limiter: RateLimiter::new(MAX_WRITE_BURST, WRITE_INTERVAL),
        }
    }

    /// Whether another request may start.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.requests.len() < MAX_REQUESTS
    }

    /// Starts the write that the status of a Service needs, if any. Returns when to check again if it is too early.
    pub fn write(
        &mut self,
        now: Instant,
        service: ObjectKey,
        desired: Desired,
        index: &Index,
        is_candidate: impl Fn(&str) -> bool,
    ) -> Option<Instant> {
        // It is checked again when the request has completed.
        if self.busy.contains(&service) {
            return None;
        }
        let uid = index.nodes.get(&self.node).map_or("", |node| node.uid.as_str());
        let is_owner = matches!(desired, Desired::Announced(_));
        let node = (&*self.node, uid);
        let key = service.clone();
        let statuses = index.statuses_of(&key);
        let action = match desired {
            Desired::Announced(desired) => next_action(node, &service, Some(desired), statuses),
            Desired::Absent => next_action(node, &service, None, statuses),
            Desired::Unannounced(report) => report.next_action(uid, &service, statuses, is_candidate),
            // A status that names this node is stale all the same.
            Desired::Unchanged => {
                let with_node = statuses.filter(|(_, status)| !status.node.is_empty());
                next_action(node, &service, None, with_node)
            }
        };
        if let Some(StatusAction::Write { desired, .. }) = &action
            && let Some((at, last)) = self.written.get(&service)
            && last == desired
            && now < *at + MIN_REWRITE_INTERVAL
        {
            return Some(*at + MIN_REWRITE_INTERVAL);
        }
        if action.is_some()
            && let Err(at) = self.limiter.admit(now, &service)
        {
            return Some(at);
        }
        let request = match action {
            Some(StatusAction::Write { desired, status_only }) => {
                let object = applied_object(&self.namespace, node, &service, &desired);
                self.record_write(now, service.clone(), desired);
                let key = self.key(object_name(&service));
                apply(self.api.clone(), key, object, status_only).boxed()
            }
            Some(StatusAction::Report(report)) => {
                if let Some(at) = self.reported.get(&service).map(|at| *at + REPORT_INTERVAL)
                    && now < at
                {
                    return Some(at);
                }
                self.reported.retain(|_, at| now < *at + REPORT_INTERVAL);
                self.reported.insert(service.clone(), now);
                let object = report.applied_object(&self.namespace, node, &service, Timestamp::now());
                let key = self.key(object_name(&service));
                apply(self.api.clone(), key, object, false).boxed()
            }
            Some(StatusAction::Delete { name, version }) => {
                delete(self.api.clone(), self.key(name), version).boxed()
            }
            None => {
                if !is_owner {
                    self.written.remove(&service);
                }
                return None;
            }
        };
        self.busy.insert(service.clone());
        let timed = async move {
            let result = tokio::time::timeout(WRITE_TIMEOUT, request).await;
            (service, result.unwrap_or(Err(WriteError::Timeout)))
        };
        self.requests.push(timed.boxed());
        None
    }

    /// Waits for a request to complete; never returns without one in flight. Cancel safe.
    pub async fn completed(&mut self) -> WriteResult {
        let Some((service, result)) = self.requests.next().await else {
            return std::future::pending().await;
        };
        let now = Instant::now();
        self.busy.remove(&service);
        let (check_at, update) = match result {
            Ok(update) => {
                self.backoffs.remove(&service);
                (now, update)
            }
            Err(error) => {
                let backoff = self.backoffs.entry(service.clone());
                let delay = backoff
                    .or_insert_with(|| Backoff::new(FIRST_RETRY_DELAY, MAX_RETRY_DELAY))
                    .next_delay();
                self.written.remove(&service);
                let error = chain(&error);
                tracing::warn!(%service, error, retry_in = ?delay, "failed to write ServiceL2Status; retrying");
                (now + delay, None)
            }
        };
        WriteResult {
            service,
            check_at,
            update,
        }
    }

    /// Records a write, and removes old entries: after a start there is one for each address, needed for a moment only.
    fn record_write(&mut self, now: Instant, service: ObjectKey, desired: DesiredStatus) {
        if self.written.len() > 2 * self.retained {
            self.written.retain(|_, (at, _)| now < *at + MIN_REWRITE_INTERVAL);
            self.retained = self.written.len();
        }
        self.written.insert(service, (now, desired));
    }

    fn key(&self, name: String) -> ObjectKey {
        ObjectKey::new(&self.namespace, name)
    }
}

/// The ServiceL2Status of a Service as this node applies it. A field without a value is left out: server-side apply removes
/// it, because all speakers share one field manager. `node` is the name and uid of this node.
#[must_use]
pub fn applied_object(
    namespace: &str,
    (local_node, uid): (&str, &str),
    service: &ObjectKey,
    desired: &DesiredStatus,
) -> Value {
    let interfaces: Vec<_> = desired
        .interfaces
        .iter()
        .map(|name| json!({"name": **name}))
        .collect();
    let mut object = json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "ServiceL2Status",
        "metadata": {
            "name": object_name(service),
            "namespace": namespace,
            "labels": {
                LABEL_NODE: label(local_node),
                LABEL_SERVICE_NAME: label(service.name()),
                LABEL_SERVICE_NAMESPACE: label(service.namespace()),
            },
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": local_node, "uid": uid}],
        },
        "spec": {},
        "status": {
            "node": local_node,
            "serviceName": service.name(),
            "serviceNamespace": service.namespace(),
            "interfaces": interfaces,
            "address": desired.address,
            "conditions": desired.health.conditions(desired.address),
        },
    });
    let verified_by = desired
        .health
        .verification
        .as_ref()
        .map(|verification| verification.by.to_string());
    let conflict = desired.health.conflict.as_ref();
    let conflicting_mac = conflict.map(|host| host.mac.to_string());
    let conflicting_node = conflict.and_then(|host| host.node.as_deref().map(str::to_owned));
    for (field, value) in [
        ("verifiedBy", verified_by),
        ("conflictingMAC", conflicting_mac),
        ("conflictingNode", conflicting_node),
    ] {
        if let Some(value) = value {
            object["status"][field] = value.into();
        }
    }
    object
}

/// A label value: names longer than its 63 bytes are cut. The status contains the whole name.
pub(super) fn label(name: &str) -> &str {
    let cut = name.get(..63).unwrap_or(name);
    cut.trim_end_matches(['-', '.'])
}

async fn apply(
    api: Api<ServiceL2Status>,
    key: ObjectKey,
    mut object: Value,
    status_only: bool,
) -> Result<Option<Update>, WriteError> {
    let name = key.name();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let status = object.as_object_mut().and_then(|object| object.remove("status"));
    let fail = |action| {
        let name = name.to_owned();
        move |source| WriteError::Request { action, name, source }
    };
    // The object first, because the status subresource cannot create it.
    if !status_only {
        api.patch(name, &params, &Patch::Apply(&object))
            .await
            .map_err(fail("apply"))?;
    }
    // Without metadata, which stays as the first request left it.
    let body = json!({
        "apiVersion": object.get("apiVersion"),
        "kind": object.get("kind"),
        "status": status,
    });
    let written = api.patch_status(name, &params, &Patch::Apply(&body)).await;
    let status = ReportedStatus::read(written.map_err(fail("apply the status of"))?);
    Ok(Some(Update::Status(key, Some(status))))
}

async fn delete(
    api: Api<ServiceL2Status>,
    key: ObjectKey,
    version: Box<str>,
) -> Result<Option<Update>, WriteError> {
    let unchanged = Preconditions {
        resource_version: Some(version.into()),
        uid: None,
    };
    match api
        .delete(key.name(), &DeleteParams::default().preconditions(unchanged))
        .await
    {
        Ok(_) => Ok(Some(Update::Status(key, None))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Some(Update::Status(key, None))),
        // The new owner has overwritten it; an update follows from the watch.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(source) => Err(WriteError::Request {
            action: "delete",
            name: key.name().to_owned(),
            source,
        }),
    }
}
