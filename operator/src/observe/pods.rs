//! The relevant facts of a pod: node, readiness and problem. Pure.

use std::fmt;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;

use crate::desired::render::REVISION;

/// Waiting reasons that do not resolve without intervention.
const STUCK: &[&str] = &[
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

/// Those that the image or the settings of the pod cause.
const OWN_FAULTS: &[&str] = &[
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "InvalidImageName",
    "RunContainerError",
];

/// The relevant facts of a pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodFacts {
    /// Label `component`.
    pub component: String,
    /// Node; empty while unscheduled.
    pub node: String,
    /// Condition Ready.
    pub ready: bool,
    /// Whether its node is unreachable. Nothing about the pod can change before the node returns.
    pub node_lost: bool,
    /// Why it does not run.
    pub problem: Option<PodProblem>,
    /// UID.
    pub uid: String,
    /// Label `app.kubernetes.io/version`.
    pub version: String,
    /// Revision of its template.
    pub revision: String,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// When the operator saw it become ready. The node's clock is not compared with others.
    pub ready_since: Option<Timestamp>,
    /// Whether it has ended for good, such as an evicted pod that is left.
    pub ended: bool,
    /// Restarts of its containers after a failure; restarts because the node went down do not count.
    pub restarts: i32,
    /// When the operator saw the last one.
    pub restarted_at: Option<Timestamp>,
    /// Result of running its images once; relevant in pods that pull images.
    pub image_check: ImageCheck,
}

/// Whether every container of a pod ran once and succeeded.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ImageCheck {
    /// Not all containers have finished.
    #[default]
    Pending,
    /// All containers succeeded; the versions that they printed.
    Passed(Vec<String>),
    /// A container failed.
    Failed(PodProblem),
}

/// Why a pod does not run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodProblem {
    /// The container, if the problem is specific to one.
    pub container: Option<String>,
    /// Reason from the kubelet or the scheduler.
    pub reason: String,
    /// Message from the kubelet or the scheduler.
    pub message: String,
}

impl fmt::Display for PodProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(container) = &self.container {
            write!(f, "container {container}: ")?;
        }
        f.write_str(&self.reason)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl PodProblem {
    /// Whether the image or the settings of the pod cause it, not a registry, the scheduler or the node.
    #[must_use]
    pub fn is_own_fault(&self) -> bool {
        OWN_FAULTS.contains(&self.reason.as_str())
    }
}

impl PodFacts {
    /// Extracts the facts of a pod that is observed at `now`. `before`: the facts of its previous observation.
    #[must_use]
    pub fn of(pod: &Pod, before: Option<&Self>, now: Timestamp) -> Self {
        let label = |name| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        let status = pod.status.clone().unwrap_or_default();
        let ready = condition(&status, "Ready") == Some("True");
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let known = before.filter(|before| before.uid == uid);
        let ready_since = known.and_then(|known| known.ready_since).or(Some(now));
        let restarts = status.container_statuses.iter().flatten().map(failures).sum();
        Self {
            uid,
            ended: matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")),
            version: label("app.kubernetes.io/version").cloned().unwrap_or_default(),
            revision: label(REVISION).cloned().unwrap_or_default(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ready_since: ready_since.filter(|_| ready),
            restarted_at: known
                .filter(|known| known.restarts == restarts)
                .map_or(Some(now), |known| known.restarted_at)
                .filter(|_| restarts > 0),
            restarts,
            image_check: image_check(&status),
            component: label("component").cloned().unwrap_or_default(),
            node: node_name(pod).unwrap_or_default(),
            ready,
            node_lost: !ready && is_node_lost(&status),
            problem: if ready { None } else { problem(&status) },
        }
    }
}

/// The node of a pod; of a pod that is not scheduled, the node that the DaemonSet controller made it for.
fn node_name(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.node_name.is_some() {
        return spec.node_name.clone();
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required.node_selector_terms.first()?.match_fields.as_ref()?;
    fields.first()?.values.as_ref()?.first().cloned()
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a str> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some(&found.status)
}

/// When a node becomes unreachable, the node controller sets `Ready` to False and leaves the kubelet's last report:
/// ready containers in a pod that is not ready.
fn is_node_lost(status: &PodStatus) -> bool {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    !containers.is_empty()
        && containers.iter().all(|container| container.ready)
        && condition(status, "ContainersReady") == Some("True")
}

fn problem(status: &PodStatus) -> Option<PodProblem> {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    if let Some(problem) = containers.iter().find_map(container_problem) {
        return Some(problem);
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let unscheduled = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(PodProblem {
        container: None,
        reason: unscheduled
            .reason
            .clone()
            .unwrap_or_else(|| "Unschedulable".to_owned()),
        message: unscheduled.message.clone().unwrap_or_default(),
    })
}

/// A container whose node went down or was restarted has terminated too: with an unknown result, or because of SIGTERM.
fn failures(container: &ContainerStatus) -> i32 {
    let ended = container
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref());
    let known = ended.is_some_and(|ended| {
        let reason = ended.reason.as_deref().unwrap_or_default();
        !matches!(reason, "Unknown" | "ContainerStatusUnknown" | "NodeShutdown")
            && !matches!(ended.exit_code, 0 | 143 | 255)
    });
    if known { container.restart_count } else { 0 }
}

fn image_check(status: &PodStatus) -> ImageCheck {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let success = |container: &ContainerStatus| {
        let states = [container.state.clone(), container.last_state.clone()];
        let mut ended = states.into_iter().flatten().filter_map(|state| state.terminated);
        ended.find(|ended| ended.exit_code == 0)
    };
    let passed = |container: &ContainerStatus| success(container).is_some();
    if !containers.is_empty() && containers.iter().all(passed) {
        let printed = containers.iter().filter_map(success);
        let versions = printed.filter_map(|ended| ended.message);
        return ImageCheck::Passed(versions.map(|version| version.trim().to_owned()).collect());
    }
    let others = containers.iter().filter(|container| !passed(container));
    match others.filter_map(container_problem).next() {
        Some(problem) => ImageCheck::Failed(problem),
        None => ImageCheck::Pending,
    }
}

fn container_problem(container: &ContainerStatus) -> Option<PodProblem> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting
        .reason
        .as_ref()
        .filter(|reason| STUCK.contains(&reason.as_str()))?;
    // The reason CrashLoopBackOff does not say why the last run ended.
    let ended = container
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref())
        .map(|ended| {
            let reason = ended.reason.as_deref().unwrap_or("Error");
            format!("last run ended with exit code {} ({reason})", ended.exit_code)
        });
    let message = match ended {
        Some(ended) if reason == "CrashLoopBackOff" => ended,
        _ => waiting.message.clone().unwrap_or_default(),
    };
    Some(PodProblem {
        container: Some(container.name.clone()),
        reason: reason.clone(),
        message,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_facts(status: Value) -> PodFacts {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "speaker-x", "labels": {"component": "speaker"}},
            "spec": {"nodeName": "n1", "containers": []},
            "status": status,
        }))
        .unwrap();
        PodFacts::of(&pod, None, Timestamp::UNIX_EPOCH)
    }

    fn mk_container(ready: bool, state: &Value, last: &Value) -> Value {
        json!({"name": "speaker", "image": "", "imageID": "", "restartCount": 0, "ready": ready, "state": state, "lastState": last})
    }

    #[test]
    fn image_pull_failure_names_container() {
        let state =
            json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\""}});
        let facts = mk_facts(json!({"containerStatuses": [mk_container(false, &state, &json!({}))]}));
        let problem = facts.problem.unwrap();
        assert_eq!(problem.container.as_deref(), Some("speaker"));
        assert_eq!(problem.reason, "ImagePullBackOff");
        assert!(problem.message.contains("Back-off"));
    }

    #[test]
    fn crash_loop_includes_last_exit_code() {
        let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}});
        let last = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let facts = mk_facts(json!({"containerStatuses": [mk_container(false, &state, &last)]}));
        assert_eq!(
            facts.problem.unwrap().message,
            "last run ended with exit code 137 (OOMKilled)"
        );
    }

    #[test]
    fn container_creation_is_no_problem() {
        let state = json!({"waiting": {"reason": "ContainerCreating"}});
        let facts = mk_facts(json!({"containerStatuses": [mk_container(false, &state, &json!({}))]}));
        assert_eq!(facts.problem, None);
        assert!(!facts.node_lost);
    }

    #[test]
    fn unschedulable_pod_is_a_problem() {
        let facts = mk_facts(json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"},
        ]}));
        assert_eq!(facts.problem.unwrap().message, "0/3 nodes are available");
    }

    #[test]
    fn image_check_reads_the_version_that_each_image_printed() {
        let ended = |message: &str| json!({"terminated": {"exitCode": 0, "message": message}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let facts = mk_facts(json!({"containerStatuses": [
            mk_container(false, &ended("0.1.0"), &json!({})),
            mk_container(false, &waiting, &ended("0.2.0\n")),
        ]}));
        let versions = ["0.1.0", "0.2.0"].map(str::to_owned).to_vec();
        assert_eq!(facts.image_check, ImageCheck::Passed(versions));
    }

    #[test]
    fn unready_pod_with_ready_containers_is_on_lost_node() {
        let state = json!({"running": {}});
        let facts = mk_facts(json!({
            "conditions": [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}],
            "containerStatuses": [mk_container(true, &state, &json!({}))],
        }));
        assert!(facts.node_lost);
    }
}
