//! What a stack says about where images come from.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::plain_enum;
use crate::schema;

/// Where images come from.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// A registry of your own, with a path if it has one, in place of the host of every image. Absent: the images' own.
    /// Example: registry.example.com/mirror
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = ("!self.contains('://') && !self.endsWith('/')",
        "spec.images.registry is a host with an optional port and path, as in registry.example.com:5000/mirror"))]
    pub registry: Option<String>,

    /// When nodes pull images: Always, IfNotPresent or Never. Default: IfNotPresent.
    #[serde(default, skip_serializing_if = "PullPolicy::is_default")]
    pub pull_policy: PullPolicy,

    /// Names of Secrets to pull images with. They have to be in the stack's namespace. Example: ["registry-example"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::names)]
    pub pull_secrets: Vec<String>,

    /// The controller's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ComponentImage>,

    /// The speaker's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<ComponentImage>,
}

/// The image of one program.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentImage {
    /// The image without tag and digest, in place of the default. Example: registry.example.com/lb/speaker
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), transform = repository_schema)]
    pub repository: Option<String>,

    /// Pins the image, whatever its tag comes to mean. Example: sha256: and 64 hexadecimal digits
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

/// When nodes pull images.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum PullPolicy {
    /// Before every start of a container.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: somebody else puts it there.
    Never,
}

impl PullPolicy {
    /// The word for it, as a container's `imagePullPolicy`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A reference that says two things about which bytes are meant would have to be guessed at.
fn repository_schema(schema: &mut Schema) {
    schema::rule(
        schema,
        "!self.contains('@')",
        "repository is an image without a digest: put the digest into the field digest beside it",
    );
    schema::rule(
        schema,
        "!self.matches(':[^/]*$')",
        "repository is an image without a tag: the tag follows from spec.version, and digest pins an image",
    );
    schema::rule(
        schema,
        "!self.contains('://') && !self.endsWith('/')",
        "repository is a host and a path, as in registry.example.com:5000/lb/speaker",
    );
}
