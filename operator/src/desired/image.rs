//! Image references and their overrides. Pure.

/// An image reference: `registry/path:tag@digest`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// Registry and path.
    repository: String,
    /// Tag with its colon, or empty.
    tag: String,
    /// Digest with its at sign, or empty.
    digest: String,
}

impl Image {
    /// Parses a reference. Invalid references are accepted: the kubelet reports them best.
    #[must_use]
    pub fn parse(reference: &str) -> Self {
        let (name, digest) = match reference.split_once('@') {
            Some((name, digest)) => (name, format!("@{digest}")),
            None => (reference, String::new()),
        };
        // A colon before the last slash belongs to a port.
        let path = name.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match name.get(path..).and_then(|last| last.find(':')) {
            Some(colon) => name.split_at(path + colon),
            None => (name, ""),
        };
        Self {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest,
        }
    }

    /// Replaces the registry; `registry` may include a path.
    #[must_use]
    pub fn from_registry(mut self, registry: &str) -> Self {
        let path = match self.repository.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path,
            _ => &self.repository,
        };
        self.repository = format!("{}/{path}", registry.trim_end_matches('/'));
        self
    }

    /// Replaces registry and path, and removes the digest, which belongs to the previous image.
    #[must_use]
    pub fn from_repository(mut self, repository: &str) -> Self {
        self.repository = repository.to_owned();
        self.digest.clear();
        self
    }

    /// Whether it has a digest.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        !self.digest.is_empty()
    }

    /// Replaces the tag, and removes the digest, which belongs to the previous version.
    #[must_use]
    pub fn tagged(mut self, version: &str) -> Self {
        // A tag cannot contain a plus sign.
        self.tag = format!(":{}", version.replace('+', "_"));
        self.digest.clear();
        self
    }

    /// Replaces tag and digest by a digest.
    #[must_use]
    pub fn pinned(mut self, digest: &str) -> Self {
        self.tag.clear();
        self.digest = format!("@{digest}");
        self
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}{}", self.repository, self.tag, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_survives_round_trip() {
        for reference in [
            "lb-operator.io/speaker:0.1.0",
            "speaker",
            "localhost:5000/speaker",
            "localhost:5000/a/speaker:1@sha256:ab",
            "speaker@sha256:ab",
        ] {
            assert_eq!(Image::parse(reference).to_string(), reference);
        }
    }

    #[test]
    fn registry_replaces_host_and_keeps_path() {
        let cases = [
            ("lb-operator.io/speaker:0.1.0", "mirror:5000/speaker:0.1.0"),
            ("speaker:0.1.0", "mirror:5000/speaker:0.1.0"),
            ("team/speaker:0.1.0", "mirror:5000/team/speaker:0.1.0"),
            ("r.io/a/speaker@sha256:ab", "mirror:5000/a/speaker@sha256:ab"),
        ];
        for (reference, redirected) in cases {
            let image = Image::parse(reference).from_registry("mirror:5000/");
            assert_eq!(image.to_string(), redirected);
        }
    }

    #[test]
    fn repository_keeps_tag_and_drops_digest() {
        let image = Image::parse("r.io/speaker:0.1.0@sha256:ab").from_repository("m/s");
        assert_eq!(image.to_string(), "m/s:0.1.0");
        assert_eq!(image.pinned("sha256:cd").to_string(), "m/s@sha256:cd");
    }
}
