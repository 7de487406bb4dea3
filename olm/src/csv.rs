//! The ClusterServiceVersion: installation by OLM and presentation in a catalog.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use semver::Version;
use serde_json::{Map, Value, json};

use crate::{BundleError, BundleInput, CAPABILITIES, NAMESPACE, PACKAGE, catalog, crds, images};

const ICON: &[u8] = include_bytes!("icon.svg");
const FIRST_STEPS: &str = include_str!("description.md");

/// Feature annotations. `disconnected` is added, depending on digests.
const FEATURES: [(&str, bool); 9] = [
    ("cnf", false),
    ("cni", false),
    ("csi", false),
    ("fips-compliant", false),
    // It connects only to the API server.
    ("proxy-aware", false),
    ("tls-profiles", false),
    ("token-auth-aws", false),
    ("token-auth-azure", false),
    ("token-auth-gcp", false),
];

/// An example of each kind that users create; pool and advertisement are those of the guide.
fn samples() -> Value {
    let sample = |version: &str, kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": format!("metallb.io/{version}"),
            "kind": kind,
            "metadata": {"name": name, "namespace": lb_crds::names::NAMESPACE},
            "spec": spec,
        })
    };
    let peer = json!({"myASN": 65000, "peerASN": 65001, "peerAddress": "192.168.50.1"});
    let communities = json!([{"name": "no-export", "value": "65535:65281"}]);
    json!([
        sample(
            "v1beta1",
            "IPAddressPool",
            "default-pool",
            json!({"addresses": ["192.168.50.50-192.168.50.250"]}),
        ),
        sample(
            "v1beta1",
            "L2Advertisement",
            "default-l2",
            json!({"ipAddressPools": ["default-pool"]}),
        ),
        sample("v1beta2", "BGPPeer", "default-router", peer.clone()),
        sample("v1beta1", "BGPPeer", "default-router", peer),
        sample(
            "v1beta1",
            "BGPAdvertisement",
            "default-bgp",
            json!({"ipAddressPools": ["default-pool"], "communities": ["no-export"]}),
        ),
        sample("v1beta1", "BFDProfile", "default-bfd", json!({})),
        sample(
            "v1beta1",
            "Community",
            "default-communities",
            json!({"communities": communities}),
        ),
    ])
}

/// The name of the ClusterServiceVersion of a version.
#[must_use]
pub fn name(version: &Version) -> String {
    format!("{PACKAGE}.v{version}")
}

/// The ClusterServiceVersion.
///
/// # Errors
/// If the chart or the README is incomplete.
pub(crate) fn csv(input: &BundleInput, version: &Version) -> Result<Value, BundleError> {
    let chart = &input.chart;
    let mut deployment = chart.deployment.clone();
    let related = pin_images(&mut deployment, input)?;
    let operator_image = operator_image(&deployment).to_owned();
    let stack: Value = serde_yaml::from_str(&input.stack).map_err(|source| BundleError::Yaml {
        action: "parse the example stack".to_owned(),
        source,
    })?;
    let provider = chart
        .maintainers
        .first()
        .ok_or(BundleError::Missing("maintainer"))?;
    Ok(json!({
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": name(version),
            // OLM replaces it with the namespace of the Subscription.
            "namespace": "placeholder",
            "annotations": annotations(input, version, &stack, &operator_image)?,
            "labels": labels(&input.architectures),
        },
        "spec": {
            "displayName": "lb-operator",
            "description": description(&input.readme)?,
            "version": version.to_string(),
            "minKubeVersion": chart.min_kube_version,
            "maturity": "alpha",
            "keywords": chart.keywords,
            "provider": {"name": provider.name},
            "icon": [{"base64data": STANDARD.encode(ICON), "mediatype": "image/svg+xml"}],
            // The controller watches Services in all namespaces.
            "installModes": [
                {"type": "OwnNamespace", "supported": false},
                {"type": "SingleNamespace", "supported": false},
                {"type": "MultiNamespace", "supported": false},
                {"type": "AllNamespaces", "supported": true},
            ],
            "customresourcedefinitions": {"owned": crds::owned()?},
            "relatedImages": related,
            "install": {
                "strategy": "deployment",
                "spec": {
                    "clusterPermissions": [
                        {"serviceAccountName": chart.service_account, "rules": chart.cluster_rules},
                    ],
                    "permissions": [{"serviceAccountName": chart.service_account, "rules": chart.rules}],
                    "deployments": [{
                        "name": deployment["metadata"]["name"],
                        "label": deployment["metadata"]["labels"],
                        "spec": deployment["spec"],
                    }],
                },
            },
        },
    }))
}

/// The platforms of the images, by which catalogs filter.
fn labels(architectures: &[String]) -> Value {
    let mut labels: Map<_, _> = architectures
        .iter()
        .map(|architecture| {
            let label = format!("operatorframework.io/arch.{architecture}");
            (label, json!("supported"))
        })
        .collect();
    labels.insert("operatorframework.io/os.linux".to_owned(), json!("supported"));
    Value::Object(labels)
}

fn annotations(
    input: &BundleInput,
    version: &Version,
    stack: &Value,
    image: &str,
) -> Result<Value, BundleError> {
    let mut examples = vec![stack.clone()];
    examples.extend(samples().as_array().cloned().unwrap_or_default());
    let pretty = |value: &Value| {
        serde_json::to_string_pretty(value).map_err(|source| BundleError::Json {
            value: "an annotation",
            source,
        })
    };
    let mut annotations = json!({
        "alm-examples": pretty(&Value::Array(examples))?,
        "capabilities": CAPABILITIES,
        "categories": "Networking",
        "certified": "false",
        "containerImage": image,
        "description": input.chart.description,
        "olm.skipRange": catalog::skip_range(version),
        "operatorframework.io/initialization-resource": pretty(stack)?,
        "operatorframework.io/suggested-namespace": NAMESPACE,
        "operators.operatorframework.io/internal-objects": json!(crds::INTERNAL_CRDS).to_string(),
    });
    let mut features = Map::new();
    features.insert("disconnected".to_owned(), json!(input.digests.is_pinned()));
    features.extend(FEATURES.map(|(name, has)| (name.to_owned(), json!(has))));
    for (feature, has) in features {
        annotations[format!("features.operators.openshift.io/{feature}")] = json!(has.to_string());
    }
    if let Some(created_at) = &input.created_at {
        annotations["createdAt"] = json!(created_at);
    }
    Ok(annotations)
}

/// The first paragraph of the README, and description.md.
fn description(readme: &str) -> Result<String, BundleError> {
    let paragraph = readme.split("\n\n").nth(1).ok_or(BundleError::Readme)?;
    if paragraph.starts_with(['#', '`']) {
        return Err(BundleError::Readme);
    }
    Ok(format!("{paragraph}\n\n{FIRST_STEPS}"))
}

/// Pins and lists all images: of the operator's container, and of controller and speaker in variables
/// `RELATED_IMAGE_…`.
fn pin_images(deployment: &mut Value, input: &BundleInput) -> Result<Vec<Value>, BundleError> {
    let containers = deployment.pointer_mut("/spec/template/spec/containers");
    let containers = containers.and_then(Value::as_array_mut);
    let mut references = Vec::new();
    for container in containers.into_iter().flatten() {
        let mut related = Vec::new();
        for variable in container["env"].as_array_mut().into_iter().flatten() {
            let name = variable["name"].as_str().unwrap_or_default();
            if name.starts_with("RELATED_IMAGE_") {
                related.push(&mut variable["value"]);
            }
        }
        for image in related {
            pin_image(image, input, &mut references);
        }
        pin_image(&mut container["image"], input, &mut references);
    }
    input.digests.check(&references)?;
    references.sort();
    Ok(references
        .iter()
        .map(|reference| {
            let image = input.digests.apply(reference);
            json!({"name": images::program(reference), "image": image})
        })
        .collect())
}

fn pin_image(image: &mut Value, input: &BundleInput, references: &mut Vec<String>) {
    let reference = image.as_str().unwrap_or_default().to_owned();
    *image = json!(input.digests.apply(&reference));
    references.push(reference);
}

fn operator_image(deployment: &Value) -> &str {
    let image = deployment.pointer("/spec/template/spec/containers/0/image");
    image.and_then(Value::as_str).unwrap_or_default()
}
