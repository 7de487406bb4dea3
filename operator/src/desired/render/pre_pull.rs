//! The DaemonSet that pulls the images of an upgrade before anything restarts: on the nodes of the speakers, each image
//! runs once and tells its version. That proves that the image is there and is made for the machine.
//!
//! Our images hold one program and nothing that sleeps, so the containers end, and the kubelet starts them again, less and
//! less often, for the minute that the DaemonSet lives. It has no token, no capability and no network of the host.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use serde_json::json;

use super::{Component, Objects, REVISION, Wanted, pod};
use crate::desired::config::Plan;
use crate::object_id::{Kind, ObjectId};

/// Its name, and the label `component` of its pods.
pub const NAME: &str = "speaker-prepull";

/// The DaemonSet for the images of a plan. `revision` is the one that they are pulled for.
#[must_use]
pub fn render(plan: &Plan, revision: &str) -> Option<Wanted> {
    let id = ObjectId::new(Kind::DaemonSet, &plan.namespace, NAME);
    let mut labels = Component::Speaker.labels(&plan.version);
    labels.insert("component".to_owned(), NAME.to_owned());
    labels.insert("app.kubernetes.io/component".to_owned(), NAME.to_owned());
    labels.insert(REVISION.to_owned(), revision.to_owned());
    let mut node_selector = plan.speaker.node_selector.clone();
    node_selector.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
    let tolerations = plan.speaker.tolerations.clone();
    let tolerations: Vec<Toleration> = tolerations.unwrap_or_else(pod::control_plane_tolerations);
    let container = |name: &str, image: &str| {
        json!({
            "name": name,
            "image": image,
            "imagePullPolicy": plan.pull_policy,
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
        "metadata": { "namespace": plan.namespace, "name": NAME, "labels": labels },
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
                        container("speaker", &plan.speaker.image),
                        container("controller", &plan.controller.image),
                    ],
                },
            },
        },
    });
    let pod = &mut body["spec"]["template"]["spec"];
    if let Some(affinity) = &plan.speaker.affinity {
        pod["affinity"] = json!(affinity);
    }
    if !plan.pull_secrets.is_empty() {
        pod["imagePullSecrets"] = plan
            .pull_secrets
            .iter()
            .map(|name| json!({ "name": name }))
            .collect();
    }
    let mut objects = Objects {
        owner: &plan.owner,
        version: &plan.version,
        wanted: Vec::new(),
    };
    objects.add_json(id, None, body);
    objects.wanted.pop()
}
