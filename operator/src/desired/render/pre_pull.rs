//! The DaemonSet that pulls the images of an upgrade before anything restarts. On each speaker node, every image runs
//! once and prints its version. That proves that the image exists and matches the architecture.
//!
//! The images contain a single program and nothing else, so the containers terminate, and the kubelet restarts them
//! with backoff while the DaemonSet exists. It has no token, no capabilities and no host network.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use serde_json::json;

use super::{Component, DesiredObject, Objects, REVISION, pod};
use crate::desired::config::StackConfig;
use crate::object_id::{Kind, ObjectId};

/// Name of the DaemonSet, and label `component` of its pods.
pub const NAME: &str = "speaker-prepull";

/// Renders the DaemonSet for the images of `revision`.
#[must_use]
pub fn render(config: &StackConfig, revision: &str) -> Option<DesiredObject> {
    let id = ObjectId::new(Kind::DaemonSet, &config.namespace, NAME);
    let mut labels = Component::Speaker.labels(&config.version);
    labels.insert("component".to_owned(), NAME.to_owned());
    labels.insert("app.kubernetes.io/component".to_owned(), NAME.to_owned());
    labels.insert(REVISION.to_owned(), revision.to_owned());
    let mut node_selector = config.speaker.node_selector.clone();
    node_selector.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
    let tolerations = config.speaker.tolerations.clone();
    let tolerations: Vec<Toleration> = tolerations.unwrap_or_else(pod::control_plane_tolerations);
    let container = |name: &str, image: &str| {
        json!({
            "name": name,
            "image": image,
            "imagePullPolicy": config.pull_policy,
            "args": ["--version"],
            "resources": { "requests": { "cpu": "1m", "memory": "8Mi" } },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
        })
    };
    let mut body = json!({
        "metadata": { "namespace": config.namespace, "name": NAME, "labels": labels },
        "spec": {
            "selector": { "matchLabels": BTreeMap::from([("app", "metallb"), ("component", NAME)]) },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": 1,
                    "nodeSelector": node_selector,
                    "tolerations": tolerations,
                    "containers": [
                        container("speaker", &config.speaker.image),
                        container("controller", &config.controller.image),
                    ],
                },
            },
        },
    });
    let pod = &mut body["spec"]["template"]["spec"];
    if let Some(affinity) = &config.speaker.affinity {
        pod["affinity"] = json!(affinity);
    }
    if !config.pull_secrets.is_empty() {
        pod["imagePullSecrets"] = config
            .pull_secrets
            .iter()
            .map(|name| json!({ "name": name }))
            .collect();
    }
    let mut objects = Objects {
        owner: &config.owner,
        version: &config.version,
        wanted: Vec::new(),
    };
    objects.add_json(id, None, body);
    objects.wanted.pop()
}
