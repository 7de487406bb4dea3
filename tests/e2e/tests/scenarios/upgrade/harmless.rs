//! Mistakes in the spec that must not take an address away, and faults of others that must not fail an upgrade.

use lb_e2e::harness::{SHORT_TIMEOUT, eventually};

use super::interrupted::at;
use super::{Place, good};

#[test]
fn mistakes_and_faults_of_others_take_no_address_away() -> anyhow::Result<()> {
    let place = Place::next("harmless", &good())?;
    place.with_traffic_and_resolution("affinity that matches no node", affinity_typo_is_refused)?;
    place.with_traffic_and_resolution("edits by tenants", tenants_do_not_fail_the_upgrade)
}

/// Nothing is changed, and the message names nodes and reason.
fn affinity_typo_is_refused(place: &Place) -> anyhow::Result<()> {
    let (past, before) = (place.past()?, place.pods()?);
    place.set(
        "{\"speaker\":{\"affinity\":{\"nodeAffinity\":{\"requiredDuringSchedulingIgnoredDuringExecution\":\
         {\"nodeSelectorTerms\":[{\"matchExpressions\":[{\"key\":\"nope\",\"operator\":\"Exists\"}]}]}}}}}",
    )?;
    let message = eventually("the spec to be refused", SHORT_TIMEOUT, || {
        let (_, reason, message) = place.condition("Degraded")?;
        Ok((reason == "InvalidSpec").then_some(message))
    })?;
    assert!(
        message.contains("n1 does not match the node affinity"),
        "{message}"
    );
    assert_eq!(place.pods()?, before, "no pod has restarted");
    place.set("{\"speaker\":null}")?;
    place
        .harness
        .admin("kubectl wait lbs default --for=condition=Ready --timeout=60s")?;
    assert_eq!((place.past()?, place.pods()?), (past, before));
    Ok(())
}

/// A tenant moves its Service to another pool while speakers restart, and another one requests an address that a host
/// outside of the cluster has while the upgrade is verified.
fn tenants_do_not_fail_the_upgrade(place: &Place) -> anyhow::Result<()> {
    let harness = &place.harness;
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: b, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.100-192.168.50.109], autoAssign: false}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: b, namespace: metallb-system}\n\
         spec: {ipAddressPools: [b]}",
    )?;
    harness.apply_service("moving", "web", "", "")?;
    let address = harness.wait_for_address("moving")?;
    let taken = "192.168.50.79";
    harness.run_on("cp", &format!("ip address add {taken}/32 dev eth0"))?;
    let past = place.past()?;
    place.set("{\"logLevel\":\"debug\"}")?;
    at(place, "Speakers")?;
    harness.admin("kubectl annotate service moving metallb.io/address-pool=b --overwrite")?;
    eventually("the Service to move", SHORT_TIMEOUT, || {
        Ok((harness.current_address("moving")? != address).then_some(()))
    })?;
    at(place, "Verify")?;
    harness.apply_service("taken", "web", "", &format!("  loadBalancerIP: {taken}\n"))?;
    place.wait_for_success(past, &good())?;
    let status = place.status()?;
    assert!(
        status["failedRevisions"].as_array().is_none_or(Vec::is_empty),
        "{status}"
    );
    harness.run_on("cp", &format!("ip address del {taken}/32 dev eth0"))?;
    harness.admin("kubectl delete service moving taken")?;
    Ok(())
}
