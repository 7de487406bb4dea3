//! `sysdump`: objects, events and logs in one archive. Secrets are never read, and passwords in other objects are removed.

mod redact;

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, LogParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use self::redact::Redactor;
use crate::report::note;
use crate::snapshot::Snapshot;

/// Lines of each log.
const LOG_LINES: i64 = 5_000;
/// Objects in one response.
const PAGE: u32 = 500;
/// The pods of the operator.
const OPERATOR: &str = "app.kubernetes.io/name=lb-operator";
/// The copy of the object that kubectl stores: it may have a password in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Whose objects of a kind are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Where {
    /// Of the whole cluster.
    Cluster,
    /// Of the stack's namespace.
    Stack,
}

/// The kinds: group, version, kind, and where. Never Secrets, and no ConfigMaps.
const KINDS: [(&str, &str, &str, Where); 21] = [
    ("lb-operator.io", "v1alpha1", "LoadBalancerStack", Where::Cluster),
    ("metallb.io", "v1beta1", "IPAddressPool", Where::Cluster),
    ("metallb.io", "v1beta1", "L2Advertisement", Where::Cluster),
    ("metallb.io", "v1beta1", "BGPAdvertisement", Where::Cluster),
    ("metallb.io", "v1beta2", "BGPPeer", Where::Cluster),
    ("metallb.io", "v1beta1", "BFDProfile", Where::Cluster),
    ("metallb.io", "v1beta1", "Community", Where::Cluster),
    ("metallb.io", "v1beta1", "ServiceL2Status", Where::Cluster),
    ("metallb.io", "v1beta1", "ConfigurationState", Where::Cluster),
    ("", "v1", "Service", Where::Cluster),
    ("discovery.k8s.io", "v1", "EndpointSlice", Where::Cluster),
    ("", "v1", "Node", Where::Cluster),
    ("", "v1", "Namespace", Where::Cluster),
    ("", "v1", "Pod", Where::Stack),
    ("", "v1", "Event", Where::Cluster),
    ("apps", "v1", "Deployment", Where::Stack),
    ("apps", "v1", "DaemonSet", Where::Stack),
    ("apps", "v1", "ControllerRevision", Where::Stack),
    ("policy", "v1", "PodDisruptionBudget", Where::Stack),
    ("networking.k8s.io", "v1", "NetworkPolicy", Where::Stack),
    ("coordination.k8s.io", "v1", "Lease", Where::Stack),
];

/// A file of the archive.
struct Entry {
    name: String,
    text: String,
}

/// Collects everything and writes the archive. What cannot be read is a line in `errors.txt`.
pub(crate) async fn write(
    client: &Client,
    snapshot: &Snapshot,
    reports: Vec<(&'static str, String)>,
    file: &Path,
    redact: bool,
) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    let mut errors = Vec::new();
    for (name, text) in reports {
        entries.push(Entry {
            name: format!("{name}.txt"),
            text,
        });
    }
    for (group, version, kind, place) in KINDS {
        note(&format!("reading {kind}"));
        match objects(client, snapshot.namespace(), (group, version, kind), place).await {
            Ok(objects) => {
                let objects: Vec<_> = objects.into_iter().map(|object| cleaned(kind, object)).collect();
                entries.push(Entry {
                    name: format!("objects/{kind}.yaml"),
                    text: serde_yaml::to_string(&objects)?,
                });
            }
            Err(error) => errors.push(format!("{kind}: {}", message(&error))),
        }
    }
    logs(client, snapshot, &mut entries, &mut errors).await;
    if !errors.is_empty() {
        entries.push(Entry {
            name: "errors.txt".to_owned(),
            text: errors.join("\n") + "\n",
        });
    }
    if redact {
        let mut redactor = Redactor::new(snapshot);
        for entry in &mut entries {
            entry.name = redactor.apply(&entry.name);
            entry.text = redactor.apply(&entry.text);
        }
    }
    pack(&entries, file, snapshot.now.as_second())
        .with_context(|| format!("write the archive {}", file.display()))
}

/// The words of the API server, if it has answered.
fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Lists a kind, in pages.
async fn objects(
    client: &Client,
    namespace: &str,
    (group, version, kind): (&str, &str, &str),
    place: Where,
) -> Result<Vec<DynamicObject>, kube::Error> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = match place {
        Where::Cluster => Api::all_with(client.clone(), &resource),
        Where::Stack => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// The object without passwords and without what nobody reads.
fn cleaned(kind: &str, mut object: DynamicObject) -> Value {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove(LAST_APPLIED);
    let mut value = serde_json::to_value(&object).unwrap_or_default();
    if kind == "BGPPeer"
        && let Some(password) = value.pointer_mut("/spec/password")
    {
        *password = Value::from("removed");
    }
    if kind == "ControllerRevision" {
        // The backup of a MetalLB has its manifests, whatever is in them.
        if let Some(object) = value.as_object_mut() {
            object.remove("data");
        }
    }
    if kind == "Node"
        && let Some(status) = value.pointer_mut("/status").and_then(Value::as_object_mut)
    {
        status.remove("images");
        for field in ["machineID", "systemUUID", "bootID"] {
            if let Some(info) = status.get_mut("nodeInfo").and_then(Value::as_object_mut) {
                info.remove(field);
            }
        }
    }
    value
}

/// The logs of controller, speakers and operator, also of the containers before a restart.
async fn logs(client: &Client, snapshot: &Snapshot, entries: &mut Vec<Entry>, errors: &mut Vec<String>) {
    let all: Api<Pod> = Api::all(client.clone());
    let operators = all.list(&ListParams::default().labels(OPERATOR)).await;
    let operators = operators.map(|list| list.items).unwrap_or_else(|error| {
        errors.push(format!("pods of the operator: {}", message(&error)));
        Vec::new()
    });
    for pod in snapshot.pods.iter().chain(&operators) {
        let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
        note(&format!("reading the log of {namespace}/{name}"));
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let restarted = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        let restarted = restarted.map(|status| status.restart_count).sum::<i32>() > 0;
        for previous in [false, true] {
            if previous && !restarted {
                continue;
            }
            let params = LogParams {
                previous,
                tail_lines: Some(LOG_LINES),
                timestamps: true,
                ..LogParams::default()
            };
            let suffix = if previous { ".previous" } else { "" };
            match api.logs(&name, &params).await {
                Ok(text) => entries.push(Entry {
                    name: format!("logs/{namespace}/{name}{suffix}.log"),
                    text,
                }),
                Err(error) => errors.push(format!("log of {namespace}/{name}{suffix}: {}", message(&error))),
            }
        }
    }
}

/// Writes the archive. Only its owner may read it.
fn pack(entries: &[Entry], file: &Path, seconds: i64) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file: File = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(entry.text.len())?);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(seconds).unwrap_or_default());
        let name = format!("lb-sysdump/{}", entry.name);
        archive.append_data(&mut header, name, entry.text.as_bytes())?;
    }
    archive.into_inner()?.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_never_read_and_passwords_are_removed() {
        assert!(
            KINDS
                .iter()
                .all(|(_, _, kind, _)| !["Secret", "ConfigMap"].contains(kind))
        );
        let peer = json!({
            "apiVersion": "metallb.io/v1beta2",
            "kind": "BGPPeer",
            "metadata": {"name": "tor", "annotations": {LAST_APPLIED: "{\"password\":\"hunter2\"}"}},
            "spec": {"myASN": 1, "password": "hunter2"},
        });
        let object: DynamicObject = serde_json::from_value(peer).unwrap();
        let text = cleaned("BGPPeer", object).to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("\"password\":\"removed\""), "{text}");
    }

    #[test]
    fn backup_of_metallb_is_left_out() {
        let revision = json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {"name": "metallb-before-adoption"},
            "revision": 1,
            "data": {"manifests": "key: hunter2"},
        });
        let object: DynamicObject = serde_json::from_value(revision).unwrap();
        let text = cleaned("ControllerRevision", object).to_string();
        assert!(!text.contains("hunter2"), "{text}");
    }
}
