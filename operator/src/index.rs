//! What exists, as the watches told it: the objects that the operator keeps, and the troubles of the stack's pods.
//! One task owns it. Objects are cut down to what is compared or reported; the rest is dropped at once.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use lb_runtime::ObjectKey;
use serde_json::{Map, Value, json};

use crate::field_owner::FieldOwner;
use crate::keys::secret;
use crate::object_id::{Kind, ObjectId};
use crate::observe::pods::PodFacts;

/// An object as it exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// Its uid.
    pub uid: String,
    /// Its version, if it is a number as every API server makes it.
    version: Option<u64>,
    /// Of a Secret: which entries it has.
    keys: secret::KeyEntries,
    /// A Secret without a key that speakers can use.
    useless: bool,
    /// What others than the operator own of it.
    other_owners: Vec<FieldOwner>,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// Its fields, without those that only the API server cares for.
    pub body: Value,
}

impl Live {
    /// Takes from an object what is of interest.
    #[must_use]
    pub fn new(kind: Kind, mut object: DynamicObject) -> Self {
        // What is secret is not kept. Without a key a Secret is shown as one of no type, which nobody wants: so it is put
        // right as any other object is.
        let keys = match kind {
            Kind::Secret => secret::strip_keys(&mut object),
            _ => secret::KeyEntries::default(),
        };
        let useless = kind == Kind::Secret && !keys.current;
        let metadata = object.metadata;
        let other_owners = FieldOwner::others_of(&metadata);
        let mut body = match object.data {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        // Of a definition, in which versions its objects are stored.
        if !matches!(
            kind,
            Kind::Deployment | Kind::DaemonSet | Kind::CustomResourceDefinition
        ) {
            body.remove("status");
        }
        if useless {
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
            useless,
            other_owners,
            terminating: metadata.deletion_timestamp.is_some(),
            body: Value::Object(body),
        }
    }

    /// Its version, if it is a number as every API server makes it.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// Whether it is a Secret without a key that speakers can use.
    #[must_use]
    pub fn lacks_its_key(&self) -> bool {
        self.useless
    }

    /// Of the Secret with the keys of the heartbeats: which entries it has.
    #[must_use]
    pub fn keys(&self) -> secret::KeyEntries {
        self.keys
    }

    /// What others than the operator own of it.
    #[must_use]
    pub fn other_owners(&self) -> &[FieldOwner] {
        &self.other_owners
    }

    /// Its annotations.
    #[must_use]
    pub fn annotations(&self) -> &Value {
        &self.body["metadata"]["annotations"]
    }

    /// The digest of what was last applied to it.
    #[must_use]
    pub fn applied(&self) -> Option<&str> {
        self.body
            .pointer("/metadata/annotations")?
            .get(crate::desired::render::APPLIED)?
            .as_str()
    }

    /// Its owner references.
    #[must_use]
    pub fn owners(&self) -> &[Value] {
        let owners = self
            .body
            .pointer("/metadata/ownerReferences")
            .and_then(Value::as_array);
        owners.map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether an object of this uid owns it.
    #[must_use]
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.owners().iter().any(|owner| owner["uid"] == uid)
    }
}

/// Everything that exists.
#[derive(Debug, Default)]
pub struct Index {
    objects: BTreeMap<ObjectId, Live>,
    /// What had been applied to objects that are gone: it tells a deletion by somebody from an object that never was.
    gone: BTreeMap<ObjectId, String>,
    pods: BTreeMap<ObjectKey, PodFacts>,
    /// Uids of pods that were deleted by us and may not be known to be on their way out.
    doomed: BTreeSet<String>,
}

impl Index {
    /// An object exists and looks like this. What is older than what is known is ignored: the answer to a write
    /// overtakes the watch.
    pub fn apply(&mut self, id: ObjectId, live: Live) {
        let newer = self.objects.get(&id).is_none_or(|known| {
            known.version.is_none() || live.version.is_none() || known.version <= live.version
        });
        if newer {
            self.gone.remove(&id);
            self.objects.insert(id, live);
        }
    }

    /// The object of this uid is gone. A namesake that came after it stays.
    pub fn delete(&mut self, id: &ObjectId, uid: &str) {
        if self.objects.get(id).is_some_and(|known| known.uid == uid) {
            self.remove(id);
        }
    }

    /// The object is to be gone, and the operator saw to it.
    pub fn discard(&mut self, id: &ObjectId) {
        self.objects.remove(id);
        self.gone.remove(id);
    }

    fn remove(&mut self, id: &ObjectId) {
        let applied = self
            .objects
            .remove(id)
            .as_ref()
            .and_then(Live::applied)
            .map(str::to_owned);
        if let Some(applied) = applied {
            self.gone.insert(id.clone(), applied);
        }
    }

    /// A complete listing of a kind: what is not in it is gone.
    pub fn reset(&mut self, kind: Kind, listed: Vec<(ObjectId, Live)>) {
        let is_gone = |id: &&ObjectId| id.kind == kind && !listed.iter().any(|(other, _)| other == *id);
        let gone: Vec<_> = self.objects.keys().filter(is_gone).cloned().collect();
        for id in gone {
            self.remove(&id);
        }
        for (id, live) in listed {
            self.apply(id, live);
        }
    }

    /// A pod of the stack exists.
    pub fn apply_pod(&mut self, pod: &Pod) {
        let mut facts = PodFacts::of(pod);
        facts.terminating |= self.doomed.contains(&facts.uid);
        self.pods.insert(ObjectKey::of(pod), facts);
    }

    /// A pod was deleted by us: the watch may tell of it as it was for a while.
    pub fn doom(&mut self, uid: &str) {
        self.doomed.insert(uid.to_owned());
        for pod in self.pods.values_mut().filter(|pod| pod.uid == uid) {
            pod.terminating = true;
        }
    }

    /// A pod is gone, or cannot be understood.
    pub fn delete_pod(&mut self, key: &ObjectKey) {
        if let Some(gone) = self.pods.remove(key) {
            self.doomed.remove(&gone.uid);
        }
    }

    /// One object.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<&Live> {
        self.objects.get(id)
    }

    /// What had been applied to an object that is gone.
    #[must_use]
    pub fn applied_before(&self, id: &ObjectId) -> Option<&str> {
        self.gone.get(id).map(String::as_str)
    }

    /// Every object, in order of application.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectId, &Live)> {
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

    fn mk_live(uid: &str, version: u64, replicas: i32) -> Live {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "controller", "namespace": "ns", "uid": uid, "resourceVersion": version.to_string(),
                "managedFields": [{"manager": "x"}],
            },
            "spec": {"replicas": replicas},
        }))
        .unwrap();
        Live::new(Kind::Deployment, object)
    }

    fn replicas(index: &Index, id: &ObjectId) -> Option<i64> {
        index
            .get(id)
            .and_then(|live| live.body["spec"]["replicas"].as_i64())
    }

    #[test]
    fn the_answer_to_a_write_is_not_undone_by_an_older_watch_event() {
        let id = ObjectId::new(Kind::Deployment, "ns", "controller");
        let mut index = Index::default();
        index.apply(id.clone(), mk_live("a", 7, 2));
        index.apply(id.clone(), mk_live("a", 6, 5));
        assert_eq!(replicas(&index, &id), Some(2));
    }

    #[test]
    fn the_deletion_of_a_predecessor_leaves_its_namesake() {
        let id = ObjectId::new(Kind::Deployment, "ns", "controller");
        let mut index = Index::default();
        index.apply(id.clone(), mk_live("b", 9, 2));
        index.delete(&id, "a");
        assert_eq!(replicas(&index, &id), Some(2));
        index.delete(&id, "b");
        assert_eq!(replicas(&index, &id), None);
    }

    #[test]
    fn a_listing_removes_what_is_not_in_it_and_leaves_other_kinds() {
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
