//! Bundle metadata, scorecard tests of the Operator SDK, and Dockerfiles of bundle and catalog.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::{BundleError, BundleFile, CHANNEL, HEADER, PACKAGE, yaml};

/// Annotations of the bundle, which are also labels of its image.
const BUNDLE_ANNOTATIONS: [(&str, &str); 8] = [
    (
        "operators.operatorframework.io.bundle.mediatype.v1",
        "registry+v1",
    ),
    ("operators.operatorframework.io.bundle.manifests.v1", "manifests/"),
    ("operators.operatorframework.io.bundle.metadata.v1", "metadata/"),
    ("operators.operatorframework.io.bundle.package.v1", PACKAGE),
    ("operators.operatorframework.io.bundle.channels.v1", CHANNEL),
    (
        "operators.operatorframework.io.bundle.channel.default.v1",
        CHANNEL,
    ),
    ("operators.operatorframework.io.test.mediatype.v1", "scorecard+v1"),
    (
        "operators.operatorframework.io.test.config.v1",
        "tests/scorecard/",
    ),
];

/// Image of the scorecard tests.
const SCORECARD_IMAGE: &str = "quay.io/operator-framework/scorecard-test:v1.42.0";
/// Image that serves the catalog, with the version of opm that validates it.
const OPM_IMAGE: &str = "quay.io/operator-framework/opm:v1.55.0";

const SCORECARD_TESTS: [(&str, &str); 6] = [
    ("basic", "basic-check-spec"),
    ("olm", "olm-bundle-validation"),
    ("olm", "olm-crds-have-validation"),
    ("olm", "olm-crds-have-resources"),
    ("olm", "olm-spec-descriptors"),
    ("olm", "olm-status-descriptors"),
];

pub(crate) fn files() -> Result<Vec<BundleFile>, BundleError> {
    let annotations: Map<_, _> = BUNDLE_ANNOTATIONS
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    Ok(vec![
        BundleFile {
            path: "bundle/metadata/annotations.yaml".to_owned(),
            text: yaml("the annotations", &json!({"annotations": annotations}))?,
        },
        BundleFile {
            path: "bundle/tests/scorecard/config.yaml".to_owned(),
            text: yaml("the scorecard", &scorecard())?,
        },
        BundleFile {
            path: "bundle.Dockerfile".to_owned(),
            text: bundle_dockerfile(),
        },
        BundleFile {
            path: "catalog.Dockerfile".to_owned(),
            text: catalog_dockerfile(),
        },
    ])
}

fn scorecard() -> Value {
    let tests: Vec<_> = SCORECARD_TESTS
        .iter()
        .map(|(suite, test)| {
            json!({
                "image": SCORECARD_IMAGE,
                "entrypoint": ["scorecard-test", test],
                "labels": {"suite": suite, "test": format!("{test}-test")},
            })
        })
        .collect();
    json!({
        "apiVersion": "scorecard.operatorframework.io/v1alpha3",
        "kind": "Configuration",
        "metadata": {"name": "config"},
        "stages": [{"parallel": true, "tests": tests}],
    })
}

fn bundle_dockerfile() -> String {
    let mut text = format!("{HEADER}FROM scratch\n\n");
    for (key, value) in BUNDLE_ANNOTATIONS {
        let _ = writeln!(text, "LABEL {key}={value}");
    }
    text.push_str("\nCOPY bundle/manifests /manifests/\nCOPY bundle/metadata /metadata/\nCOPY bundle/tests/scorecard /tests/scorecard/\n");
    text
}

fn catalog_dockerfile() -> String {
    format!(
        "{HEADER}FROM {OPM_IMAGE}\n\nENTRYPOINT [\"/bin/opm\"]\nCMD [\"serve\", \"/configs\", \"--cache-dir=/tmp/cache\"]\n\n\
         COPY catalog /configs\nRUN [\"/bin/opm\", \"serve\", \"/configs\", \"--cache-dir=/tmp/cache\", \"--cache-only\"]\n\n\
         LABEL operators.operatorframework.io.index.configs.v1=/configs\n"
    )
}
