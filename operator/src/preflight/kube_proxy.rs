//! kube-proxy's mode, from the flags of its pods, from the configuration that they mount, or from the arguments of k3s
//! and RKE2. Pure.

use serde_json::Value;

/// How kube-proxy is configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KubeProxyFacts {
    /// It runs in this mode.
    Mode {
        /// As in `ipvs`; empty for the default.
        mode: String,
        /// Whether it leaves ARP for Service addresses to others, in IPVS mode.
        strict_arp: bool,
        /// The object that says so.
        source: String,
    },
    /// It is disabled.
    Disabled,
    /// It was not found, for this reason.
    Unknown(String),
}

/// Flags and configuration file of a kube-proxy pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct PodFlags {
    pub(super) mode: Option<String>,
    pub(super) strict_arp: Option<bool>,
    /// Name of the ConfigMap with the configuration, and its key. Flags take precedence.
    pub(super) config_map: Option<(String, String)>,
    /// Whether it has a configuration file outside of a ConfigMap.
    pub(super) has_unknown_file: bool,
}

/// The value of `--name=value` or `--name value`.
fn flag<'a>(arguments: &[&'a str], name: &str) -> Option<&'a str> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(after) = argument.trim_start_matches('-').strip_prefix(name) else {
            continue;
        };
        match after.strip_prefix('=') {
            Some(value) => return Some(value),
            None if after.is_empty() => {
                let next = rest.clone().next().copied();
                return Some(next.filter(|next| !next.starts_with('-')).unwrap_or("true"));
            }
            None => {}
        }
    }
    None
}

/// The flags of a kube-proxy pod with this spec.
pub(super) fn pod_flags(spec: &Value) -> PodFlags {
    let containers = || spec["containers"].as_array().into_iter().flatten();
    // A shell may wrap the command.
    let arguments: Vec<&str> = containers()
        .flat_map(|container| [&container["command"], &container["args"]])
        .flat_map(|list| list.as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .flat_map(str::split_whitespace)
        .collect();
    let path = flag(&arguments, "config");
    let config_map = path.and_then(|path| {
        let mut mounts =
            containers().flat_map(|container| container["volumeMounts"].as_array().into_iter().flatten());
        let (mount, key) = mounts.find_map(|mount| {
            let rest = path.strip_prefix(mount["mountPath"].as_str()?)?;
            Some((mount, rest.trim_start_matches('/')))
        })?;
        let mut volumes = spec["volumes"].as_array().into_iter().flatten();
        let volume = volumes.find(|volume| volume["name"] == mount["name"])?;
        let source = &volume["configMap"];
        let mut items = source["items"].as_array().into_iter().flatten();
        let key = items
            .find(|item| item["path"] == key)
            .map_or(key, |item| item["key"].as_str().unwrap_or_default());
        Some((source["name"].as_str()?.to_owned(), key.to_owned()))
    });
    PodFlags {
        mode: flag(&arguments, "proxy-mode").map(str::to_owned),
        strict_arp: flag(&arguments, "ipvs-strict-arp").map(|value| value == "true"),
        has_unknown_file: path.is_some() && config_map.is_none(),
        config_map,
    }
}

impl PodFlags {
    /// The facts, with the content of the configuration file if there is one.
    pub(super) fn facts(self, file: Option<&str>, source: String) -> KubeProxyFacts {
        let file: Value = match file.map(serde_yaml::from_str).transpose() {
            Ok(file) => file.unwrap_or(Value::Null),
            Err(error) => return KubeProxyFacts::Unknown(format!("{source}: {error}")),
        };
        if self.has_unknown_file && self.mode.is_none() {
            return KubeProxyFacts::Unknown(format!(
                "{source} has a configuration file outside of a ConfigMap"
            ));
        }
        let mode = self.mode.as_deref().or(file["mode"].as_str());
        KubeProxyFacts::Mode {
            mode: mode.unwrap_or_default().to_owned(),
            strict_arp: self.strict_arp.unwrap_or(file["ipvs"]["strictARP"] == true),
            source,
        }
    }
}

/// The arguments of k3s or RKE2 on a node, from the annotation that it sets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DistributionArgs {
    arguments: Vec<String>,
    is_k3s: bool,
}

impl DistributionArgs {
    /// Reads the annotations `k3s.io/node-args` and `rke2.io/node-args`.
    pub(super) fn read<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let (text, is_k3s) = match annotation("k3s.io/node-args") {
            Some(text) => (text, true),
            None => (annotation("rke2.io/node-args")?, false),
        };
        let arguments = serde_json::from_str(text).ok()?;
        Some(Self { arguments, is_k3s })
    }

    /// Values of an argument that may be repeated or list several: `--disable=a,b`, `--disable a`.
    fn values(&self, name: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for (place, argument) in self.arguments.iter().enumerate() {
            let Some(after) = argument.trim_start_matches('-').strip_prefix(name) else {
                continue;
            };
            match after.strip_prefix('=') {
                Some(list) => values.extend(list.split(',')),
                None if after.is_empty() => {
                    let next = self.arguments.get(place + 1).map(String::as_str);
                    values.extend(next.unwrap_or_default().split(','));
                }
                None => {}
            }
        }
        values
    }

    fn has(&self, name: &str) -> bool {
        let is = |argument: &String| {
            let argument = argument.trim_start_matches('-');
            argument == name || argument.strip_prefix(name) == Some("=true")
        };
        self.arguments.iter().any(is)
    }

    /// Whether this node's k3s serves Services of type LoadBalancer, also before the first exists.
    #[must_use]
    pub fn runs_service_lb(&self) -> bool {
        let is_server = self.arguments.first().is_some_and(|command| command == "server");
        self.is_k3s
            && is_server
            && !self.values("disable").contains(&"servicelb")
            && !self.has("disable-cloud-controller")
    }

    /// kube-proxy in the process of k3s. RKE2 runs it in a pod.
    pub(super) fn kube_proxy(&self, node: &str) -> Option<KubeProxyFacts> {
        if self.has("disable-kube-proxy") {
            return Some(KubeProxyFacts::Disabled);
        }
        let arguments: Vec<String> = self
            .values("kube-proxy-arg")
            .iter()
            .map(|argument| format!("--{argument}"))
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.is_k3s.then(|| KubeProxyFacts::Mode {
            mode: flag(&arguments, "proxy-mode").unwrap_or_default().to_owned(),
            strict_arp: flag(&arguments, "ipvs-strict-arp") == Some("true"),
            source: format!("k3s on node {node}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mode_is_read_from_flags_and_from_the_mounted_config_map() {
        // Talos up to 1.14: flags. Talos 1.15: a ConfigMap with a hash in its name. kubeadm: a ConfigMap.
        let flags = json!({"containers": [{"command": ["/usr/local/bin/kube-proxy", "--proxy-mode=ipvs", "--ipvs-strict-arp"]}]});
        let mounted = |name: &str, path: &str, items: Value| {
            json!({
                "containers": [{
                    "command": ["kube-proxy", format!("--config={path}")],
                    "volumeMounts": [{"name": "config", "mountPath": "/var/lib/kube-proxy"}],
                }],
                "volumes": [{"name": "config", "configMap": {"name": name, "items": items}}],
            })
        };
        let file = Some("mode: ipvs\nipvs: {strictARP: false}\n");
        let hash = mounted(
            "kube-proxy-config-a1b2",
            "/var/lib/kube-proxy/config.conf",
            Value::Null,
        );
        let item = mounted(
            "it",
            "/var/lib/kube-proxy/x.yaml",
            json!([{"key": "config", "path": "x.yaml"}]),
        );
        let map = |spec: &Value| pod_flags(spec).config_map;
        assert_eq!(map(&flags), None);
        assert_eq!(
            map(&hash),
            Some(("kube-proxy-config-a1b2".to_owned(), "config.conf".to_owned()))
        );
        assert_eq!(map(&item), Some(("it".to_owned(), "config".to_owned())));
        let facts = |spec: &Value, file| pod_flags(spec).facts(file, "Pod x".to_owned());
        let mode = |mode: &str, strict_arp| KubeProxyFacts::Mode {
            mode: mode.to_owned(),
            strict_arp,
            source: "Pod x".to_owned(),
        };
        assert_eq!(facts(&flags, None), mode("ipvs", true));
        assert_eq!(facts(&hash, file), mode("ipvs", false));
        assert!(matches!(
            facts(&hash, Some("mode: [")),
            KubeProxyFacts::Unknown(_)
        ));
        let host = json!({"containers": [{"command": ["kube-proxy", "--config", "/etc/proxy.yaml"]}]});
        assert!(matches!(facts(&host, None), KubeProxyFacts::Unknown(_)));
    }

    #[test]
    fn k3s_arguments_tell_service_lb_and_kube_proxy() {
        let read = |key: &str, arguments: &str| {
            DistributionArgs::read(|name| (name == key).then_some(arguments)).unwrap()
        };
        let cases = [
            ("k3s.io/node-args", r#"["server"]"#, true, Some("")),
            (
                "k3s.io/node-args",
                r#"["server","--disable","traefik"]"#,
                true,
                Some(""),
            ),
            (
                "k3s.io/node-args",
                r#"["server","--disable","servicelb"]"#,
                false,
                Some(""),
            ),
            (
                "k3s.io/node-args",
                r#"["server","--disable=traefik,servicelb"]"#,
                false,
                Some(""),
            ),
            (
                "k3s.io/node-args",
                r#"["agent","--kube-proxy-arg=proxy-mode=ipvs"]"#,
                false,
                Some("ipvs"),
            ),
            (
                "k3s.io/node-args",
                r#"["server","--kube-proxy-arg","proxy-mode=ipvs"]"#,
                true,
                Some("ipvs"),
            ),
            ("rke2.io/node-args", r#"["server"]"#, false, None),
        ];
        for (key, arguments, service_lb, mode) in cases {
            let found = read(key, arguments);
            assert_eq!(found.runs_service_lb(), service_lb, "{arguments}");
            match (found.kube_proxy("n1"), mode) {
                (None, None) => {}
                (Some(KubeProxyFacts::Mode { mode: found, .. }), Some(mode)) => assert_eq!(found, mode),
                (found, _) => panic!("{arguments}: {found:?}"),
            }
        }
        let disabled = read("rke2.io/node-args", r#"["server","--disable-kube-proxy"]"#);
        assert_eq!(disabled.kube_proxy("n1"), Some(KubeProxyFacts::Disabled));
    }
}
