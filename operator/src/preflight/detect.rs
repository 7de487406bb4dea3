//! Detects other load balancers by their objects in the cluster. Pure.
//!
//! MetalLB and kube-vip are detected by the names and labels in their manifests and charts, ServiceLB of k3s by the
//! DaemonSets that it creates for each Service.

use std::collections::BTreeMap;

use lb_crds::names::{APP, LABEL_APP};
use serde_json::Value;

use super::{LoadBalancerProduct, NodeFacts, ObjectRef, OtherLoadBalancer, ServedClasses};
use crate::desired::render::{MANAGED_BY, MANAGER};

/// Recommended label of Kubernetes.
const NAME: &str = "app.kubernetes.io/name";
/// Default class of kube-vip.
const KUBE_VIP_CLASS: &str = "kube-vip.io/kube-vip-class";
const CILIUM_CLASSES: [&str; 2] = ["io.cilium/bgp-control-plane", "io.cilium/l2-announcer"];

/// The product that a workload or pod belongs to, by name and labels; `None` for the operator's own objects.
pub(crate) fn product(name: &str, labels: &BTreeMap<String, String>) -> Option<LoadBalancerProduct> {
    let label = |key: &str| labels.get(key).map(String::as_str);
    if label(MANAGED_BY) == Some(MANAGER) {
        return None;
    }
    if name.starts_with("svclb-") {
        return Some(LoadBalancerProduct::ServiceLb);
    }
    if name.starts_with("kube-vip") || label(NAME).is_some_and(|name| name.starts_with("kube-vip")) {
        return Some(LoadBalancerProduct::KubeVip);
    }
    (label(LABEL_APP) == Some(APP) || label(NAME) == Some("metallb")).then_some(LoadBalancerProduct::MetalLb)
}

/// The load balancer that a workload runs, unless it is scaled to zero. `body` is the whole object.
pub(super) fn workload(
    product: LoadBalancerProduct,
    object: ObjectRef,
    body: &Value,
) -> Option<OtherLoadBalancer> {
    let has_pods = body["spec"]["replicas"].as_i64() != Some(0)
        && body["status"]["desiredNumberScheduled"].as_i64() != Some(0);
    if !has_pods {
        return None;
    }
    pod(product, object, &body["spec"]["template"]["spec"])
}

/// ServiceLB of k3s, by the arguments of a server; its DaemonSets exist only after the first Service.
pub(super) fn service_lb(node: &NodeFacts) -> Option<OtherLoadBalancer> {
    let args = node.distribution_args.as_ref()?;
    args.runs_service_lb().then(|| OtherLoadBalancer {
        product: LoadBalancerProduct::ServiceLb,
        object: ObjectRef::new("Node", "", &node.name),
        serves: all_without_class(),
    })
}

/// The load balancer that a pod runs.
pub(super) fn pod(
    product: LoadBalancerProduct,
    object: ObjectRef,
    spec: &Value,
) -> Option<OtherLoadBalancer> {
    let serves = match product {
        LoadBalancerProduct::MetalLb => metallb(spec),
        LoadBalancerProduct::KubeVip => kube_vip(spec)?,
        LoadBalancerProduct::Cilium | LoadBalancerProduct::ServiceLb => all_without_class(),
    };
    Some(OtherLoadBalancer {
        product,
        object,
        serves,
    })
}

/// Cilium assigns addresses as soon as it has a CiliumLoadBalancerIPPool.
pub(super) fn cilium<'a>(pools: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Option<OtherLoadBalancer> {
    let mut pools = pools.into_iter();
    let (name, _) = pools.find(|(_, body)| body["spec"]["disabled"] != true)?;
    Some(OtherLoadBalancer {
        product: LoadBalancerProduct::Cilium,
        object: ObjectRef::new("CiliumLoadBalancerIPPool", "", name),
        serves: ServedClasses {
            without_class: true,
            classes: CILIUM_CLASSES.map(str::to_owned).to_vec(),
        },
    })
}

fn all_without_class() -> ServedClasses {
    ServedClasses {
        without_class: true,
        classes: Vec::new(),
    }
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["containers"].as_array().into_iter().flatten()
}

/// MetalLB serves Services without a class, or those of its argument `--lb-class`.
pub(crate) fn metallb(spec: &Value) -> ServedClasses {
    let class = containers(spec)
        .flat_map(|container| container["args"].as_array().into_iter().flatten())
        .find_map(|argument| {
            argument
                .as_str()?
                .trim_start_matches('-')
                .strip_prefix("lb-class=")
        });
    match class {
        None | Some("") => all_without_class(),
        Some(class) => ServedClasses {
            without_class: false,
            classes: vec![class.to_owned()],
        },
    }
}

/// kube-vip; `None` if it serves only the control plane. Its cloud provider always serves Services.
fn kube_vip(spec: &Value) -> Option<ServedClasses> {
    let variable = |name: &str| {
        containers(spec)
            .flat_map(|container| container["env"].as_array().into_iter().flatten())
            .find(|variable| variable["name"] == name)
            .and_then(|variable| variable["value"].as_str())
    };
    let is_provider = containers(spec).any(|container| {
        container["image"]
            .as_str()
            .is_some_and(|image| image.contains("kube-vip-cloud-provider"))
    });
    if is_provider {
        return Some(all_without_class());
    }
    if variable("svc_enable") != Some("true") {
        return None;
    }
    Some(ServedClasses {
        without_class: variable("lb_class_only") != Some("true"),
        classes: vec![variable("lb_class_name").unwrap_or(KUBE_VIP_CLASS).to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn load_balancers_are_detected_by_name_and_label() {
        // Name, labels, product.
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<LoadBalancerProduct>);
        let cases: [Case<'_>; 8] = [
            (
                "speaker",
                &[("app", "metallb"), ("component", "speaker")],
                Some(LoadBalancerProduct::MetalLb),
            ),
            (
                "metallb-controller",
                &[(NAME, "metallb")],
                Some(LoadBalancerProduct::MetalLb),
            ),
            ("speaker", &[("app", "metallb"), (MANAGED_BY, MANAGER)], None),
            ("kube-vip-ds", &[], Some(LoadBalancerProduct::KubeVip)),
            (
                "vip",
                &[(NAME, "kube-vip-ds")],
                Some(LoadBalancerProduct::KubeVip),
            ),
            ("svclb-traefik-1a2b", &[], Some(LoadBalancerProduct::ServiceLb)),
            ("frr-k8s", &[(NAME, "frr-k8s")], None),
            ("web", &[("app", "web")], None),
        ];
        for (name, labels, wanted) in cases {
            assert_eq!(product(name, &mk_labels(labels)), wanted, "{name} {labels:?}");
        }
    }

    #[test]
    fn served_classes_are_read_from_the_settings() {
        let of = |product, container: Value| {
            let spec = json!({"containers": [container]});
            pod(product, ObjectRef::new("Pod", "ns", "it"), &spec)
                .map(|found| (found.serves.without_class, found.serves.classes))
        };
        let env = |pairs: &[(&str, &str)]| {
            let list: Vec<_> = pairs
                .iter()
                .map(|(name, value)| json!({"name": name, "value": value}))
                .collect();
            json!({"image": "ghcr.io/kube-vip/kube-vip:v1", "env": list})
        };
        let metallb = |args: &[&str]| json!({"args": args});
        let class = |class: &str| vec![class.to_owned()];
        assert_eq!(
            of(LoadBalancerProduct::MetalLb, metallb(&["--port=7472"])),
            Some((true, Vec::new()))
        );
        assert_eq!(
            of(LoadBalancerProduct::MetalLb, metallb(&["--lb-class=lan"])),
            Some((false, class("lan")))
        );
        assert_eq!(
            of(LoadBalancerProduct::KubeVip, env(&[("cp_enable", "true")])),
            None
        );
        assert_eq!(
            of(LoadBalancerProduct::KubeVip, env(&[("svc_enable", "true")])),
            Some((true, class(KUBE_VIP_CLASS)))
        );
        assert_eq!(
            of(
                LoadBalancerProduct::KubeVip,
                env(&[
                    ("svc_enable", "true"),
                    ("lb_class_only", "true"),
                    ("lb_class_name", "vip")
                ])
            ),
            Some((false, class("vip")))
        );
        let provider = json!({"image": "ghcr.io/kube-vip/kube-vip-cloud-provider:v0.0.12"});
        assert_eq!(
            of(LoadBalancerProduct::KubeVip, provider),
            Some((true, Vec::new()))
        );
    }

    #[test]
    fn workload_scaled_to_zero_is_ignored() {
        let body = |status: Value, spec: Value| json!({"spec": spec, "status": status});
        let runs = |body: &Value| {
            workload(
                LoadBalancerProduct::MetalLb,
                ObjectRef::new("DaemonSet", "ns", "it"),
                body,
            )
            .is_some()
        };
        assert!(runs(&body(json!({}), json!({"replicas": 1}))));
        assert!(!runs(&body(json!({}), json!({"replicas": 0}))));
        assert!(runs(&body(json!({"desiredNumberScheduled": 3}), json!({}))));
        assert!(!runs(&body(json!({"desiredNumberScheduled": 0}), json!({}))));
    }

    #[test]
    fn cilium_is_detected_by_an_enabled_pool() {
        let (used, disabled) = (json!({"spec": {}}), json!({"spec": {"disabled": true}}));
        assert_eq!(cilium([("a", &disabled)]), None);
        let found = cilium([("a", &disabled), ("b", &used)]).unwrap();
        assert_eq!(found.object, ObjectRef::new("CiliumLoadBalancerIPPool", "", "b"));
    }
}
