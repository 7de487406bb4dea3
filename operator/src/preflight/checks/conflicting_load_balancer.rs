//! Check `ConflictingLoadBalancer`: whether another load balancer serves the same Services. Two would assign two
//! addresses to one Service, or one address to two Services, and both would answer for it.

use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::preflight::{Fact, Finding, LoadBalancerProduct, ObjectRef, OtherLoadBalancer, unknown};

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

/// `class`: `spec.loadBalancerClass`. `adopts`: the namespace whose MetalLB is adopted, with `spec.adopt`.
pub(in crate::preflight) fn conflicting_load_balancer(
    class: Option<&str>,
    adopts: Option<&str>,
    found: &Fact<Vec<OtherLoadBalancer>>,
) -> Finding {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unknown("other load balancers", error),
    };
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
    if let Some(namespace) = adopts
        && conflicting
            .iter()
            .all(|other| other.product == LoadBalancerProduct::MetalLb)
    {
        let is_elsewhere = |object: &&&ObjectRef| object.key.namespace() != namespace;
        let elsewhere: Vec<_> = objects.iter().filter(is_elsewhere).collect();
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
    Finding::failed(format!(
        "{} also serves {services} ({}); {}, or set spec.loadBalancerClass of this stack",
        first.product.name(),
        list_first(&objects, LIST_LIMIT),
        first.product.remedy()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::ServedClasses;

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
            let finding = conflicting_load_balancer(class, None, &Ok(vec![other.clone()]));
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
            None,
            None,
            &Ok(vec![mk(LoadBalancerProduct::ServiceLb, true, &[])]),
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
    fn only_metallb_in_the_stack_namespace_is_adopted() {
        let at = |product, namespace, name| OtherLoadBalancer {
            object: ObjectRef::new("DaemonSet", namespace, name),
            ..mk(product, true, &[])
        };
        let here = at(LoadBalancerProduct::MetalLb, "metallb-system", "speaker");
        let elsewhere = at(LoadBalancerProduct::MetalLb, "lan", "speaker");
        let other = at(LoadBalancerProduct::KubeVip, "metallb-system", "kube-vip");
        let ours = Some("metallb-system");
        // The namespace to adopt from, the load balancers, and a part of the message if the check fails.
        let cases = [
            (ours, vec![here.clone()], None),
            (None, vec![here.clone()], Some("set spec.adopt to true")),
            (ours, vec![elsewhere.clone()], Some("spec.namespace")),
            (ours, vec![here.clone(), elsewhere], Some("DaemonSet lan/speaker")),
            (ours, vec![here, other], Some("kube-vip")),
        ];
        for (adopts, found, says) in cases {
            match (conflicting_load_balancer(None, adopts, &Ok(found.clone())), says) {
                (Finding::Passed(_), None) => {}
                (Finding::Failed(message), Some(says)) => assert!(message.contains(says), "{message}"),
                (finding, _) => panic!("{adopts:?} {found:?}: {finding:?}"),
            }
        }
    }
}
