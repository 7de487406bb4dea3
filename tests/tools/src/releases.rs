//! The releases that upgrade tests install. `make image` builds the current version; all others are one program,
//! `tests/tools/test-releases`, which reads its version and its fault from variables in its image.
//!
//! | patch of the next minor version | speaker |
//! | --- | --- |
//! | 1 | exits at once |
//! | 2 | becomes ready but never answers on the LAN |
//! | 3 | works, but exits after [`LIFETIME`] |
//! | 4 | works |
//!
//! Operators and controllers work. The operator of the last release manages all others, and the current version too.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::REGISTRY;
use crate::image::Image;

/// The version that is built from this repository.
pub const CURRENT_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Time after which the speaker of [`Release::Dying`] exits.
pub const LIFETIME: Duration = Duration::from_secs(20);

const PROGRAMS: [&str; 3] = ["operator", "controller", "speaker"];

/// A release of the next minor version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Release {
    /// Its speaker exits at once.
    Crashing,
    /// Its speaker never answers on the LAN.
    Silent,
    /// Its speaker exits after [`LIFETIME`].
    Dying,
    /// It works.
    Good,
}

impl Release {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Crashing, Self::Silent, Self::Dying, Self::Good];

    /// Its version.
    ///
    /// # Panics
    /// When the workspace's version is malformed.
    #[must_use]
    pub fn version(self) -> String {
        let minor: u64 = env!("CARGO_PKG_VERSION_MINOR")
            .parse()
            .expect("cargo reads the version first");
        format!(
            "{}.{}.{}",
            env!("CARGO_PKG_VERSION_MAJOR"),
            minor + 1,
            self.patch()
        )
    }

    fn patch(self) -> u8 {
        match self {
            Self::Crashing => 1,
            Self::Silent => 2,
            Self::Dying => 3,
            Self::Good => 4,
        }
    }

    /// The value of `LB_TEST_FAULT` for its speaker.
    fn fault(self) -> Option<String> {
        match self {
            Self::Crashing => Some("crashes".to_owned()),
            Self::Silent => Some("silent".to_owned()),
            Self::Dying => Some(format!("dies:{}", LIFETIME.as_secs())),
            Self::Good => None,
        }
    }
}

/// The images of all releases except the current one. `binary` is the program of `tests/tools/test-releases`; `user` is its
/// user and group.
///
/// # Errors
/// When links to the program cannot be made.
pub fn images(binary: &Path, user: &str) -> anyhow::Result<Vec<Image>> {
    // One file with three names, so that all images share a layer.
    let links = binary.with_extension("names");
    std::fs::create_dir_all(&links).with_context(|| format!("create {}", links.display()))?;
    let mut files = BTreeMap::from([(PathBuf::from("/lb-test-releases"), binary.to_owned())]);
    for program in PROGRAMS {
        let link = links.join(format!("lb-{program}"));
        if !link.is_symlink() {
            symlink("lb-test-releases", &link).with_context(|| format!("create {}", link.display()))?;
        }
        files.insert(PathBuf::from(format!("/lb-{program}")), link);
    }
    let mut images = Vec::new();
    for release in Release::ALL {
        let version = release.version();
        for program in PROGRAMS {
            let mut env = BTreeMap::from([("LB_TEST_VERSION".to_owned(), version.clone())]);
            if let Some(fault) = release.fault().filter(|_| program == "speaker") {
                env.insert("LB_TEST_FAULT".to_owned(), fault);
            }
            images.push(Image {
                name: format!("{REGISTRY}/{program}:{version}"),
                files: files.clone(),
                entrypoint: vec![format!("/lb-{program}")],
                env,
                user: user.to_owned(),
                ..Image::default()
            });
        }
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_has_three_images_and_only_its_speaker_is_broken() {
        let directory = tempfile::tempdir().unwrap();
        let images = images(&directory.path().join("lb-test-releases"), "1:1").unwrap();
        assert_eq!(images.len(), 12);
        let version = Release::Silent.version();
        assert_ne!(version, CURRENT_VERSION);
        let of = |program: &str| {
            let name = format!("{REGISTRY}/{program}:{version}");
            images.iter().find(|image| image.name == name).unwrap()
        };
        assert_eq!(of("speaker").env["LB_TEST_FAULT"], "silent");
        assert!(!of("controller").env.contains_key("LB_TEST_FAULT"));
        assert_eq!(of("operator").env["LB_TEST_VERSION"], version);
        assert_eq!(of("operator").entrypoint, ["/lb-operator"]);
    }
}
