//! How other load balancers are known by what they look like in the cluster. Pure.
//!
//! MetalLB and kube-vip are found by the names and labels that their manifests and charts give them, k3s' ServiceLB by the
//! DaemonSets that it makes for each Service.

use std::collections::BTreeMap;

use lb_crds::names::{APP, LABEL_APP};
use serde_json::Value;

use super::{Balancer, ObjectRef, Product, Serves};
use crate::desired::render::{MANAGED_BY, MANAGER};

/// Label of everything by the common conventions.
const NAME: &str = "app.kubernetes.io/name";
/// kube-vip's class where its manifest names none.
const KUBE_VIP_CLASS: &str = "kube-vip.io/kube-vip-class";
/// Classes that Cilium serves.
const CILIUM_CLASSES: [&str; 2] = ["io.cilium/bgp-control-plane", "io.cilium/l2-announcer"];

/// Whose a workload or a pod is, by its name and labels. What the operator made itself is nobody's.
pub(crate) fn product(name: &str, labels: &BTreeMap<String, String>) -> Option<Product> {
    let label = |key: &str| labels.get(key).map(String::as_str);
    if label(MANAGED_BY) == Some(MANAGER) {
        return None;
    }
    if name.starts_with("svclb-") {
        return Some(Product::ServiceLb);
    }
    if name.starts_with("kube-vip") || label(NAME).is_some_and(|name| name.starts_with("kube-vip")) {
        return Some(Product::KubeVip);
    }
    (label(LABEL_APP) == Some(APP) || label(NAME) == Some("metallb")).then_some(Product::MetalLb)
}

/// The load balancer that a workload is, if it has or is to have pods. `body` is the whole object.
pub(super) fn workload(product: Product, object: ObjectRef, body: &Value) -> Option<Balancer> {
    let has_pods = body["spec"]["replicas"].as_i64() != Some(0)
        && body["status"]["desiredNumberScheduled"].as_i64() != Some(0);
    if !has_pods {
        return None;
    }
    pod(product, object, &body["spec"]["template"]["spec"])
}

/// The load balancer that a pod is. `spec` is the pod's.
pub(super) fn pod(product: Product, object: ObjectRef, spec: &Value) -> Option<Balancer> {
    let serves = match product {
        Product::MetalLb => metallb(spec),
        Product::KubeVip => kube_vip(spec)?,
        Product::Cilium | Product::ServiceLb => all_without_class(),
    };
    Some(Balancer {
        product,
        object,
        serves,
    })
}

/// Cilium, which gives addresses as soon as it has a pool. `pools` are its CiliumLoadBalancerIPPools.
pub(super) fn cilium<'a>(pools: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Option<Balancer> {
    let mut pools = pools.into_iter();
    let (name, _) = pools.find(|(_, body)| body["spec"]["disabled"] != true)?;
    Some(Balancer {
        product: Product::Cilium,
        object: ObjectRef::new("CiliumLoadBalancerIPPool", "", name),
        serves: Serves {
            without_class: true,
            classes: CILIUM_CLASSES.map(str::to_owned).to_vec(),
        },
    })
}

fn all_without_class() -> Serves {
    Serves {
        without_class: true,
        classes: Vec::new(),
    }
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["containers"].as_array().into_iter().flatten()
}

/// MetalLB serves Services without a class, or those of the one that it is told.
pub(crate) fn metallb(spec: &Value) -> Serves {
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
        Some(class) => Serves {
            without_class: false,
            classes: vec![class.to_owned()],
        },
    }
}

/// kube-vip, which may look after the control plane alone and is none of ours then. Its cloud provider has no such switch.
fn kube_vip(spec: &Value) -> Option<Serves> {
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
    Some(Serves {
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
    fn load_balancers_are_known_by_name_and_label_and_ours_is_none_of_them() {
        // Name, labels, and what it is.
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<Product>);
        let cases: [Case<'_>; 8] = [
            (
                "speaker",
                &[("app", "metallb"), ("component", "speaker")],
                Some(Product::MetalLb),
            ),
            ("metallb-controller", &[(NAME, "metallb")], Some(Product::MetalLb)),
            ("speaker", &[("app", "metallb"), (MANAGED_BY, MANAGER)], None),
            ("kube-vip-ds", &[], Some(Product::KubeVip)),
            ("vip", &[(NAME, "kube-vip-ds")], Some(Product::KubeVip)),
            ("svclb-traefik-1a2b", &[], Some(Product::ServiceLb)),
            ("frr-k8s", &[(NAME, "frr-k8s")], None),
            ("web", &[("app", "web")], None),
        ];
        for (name, labels, wanted) in cases {
            assert_eq!(product(name, &mk_labels(labels)), wanted, "{name} {labels:?}");
        }
    }

    #[test]
    fn whom_they_serve_is_read_from_their_settings() {
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
            of(Product::MetalLb, metallb(&["--port=7472"])),
            Some((true, Vec::new()))
        );
        assert_eq!(
            of(Product::MetalLb, metallb(&["--lb-class=lan"])),
            Some((false, class("lan")))
        );
        assert_eq!(of(Product::KubeVip, env(&[("cp_enable", "true")])), None);
        assert_eq!(
            of(Product::KubeVip, env(&[("svc_enable", "true")])),
            Some((true, class(KUBE_VIP_CLASS)))
        );
        assert_eq!(
            of(
                Product::KubeVip,
                env(&[
                    ("svc_enable", "true"),
                    ("lb_class_only", "true"),
                    ("lb_class_name", "vip")
                ])
            ),
            Some((false, class("vip")))
        );
        let provider = json!({"image": "ghcr.io/kube-vip/kube-vip-cloud-provider:v0.0.12"});
        assert_eq!(of(Product::KubeVip, provider), Some((true, Vec::new())));
    }

    #[test]
    fn what_is_scaled_to_nothing_is_in_nobodys_way() {
        let body = |status: Value, spec: Value| json!({"spec": spec, "status": status});
        let runs = |body: &Value| {
            workload(Product::MetalLb, ObjectRef::new("DaemonSet", "ns", "it"), body).is_some()
        };
        assert!(runs(&body(json!({}), json!({"replicas": 1}))));
        assert!(!runs(&body(json!({}), json!({"replicas": 0}))));
        assert!(runs(&body(json!({"desiredNumberScheduled": 3}), json!({}))));
        assert!(!runs(&body(json!({"desiredNumberScheduled": 0}), json!({}))));
    }

    #[test]
    fn cilium_counts_once_it_has_a_pool_in_use() {
        let (used, disabled) = (json!({"spec": {}}), json!({"spec": {"disabled": true}}));
        assert_eq!(cilium([("a", &disabled)]), None);
        let found = cilium([("a", &disabled), ("b", &used)]).unwrap();
        assert_eq!(found.object, ObjectRef::new("CiliumLoadBalancerIPPool", "", "b"));
    }
}
