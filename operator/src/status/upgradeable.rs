//! Condition Upgradeable: the operator can be upgraded, which starts an upgrade of the stack unless the spec names a
//! version.

use semver::Version;

use super::{NewCondition, PAUSED, StatusInput};
use crate::reasons::Reason;

pub(super) fn condition(input: &StatusInput, ready: &NewCondition) -> NewCondition {
    let (status, reason, message) = if ready.status
        && let Some(version) = input
            .target_version
            .as_ref()
            .filter(|version| is_oldest(version, input))
    {
        let message = format!(
            "the next minor version of the operator does not install version {version}: upgrade the stack first (spec.version)"
        );
        (false, Reason::OldVersion, message)
    } else if ready.status {
        (true, Reason::AsExpected, "operator can be upgraded".to_owned())
    } else {
        let message = format!("stack is not ready: {}", ready.message);
        (false, ready.reason, message)
    };
    let paused = input.paused && status;
    NewCondition {
        type_: "Upgradeable",
        status: status && !paused,
        reason: if paused { Reason::Paused } else { reason },
        message: if paused { PAUSED.to_owned() } else { message },
    }
}

/// Whether the version is of the minor version before the operator's, which the next operator rejects.
fn is_oldest(version: &str, input: &StatusInput) -> bool {
    let minor = |text: &str| {
        Version::parse(text)
            .ok()
            .map(|version| (version.major, version.minor))
    };
    minor(version) < minor(&input.operator_version)
}
