//! Two operators in one cluster: the second does nothing and names the first, until that one is gone.

use lb_e2e::harness::{Harness, LONG_TIMEOUT, eventually};

const SECOND: &str = "lb-operator-second";

fn manager(harness: &Harness) -> anyhow::Result<String> {
    harness.admin("kubectl get lbs default -o jsonpath='{.status.operator.namespace}'")
}

/// A second release, in another namespace.
pub(crate) fn second_operator_waits_for_the_first(harness: &Harness) -> anyhow::Result<()> {
    assert_eq!(manager(harness)?, "lb-operator-system");
    harness.admin(&format!(
        "helm install second {} -n {SECOND} --create-namespace \
         --set crds.enabled=false,rbac.aggregate=false,admissionPolicy.enabled=false --wait --timeout 120s",
        harness.chart()
    ))?;
    harness.wait_for_event(
        "LoadBalancerStack",
        "default",
        "Warning OtherOperator the operator with Lease lb-operator-system/",
    )?;
    assert_eq!(manager(harness)?, "lb-operator-system");
    crate::operator::replicas_are_repaired(harness)
}

/// The first one was uninstalled.
pub(crate) fn second_operator_takes_over(harness: &Harness) -> anyhow::Result<()> {
    eventually("the second operator to take over", LONG_TIMEOUT, || {
        Ok((manager(harness)? == SECOND).then_some(()))
    })?;
    crate::operator::replicas_are_repaired(harness)?;
    harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=120s")?;
    harness.admin(&format!("helm uninstall second -n {SECOND} --wait"))?;
    Ok(())
}
