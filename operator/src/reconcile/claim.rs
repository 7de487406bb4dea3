//! Claims the stack, so that of two operators only one manages it.

use std::time::Instant;

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::Api;
use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::OperatorLease;

use super::{Operator, TICK};
use crate::apply::write::Write;
use crate::other_operator::OBSERVATION_INTERVAL;
use crate::reasons::{Reason, StackEvent};
use crate::request::in_time;

impl Operator {
    /// Whether this operator manages the stack. It claims a stack that no running operator manages.
    pub(super) async fn claims(&mut self, stack: &LoadBalancerStack) -> bool {
        let ours = OperatorLease {
            namespace: self.operator_config.operator_namespace.clone(),
            name: self.operator_config.lease_name.clone(),
        };
        let mut status = stack.status.clone().unwrap_or_default();
        match &status.operator {
            Some(lease) if *lease == ours => return true,
            Some(lease) if self.may_run(lease, &ours).await => {
                self.stand_by();
                return false;
            }
            Some(_) | None => {}
        }
        status.operator = Some(ours);
        let claimed = self.write(Write::status(stack, &status)).await;
        self.executor.requeue_in(TICK);
        claimed
    }

    /// Whether the operator with this Lease may still run.
    async fn may_run(&mut self, lease: &OperatorLease, ours: &OperatorLease) -> bool {
        self.executor.requeue_in(OBSERVATION_INTERVAL);
        if !self.other_operator.is_due(Instant::now()) {
            // It may have renewed the Lease since the last read.
            return true;
        }
        let OperatorLease { namespace, name } = lease;
        let api: Api<Lease> = Api::namespaced(self.executor.client().clone(), namespace);
        let what = format!("read Lease {namespace}/{name} of another operator");
        let found = match in_time(what, api.get_opt(name)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether another operator runs; retrying");
                return true;
            }
        };
        let (now, version) = (Instant::now(), found.and_then(|lease| lease.resource_version()));
        if self.other_operator.observe(now, lease, version) {
            let note = format!(
                "the operator with Lease {namespace}/{name} manages this stack; the one with Lease {}/{} does nothing until the \
                 other is removed: uninstall one of them",
                ours.namespace, ours.name
            );
            let event = StackEvent::warning(Reason::OtherOperator, note);
            self.executor.publish(vec![event]);
        }
        self.other_operator.may_run(now)
    }
}
