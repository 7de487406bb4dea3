//! Check `StrictArp`: whether kube-proxy leaves ARP to the speakers.

use crate::preflight::{Fact, Finding, KubeProxyFacts, unknown};

pub(in crate::preflight) fn strict_arp(found: &Fact<KubeProxyFacts>) -> Finding {
    match found {
        Err(error) => unknown("the mode of kube-proxy", error),
        Ok(KubeProxyFacts::Unknown(reason)) => Finding::Unknown(format!(
            "the mode of kube-proxy is unknown: {reason}; if it is IPVS, set strictARP in its configuration"
        )),
        Ok(KubeProxyFacts::Disabled) => Finding::passed("kube-proxy is disabled"),
        Ok(KubeProxyFacts::Mode { mode, source, .. }) if mode != "ipvs" => {
            let mode = if mode.is_empty() { "the default mode" } else { mode };
            Finding::passed(format!("kube-proxy runs in {mode}, not in IPVS mode ({source})"))
        }
        Ok(KubeProxyFacts::Mode {
            strict_arp: true,
            source,
            ..
        }) => Finding::passed(format!("kube-proxy is in IPVS mode with strictARP ({source})")),
        Ok(KubeProxyFacts::Mode { source, .. }) => Finding::failed(format!(
            "kube-proxy is in IPVS mode without strictARP, so every node answers ARP for every address; set ipvs.strictARP to \
             true in its configuration ({source}) and restart kube-proxy"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipvs_without_strict_arp_fails_and_a_mode_that_is_not_seen_is_unknown() {
        let mode = |mode: &str, strict_arp| KubeProxyFacts::Mode {
            mode: mode.to_owned(),
            strict_arp,
            source: "ConfigMap kube-system/kube-proxy".to_owned(),
        };
        let cases = [
            (mode("", false), "Passed"),
            (mode("nftables", false), "Passed"),
            (mode("ipvs", true), "Passed"),
            (mode("ipvs", false), "Failed"),
            (KubeProxyFacts::Disabled, "Passed"),
            (KubeProxyFacts::Unknown("no pod".to_owned()), "Unknown"),
        ];
        for (facts, wanted) in cases {
            let finding = format!("{:?}", strict_arp(&Ok(facts.clone())));
            assert!(finding.starts_with(wanted), "{facts:?}: {finding}");
        }
    }
}
