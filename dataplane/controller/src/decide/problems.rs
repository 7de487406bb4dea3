//! Events about the problems of Services, each published once.

use lb_ipam::Rejection;
use lb_runtime::ObjectKey;

use super::LeaderState;
use crate::allocation_key::AllocationKey;
use crate::condition::{self, Problem, Reported};
use crate::events::ObjectEvent;
use crate::service::CachedService;

impl LeaderState {
    /// Reports a problem of a Service, unless the last one had the same cause.
    pub(super) fn report_problem(
        &mut self,
        key: &ObjectKey,
        service: &CachedService,
        problem: Problem,
        rejection: Rejection,
    ) {
        if self.reported.get(key).is_some_and(|reported| {
            reported.problem == problem && reported.rejection.has_same_cause_as(&rejection)
        }) {
            return;
        }
        let event = match problem {
            Problem::Failed => ObjectEvent::failed(key, service, &rejection),
            Problem::InvalidRequest => ObjectEvent::invalid_request(key, service, &rejection),
            Problem::Incomplete => ObjectEvent::incomplete(key, service, &rejection),
        };
        let reported = Reported { problem, rejection };
        let has = self.allocator.assignment(&AllocationKey::Service(key.clone()));
        let text = condition::address_assigned(has, Some(&reported));
        let is_shown = service.address_assigned.zip(text);
        // A previous leader has published the event.
        if is_shown.is_some_and(|(shown, text)| shown.has_text(&text)) {
            self.events.push(event.log_only());
        } else {
            self.events.push(event);
            self.report_deprecated(key, service);
        }
        self.reported.insert(key.clone(), reported);
    }

    pub(super) fn report_deprecated(&mut self, key: &ObjectKey, service: &CachedService) {
        if !service.deprecated.is_empty() && self.deprecation_reported.insert(key.clone()) {
            let annotations = service.deprecated.iter();
            let events = annotations.map(|annotation| ObjectEvent::deprecated(key, service, annotation));
            self.events.extend(events);
        }
    }

    /// Reports, once, that a Service loses an address.
    pub(super) fn report_cleared(&mut self, key: &ObjectKey, service: &CachedService, rejection: &Rejection) {
        if self.cleared.insert(key.clone()) {
            self.events.push(ObjectEvent::cleared(key, service, rejection));
        }
    }
}
