//! Existing objects and pods, from the watches and the answers to writes. Owned by a single task. Only fields that are
//! compared or reported are kept.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::DynamicObject;
use lb_crds::ConfigurationState;
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;
use serde_json::{Map, Value, json};

use crate::field_owner::FieldOwner;
use crate::keys::secret;
use crate::object_id::{Kind, ObjectId};
use crate::observe::heartbeats::SpeakerReports;
use crate::observe::nodes::{ClusterNode, ClusterNodes};
use crate::observe::pods::PodFacts;

/// An existing object.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveObject {
    /// UID.
    pub uid: String,
    /// Resource version; `None` if it is not a number.
    version: Option<u64>,
    /// Entries of the Secret with the heartbeat keys.
    keys: secret::KeyEntries,
    /// Whether it is a Secret without a usable heartbeat key.
    lacks_key: bool,
    /// Fields owned by other field managers.
    other_owners: Vec<FieldOwner>,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Its fields, without those that only matter to the API server.
    pub body: Value,
}

impl LiveObject {
    /// Extracts the relevant fields.
    #[must_use]
    pub fn new(kind: Kind, mut object: DynamicObject) -> Self {
        // Key material is not kept. A Secret without a key is stored without its type, so that it differs from the
        // desired Secret and is corrected as drift.
        let keys = match kind {
            Kind::Secret => secret::strip_keys(&mut object),
            _ => secret::KeyEntries::default(),
        };
        let lacks_key = kind == Kind::Secret && !keys.current;
        let metadata = object.metadata;
        let other_owners = FieldOwner::others_of(&metadata);
        let mut body = match object.data {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        // For CRDs, `status.storedVersions`.
        if !matches!(
            kind,
            Kind::Deployment | Kind::DaemonSet | Kind::CustomResourceDefinition
        ) {
            body.remove("status");
        }
        if lacks_key {
            body.remove("type");
        }
        body.insert(
            "metadata".to_owned(),
            json!({
                "generation": metadata.generation,
                "labels": metadata.labels,
                "annotations": metadata.annotations,
                "ownerReferences": metadata.owner_references,
            }),
        );
        Self {
            uid: metadata.uid.unwrap_or_default(),
            version: metadata.resource_version.and_then(|version| version.parse().ok()),
            keys,
            lacks_key,
            other_owners,
            terminating: metadata.deletion_timestamp.is_some(),
            body: Value::Object(body),
        }
    }

    /// Resource version; `None` if it is not a number.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// Whether it is a Secret without a usable heartbeat key.
    #[must_use]
    pub fn lacks_key(&self) -> bool {
        self.lacks_key
    }

    /// Entries of the Secret with the heartbeat keys.
    #[must_use]
    pub fn keys(&self) -> secret::KeyEntries {
        self.keys
    }

    /// Fields owned by other field managers.
    #[must_use]
    pub fn other_owners(&self) -> &[FieldOwner] {
        &self.other_owners
    }

    /// `metadata.labels`.
    #[must_use]
    pub fn labels(&self) -> &Value {
        &self.body["metadata"]["labels"]
    }

    /// `metadata.annotations`.
    #[must_use]
    pub fn annotations(&self) -> &Value {
        &self.body["metadata"]["annotations"]
    }

    /// Digest of the last applied configuration.
    #[must_use]
    pub fn applied(&self) -> Option<&str> {
        self.annotations().get(crate::desired::render::APPLIED)?.as_str()
    }

    /// `metadata.ownerReferences`.
    #[must_use]
    pub fn owners(&self) -> &[Value] {
        let owners = self.body["metadata"]["ownerReferences"].as_array();
        owners.map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether an owner reference has this UID.
    #[must_use]
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.owners().iter().any(|owner| owner["uid"] == uid)
    }
}

/// Why a DaemonSet cannot create pods.
#[derive(Debug)]
struct Refusal {
    /// UID of the DaemonSet.
    uid: String,
    message: String,
    /// When it was reported last.
    time: Option<Timestamp>,
}

/// Existing objects, pods and nodes.
#[derive(Debug, Default)]
pub struct Index {
    objects: BTreeMap<ObjectId, LiveObject>,
    /// Applied digests of deleted objects: they tell a deletion by another client from an object that never existed.
    gone: BTreeMap<ObjectId, String>,
    pods: BTreeMap<ObjectKey, PodFacts>,
    /// Pods that a DaemonSet could not create, by the event that reports it.
    refusals: BTreeMap<ObjectKey, Refusal>,
    nodes: ClusterNodes,
    speaker_reports: SpeakerReports,
    /// UIDs of pods that the operator deleted and the watch may still report as running.
    deleted_pods: BTreeSet<String>,
}

impl Index {
    /// Adds or updates an object. Older versions are ignored, because the answer to a write can be ahead of the watch.
    pub fn apply(&mut self, id: ObjectId, live: LiveObject) {
        let newer = self.objects.get(&id).is_none_or(|known| {
            known.version.is_none() || live.version.is_none() || known.version <= live.version
        });
        if newer {
            self.gone.remove(&id);
            self.objects.insert(id, live);
        }
    }

    /// Removes an object. Another object of the same name is kept.
    pub fn delete(&mut self, id: &ObjectId, uid: &str) {
        if self.objects.get(id).is_some_and(|known| known.uid == uid) {
            self.remove(id);
        }
    }

    /// Removes an object that the operator deleted.
    pub fn remove_deleted(&mut self, id: &ObjectId) {
        self.objects.remove(id);
        self.gone.remove(id);
    }

    fn remove(&mut self, id: &ObjectId) {
        let applied = self
            .objects
            .remove(id)
            .as_ref()
            .and_then(LiveObject::applied)
            .map(str::to_owned);
        if let Some(applied) = applied {
            self.gone.insert(id.clone(), applied);
        }
    }

    /// Replaces all objects of a kind with a complete list.
    pub fn reset(&mut self, kind: Kind, listed: Vec<(ObjectId, LiveObject)>) {
        let is_gone = |id: &&ObjectId| id.kind == kind && !listed.iter().any(|(other, _)| other == *id);
        let gone: Vec<_> = self.objects.keys().filter(is_gone).cloned().collect();
        for id in gone {
            self.remove(&id);
        }
        for (id, live) in listed {
            self.apply(id, live);
        }
    }

    /// Adds or updates a pod that is observed at `now`.
    pub fn apply_pod(&mut self, pod: &Pod, now: Timestamp) {
        let key = ObjectKey::of(pod);
        let mut facts = PodFacts::of(pod, self.pods.get(&key), now);
        facts.terminating |= self.deleted_pods.contains(&facts.uid);
        self.pods.insert(key, facts);
    }

    /// Applies a change of a node.
    pub fn apply_node(&mut self, change: Change<Node>) {
        match change {
            Change::Apply(node) => {
                let name = node.metadata.name.clone().unwrap_or_default();
                self.nodes.insert(name, ClusterNode::of(node));
            }
            Change::Delete(key) | Change::Invalid { key, .. } => {
                self.nodes.remove(key.name());
            }
            Change::Listing | Change::Synced => {}
        }
    }

    /// The nodes of the cluster.
    #[must_use]
    pub fn nodes(&self) -> &ClusterNodes {
        &self.nodes
    }

    /// Applies a change of a ConfigurationState.
    pub fn apply_speaker_report(&mut self, change: Change<ConfigurationState>) {
        self.speaker_reports.apply(change);
    }

    /// The speakers' reports about their peers.
    #[must_use]
    pub fn speaker_reports(&self) -> &SpeakerReports {
        &self.speaker_reports
    }

    /// Marks a pod as deleted by the operator: the watch may report its previous state for a while.
    pub fn mark_deleted(&mut self, uid: &str) {
        self.deleted_pods.insert(uid.to_owned());
        for pod in self.pods.values_mut().filter(|pod| pod.uid == uid) {
            pod.terminating = true;
        }
    }

    /// Removes a pod.
    pub fn delete_pod(&mut self, key: &ObjectKey) {
        if let Some(gone) = self.pods.remove(key) {
            self.deleted_pods.remove(&gone.uid);
        }
    }

    /// Adds or updates an event about a pod that could not be created.
    pub fn apply_refusal(&mut self, event: &Event) {
        let message = event.message.clone().unwrap_or_default();
        let series = event
            .series
            .as_ref()
            .and_then(|series| series.last_observed_time.as_ref());
        let time = event.last_timestamp.as_ref().map(|time| time.0);
        let refusal = Refusal {
            uid: event.involved_object.uid.clone().unwrap_or_default(),
            message: message.trim_start_matches("Error creating: ").to_owned(),
            time: series
                .map(|time| time.0)
                .or(time)
                .or(event.event_time.as_ref().map(|time| time.0)),
        };
        self.refusals.insert(ObjectKey::of(event), refusal);
    }

    /// Removes such an event.
    pub fn delete_refusal(&mut self, key: &ObjectKey) {
        self.refusals.remove(key);
    }

    /// The latest reason why the DaemonSet with this UID cannot create pods.
    #[must_use]
    pub fn refusal(&self, uid: &str) -> Option<&str> {
        let of_it = self.refusals.values().filter(|refusal| refusal.uid == uid);
        Some(&of_it.max_by_key(|refusal| refusal.time)?.message)
    }

    /// An object.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<&LiveObject> {
        self.objects.get(id)
    }

    /// Digest that had been applied to an object that is gone.
    #[must_use]
    pub fn last_applied(&self, id: &ObjectId) -> Option<&str> {
        self.gone.get(id).map(String::as_str)
    }

    /// All objects, in order of application.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectId, &LiveObject)> {
        self.objects.iter()
    }

    /// The pods in a namespace.
    pub fn pods<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a ObjectKey, &'a PodFacts)> {
        self.pods
            .iter()
            .filter(move |(key, _)| key.namespace() == namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_live(uid: &str, version: u64, replicas: i32) -> LiveObject {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "controller", "namespace": "ns", "uid": uid, "resourceVersion": version.to_string(),
                "managedFields": [{"manager": "x"}],
            },
            "spec": {"replicas": replicas},
        }))
        .unwrap();
        LiveObject::new(Kind::Deployment, object)
    }

    fn replicas(index: &Index, id: &ObjectId) -> Option<i64> {
        index
            .get(id)
            .and_then(|live| live.body["spec"]["replicas"].as_i64())
    }

    #[test]
    fn older_watch_event_is_ignored() {
        let id = ObjectId::new(Kind::Deployment, "ns", "controller");
        let mut index = Index::default();
        index.apply(id.clone(), mk_live("a", 7, 2));
        index.apply(id.clone(), mk_live("a", 6, 5));
        assert_eq!(replicas(&index, &id), Some(2));
    }

    #[test]
    fn deletion_of_another_uid_is_ignored() {
        let id = ObjectId::new(Kind::Deployment, "ns", "controller");
        let mut index = Index::default();
        index.apply(id.clone(), mk_live("b", 9, 2));
        index.delete(&id, "a");
        assert_eq!(replicas(&index, &id), Some(2));
        index.delete(&id, "b");
        assert_eq!(replicas(&index, &id), None);
    }

    #[test]
    fn list_replaces_only_its_kind() {
        let (a, b) = (
            ObjectId::new(Kind::Deployment, "ns", "a"),
            ObjectId::new(Kind::Deployment, "ns", "b"),
        );
        let other = ObjectId::new(Kind::Service, "ns", "a");
        let mut index = Index::default();
        for id in [&a, &b, &other] {
            index.apply(id.clone(), mk_live("u", 1, 1));
        }
        index.reset(Kind::Deployment, vec![(b.clone(), mk_live("u", 2, 1))]);
        let left: Vec<_> = index.objects().map(|(id, _)| id.clone()).collect();
        assert_eq!(left, [other, b]);
    }
}
