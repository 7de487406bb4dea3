//! Metadata and rendered objects of the chart, converted for OLM.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::BundleError;

/// Metadata and objects of the chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Version of chart and operator.
    pub version: String,
    /// Description in one sentence.
    pub description: String,
    /// Minimum version of Kubernetes.
    pub min_kube_version: String,
    /// Keywords.
    pub keywords: Vec<String>,
    /// Maintainers.
    pub maintainers: Vec<Maintainer>,
    /// Name of the operator's ServiceAccount.
    pub service_account: String,
    /// Rules of its ClusterRole, without write permissions for CRDs.
    pub cluster_rules: Vec<Value>,
    /// Rules of its Role.
    pub rules: Vec<Value>,
    /// Deployment of the operator.
    pub deployment: Value,
    /// Objects that the bundle contains unchanged.
    pub objects: Vec<BundleObject>,
}

/// A maintainer of the chart.
#[derive(Clone, Debug, Deserialize)]
pub struct Maintainer {
    /// Name.
    pub name: String,
}

/// An object that the bundle contains unchanged.
#[derive(Clone, Debug)]
pub struct BundleObject {
    /// Manifest of the object.
    pub body: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    app_version: String,
    description: String,
    keywords: Vec<String>,
    kube_version: String,
    maintainers: Vec<Maintainer>,
}

/// Kinds that a bundle may contain.
const SUPPORTED_KINDS: [&str; 6] = [
    "ConfigMap",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PrometheusRule",
    "Service",
    "ServiceMonitor",
];

/// Labels of objects managed by Helm.
const HELM_LABELS: [&str; 2] = ["app.kubernetes.io/managed-by", "helm.sh/chart"];

/// Whether Kubernetes adds the rules of a ClusterRole to its own ClusterRoles.
fn is_aggregated(body: &Value) -> bool {
    let labels = body["metadata"]["labels"].as_object();
    let mut names = labels.into_iter().flatten().map(|(name, _)| name);
    names.any(|name| name.starts_with("rbac.authorization.k8s.io/aggregate-to-"))
}

impl Chart {
    /// Parses `Chart.yaml` and the output of `helm template`.
    ///
    /// # Errors
    /// If an object is missing, duplicate or not supported by OLM.
    pub fn new(metadata: &str, rendered: &str) -> Result<Self, BundleError> {
        let parse_error = |document: &str| {
            let action = format!("parse {document}");
            move |source| BundleError::Yaml { action, source }
        };
        let metadata: Metadata = serde_yaml::from_str(metadata).map_err(parse_error("Chart.yaml"))?;
        let (mut service_account, mut cluster_rules, mut rules, mut deployment) = (None, None, None, None);
        let mut objects = Vec::new();
        for document in serde_yaml::Deserializer::from_str(rendered) {
            let mut body = Value::deserialize(document).map_err(parse_error("the rendered chart"))?;
            let kind = body["kind"].as_str().unwrap_or_default().to_owned();
            if is_hook(&body) {
                continue;
            }
            remove_helm_metadata(&mut body);
            match kind.as_str() {
                // For users; a bundle contains no ClusterRoles of its own.
                "ClusterRole" if is_aggregated(&body) => {}
                "ClusterRole" => {
                    let rules = without_crd_writes(&list(&body["rules"]));
                    set_once(&mut cluster_rules, rules, "ClusterRole")?;
                }
                "Role" => set_once(&mut rules, list(&body["rules"]), "Role")?,
                "Deployment" => set_once(&mut deployment, disable_crd_management(body), "Deployment")?,
                "ServiceAccount" => {
                    let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    set_once(&mut service_account, name, "ServiceAccount")?;
                }
                // OLM creates the bindings, and installs the CRDs from the bundle.
                "ClusterRoleBinding" | "RoleBinding" | "CustomResourceDefinition" => {}
                // OLM cannot install admission policies. Without it, objects in a wrong namespace are ignored.
                "ValidatingAdmissionPolicy" | "ValidatingAdmissionPolicyBinding" => {}
                kind if SUPPORTED_KINDS.contains(&kind) => objects.push(BundleObject { body }),
                // A document with only comments.
                "" => {}
                other => return Err(BundleError::Unsupported(other.to_owned())),
            }
        }
        Ok(Self {
            min_kube_version: metadata
                .kube_version
                .trim_start_matches(">=")
                .trim_end_matches("-0")
                .to_owned(),
            version: metadata.app_version,
            description: metadata.description,
            keywords: metadata.keywords,
            maintainers: metadata.maintainers,
            service_account: service_account.ok_or(BundleError::Missing("ServiceAccount"))?,
            cluster_rules: cluster_rules.ok_or(BundleError::Missing("ClusterRole"))?,
            rules: rules.ok_or(BundleError::Missing("Role"))?,
            deployment: deployment.ok_or(BundleError::Missing("Deployment"))?,
            objects,
        })
    }
}

impl BundleObject {
    /// Path relative to `olm/`: name, version and kind, as in other OLM tools.
    #[must_use]
    pub fn path(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().replace('/', "_");
        let version = text(&self.body["apiVersion"]);
        let (name, kind) = (text(&self.body["metadata"]["name"]), text(&self.body["kind"]));
        format!("bundle/manifests/{name}_{version}_{}.yaml", kind.to_lowercase())
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T, kind: &'static str) -> Result<(), BundleError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(BundleError::Duplicate(kind)),
    }
}

/// Whether the object is a Helm hook, which OLM does not support.
fn is_hook(body: &Value) -> bool {
    body["metadata"]["annotations"].get("helm.sh/hook").is_some()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Removes namespace and labels that Helm sets. OLM chooses the namespace.
fn remove_helm_metadata(body: &mut Value) {
    for path in ["/metadata", "/spec/template/metadata"] {
        let Some(metadata) = body.pointer_mut(path).and_then(Value::as_object_mut) else {
            continue;
        };
        metadata.remove("namespace");
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.retain(|key, _| !HELM_LABELS.contains(&key.as_str()));
        }
    }
}

/// The rules without write permissions for CustomResourceDefinitions. OLM installs them, and warns of operators with
/// these permissions.
fn without_crd_writes(rules: &[Value]) -> Vec<Value> {
    let is_for_crds = |rule: &Value| list(&rule["apiGroups"]).contains(&json!("apiextensions.k8s.io"));
    rules
        .iter()
        .filter_map(|rule| {
            let mut rule = rule.clone();
            if is_for_crds(&rule) {
                let mut verbs = list(&rule["verbs"]);
                verbs.retain(|verb| ["get", "list", "watch"].iter().any(|read| verb == read));
                if verbs.is_empty() {
                    return None;
                }
                rule["verbs"] = Value::Array(verbs);
            }
            Some(rule)
        })
        .collect()
}

fn disable_crd_management(mut deployment: Value) -> Value {
    let environment = deployment.pointer_mut("/spec/template/spec/containers/0/env");
    if let Some(environment) = environment.and_then(Value::as_array_mut) {
        environment.push(json!({"name": "LB_MANAGE_CRDS", "value": "false"}));
    }
    deployment
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = "appVersion: 0.1.0\ndescription: d\nkeywords: []\nkubeVersion: '>=1.31.0-0'\n\
         maintainers: [{name: n}]\n";
    const OBJECTS: &str = "\
kind: ServiceAccount
metadata: {name: operator}
---
# Only a comment.
---
kind: ClusterRole
rules:
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [get, create]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], resourceNames: [x], verbs: [patch]}
- {apiGroups: [''], resources: [pods], verbs: [get]}
---
kind: Role
rules: []
---
kind: Deployment
metadata: {name: operator, namespace: x, labels: {helm.sh/chart: c, app: a}}
spec: {template: {spec: {containers: [{env: []}]}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: operator}
---
kind: Job
metadata: {annotations: {helm.sh/hook: pre-delete}}
";

    #[test]
    fn helm_metadata_and_crd_writes_are_removed() {
        let chart = Chart::new(METADATA, OBJECTS).unwrap();
        assert_eq!(chart.min_kube_version, "1.31.0");
        let verbs: Vec<_> = chart.cluster_rules.iter().map(|rule| &rule["verbs"]).collect();
        assert_eq!(verbs, [&json!(["get"]), &json!(["get"])]);
        assert_eq!(
            chart.deployment["metadata"],
            json!({"name": "operator", "labels": {"app": "a"}})
        );
        let objects: Vec<_> = chart.objects.iter().map(BundleObject::path).collect();
        assert_eq!(
            objects,
            ["bundle/manifests/operator_policy_v1_poddisruptionbudget.yaml"]
        );
    }

    #[test]
    fn unsupported_objects_are_rejected() {
        for (document, expected) in [
            ("kind: DaemonSet", "DaemonSet"),
            (
                "kind: ValidatingWebhookConfiguration",
                "ValidatingWebhookConfiguration",
            ),
            ("kind: Role\nrules: []", "second Role"),
        ] {
            let error = Chart::new(METADATA, &format!("{OBJECTS}---\n{document}")).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let without = OBJECTS.replace("kind: Role\n", "kind: PrometheusRule\n");
        let error = Chart::new(METADATA, &without).unwrap_err();
        assert!(error.to_string().contains("no Role"), "{error}");
    }
}
