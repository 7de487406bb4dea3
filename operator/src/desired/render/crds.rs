//! The metallb.io CRDs. They are not deleted with the stack, because pools and advertisements belong to users.

use super::{Objects, RenderError};
use crate::object_id::Kind;

pub(super) fn render(objects: &mut Objects) -> Result<(), RenderError> {
    for mut definition in lb_crds::metallb_crds() {
        // An upgrade of MetalLB's Helm release that no longer contains the CRDs must not delete them with every pool.
        let annotations = definition.metadata.annotations.get_or_insert_default();
        annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
        objects.add(Kind::CustomResourceDefinition, None, &definition)?;
    }
    Ok(())
}
