//! The CustomResourceDefinitions, made from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceValidation,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::schema;
use crate::{ConfigurationState, IPAddressPool, L2Advertisement, LoadBalancerStack, ServiceL2Status};

/// The kinds of `metallb.io`, which the operator installs.
#[must_use]
pub fn metallb_crds() -> Vec<CustomResourceDefinition> {
    vec![
        finish(IPAddressPool::crd(), Spec::Required),
        // MetalLB takes these without a spec: `kind: L2Advertisement` and a name announce every pool.
        finish(L2Advertisement::crd(), Spec::Optional),
        finish(ServiceL2Status::crd(), Spec::Optional),
        finish(ConfigurationState::crd(), Spec::Optional),
    ]
}

/// The kind of `lb-operator.io`, which the chart installs.
#[must_use]
pub fn stack_crd() -> CustomResourceDefinition {
    finish(LoadBalancerStack::crd(), Spec::Optional)
}

/// Whether objects have to have a spec.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Spec {
    Required,
    /// The API server fills in an empty one, so that programs always find it.
    Optional,
}

fn finish(mut definition: CustomResourceDefinition, spec: Spec) -> CustomResourceDefinition {
    let names = &mut definition.spec.names;
    names.list_kind = Some(format!("{}List", names.kind));
    // No categories and no short names are no fields at all, as the API server would return them.
    names.categories = names.categories.take().filter(|list| !list.is_empty());
    names.short_names = names.short_names.take().filter(|list| !list.is_empty());
    for version in &mut definition.spec.versions {
        let columns = version.additional_printer_columns.take();
        version.additional_printer_columns = columns.filter(|list| !list.is_empty());
        version.selectable_fields = version.selectable_fields.take().filter(|list| !list.is_empty());
        if let Some(validation) = &mut version.schema {
            *validation = tidied(validation, spec);
        }
    }
    definition
}

/// The same with a tidy schema. The detour over JSON loses nothing, so it fails only if the types of k8s-openapi cannot
/// read what they wrote; the derived schema is then better than none.
fn tidied(validation: &CustomResourceValidation, spec: Spec) -> CustomResourceValidation {
    let tidied = || -> serde_json::Result<CustomResourceValidation> {
        let mut validation = serde_json::to_value(validation)?;
        if let Some(root) = validation.get_mut("openAPIV3Schema") {
            schema::tidy(root);
            if spec == Spec::Optional {
                schema::fill_in(root, "spec", json!({}));
            }
            add_type_and_metadata(root);
        }
        serde_json::from_value(validation)
    };
    tidied().unwrap_or_else(|_| validation.clone())
}

/// The fields of every object. The derived schema leaves them out; `kubectl explain` and editors want them.
fn add_type_and_metadata(root: &mut Value) {
    let Some(Value::Object(properties)) = root.get_mut("properties") else {
        return;
    };
    properties.insert(
        "apiVersion".to_owned(),
        json!({"type": "string", "description": "Group and version of the object's kind."}),
    );
    properties.insert(
        "kind".to_owned(),
        json!({"type": "string", "description": "The object's kind."}),
    );
    properties.insert("metadata".to_owned(), json!({"type": "object"}));
}

/// A file that is generated from the types.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct File {
    /// Where it belongs, relative to the repository's `crds/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

const HEADER: &str = "# Generated from the types in crds/src by `make generate`. Do not edit.\n";

/// The generated files: a CustomResourceDefinition each, and the stack's once more as a template of the chart.
///
/// # Errors
/// When YAML cannot be written, which the types rule out.
pub fn files() -> Result<Vec<File>, serde_yaml::Error> {
    let mut files = Vec::new();
    for definition in metallb_crds().iter().chain([&stack_crd()]) {
        files.push(File {
            path: format!("{}_{}.yaml", definition.spec.group, definition.spec.names.plural),
            text: format!("{HEADER}---\n{}", yaml(definition)?),
        });
    }
    files.push(File {
        path: "../charts/lb-operator/templates/loadbalancerstack-crd.yaml".to_owned(),
        text: template(&stack_crd())?,
    });
    Ok(files)
}

/// YAML with sorted keys, so that it is the same each time and differences are easy to read.
fn yaml(definition: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    // serde_json's map sorts its keys; going through text keeps serde_yaml from knowing the struct's order.
    let value: Value = serde_yaml::from_str(&serde_yaml::to_string(definition)?)?;
    serde_yaml::to_string(&value)
}

/// The same as a template: installed and kept as the chart's values say.
///
/// The chart, not its directory `crds/`, holds it, because Helm never upgrades what is there.
fn template(definition: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    const KEEP: &str = "metadata:\n  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n";
    // Braces in a description would be commands to Helm.
    let text = yaml(definition)?.replace("{{", "{{ \"{{\" }}");
    let text = text.replacen("metadata:\n", KEEP, 1);
    Ok(format!(
        "{HEADER}{{{{- if .Values.crds.enabled }}}}\n---\n{text}{{{{- end }}}}\n"
    ))
}
