//! `check --pre`: the operator's own preflight checks, with the rights of the user, before anything is installed.

use anyhow::Context;
use kube::Client;
use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::PreflightName;
use lb_crds::names::{NAMESPACE, STACK};
use lb_operator::args::OperatorConfig;
use lb_operator::desired::validation::stack_config;
use lb_operator::preflight::collect::{FactsRequest, collect_facts};
use lb_operator::preflight::run_checks;

use super::Check;
use super::findings::from_preflight;
use crate::version::CLIENT;

/// Runs the checks for a stack with an empty spec, or for the one that exists.
pub(crate) async fn before_installation(
    client: &Client,
    stack: Option<&LoadBalancerStack>,
) -> anyhow::Result<Check> {
    let mut stack = stack.cloned().unwrap_or_default();
    stack.metadata.name = Some(STACK.to_owned());
    let config = OperatorConfig {
        version: CLIENT.to_owned(),
        // The images are those of the installation, which this program does not know.
        controller_image: format!("localhost/controller:{CLIENT}"),
        speaker_image: format!("localhost/speaker:{CLIENT}"),
        namespace: NAMESPACE.to_owned(),
        operator_namespace: NAMESPACE.to_owned(),
        lease_name: String::new(),
        manage_crds: true,
    };
    let config = stack_config(&stack, &config, false).context("the spec of the stack")?;
    let request = FactsRequest {
        generation: 0,
        namespace: config.namespace.clone(),
        node_selector: config.speaker.node_selector.clone(),
        absent_objects: Vec::new(),
    };
    let facts = collect_facts(client.clone(), request).await;
    let skip = stack
        .spec
        .preflight
        .map(|preflight| preflight.skip)
        .unwrap_or_default();
    let report = run_checks(&config, &skip, &facts);
    let checks = report
        .checks
        .iter()
        .filter(|check| check.name != PreflightName::Images);
    Ok(Check {
        findings: checks.map(from_preflight).collect(),
        unread: Vec::new(),
    })
}
