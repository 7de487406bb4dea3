//! What waits while a check fails: a first installation, as a whole. A change of what runs waits in the first step of its
//! upgrade, which is told about it as an obstacle; repairs never wait. Pure.

use crate::desired::render::pre_pull;
use crate::drift::diff::{ApplyReason, Difference};
use crate::index::Index;
use crate::object_id::{Kind, ObjectId};

/// Whether what is to be done is a first installation: there is no workload, and none was there before, as this process or
/// the status (`ran`) remembers.
#[must_use]
pub fn is_first_installation(todo: &Difference<'_>, index: &Index, ran: bool) -> bool {
    let is_workload = |kind: Kind| matches!(kind, Kind::Deployment | Kind::DaemonSet);
    // The one that pulls images serves nobody.
    let serves = |id: &ObjectId| is_workload(id.kind) && id.key.name() != pre_pull::NAME;
    let runs = index.objects().any(|(id, _)| serves(id));
    let deleted = todo
        .apply
        .iter()
        .any(|(wanted, cause)| is_workload(wanted.id.kind) && *cause == ApplyReason::Drift);
    !ran && !runs && !deleted && !todo.is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::render::Wanted;
    use crate::index::Live;

    fn mk_wanted(kind: Kind) -> Wanted {
        Wanted {
            id: ObjectId::new(kind, "ns", "it"),
            body: json!({}),
            digest: String::new(),
        }
    }

    fn mk_index(kinds: &[Kind]) -> Index {
        let mut index = Index::default();
        for kind in kinds {
            let object = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": kind.to_string(), "metadata": {"name": "it", "namespace": "ns", "uid": "u"},
            }));
            index.apply(
                ObjectId::new(*kind, "ns", "it"),
                Live::new(*kind, object.unwrap()),
            );
        }
        index
    }

    #[test]
    fn without_a_workload_it_is_an_installation_and_repairs_are_none() {
        use ApplyReason::{Changed, Drift, Missing};
        use Kind::{DaemonSet, Deployment, ServiceAccount as Account};
        // What exists, what is to be done, and whether that is a first installation.
        type Case<'a> = (&'a [Kind], &'a [(Kind, ApplyReason)], bool);
        let cases: [Case<'_>; 7] = [
            (&[], &[], false),
            (
                &[],
                &[(Account, Missing), (Deployment, Missing), (DaemonSet, Missing)],
                true,
            ),
            // Left of an earlier stack.
            (&[Account], &[(Deployment, Missing), (DaemonSet, Missing)], true),
            (&[Deployment, DaemonSet], &[(DaemonSet, Changed)], false),
            (&[Deployment, DaemonSet], &[(Account, Drift)], false),
            (&[Deployment], &[(DaemonSet, Missing)], false),
            // Both were deleted by somebody.
            (&[], &[(Deployment, Drift), (DaemonSet, Drift)], false),
        ];
        for (exist, asked, first) in cases {
            let wanted: Vec<_> = asked
                .iter()
                .map(|(kind, cause)| (mk_wanted(*kind), *cause))
                .collect();
            let todo = Difference {
                apply: wanted.iter().map(|(wanted, cause)| (wanted, *cause)).collect(),
                prune: Vec::new(),
            };
            let index = mk_index(exist);
            assert_eq!(
                is_first_installation(&todo, &index, false),
                first,
                "{exist:?} {asked:?}"
            );
            assert!(!is_first_installation(&todo, &index, true), "it has run");
        }
    }
}
