//! What says of a directory, and of an image, that it is a bundle; the tests of the Operator SDK's scorecard; and how the
//! images of bundle and catalog are built.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::{CHANNEL, Error, File, HEADER, PACKAGE, yaml};

/// Keys and values that both the bundle's annotations and its image's labels have.
const ANNOTATIONS: [(&str, &str); 8] = [
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

/// Version of the Operator SDK whose scorecard the tests are of.
const SCORECARD: &str = "quay.io/operator-framework/scorecard-test:v1.42.0";
/// The image that serves a catalog. Its version is that of the opm that checks it.
const OPM: &str = "quay.io/operator-framework/opm:v1.55.0";

const SCORECARD_TESTS: [(&str, &str); 6] = [
    ("basic", "basic-check-spec"),
    ("olm", "olm-bundle-validation"),
    ("olm", "olm-crds-have-validation"),
    ("olm", "olm-crds-have-resources"),
    ("olm", "olm-spec-descriptors"),
    ("olm", "olm-status-descriptors"),
];

pub(crate) fn files() -> Result<Vec<File>, Error> {
    let annotations: Map<_, _> = ANNOTATIONS
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    Ok(vec![
        File {
            path: "bundle/metadata/annotations.yaml".to_owned(),
            text: yaml("the annotations", &json!({"annotations": annotations}))?,
        },
        File {
            path: "bundle/tests/scorecard/config.yaml".to_owned(),
            text: yaml("the scorecard", &scorecard())?,
        },
        File {
            path: "bundle.Dockerfile".to_owned(),
            text: bundle_dockerfile(),
        },
        File {
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
                "image": SCORECARD,
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
    for (key, value) in ANNOTATIONS {
        let _ = writeln!(text, "LABEL {key}={value}");
    }
    text.push_str("\nCOPY bundle/manifests /manifests/\nCOPY bundle/metadata /metadata/\nCOPY bundle/tests/scorecard /tests/scorecard/\n");
    text
}

fn catalog_dockerfile() -> String {
    format!(
        "{HEADER}FROM {OPM}\n\nENTRYPOINT [\"/bin/opm\"]\nCMD [\"serve\", \"/configs\", \"--cache-dir=/tmp/cache\"]\n\n\
         COPY catalog /configs\nRUN [\"/bin/opm\", \"serve\", \"/configs\", \"--cache-dir=/tmp/cache\", \"--cache-only\"]\n\n\
         LABEL operators.operatorframework.io.index.configs.v1=/configs\n"
    )
}
