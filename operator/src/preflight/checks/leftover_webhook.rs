//! Check `LeftoverWebhook`: whether a webhook of a removed MetalLB refuses every change of pools and advertisements.

use crate::adoption::observe::WEBHOOK;
use crate::preflight::{Fact, Finding, unknown};

/// `adopt`: an adoption sets its failurePolicy to Ignore.
pub(in crate::preflight) fn leftover_webhook(adopt: bool, found: &Fact<Option<String>>) -> Finding {
    match found {
        Err(error) => unknown("MetalLB's webhook", error),
        Ok(None) => Finding::passed("no webhook of a removed MetalLB"),
        Ok(Some(service)) if adopt => Finding::passed(format!(
            "the webhook of a removed MetalLB has no backend (Service {service}); the adoption sets its failurePolicy to Ignore"
        )),
        Ok(Some(service)) => Finding::failed(format!(
            "a webhook of a removed MetalLB refuses every change of pools: its Service {service} has no backend; run kubectl \
             delete validatingwebhookconfiguration {WEBHOOK}, or set spec.adopt to true"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_webhook_fails_with_the_command_that_removes_it() {
        let dead = Ok(Some("metallb-system/metallb-webhook-service".to_owned()));
        let Finding::Failed(message) = leftover_webhook(false, &dead) else {
            panic!("it fails");
        };
        assert!(
            message.contains("kubectl delete validatingwebhookconfiguration"),
            "{message}"
        );
        assert!(matches!(leftover_webhook(true, &dead), Finding::Passed(_)));
        assert!(matches!(leftover_webhook(false, &Ok(None)), Finding::Passed(_)));
    }
}
