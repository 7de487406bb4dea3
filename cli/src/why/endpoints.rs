//! Whether a pod can answer.

use super::{Step, Subject};
use crate::docs;
use crate::remedy::{Remedy, edit};
use crate::text::count;

const NAME: &str = "endpoints";

pub(super) fn step(subject: &Subject<'_>) -> Step {
    let snapshot = subject.cluster.snapshot;
    let (mut ready, mut all) = (0, 0);
    let mut nodes = std::collections::BTreeSet::new();
    let own = snapshot.slices.iter().filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(lb_speaker::k8s::objects::LABEL_SERVICE));
        slice.metadata.namespace.as_deref() == Some(subject.key.namespace())
            && service.is_some_and(|service| service == subject.key.name())
    });
    for endpoint in own.flat_map(|slice| &slice.endpoints) {
        all += 1;
        let conditions = endpoint.conditions.as_ref();
        if conditions.is_none_or(|conditions| conditions.ready.unwrap_or(true)) {
            ready += 1;
            nodes.extend(endpoint.node_name.as_deref());
        }
    }
    // The speakers decide: they count terminating endpoints that serve, too.
    if subject.cluster.index.has_endpoint(subject.key) {
        let nodes: Vec<_> = nodes.into_iter().collect();
        let on = match nodes.is_empty() {
            true => String::new(),
            false => format!(" on {}", lb_runtime::text::list_first(&nodes, 4)),
        };
        return Step::ok(NAME, format!("{ready} of {all} ready{on}"));
    }
    let (name, namespace) = (subject.key.name(), subject.key.namespace());
    let selector = subject
        .service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.clone())
        .unwrap_or_default();
    if selector.is_empty() {
        let text = "none, and the Service has no selector: its EndpointSlices are made by hand";
        let command =
            format!("kubectl get endpointslices -n {namespace} -l kubernetes.io/service-name={name}");
        let remedy = Remedy::run("look at its EndpointSlices", command);
        return Step::problem(NAME, text, docs::NO_ANSWER, vec![remedy]);
    }
    let pairs: Vec<_> = selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let pairs = pairs.join(",");
    let (text, what) = match all {
        0 => (
            format!("none: no pod matches the selector {pairs}"),
            "look for the pods that were meant",
        ),
        _ => (
            format!("none of {} ready", count(all, "pod is", "pods is")),
            "look why the pods are not ready",
        ),
    };
    let remedies = vec![
        Remedy::run(
            what,
            format!("kubectl get pods -n {namespace} -l {pairs} -o wide"),
        ),
        Remedy::run(
            "change the selector of the Service",
            edit("service", name, namespace),
        ),
    ];
    let text = format!("{text}: without a ready endpoint the address is not announced");
    Step::problem(NAME, text, docs::NO_ANSWER, remedies)
}
