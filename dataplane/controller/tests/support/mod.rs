//! A cluster in a struct: objects with versions, merge patches with preconditions, and a leader that decides. What the
//! API server does to a patch is done here too, so that decisions meet their own consequences.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses its own part, and a test that finds something missing is to fail there"
)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use lb_controller::decide::Leading;
use lb_controller::index::Index;
use lb_controller::write::{Outcome, Target, Write};
use lb_crds::{ConfigurationState, IPAddressPool, L2Advertisement, ServiceL2Status};
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;
use serde_json::{Value, json};

/// The cluster and the one controller that leads in it.
pub(crate) struct Cluster {
    pub(crate) objects: BTreeMap<Target, Value>,
    /// What speakers say, by Service; the watch of it delivers at once.
    announced: BTreeMap<String, Value>,
    version: u64,
    clock: i64,
    pub(crate) now: Instant,
    pub(crate) index: Index,
    pub(crate) leading: Option<Leading>,
    /// Writes sent and not yet answered.
    pub(crate) under_way: VecDeque<Write>,
    /// Writes that the controller has given up on and the API server has not looked at yet.
    delayed: Vec<Write>,
    /// Whether the watch delivers; without, changes wait in `undelivered`.
    pub(crate) watching: bool,
    undelivered: Vec<Target>,
    events: Vec<String>,
    /// Every write that was answered, in words.
    pub(crate) writes: Vec<String>,
}

pub(crate) fn service(name: &str) -> Target {
    Target::Service(ObjectKey::new("default", name))
}

pub(crate) fn pool(name: &str) -> Target {
    Target::Pool(name.to_owned())
}

pub(crate) fn advertisement(name: &str) -> Target {
    Target::Advertisement(ObjectKey::new("metallb-system", name))
}

/// A Service of type LoadBalancer, with what a test adds.
pub(crate) fn mk_service(name: &str, patch: Value) -> (Target, Value) {
    let mut object = json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}") },
        "spec": { "type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"] },
        "status": { "loadBalancer": {} },
    });
    merge(&mut object, &patch);
    (service(name), object)
}

pub(crate) fn mk_pool(name: &str, addresses: &[&str], patch: Value) -> (Target, Value) {
    let mut object = json!({
        "metadata": { "name": name, "namespace": "metallb-system", "generation": 1, "uid": format!("uid-{name}") },
        "spec": { "addresses": addresses },
    });
    merge(&mut object, &patch);
    (pool(name), object)
}

pub(crate) fn mk_advertisement(name: &str, spec: Value) -> (Target, Value) {
    let object = json!({
        "metadata": { "name": name, "namespace": "metallb-system", "generation": 1, "uid": format!("uid-{name}") },
        "spec": spec,
    });
    (advertisement(name), object)
}

/// Annotations of a Service.
pub(crate) fn annotated(pairs: &[(&str, &str)]) -> Value {
    let pairs: BTreeMap<_, _> = pairs.iter().copied().collect();
    json!({ "metadata": { "annotations": pairs } })
}

/// A status that shows an address.
pub(crate) fn showing(address: &str) -> Value {
    json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address, "ipMode": "VIP" }] } } })
}

fn no_answer() -> Outcome {
    Outcome::Failed {
        error: "no answer".to_owned(),
    }
}

/// The part of a strategic merge patch that a merge patch does not have: conditions are merged by their type.
fn merge_conditions(object: &mut Value, patch: &mut Value) {
    let Some(Value::Array(changes)) = patch
        .get_mut("status")
        .and_then(Value::as_object_mut)
        .and_then(|status| status.remove("conditions"))
    else {
        return;
    };
    let shown = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut conditions: Vec<_> = shown
        .into_iter()
        .filter(|condition| !changes.iter().any(|change| change["type"] == condition["type"]))
        .collect();
    conditions.extend(changes.into_iter().filter(|change| change["$patch"] != "delete"));
    object["status"]["conditions"] = Value::Array(conditions);
}

/// JSON merge patch, RFC 7396.
fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    object.remove(key);
                } else {
                    let entry = object.entry(key.clone()).or_insert(Value::Null);
                    if value.is_object() && !entry.is_object() {
                        *entry = json!({});
                    }
                    merge(entry, value);
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

impl Cluster {
    /// A cluster with these objects, all listed, and a new leader that has decided nothing yet.
    pub(crate) fn new(objects: impl IntoIterator<Item = (Target, Value)>) -> Self {
        Self::of_class(None, objects)
    }

    pub(crate) fn of_class(class: Option<&str>, objects: impl IntoIterator<Item = (Target, Value)>) -> Self {
        let mut cluster = Self {
            objects: BTreeMap::new(),
            announced: BTreeMap::new(),
            version: 0,
            clock: 1_700_000_000,
            now: Instant::now(),
            index: Index::new(class.map(str::to_owned)),
            leading: None,
            under_way: VecDeque::new(),
            delayed: Vec::new(),
            watching: true,
            undelivered: Vec::new(),
            events: Vec::new(),
            writes: Vec::new(),
        };
        for (target, object) in objects {
            cluster.create(target, object);
        }
        cluster.index.state.take(Change::Synced);
        cluster.leading = Some(Leading::new(&cluster.index));
        cluster
    }

    /// The same objects with another controller: a restart, or another replica that takes over.
    pub(crate) fn restarted(self) -> Self {
        let mut objects: Vec<_> = self.objects.into_iter().collect();
        // The listing is in no useful order.
        objects.reverse();
        let mut cluster = Self::new(objects);
        cluster.clock = self.clock;
        for (name, status) in self.announced {
            cluster.announce(&name, status);
        }
        cluster.list_announcers();
        cluster
    }

    /// A speaker writes the status of a Service; nothing is decided yet.
    pub(crate) fn announce(&mut self, name: &str, mut status: Value) {
        status["serviceName"] = json!(name);
        status["serviceNamespace"] = json!("default");
        let object = json!({
            "metadata": { "name": format!("l2-{name}"), "namespace": "metallb-system" },
            "spec": {},
            "status": status,
        });
        self.announced.insert(name.to_owned(), status);
        self.hear(Change::Apply(serde_json::from_value(object).unwrap()));
    }

    /// A speaker deletes the status of a Service; nothing is decided yet.
    pub(crate) fn withdraw(&mut self, name: &str) {
        self.announced.remove(name);
        self.hear(Change::Delete(ObjectKey::new(
            "metallb-system",
            format!("l2-{name}"),
        )));
    }

    /// All statuses have been listed.
    pub(crate) fn list_announcers(&mut self) {
        self.hear(Change::Synced);
    }

    fn hear(&mut self, change: Change<ServiceL2Status>) {
        let touched = self.index.announcers.take(change);
        if let Some(leading) = &mut self.leading {
            leading.announcers_changed(touched);
        }
    }

    /// Whether there is such an object.
    pub(crate) fn has(&self, target: &Target) -> bool {
        self.objects.contains_key(target)
    }

    /// A user makes an object; nothing is decided yet.
    pub(crate) fn create(&mut self, target: Target, mut object: Value) {
        if object["metadata"].get("creationTimestamp").is_none() {
            self.clock += 1;
            let time = Timestamp::from_second(self.clock).unwrap();
            object["metadata"]["creationTimestamp"] = json!(time.to_string());
        }
        self.store(target, object);
    }

    fn store(&mut self, target: Target, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(target.clone(), object);
        self.undelivered.push(target);
        self.deliver();
    }

    fn deliver(&mut self) {
        if !self.watching {
            return;
        }
        for target in std::mem::take(&mut self.undelivered) {
            let object = self.objects.get(&target).cloned();
            match target {
                Target::Service(key) => {
                    let change = match object {
                        Some(object) => Change::Apply(serde_json::from_value::<Service>(object).unwrap()),
                        None => Change::Delete(key),
                    };
                    let changed = self.index.service(change);
                    if let Some(leading) = &mut self.leading {
                        leading.services_changed(changed);
                    }
                }
                Target::Pool(name) => {
                    let change = match object {
                        Some(object) => {
                            Change::Apply(serde_json::from_value::<IPAddressPool>(object).unwrap())
                        }
                        None => Change::Delete(ObjectKey::new("metallb-system", name)),
                    };
                    if self.index.pool(change)
                        && let Some(leading) = &mut self.leading
                    {
                        leading.pools_changed();
                    }
                }
                Target::Advertisement(key) => {
                    let change = match object {
                        Some(object) => {
                            Change::Apply(serde_json::from_value::<L2Advertisement>(object).unwrap())
                        }
                        None => Change::Delete(key),
                    };
                    self.index.advertisement(change);
                }
                Target::State => {
                    let change = match object {
                        Some(object) => {
                            Change::Apply(serde_json::from_value::<ConfigurationState>(object).unwrap())
                        }
                        None => Change::Delete(ObjectKey::new("metallb-system", "controller")),
                    };
                    self.index.state.take(change);
                }
            }
        }
    }

    /// A user makes a Service; nothing is decided yet.
    pub(crate) fn create_service(&mut self, name: &str) {
        let (target, object) = mk_service(name, json!({}));
        self.create(target, object);
    }

    /// A user makes an object, and the controller does what it does.
    pub(crate) fn add(&mut self, (target, object): (Target, Value)) {
        self.create(target, object);
        self.settle();
    }

    /// A user edits an object; nothing is decided yet.
    pub(crate) fn edit(&mut self, target: &Target, patch: Value) {
        let mut object = self.objects.get(target).expect("there is such an object").clone();
        merge(&mut object, &patch);
        if patch.get("spec").is_some()
            && let Some(generation) = object["metadata"]["generation"].as_i64()
        {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        self.store(target.clone(), object);
    }

    /// A user deletes an object; nothing is decided yet.
    pub(crate) fn delete(&mut self, target: &Target) {
        self.objects.remove(target).expect("there is such an object");
        self.undelivered.push(target.clone());
        self.deliver();
    }

    /// The watch delivers again.
    pub(crate) fn catch_up(&mut self) {
        self.watching = true;
        self.deliver();
    }

    /// The controller decides and sends; nothing is answered yet.
    pub(crate) fn decide(&mut self) {
        let leading = self.leading.as_mut().unwrap();
        let time = Timestamp::from_second(self.clock).unwrap();
        leading.decide(&self.index, self.now, time);
        while let Some(write) = leading.next_write(&self.index, self.now, time) {
            assert!(
                !self
                    .under_way
                    .iter()
                    .any(|other| other.target() == write.target()),
                "two writes of one object"
            );
            self.under_way.push_back(write);
        }
        for report in leading.take_reports().iter().filter(|report| !report.is_known()) {
            let event = report.event();
            let about = report.regarding("metallb-system");
            let about = about.key.name();
            self.events.push(format!(
                "{about} {:?} {}: {}",
                event.kind, event.reason, event.note
            ));
        }
    }

    /// The API server answers the first write under way.
    pub(crate) fn answer(&mut self) {
        let write = self.under_way.pop_front().expect("a write under way");
        let outcome = self.apply(&write);
        self.tell(write, outcome);
    }

    /// The first write under way fails before the API server does anything.
    pub(crate) fn fail(&mut self) {
        let write = self.under_way.pop_front().expect("a write under way");
        self.tell(write, no_answer());
    }

    /// The API server does the first write under way, and its answer is lost.
    pub(crate) fn lose_answer(&mut self) {
        let write = self.under_way.pop_front().expect("a write under way");
        self.apply(&write);
        self.tell(write, no_answer());
    }

    /// The controller gives up on the first write under way, and the API server has not looked at it yet.
    pub(crate) fn delay(&mut self) {
        let write = self.under_way.pop_front().expect("a write under way");
        self.delayed.push(write.clone());
        self.tell(write, no_answer());
    }

    /// The API server looks at a write that was given up on.
    pub(crate) fn land_delayed(&mut self) {
        if let Some(write) = self.delayed.pop() {
            self.apply(&write);
        }
    }

    fn apply(&mut self, write: &Write) -> Outcome {
        let (mut patch, target) = (write.patch(), write.target());
        if matches!(write, Write::State(write) if write.version.is_none()) && !self.has(&target) {
            let object =
                json!({ "metadata": { "name": "controller", "namespace": "metallb-system" }, "spec": {} });
            self.store(target, object);
            return Outcome::Written {
                version: self.version.to_string(),
            };
        }
        let Some(mut object) = self.objects.get(&target).cloned() else {
            return Outcome::Outdated;
        };
        if object["metadata"]["resourceVersion"] != patch["metadata"]["resourceVersion"] {
            return Outcome::Outdated;
        }
        self.writes.push(format!("{target} {patch}"));
        if matches!(target, Target::Service(_)) {
            merge_conditions(&mut object, &mut patch);
        }
        merge(&mut object, &patch);
        self.store(target.clone(), object);
        if matches!(target, Target::Service(_)) && patch.pointer("/status/loadBalancer").is_some() {
            self.assert_alone(&target);
        }
        Outcome::Written {
            version: self.version.to_string(),
        }
    }

    fn tell(&mut self, write: Write, outcome: Outcome) {
        let leading = self.leading.as_mut().unwrap();
        leading.written(&mut self.index, write, outcome, self.now);
    }

    /// Decides and answers until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.decide();
            if self.under_way.is_empty() {
                return;
            }
            self.answer();
        }
        panic!(
            "it never comes to rest: {:#?}",
            self.writes.iter().rev().take(5).collect::<Vec<_>>()
        );
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.clock += i64::try_from(time.as_secs()).unwrap();
    }

    /// The address that a Service shows, or nothing.
    pub(crate) fn address(&self, name: &str) -> &str {
        let object = self.objects.get(&service(name)).expect("there is such a Service");
        object["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()
            .unwrap_or_default()
    }

    /// The pool that a Service names, or nothing.
    pub(crate) fn pool_of(&self, name: &str) -> &str {
        let object = self.objects.get(&service(name)).expect("there is such a Service");
        let annotation = &object["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"];
        annotation.as_str().unwrap_or_default()
    }

    /// Why a Service has no address, as it was told last.
    pub(crate) fn reason(&self, name: &str) -> Option<String> {
        let leading = self.leading.as_ref().unwrap();
        leading
            .reason(&ObjectKey::new("default", name))
            .map(ToString::to_string)
    }

    /// The addresses that a Service shows, with a comma between two.
    pub(crate) fn addresses(&self, name: &str) -> String {
        let object = self.objects.get(&service(name)).expect("there is such a Service");
        let ingress = object["status"]["loadBalancer"]["ingress"].as_array().cloned();
        let ip = |entry: &Value| entry["ip"].as_str().unwrap_or_default().to_owned();
        ingress
            .unwrap_or_default()
            .iter()
            .map(ip)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// The condition of an object: status, reason and message.
    pub(crate) fn condition(&self, target: &Target) -> String {
        let conditions = &self.objects.get(target).expect("there is such an object")["status"]["conditions"];
        let announced = |condition: &&Value| condition["type"] == "lb-operator.io/Announced";
        let condition = conditions
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| !announced(condition));
        let condition = condition.unwrap_or(&Value::Null);
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        format!(
            "{}={} {}: {}",
            text("type"),
            text("status"),
            text("reason"),
            text("message")
        )
    }

    /// The condition of a Service that tells who announces it; none if there is none.
    pub(crate) fn announcement(&self, name: &str) -> Option<String> {
        let object = self.objects.get(&service(name)).expect("there is such a Service");
        let conditions = object["status"]["conditions"].as_array()?;
        let condition = conditions
            .iter()
            .find(|condition| condition["type"] == "lb-operator.io/Announced")?;
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Some(format!(
            "{} {}: {}",
            text("status"),
            text("reason"),
            text("message")
        ))
    }

    /// The events since the last call.
    pub(crate) fn events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    /// The writes that were answered since the last call.
    pub(crate) fn writes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.writes)
    }

    /// What all of this is about: no other Service shows an address of this one, unless the two share it.
    fn assert_alone(&self, target: &Target) {
        let key = |object: &Value| {
            let annotation =
                |prefix: &str| object["metadata"]["annotations"][format!("{prefix}/allow-shared-ip")].clone();
            let keys = [annotation("metallb.io"), annotation("metallb.universe.tf")];
            keys.into_iter()
                .find(|key| key.as_str().is_some_and(|key| !key.is_empty()))
        };
        let own_key = key(&self.objects[target]);
        let shown = |object: &Value| {
            object["status"]["loadBalancer"]["ingress"]
                .as_array()
                .cloned()
                .unwrap_or_default()
        };
        for ingress in shown(&self.objects[target]) {
            for (other, object) in &self.objects {
                let shares = own_key.is_some() && key(object) == own_key;
                let is_other = matches!(other, Target::Service(_)) && other != target && !shares;
                let same = |entry: &Value| entry["ip"] == ingress["ip"];
                assert!(
                    !(is_other
                        && object["status"]["loadBalancer"]["ingress"]
                            .as_array()
                            .is_some_and(|list| list.iter().any(same))),
                    "{} is shown by {target} and by {other}",
                    ingress["ip"]
                );
            }
        }
    }
}
