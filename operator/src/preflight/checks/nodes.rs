//! Whether nodes may announce, and whether they do so alone.

use lb_crds::names::LABEL_EXCLUDE;
use serde_json::Value;

use crate::preflight::{Finding, Known, Node, Unread, few, unknown};

/// `ignored`: whether the stack says that the label counts for nothing.
pub(in crate::preflight) fn excluded(ignored: bool, nodes: &Known<Vec<Node>>) -> Finding {
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) => return unknown("the nodes", error),
    };
    let candidates: Vec<_> = nodes.iter().filter(|node| node.is_selected).collect();
    if candidates.is_empty() && !nodes.is_empty() {
        return Finding::failed(format!(
            "spec.speaker.nodeSelector chooses none of the {} nodes: nothing would announce addresses; correct it, or label nodes",
            nodes.len()
        ));
    }
    let excluded: Vec<_> = candidates
        .iter()
        .filter(|node| node.is_excluded)
        .map(|node| node.name.clone())
        .collect();
    if excluded.is_empty() || ignored {
        return Finding::passed("every node with a speaker may announce");
    }
    let todo = format!(
        "set spec.speaker.ignoreExcludeLabel to true, or remove the label with kubectl label node NAME {LABEL_EXCLUDE}-"
    );
    let names = few(&excluded);
    if excluded.len() == candidates.len() {
        return Finding::failed(format!(
            "no node may announce addresses, because all have the label {LABEL_EXCLUDE} ({names}): {todo}"
        ));
    }
    Finding::warning(format!(
        "nodes with the label {LABEL_EXCLUDE} announce nothing ({names}): if they are to, {todo}"
    ))
}

/// `proxy`: kube-proxy's configuration. Without it its mode is not known, and IPVS is not what one gets by doing nothing.
pub(in crate::preflight) fn strict_arp(proxy: &Known<Option<String>>) -> Finding {
    let text = match proxy {
        Ok(Some(text)) => text,
        Ok(None) => {
            return Finding::passed(
                "there is no ConfigMap kube-system/kube-proxy with a config.conf: kube-proxy is taken not to be in IPVS mode",
            );
        }
        Err(error) => return unknown("the ConfigMap kube-system/kube-proxy", error),
    };
    let configuration: Value = match serde_yaml::from_str(text) {
        Ok(configuration) => configuration,
        Err(error) => {
            let unread = Unread {
                because: error.to_string(),
                may_pass: false,
            };
            return unknown("config.conf in the ConfigMap kube-system/kube-proxy", &unread);
        }
    };
    let mode = configuration["mode"].as_str().unwrap_or_default();
    if mode != "ipvs" {
        return Finding::passed("kube-proxy is not in IPVS mode");
    }
    if configuration["ipvs"]["strictARP"] == true {
        return Finding::passed("kube-proxy is in IPVS mode, with strictARP");
    }
    Finding::failed(
        "kube-proxy is in IPVS mode without strictARP, in which every node answers ARP for every address: set ipvs.strictARP to \
         true in the ConfigMap kube-system/kube-proxy, and restart kube-proxy",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(name: &str, is_selected: bool, is_excluded: bool) -> Node {
        Node {
            name: name.to_owned(),
            is_selected,
            is_excluded,
            ..Node::default()
        }
    }

    fn describe(finding: &Finding) -> String {
        match finding {
            Finding::Passed(_) => "passed".to_owned(),
            Finding::Warning(message) => format!("warning {message}"),
            Finding::Failed(message) => format!("failed {message}"),
        }
    }

    #[test]
    fn all_nodes_excluded_fails_and_some_warn() {
        let cases = [
            (false, vec![], "passed"),
            (false, vec![mk("a", true, false)], "passed"),
            (
                false,
                vec![mk("a", true, true), mk("b", true, false)],
                "warning nodes with the label",
            ),
            (
                false,
                vec![mk("a", true, true), mk("b", true, true)],
                "failed no node may announce",
            ),
            (true, vec![mk("a", true, true)], "passed"),
            // The other one has no speaker.
            (
                false,
                vec![mk("a", true, true), mk("b", false, false)],
                "failed no node may announce",
            ),
            (
                false,
                vec![mk("a", false, false)],
                "failed spec.speaker.nodeSelector",
            ),
        ];
        for (ignored, nodes, wanted) in cases {
            let text = describe(&excluded(ignored, &Ok(nodes.clone())));
            assert!(text.starts_with(wanted), "{ignored} {nodes:?}: {text}");
        }
    }

    #[test]
    fn ipvs_without_strict_arp_fails() {
        let cases = [
            (None, "passed"),
            (Some("kind: KubeProxyConfiguration\nmode: \"\"\n"), "passed"),
            (Some("mode: iptables\nipvs:\n  strictARP: false\n"), "passed"),
            (Some("mode: nftables\n"), "passed"),
            (Some("mode: ipvs\nipvs:\n  strictARP: true\n"), "passed"),
            (Some("{mode: ipvs, ipvs: {strictARP: true}}"), "passed"),
            (
                Some("mode: \"ipvs\"\nipvs:\n  scheduler: rr\n  strictARP: false\n"),
                "failed kube-proxy",
            ),
            (Some("mode: ipvs\n"), "failed kube-proxy"),
            (Some("mode: [\n"), "warning config.conf"),
        ];
        for (text, wanted) in cases {
            let found = describe(&strict_arp(&Ok(text.map(str::to_owned))));
            assert!(found.starts_with(wanted), "{text:?}: {found}");
        }
    }
}
