//! The findings about a cluster with a stack.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lb_crds::condition::find_condition;
use lb_crds::load_balancer_stack::{Approval, LoadBalancerStackStatus, PreflightResult, UpgradeOutcome};
use lb_crds::names::{CONTROLLER, SPEAKER};
use lb_runtime::text::list_first;

use super::{Check, Finding};
use crate::addresses::{Kind, rows};
use crate::cluster::{Cluster, is_component};
use crate::docs;
use crate::nodes::{is_ready, unheard, version};
use crate::snapshot::Snapshot;
use crate::text::{Verdict, count};

const STACK: &str = "stack";
const PREFLIGHT: &str = "preflight";
const CONFIGURATION: &str = "configuration";
const SERVICES: &str = "services";
const SPEAKERS: &str = "speakers";
const UPGRADE: &str = "upgrade";
/// A pool that is fuller than this is worth a warning.
const NEARLY_FULL: u8 = 90;

/// Looks at everything.
pub(crate) fn findings(cluster: &Cluster<'_>) -> Check {
    let snapshot = cluster.snapshot;
    let mut findings = stack(snapshot);
    if let Some(stack) = snapshot.stack() {
        let status = stack.status.clone().unwrap_or_default();
        findings.extend(preflight(&status));
        findings.extend(upgrade(
            stack.spec.paused,
            stack.spec.upgrade.as_ref().map(|one| one.approval),
            &status,
        ));
        findings.extend(configuration(cluster));
        findings.extend(speakers(snapshot));
        findings.extend(services(cluster));
    }
    Check {
        findings,
        unread: snapshot.unread.clone(),
    }
}

fn stack(snapshot: &Snapshot) -> Vec<Finding> {
    if snapshot.absent.contains(&"LoadBalancerStack") {
        let text = "the operator is not installed: the API server has no kind LoadBalancerStack";
        let remedy = "install the operator; check the cluster before: kubectl lb check --pre";
        return vec![Finding::bad(
            STACK,
            "operator",
            Verdict::Problem,
            text,
            remedy,
            docs::INSTALL,
        )];
    }
    let Some(stack) = snapshot.stack() else {
        let is_unread = snapshot.is_unread("LoadBalancerStack");
        let finding = match is_unread {
            true => {
                let text = "the LoadBalancerStack could not be read";
                Finding::bad(STACK, "stack", Verdict::Unknown, text, "", docs::RIGHTS)
            }
            false => {
                let remedy = "create it: kubectl apply -f stack.yaml";
                Finding::bad(
                    STACK,
                    "stack",
                    Verdict::Problem,
                    "there is no LoadBalancerStack",
                    remedy,
                    docs::STACK,
                )
            }
        };
        return vec![finding];
    };
    let status = stack.status.clone().unwrap_or_default();
    let mut findings = Vec::new();
    let behind = status.observed_generation < stack.metadata.generation;
    match (&status.operator_version, behind) {
        (None, _) => {
            let text = "no operator has written the status of the stack";
            let remedy =
                "look whether the operator runs: kubectl get pods -A -l app.kubernetes.io/name=lb-operator";
            findings.push(Finding::bad(
                STACK,
                "operator",
                Verdict::Problem,
                text,
                remedy,
                docs::NOT_READY,
            ));
        }
        (Some(version), true) => {
            let text = format!("operator {version} has not processed the newest spec");
            let remedy = "wait some seconds; then look whether the operator runs: kubectl get pods -A -l \
                          app.kubernetes.io/name=lb-operator";
            findings.push(Finding::bad(
                STACK,
                "operator",
                Verdict::Warning,
                text,
                remedy,
                docs::NOT_READY,
            ));
        }
        (Some(version), false) => {
            findings.push(Finding::ok(STACK, "operator", format!("operator {version}")));
        }
    }
    let condition = |type_: &str| find_condition(&status.conditions, type_);
    let good = |type_: &'static str, condition: &Condition| match condition.status.as_str() {
        "True" => Finding::ok(STACK, type_, format!("{type_}: {}", condition.message)),
        _ => {
            let text = format!("not {type_}: {}", condition.message);
            Finding::bad(STACK, type_, Verdict::Problem, text, "", docs::NOT_READY)
        }
    };
    findings.extend(condition("Ready").map(|one| good("Ready", one)));
    // These are True when something is wrong.
    for (type_, page) in [
        ("Degraded", docs::STACK_CONDITIONS),
        ("DeletionBlocked", docs::STACK_CONDITIONS),
        ("HeartbeatsLost", docs::SLOW_FAILOVER),
    ] {
        if let Some(one) = condition(type_).filter(|one| one.status == "True") {
            let verdict = match type_ {
                "Degraded" => Verdict::Problem,
                _ => Verdict::Warning,
            };
            let text = format!("{type_}: {}", one.message);
            findings.push(Finding::bad(STACK, type_, verdict, text, "", page));
        }
    }
    findings
}

fn preflight(status: &LoadBalancerStackStatus) -> Vec<Finding> {
    status.preflight.iter().map(from_preflight).collect()
}

/// The finding of a preflight check; its message has the remedy.
pub(super) fn from_preflight(check: &lb_crds::load_balancer_stack::PreflightCheck) -> Finding {
    let name = check.name.as_str();
    let text = format!("{name}: {}", check.message);
    let verdict = match check.result {
        PreflightResult::Passed => return Finding::ok(PREFLIGHT, name, text),
        PreflightResult::Skipped if !check.overridden => return Finding::ok(PREFLIGHT, name, text),
        PreflightResult::Warning | PreflightResult::Skipped => Verdict::Warning,
        PreflightResult::Unknown => Verdict::Unknown,
        PreflightResult::Failed => Verdict::Problem,
    };
    Finding::bad(PREFLIGHT, name, verdict, text, "", docs::PREFLIGHT)
}

fn upgrade(paused: bool, approval: Option<Approval>, status: &LoadBalancerStackStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    if paused {
        let text = "spec.paused is set: the operator changes and repairs nothing";
        let remedy = "kubectl patch lbs default --type=merge -p '{\"spec\":{\"paused\":false}}'";
        findings.push(Finding::bad(
            UPGRADE,
            "paused",
            Verdict::Warning,
            text,
            remedy,
            docs::INTERVENE,
        ));
    }
    if let Some(upgrade) = &status.upgrade {
        let (from, to, step) = (&upgrade.from.version, &upgrade.to.version, upgrade.step);
        let why = upgrade.waiting_for.as_deref().or(upgrade.failure.as_deref());
        let text = format!(
            "{from} to {to}, step {step}, {} of {} speakers",
            upgrade.updated, upgrade.total
        );
        findings.push(match upgrade.paused {
            Some(reason) => {
                let text = format!(
                    "{text}: paused, {reason}: {}",
                    why.unwrap_or("see kubectl lb upgrade status")
                );
                let remedy = "solve the cause; then kubectl lb upgrade retry, or kubectl lb upgrade abort";
                Finding::bad(
                    UPGRADE,
                    "upgrade",
                    Verdict::Problem,
                    text,
                    remedy,
                    docs::UPGRADE_WAITS,
                )
            }
            None => match why {
                Some(why) => {
                    let text = format!("{text}: {why}");
                    Finding::bad(
                        UPGRADE,
                        "upgrade",
                        Verdict::Warning,
                        text,
                        "",
                        docs::UPGRADE_FAILED,
                    )
                }
                None => Finding::ok(UPGRADE, "upgrade", text),
            },
        });
    } else if let Some(last) = status
        .history
        .last()
        .filter(|last| last.outcome == UpgradeOutcome::RolledBack)
    {
        let text = format!(
            "the upgrade to {} was rolled back: {}",
            last.to,
            last.reason.as_deref().unwrap_or("no reason was written")
        );
        let remedy = "solve the cause; then kubectl lb upgrade retry";
        findings.push(Finding::bad(
            UPGRADE,
            "upgrade",
            Verdict::Warning,
            text,
            remedy,
            docs::UPGRADE_FAILED,
        ));
    }
    if approval == Some(Approval::Manual)
        && let Some(plan) = &status.plan
    {
        let text = format!("an upgrade to {} waits for approval", plan.version);
        let remedy = "kubectl lb upgrade plan, then kubectl lb upgrade approve";
        findings.push(Finding::bad(
            UPGRADE,
            "plan",
            Verdict::Warning,
            text,
            remedy,
            docs::APPROVE,
        ));
    }
    findings
}

fn configuration(cluster: &Cluster<'_>) -> Vec<Finding> {
    let snapshot = cluster.snapshot;
    let mut findings = Vec::new();
    let pools = crate::pools::pools(cluster);
    for pool in &pools.pools {
        if let Some(problem) = &pool.problem {
            let text = format!("pool {}: {problem}", pool.name);
            if pool.misplaced {
                let remedy = format!("create it in namespace {}", snapshot.namespace());
                let finding = Finding::bad(
                    CONFIGURATION,
                    &pool.name,
                    Verdict::Warning,
                    text,
                    remedy,
                    docs::POOLS,
                );
                findings.push(finding);
                continue;
            }
            findings.push(Finding::bad(
                CONFIGURATION,
                &pool.name,
                Verdict::Problem,
                text,
                "",
                docs::POOLS,
            ));
        } else if pool.percent >= NEARLY_FULL {
            let text = format!(
                "pool {} is {}% full: {} of {} in use",
                pool.name, pool.percent, pool.used, pool.capacity
            );
            let remedy = format!(
                "add addresses: kubectl edit ipaddresspool {} -n {}",
                pool.name,
                snapshot.namespace()
            );
            findings.push(Finding::bad(
                CONFIGURATION,
                &pool.name,
                Verdict::Warning,
                text,
                remedy,
                docs::POOLS,
            ));
        }
    }
    if pools.pools.iter().all(|pool| pool.misplaced) && !snapshot.is_unread("IPAddressPool") {
        let text = "there is no pool, so no Service gets an address";
        let remedy = "create an IPAddressPool and an L2Advertisement: docs/guide.md, steps 2 and 3";
        findings.push(Finding::bad(
            CONFIGURATION,
            "pools",
            Verdict::Warning,
            text,
            remedy,
            docs::POOLS,
        ));
    }
    // Pools that the controller reports on: it knows more, such as addresses of nodes in a pool.
    let conditions = snapshot
        .pools
        .iter()
        .filter(|pool| snapshot.is_ours(*pool))
        .filter_map(|pool| {
            let condition = find_condition(&pool.status.as_ref()?.conditions, "Valid")?;
            Some((format!("pool {}", pool.metadata.name.as_deref()?), condition))
        });
    let advertisements = snapshot
        .l2_advertisements
        .iter()
        .filter(|one| snapshot.is_ours(*one))
        .filter_map(|one| {
            let condition = find_condition(&one.status.as_ref()?.conditions, "Valid")?;
            Some((
                format!("L2Advertisement {}", one.metadata.name.as_deref()?),
                condition,
            ))
        });
    for (name, condition) in conditions.chain(advertisements) {
        let verdict = match (condition.status.as_str(), condition.reason.as_str()) {
            ("True", "ContainsNodeAddresses") => Verdict::Warning,
            ("False", _) if !findings.iter().any(|one| name == format!("pool {}", one.name)) => {
                Verdict::Problem
            }
            _ => continue,
        };
        let text = format!("{name}: {}", condition.message);
        findings.push(Finding::bad(CONFIGURATION, &name, verdict, text, "", docs::POOLS));
    }
    for one in snapshot
        .l2_advertisements
        .iter()
        .filter(|one| !snapshot.is_ours(*one))
    {
        let name = one.metadata.name.as_deref().unwrap_or_default();
        let own = one.metadata.namespace.as_deref().unwrap_or_default();
        let text = format!(
            "L2Advertisement {own}/{name} has no effect: only those in {} have",
            snapshot.namespace()
        );
        let remedy = format!(
            "create it in namespace {}, and delete it in {own}",
            snapshot.namespace()
        );
        findings.push(Finding::bad(
            CONFIGURATION,
            name,
            Verdict::Warning,
            text,
            remedy,
            docs::POOLS,
        ));
    }
    if findings.is_empty() {
        let text = format!(
            "{} and {} are valid",
            count(pools.pools.len(), "pool", "pools"),
            count(
                snapshot.l2_advertisements.len(),
                "L2Advertisement",
                "L2Advertisements"
            )
        );
        findings.push(Finding::ok(CONFIGURATION, "objects", text));
    }
    findings
}

fn speakers(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    let namespace = snapshot.namespace();
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
    for component in [CONTROLLER, SPEAKER] {
        let pods: Vec<_> = snapshot
            .pods
            .iter()
            .filter(|pod| is_component(pod, component))
            .collect();
        let unready: Vec<_> = pods
            .iter()
            .filter(|pod| !is_ready(pod))
            .map(|pod| name(pod))
            .collect();
        let remedy = format!("kubectl describe pods -n {namespace} -l component={component}");
        findings.push(if pods.is_empty() {
            let text = format!("no {component} runs in namespace {namespace}");
            Finding::bad(SPEAKERS, component, Verdict::Problem, text, "", docs::NOT_READY)
        } else if unready.is_empty() {
            let text = format!("{} ready", count(pods.len(), component, &format!("{component}s")));
            Finding::ok(SPEAKERS, component, text)
        } else {
            let text = format!(
                "{} of {} not ready: {}",
                unready.len(),
                count(pods.len(), component, &format!("{component}s")),
                list_first(&unready, 4)
            );
            Finding::bad(
                SPEAKERS,
                component,
                Verdict::Problem,
                text,
                remedy,
                docs::NOT_READY,
            )
        });
    }
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in &snapshot.pods {
        *versions.entry(version(pod).unwrap_or("unknown")).or_default() += 1;
    }
    let upgrading = snapshot
        .stack()
        .and_then(|stack| stack.status.as_ref())
        .is_some_and(|status| status.upgrade.is_some());
    if versions.len() > 1 && !upgrading {
        let list: Vec<_> = versions
            .iter()
            .map(|(version, pods)| format!("{version} ({pods})"))
            .collect();
        let text = format!(
            "pods of several versions run, and no upgrade is in progress: {}",
            list.join(", ")
        );
        let remedy = format!("kubectl get pods -n {namespace} -o wide");
        findings.push(Finding::bad(
            SPEAKERS,
            "versions",
            Verdict::Warning,
            text,
            remedy,
            docs::NOT_READY,
        ));
    }
    let deaf = unheard(snapshot);
    for (node, peers) in deaf.iter().take(5) {
        let text = format!(
            "node {node} receives no heartbeats of {}: their failure is noticed late, through the API server",
            list_first(peers, 4)
        );
        let remedy = format!("open UDP port 7947 from {} to {node}", list_first(peers, 4));
        findings.push(Finding::bad(
            SPEAKERS,
            "heartbeats",
            Verdict::Warning,
            text,
            remedy,
            docs::SLOW_FAILOVER,
        ));
    }
    if deaf.is_empty() {
        findings.push(Finding::ok(
            SPEAKERS,
            "heartbeats",
            "no node reports lost heartbeats",
        ));
    }
    findings
}

fn services(cluster: &Cluster<'_>) -> Vec<Finding> {
    let rows = rows(cluster);
    let total = rows.len();
    // Services with the same problem are one finding.
    let mut groups: BTreeMap<(Kind, String), Vec<String>> = BTreeMap::new();
    for row in rows {
        if let Some(problem) = row.problem {
            // The address in the text would make each its own group.
            let mut message = problem.message;
            if let Some(address) = row.address {
                message = message.replace(&address.to_string(), "the address");
            }
            groups
                .entry((problem.kind, message))
                .or_default()
                .push(row.service);
        }
    }
    if groups.is_empty() {
        let text = format!("{} without a problem", count(total, "address", "addresses"));
        return vec![Finding::ok(SERVICES, "addresses", text)];
    }
    groups
        .into_iter()
        .map(|((kind, message), services)| {
            let text = format!("{}: {}: {message}", list_first(&services, 3), kind.words());
            let remedy = match services.first() {
                Some(first) => format!("kubectl lb why {first}"),
                None => String::new(),
            };
            let page = match kind {
                Kind::Pending => docs::PENDING,
                Kind::NotAnnounced | Kind::NoReply => docs::NO_ANSWER,
                Kind::Conflict => docs::OTHER_HOST,
            };
            Finding::bad(SERVICES, kind.words(), Verdict::Problem, text, remedy, page)
        })
        .collect()
}
