//! Health of both workloads: pod counts and problems. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::desired::render::{Component, pre_pull};
use crate::index::{Index, LiveObject};
use crate::object_id::{Kind, ObjectId};
use crate::observe::heartbeats::unheard_pairs;
use crate::observe::pods::PodFacts;

/// Problems named in a message.
const LISTED: usize = 3;

/// Health of one workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkloadHealth {
    /// Which component.
    pub component: Component,
    /// Desired pods.
    pub desired: i32,
    /// Ready pods.
    pub ready: i32,
    /// Pods of the current template.
    pub updated: i32,
    /// Pods on unreachable nodes. They block nothing, because nothing can be done about them.
    pub lost: i32,
    /// The nodes of these pods.
    pub lost_nodes: Vec<String>,
    /// Version of the current template.
    pub version: Option<String>,
    /// Whether the rollout is complete: all pods are updated and ready, except on unreachable nodes.
    pub settled: bool,
    /// Message of Kubernetes if the rollout makes no progress.
    pub stalled: Option<String>,
    /// Pods of each version.
    pub versions: BTreeMap<String, i32>,
}

/// Health of the stack.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StackHealth {
    /// The controllers.
    pub controller: WorkloadHealth,
    /// The speakers.
    pub speaker: WorkloadHealth,
    /// Why pods do not run: the first few, then the number of the others.
    pub problems: Vec<String>,
    /// Nodes that may announce addresses and have a ready speaker.
    pub announcing_nodes: usize,
    /// Pairs of nodes between which heartbeats do not arrive.
    pub unheard_pairs: BTreeSet<(String, String)>,
}

impl StackHealth {
    /// Both workloads.
    #[must_use]
    pub fn components(&self) -> [&WorkloadHealth; 2] {
        [&self.controller, &self.speaker]
    }

    /// Whether both rollouts are complete.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.controller.settled && self.speaker.settled
    }
}

/// Assesses the workloads and pods in a namespace. `ignore_label`: `spec.speaker.ignoreExcludeLabel`.
#[must_use]
pub fn stack_health(index: &Index, namespace: &str, ignore_label: bool) -> StackHealth {
    let announces = |(_, pod): &(&lb_runtime::ObjectKey, &PodFacts)| {
        let node = index.nodes().get(&pod.node);
        pod.ready
            && !pod.terminating
            && node.is_some_and(|node| node.is_ready() && node.may_announce(ignore_label))
    };
    StackHealth {
        controller: controller(index, namespace),
        speaker: speaker(index, namespace),
        problems: problems(index, namespace),
        announcing_nodes: pods_of(index, namespace, Component::Speaker.name())
            .filter(announces)
            .count(),
        unheard_pairs: unheard_pairs(index, namespace),
    }
}

fn controller(index: &Index, namespace: &str) -> WorkloadHealth {
    let component = Component::Controller;
    let body = body(index, Kind::Deployment, namespace, component);
    let status = &body["status"];
    let desired = as_i32(&body["spec"]["replicas"]);
    let ready = as_i32(&status["readyReplicas"]);
    let updated = as_i32(&status["updatedReplicas"]);
    let total = as_i32(&status["replicas"]);
    WorkloadHealth {
        component,
        desired,
        ready,
        updated,
        lost: 0,
        lost_nodes: Vec::new(),
        version: version(body),
        // No pods of an older template remain.
        settled: is_observed(body) && updated >= desired && ready >= desired && total <= updated,
        stalled: stalled(status),
        versions: versions(index, namespace, component),
    }
}

fn speaker(index: &Index, namespace: &str) -> WorkloadHealth {
    let component = Component::Speaker;
    let body = body(index, Kind::DaemonSet, namespace, component);
    let status = &body["status"];
    let desired = as_i32(&status["desiredNumberScheduled"]);
    let ready = as_i32(&status["numberReady"]);
    let updated = as_i32(&status["updatedNumberScheduled"]);
    let lost_nodes: Vec<_> = pods_of(index, namespace, component.name())
        .filter(|(_, pod)| pod.node_lost)
        .map(|(_, pod)| pod.node.clone())
        .collect();
    let lost = i32::try_from(lost_nodes.len()).unwrap_or(i32::MAX);
    WorkloadHealth {
        component,
        desired,
        ready,
        updated,
        lost,
        lost_nodes,
        version: version(body),
        settled: is_observed(body)
            && updated.saturating_add(lost) >= desired
            && ready.saturating_add(lost) >= desired,
        stalled: None,
        versions: versions(index, namespace, component),
    }
}

fn body<'a>(index: &'a Index, kind: Kind, namespace: &str, component: Component) -> &'a Value {
    const ABSENT: &Value = &Value::Null;
    index
        .get(&ObjectId::new(kind, namespace, component.name()))
        .map_or(ABSENT, |live| &live.body)
}

/// Whether the status is about the current spec.
pub(crate) fn is_observed(body: &Value) -> bool {
    let generation = body["metadata"]["generation"].as_i64();
    let observed = body["status"]["observedGeneration"].as_i64();
    observed.is_some() && generation.is_some() && observed >= generation
}

/// Whether a workload runs, or is not meant to. `true` for other kinds.
#[must_use]
pub fn has_ready_pod(kind: Kind, live: &LiveObject) -> bool {
    let (spec, status) = (&live.body["spec"], &live.body["status"]);
    let (desired, ready) = match kind {
        Kind::Deployment => (&spec["replicas"], &status["readyReplicas"]),
        Kind::DaemonSet => (&status["desiredNumberScheduled"], &status["numberReady"]),
        _ => return true,
    };
    is_observed(&live.body) && (desired.as_i64() == Some(0) || as_i32(ready) > 0)
}

fn as_i32(value: &Value) -> i32 {
    value
        .as_i64()
        .and_then(|number| i32::try_from(number).ok())
        .unwrap_or(0)
}

fn version(body: &Value) -> Option<String> {
    let labels = body.pointer("/spec/template/metadata/labels")?;
    Some(labels.get("app.kubernetes.io/version")?.as_str()?.to_owned())
}

fn stalled(status: &Value) -> Option<String> {
    let conditions = status["conditions"].as_array()?;
    let progressing = conditions
        .iter()
        .find(|condition| condition["type"] == "Progressing" && condition["status"] == "False")?;
    Some(
        progressing["message"]
            .as_str()
            .unwrap_or("rollout of the Deployment makes no progress")
            .to_owned(),
    )
}

pub(crate) fn pods_of<'a>(
    index: &'a Index,
    namespace: &'a str,
    component: &'a str,
) -> impl Iterator<Item = (&'a lb_runtime::ObjectKey, &'a PodFacts)> {
    index
        .pods(namespace)
        .filter(move |(_, pod)| pod.component == component)
}

fn versions(index: &Index, namespace: &str, component: Component) -> BTreeMap<String, i32> {
    let mut versions = BTreeMap::new();
    for (_, pod) in pods_of(index, namespace, component.name()) {
        *versions.entry(pod.version.clone()).or_default() += 1;
    }
    versions
}

/// Pods that do not exist because admission, a quota or Pod Security refuses them: one clause per workload, with the
/// refuser's words.
#[must_use]
pub fn refused_pods(index: &Index, namespace: &str) -> Vec<String> {
    let controller = ObjectId::new(Kind::Deployment, namespace, Component::Controller.name());
    let of_controller = index.get(&controller).and_then(|live| {
        let conditions = live.body["status"]["conditions"].as_array()?;
        let failure = conditions
            .iter()
            .find(|condition| condition["type"] == "ReplicaFailure" && condition["status"] == "True")?;
        failure["message"].as_str()
    });
    let of_daemon_set = |name| {
        let live = index.get(&ObjectId::new(Kind::DaemonSet, namespace, name))?;
        let count = |field: &str| as_i32(&live.body["status"][field]);
        let is_missing = count("currentNumberScheduled") < count("desiredNumberScheduled");
        index.refusal(&live.uid).filter(|_| is_missing)
    };
    let speaker = Component::Speaker.name();
    let refusals = [
        ("controller", of_controller),
        (speaker, of_daemon_set(speaker)),
        (pre_pull::NAME, of_daemon_set(pre_pull::NAME)),
    ];
    refusals
        .into_iter()
        .filter_map(|(name, message)| Some(format!("{name} pods are refused: {}", message?)))
        .collect()
}

fn problems(index: &Index, namespace: &str) -> Vec<String> {
    // Pods that pull images terminate repeatedly by design: see `render::pre_pull`.
    let pods = index
        .pods(namespace)
        .filter(|(_, pod)| pod.component != pre_pull::NAME);
    let mut all = pods.filter_map(|(key, pod)| {
        let problem = pod.problem.as_ref().filter(|_| !pod.node_lost)?;
        let mut text = format!("pod {}", key.name());
        if !pod.node.is_empty() {
            text.push_str(&format!(" on node {}", pod.node));
        }
        let of = if problem.container.is_some() { ", " } else { ": " };
        text.push_str(&format!("{of}{problem}"));
        Some(text)
    });
    let mut problems = refused_pods(index, namespace);
    problems.extend(all.by_ref().take(LISTED));
    let more = all.count();
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    problems
}

#[cfg(test)]
pub(crate) mod tests {
    use kube::api::DynamicObject;
    use serde_json::json;

    use super::*;

    pub(crate) fn mk_controller(index: &mut Index, generation: i64, observed: i64, counts: [i32; 4]) {
        let [desired, total, updated, ready] = counts;
        let body = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "controller", "namespace": "metallb-system", "uid": "c", "generation": generation},
            "spec": {
                "replicas": desired,
                "template": {"metadata": {"labels": {"app.kubernetes.io/version": "0.1.0"}}},
            },
            "status": {
                "observedGeneration": observed, "replicas": total, "updatedReplicas": updated, "readyReplicas": ready,
            },
        });
        insert(index, Kind::Deployment, body);
    }

    pub(crate) fn mk_speaker(index: &mut Index, generation: i64, observed: i64, counts: [i32; 3]) {
        let [desired, updated, ready] = counts;
        let body = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "speaker", "namespace": "metallb-system", "uid": "s", "generation": generation},
            "spec": {"template": {"metadata": {"labels": {"app.kubernetes.io/version": "0.1.0"}}}},
            "status": {
                "observedGeneration": observed, "desiredNumberScheduled": desired,
                "currentNumberScheduled": desired, "updatedNumberScheduled": updated, "numberReady": ready,
            },
        });
        insert(index, Kind::DaemonSet, body);
    }

    fn insert(index: &mut Index, kind: Kind, body: Value) {
        let object: DynamicObject = serde_json::from_value(body).unwrap();
        let name = object.metadata.name.clone().unwrap();
        index.apply(
            ObjectId::new(kind, "metallb-system", &name),
            LiveObject::new(kind, object),
        );
    }

    pub(crate) fn mk_pod(index: &mut Index, name: &str, status: Value) {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "metallb-system", "labels": {"component": "speaker"}},
            "spec": {"nodeName": "n3", "containers": []},
            "status": status,
        }))
        .unwrap();
        index.apply_pod(&pod, jiff::Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn settled_needs_observed_and_complete_status() {
        // (generation, observed, [desired, total, updated, ready]) and whether that is settled
        let cases = [
            (1, 1, [2, 2, 2, 2], true),
            (2, 1, [2, 2, 2, 2], false),
            (1, 1, [2, 3, 2, 2], false),
            (1, 1, [2, 2, 1, 2], false),
            (1, 1, [2, 2, 2, 1], false),
        ];
        for (generation, observed, counts, settled) in cases {
            let mut index = Index::default();
            mk_controller(&mut index, generation, observed, counts);
            let state = stack_health(&index, "metallb-system", false).controller;
            assert_eq!(state.settled, settled, "{generation} {observed} {counts:?}");
        }
    }

    #[test]
    fn workload_is_restored_when_a_pod_of_its_present_generation_is_ready() {
        for (observed, ready, expected) in [(2, 1, true), (2, 0, false), (1, 3, false)] {
            let mut index = Index::default();
            mk_speaker(&mut index, 2, observed, [3, 3, ready]);
            let id = ObjectId::new(Kind::DaemonSet, "metallb-system", "speaker");
            assert_eq!(
                has_ready_pod(id.kind, index.get(&id).unwrap()),
                expected,
                "{observed} {ready}"
            );
        }
    }

    #[test]
    fn missing_workload_is_not_settled() {
        assert!(!stack_health(&Index::default(), "metallb-system", false).settled());
    }

    #[test]
    fn unreachable_node_does_not_block_settling() {
        let mut index = Index::default();
        mk_speaker(&mut index, 1, 1, [3, 3, 2]);
        assert!(!stack_health(&index, "metallb-system", false).speaker.settled);
        mk_pod(
            &mut index,
            "speaker-x",
            json!({
                "conditions": [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}],
                "containerStatuses": [
                    {"name": "speaker", "image": "", "imageID": "", "restartCount": 0, "ready": true, "state": {}},
                ],
            }),
        );
        let state = stack_health(&index, "metallb-system", false).speaker;
        assert!(state.settled && state.lost == 1);
    }

    #[test]
    fn refused_pods_are_a_problem_until_they_exist() {
        let mut index = Index::default();
        mk_speaker(&mut index, 1, 1, [3, 3, 2]);
        let mk_event = |uid: &str, second: i64, message: &str| {
            serde_json::from_value(json!({
                "metadata": {"name": format!("speaker.{second}"), "namespace": "metallb-system"},
                "involvedObject": {"kind": "DaemonSet", "name": "speaker", "uid": uid},
                "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
                "message": format!("Error creating: {message}"),
            }))
            .unwrap()
        };
        index.apply_refusal(&mk_event(
            "s",
            2,
            "pods \"speaker-\" is forbidden: exceeded quota",
        ));
        index.apply_refusal(&mk_event("s", 1, "older"));
        index.apply_refusal(&mk_event("another", 3, "of another DaemonSet"));
        let problems = |index: &Index| stack_health(index, "metallb-system", false).problems;
        assert_eq!(problems(&index), Vec::<String>::new(), "no pod is missing");
        set_current(&mut index, 2);
        assert_eq!(
            problems(&index),
            ["speaker pods are refused: pods \"speaker-\" is forbidden: exceeded quota"]
        );
        set_current(&mut index, 3);
        assert_eq!(problems(&index), Vec::<String>::new());
    }

    /// Sets how many nodes have a speaker pod.
    fn set_current(index: &mut Index, current: i32) {
        let body = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "speaker", "namespace": "metallb-system", "uid": "s"},
            "status": {"desiredNumberScheduled": 3, "currentNumberScheduled": current},
        });
        insert(index, Kind::DaemonSet, body);
    }

    #[test]
    fn refused_controllers_are_a_problem() {
        let mut index = Index::default();
        let body = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "controller", "namespace": "metallb-system", "uid": "c"},
            "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "denied by policy"}]},
        });
        insert(&mut index, Kind::Deployment, body);
        let problems = stack_health(&index, "metallb-system", false).problems;
        assert_eq!(problems, ["controller pods are refused: denied by policy"]);
    }

    #[test]
    fn problems_name_pod_and_node_up_to_a_limit() {
        let mut index = Index::default();
        for number in 0..5 {
            mk_pod(
                &mut index,
                &format!("speaker-{number}"),
                json!({"containerStatuses": [{
                    "name": "speaker", "image": "", "imageID": "", "restartCount": 0, "ready": false,
                    "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
                }]}),
            );
        }
        let problems = stack_health(&index, "metallb-system", false).problems;
        assert_eq!(
            problems.first().unwrap(),
            "pod speaker-0 on node n3, container speaker: ErrImagePull: not found"
        );
        assert_eq!(problems.len(), 4);
        assert_eq!(problems.last().unwrap(), "and 2 more");
    }
}
