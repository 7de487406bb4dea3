//! The reasons of the stack's conditions and events. They are API.

/// A reason of a condition or an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// All pods run at the wanted version and no problem is known.
    AsExpected,
    /// Pods are being created or replaced.
    RollingOut,
    /// Some pods are not ready.
    PodsNotReady,
    /// Pods cannot start.
    PodsFailing,
    /// A rollout makes no progress.
    RolloutStalled,
    /// Objects could not be written.
    WriteFailed,
    /// Another client keeps changing an object that the operator writes.
    DriftConflict,
    /// The spec needs something that does not exist in this cluster.
    MissingPrerequisite,
    /// The spec is invalid.
    InvalidSpec,
    /// `spec.paused` is true: nothing is written.
    Paused,
    /// A preflight check failed.
    PreflightFailed,
    /// No preflight check failed.
    PreflightPassed,
    /// The stack is being deleted.
    Deleting,
    /// Services hold addresses of a stack that is being deleted.
    ServicesExist,
    /// An upgrade is in progress.
    Upgrading,
    /// An upgrade failed; the previous revision is being restored.
    RollingBack,
    /// An upgrade failed; the previous revision runs again.
    RolledBack,
    /// An upgrade failed and was stopped (`onFailure: Pause`).
    UpgradePaused,
    /// An upgrade waits for approval.
    WaitingForApproval,
    /// MetalLB is being replaced.
    Adopting,
    /// MetalLB cannot be replaced, or another client recreated it.
    AdoptionBlocked,
    /// MetalLB is being restored.
    Restoring,
}

impl Reason {
    /// The text in conditions and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AsExpected => "AsExpected",
            Self::RollingOut => "RollingOut",
            Self::PodsNotReady => "PodsNotReady",
            Self::PodsFailing => "PodsFailing",
            Self::RolloutStalled => "RolloutStalled",
            Self::WriteFailed => "WriteFailed",
            Self::DriftConflict => "DriftConflict",
            Self::MissingPrerequisite => "MissingPrerequisite",
            Self::InvalidSpec => "InvalidSpec",
            Self::Paused => "Paused",
            Self::PreflightFailed => "PreflightFailed",
            Self::PreflightPassed => "PreflightPassed",
            Self::Deleting => "Deleting",
            Self::ServicesExist => "ServicesExist",
            Self::Upgrading => "Upgrading",
            Self::RollingBack => "RollingBack",
            Self::RolledBack => "RolledBack",
            Self::UpgradePaused => "UpgradePaused",
            Self::WaitingForApproval => "WaitingForApproval",
            Self::Adopting => "Adopting",
            Self::AdoptionBlocked => "AdoptionBlocked",
            Self::Restoring => "Restoring",
        }
    }
}
