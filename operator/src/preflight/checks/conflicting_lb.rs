//! Whether another load balancer serves the same Services: two would give one Service two addresses, or one address to two
//! Services, and both would answer for it.

use crate::preflight::{Balancer, Finding, Known, ObjectRef, Product, few, unknown};

impl Product {
    fn name(self) -> &'static str {
        match self {
            Self::MetalLb => "MetalLB",
            Self::KubeVip => "kube-vip",
            Self::Cilium => "Cilium's LoadBalancer IPAM",
            Self::ServiceLb => "k3s' ServiceLB",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::MetalLb => "set spec.adopt to true to replace it, with the same addresses",
            Self::KubeVip => "set svc_enable to false in it",
            Self::Cilium => "delete its CiliumLoadBalancerIPPools",
            Self::ServiceLb => "start k3s with --disable=servicelb",
        }
    }
}

/// `class`: the `spec.loadBalancerClass` of the Services that the stack serves. `adopts`: the namespace in which it is to
/// replace MetalLB, if it is to.
pub(in crate::preflight) fn balancers(
    class: Option<&str>,
    adopts: Option<&str>,
    found: &Known<Vec<Balancer>>,
) -> Finding {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unknown("other load balancers", error),
    };
    let serves_ours = |other: &&Balancer| match class {
        None => other.serves.without_class,
        Some(class) => other.serves.classes.iter().any(|other| other == class),
    };
    let rivals: Vec<_> = found.iter().filter(serves_ours).collect();
    let Some(first) = rivals.first() else {
        return match found.first() {
            None => Finding::passed("no other load balancer was found"),
            Some(other) => Finding::passed(format!(
                "{} ({}) serves other Services",
                other.product.name(),
                other.object
            )),
        };
    };
    let objects: Vec<_> = rivals.iter().map(|rival| &rival.object).collect();
    if let Some(namespace) = adopts
        && rivals.iter().all(|rival| rival.product == Product::MetalLb)
    {
        let is_elsewhere = |object: &&&ObjectRef| object.key.namespace() != namespace;
        let elsewhere: Vec<_> = objects.iter().filter(is_elsewhere).copied().collect();
        return if elsewhere.is_empty() {
            Finding::passed(format!(
                "MetalLB ({}) is to be adopted: see status.adoption",
                few(&objects)
            ))
        } else {
            Finding::failed(format!(
                "MetalLB ({}) cannot be adopted from namespace {namespace}: pools and advertisements stay where they are, and a \
                 stack reads those of its own namespace. Delete this stack, and make it with spec.namespace set to MetalLB's",
                few(&elsewhere)
            ))
        };
    }
    let which = class.map_or_else(
        || "Services without a class".to_owned(),
        |class| format!("Services of class {class}"),
    );
    Finding::failed(format!(
        "{} serves {which} too ({}): {}, or give this stack a spec.loadBalancerClass of its own",
        first.product.name(),
        few(&objects),
        first.product.remedy()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Serves;

    fn mk(product: Product, without_class: bool, classes: &[&str]) -> Balancer {
        Balancer {
            product,
            object: ObjectRef::new("DaemonSet", "kube-system", "it"),
            serves: Serves {
                without_class,
                classes: classes.iter().map(|class| (*class).to_owned()).collect(),
            },
        }
    }

    #[test]
    fn only_who_serves_the_same_services_is_in_the_way() {
        let cases = [
            (None, mk(Product::MetalLb, true, &[]), true),
            (None, mk(Product::MetalLb, false, &["lan"]), false),
            (Some("lan"), mk(Product::MetalLb, false, &["lan"]), true),
            (Some("lan"), mk(Product::MetalLb, true, &[]), false),
            (
                None,
                mk(Product::KubeVip, true, &["kube-vip.io/kube-vip-class"]),
                true,
            ),
            (
                Some("lan"),
                mk(Product::Cilium, true, &["io.cilium/l2-announcer"]),
                false,
            ),
            (None, mk(Product::ServiceLb, true, &[]), true),
        ];
        for (class, other, in_the_way) in cases {
            let finding = balancers(class, None, &Ok(vec![other.clone()]));
            assert_eq!(
                matches!(finding, Finding::Failed(_)),
                in_the_way,
                "{class:?} {other:?}: {finding:?}"
            );
        }
    }

    #[test]
    fn the_message_says_who_where_and_what_to_do() {
        let Finding::Failed(message) = balancers(None, None, &Ok(vec![mk(Product::ServiceLb, true, &[])]))
        else {
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
    fn a_metallb_in_the_stacks_namespace_is_adopted_where_the_spec_says_so_and_no_other() {
        let at = |product, namespace, name| Balancer {
            object: ObjectRef::new("DaemonSet", namespace, name),
            ..mk(product, true, &[])
        };
        let here = at(Product::MetalLb, "metallb-system", "speaker");
        let elsewhere = at(Product::MetalLb, "lan", "speaker");
        let other = at(Product::KubeVip, "metallb-system", "kube-vip");
        let ours = Some("metallb-system");
        // What adopts, what is found, and what the message says if that fails.
        let cases = [
            (ours, vec![here.clone()], None),
            (None, vec![here.clone()], Some("set spec.adopt to true")),
            (ours, vec![elsewhere.clone()], Some("spec.namespace")),
            (ours, vec![here.clone(), elsewhere], Some("DaemonSet lan/speaker")),
            (ours, vec![here, other], Some("kube-vip")),
        ];
        for (adopts, found, says) in cases {
            match (balancers(None, adopts, &Ok(found.clone())), says) {
                (Finding::Passed(_), None) => {}
                (Finding::Failed(message), Some(says)) => assert!(message.contains(says), "{message}"),
                (finding, _) => panic!("{adopts:?} {found:?}: {finding:?}"),
            }
        }
    }
}
