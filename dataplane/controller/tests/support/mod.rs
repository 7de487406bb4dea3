//! A cluster in a struct: objects with versions, patches with preconditions, and a controller that leads. Patches change
//! the objects, and the watch delivers the change, so that decisions meet their own consequences.
//!
//! ```text
//! let mut cluster = Cluster::new([mk_pool("lan", &["10.0.0.0/30"], json!({}))]);
//! cluster.add(mk_service("web", json!({})));          // create it, decide, answer all writes
//! assert_eq!(cluster.address("web"), "10.0.0.0");
//! cluster.edit(&service("web"), json!({ "spec": { "type": "ClusterIP" } }));
//! cluster.decide();                                   // writes are sent and wait in `in_flight`
//! cluster.fail();                                     // one of answer, fail, lose_answer, delay
//! cluster.settle();                                   // decide and answer until nothing changes
//! let mut cluster = cluster.restarted();              // another replica takes over
//! assert_eq!(cluster.events(), Vec::<String>::new());
//! ```

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses a part of it, and a missing object fails the test"
)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use lb_controller::decide::LeaderState;
use lb_controller::index::Index;
use lb_controller::target::WriteTarget;
use lb_controller::write::{ObjectWrite, WriteOutcome};
use lb_crds::{ConfigurationState, IPAddressPool, L2Advertisement, ServiceL2Status};
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;
use serde_json::{Value, json};

mod objects;

use objects::merge_conditions;
pub(crate) use objects::{
    advertisement, annotated, merge, mk_advertisement, mk_pool, mk_service, pool, service, showing,
};

/// A cluster with one leading controller.
pub(crate) struct Cluster {
    pub(crate) objects: BTreeMap<WriteTarget, Value>,
    /// The ServiceL2Statuses by Service; their watch delivers at once.
    announced: BTreeMap<String, Value>,
    announcers_listed: bool,
    version: u64,
    clock: i64,
    pub(crate) now: Instant,
    pub(crate) index: Index,
    pub(crate) leader: Option<LeaderState>,
    /// Writes without an outcome.
    pub(crate) in_flight: VecDeque<ObjectWrite>,
    /// Timed-out writes that the API server has not processed yet.
    delayed: Vec<ObjectWrite>,
    /// Whether the watch delivers; otherwise changes wait in `undelivered`.
    pub(crate) watching: bool,
    undelivered: Vec<WriteTarget>,
    events: Vec<String>,
    /// Every stored write, as text.
    pub(crate) writes: Vec<String>,
}

fn no_response() -> WriteOutcome {
    WriteOutcome::Failed {
        error: "no response".to_owned(),
    }
}

impl Cluster {
    /// A cluster with these objects, all listed, and a leader that has decided nothing yet.
    pub(crate) fn new(objects: impl IntoIterator<Item = (WriteTarget, Value)>) -> Self {
        Self::of_class(None, objects)
    }

    pub(crate) fn of_class(
        class: Option<&str>,
        objects: impl IntoIterator<Item = (WriteTarget, Value)>,
    ) -> Self {
        let mut cluster = Self {
            objects: BTreeMap::new(),
            announced: BTreeMap::new(),
            announcers_listed: false,
            version: 0,
            clock: 1_700_000_000,
            now: Instant::now(),
            index: Index::new(class.map(str::to_owned)),
            leader: None,
            in_flight: VecDeque::new(),
            delayed: Vec::new(),
            watching: true,
            undelivered: Vec::new(),
            events: Vec::new(),
            writes: Vec::new(),
        };
        let namespace = json!({ "metadata": {
            "name": "default",
            "labels": { "kubernetes.io/metadata.name": "default" },
        } });
        let namespace = Change::Apply(serde_json::from_value(namespace).unwrap());
        cluster.index.update_namespace(namespace);
        for (target, object) in objects {
            cluster.create(target, object);
        }
        cluster.index.configuration_state.update(Change::Synced);
        cluster.leader = Some(LeaderState::new(&cluster.index));
        cluster
    }

    /// The same objects with another controller, after a restart or a failover.
    pub(crate) fn restarted(self) -> Self {
        let mut objects: Vec<_> = self.objects.into_iter().collect();
        // The list has no useful order.
        objects.reverse();
        let mut cluster = Self::new(objects);
        cluster.clock = self.clock;
        for (name, status) in self.announced {
            cluster.announce(&name, status);
        }
        if self.announcers_listed {
            cluster.list_announcers();
        }
        cluster
    }

    /// A speaker writes the ServiceL2Status of a Service; nothing is decided yet.
    pub(crate) fn announce(&mut self, name: &str, mut status: Value) {
        status["serviceName"] = json!(name);
        status["serviceNamespace"] = json!("default");
        let object = json!({
            "metadata": { "name": format!("l2-{name}"), "namespace": "metallb-system" },
            "spec": {},
            "status": status,
        });
        self.announced.insert(name.to_owned(), status);
        self.deliver_status(Change::Apply(serde_json::from_value(object).unwrap()));
    }

    /// A speaker deletes the ServiceL2Status of a Service; nothing is decided yet.
    pub(crate) fn withdraw(&mut self, name: &str) {
        self.announced.remove(name);
        self.deliver_status(Change::Delete(ObjectKey::new(
            "metallb-system",
            format!("l2-{name}"),
        )));
    }

    /// The list of ServiceL2Statuses is complete.
    pub(crate) fn list_announcers(&mut self) {
        self.announcers_listed = true;
        self.deliver_status(Change::Synced);
    }

    /// The speaker's Pod on a node changes; nothing is decided yet.
    pub(crate) fn speaker(&mut self, node: &str, ready: bool) {
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": { "name": format!("speaker-{node}"), "namespace": "metallb-system" },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "conditions": [{ "type": "Ready", "status": status }] },
        });
        self.deliver_speaker(Change::Apply(serde_json::from_value(pod).unwrap()));
    }

    /// The list of speakers is complete.
    pub(crate) fn list_speakers(&mut self) {
        self.deliver_speaker(Change::Synced);
    }

    /// Ends the grace periods of speakers that have expired.
    pub(crate) fn end_grace(&mut self) {
        let touched = self.index.announcements.handle_timeout(self.now);
        if let Some(leader) = &mut self.leader {
            leader.announcements_changed(touched);
        }
    }

    pub(crate) fn deliver_speaker(&mut self, change: Change<Pod>) {
        let touched = self.index.announcements.update_speakers(self.now, change);
        if let Some(leader) = &mut self.leader {
            leader.announcements_changed(touched);
        }
    }

    fn deliver_status(&mut self, change: Change<ServiceL2Status>) {
        let touched = self.index.announcements.update(change);
        if let Some(leader) = &mut self.leader {
            leader.announcements_changed(touched);
        }
    }

    /// Whether the object exists.
    pub(crate) fn has(&self, target: &WriteTarget) -> bool {
        self.objects.contains_key(target)
    }

    /// A user creates an object; nothing is decided yet.
    pub(crate) fn create(&mut self, target: WriteTarget, mut object: Value) {
        if object["metadata"].get("creationTimestamp").is_none() {
            self.clock += 1;
            let time = Timestamp::from_second(self.clock).unwrap();
            object["metadata"]["creationTimestamp"] = json!(time.to_string());
        }
        self.store(target, object);
    }

    fn store(&mut self, target: WriteTarget, mut object: Value) {
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
                WriteTarget::Service(key) => {
                    let change = match object {
                        Some(object) => Change::Apply(serde_json::from_value::<Service>(object).unwrap()),
                        None => Change::Delete(key),
                    };
                    let changed = self.index.update_service(change);
                    if let Some(leader) = &mut self.leader {
                        leader.services_changed(changed);
                    }
                }
                WriteTarget::Pool(name) => {
                    let change = match object {
                        Some(object) => {
                            Change::Apply(serde_json::from_value::<IPAddressPool>(object).unwrap())
                        }
                        None => Change::Delete(ObjectKey::new("metallb-system", name)),
                    };
                    if self.index.update_pool(change)
                        && let Some(leader) = &mut self.leader
                    {
                        leader.pools_changed();
                    }
                }
                WriteTarget::Advertisement(key) => {
                    let change = match object {
                        Some(object) => {
                            Change::Apply(serde_json::from_value::<L2Advertisement>(object).unwrap())
                        }
                        None => Change::Delete(key),
                    };
                    self.index.update_advertisement(change);
                }
                WriteTarget::ConfigurationState => {
                    let change = match object {
                        Some(object) => {
                            Change::Apply(serde_json::from_value::<ConfigurationState>(object).unwrap())
                        }
                        None => Change::Delete(ObjectKey::new("metallb-system", "controller")),
                    };
                    self.index.configuration_state.update(change);
                }
            }
        }
    }

    /// A user creates a Service; nothing is decided yet.
    pub(crate) fn create_service(&mut self, name: &str) {
        let (target, object) = mk_service(name, json!({}));
        self.create(target, object);
    }

    /// A user creates an object, and the controller converges.
    pub(crate) fn add(&mut self, (target, object): (WriteTarget, Value)) {
        self.create(target, object);
        self.settle();
    }

    /// A user edits an object; nothing is decided yet.
    pub(crate) fn edit(&mut self, target: &WriteTarget, patch: Value) {
        let mut object = self.objects.get(target).expect("the object exists").clone();
        merge(&mut object, &patch);
        if patch.get("spec").is_some()
            && let Some(generation) = object["metadata"]["generation"].as_i64()
        {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        self.store(target.clone(), object);
    }

    /// A user deletes an object; nothing is decided yet.
    pub(crate) fn delete(&mut self, target: &WriteTarget) {
        self.objects.remove(target).expect("the object exists");
        self.undelivered.push(target.clone());
        self.deliver();
    }

    /// The watch delivers again.
    pub(crate) fn catch_up(&mut self) {
        self.watching = true;
        self.deliver();
    }

    /// The controller decides and sends; no write has an outcome yet.
    pub(crate) fn decide(&mut self) {
        let leader = self.leader.as_mut().unwrap();
        let time = Timestamp::from_second(self.clock).unwrap();
        leader.decide(&self.index, self.now, time);
        while let Some(write) = leader.next_write(&self.index, self.now, time) {
            assert!(
                !self
                    .in_flight
                    .iter()
                    .any(|other| other.target() == write.target()),
                "two writes of one object"
            );
            self.in_flight.push_back(write);
        }
        for event in leader.take_events().iter().filter(|event| !event.is_log_only()) {
            let text = event.text();
            let about = event.regarding("metallb-system");
            let about = about.key.name();
            self.events.push(format!(
                "{about} {:?} {}: {}",
                text.kind,
                text.reason.as_str(),
                text.note
            ));
        }
    }

    /// The API server processes the first write in flight.
    pub(crate) fn answer(&mut self) {
        let write = self.in_flight.pop_front().expect("a write under way");
        let outcome = self.apply(&write);
        self.report_outcome(write, outcome);
    }

    /// The first write in flight fails before the API server processes it.
    pub(crate) fn fail(&mut self) {
        let write = self.in_flight.pop_front().expect("a write under way");
        self.report_outcome(write, no_response());
    }

    /// The API server stores the first write in flight, but its response is lost.
    pub(crate) fn lose_answer(&mut self) {
        let write = self.in_flight.pop_front().expect("a write under way");
        self.apply(&write);
        self.report_outcome(write, no_response());
    }

    /// The first write in flight times out before the API server processes it.
    pub(crate) fn delay(&mut self) {
        let write = self.in_flight.pop_front().expect("a write under way");
        self.delayed.push(write.clone());
        self.report_outcome(write, no_response());
    }

    /// The API server processes a write that has timed out.
    pub(crate) fn land_delayed(&mut self) {
        if let Some(write) = self.delayed.pop() {
            self.apply(&write);
        }
    }

    fn apply(&mut self, write: &ObjectWrite) -> WriteOutcome {
        let (mut patch, target) = (write.patch(), write.target());
        if matches!(write, ObjectWrite::ConfigurationState(write) if write.version.is_none())
            && !self.has(&target)
        {
            let object =
                json!({ "metadata": { "name": "controller", "namespace": "metallb-system" }, "spec": {} });
            self.store(target, object);
            return WriteOutcome::Written {
                version: self.version.to_string(),
            };
        }
        let Some(mut object) = self.objects.get(&target).cloned() else {
            return WriteOutcome::Outdated;
        };
        if object["metadata"]["resourceVersion"] != patch["metadata"]["resourceVersion"] {
            return WriteOutcome::Outdated;
        }
        self.writes.push(format!("{target} {patch}"));
        if matches!(target, WriteTarget::Service(_)) {
            merge_conditions(&mut object, &mut patch);
        }
        merge(&mut object, &patch);
        self.store(target.clone(), object);
        if matches!(target, WriteTarget::Service(_)) && patch.pointer("/status/loadBalancer").is_some() {
            self.assert_unshared(&target);
        }
        WriteOutcome::Written {
            version: self.version.to_string(),
        }
    }

    fn report_outcome(&mut self, write: ObjectWrite, outcome: WriteOutcome) {
        let leader = self.leader.as_mut().unwrap();
        leader.handle_outcome(&mut self.index, write, outcome, self.now);
    }

    /// Decides and answers until nothing changes.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.decide();
            if !self.in_flight.is_empty() {
                self.answer();
            } else if let Some(due) = self.leader.as_ref().unwrap().next_usage_write() {
                self.now = self.now.max(due);
            } else {
                return;
            }
        }
        panic!(
            "the cluster does not converge: {:#?}",
            self.writes.iter().rev().take(5).collect::<Vec<_>>()
        );
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.clock += i64::try_from(time.as_secs()).unwrap();
    }

    /// The first address in the status of a Service, or an empty string.
    pub(crate) fn address(&self, name: &str) -> &str {
        let object = self.objects.get(&service(name)).expect("the Service exists");
        object["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()
            .unwrap_or_default()
    }

    /// The recorded pool of a Service, or an empty string.
    pub(crate) fn pool_of(&self, name: &str) -> &str {
        let object = self.objects.get(&service(name)).expect("the Service exists");
        let annotation = &object["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"];
        annotation.as_str().unwrap_or_default()
    }

    /// Why a Service has no address, as last reported.
    pub(crate) fn reason(&self, name: &str) -> Option<String> {
        let leader = self.leader.as_ref().unwrap();
        leader
            .rejection(&ObjectKey::new("default", name))
            .map(ToString::to_string)
    }

    /// The addresses in the status of a Service, joined by commas.
    pub(crate) fn addresses(&self, name: &str) -> String {
        let object = self.objects.get(&service(name)).expect("the Service exists");
        let ingress = object["status"]["loadBalancer"]["ingress"].as_array().cloned();
        let ip = |entry: &Value| entry["ip"].as_str().unwrap_or_default().to_owned();
        ingress
            .unwrap_or_default()
            .iter()
            .map(ip)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Condition AddressAssigned or Valid of an object: status, reason and message.
    pub(crate) fn condition(&self, target: &WriteTarget) -> String {
        let conditions = &self.objects.get(target).expect("the object exists")["status"]["conditions"];
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

    /// Condition Announced of a Service, if it has one.
    pub(crate) fn announcement(&self, name: &str) -> Option<String> {
        let object = self.objects.get(&service(name)).expect("the Service exists");
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

    /// The stored writes since the last call.
    pub(crate) fn writes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.writes)
    }

    /// No other Service shows an address of this one, unless the two share it.
    fn assert_unshared(&self, target: &WriteTarget) {
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
                let is_other = matches!(other, WriteTarget::Service(_)) && other != target && !shares;
                let same = |entry: &Value| entry["ip"] == ingress["ip"];
                assert!(
                    !(is_other
                        && object["status"]["loadBalancer"]["ingress"]
                            .as_array()
                            .is_some_and(|list| list.iter().any(same))),
                    "{} is shown by {target} and {other}",
                    ingress["ip"]
                );
            }
        }
    }
}
