//! Check `ExcludedNodes`: whether nodes with a speaker may announce addresses.

use lb_crds::names::LABEL_EXCLUDE;
use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::preflight::{Fact, Finding, NodeFacts, unknown};

/// `ignore_label`: `spec.speaker.ignoreExcludeLabel`.
pub(in crate::preflight) fn excluded_nodes(ignore_label: bool, nodes: &Fact<Vec<NodeFacts>>) -> Finding {
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) => return unknown("the nodes", error),
    };
    let candidates: Vec<_> = nodes.iter().filter(|node| node.is_selected).collect();
    if candidates.is_empty() && !nodes.is_empty() {
        return Finding::failed(format!(
            "spec.speaker.nodeSelector matches none of the {} nodes, so no address would be announced; correct it or label nodes",
            nodes.len()
        ));
    }
    let excluded: Vec<_> = candidates
        .iter()
        .filter(|node| node.is_excluded)
        .map(|node| node.name.as_str())
        .collect();
    if excluded.is_empty() || ignore_label {
        return Finding::passed("every node with a speaker may announce addresses");
    }
    let todo = format!(
        "set spec.speaker.ignoreExcludeLabel to true, or remove the label with kubectl label node NAME {LABEL_EXCLUDE}-"
    );
    let names = list_first(&excluded, LIST_LIMIT);
    if excluded.len() == candidates.len() {
        return Finding::failed(format!(
            "all nodes are excluded from announcing by the label {LABEL_EXCLUDE}: {names}; {todo}"
        ));
    }
    Finding::warning(format!(
        "nodes excluded from announcing by the label {LABEL_EXCLUDE}: {names}; to include them, {todo}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(name: &str, is_selected: bool, is_excluded: bool) -> NodeFacts {
        NodeFacts {
            name: name.to_owned(),
            is_selected,
            is_excluded,
            ..NodeFacts::default()
        }
    }

    fn describe(finding: &Finding) -> String {
        match finding {
            Finding::Passed(_) => "passed".to_owned(),
            Finding::Warning(message) => format!("warning {message}"),
            Finding::Unknown(message) => format!("unknown {message}"),
            Finding::Failed(message) => format!("failed {message}"),
        }
    }

    #[test]
    fn excluded_nodes_warn_and_fail_if_all_are_excluded() {
        let cases = [
            (false, vec![], "passed"),
            (false, vec![mk("a", true, false)], "passed"),
            (
                false,
                vec![mk("a", true, true), mk("b", true, false)],
                "warning nodes excluded",
            ),
            (
                false,
                vec![mk("a", true, true), mk("b", true, true)],
                "failed all nodes",
            ),
            (true, vec![mk("a", true, true)], "passed"),
            // The other node has no speaker.
            (
                false,
                vec![mk("a", true, true), mk("b", false, false)],
                "failed all nodes",
            ),
            (
                false,
                vec![mk("a", false, false)],
                "failed spec.speaker.nodeSelector",
            ),
        ];
        for (ignored, nodes, wanted) in cases {
            let text = describe(&excluded_nodes(ignored, &Ok(nodes.clone())));
            assert!(text.starts_with(wanted), "{ignored} {nodes:?}: {text}");
        }
    }
}
