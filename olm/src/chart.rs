//! The chart, taken apart: what Helm renders with the chart's own values, as OLM wants to have it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;

/// The chart's metadata and objects.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Version of chart and operator.
    pub version: String,
    /// What it is, in one sentence.
    pub description: String,
    /// Lowest version of Kubernetes.
    pub min_kube_version: String,
    /// Where the project is at home.
    pub home: String,
    /// Words to find it by.
    pub keywords: Vec<String>,
    /// Who maintains it.
    pub maintainers: Vec<Maintainer>,
    /// Name of the operator's ServiceAccount.
    pub service_account: String,
    /// Rules of its ClusterRole, without those that OLM takes over.
    pub cluster_rules: Vec<Value>,
    /// Rules of its Role.
    pub rules: Vec<Value>,
    /// Its Deployment.
    pub deployment: Value,
    /// What else there is, for the bundle.
    pub others: Vec<Object>,
}

/// A maintainer, as the chart names them.
#[derive(Clone, Debug, Deserialize)]
pub struct Maintainer {
    /// Name.
    pub name: String,
    /// Address for mail.
    #[serde(default)]
    pub email: String,
}

/// An object that goes into the bundle as it is.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its manifest.
    pub body: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    app_version: String,
    description: String,
    home: String,
    keywords: Vec<String>,
    kube_version: String,
    maintainers: Vec<Maintainer>,
}

/// Kinds that a bundle may hold as they are.
const PLAIN_KINDS: [&str; 6] = [
    "ConfigMap",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PrometheusRule",
    "Service",
    "ServiceMonitor",
];

/// Labels that say that Helm manages the object.
const HELM_LABELS: [&str; 2] = ["app.kubernetes.io/managed-by", "helm.sh/chart"];

impl Chart {
    /// Takes the chart apart: `metadata` is its `Chart.yaml`, `rendered` is what `helm template` prints.
    ///
    /// # Errors
    /// When it lacks something, or has an object that OLM does not take.
    pub fn new(metadata: &str, rendered: &str) -> Result<Self, Error> {
        let unreadable = |what: &str| {
            let what = format!("read {what}");
            move |source| Error::Yaml { what, source }
        };
        let metadata: Metadata = serde_yaml::from_str(metadata).map_err(unreadable("Chart.yaml"))?;
        let (mut service_account, mut cluster_rules, mut rules, mut deployment) = (None, None, None, None);
        let mut others = Vec::new();
        for document in serde_yaml::Deserializer::from_str(rendered) {
            let mut body = Value::deserialize(document).map_err(unreadable("the rendered chart"))?;
            let kind = body["kind"].as_str().unwrap_or_default().to_owned();
            if is_hook(&body) {
                continue;
            }
            forget_helm(&mut body);
            match kind.as_str() {
                "ClusterRole" => {
                    let rules = without_crd_writes(&list(&body["rules"]));
                    set_once(&mut cluster_rules, rules, "ClusterRole")?;
                }
                "Role" => set_once(&mut rules, list(&body["rules"]), "Role")?,
                "Deployment" => set_once(&mut deployment, leave_crds_to_olm(body), "Deployment")?,
                "ServiceAccount" => {
                    let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    set_once(&mut service_account, name, "ServiceAccount")?;
                }
                // OLM binds the rules itself, and takes the kinds from the bundle.
                "ClusterRoleBinding" | "RoleBinding" | "CustomResourceDefinition" => {}
                kind if PLAIN_KINDS.contains(&kind) => others.push(Object { body }),
                // A document of comments alone.
                "" => {}
                other => return Err(Error::Unsupported(other.to_owned())),
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
            home: metadata.home,
            keywords: metadata.keywords,
            maintainers: metadata.maintainers,
            service_account: service_account.ok_or(Error::Missing("ServiceAccount"))?,
            cluster_rules: cluster_rules.ok_or(Error::Missing("ClusterRole"))?,
            rules: rules.ok_or(Error::Missing("Role"))?,
            deployment: deployment.ok_or(Error::Missing("Deployment"))?,
            others,
        })
    }
}

impl Object {
    /// Where it belongs, relative to `olm/`: name, version and kind, as tools of OLM name files.
    #[must_use]
    pub fn path(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().replace('/', "_");
        let version = text(&self.body["apiVersion"]);
        let (name, kind) = (text(&self.body["metadata"]["name"]), text(&self.body["kind"]));
        format!("bundle/manifests/{name}_{version}_{}.yaml", kind.to_lowercase())
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T, kind: &'static str) -> Result<(), Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Twice(kind)),
    }
}

/// Whether an object exists only while Helm installs or removes something: OLM has nothing like it.
fn is_hook(body: &Value) -> bool {
    body["metadata"]["annotations"].get("helm.sh/hook").is_some()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Namespace and labels that are Helm's: OLM chooses the one, and is not the other.
fn forget_helm(body: &mut Value) {
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

/// The rules without the right to write CustomResourceDefinitions: here they are OLM's, and it warns of operators that hold
/// the right.
fn without_crd_writes(rules: &[Value]) -> Vec<Value> {
    let about_crds = |rule: &Value| list(&rule["apiGroups"]).contains(&json!("apiextensions.k8s.io"));
    rules
        .iter()
        .filter_map(|rule| {
            let mut rule = rule.clone();
            if about_crds(&rule) {
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

fn leave_crds_to_olm(mut deployment: Value) -> Value {
    let environment = deployment.pointer_mut("/spec/template/spec/containers/0/env");
    if let Some(environment) = environment.and_then(Value::as_array_mut) {
        environment.push(json!({"name": "LB_MANAGE_CRDS", "value": "false"}));
    }
    deployment
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = "appVersion: 0.1.0\ndescription: d\nhome: https://h\nkeywords: []\nkubeVersion: '>=1.31.0-0'\n\
         maintainers: [{name: n}]\n";
    const OBJECTS: &str = "\
kind: ServiceAccount
metadata: {name: operator}
---
# Nothing but a comment.
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
    fn the_kinds_are_left_to_olm_and_what_is_helms_is_left_out() {
        let chart = Chart::new(METADATA, OBJECTS).unwrap();
        assert_eq!(chart.min_kube_version, "1.31.0");
        let verbs: Vec<_> = chart.cluster_rules.iter().map(|rule| &rule["verbs"]).collect();
        assert_eq!(verbs, [&json!(["get"]), &json!(["get"])]);
        assert_eq!(
            chart.deployment["metadata"],
            json!({"name": "operator", "labels": {"app": "a"}})
        );
        let others: Vec<_> = chart.others.iter().map(Object::path).collect();
        assert_eq!(
            others,
            ["bundle/manifests/operator_policy_v1_poddisruptionbudget.yaml"]
        );
    }

    #[test]
    fn what_olm_does_not_take_is_named() {
        for (more, says) in [
            ("kind: DaemonSet", "DaemonSet"),
            (
                "kind: ValidatingWebhookConfiguration",
                "ValidatingWebhookConfiguration",
            ),
            ("kind: Role\nrules: []", "second Role"),
        ] {
            let error = Chart::new(METADATA, &format!("{OBJECTS}---\n{more}")).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        let without = OBJECTS.replace("kind: Role\n", "kind: PrometheusRule\n");
        let error = Chart::new(METADATA, &without).unwrap_err();
        assert!(error.to_string().contains("no Role"), "{error}");
    }
}
