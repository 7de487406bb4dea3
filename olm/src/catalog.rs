//! The file-based catalog: the package, its channel with the upgrade edges, and a file for each bundle.
//!
//! Files of releases stay as they were when they were released; the file of the present version is generated. The edges are
//! made from the versions: each bundle replaces the one before it, and may be reached at once from every version that its
//! operator can take over, which are those of the same minor version and of the one before.

use semver::Version;
use serde_json::{Value, json};

use crate::{CHANNEL, Error, File, Input, PACKAGE, crds, csv, yaml};

/// Where bundles are, relative to `olm/`.
const DIRECTORY: &str = "catalog/lb-operator";

/// A release whose bundle the catalog has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Release {
    /// Its version.
    pub version: Version,
}

impl Release {
    /// The release whose bundle is in a file of this name; `None` when it is another file.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        let version = name.strip_prefix("bundle-v")?.strip_suffix(".yaml")?;
        let version = Version::parse(version).ok()?;
        Some(Self { version })
    }

    /// The file of its bundle, relative to `olm/`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{DIRECTORY}/bundle-v{}.yaml", self.version)
    }
}

/// The versions from which a version may be reached at once.
pub(crate) fn skip_range(version: &Version) -> String {
    let from = match (version.major, version.minor) {
        (0, 0) => Version::new(0, 0, 0),
        (major, 0) => Version::new(major - 1, 0, 0),
        (major, minor) => Version::new(major, minor - 1, 0),
    };
    format!(">={from} <{version}")
}

pub(crate) fn files(input: &Input, version: &Version, csv: &Value) -> Result<Vec<File>, Error> {
    let package = json!({
        "schema": "olm.package",
        "name": PACKAGE,
        "defaultChannel": CHANNEL,
        "description": csv["spec"]["description"],
        "icon": csv["spec"]["icon"][0],
    });
    Ok(vec![
        File {
            path: format!("{DIRECTORY}/package.yaml"),
            text: yaml("the package", &package)?,
        },
        File {
            path: format!("{DIRECTORY}/channel.yaml"),
            text: yaml("the channel", &channel(input, version))?,
        },
        File {
            path: format!("{DIRECTORY}/bundle-v{version}.yaml"),
            text: yaml("the bundle", &bundle(input, version, csv))?,
        },
    ])
}

fn channel(input: &Input, version: &Version) -> Value {
    let mut versions: Vec<_> = input.releases.iter().map(|release| &release.version).collect();
    versions.push(version);
    versions.sort();
    versions.dedup();
    let before = std::iter::once(None).chain(versions.iter().map(Some));
    let entries: Vec<_> = versions
        .iter()
        .zip(before)
        .map(|(version, before)| {
            let mut entry = json!({"name": csv::name(version), "skipRange": skip_range(version)});
            if let Some(before) = before {
                entry["replaces"] = json!(csv::name(before));
            }
            entry
        })
        .collect();
    json!({"schema": "olm.channel", "package": PACKAGE, "name": CHANNEL, "entries": entries})
}

/// What `opm render` makes of the bundle.
fn bundle(input: &Input, version: &Version, csv: &Value) -> Value {
    let spec = &csv["spec"];
    let image = input
        .bundle_image
        .clone()
        .unwrap_or_else(|| format!("lb-operator.io/bundle:{version}"));
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
            "links": spec["links"],
            "maintainers": spec["maintainers"],
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
    fn a_version_is_reached_from_its_minor_version_and_the_one_before() {
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
    fn releases_are_known_by_their_files() {
        let version = |name| Release::of_file(name).map(|release| release.version.to_string());
        assert_eq!(version("bundle-v0.1.0.yaml").as_deref(), Some("0.1.0"));
        assert_eq!(version("package.yaml"), None);
        assert_eq!(version("bundle-vnext.yaml"), None);
    }
}
