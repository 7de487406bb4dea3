//! The first step: is the Service one that this stack serves, and does the stack run?

use lb_crds::load_balancer_stack::{LoadBalancerStack, PreflightResult, StackPhase};
use lb_crds::names::{CONTROLLER, STACK};
use serde_json::json;

use super::{Step, Subject};
use crate::cluster::is_component;
use crate::docs;
use crate::remedy::{Remedy, create, patch};
use crate::snapshot::{class, is_load_balancer};

const NAME: &str = "served";

pub(super) fn step(subject: &Subject<'_>) -> Step {
    let snapshot = subject.cluster.snapshot;
    let (name, namespace) = (subject.key.name(), subject.key.namespace());
    if !is_load_balancer(subject.service) {
        let remedy = Remedy::run(
            "make it a load balancer",
            patch(
                "service",
                name,
                Some(namespace),
                &json!({"spec": {"type": "LoadBalancer"}}),
            ),
        );
        let text = "spec.type is not LoadBalancer, so the Service gets no address";
        return Step::problem(NAME, text, docs::PENDING, vec![remedy]);
    }
    if let Some(problem) = missing(subject) {
        return problem;
    }
    let Some(stack) = snapshot.stack() else {
        return Step::new(
            NAME,
            crate::text::Verdict::Unknown,
            "the LoadBalancerStack could not be read",
        );
    };
    let (own, theirs) = (class(subject.service), snapshot.class());
    if own != theirs {
        return other_class(subject, own, theirs);
    }
    let ready = |component| {
        let pods = snapshot.pods.iter().filter(|pod| is_component(pod, component));
        pods.filter(|pod| crate::nodes::is_ready(pod)).count()
    };
    if ready(CONTROLLER) == 0 {
        return no_controller(subject, stack);
    }
    let status = stack.status.clone().unwrap_or_default();
    let version = status.version.unwrap_or_else(|| "no version yet".to_owned());
    let phase = status.phase.map_or("no status yet", |phase| phase.as_str());
    let text = format!(
        "by stack {STACK} in namespace {}: {version}, {phase}",
        snapshot.namespace()
    );
    match status.phase {
        Some(StackPhase::Paused) => paused(&text, stack),
        Some(StackPhase::Blocked | StackPhase::Degraded) => {
            let remedy = Remedy::run("see what is wrong with the stack", "kubectl lb check");
            Step::warning(NAME, text, docs::NOT_READY, vec![remedy])
        }
        _ => Step::ok(NAME, text),
    }
}

/// The operator or the stack is missing.
fn missing(subject: &Subject<'_>) -> Option<Step> {
    let snapshot = subject.cluster.snapshot;
    if snapshot.absent.contains(&"LoadBalancerStack") {
        let text = "the operator is not installed: the API server has no kind LoadBalancerStack";
        let remedy = Remedy::act("install the operator");
        return Some(Step::problem(NAME, text, docs::INSTALL, vec![remedy]));
    }
    let is_unread = snapshot.is_unread("LoadBalancerStack");
    if snapshot.stack().is_none() && !is_unread {
        let object = json!({
            "apiVersion": "lb-operator.io/v1alpha1",
            "kind": "LoadBalancerStack",
            "metadata": {"name": STACK},
            "spec": {},
        });
        let remedy = Remedy::run("create the stack", create(&object));
        let text = "there is no LoadBalancerStack, so neither a controller nor a speaker runs";
        return Some(Step::problem(NAME, text, docs::STACK, vec![remedy]));
    }
    None
}

fn other_class(subject: &Subject<'_>, own: Option<&str>, theirs: Option<&str>) -> Step {
    let (name, namespace) = (subject.key.name(), subject.key.namespace());
    let quoted = |class: Option<&str>| {
        class.map_or_else(
            || "without a spec.loadBalancerClass".to_owned(),
            |class| format!("with spec.loadBalancerClass {class:?}"),
        )
    };
    let text = format!(
        "the Service is one {}, and the stack serves Services {}: it assigns no address",
        quoted(own),
        quoted(theirs)
    );
    let change = match theirs {
        None => json!([{"op": "remove", "path": "/spec/loadBalancerClass"}]),
        Some(class) => json!([{"op": "add", "path": "/spec/loadBalancerClass", "value": class}]),
    };
    let command = format!(
        "kubectl patch service {name} -n {namespace} --type=json --dry-run=client -o yaml -p '{change}' | kubectl \
         replace --force -f -"
    );
    let what = match theirs {
        None => "create the Service again without the class, which cannot be changed".to_owned(),
        Some(class) => format!("create the Service again with class {class}; a class cannot be changed"),
    };
    let leave = Remedy::act("leave it as it is, if another load balancer serves it");
    Step::problem(NAME, text, docs::PENDING, vec![Remedy::run(what, command), leave])
}

/// Nothing decides about Services.
fn no_controller(subject: &Subject<'_>, stack: &LoadBalancerStack) -> Step {
    let namespace = subject.cluster.snapshot.namespace();
    let preflight = stack.status.iter().flat_map(|status| &status.preflight);
    let failed: Vec<_> = preflight
        .filter(|check| check.result == PreflightResult::Failed)
        .collect();
    if let Some(first) = failed.first() {
        let messages: Vec<_> = failed
            .iter()
            .map(|check| format!("{}: {}", check.name.as_str(), check.message))
            .collect();
        let text = format!(
            "nothing is installed, because {} failed: {}",
            crate::text::count(failed.len(), "preflight check", "preflight checks"),
            messages.join("; ")
        );
        let skip = json!({"spec": {"preflight": {"skip": failed.iter().map(|one| one.name.as_str()).collect::<Vec<_>>()}}});
        let remedies = vec![
            Remedy::act(format!("solve it as the check {} says", first.name.as_str())),
            Remedy::run(
                "install anyway, if you know that it does no harm",
                patch("lbs", STACK, None, &skip),
            ),
        ];
        return Step::problem(NAME, text, docs::PREFLIGHT, remedies);
    }
    let text = format!("no controller is ready in namespace {namespace}, so nobody assigns addresses");
    let remedies = vec![
        Remedy::run(
            "look at the pods of the controller",
            format!("kubectl describe pods -n {namespace} -l component=controller"),
        ),
        Remedy::run("look at the stack", "kubectl lb check"),
    ];
    Step::problem(NAME, text, docs::NOT_READY, remedies)
}

fn paused(text: &str, stack: &LoadBalancerStack) -> Step {
    if stack.spec.paused {
        let text = format!("{text}: spec.paused is set, so the operator changes nothing");
        let remedy = Remedy::run(
            "let the operator work again",
            patch("lbs", STACK, None, &json!({"spec": {"paused": false}})),
        );
        return Step::warning(NAME, text, docs::INTERVENE, vec![remedy]);
    }
    let upgrade = stack.status.as_ref().and_then(|status| status.upgrade.as_ref());
    let waits = upgrade.and_then(|upgrade| upgrade.waiting_for.as_deref().or(upgrade.failure.as_deref()));
    let text = format!(
        "{text}: the upgrade is paused: {}",
        waits.unwrap_or("it says no reason")
    );
    let remedies = vec![
        Remedy::run("see the upgrade", "kubectl lb upgrade status"),
        Remedy::run("try it again", "kubectl lb upgrade retry"),
        Remedy::run(
            "return to the version that ran before",
            "kubectl lb upgrade abort",
        ),
    ];
    Step::warning(NAME, text, docs::UPGRADE_WAITS, remedies)
}
