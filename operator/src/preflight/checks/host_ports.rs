//! Check `HostPorts`: whether other pods use the speakers' ports of the nodes.

use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::desired::config::StackConfig;
use crate::preflight::{Fact, Finding, HostPortUser, unknown};

pub(in crate::preflight) fn host_ports(config: &StackConfig, found: &Fact<Vec<HostPortUser>>) -> Finding {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unknown("the ports of the nodes", error),
    };
    let ports = [
        ("TCP", config.metrics_port, "spec.speaker.metricsPort"),
        ("UDP", config.heartbeat_port, "spec.speaker.heartbeat.port"),
    ];
    for (protocol, port, field) in ports {
        let users: Vec<_> = found
            .iter()
            // The adoption itself checks MetalLB's ports.
            .filter(|user| user.uses(protocol, port) && !(config.adopt && user.is_metallb))
            .map(|user| format!("{} on node {}", user.pod, user.node))
            .collect();
        if !users.is_empty() {
            return Finding::failed(format!(
                "{protocol} port {port} of the nodes is used by {}; stop it, or set {field} to another port",
                list_first(&users, LIST_LIMIT)
            ));
        }
    }
    Finding::passed(format!(
        "no other pod uses TCP port {} and UDP port {} of the nodes",
        config.metrics_port, config.heartbeat_port
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::config::tests::mk_config;
    use crate::preflight::ObjectRef;

    #[test]
    fn used_port_fails_with_pod_node_and_field() {
        let mk = |is_metallb| {
            let spec = json!({"nodeName": "n2", "containers": [{"args": ["--http-port=7472"]}]});
            vec![HostPortUser::new(
                ObjectRef::new("Pod", "default", "has-7472"),
                is_metallb,
                &spec,
            )]
        };
        let mut config = mk_config();
        let Finding::Failed(message) = host_ports(&config, &Ok(mk(false))) else {
            panic!("a used port fails");
        };
        for part in [
            "7472",
            "Pod default/has-7472 on node n2",
            "spec.speaker.metricsPort",
        ] {
            assert!(message.contains(part), "{message}");
        }
        config.adopt = true;
        assert!(matches!(host_ports(&config, &Ok(mk(true))), Finding::Passed(_)));
        config.metrics_port = 7474;
        assert!(matches!(host_ports(&config, &Ok(mk(false))), Finding::Passed(_)));
    }
}
