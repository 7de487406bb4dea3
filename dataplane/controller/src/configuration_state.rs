//! The controller's ConfigurationState: whether all pools and advertisements are valid.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lb_crds::ConfigurationResult;
use lb_crds::condition::set_condition;
use lb_crds::names::POOL_RECONCILER_VALID;
use lb_ipam::Allocator;
use lb_runtime::text::truncate;

use crate::allocation_key::AllocationKey;
use crate::config_status;
use crate::index::Index;
use crate::reason::Reason;
use crate::write::{ConfigurationStateWrite, ObjectWrite};

/// The longest `status.errorSummary`, in bytes.
const SUMMARY_LIMIT: usize = 1024;

/// Whether the object has to be written.
#[must_use]
pub fn differs(index: &Index, allocator: &Allocator<AllocationKey>) -> bool {
    write(index, allocator, Timestamp::UNIX_EPOCH).is_some()
}

/// The write that corrects the object, if it needs one, and the version that it is based on.
#[must_use]
pub fn write(
    index: &Index,
    allocator: &Allocator<AllocationKey>,
    time: Timestamp,
) -> Option<(String, ObjectWrite)> {
    let state = Some(&index.configuration_state).filter(|state| state.listed)?;
    let errors = config_status::errors(index, allocator);
    let valid = errors.is_empty();
    let summary = truncate(errors.join("; "), SUMMARY_LIMIT);
    let mut status = state.status.clone();
    status.result = Some(if valid {
        ConfigurationResult::Valid
    } else {
        ConfigurationResult::Invalid
    });
    status.error_summary.clone_from(&summary);
    set(&mut status.conditions, valid, &summary, time);
    let version = state.object.as_ref().map(|object| object.version.clone());
    (version.is_none() || status != state.status).then(|| {
        let known = version.clone().unwrap_or_default();
        let write = ConfigurationStateWrite { version, status };
        (known, ObjectWrite::ConfigurationState(write))
    })
}

fn set(conditions: &mut Vec<Condition>, valid: bool, summary: &str, time: Timestamp) {
    let (reason, message) = if valid {
        (Reason::Reconciled, "all pools and advertisements are valid")
    } else {
        (Reason::ConfigurationError, summary)
    };
    set_condition(
        conditions,
        POOL_RECONCILER_VALID,
        valid,
        reason.as_str(),
        message,
        0,
        time,
    );
}

/// Updates the index after a successful write.
pub fn record_written(
    index: &mut Index,
    write: ConfigurationStateWrite,
    based_on: Option<&str>,
    version: String,
) {
    let known = index
        .configuration_state
        .object
        .as_ref()
        .map_or("", |object| object.version.as_str());
    // If the watch was quicker, the index is newer than this response.
    if Some(known) == based_on {
        let object = index.configuration_state.object.get_or_insert_default();
        object.version = version;
        index.configuration_state.status = write.status;
    }
}
