//! The reasons of the stack's conditions and events. They are API.

use std::fmt;

use crate::object_id::ObjectId;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A reason of a condition or an event.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            const ALL: &[Self] = &[$(Self::$name,)*];

            /// The text in conditions and events: the name of the variant.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    /// All pods run at the wanted version and no problem is known.
    AsExpected,
    /// Pods are being created or replaced.
    RollingOut,
    /// Some pods are not ready.
    PodsNotReady,
    /// No speaker is ready on a node that may announce addresses.
    NoSpeaker,
    /// The stack runs a version that the next operator does not install.
    OldVersion,
    /// Pods cannot start.
    PodsFailing,
    /// A rollout makes no progress.
    RolloutStalled,
    /// Heartbeats of some speakers do not arrive at others.
    HeartbeatsLost,
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
    /// Event: the stack became ready.
    Ready,
    /// Event: a step of an adoption completed it.
    Adopted,
    /// Event: MetalLB is restored.
    Restored,
    /// Event: the deletion of the stack waits for a person.
    DeletionBlocked,
    /// Event: the stack is deleted.
    Deleted,
    /// Event: `spec.preflight.skip` overrides a failed preflight check.
    PreflightSkipped,
    /// Event: another operator manages the stack.
    OtherOperator,
    /// Event: an object was changed by another client and put back.
    DriftCorrected,
    /// Event: an upgrade starts.
    UpgradeStarted,
    /// Event: the spec changed during an upgrade.
    UpgradeSuperseded,
    /// Event: the canary ran without problems.
    CanaryPassed,
    /// Event: an upgrade failed and is rolled back.
    UpgradeFailed,
    /// Event: an upgrade is complete.
    UpgradeSucceeded,
    /// Event: a new heartbeat key exists, which speakers do not use yet.
    HeartbeatKeyCreated,
    /// Event: speakers use a new heartbeat key and drop the previous one.
    HeartbeatKeyRotated,
}

impl Reason {
    /// The reason with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event about the stack.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StackEvent {
    /// Whether its type is Warning instead of Normal.
    pub warning: bool,
    /// Its reason.
    pub reason: Reason,
    /// Its text.
    pub note: String,
    /// The object of the stack that it concerns.
    pub related: Option<ObjectId>,
}

impl StackEvent {
    /// An event of type Normal.
    #[must_use]
    pub fn normal(reason: Reason, note: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            note: note.into(),
            related: None,
        }
    }

    /// An event of type Warning.
    #[must_use]
    pub fn warning(reason: Reason, note: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::normal(reason, note)
        }
    }
}
