//! Check `ConflictingLoadBalancer`: whether another load balancer serves the same Services. Two would assign two
//! addresses to one Service, or one address to two Services, and both would answer for it.

use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::desired::config::StackConfig;
use crate::preflight::{Fact, Finding, LoadBalancerProduct, NodeFacts, OtherLoadBalancer, detect, unknown};

impl LoadBalancerProduct {
    fn name(self) -> &'static str {
        match self {
            Self::MetalLb => "MetalLB",
            Self::KubeVip => "kube-vip",
            Self::Cilium => "Cilium LoadBalancer IPAM",
            Self::ServiceLb => "ServiceLB (k3s)",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::MetalLb => "set spec.adopt to true to replace it without moving addresses",
            Self::KubeVip => "set its svc_enable to false",
            Self::Cilium => "delete its CiliumLoadBalancerIPPools",
            Self::ServiceLb => "start k3s with --disable=servicelb",
        }
    }
}

pub(in crate::preflight) fn conflicting_load_balancer(
    config: &StackConfig,
    found: &Fact<Vec<OtherLoadBalancer>>,
    nodes: &Fact<Vec<NodeFacts>>,
) -> Finding {
    let mut found = match found {
        Ok(found) => found.clone(),
        Err(error) => return unknown("other load balancers", error),
    };
    found.extend(nodes.iter().flatten().find_map(detect::service_lb));
    let class = config.load_balancer_class.as_deref();
    let namespace = &config.namespace;
    let is_metallb = |other: &&OtherLoadBalancer| other.product == LoadBalancerProduct::MetalLb;
    let is_here = |other: &&OtherLoadBalancer| is_metallb(other) && other.object.key.namespace() == namespace;
    // Whatever its class: its pods have the labels by which the stack's workloads select theirs.
    let of_other_class: Vec<_> = found
        .iter()
        .filter(|other| is_here(other) && !other.serves.includes(class))
        .map(|other| &other.object)
        .collect();
    if !of_other_class.is_empty() {
        return Finding::failed(format!(
            "MetalLB ({}) serves Services of another class in namespace {namespace}, where it cannot run beside the stack; delete \
             the stack and create it with another spec.namespace, or, to adopt MetalLB, with its class in spec.loadBalancerClass",
            list_first(&of_other_class, LIST_LIMIT)
        ));
    }
    let conflicting: Vec<_> = found
        .iter()
        .filter(|other| other.serves.includes(class))
        .collect();
    let Some(first) = conflicting.first() else {
        return match found.first() {
            None => Finding::passed("no other load balancer found"),
            Some(other) => Finding::passed(format!(
                "{} ({}) serves other Services",
                other.product.name(),
                other.object
            )),
        };
    };
    let objects: Vec<_> = conflicting.iter().map(|other| &other.object).collect();
    if config.adopt && conflicting.iter().all(is_metallb) {
        let elsewhere: Vec<_> = conflicting
            .iter()
            .filter(|other| !is_here(other))
            .map(|other| &other.object)
            .collect();
        return if elsewhere.is_empty() {
            Finding::passed(format!(
                "MetalLB ({}) will be adopted: see status.adoption",
                list_first(&objects, LIST_LIMIT)
            ))
        } else {
            Finding::failed(format!(
                "MetalLB ({}) is not in namespace {namespace}, whose pools and advertisements the stack reads; delete the stack \
                 and create it with spec.namespace set to the namespace of MetalLB",
                list_first(elsewhere, LIST_LIMIT)
            ))
        };
    }
    let services = class.map_or_else(
        || "Services without a class".to_owned(),
        |class| format!("Services of class {class}"),
    );
    let beside = if conflicting.iter().any(is_here) {
        "delete the stack and create it with another spec.namespace and a spec.loadBalancerClass"
    } else {
        "delete the stack and create it with a spec.loadBalancerClass"
    };
    Finding::failed(format!(
        "{} also serves {services} ({}); {}, or {beside}",
        first.product.name(),
        list_first(&objects, LIST_LIMIT),
        first.product.remedy()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::config::tests::mk_config;
    use crate::preflight::{ObjectRef, ServedClasses};

    fn mk_stack(class: Option<&str>, adopt: bool) -> StackConfig {
        StackConfig {
            load_balancer_class: class.map(str::to_owned),
            adopt,
            ..mk_config()
        }
    }

    /// A load balancer outside of the stack's namespace.
    fn mk(product: LoadBalancerProduct, without_class: bool, classes: &[&str]) -> OtherLoadBalancer {
        OtherLoadBalancer {
            product,
            object: ObjectRef::new("DaemonSet", "kube-system", "it"),
            serves: ServedClasses {
                without_class,
                classes: classes.iter().map(|class| (*class).to_owned()).collect(),
            },
        }
    }

    #[test]
    fn only_load_balancers_of_the_same_class_conflict() {
        let cases = [
            (None, mk(LoadBalancerProduct::MetalLb, true, &[]), true),
            (None, mk(LoadBalancerProduct::MetalLb, false, &["lan"]), false),
            (
                Some("lan"),
                mk(LoadBalancerProduct::MetalLb, false, &["lan"]),
                true,
            ),
            (Some("lan"), mk(LoadBalancerProduct::MetalLb, true, &[]), false),
            (
                None,
                mk(
                    LoadBalancerProduct::KubeVip,
                    true,
                    &["kube-vip.io/kube-vip-class"],
                ),
                true,
            ),
            (
                Some("lan"),
                mk(LoadBalancerProduct::Cilium, true, &["io.cilium/l2-announcer"]),
                false,
            ),
            (None, mk(LoadBalancerProduct::ServiceLb, true, &[]), true),
        ];
        for (class, other, conflicts) in cases {
            let finding =
                conflicting_load_balancer(&mk_stack(class, false), &Ok(vec![other.clone()]), &Ok(Vec::new()));
            assert_eq!(
                matches!(finding, Finding::Failed(_)),
                conflicts,
                "{class:?} {other:?}: {finding:?}"
            );
        }
    }

    #[test]
    fn message_names_product_object_and_remedy() {
        let Finding::Failed(message) = conflicting_load_balancer(
            &mk_stack(None, false),
            &Ok(vec![mk(LoadBalancerProduct::ServiceLb, true, &[])]),
            &Ok(Vec::new()),
        ) else {
            panic!("another load balancer fails");
        };
        for part in [
            "ServiceLB",
            "DaemonSet kube-system/it",
            "--disable=servicelb",
            "spec.loadBalancerClass",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn metallb_in_the_stack_namespace_is_adopted_or_refused_whatever_its_class() {
        let at = |product, namespace, name| OtherLoadBalancer {
            object: ObjectRef::new("DaemonSet", namespace, name),
            ..mk(product, true, &[])
        };
        let here = at(LoadBalancerProduct::MetalLb, "metallb-system", "speaker");
        let elsewhere = at(LoadBalancerProduct::MetalLb, "lan", "speaker");
        let other = at(LoadBalancerProduct::KubeVip, "metallb-system", "kube-vip");
        // The class of the stack, spec.adopt, the load balancers, and a part of the message if the check fails.
        let cases = [
            (None, true, vec![here.clone()], None),
            (None, false, vec![here.clone()], Some("set spec.adopt to true")),
            (None, false, vec![here.clone()], Some("another spec.namespace")),
            (None, true, vec![elsewhere.clone()], Some("spec.namespace")),
            (
                None,
                true,
                vec![here.clone(), elsewhere.clone()],
                Some("DaemonSet lan/speaker"),
            ),
            (None, true, vec![here.clone(), other], Some("kube-vip")),
            // Its workloads were overwritten, and deleted with the stack.
            (
                Some("lan"),
                false,
                vec![here.clone()],
                Some("another spec.namespace"),
            ),
            (
                Some("lan"),
                true,
                vec![here],
                Some("its class in spec.loadBalancerClass"),
            ),
            (Some("lan"), false, vec![elsewhere], None),
        ];
        for (class, adopt, found, says) in cases {
            match (
                conflicting_load_balancer(&mk_stack(class, adopt), &Ok(found.clone()), &Ok(Vec::new())),
                says,
            ) {
                (Finding::Passed(_), None) => {}
                (Finding::Failed(message), Some(says)) => assert!(message.contains(says), "{message}"),
                (finding, _) => panic!("{class:?} {adopt} {found:?}: {finding:?}"),
            }
        }
    }
}
