//! Owners ask the network for their own addresses: a host that has one and never announces it is not noticed otherwise.
//!
//! The question is an ordinary multicast request from this node's own address on the link. It binds no hardware address
//! to the asked address, so it changes no cache about it, and nobody but another holder replies.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::backup::jitter;
use super::{AddressState, Context};
use crate::ownership::output::{Output, QueryTarget};

/// Time between two questions about one address, plus or minus a quarter.
const SELF_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// The interval grows with the number of addresses, because each node receives the questions of all owners: about one a
/// second at most.
const SELF_CHECK_SPACING: Duration = Duration::from_secs(1);
/// How long a frame counts as a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The questions about an address that this node announces.
#[derive(Clone, Copy, Debug)]
pub(super) struct SelfCheck {
    next: Instant,
    asked_at: Option<Instant>,
}

impl AddressState {
    /// Whether a frame at this time may be the reply to a question.
    pub(super) fn awaits_self_check_reply(&self, now: Instant) -> bool {
        let asked_at = self.self_check.and_then(|check| check.asked_at);
        asked_at.is_some_and(|at| now < at + REPLY_TIMEOUT)
    }

    /// Asks for an address of ours, if it is time.
    pub(super) fn update_self_check(&mut self, address: IpAddr, interval: Duration, ctx: &mut Context) {
        if !ctx.announced.announces(address) {
            self.self_check = None;
            return;
        }
        let asks = self.self_check.is_some_and(|check| check.next <= ctx.now);
        if asks {
            let to = QueryTarget::Everyone;
            ctx.outputs.push_back(Output::QueryAddress { address, to });
        }
        let check = match self.self_check {
            Some(check) if !asks => check,
            _ => SelfCheck {
                next: ctx.now + jitter(interval, address),
                asked_at: asks.then_some(ctx.now),
            },
        };
        self.self_check = Some(check);
        ctx.deadlines.insert((check.next, address));
    }
}

/// The time between two questions about one of so many addresses, before jitter.
pub(in crate::ownership) fn self_check_interval(addresses: usize) -> Duration {
    let count = u32::try_from(addresses).unwrap_or(u32::MAX);
    SELF_CHECK_INTERVAL.max(SELF_CHECK_SPACING.saturating_mul(count))
}
