//! The ConfigurationState of the controller: whether all pools and advertisements can be used, at one look.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lb_crds::condition::set_condition;
use lb_crds::names::POOL_RECONCILER_VALID;
use lb_crds::{ConfigurationResult, ConfigurationState, ConfigurationStateStatus};
use lb_ipam::Allocator;
use lb_runtime::text::truncate;
use lb_runtime::watch::Change;

use crate::decide::Holder;
use crate::index::{Index, ObjectRef};
use crate::verdict;
use crate::write::{StateWrite, Write};

/// The longest summary, in bytes.
const LONGEST: usize = 1024;

/// What is known of the object.
#[derive(Debug, Default)]
pub struct State {
    /// Whether it is known if there is one.
    listed: bool,
    object: Option<ObjectRef>,
    status: ConfigurationStateStatus,
}

impl State {
    /// Takes in a change.
    pub fn take(&mut self, change: Change<ConfigurationState>) {
        match change {
            Change::Apply(object) => {
                self.object = Some(ObjectRef::of(&object.metadata));
                self.status = object.status.unwrap_or_default();
            }
            Change::Delete(_) => {
                *self = Self {
                    listed: self.listed,
                    ..Self::default()
                };
            }
            // It stays as it is: without a version there is nothing to base a write on.
            Change::Invalid { key, error } => {
                tracing::warn!(configurationstate = %key, error, "object cannot be read: delete it");
            }
            Change::Listing => {}
            Change::Synced => self.listed = true,
        }
    }
}

/// Whether the object does not say what is so.
#[must_use]
pub fn differs(index: &Index, allocator: &Allocator<Holder>) -> bool {
    write(index, allocator, Timestamp::UNIX_EPOCH).is_some()
}

/// The write that makes it so, and the version that it is based on.
#[must_use]
pub fn write(index: &Index, allocator: &Allocator<Holder>, time: Timestamp) -> Option<(String, Write)> {
    let state = Some(&index.state).filter(|state| state.listed)?;
    let errors = verdict::errors(index, allocator);
    let valid = errors.is_empty();
    let summary = truncate(errors.join("; "), LONGEST);
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
        (known, Write::State(StateWrite { version, status }))
    })
}

fn set(conditions: &mut Vec<Condition>, valid: bool, summary: &str, time: Timestamp) {
    let (reason, message) = if valid {
        ("Reconciled", "all pools and advertisements can be used")
    } else {
        ("ConfigurationError", summary)
    };
    set_condition(conditions, POOL_RECONCILER_VALID, valid, reason, message, 0, time);
}

/// Takes in that it was written.
pub fn written(index: &mut Index, write: StateWrite, based_on: Option<&str>, version: String) {
    let known = index
        .state
        .object
        .as_ref()
        .map_or("", |object| object.version.as_str());
    // If the watch was quicker, the index is newer than this answer.
    if Some(known) == based_on {
        let object = index.state.object.get_or_insert_default();
        object.version = version;
        index.state.status = write.status;
    }
}
