//! The reasons of all events and conditions that the controller writes.

use lb_ipam::{PoolError, Rejection};

/// Reason of an event or a condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    // Events of Services, as MetalLB names them.
    /// The status shows new addresses.
    IpAllocated,
    /// Addresses are released because the pools no longer allow them.
    ClearAssignment,
    /// No address can be assigned.
    AllocationFailed,
    /// Two families are required, but there is one cluster IP.
    NotEnoughClusterIps,
    /// The second of two preferred families cannot be assigned.
    AdditionalAssignFailed,
    /// The request is invalid; the Service keeps its addresses.
    LoadBalancerFailed,
    /// The Service has an annotation with a deprecated key.
    DeprecatedAnnotation,
    // Events of Services that MetalLB does not have.
    /// The Service keeps an address that is in no pool.
    AddressOutsidePools,

    // Condition AddressAssigned.
    /// The Service has the requested addresses.
    Assigned,
    /// The Service has an address that is in no pool.
    OutsidePools,
    /// The request was rejected.
    Rejected(&'static str),

    // Condition Announced.
    /// A node announces the address.
    Announced,
    /// No node announces the address.
    NotAnnounced,
    /// No node announces the address, for a reason that a speaker has found.
    Unannounced(&'static str),
    /// No speaker is ready.
    NoSpeaker,
    /// The speaker that reported the announcement is not ready.
    SpeakerNotReady,
    /// Another host answers for the address.
    AddressConflict,
    /// The owner does not answer for the address.
    NoReply,

    // Condition Valid of pools and advertisements, and their events.
    /// The object is valid.
    Accepted,
    /// The pool is valid, and contains addresses that nodes have.
    ContainsNodeAddresses,
    /// A selector of an advertisement is invalid.
    InvalidSelector,
    /// An advertisement names a pool that does not exist.
    UnknownPool,
    /// The pool is invalid.
    InvalidPool(&'static str),

    // Condition of the ConfigurationState, as MetalLB names them.
    /// The whole configuration is valid.
    Reconciled,
    /// A pool or an advertisement is invalid.
    ConfigurationError,
}

impl Reason {
    /// The text in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IpAllocated => "IPAllocated",
            Self::ClearAssignment => "ClearAssignment",
            Self::AllocationFailed => "AllocationFailed",
            Self::NotEnoughClusterIps => "not enough clusterips",
            Self::AdditionalAssignFailed => "AdditionalAssignFailed",
            Self::LoadBalancerFailed => "LoadBalancerFailed",
            Self::DeprecatedAnnotation => "deprecatedAnnotation",
            Self::AddressOutsidePools => "AddressOutsidePools",
            Self::Assigned => "Assigned",
            Self::OutsidePools => "OutsidePools",
            Self::Announced => "Announced",
            Self::NotAnnounced => "NotAnnounced",
            Self::NoSpeaker => "NoSpeaker",
            Self::SpeakerNotReady => "SpeakerNotReady",
            Self::AddressConflict => lb_crds::names::ADDRESS_CONFLICT,
            Self::NoReply => lb_crds::names::NO_REPLY,
            Self::Accepted => "Accepted",
            Self::ContainsNodeAddresses => "ContainsNodeAddresses",
            Self::InvalidSelector => "InvalidSelector",
            Self::UnknownPool => "UnknownPool",
            Self::Reconciled => "Reconciled",
            Self::ConfigurationError => "ConfigurationError",
            Self::Rejected(reason) | Self::InvalidPool(reason) | Self::Unannounced(reason) => reason,
        }
    }
}

impl From<&Rejection> for Reason {
    fn from(rejection: &Rejection) -> Self {
        Self::Rejected(rejection.reason())
    }
}

impl From<&PoolError> for Reason {
    fn from(error: &PoolError) -> Self {
        Self::InvalidPool(error.reason())
    }
}
