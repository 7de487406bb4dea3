//! The metallb.io CRDs. They are not deleted with the stack, because pools and advertisements belong to users.

use super::{Objects, RenderError};
use crate::object_id::Kind;

pub(super) fn render(objects: &mut Objects) -> Result<(), RenderError> {
    for definition in lb_crds::metallb_crds() {
        objects.add(Kind::CustomResourceDefinition, None, &definition)?;
    }
    Ok(())
}
