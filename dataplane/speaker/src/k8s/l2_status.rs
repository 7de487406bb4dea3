//! ServiceL2Status: one object per Service, which names the owner of its first address.
//!
//! Compared with what the watch shows; only differences are written. A new owner overwrites the status of the old one;
//! who no longer owns deletes a status only while it still names itself. The object goes with the Node.

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
use lb_runtime::ObjectKey;
use lb_runtime::error::chain;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::k8s::index::Update;
use crate::k8s::objects::ReportedStatus;
use crate::speaker::Speaker;
use crate::verification::AddressHealth;

/// Field manager of all speakers: the new owner takes over all that the old one applied.
const MANAGER: &str = "lb-speaker";
/// Requests under way at once.
const IN_FLIGHT: usize = 4;
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(15);
/// While two speakers each believe to own an address, as after a partition, they do not overwrite each other more
/// often than this.
const REPEAT: Duration = Duration::from_secs(5);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Name of the status of a Service: the same for whoever owns it, and never too long.
#[must_use]
pub fn object_name(service: &ObjectKey) -> String {
    let hash = Sha256::digest(service.to_string());
    hash.iter()
        .take(10)
        .fold("l2-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// What a status says of its owner.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DesiredStatus {
    /// The address that it is about.
    pub address: IpAddr,
    /// The interfaces; none for all.
    pub interfaces: Box<[Arc<str>]>,
    /// The health of the address, as other nodes see it.
    pub health: AddressHealth,
}

/// What is to be done about the statuses of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StatusAction {
    /// Write the status.
    Write {
        /// What it has to say.
        says: DesiredStatus,
        /// Whether the rest of the object is as it should be.
        alone: bool,
    },
    /// Delete this object, if it has still this version.
    Delete {
        /// Its name.
        name: String,
        /// Its version.
        version: Box<str>,
    },
}

/// Compares what the status of a Service should say with what there is; the next thing to do, if any. `wanted` is none
/// when we do not own it; `node` is our name and uid.
pub fn action<'a>(
    node: (&str, &str),
    service: &ObjectKey,
    wanted: Option<DesiredStatus>,
    records: impl IntoIterator<Item = (&'a str, &'a ReportedStatus)>,
) -> Option<StatusAction> {
    let (me, uid) = node;
    let own = object_name(service);
    let mut found = None;
    let mut stale = None;
    for (name, record) in records {
        if wanted.is_some() && name == own {
            found = Some(record);
        } else if *record.node == *me {
            stale = Some(StatusAction::Delete {
                name: name.to_owned(),
                version: record.version.clone(),
            });
        }
    }
    let Some(mut says) = wanted else {
        return stale;
    };
    // What another node's status says, or one of a namesake of this node, is not about us.
    let ours = found.filter(|record| {
        *record.node == *me && record.service == *service && record.owner.as_deref() == Some(uid)
    });
    if let Some(record) = ours
        && record.address == Some(says.address)
    {
        if let Some(reported) = &record.health {
            says.health = says.health.merged_with(reported);
        }
        if record.interfaces == says.interfaces && record.health.as_ref() == Some(&says.health) {
            return stale;
        }
    }
    Some(StatusAction::Write {
        says,
        alone: ours.is_some(),
    })
}

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("cannot {action} ServiceL2Status {name}")]
    Request {
        action: &'static str,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("the API server did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
}

type Flight = BoxFuture<'static, (ObjectKey, Result<Option<Update>, WriteError>)>;

/// Writes statuses, a few at a time.
pub struct StatusWriter {
    api: Api<ServiceL2Status>,
    namespace: String,
    me: String,
    flights: FuturesUnordered<Flight>,
    busy: BTreeSet<ObjectKey>,
    /// What we wrote within the last [`REPEAT`], and when; and how many there were when the older were forgotten.
    written: BTreeMap<ObjectKey, (Instant, DesiredStatus)>,
    kept: usize,
    failures: BTreeMap<ObjectKey, u32>,
}

impl StatusWriter {
    /// A writer of statuses in `namespace`, for the node `me`.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, me: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            me: me.to_owned(),
            flights: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            written: BTreeMap::new(),
            kept: 0,
            failures: BTreeMap::new(),
        }
    }

    /// Starts the writes that are due, as many as may be under way.
    pub fn step(&mut self, now: Instant, speaker: &mut Speaker) {
        while self.has_room()
            && let Some(service) = speaker.pop_record(now)
        {
            // One that is under way is looked at again when it has landed.
            if !self.busy.contains(&service) {
                self.look(now, service, speaker);
            }
        }
    }

    /// Whether another write may start.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.flights.len() < IN_FLIGHT
    }

    /// Waits for a write under way to end, and returns what it changed. For ever if there is none. May be cancelled
    /// without loss.
    pub async fn landed(&mut self, speaker: &mut Speaker) -> Option<Update> {
        let Some((service, result)) = self.flights.next().await else {
            return std::future::pending().await;
        };
        let now = Instant::now();
        self.busy.remove(&service);
        match result {
            Ok(update) => {
                self.failures.remove(&service);
                speaker.enter_record(service, now);
                update
            }
            Err(error) => {
                let failures = self.failures.entry(service.clone()).or_default();
                let pause = Duration::from_secs(1 << (*failures).min(10)).min(LONGEST_PAUSE);
                *failures += 1;
                self.written.remove(&service);
                let error = chain(&error);
                tracing::warn!(%service, error, again_in = ?pause, "status not written");
                speaker.enter_record(service, now + pause);
                None
            }
        }
    }

    /// Notes what is written. After a start that is a status for each address of ours, and a moment later nothing depends
    /// on them any more.
    fn note(&mut self, now: Instant, service: ObjectKey, says: DesiredStatus) {
        if self.written.len() > 2 * self.kept {
            self.written.retain(|_, (at, _)| now < *at + REPEAT);
            self.kept = self.written.len();
        }
        self.written.insert(service, (now, says));
    }

    fn key(&self, name: String) -> ObjectKey {
        ObjectKey::new(&self.namespace, name)
    }

    fn look(&mut self, now: Instant, service: ObjectKey, speaker: &mut Speaker) {
        let index = speaker.index();
        let uid = index.nodes.get(&self.me).map_or("", |node| node.uid.as_str());
        let wanted = speaker.record_of(&service, now, Timestamp::now());
        let is_ours = wanted.is_some();
        let node = (&*self.me, uid);
        let flight = match action(node, &service, wanted, index.statuses_of(&service)) {
            Some(StatusAction::Write { says, alone }) => {
                if let Some((at, last)) = self.written.get(&service)
                    && *last == says
                    && now < *at + REPEAT
                {
                    let again = *at + REPEAT;
                    speaker.enter_record(service, again);
                    return;
                }
                let object = applied_object(&self.namespace, node, &service, &says);
                self.note(now, service.clone(), says);
                write(self.api.clone(), self.key(object_name(&service)), object, alone).boxed()
            }
            Some(StatusAction::Delete { name, version }) => {
                delete(self.api.clone(), self.key(name), version).boxed()
            }
            None => {
                if !is_ours {
                    self.written.remove(&service);
                }
                return;
            }
        };
        self.busy.insert(service.clone());
        let timed = async move {
            let result = tokio::time::timeout(PATIENCE, flight).await;
            (service, result.unwrap_or(Err(WriteError::Timeout)))
        };
        self.flights.push(timed.boxed());
    }
}

/// The ServiceL2Status of a Service as this node applies it. A field without a value is left out: server-side apply removes
/// it, because all speakers share one field manager. `node` is our name and uid.
#[must_use]
pub fn applied_object(
    namespace: &str,
    (me, uid): (&str, &str),
    service: &ObjectKey,
    says: &DesiredStatus,
) -> Value {
    let interfaces: Vec<_> = says
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
                LABEL_NODE: label(me),
                LABEL_SERVICE_NAME: label(service.name()),
                LABEL_SERVICE_NAMESPACE: label(service.namespace()),
            },
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": me, "uid": uid}],
        },
        "spec": {},
        "status": {
            "node": me,
            "serviceName": service.name(),
            "serviceNamespace": service.namespace(),
            "interfaces": interfaces,
            "address": says.address,
            "conditions": says.health.conditions(says.address),
        },
    });
    let verified_by = says
        .health
        .verification
        .as_ref()
        .map(|verification| verification.by.to_string());
    let conflicting_mac = says.health.conflict.map(|host| host.mac.to_string());
    for (field, value) in [("verifiedBy", verified_by), ("conflictingMAC", conflicting_mac)] {
        if let Some(value) = value {
            object["status"][field] = value.into();
        }
    }
    object
}

/// A label takes 63 bytes; the name of a Node may be longer, and is then cut. The status has it whole.
fn label(name: &str) -> &str {
    let cut = name.get(..63).unwrap_or(name);
    cut.trim_end_matches(['-', '.'])
}

async fn write(
    api: Api<ServiceL2Status>,
    key: ObjectKey,
    mut object: Value,
    alone: bool,
) -> Result<Option<Update>, WriteError> {
    let name = key.name();
    let apply = PatchParams::apply(MANAGER).force();
    let status = object.as_object_mut().and_then(|object| object.remove("status"));
    let fail = |action| {
        let name = name.to_owned();
        move |source| WriteError::Request { action, name, source }
    };
    // The object first: its status is a resource of its own and cannot create it.
    if !alone {
        api.patch(name, &apply, &Patch::Apply(&object))
            .await
            .map_err(fail("apply"))?;
    }
    // The second request says nothing of the metadata, and so changes nothing of it.
    let body = json!({
        "apiVersion": object.get("apiVersion"),
        "kind": object.get("kind"),
        "status": status,
    });
    let written = api.patch_status(name, &apply, &Patch::Apply(&body)).await;
    let record = ReportedStatus::read(written.map_err(fail("apply the status of"))?);
    Ok(Some(Update::Status(key, Some(record))))
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
        // The new owner was here first; the watch will tell.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(source) => Err(WriteError::Request {
            action: "delete",
            name: key.name().to_owned(),
            source,
        }),
    }
}
