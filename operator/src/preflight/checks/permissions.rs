//! Check `Permissions`: whether the operator holds the permissions that it grants to controller and speaker.

use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::preflight::{Fact, Finding, unknown};

pub(in crate::preflight) fn permissions(denied: &Fact<Vec<String>>) -> Finding {
    match denied {
        Err(error) => unknown("the operator's permissions", error),
        Ok(denied) if denied.is_empty() => {
            Finding::passed("the operator holds every permission that controller and speaker need")
        }
        Ok(denied) => Finding::failed(format!(
            "the operator lacks permissions that it must grant: {}; reinstall the ClusterRole of this operator version with \
             helm upgrade or the OLM bundle",
            list_first(denied, LIST_LIMIT)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_permissions_are_named() {
        let denied: Vec<_> = (0..7).map(|number| format!("get things{number}")).collect();
        let Finding::Failed(message) = permissions(&Ok(denied)) else {
            panic!("a missing permission fails");
        };
        assert!(message.contains("get things4 and 2 more"), "{message}");
    }
}
