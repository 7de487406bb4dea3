//! The file-based catalog: package, channel with upgrade edges, and one file per bundle.
//!
//! The file of the current version is generated; files of releases never change. Each bundle replaces the previous
//! one. Its skip range allows direct upgrades from the same and the previous minor version, which the operator
//! supports.

use semver::Version;
use serde_json::{Value, json};

use crate::{BundleError, BundleFile, BundleInput, CHANNEL, PACKAGE, crds, csv, yaml};

/// Directory of the catalog, relative to `olm/`.
const CATALOG_DIRECTORY: &str = "catalog/lb-operator";

/// A release in the catalog.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Release {
    /// Version of the release.
    pub version: Version,
}

impl Release {
    /// Parses the name of a bundle file; `None` for other files.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        let version = name.strip_prefix("bundle-v")?.strip_suffix(".yaml")?;
        let version = Version::parse(version).ok()?;
        Some(Self { version })
    }

    /// Path of the bundle file, relative to `olm/`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{CATALOG_DIRECTORY}/bundle-v{}.yaml", self.version)
    }
}

/// Versions that can be upgraded directly to `version`.
pub(crate) fn skip_range(version: &Version) -> String {
    let from = match (version.major, version.minor) {
        (0, 0) => Version::new(0, 0, 0),
        (major, 0) => Version::new(major - 1, 0, 0),
        (major, minor) => Version::new(major, minor - 1, 0),
    };
    format!(">={from} <{version}")
}

pub(crate) fn files(
    input: &BundleInput,
    version: &Version,
    csv: &Value,
) -> Result<Vec<BundleFile>, BundleError> {
    let package = json!({
        "schema": "olm.package",
        "name": PACKAGE,
        "defaultChannel": CHANNEL,
        "description": csv["spec"]["description"],
        "icon": csv["spec"]["icon"][0],
    });
    Ok(vec![
        BundleFile {
            path: format!("{CATALOG_DIRECTORY}/package.yaml"),
            text: yaml("the package", &package)?,
        },
        BundleFile {
            path: format!("{CATALOG_DIRECTORY}/channel.yaml"),
            text: yaml("the channel", &channel(input, version))?,
        },
        BundleFile {
            path: format!("{CATALOG_DIRECTORY}/bundle-v{version}.yaml"),
            text: yaml("the bundle", &bundle(input, version, csv))?,
        },
    ])
}

fn channel(input: &BundleInput, version: &Version) -> Value {
    let mut versions: Vec<_> = input.releases.iter().map(|release| &release.version).collect();
    versions.push(version);
    versions.sort();
    versions.dedup();
    let previous = std::iter::once(None).chain(versions.iter().map(Some));
    let entries: Vec<_> = versions
        .iter()
        .zip(previous)
        .map(|(version, previous)| {
            let mut entry = json!({"name": csv::name(version), "skipRange": skip_range(version)});
            if let Some(previous) = previous {
                entry["replaces"] = json!(csv::name(previous));
            }
            entry
        })
        .collect();
    json!({"schema": "olm.channel", "package": PACKAGE, "name": CHANNEL, "entries": entries})
}

/// The bundle as `opm render` prints it.
fn bundle(input: &BundleInput, version: &Version, csv: &Value) -> Value {
    let spec = &csv["spec"];
    let image = input
        .bundle_image
        .clone()
        .unwrap_or_else(|| format!("{}/bundle:{version}", input.registry));
    let mut properties: Vec<_> = crds::group_version_kinds()
        .into_iter()
        .map(|kind| json!({"type": "olm.gvk", "value": kind}))
        .collect();
    properties.sort_by_key(|property| property["value"].to_string());
    properties.push(json!({
        "type": "olm.package",
        "value": {"packageName": PACKAGE, "version": version.to_string()},
    }));
    properties.push(json!({
        "type": "olm.csv.metadata",
        "value": {
            "annotations": csv["metadata"]["annotations"],
            "apiServiceDefinitions": {},
            "crdDescriptions": spec["customresourcedefinitions"],
            "description": spec["description"],
            "displayName": spec["displayName"],
            "installModes": spec["installModes"],
            "keywords": spec["keywords"],
            "labels": csv["metadata"]["labels"],
            "maturity": spec["maturity"],
            "minKubeVersion": spec["minKubeVersion"],
            "provider": spec["provider"],
        },
    }));
    let mut related = vec![json!({"name": "", "image": image})];
    related.extend(spec["relatedImages"].as_array().cloned().unwrap_or_default());
    related.sort_by_key(|related| related["image"].to_string());
    json!({
        "schema": "olm.bundle",
        "name": csv::name(version),
        "package": PACKAGE,
        "image": image,
        "properties": properties,
        "relatedImages": related,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skip_range_covers_two_minor_versions() {
        for (version, range) in [
            ("0.0.3", ">=0.0.0 <0.0.3"),
            ("0.1.0", ">=0.0.0 <0.1.0"),
            ("0.4.2", ">=0.3.0 <0.4.2"),
            ("1.0.0", ">=0.0.0 <1.0.0"),
            ("2.0.1", ">=1.0.0 <2.0.1"),
        ] {
            assert_eq!(skip_range(&Version::parse(version).unwrap()), range);
        }
    }

    #[test]
    fn releases_are_found_by_file_name() {
        let version = |name| Release::of_file(name).map(|release| release.version.to_string());
        assert_eq!(version("bundle-v0.1.0.yaml").as_deref(), Some("0.1.0"));
        assert_eq!(version("package.yaml"), None);
        assert_eq!(version("bundle-vnext.yaml"), None);
    }
}
