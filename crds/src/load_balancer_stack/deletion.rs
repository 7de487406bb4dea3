//! What a stack says about its own deletion.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plain_enum;

/// What deleting the stack does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum DeletionPolicy {
    /// Nothing, for as long as Services have addresses of the stack.
    #[default]
    BlockIfServicesExist,
    /// The stack goes, and all that it made stays and goes on serving.
    Orphan,
    /// The Services lose their addresses, and all that the stack made goes.
    Withdraw,
}

impl DeletionPolicy {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
