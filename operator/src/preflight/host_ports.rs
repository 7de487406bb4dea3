//! Pods in the network of their node, and the ports that they use. Pure.

use serde_json::Value;

use super::ObjectRef;

/// A pod in the network of its node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostPortUser {
    /// The pod.
    pub pod: ObjectRef,
    /// Its node.
    pub node: String,
    /// Whether it belongs to MetalLB, which an adoption replaces.
    pub is_metallb: bool,
    /// Declared ports: protocol and number.
    declared: Vec<(String, i64)>,
    /// Numbers in its arguments: many programs do not declare their ports.
    in_arguments: Vec<i64>,
}

impl HostPortUser {
    /// Extracts the ports from the spec of a pod.
    pub(super) fn new(pod: ObjectRef, is_metallb: bool, spec: &Value) -> Self {
        let containers = || spec["containers"].as_array().into_iter().flatten();
        let ports = containers().flat_map(|container| container["ports"].as_array().into_iter().flatten());
        let declared = ports.filter_map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            Some((
                protocol,
                port["hostPort"].as_i64().or(port["containerPort"].as_i64())?,
            ))
        });
        let arguments = containers()
            .flat_map(|container| [&container["command"], &container["args"]])
            .flat_map(|list| list.as_array().into_iter().flatten())
            .filter_map(Value::as_str);
        let numbers = arguments.flat_map(|argument| {
            // As in `--port=7472`, `:7472` and `0.0.0.0:7472`.
            let parts = argument.split(|character: char| !character.is_ascii_alphanumeric());
            parts.filter_map(|part| part.parse().ok())
        });
        Self {
            node: spec["nodeName"].as_str().unwrap_or_default().to_owned(),
            declared: declared.collect(),
            in_arguments: numbers.collect(),
            pod,
            is_metallb,
        }
    }

    /// Whether it declares the port, or probably uses it according to its arguments.
    #[must_use]
    pub fn uses(&self, protocol: &str, port: i32) -> bool {
        let port = i64::from(port);
        let is_declared = |entry: &(String, i64)| entry.0 == protocol && entry.1 == port;
        self.declared.iter().any(is_declared) || (protocol == "TCP" && self.in_arguments.contains(&port))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_found_in_declarations_and_arguments() {
        let mk = |container: Value| {
            HostPortUser::new(
                ObjectRef::new("Pod", "ns", "it"),
                false,
                &json!({"containers": [container]}),
            )
        };
        assert!(mk(json!({"args": ["netexec", "--http-port=7472"]})).uses("TCP", 7472));
        assert!(mk(json!({"args": ["--listen", "0.0.0.0:7472"]})).uses("TCP", 7472));
        assert!(!mk(json!({"args": ["--http-port=17472", "--id=a7472"]})).uses("TCP", 7472));
        assert!(mk(json!({"ports": [{"containerPort": 7472}]})).uses("TCP", 7472));
        let udp = mk(json!({"ports": [{"containerPort": 7947, "protocol": "UDP"}]}));
        assert!(udp.uses("UDP", 7947) && !udp.uses("TCP", 7947));
    }
}
