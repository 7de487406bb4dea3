//! The status and events of an adoption.

use lb_crds::LoadBalancerStackStatus;
use lb_crds::load_balancer_stack::{AdoptionStatus, AdoptionStep};

use super::NewCondition;
use crate::adoption::AdoptionReport;
use crate::reasons::{Reason, StackEvent};

/// The line of the status.
pub(super) fn line(report: &AdoptionReport) -> AdoptionStatus {
    AdoptionStatus {
        step: report.step,
        message: report.message.clone(),
    }
}

/// Whether MetalLB is replaced.
pub(super) fn condition(report: &AdoptionReport) -> NewCondition {
    NewCondition {
        type_: "Adopted",
        status: report.step == AdoptionStep::Adopted && !report.blocked,
        reason: reason(report),
        message: report.message.clone(),
    }
}

/// One word for how it goes.
pub(super) fn reason(report: &AdoptionReport) -> Reason {
    match report.step {
        _ if report.blocked => Reason::AdoptionBlocked,
        AdoptionStep::Adopted => Reason::AsExpected,
        AdoptionStep::Restoring => Reason::Restoring,
        AdoptionStep::PrePull
        | AdoptionStep::Record
        | AdoptionStep::Controller
        | AdoptionStep::Speakers
        | AdoptionStep::HandOver => Reason::Adopting,
    }
}

/// Each step of an adoption, and its end; a blocked adoption is reported by the condition Degraded.
pub(super) fn events(
    before: &LoadBalancerStackStatus,
    after: &LoadBalancerStackStatus,
) -> Option<StackEvent> {
    let step = |status: &LoadBalancerStackStatus| status.adoption.as_ref().map(|adoption| adoption.step);
    let (from, to) = (step(before), step(after));
    if from == to {
        return None;
    }
    let event = |reason, note: String| Some(StackEvent::normal(reason, note));
    match (from, &after.adoption) {
        (Some(AdoptionStep::Restoring), None) => event(Reason::Restored, "MetalLB restored".to_owned()),
        (_, None) => None,
        (_, Some(adoption)) => match adoption.step {
            AdoptionStep::Adopted => event(Reason::Adopted, adoption.message.clone()),
            AdoptionStep::Restoring => event(Reason::Restoring, adoption.message.clone()),
            step => event(
                Reason::Adopting,
                format!("step {}: {}", step.as_str(), adoption.message),
            ),
        },
    }
}
