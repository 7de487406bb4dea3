//! What is of interest about a pod of the stack: where it is, whether it is ready, and if not, why not. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

/// Why a container waits, when waiting longer will not help by itself.
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

/// A pod, cut down to what a status tells about it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodFacts {
    /// Its label `component`.
    pub component: String,
    /// The node that it is bound to; empty while it is unscheduled.
    pub node: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether its node stopped answering, so that nothing about it can change before the node returns.
    pub node_lost: bool,
    /// What keeps it from running.
    pub trouble: Option<Trouble>,
}

/// What keeps a pod from running.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// The container, if one is to blame.
    pub container: Option<String>,
    /// The kubelet's or the scheduler's word for it.
    pub reason: String,
    /// Their explanation.
    pub message: String,
}

impl PodFacts {
    /// The facts of a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let label = |name| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        let status = pod.status.clone().unwrap_or_default();
        let ready = condition(&status, "Ready") == Some("True");
        Self {
            component: label("component").cloned().unwrap_or_default(),
            node: pod
                .spec
                .as_ref()
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_default(),
            ready,
            node_lost: !ready && is_node_lost(&status),
            trouble: if ready { None } else { trouble(&status) },
        }
    }
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a str> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some(&found.status)
}

/// The node controller takes `Ready` from the pods of a node that is lost and leaves all else as the kubelet last
/// said it: containers that are ready in a pod that is not.
fn is_node_lost(status: &PodStatus) -> bool {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    !containers.is_empty()
        && containers.iter().all(|container| container.ready)
        && condition(status, "ContainersReady") == Some("True")
}

fn trouble(status: &PodStatus) -> Option<Trouble> {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    if let Some(trouble) = containers.iter().find_map(container_trouble) {
        return Some(trouble);
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let unscheduled = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(Trouble {
        container: None,
        reason: unscheduled
            .reason
            .clone()
            .unwrap_or_else(|| "Unschedulable".to_owned()),
        message: unscheduled.message.clone().unwrap_or_default(),
    })
}

fn container_trouble(container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting
        .reason
        .as_ref()
        .filter(|reason| STUCK.contains(&reason.as_str()))?;
    // A crash loop explains itself only by how the last run ended.
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
    Some(Trouble {
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
        PodFacts::of(&pod)
    }

    fn mk_container(ready: bool, state: &Value, last: &Value) -> Value {
        json!({"name": "speaker", "image": "", "imageID": "", "restartCount": 0, "ready": ready, "state": state, "lastState": last})
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_trouble_that_names_the_container() {
        let state =
            json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\""}});
        let facts = mk_facts(json!({"containerStatuses": [mk_container(false, &state, &json!({}))]}));
        let trouble = facts.trouble.unwrap();
        assert_eq!(trouble.container.as_deref(), Some("speaker"));
        assert_eq!(trouble.reason, "ImagePullBackOff");
        assert!(trouble.message.contains("Back-off"));
    }

    #[test]
    fn a_crash_loop_tells_how_the_last_run_ended() {
        let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}});
        let last = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let facts = mk_facts(json!({"containerStatuses": [mk_container(false, &state, &last)]}));
        assert_eq!(
            facts.trouble.unwrap().message,
            "last run ended with exit code 137 (OOMKilled)"
        );
    }

    #[test]
    fn a_container_being_created_is_no_trouble() {
        let state = json!({"waiting": {"reason": "ContainerCreating"}});
        let facts = mk_facts(json!({"containerStatuses": [mk_container(false, &state, &json!({}))]}));
        assert_eq!(facts.trouble, None);
        assert!(!facts.node_lost);
    }

    #[test]
    fn a_pod_that_fits_no_node_is_trouble() {
        let facts = mk_facts(json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"},
        ]}));
        assert_eq!(facts.trouble.unwrap().message, "0/3 nodes are available");
    }

    #[test]
    fn ready_containers_in_a_pod_that_is_not_mean_a_lost_node() {
        let state = json!({"running": {}});
        let facts = mk_facts(json!({
            "conditions": [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}],
            "containerStatuses": [mk_container(true, &state, &json!({}))],
        }));
        assert!(facts.node_lost);
    }
}
