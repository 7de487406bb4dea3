//! Generates the bundle and the catalog for the Operator Lifecycle Manager (OLM) from the rendered chart, the types of
//! `lb-crds` and the README. No I/O, except in [`repository`].
//!
//! | module | content |
//! | --- | --- |
//! | [`chart`] | metadata and rendered objects of the chart |
//! | [`images`] | image references and digests |
//! | [`crds`] | CRDs and their descriptions for consoles |
//! | [`csv`] | the ClusterServiceVersion |
//! | [`metadata`] | annotations, Dockerfiles and scorecard tests of the bundle |
//! | [`repository`] | reads the input from the repository |
//! | [`catalog`] | package, channel with upgrade edges, and bundles of a file-based catalog |
//!
//! OLM installs the CRDs of a bundle, so the operator has neither the task nor the permission to do so.

pub mod catalog;
pub mod chart;
pub mod crds;
pub mod csv;
pub mod images;
pub mod metadata;
pub mod repository;

use semver::Version;
use serde_json::Value;

pub use catalog::Release;
pub use chart::Chart;
pub use images::Digests;

/// Name of the package in a catalog.
pub const PACKAGE: &str = "lb-operator";
/// Channel of the releases, by OLM's convention: maturity and major version. `candidate` is for releases before the
/// first stable one; validators warn about other words, such as `alpha`.
pub const CHANNEL: &str = "candidate-v0";
/// Architectures of the images, unless a release names its own.
pub const ARCHITECTURES: [&str; 1] = ["amd64"];
/// Capability level of OLM: Basic Install, Seamless Upgrades, Full Lifecycle, Deep Insights or Auto Pilot. It is
/// raised when tests cover every requirement of the next level.
pub const CAPABILITIES: &str = "Basic Install";
/// Suggested namespace of the operator, for which the chart is rendered.
pub const NAMESPACE: &str = "lb-operator-system";
/// Registry and path of the images in the committed bundle, which nobody can pull: a release has its own.
pub const REGISTRY: &str = "localhost/lb-operator";
/// Release name of the rendered chart, and the name of its objects.
pub const RELEASE: &str = "lb-operator";

/// First line of every generated file.
pub(crate) const HEADER: &str =
    "# Generated from the chart, the types in crds/src and the README by `make generate`. Do not edit.\n";

/// Input of the generator.
#[derive(Clone, Debug)]
pub struct BundleInput {
    /// The rendered chart.
    pub chart: Chart,
    /// Text of the README. Its first paragraph becomes the description.
    pub readme: String,
    /// The example stack of the chart.
    pub stack: String,
    /// Digests of the images; empty for images with tags.
    pub digests: Digests,
    /// Time of the release (RFC 3339); omitted if `None`.
    pub created_at: Option<String>,
    /// Registry and path of the images.
    pub registry: String,
    /// Architectures of the images, as Kubernetes names them.
    pub architectures: Vec<String>,
    /// Image of the bundle; if `None`, it is named after registry and version.
    pub bundle_image: Option<String>,
    /// Releases in the catalog.
    pub releases: Vec<Release>,
}

/// A generated file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BundleFile {
    /// Path relative to `olm/`.
    pub path: String,
    /// Content of the file.
    pub text: String,
}

/// Why the bundle cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// YAML cannot be parsed or written.
    #[error("failed to {action}")]
    Yaml {
        /// The failed action.
        action: String,
        /// Cause.
        #[source]
        source: serde_yaml::Error,
    },
    /// A value cannot be serialized as JSON.
    #[error("failed to serialize {value} as JSON")]
    Json {
        /// The value.
        value: &'static str,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// The chart lacks a required object or field.
    #[error("chart has no {0}: a bundle requires it")]
    Missing(&'static str),
    /// The chart has an object that OLM does not support.
    #[error(
        "chart renders a {0}, which OLM does not support in a bundle: skip it in olm/src/chart.rs, with a reason"
    )]
    Unsupported(String),
    /// The chart has a second object of a kind that must be unique.
    #[error("chart renders a second {0}: a bundle supports only one; handle it in olm/src/chart.rs")]
    Duplicate(&'static str),
    /// The digests do not match the images.
    #[error("digests {given:?} do not match images {required:?}: pass a digest for each image, or no digest")]
    Digests {
        /// Programs with a digest.
        given: Vec<String>,
        /// Programs with an image.
        required: Vec<String>,
    },
    /// A digest is invalid.
    #[error("invalid digest {0:?}: expected sha256: and 64 hexadecimal digits")]
    Digest(String),
    /// A version is invalid.
    #[error("invalid version {text:?}")]
    Version {
        /// The invalid text.
        text: String,
        /// Cause.
        #[source]
        source: semver::Error,
    },
    /// The README has no description.
    #[error("README has no paragraph after its title: the description of the bundle is taken from there")]
    Readme,
}

/// All generated files of `olm/`.
///
/// # Errors
/// If the input is incomplete or contains objects that OLM does not support.
pub fn files(input: &BundleInput) -> Result<Vec<BundleFile>, BundleError> {
    let version = parse_version(&input.chart.version)?;
    let csv = csv::csv(input, &version)?;
    let mut files = vec![BundleFile {
        path: format!("bundle/manifests/{PACKAGE}.clusterserviceversion.yaml"),
        text: yaml("the ClusterServiceVersion", &csv)?,
    }];
    files.extend(crds::files()?);
    for object in &input.chart.objects {
        files.push(BundleFile {
            path: object.path(),
            text: yaml("an object of the chart", &object.body)?,
        });
    }
    files.extend(metadata::files()?);
    files.extend(catalog::files(input, &version, &csv)?);
    Ok(files)
}

pub(crate) fn parse_version(text: &str) -> Result<Version, BundleError> {
    Version::parse(text).map_err(|source| BundleError::Version {
        text: text.to_owned(),
        source,
    })
}

/// A generated YAML document with sorted keys. Without `---`, because OLM treats text before it as a document.
pub(crate) fn yaml(name: &str, value: &Value) -> Result<String, BundleError> {
    let text = serde_yaml::to_string(value).map_err(|source| BundleError::Yaml {
        action: format!("write {name}"),
        source,
    })?;
    Ok(format!("{HEADER}{text}"))
}

pub(crate) fn json(name: &'static str, value: impl serde::Serialize) -> Result<Value, BundleError> {
    serde_json::to_value(value).map_err(|source| BundleError::Json { value: name, source })
}
