//! Check `StrictArp`: whether kube-proxy leaves ARP to the speakers.

use serde_json::Value;

use crate::preflight::{Fact, Finding, UnknownFact, unknown};

const CONFIG_MAP: &str = "ConfigMap kube-system/kube-proxy";

/// `config`: kube-proxy's configuration. Without it the mode is unknown; the check passes because IPVS is not the
/// default.
pub(in crate::preflight) fn strict_arp(config: &Fact<Option<String>>) -> Finding {
    let text = match config {
        Ok(Some(text)) => text,
        Ok(None) => {
            return Finding::passed(format!(
                "the mode of kube-proxy is unknown: {CONFIG_MAP} with a config.conf does not exist; assuming that it is not IPVS"
            ));
        }
        Err(error) => return unknown(&format!("the {CONFIG_MAP}"), error),
    };
    let configuration: Value = match serde_yaml::from_str(text) {
        Ok(configuration) => configuration,
        Err(error) => {
            let error = UnknownFact {
                error: error.to_string(),
                is_transient: false,
            };
            return unknown(&format!("config.conf in the {CONFIG_MAP}"), &error);
        }
    };
    let mode = configuration["mode"].as_str().unwrap_or_default();
    if mode != "ipvs" {
        return Finding::passed("kube-proxy is not in IPVS mode");
    }
    if configuration["ipvs"]["strictARP"] == true {
        return Finding::passed("kube-proxy is in IPVS mode with strictARP");
    }
    Finding::failed(format!(
        "kube-proxy is in IPVS mode without strictARP, so every node answers ARP for every address; set ipvs.strictARP to true \
         in the {CONFIG_MAP} and restart kube-proxy"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(finding: &Finding) -> String {
        match finding {
            Finding::Passed(_) => "passed".to_owned(),
            Finding::Warning(message) => format!("warning {message}"),
            Finding::Failed(message) => format!("failed {message}"),
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
            (Some("mode: [\n"), "warning cannot check config.conf"),
        ];
        for (text, wanted) in cases {
            let found = describe(&strict_arp(&Ok(text.map(str::to_owned))));
            assert!(found.starts_with(wanted), "{text:?}: {found}");
        }
    }
}
