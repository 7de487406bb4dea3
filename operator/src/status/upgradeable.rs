//! Condition Upgradeable: the operator can be upgraded, which starts an upgrade of the stack unless the spec names a
//! version.

use super::{NewCondition, PAUSED, StatusInput};
use crate::reasons::Reason;

pub(super) fn condition(input: &StatusInput, ready: &NewCondition) -> NewCondition {
    let (status, reason, message) = if ready.status {
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
