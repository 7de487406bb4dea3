//! Events and log lines about objects. Reasons and the beginnings of the texts are MetalLB's: people and dashboards
//! search for them.

use lb_crds::names::CONFIGURATION_STATE;
use lb_ipam::{Addresses, Rejection};
use lb_runtime::ObjectKey;
use lb_runtime::events::{EventKind, Regarding, reference};

use crate::reason::Reason;
use crate::service::CachedService;
use crate::target::WriteTarget;

/// An event about an object, and its log line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectEvent {
    target: WriteTarget,
    uid: String,
    detail: Detail,
    /// Whether it is only logged, because the object shows it already.
    log_only: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Detail {
    Assigned { addresses: Addresses, pool: String },
    AssignedAdditional { addresses: Addresses, pool: String },
    Cleared(Rejection),
    Failed(Rejection),
    Incomplete(Rejection),
    OutsidePools { message: String },
    InvalidRequest(Rejection),
    Deprecated(&'static str),
    Invalid { reason: Reason, message: String },
    Valid,
}

/// As MetalLB quotes one address: `"fd00::1"`.
fn quoted(addresses: &Addresses) -> String {
    let quoted: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    quoted.join(" ")
}

/// The text of an event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventText {
    /// Normal or warning.
    pub kind: EventKind,
    /// Its reason.
    pub reason: Reason,
    /// The action that the controller took or tried.
    pub action: &'static str,
    /// Its message.
    pub note: String,
}

impl ObjectEvent {
    /// The status of a Service shows its addresses.
    #[must_use]
    pub fn assigned(key: &ObjectKey, service: &CachedService, addresses: Addresses, pool: String) -> Self {
        Self::of_service(key, service, Detail::Assigned { addresses, pool })
    }

    /// The status of a Service shows an additional address.
    #[must_use]
    pub fn assigned_additional(
        key: &ObjectKey,
        service: &CachedService,
        addresses: Addresses,
        pool: String,
    ) -> Self {
        Self::of_service(key, service, Detail::AssignedAdditional { addresses, pool })
    }

    /// A Service that prefers two addresses gets only one.
    #[must_use]
    pub fn incomplete(key: &ObjectKey, service: &CachedService, rejection: &Rejection) -> Self {
        Self::of_service(key, service, Detail::Incomplete(rejection.clone()))
    }

    /// A Service keeps an address that is in no pool.
    #[must_use]
    pub fn outside_pools(key: &ObjectKey, service: &CachedService, message: &str) -> Self {
        let message = message.to_owned();
        Self::of_service(key, service, Detail::OutsidePools { message })
    }

    /// A Service loses an address, because the pools no longer allow it.
    #[must_use]
    pub fn cleared(key: &ObjectKey, service: &CachedService, rejection: &Rejection) -> Self {
        Self::of_service(key, service, Detail::Cleared(rejection.clone()))
    }

    /// A Service gets no address.
    #[must_use]
    pub fn failed(key: &ObjectKey, service: &CachedService, rejection: &Rejection) -> Self {
        Self::of_service(key, service, Detail::Failed(rejection.clone()))
    }

    /// The request of a Service is invalid, so it keeps its address.
    #[must_use]
    pub fn invalid_request(key: &ObjectKey, service: &CachedService, rejection: &Rejection) -> Self {
        Self::of_service(key, service, Detail::InvalidRequest(rejection.clone()))
    }

    /// A Service has an annotation with a deprecated key.
    #[must_use]
    pub fn deprecated(key: &ObjectKey, service: &CachedService, annotation: &'static str) -> Self {
        Self::of_service(key, service, Detail::Deprecated(annotation))
    }

    /// A pool or an advertisement is invalid.
    #[must_use]
    pub fn invalid(target: WriteTarget, uid: String, reason: Reason, message: &str) -> Self {
        let message = message.to_owned();
        Self::of(target, uid, Detail::Invalid { reason, message })
    }

    /// A pool or an advertisement is valid again.
    #[must_use]
    pub fn valid(target: WriteTarget, uid: String) -> Self {
        Self::of(target, uid, Detail::Valid)
    }

    fn of_service(key: &ObjectKey, service: &CachedService, detail: Detail) -> Self {
        Self::of(WriteTarget::Service(key.clone()), service.uid.clone(), detail)
    }

    fn of(target: WriteTarget, uid: String, detail: Detail) -> Self {
        Self {
            target,
            uid,
            detail,
            log_only: false,
        }
    }

    /// The same event, not to be published: a previous leader has published it.
    #[must_use]
    pub fn log_only(self) -> Self {
        Self {
            log_only: true,
            ..self
        }
    }

    /// Whether the event is only logged.
    #[must_use]
    pub fn is_log_only(&self) -> bool {
        self.log_only
    }

    /// The object that the event is about; pools are in `namespace`.
    #[must_use]
    pub fn regarding(&self, namespace: &str) -> Regarding {
        const METALLB: &str = "metallb.io/v1beta1";
        let uid = Some(&*self.uid).filter(|uid| !uid.is_empty()).map(Into::into);
        let named = |name: &str| ObjectKey::new(namespace, name);
        match &self.target {
            WriteTarget::Service(key) => reference(key, "v1", "Service", uid),
            WriteTarget::Pool(name) => reference(&named(name), METALLB, "IPAddressPool", uid),
            WriteTarget::Advertisement(key) => reference(key, METALLB, "L2Advertisement", uid),
            WriteTarget::ConfigurationState => {
                reference(&named(CONFIGURATION_STATE), METALLB, "ConfigurationState", uid)
            }
        }
    }

    /// The text of the event.
    #[must_use]
    pub fn text(&self) -> EventText {
        let normal = |reason, action, note| (EventKind::Normal, reason, action, note);
        let warning = |reason, action, note| (EventKind::Warning, reason, action, note);
        let (kind, reason, action, note) = match &self.detail {
            Detail::Assigned { addresses, .. } => {
                normal(Reason::IpAllocated, "Assign", format!("Assigned IP {addresses}"))
            }
            Detail::AssignedAdditional { addresses, .. } => normal(
                Reason::IpAllocated,
                "Assign",
                format!("Assigned additional IP {}", quoted(addresses)),
            ),
            Detail::Incomplete(rejection) => normal(
                Reason::AdditionalAssignFailed,
                "Assign",
                format!("cannot assign additional IP in PreferDualStack: {rejection}"),
            ),
            Detail::OutsidePools { message } => {
                warning(Reason::AddressOutsidePools, "Adopt", message.clone())
            }
            Detail::Cleared(rejection) => normal(
                Reason::ClearAssignment,
                "Clear",
                format!(
                    "current IP for {:?} not allowed by config, will attempt for new IP assignment: {rejection}",
                    self.name()
                ),
            ),
            Detail::Failed(rejection @ Rejection::NotEnoughClusterIps(_)) => {
                warning(Reason::NotEnoughClusterIps, "Assign", rejection.to_string())
            }
            Detail::Failed(rejection) => warning(
                Reason::AllocationFailed,
                "Assign",
                format!("Failed to allocate IP for {:?}: {rejection}", self.name()),
            ),
            Detail::InvalidRequest(rejection) => warning(
                Reason::LoadBalancerFailed,
                "Assign",
                format!("invalid requested loadbalancer IPs: {rejection}"),
            ),
            Detail::Deprecated(annotation) => warning(
                Reason::DeprecatedAnnotation,
                "Read",
                format!("Service uses deprecated annotation {annotation}"),
            ),
            Detail::Invalid { reason, message } => warning(*reason, "Validate", message.clone()),
            Detail::Valid => normal(Reason::Accepted, "Validate", "valid again".to_owned()),
        };
        EventText {
            kind,
            reason,
            action,
            note,
        }
    }

    /// Writes the log line.
    pub fn log(&self) {
        let service = self.name();
        match &self.detail {
            Detail::Assigned { addresses, pool } | Detail::AssignedAdditional { addresses, pool } => {
                let ip: Vec<_> = addresses.iter().map(|address| address.to_string()).collect();
                tracing::info!(service, ip = ip.join(","), pool, "address assigned");
            }
            Detail::Cleared(error) => {
                tracing::warn!(service, reason = error.reason(), %error, "address cleared");
            }
            Detail::Failed(error) => {
                tracing::warn!(service, reason = error.reason(), %error, "no address assigned");
            }
            Detail::Incomplete(error) => {
                tracing::info!(service, reason = error.reason(), %error, "no additional address assigned");
            }
            Detail::OutsidePools { message } => {
                tracing::warn!(service, detail = message, "keeping address that is in no pool");
            }
            Detail::InvalidRequest(error) => {
                tracing::warn!(service, reason = error.reason(), %error, "invalid address request");
            }
            Detail::Deprecated(annotation) => tracing::warn!(service, annotation, "deprecated annotation"),
            Detail::Invalid { reason, message } => {
                tracing::warn!(object = %self.target, reason = reason.as_str(), error = message, "invalid object");
            }
            Detail::Valid => tracing::info!(object = %self.target, "object valid again"),
        }
    }

    fn name(&self) -> String {
        match &self.target {
            WriteTarget::Service(key) | WriteTarget::Advertisement(key) => key.to_string(),
            WriteTarget::Pool(name) => name.clone(),
            WriteTarget::ConfigurationState => CONFIGURATION_STATE.to_owned(),
        }
    }
}
