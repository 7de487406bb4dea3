//! Image references and digests.
//!
//! The chart and the committed bundle refer to images by tag, because digests are known only after the build. The
//! bundle of a release has digests (`make release`), so it can be mirrored.

use std::collections::BTreeMap;

use crate::BundleError;

/// Digests by program, the last part of the image name: `operator`, `controller`, `speaker`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Digests(BTreeMap<String, String>);

impl Digests {
    /// Validates digests.
    ///
    /// # Errors
    /// If a digest is invalid.
    pub fn new(digests: impl IntoIterator<Item = (String, String)>) -> Result<Self, BundleError> {
        let digests: BTreeMap<_, _> = digests.into_iter().collect();
        for digest in digests.values() {
            let digits = digest.strip_prefix("sha256:").unwrap_or_default();
            let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if digits.len() != 64 || !digits.bytes().all(hexadecimal) {
                return Err(BundleError::Digest(digest.clone()));
            }
        }
        Ok(Self(digests))
    }

    /// Whether images are pinned.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        !self.0.is_empty()
    }

    /// The image reference with its digest instead of the tag. Mirroring tools reject references with both.
    pub(crate) fn apply(&self, reference: &str) -> String {
        let repository = repository(reference);
        match self.0.get(program(reference)) {
            Some(digest) => format!("{repository}@{digest}"),
            None => reference.to_owned(),
        }
    }

    /// Checks that digests are given for all images, or for no image.
    pub(crate) fn check(&self, references: &[String]) -> Result<(), BundleError> {
        let required: Vec<_> = references
            .iter()
            .map(|reference| program(reference).to_owned())
            .collect();
        let given: Vec<_> = self.0.keys().cloned().collect();
        let complete = required.len() == given.len() && required.iter().all(|name| self.0.contains_key(name));
        if given.is_empty() || complete {
            return Ok(());
        }
        Err(BundleError::Digests { given, required })
    }
}

/// The program of an image: the last part of its name.
pub(crate) fn program(reference: &str) -> &str {
    let repository = repository(reference);
    repository.rsplit('/').next().unwrap_or(repository)
}

/// Registry and path of an image. A colon before the last slash separates a port.
fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    match name.get(path..).and_then(|last| last.find(':')) {
        Some(colon) => name.get(..path + colon).unwrap_or(name),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", String::from_iter([digit; 64]))
    }

    #[test]
    fn digest_replaces_tag() {
        let digests = Digests::new([("speaker".to_owned(), digest('a'))]).unwrap();
        for (reference, pinned) in [
            ("r.io/speaker:0.1.0", format!("r.io/speaker@{}", digest('a'))),
            (
                "r.io:5000/x/speaker",
                format!("r.io:5000/x/speaker@{}", digest('a')),
            ),
            ("speaker:1@sha256:old", format!("speaker@{}", digest('a'))),
            ("r.io/controller:0.1.0", "r.io/controller:0.1.0".to_owned()),
        ] {
            assert_eq!(digests.apply(reference), pinned);
        }
    }

    #[test]
    fn digests_are_given_for_all_images_or_no_image() {
        let references = ["r.io/operator:1".to_owned(), "r.io/speaker:1".to_owned()];
        let digests = |names: &[&str]| {
            Digests::new(names.iter().map(|name| ((*name).to_owned(), digest('0')))).unwrap()
        };
        assert!(digests(&[]).check(&references).is_ok());
        assert!(digests(&["operator", "speaker"]).check(&references).is_ok());
        assert!(digests(&["operator"]).check(&references).is_err());
        assert!(
            digests(&["operator", "speaker", "router"])
                .check(&references)
                .is_err()
        );
    }

    #[test]
    fn invalid_digests_are_rejected() {
        for text in ["", "sha256:ab", &digest('g'), &digest('A')] {
            assert!(
                Digests::new([("speaker".to_owned(), text.to_owned())]).is_err(),
                "{text}"
            );
        }
    }
}
