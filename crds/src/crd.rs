//! The CustomResourceDefinitions, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceValidation,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::schema;
use crate::{
    BFDProfile, BGPAdvertisement, Community, ConfigurationState, IPAddressPool, L2Advertisement,
    LoadBalancerStack, ServiceL2Status, bgp_peer,
};

/// The CRDs of `metallb.io`, which the operator installs.
#[must_use]
pub fn metallb_crds() -> Vec<CustomResourceDefinition> {
    vec![
        finish(IPAddressPool::crd(), SpecPresence::Required),
        // MetalLB accepts these without a spec: an L2Advertisement without one announces every pool.
        finish(L2Advertisement::crd(), SpecPresence::Optional),
        finish(ServiceL2Status::crd(), SpecPresence::Optional),
        finish(ConfigurationState::crd(), SpecPresence::Optional),
        finish(bgp_peer::definition(), SpecPresence::Required),
        finish(BGPAdvertisement::crd(), SpecPresence::Optional),
        finish(BFDProfile::crd(), SpecPresence::Optional),
        finish(Community::crd(), SpecPresence::Optional),
    ]
}

/// The CRD of `lb-operator.io`, which the chart installs.
#[must_use]
pub fn stack_crd() -> CustomResourceDefinition {
    finish(LoadBalancerStack::crd(), SpecPresence::Optional)
}

/// Whether the spec of an object is required.
#[derive(Clone, Copy, Eq, PartialEq)]
enum SpecPresence {
    Required,
    /// The API server adds an empty spec, so it is always present.
    Optional,
}

fn finish(mut definition: CustomResourceDefinition, spec: SpecPresence) -> CustomResourceDefinition {
    let names = &mut definition.spec.names;
    names.list_kind = Some(format!("{}List", names.kind));
    // Empty lists are omitted, as the API server does.
    names.categories = names.categories.take().filter(|list| !list.is_empty());
    names.short_names = names.short_names.take().filter(|list| !list.is_empty());
    for version in &mut definition.spec.versions {
        let columns = version.additional_printer_columns.take();
        version.additional_printer_columns = columns.filter(|list| !list.is_empty());
        version.selectable_fields = version.selectable_fields.take().filter(|list| !list.is_empty());
        if let Some(validation) = &mut version.schema {
            *validation = tidy_validation(validation, spec);
        }
    }
    definition
}

/// The schema after [`schema::tidy`]. The round trip through JSON fails only if k8s-openapi cannot read its own
/// output; the derived schema is used then.
fn tidy_validation(validation: &CustomResourceValidation, spec: SpecPresence) -> CustomResourceValidation {
    let tidy = || -> serde_json::Result<CustomResourceValidation> {
        let mut validation = serde_json::to_value(validation)?;
        if let Some(root) = validation.get_mut("openAPIV3Schema") {
            schema::tidy(root);
            if spec == SpecPresence::Optional {
                schema::set_default(root, "spec", json!({}));
            }
            add_type_and_metadata(root);
        }
        serde_json::from_value(validation)
    };
    tidy().unwrap_or_else(|_| validation.clone())
}

/// Adds the fields of every object for `kubectl explain` and editors. The derived schema lacks them.
fn add_type_and_metadata(root: &mut Value) {
    let Some(Value::Object(properties)) = root.get_mut("properties") else {
        return;
    };
    properties.insert(
        "apiVersion".to_owned(),
        json!({"type": "string", "description": "API group and version of the kind."}),
    );
    properties.insert(
        "kind".to_owned(),
        json!({"type": "string", "description": "Kind of the object."}),
    );
    properties.insert("metadata".to_owned(), json!({"type": "object"}));
}

/// A file generated from the types.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GeneratedFile {
    /// Path relative to the repository's `crds/`.
    pub path: String,
    /// Content of the file.
    pub text: String,
}

const HEADER: &str = "# Generated from the types in crds/src by `make generate`. Do not edit.\n";

/// The generated files: one per CustomResourceDefinition, and the one of the stack also as a template of the chart.
///
/// # Errors
/// If a type cannot be serialized as YAML.
pub fn files() -> Result<Vec<GeneratedFile>, serde_yaml::Error> {
    let mut files = Vec::new();
    for definition in metallb_crds().iter().chain([&stack_crd()]) {
        files.push(GeneratedFile {
            path: format!("{}_{}.yaml", definition.spec.group, definition.spec.names.plural),
            text: format!("{HEADER}---\n{}", yaml(definition)?),
        });
    }
    files.push(GeneratedFile {
        path: "../charts/lb-operator/templates/loadbalancerstack-crd.yaml".to_owned(),
        text: chart_template(&stack_crd())?,
    });
    Ok(files)
}

/// YAML with sorted keys, for stable output.
fn yaml(definition: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    // The map of serde_json sorts its keys.
    let value: Value = serde_yaml::from_str(&serde_yaml::to_string(definition)?)?;
    serde_yaml::to_string(&value)
}

/// A template of the chart that depends on `crds.enabled` and `crds.keep`. It is not in the chart's directory `crds/`,
/// because Helm never upgrades the CRDs there.
fn chart_template(definition: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    const KEEP: &str = "metadata:\n  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n";
    // Helm would evaluate braces in a description.
    let text = yaml(definition)?.replace("{{", "{{ \"{{\" }}");
    let text = text.replacen("metadata:\n", KEEP, 1);
    Ok(format!(
        "{HEADER}{{{{- if .Values.crds.enabled }}}}\n---\n{text}{{{{- end }}}}\n"
    ))
}
