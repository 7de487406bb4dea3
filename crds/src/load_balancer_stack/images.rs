//! Images of controller and speakers.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::api_enum::api_enum;
use crate::schema;

/// Images of controller and speakers.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Registry that replaces the host of every image, with an optional path. Absent: the default registry of each
    /// image.
    /// Example: registry.example.com/mirror
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = ("!self.contains('://') && !self.endsWith('/')",
        "spec.images.registry is a host with an optional port and path, as in registry.example.com:5000/mirror"))]
    pub registry: Option<String>,

    /// When nodes pull images. Default: IfNotPresent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull_policy: PullPolicy,

    /// Names of the image pull Secrets in the namespace of the stack. Example: ["registry-example"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::names)]
    pub pull_secrets: Vec<String>,

    /// Image of the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ComponentImage>,

    /// Image of the speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<ComponentImage>,
}

/// The image of one component.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentImage {
    /// Image name without tag and digest. Absent: the default image. Example: registry.example.com/lb/speaker
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), transform = repository_schema)]
    pub repository: Option<String>,

    /// Digest that pins the image: sha256: and 64 hexadecimal digits. Absent: the image is selected by its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

api_enum! {
    /// When nodes pull images.
    #[derive(Default)]
    pub enum PullPolicy {
        /// Before every start of a container.
        Always,
        /// If the image is not on the node.
        #[default]
        IfNotPresent,
        /// Nodes do not pull images; the image must already be present.
        Never,
    }
}

/// The tag comes from `spec.version`, and the digest has its own field, so `repository` must have neither.
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
