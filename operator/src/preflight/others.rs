//! Whether another load balancer serves the same Services: two would give one Service two addresses, or one address to two
//! Services, and both would answer for it.

use super::{Balancer, Finding, Known, Product, few, unknown};

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
            Self::MetalLb => {
                "scale its controller to 0 and delete its DaemonSet speaker, its pools and Services stay"
            }
            Self::KubeVip => "set svc_enable to false in it",
            Self::Cilium => "delete its CiliumLoadBalancerIPPools",
            Self::ServiceLb => "start k3s with --disable=servicelb",
        }
    }
}

/// `class`: the `spec.loadBalancerClass` of the Services that the stack serves.
pub(super) fn balancers(class: Option<&str>, found: &Known<Vec<Balancer>>) -> Finding {
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
    let objects: Vec<_> = rivals.iter().map(|rival| rival.object.clone()).collect();
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
            object: "DaemonSet kube-system/it".to_owned(),
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
            let finding = balancers(class, &Ok(vec![other.clone()]));
            assert_eq!(
                matches!(finding, Finding::Failed(_)),
                in_the_way,
                "{class:?} {other:?}: {finding:?}"
            );
        }
    }

    #[test]
    fn the_message_says_who_where_and_what_to_do() {
        let Finding::Failed(message) = balancers(None, &Ok(vec![mk(Product::ServiceLb, true, &[])])) else {
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
}
