//! The CRDs of the bundle and their descriptions for consoles. OLM requires a description for each CRD of the bundle,
//! and no others.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::{BundleError, BundleFile, yaml};

/// CRDs whose objects only programs write; consoles do not offer to create them.
pub(crate) const INTERNAL_CRDS: [&str; 2] =
    ["configurationstates.metallb.io", "servicel2statuses.metallb.io"];

/// Related resources of each kind, as (version, kind), which consoles list beside the object.
const RELATED_RESOURCES: [(&str, &[(&str, &str)]); 9] = [
    (
        "LoadBalancerStack",
        &[
            ("v1", "Deployment"),
            ("v1", "DaemonSet"),
            ("v1", "Pod"),
            ("v1", "Service"),
            ("v1", "ServiceAccount"),
            ("v1", "PodDisruptionBudget"),
            ("v1", "NetworkPolicy"),
        ],
    ),
    ("IPAddressPool", &[("v1", "Service")]),
    (
        "L2Advertisement",
        &[("v1", "Service"), ("v1beta1", "ServiceL2Status")],
    ),
    ("ServiceL2Status", &[("v1", "Service"), ("v1", "Node")]),
    ("ConfigurationState", &[("v1beta1", "IPAddressPool")]),
    ("BGPPeer", &[("v1beta1", "BGPAdvertisement")]),
    ("BGPAdvertisement", &[("v1", "Service"), ("v1beta2", "BGPPeer")]),
    ("BFDProfile", &[("v1beta2", "BGPPeer")]),
    ("Community", &[("v1beta1", "BGPAdvertisement")]),
];

/// All CRDs of the bundle.
pub(crate) fn definitions() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![lb_crds::stack_crd()];
    definitions.extend(lb_crds::metallb_crds());
    definitions
}

/// One file per CRD.
pub(crate) fn files() -> Result<Vec<BundleFile>, BundleError> {
    definitions()
        .iter()
        .map(|definition| {
            let (group, plural) = (&definition.spec.group, &definition.spec.names.plural);
            Ok(BundleFile {
                path: format!("bundle/manifests/{group}_{plural}.yaml"),
                text: yaml("a CRD", &crate::json("a CRD", definition)?)?,
            })
        })
        .collect()
}

/// `spec.customresourcedefinitions.owned`.
pub(crate) fn owned() -> Result<Vec<Value>, BundleError> {
    let mut owned = Vec::new();
    for definition in definitions() {
        let definition = crate::json("a CRD", definition)?;
        let kind = definition
            .pointer("/spec/names/kind")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
        for version in versions.into_iter().flatten() {
            let schema = &version["schema"]["openAPIV3Schema"];
            owned.push(json!({
                "name": definition["metadata"]["name"],
                "kind": kind,
                "version": version["name"],
                "displayName": split_words(kind),
                "description": first_paragraph(&schema["description"]),
                "resources": resources(kind),
                "specDescriptors": descriptors(&schema["properties"]["spec"]),
                "statusDescriptors": descriptors(&schema["properties"]["status"]),
            }));
        }
    }
    // Empty lists are omitted, as OLM does.
    for owned in owned.iter_mut().filter_map(Value::as_object_mut) {
        owned.retain(|_, value| !value.as_array().is_some_and(Vec::is_empty));
    }
    Ok(owned)
}

/// Group, version and kind of each CRD.
pub(crate) fn group_version_kinds() -> Vec<Value> {
    let kinds = definitions().into_iter().flat_map(|definition| {
        let (group, kind) = (definition.spec.group, definition.spec.names.kind);
        definition
            .spec
            .versions
            .into_iter()
            .map(move |version| json!({"group": group, "kind": kind, "version": version.name}))
    });
    kinds.collect()
}

fn resources(kind: &str) -> Vec<Value> {
    let found = RELATED_RESOURCES.iter().filter(|(name, _)| *name == kind);
    found
        .flat_map(|(_, resources)| resources.iter())
        .map(|(version, kind)| json!({"kind": kind, "name": "", "version": version}))
        .collect()
}

/// A descriptor for each field of `spec` or `status`, with the description of the schema.
fn descriptors(schema: &Value) -> Vec<Value> {
    let fields = schema["properties"].as_object();
    fields
        .into_iter()
        .flatten()
        .map(|(name, field)| {
            let mut descriptor = json!({
                "path": name,
                "displayName": split_words(name),
                "description": first_paragraph(&field["description"]),
            });
            if name == "conditions" {
                descriptor["x-descriptors"] = json!(["urn:alm:descriptor:io.kubernetes.conditions"]);
            }
            descriptor
        })
        .collect()
}

fn first_paragraph(text: &Value) -> &str {
    let text = text.as_str().unwrap_or_default();
    text.split("\n\n").next().unwrap_or(text)
}

/// Splits a name into words: `IPAddressPool` becomes `IP Address Pool`.
fn split_words(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut words = String::new();
    for (index, letter) in letters.iter().enumerate() {
        let previous = index.checked_sub(1).and_then(|index| letters.get(index));
        let next = letters.get(index + 1);
        let begins_word = letter.is_uppercase()
            && previous.is_some_and(|previous| {
                !previous.is_uppercase() || next.is_some_and(|next| next.is_lowercase())
            });
        if begins_word {
            words.push(' ');
        }
        if index == 0 {
            words.extend(letter.to_uppercase());
        } else {
            words.push(*letter);
        }
    }
    // Abbreviations with lower-case letters.
    [("I Ps", "IPs"), ("I Pv", "IPv"), ("Ip ", "IP ")]
        .into_iter()
        .fold(words, |words, (split, joined)| words.replace(split, joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_words() {
        for (name, expected) in [
            ("LoadBalancerStack", "Load Balancer Stack"),
            ("IPAddressPool", "IP Address Pool"),
            ("L2Advertisement", "L2 Advertisement"),
            ("ServiceL2Status", "Service L2 Status"),
            ("ipAddressPools", "IP Address Pools"),
            ("avoidBuggyIPs", "Avoid Buggy IPs"),
            ("assignedIPv4", "Assigned IPv4"),
            ("logLevel", "Log Level"),
        ] {
            assert_eq!(split_words(name), expected);
        }
    }

    /// As the scorecard of the Operator SDK requires.
    #[test]
    fn every_crd_has_descriptions_and_related_resources() {
        for owned in owned().unwrap() {
            assert_ne!(owned["description"], "", "{}", owned["kind"]);
            let some = |field: &str| owned[field].as_array().is_some_and(|list| !list.is_empty());
            assert!(
                some("resources"),
                "{}: add it to RELATED_RESOURCES",
                owned["kind"]
            );
            for descriptor in owned["specDescriptors"].as_array().into_iter().flatten() {
                assert_ne!(
                    descriptor["description"], "",
                    "{} {}",
                    owned["kind"], descriptor["path"]
                );
            }
        }
    }

    #[test]
    fn no_crd_needs_a_webhook() {
        for definition in definitions() {
            let conversion = definition.spec.conversion;
            assert!(conversion.is_none_or(|conversion| conversion.strategy == "None"));
        }
    }
}
