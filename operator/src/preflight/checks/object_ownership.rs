//! Check `ObjectOwnership`: whether objects of other owners have names of the stack's objects. The operator does not
//! overwrite them, so an installation beside them would remain incomplete.

use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::ownership::{ForeignObject, TakeOver};
use crate::preflight::{Fact, Finding, unknown};

/// `adopt`: `spec.adopt`; the adoption saves and deletes MetalLB's workloads before it creates the stack's.
pub(in crate::preflight) fn object_ownership(adopt: bool, found: &Fact<Vec<ForeignObject>>) -> Finding {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unknown("who owns existing objects", error),
    };
    let take_over = TakeOver {
        adopt,
        is_saved: false,
    };
    let conflicts: Vec<_> = found
        .iter()
        .filter(|foreign| !(take_over.allows(foreign) || adopt && foreign.is_metallb))
        .collect();
    let Some(first) = conflicts.first() else {
        return Finding::passed("no object of another owner has a name of the stack's objects");
    };
    let mut managers: Vec<_> = conflicts.iter().flat_map(|foreign| &foreign.managers).collect();
    managers.sort();
    managers.dedup();
    let remedy = if conflicts.iter().all(|foreign| foreign.is_metallb) {
        "set spec.adopt to true to replace MetalLB, or delete the stack and create it with another spec.namespace"
    } else {
        "delete them if they are not needed, or delete the stack and create it with another spec.namespace"
    };
    Finding::failed(format!(
        "namespace {} has objects of another owner, which are not overwritten: {} (written by {}); {remedy}",
        first.id.key.namespace(),
        list_first(conflicts.iter().map(|foreign| &foreign.id), LIST_LIMIT),
        list_first(managers, LIST_LIMIT),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_id::{Kind, ObjectId};

    fn mk(kind: Kind, is_metallb: bool) -> ForeignObject {
        ForeignObject {
            id: ObjectId::new(kind, "metallb-system", "controller"),
            managers: vec!["kubectl".to_owned()],
            is_metallb,
        }
    }

    #[test]
    fn objects_of_others_fail_unless_metallb_is_adopted() {
        let cases = [
            (false, vec![], None),
            (false, vec![mk(Kind::Namespace, false)], None),
            (
                false,
                vec![mk(Kind::Deployment, true)],
                Some("set spec.adopt to true"),
            ),
            (
                true,
                vec![mk(Kind::Deployment, true), mk(Kind::ServiceAccount, true)],
                None,
            ),
            // Another program's Deployment, such as that of Knative.
            (
                true,
                vec![mk(Kind::Deployment, false)],
                Some("another spec.namespace"),
            ),
            (
                false,
                vec![mk(Kind::ServiceAccount, false)],
                Some("ServiceAccount metallb-system/controller (written by kubectl)"),
            ),
        ];
        for (adopt, found, says) in cases {
            match (object_ownership(adopt, &Ok(found.clone())), says) {
                (Finding::Passed(_), None) => {}
                (Finding::Failed(message), Some(says)) => assert!(message.contains(says), "{message}"),
                (finding, _) => panic!("{adopt} {found:?}: {finding:?}"),
            }
        }
    }
}
