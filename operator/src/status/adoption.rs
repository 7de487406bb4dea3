//! What the status says of an adoption.

use lb_crds::LoadBalancerStackStatus;
use lb_crds::load_balancer_stack::{AdoptionStatus, AdoptionStep};

use super::{NewCondition, Reason};
use crate::adoption::Report;

/// The line of the status.
pub(super) fn line(report: &Report) -> AdoptionStatus {
    AdoptionStatus {
        step: report.step,
        message: report.message.clone(),
    }
}

/// Whether MetalLB is replaced.
pub(super) fn condition(report: &Report) -> NewCondition {
    NewCondition {
        type_: "Adopted",
        status: report.step == AdoptionStep::Adopted && !report.blocked,
        reason: reason(report),
        message: report.message.clone(),
    }
}

/// One word for how it goes.
pub(super) fn reason(report: &Report) -> Reason {
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

/// Each step of an adoption, and its end; what blocks it is told as what degrades the stack.
pub(super) fn events(
    before: &LoadBalancerStackStatus,
    after: &LoadBalancerStackStatus,
) -> Option<(bool, String, String)> {
    let step = |status: &LoadBalancerStackStatus| status.adoption.as_ref().map(|adoption| adoption.step);
    let (from, to) = (step(before), step(after));
    if from == to {
        return None;
    }
    let tell = |reason: &str, note: String| Some((false, reason.to_owned(), note));
    match (from, &after.adoption) {
        (Some(AdoptionStep::Restoring), None) => tell("Restored", "MetalLB is back as it was".to_owned()),
        (_, None) => None,
        (_, Some(adoption)) => match adoption.step {
            AdoptionStep::Adopted => tell("Adopted", adoption.message.clone()),
            AdoptionStep::Restoring => tell(Reason::Restoring.as_str(), adoption.message.clone()),
            step => tell(
                Reason::Adopting.as_str(),
                format!("step {}: {}", step.as_str(), adoption.message),
            ),
        },
    }
}
