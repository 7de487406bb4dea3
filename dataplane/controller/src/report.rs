//! What the controller tells people: one event and one log line for each thing that happened. The reasons, and the
//! beginnings of the texts, are MetalLB's: people and dashboards search for them.

use lb_crds::names::CONFIGURATION_STATE;
use lb_ipam::{Addresses, Rejection};
use lb_runtime::ObjectKey;
use lb_runtime::events::{EventKind, Regarding, reference};

use crate::service::Service;
use crate::write::Target;

/// Something that happened to an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    target: Target,
    uid: String,
    what: What,
    /// Whether the object shows it already, so that it is for the log alone.
    known: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum What {
    Allocated { addresses: Addresses, pool: String },
    Added { addresses: Addresses, pool: String },
    Cleared(Rejection),
    Failed(Rejection),
    Incomplete(Rejection),
    Outside { message: String },
    InvalidRequest(Rejection),
    Deprecated(&'static str),
    Invalid { reason: String, message: String },
    Valid,
}

/// An event to be published.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// News or trouble.
    pub kind: EventKind,
    /// MetalLB's word for it.
    pub reason: String,
    /// What was done, or tried.
    pub action: &'static str,
    /// The text.
    pub note: String,
}

impl Report {
    /// A Service's status shows its addresses.
    #[must_use]
    pub fn allocated(key: &ObjectKey, service: &Service, addresses: Addresses, pool: String) -> Self {
        Self::of(key, service, What::Allocated { addresses, pool })
    }

    /// A Service's status shows one more address.
    #[must_use]
    pub fn additional(key: &ObjectKey, service: &Service, addresses: Addresses, pool: String) -> Self {
        Self::of(key, service, What::Added { addresses, pool })
    }

    /// A Service that prefers two addresses has one.
    #[must_use]
    pub fn incomplete(key: &ObjectKey, service: &Service, reason: &Rejection) -> Self {
        Self::of(key, service, What::Incomplete(reason.clone()))
    }

    /// A Service keeps what no pool has.
    #[must_use]
    pub fn outside(key: &ObjectKey, service: &Service, message: &str) -> Self {
        let message = message.to_owned();
        Self::of(key, service, What::Outside { message })
    }

    /// A Service loses its address, because pools do not allow it any more.
    #[must_use]
    pub fn cleared(key: &ObjectKey, service: &Service, reason: &Rejection) -> Self {
        Self::of(key, service, What::Cleared(reason.clone()))
    }

    /// A Service gets no address.
    #[must_use]
    pub fn failed(key: &ObjectKey, service: &Service, reason: &Rejection) -> Self {
        Self::of(key, service, What::Failed(reason.clone()))
    }

    /// A Service keeps its address, because what it asks for instead cannot be understood.
    #[must_use]
    pub fn invalid_request(key: &ObjectKey, service: &Service, reason: &Rejection) -> Self {
        Self::of(key, service, What::InvalidRequest(reason.clone()))
    }

    /// A Service uses a key of old.
    #[must_use]
    pub fn deprecated(key: &ObjectKey, service: &Service, annotation: &'static str) -> Self {
        Self::of(key, service, What::Deprecated(annotation))
    }

    /// A pool or an advertisement cannot be used.
    #[must_use]
    pub fn invalid(target: Target, uid: String, reason: &str, message: &str) -> Self {
        let what = What::Invalid {
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        Self {
            target,
            uid,
            what,
            known: false,
        }
    }

    /// A pool or an advertisement can be used again.
    #[must_use]
    pub fn valid(target: Target, uid: String) -> Self {
        let what = What::Valid;
        Self {
            target,
            uid,
            what,
            known: false,
        }
    }

    fn of(key: &ObjectKey, service: &Service, what: What) -> Self {
        Self {
            target: Target::Service(key.clone()),
            uid: service.uid.clone(),
            what,
            known: false,
        }
    }

    /// The same for the log alone: another leader has told the object's owner.
    #[must_use]
    pub fn known(self) -> Self {
        Self { known: true, ..self }
    }

    /// Whether there is nothing to publish.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// The object that it is about; pools are in `namespace`.
    #[must_use]
    pub fn regarding(&self, namespace: &str) -> Regarding {
        let uid = Some(&*self.uid).filter(|uid| !uid.is_empty()).map(Into::into);
        match &self.target {
            Target::Service(key) => reference(key, "v1", "Service", uid),
            Target::Pool(name) => reference(
                &ObjectKey::new(namespace, name.as_str()),
                "metallb.io/v1beta1",
                "IPAddressPool",
                uid,
            ),
            Target::Advertisement(key) => reference(key, "metallb.io/v1beta1", "L2Advertisement", uid),
            Target::State => reference(
                &ObjectKey::new(namespace, CONFIGURATION_STATE),
                "metallb.io/v1beta1",
                "ConfigurationState",
                uid,
            ),
        }
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> Event {
        let (kind, reason, action, note) = match &self.what {
            What::Allocated { addresses, .. } => (
                EventKind::Normal,
                "IPAllocated",
                "Assign",
                format!("Assigned IP {addresses}"),
            ),
            What::Added { addresses, .. } => (
                EventKind::Normal,
                "IPAllocated",
                "Assign",
                format!("Assigned additional IP {addresses}"),
            ),
            What::Incomplete(reason) => (
                EventKind::Normal,
                "AdditionalAssignFailed",
                "Assign",
                format!("cannot assign additional IP in PreferDualStack: {reason}"),
            ),
            What::Outside { message } => (
                EventKind::Warning,
                "AddressOutsidePools",
                "Adopt",
                message.clone(),
            ),
            What::Cleared(reason) => (
                EventKind::Normal,
                "ClearAssignment",
                "Clear",
                format!(
                    "current IP for {:?} not allowed by config, will attempt for new IP assignment: {reason}",
                    self.name()
                ),
            ),
            What::Failed(reason @ Rejection::NotEnoughClusterIps(_)) => (
                EventKind::Warning,
                "not enough clusterips",
                "Assign",
                reason.to_string(),
            ),
            What::Failed(reason) => (
                EventKind::Warning,
                "AllocationFailed",
                "Assign",
                format!("Failed to allocate IP for {:?}: {reason}", self.name()),
            ),
            What::InvalidRequest(reason) => (
                EventKind::Warning,
                "LoadBalancerFailed",
                "Assign",
                format!("invalid requested loadbalancer IPs: {reason}"),
            ),
            What::Deprecated(annotation) => (
                EventKind::Warning,
                "deprecatedAnnotation",
                "Read",
                format!("Service uses deprecated annotation {annotation}"),
            ),
            What::Invalid { reason, message } => {
                (EventKind::Warning, reason.as_str(), "Validate", message.clone())
            }
            What::Valid => (
                EventKind::Normal,
                "Accepted",
                "Validate",
                "valid again".to_owned(),
            ),
        };
        Event {
            kind,
            reason: reason.to_owned(),
            action,
            note,
        }
    }

    /// Writes the log line.
    pub fn log(&self) {
        let name = self.name();
        match &self.what {
            What::Allocated { addresses, pool } | What::Added { addresses, pool } => {
                let ip: Vec<_> = addresses.iter().map(|address| address.to_string()).collect();
                tracing::info!(service = name, ip = ip.join(","), pool, "address assigned");
            }
            What::Cleared(error) => {
                tracing::warn!(service = name, reason = error.word(), %error, "address cleared");
            }
            What::Failed(error) => {
                tracing::warn!(service = name, reason = error.word(), %error, "no address assigned");
            }
            What::Incomplete(error) => {
                tracing::info!(service = name, reason = error.word(), %error, "no additional address assigned");
            }
            What::Outside { message } => {
                tracing::warn!(service = name, detail = message, "address of no pool kept");
            }
            What::InvalidRequest(error) => {
                tracing::warn!(service = name, reason = error.word(), %error, "request not understood");
            }
            What::Deprecated(annotation) => {
                tracing::warn!(service = name, annotation, "deprecated annotation");
            }
            What::Invalid { reason, message } => {
                tracing::warn!(object = %self.target, reason, error = message, "invalid");
            }
            What::Valid => tracing::info!(object = %self.target, "valid again"),
        }
    }

    fn name(&self) -> String {
        match &self.target {
            Target::Service(key) | Target::Advertisement(key) => key.to_string(),
            Target::Pool(name) => name.clone(),
            Target::State => CONFIGURATION_STATE.to_owned(),
        }
    }
}
