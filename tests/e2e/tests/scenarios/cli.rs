//! `kubectl lb` on a real cluster: faults are made, `why` and `check` name cause and remedy, and the printed remedy mends
//! each of them.

use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};
use serde_json::Value;

/// A host in the LAN that is no node.
const FOREIGN_HOST: &str = "cp";

#[test]
fn printed_remedies_mend_faults() -> anyhow::Result<()> {
    let harness = Harness::start_lab("cli", 2)?;
    cluster_is_checked_before_the_installation(&harness)?;
    harness.install()?;
    harness.apply_backend("web", 2)?;
    harness.apply_service("web", "web", "", "")?;

    pool_without_auto_assign_is_requested(&harness)?;
    missing_advertisement_is_created(&harness)?;
    announced_service_is_fine(&harness)?;
    requested_address_outside_every_pool_is_removed(&harness)?;
    excluded_nodes_are_admitted(&harness)?;
    other_class_is_replaced(&harness)?;
    foreign_host_is_avoided(&harness)?;
    lists_and_scripts_work(&harness)?;
    Ok(())
}

/// Runs `kubectl lb` with an exit code that must be this one.
fn lb(harness: &Harness, arguments: &str, code: u8) -> anyhow::Result<String> {
    harness.admin(&format!(
        "code=0; kubectl lb {arguments} || code=$?; [ $code = {code} ] || {{ echo \"exit code $code\" >&2; exit 1; }}"
    ))
}

/// Waits until `why` names a problem with this text, and returns the commands that it prints.
fn commands_for(harness: &Harness, service: &str, text: &str) -> anyhow::Result<Vec<String>> {
    eventually(&format!("why {service} to say {text:?}"), LONG_TIMEOUT, || {
        let why: Value = serde_json::from_str(&lb(harness, &format!("why {service} -o json"), 1)?)?;
        let steps = why["steps"].as_array().into_iter().flatten();
        let mut problems = steps.filter(|step| step["verdict"] == "problem");
        let named = problems.any(|step| step["text"].as_str().is_some_and(|said| said.contains(text)));
        anyhow::ensure!(named, "{why:#}");
        let remedies = why["remedies"].as_array().into_iter().flatten();
        let commands = remedies.filter_map(|remedy| remedy["command"].as_str().map(str::to_owned));
        Ok(Some(commands.collect()))
    })
}

/// Runs the first of the commands that begins with this text.
fn follow(harness: &Harness, commands: &[String], begins: &str) -> anyhow::Result<()> {
    let command = commands.iter().find(|command| command.starts_with(begins));
    let command = command.unwrap_or_else(|| panic!("no {begins:?} in {commands:#?}"));
    harness.admin(command)?;
    Ok(())
}

/// Waits until `why` finds no problem.
fn wait_until_fine(harness: &Harness, service: &str) -> anyhow::Result<String> {
    eventually(&format!("{service} to be fine"), LONG_TIMEOUT, || {
        lb(harness, &format!("why {service}"), 0).map(Some)
    })
}

fn cluster_is_checked_before_the_installation(harness: &Harness) -> anyhow::Result<()> {
    let before = harness.admin("kubectl lb check --pre; [ $? -le 1 ]")?;
    assert!(before.contains("ServerVersion"), "{before}");
    let missing = lb(harness, "check", 1)?;
    assert!(missing.contains("the operator is not installed"), "{missing}");
    assert!(
        !missing.contains('\u{1b}'),
        "colors without a terminal: {missing:?}"
    );
    Ok(())
}

fn pool_without_auto_assign_is_requested(harness: &Harness) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.60-192.168.50.69], autoAssign: false}",
    )?;
    let commands = commands_for(harness, "web", "no pool has autoAssign enabled")?;
    follow(harness, &commands, "kubectl annotate service web")?;
    harness.wait_for_address("web")?;
    Ok(())
}

fn missing_advertisement_is_created(harness: &Harness) -> anyhow::Result<()> {
    let commands = commands_for(harness, "web", "no L2Advertisement announces pool \"lan\"")?;
    let check = lb(harness, "check", 1)?;
    assert!(check.contains("no L2Advertisement announces pool"), "{check}");
    follow(harness, &commands, "echo")?;
    let address = harness.current_address("web")?;
    harness.wait_for_answer(&address, "web")
}

/// The answer of a Service without a fault, by name and by address.
fn announced_service_is_fine(harness: &Harness) -> anyhow::Result<()> {
    let fine = wait_until_fine(harness, "web")?;
    let address = harness.current_address("web")?;
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    assert!(
        fine.contains(&format!("{address} of pool lan")) && fine.contains(&format!("owner       {owner}")),
        "{fine}"
    );
    lb(harness, &format!("why {address}"), 0)?;
    lb(harness, "status --wait --timeout 60", 0)?;
    Ok(())
}

fn requested_address_outside_every_pool_is_removed(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("kubectl patch ipaddresspool lan -n metallb-system --type=merge -p '{\"spec\":{\"autoAssign\":true}}'")?;
    harness.apply_service("far", "web", "metallb.io/loadBalancerIPs: 10.9.9.9", "")?;
    let commands = commands_for(harness, "far", "\"10.9.9.9\" is not allowed in config")?;
    follow(harness, &commands, "kubectl annotate service far")?;
    wait_until_fine(harness, "far")?;
    harness.admin("kubectl delete service far")?;
    Ok(())
}

fn excluded_nodes_are_admitted(harness: &Harness) -> anyhow::Result<()> {
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    harness.admin(&format!("kubectl label node --all {label}="))?;
    let commands = commands_for(harness, "web", "excluded by label")?;
    follow(harness, &commands, "kubectl label node")?;
    let address = harness.current_address("web")?;
    harness.wait_for_answer(&address, "web")?;
    wait_until_fine(harness, "web")?;
    harness.admin(&format!("kubectl label node --all {label}-"))?;
    Ok(())
}

fn other_class_is_replaced(harness: &Harness) -> anyhow::Result<()> {
    harness.apply_service("classy", "web", "", "  loadBalancerClass: example.com/other\n")?;
    let commands = commands_for(harness, "classy", "example.com/other")?;
    follow(harness, &commands, "kubectl patch service classy")?;
    wait_until_fine(harness, "classy")?;
    harness.admin("kubectl delete service classy")?;
    Ok(())
}

/// Another host takes the address of a Service: the address is excluded from its pool, and the Service moves.
fn foreign_host_is_avoided(harness: &Harness) -> anyhow::Result<()> {
    let address = harness.current_address("web")?;
    harness.run_on(FOREIGN_HOST, &format!("ip address add {address}/32 dev eth0"))?;
    harness.run_on(
        FOREIGN_HOST,
        &format!("arping -q -U -c 1 -I eth0 -s {address} {address}"),
    )?;
    let mac = lb_l2::MacAddr(harness.lab().mac_address(FOREIGN_HOST)?).to_string();
    let commands = commands_for(harness, "web", &mac)?;
    let listed = lb(harness, "addresses --problems", 1)?;
    assert!(listed.contains(&mac), "{listed}");
    follow(harness, &commands, "kubectl annotate ipaddresspool lan")?;
    eventually("web to get another address", LONG_TIMEOUT, || {
        let now = harness.current_address("web")?;
        Ok((!now.is_empty() && now != address).then_some(()))
    })?;
    wait_until_fine(harness, "web")?;
    harness.run_on(FOREIGN_HOST, &format!("ip address del {address}/32 dev eth0"))?;
    Ok(())
}

fn lists_and_scripts_work(harness: &Harness) -> anyhow::Result<()> {
    let address = harness.current_address("web")?;
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    let drain = lb(harness, &format!("drain {owner}"), 0)?;
    assert!(drain.contains(&address) && drain.contains("hand-over"), "{drain}");
    let nodes = lb(harness, "nodes", 0)?;
    assert!(nodes.contains(&owner), "{nodes}");
    let pools: Value = serde_json::from_str(&lb(harness, "pools -o json", 0)?)?;
    assert_eq!(pools["pools"][0]["name"], "lan", "{pools:#}");
    let junit = harness.admin("kubectl lb check -o junit; [ $? -le 1 ]")?;
    assert!(junit.starts_with("<?xml"), "{junit}");
    harness.admin("source <(kubectl-lb completion bash); complete -p kubectl-lb")?;
    lb(harness, "why nothing-has-this-name", 2)?;
    // A user who may read nothing is not told that all is well.
    lb(harness, "check --as nobody", 2)?;
    Ok(())
}
