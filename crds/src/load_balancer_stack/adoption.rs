//! How far a stack is with taking over from MetalLB.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plain_enum;

/// The adoption of a running MetalLB.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdoptionStatus {
    /// What is being done: PrePull, Record, Controller, Speakers, HandOver, Adopted, or Restoring.
    pub step: AdoptionStep,

    /// What it waits for, or what is left to do.
    pub message: String,
}

/// A step of an adoption.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum AdoptionStep {
    /// The nodes pull the images.
    PrePull,
    /// What MetalLB is made of is written down.
    Record,
    /// MetalLB's controller ends, and then ours starts.
    Controller,
    /// Our speakers start beside MetalLB's.
    Speakers,
    /// MetalLB's speakers end.
    HandOver,
    /// MetalLB is replaced. The way back is open.
    Adopted,
    /// Ours end, and then MetalLB is brought back.
    Restoring,
}

impl AdoptionStep {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PrePull => "PrePull",
            Self::Record => "Record",
            Self::Controller => "Controller",
            Self::Speakers => "Speakers",
            Self::HandOver => "HandOver",
            Self::Adopted => "Adopted",
            Self::Restoring => "Restoring",
        }
    }
}
