//! The bundle and the catalog for the Operator Lifecycle Manager (OLM), made from what there is already: the chart as Helm
//! renders it, the types of `lb-crds`, and the README. Nothing is said twice, so nothing can say something else. Pure, but for
//! [`repository`].
//!
//! | module | what it makes |
//! | --- | --- |
//! | [`chart`] | the chart's metadata and rendered objects, taken apart |
//! | [`images`] | images pinned to their digests |
//! | [`crds`] | the kinds, and what a console says about them |
//! | [`csv`] | the ClusterServiceVersion: what OLM installs, and what a catalog shows |
//! | [`metadata`] | annotations, Dockerfiles and scorecard of the bundle |
//! | [`repository`] | nothing: it reads the rest from the repository |
//! | [`catalog`] | package, channel with its upgrade edges, and bundles of a file-based catalog |
//!
//! What OLM's form does not allow is left out: the operator does not install the metallb.io kinds here, OLM does, so it has
//! neither the task nor the right.

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
/// The channel that releases appear in. Channels are named by maturity and major version; releases of 0.x are releases.
pub const CHANNEL: &str = "stable-v0";
/// What the operator is held to do, on OLM's scale of Basic Install, Seamless Upgrades, Full Lifecycle, Deep Insights and
/// Auto Pilot. It is raised when there is a test for each question of the next level.
pub const CAPABILITIES: &str = "Basic Install";
/// Namespace that consoles suggest for the operator, and that the chart is rendered for.
pub const NAMESPACE: &str = "lb-operator-system";
/// Name of the chart's release: its objects have this name.
pub const RELEASE: &str = "lb-operator";

/// First line of every generated file.
pub(crate) const HEADER: &str =
    "# Generated from the chart, the types in crds/src and the README by `make generate`. Do not edit.\n";

/// What a bundle is made of.
#[derive(Clone, Debug)]
pub struct Input {
    /// The chart.
    pub chart: Chart,
    /// Text of the README, whose first paragraph says what this is.
    pub readme: String,
    /// The chart's sample of a stack.
    pub stack: String,
    /// Digests of the images; none leaves images at their tags.
    pub digests: Digests,
    /// When the release was made, in RFC 3339; `None` says nothing about it.
    pub created_at: Option<String>,
    /// The bundle's own image; `None` is the one named after the version.
    pub bundle_image: Option<String>,
    /// Releases that the catalog has already.
    pub releases: Vec<Release>,
}

/// A generated file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct File {
    /// Where it belongs, relative to `olm/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A YAML text cannot be read or written.
    #[error("{what}")]
    Yaml {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: serde_yaml::Error,
    },
    /// Something cannot be expressed as JSON.
    #[error("express {what} as JSON")]
    Json {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The chart lacks what a bundle needs.
    #[error("the chart has no {0}: a bundle needs it")]
    Missing(&'static str),
    /// The chart has an object that OLM does not install.
    #[error(
        "the chart renders a {0}, which OLM does not take in a bundle: leave it out in olm/src/chart.rs, with a reason"
    )]
    Unsupported(String),
    /// The chart has two objects of a kind that a bundle has one of.
    #[error("the chart renders a second {0}: say in olm/src/chart.rs what becomes of it in a bundle")]
    Twice(&'static str),
    /// Digests are given for some images only, or for images that there are not.
    #[error("digests are given of {given:?}, and the images are {needed:?}: give all of them or none")]
    Digests {
        /// Programs with a digest.
        given: Vec<String>,
        /// Programs with an image.
        needed: Vec<String>,
    },
    /// A digest is none.
    #[error("{0:?} is no digest: it is to be sha256: and 64 hexadecimal digits")]
    Digest(String),
    /// A version is none.
    #[error("{text:?} is no version")]
    Version {
        /// The text.
        text: String,
        /// Why.
        #[source]
        source: semver::Error,
    },
    /// The README does not begin as expected.
    #[error("the README has no paragraph after its title: the bundle's description is taken from there")]
    Readme,
}

/// All files of `olm/` that are generated.
///
/// # Errors
/// When the chart lacks something, or has something that OLM does not take.
pub fn files(input: &Input) -> Result<Vec<File>, Error> {
    let version = parse_version(&input.chart.version)?;
    let csv = csv::csv(input, &version)?;
    let mut files = vec![File {
        path: format!("bundle/manifests/{PACKAGE}.clusterserviceversion.yaml"),
        text: yaml("the ClusterServiceVersion", &csv)?,
    }];
    files.extend(crds::files()?);
    for object in &input.chart.others {
        files.push(File {
            path: object.path(),
            text: yaml("an object of the chart", &object.body)?,
        });
    }
    files.extend(metadata::files()?);
    files.extend(catalog::files(input, &version, &csv)?);
    Ok(files)
}

pub(crate) fn parse_version(text: &str) -> Result<Version, Error> {
    Version::parse(text).map_err(|source| Error::Version {
        text: text.to_owned(),
        source,
    })
}

/// A generated YAML document, with sorted keys. It has no `---`: OLM's readers take what is before it for a document.
pub(crate) fn yaml(what: &str, value: &Value) -> Result<String, Error> {
    let text = serde_yaml::to_string(value).map_err(|source| Error::Yaml {
        what: format!("write {what}"),
        source,
    })?;
    Ok(format!("{HEADER}{text}"))
}

pub(crate) fn json(what: &'static str, value: impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|source| Error::Json { what, source })
}
