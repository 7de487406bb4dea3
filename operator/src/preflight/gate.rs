//! A failed check blocks a first installation as a whole. A change of running workloads waits in the first step of its
//! upgrade; repairs never wait. Pure.

use crate::desired::render::pre_pull;
use crate::drift::diff::{ApplyReason, Difference};
use crate::index::Index;
use crate::object_id::{Kind, ObjectId};

/// Whether the writes are a first installation: no workload exists, and none existed before according to this process
/// or to the status (`has_run`).
#[must_use]
pub fn is_first_installation(todo: &Difference<'_>, index: &Index, has_run: bool) -> bool {
    let is_workload = |kind: Kind| matches!(kind, Kind::Deployment | Kind::DaemonSet);
    // The DaemonSet that pulls images serves no traffic.
    let serves = |id: &ObjectId| is_workload(id.kind) && id.key.name() != pre_pull::NAME;
    let runs = index.objects().any(|(id, _)| serves(id));
    let deleted = todo
        .apply
        .iter()
        .any(|(wanted, cause)| is_workload(wanted.id.kind) && *cause == ApplyReason::Drift);
    !has_run && !runs && !deleted && !todo.is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::render::DesiredObject;
    use crate::index::LiveObject;

    fn mk_wanted(kind: Kind) -> DesiredObject {
        DesiredObject {
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
                LiveObject::new(*kind, object.unwrap()),
            );
        }
        index
    }

    #[test]
    fn only_a_stack_without_workloads_is_a_first_installation() {
        use ApplyReason::{Changed, Drift, Missing};
        use Kind::{DaemonSet, Deployment, ServiceAccount as Account};
        // Existing kinds, writes, and whether they are a first installation.
        type Case<'a> = (&'a [Kind], &'a [(Kind, ApplyReason)], bool);
        let cases: [Case<'_>; 7] = [
            (&[], &[], false),
            (
                &[],
                &[(Account, Missing), (Deployment, Missing), (DaemonSet, Missing)],
                true,
            ),
            // Left over from an earlier stack.
            (&[Account], &[(Deployment, Missing), (DaemonSet, Missing)], true),
            (&[Deployment, DaemonSet], &[(DaemonSet, Changed)], false),
            (&[Deployment, DaemonSet], &[(Account, Drift)], false),
            (&[Deployment], &[(DaemonSet, Missing)], false),
            // Both were deleted by another client.
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
