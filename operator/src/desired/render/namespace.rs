//! The stack's namespace, with the Pod Security level that the speaker needs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;

use super::{Objects, RenderError, named};
use crate::desired::config::StackConfig;
use crate::object_id::Kind;

pub(super) fn render(config: &StackConfig, objects: &mut Objects) -> Result<(), RenderError> {
    let mut metadata = named("", &config.namespace);
    // Host network and NET_RAW are not permitted by the baseline profile.
    metadata.labels = Some(BTreeMap::from(["enforce", "audit", "warn"].map(|mode| {
        (
            format!("pod-security.kubernetes.io/{mode}"),
            "privileged".to_owned(),
        )
    })));
    let namespace = Namespace {
        metadata,
        ..Namespace::default()
    };
    objects.add(Kind::Namespace, None, &namespace)
}
