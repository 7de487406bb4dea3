//! Progress of the migration from MetalLB.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api_enum::api_enum;

/// Progress of the migration from MetalLB.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdoptionStatus {
    /// The current step.
    pub step: AdoptionStep,

    /// Condition that the step waits for, or the next action of the user.
    pub message: String,
}

api_enum! {
    /// A step of the migration from MetalLB.
    pub enum AdoptionStep {
        /// The nodes pull the images.
        PrePull,
        /// MetalLB's manifests are saved in the ControllerRevision metallb-before-adoption.
        Record,
        /// MetalLB's controller stops; then the controller of the stack starts.
        Controller,
        /// The speakers of the stack start beside MetalLB's speakers.
        Speakers,
        /// MetalLB's speakers stop; the speakers of the stack announce the addresses.
        HandOver,
        /// MetalLB is replaced. It can be restored while the saved manifests exist.
        Adopted,
        /// The stack's workloads stop; then MetalLB is restored.
        Restoring,
    }
}
