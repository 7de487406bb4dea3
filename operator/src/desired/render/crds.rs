//! The metallb.io kinds. They outlive the stack: pools and advertisements are the users'.

use super::{Objects, RenderError};
use crate::object_id::Kind;

pub(super) fn render(objects: &mut Objects) -> Result<(), RenderError> {
    for definition in lb_crds::metallb_crds() {
        objects.add(Kind::CustomResourceDefinition, None, &definition)?;
    }
    Ok(())
}
