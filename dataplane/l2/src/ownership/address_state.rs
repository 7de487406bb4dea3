//! One address: what is to be done about it, and doing it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backup::Deputy;
use super::handover::Placing;
use super::probe::{Foreign, Found, PEER_PAUSE, STRANGER_PAUSE};
use super::{
    AcquireReason, ConflictPolicy, Coordinator, HAND_OVER, ME, Output, PartitionPolicy, ReleaseReason,
};
use crate::ownership::decision::{Action, Offer, OwnershipInput, keeps};
use crate::ownership::failure_detector::{NodeId, View};
use crate::wire::heartbeat::{Entry, EntryState};

/// Who may answer for an address.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// The nodes that may, in the order of [`crate::ownership::election::order`]: all, or the first dozens, and we ourselves if we may.
    pub order: &'a [&'a str],
    /// Whether we could not, because we have no interface for it.
    pub declined: bool,
    /// Who is to have it for the sake of balance ([`crate::ownership::placement`]); none leaves it to the order.
    pub preferred: Option<&'a str>,
}

/// What is known of an address. There may be tens of thousands: what few of them have is in a box.
#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) order: Box<[NodeId]>,
    pub(super) declined: bool,
    /// Who is to have it, and what has come of it. There is none where the order alone decides.
    pub(super) placing: Option<Box<Placing>>,
    /// The peers that we need to hear on its account.
    pub(super) council: Box<[NodeId]>,
    /// It was ours before we started, and is to stay so.
    pub(super) resumes: bool,
    /// Who had it and is down, or let go; and when that was heard last.
    pub(super) predecessor: Option<(Arc<str>, Instant)>,
    /// It is not to be claimed before.
    pub(super) not_before: Option<Instant>,
    /// Since when it waits for another owner.
    pub(super) giving: Option<Instant>,
    /// What is known of hosts that are no nodes and answer for it, if there ever was one.
    pub(super) foreign: Option<Box<Foreign>>,
    /// The peer that answered for it last when we asked, and when.
    pub(super) answered_to_us: Option<(NodeId, Instant)>,
    /// As deputy: whose, when the wire was or is to be asked, and what was found last.
    pub(super) deputy: Option<Deputy>,
    /// The peer in whose place we answer.
    pub(super) stands_in: Option<NodeId>,
    /// What a deputy has told of our answers.
    pub(super) verified: Option<bool>,
}

impl Coordinator {
    /// Does what is to be done about an address.
    pub(super) fn settle(&mut self, address: IpAddr) {
        self.forget_stranger(address);
        self.question(address);
        self.convene(address);
        let Some(seat) = self.seats.get(&address) else {
            return;
        };
        let candidates = self.candidates(address, seat);
        let mut claimants = self.claimants(address);
        let awaited = self.awaited(address, seat, &candidates);
        claimants.extend(awaited.filter(|id| !claimants.contains(id)));
        // A record, or who remembers, may be behind the times: what another has by now is not ours to resume.
        let owner = claimants
            .iter()
            .copied()
            .find(|id| keeps(self.view_with(awaited, *id)));
        let calm_from = self.calm_from().filter(|at| *at > self.now);
        let mut scene = OwnershipInput {
            me: ME,
            draining: self.draining,
            mine: self.claims.has(address) || (seat.resumes && owner.is_none()),
            failback: self.config.failback && calm_from.is_none(),
            candidates: &candidates,
            claimants: &claimants,
            preferred: None,
            offer: Offer::None,
        };
        if seat.placing.is_some() {
            scene.offer = self.concerning(address, seat, &claimants);
            let kept = scene.is_kept(|id| self.view_with(awaited, id));
            scene.preferred = match scene.offer {
                Offer::By(_) => Some(ME),
                Offer::None | Offer::To(_) => self.goes_first(address, kept, &candidates),
            };
        }
        let Some(seat) = self.seats.get(&address) else {
            return;
        };
        let mut step = scene.step(|id| self.view_with(awaited, id));
        let mine = scene.mine;
        let has_quorum = self.has_quorum(seat);
        if !has_quorum {
            if self.claims.has(address) {
                self.give_up(address, ReleaseReason::NoQuorum);
            }
            step = Action::Leave;
        }
        if let Some(seat) = self.seats.get_mut(&address)
            && (owner.is_some() || mine || !has_quorum)
        {
            // Who succeeds to it now, or will once there is a majority, does not succeed to that one.
            seat.predecessor = None;
        }
        if !matches!(step, Action::Claim { ask: true }) {
            self.probes.remove(address);
        }
        match step {
            Action::Own => self.go_on(address),
            Action::Claim { ask } => self.claim(address, ask, &claimants),
            Action::HandOver => {
                self.go_on(address);
                self.give(address, &candidates);
            }
            Action::Yield => {
                let to = owner
                    .and_then(|id| self.peers.get(&id))
                    .map(|told| told.name.clone());
                self.give_up(
                    address,
                    to.map_or(ReleaseReason::NotCandidate, |to| ReleaseReason::Moved { to }),
                );
            }
            Action::Wait | Action::Leave => {}
        }
        self.place(address, step, &candidates);
        let mine = self.claims.has(address);
        if let Some(at) = calm_from.filter(|_| self.config.failback && !mine) {
            self.deadlines.insert((at, address));
        }
        if let Some(seat) = self.seats.get_mut(&address) {
            seat.resumes = false;
            if step != Action::HandOver {
                seat.giving = None;
            }
            if !mine {
                seat.verified = None;
            }
        }
        let owner = owner.filter(|_| step == Action::Leave);
        self.deputize(address, owner, &candidates);
    }

    /// Who had an address has it no more.
    pub(super) fn bereave(&mut self, address: IpAddr, from: Arc<str>, heard: Option<Instant>) {
        if let Some(seat) = self.seats.get_mut(&address) {
            seat.predecessor = heard.map(|heard| (from, heard));
            if self.config.policy == PartitionPolicy::Majority {
                // It withdraws when it has not heard the majority for as long as it waits for each, which is longer for those
                // that were late before. It may have heard later than we did, by the time between two heartbeats, and needs
                // time to act. Who has many peers speaks less often, and is waited for longer: so the slowest of all that we
                // know counts.
                let config = &self.config.failure_detector;
                let slowest = self.failure_detector.slowest();
                let longest = config.silence(slowest) + config.indulgence(slowest);
                let wait = longest + slowest / 2 - config.interval;
                seat.not_before = Some(self.now + wait);
                self.deadlines.insert((self.now + wait, address));
            }
        }
        self.dirty.insert(address);
    }

    /// Answers for the address no more, if we do.
    pub(super) fn give_up(&mut self, address: IpAddr, why: ReleaseReason) {
        if self.claims.has(address) && self.claims.remove(address) {
            self.outputs.push_back(Output::Withdraw { address, why });
        }
        if let Some(seat) = self.seats.get_mut(&address) {
            seat.resumes = false;
            seat.giving = None;
        }
    }

    /// We have no interface for the address, or have one again.
    pub(super) fn decline(&mut self, address: IpAddr, declined: bool) {
        if declined {
            self.give_up(address, ReleaseReason::NoInterface);
            self.claims.insert(Entry {
                address,
                state: EntryState::Declined,
            });
        } else if self.claims.declines(address) {
            self.claims.remove(address);
            // Nobody could be heard meanwhile, so their silence said nothing: the wire is asked before it is taken.
            if let Some(seat) = self.seats.get_mut(&address) {
                seat.predecessor = None;
            }
        }
    }

    /// A peer has asked the wire about addresses of ours.
    pub(super) fn seen_by(&mut self, id: NodeId, answered: &[IpAddr], silent: &[IpAddr]) {
        let Some(by) = self.peers.get(&id).map(|told| told.name.clone()) else {
            return;
        };
        let seen = |answered: bool| move |address: &IpAddr| (*address, answered);
        for (address, answered) in answered
            .iter()
            .map(seen(true))
            .chain(silent.iter().map(seen(false)))
        {
            if !self.claims.has(address) {
                continue;
            }
            if let Some(seat) = self.seats.get_mut(&address)
                && seat.verified.replace(answered) != Some(answered)
            {
                self.outputs.push_back(Output::Verified {
                    address,
                    by: by.clone(),
                    answered,
                });
            }
        }
    }

    /// Asks the wire about a peer: whether its node, and its speaker, are there.
    pub(super) fn ask_about(&mut self, id: NodeId) {
        let Some(told) = self.peers.get(&id) else {
            return;
        };
        if told.on_link {
            self.outputs.push_back(Output::AskNode {
                node: told.name.clone(),
            });
        }
        // Two, should one of them be on an interface that we do not have.
        let mut owned = told.claims.owned();
        for address in [owned.next(), owned.next_back()].into_iter().flatten() {
            self.outputs.push_back(Output::AskAddress { address });
        }
    }

    /// From when on we take an address from a candidate behind us: not while the network, or we, come and go.
    fn calm_from(&self) -> Option<Instant> {
        let pause = Duration::from_secs(1 << self.flaps.saturating_sub(1));
        self.last_flap.map(|last| last + pause)
    }

    /// Answers for an address that is ours, from now on or as before.
    fn go_on(&mut self, address: IpAddr) {
        if !self.claims.has(address) {
            self.claims.insert(Entry::announced(address));
            self.outputs.push_back(Output::Announce {
                address,
                cause: AcquireReason::Resumed,
            });
        }
    }

    fn claim(&mut self, address: IpAddr, ask: bool, claimants: &[NodeId]) {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(&address) else {
            return;
        };
        if let Some(at) = seat.not_before {
            if now < at {
                self.deadlines.insert((at, address));
                return;
            }
            seat.not_before = None;
        }
        // Who had it is down: the wire has been asked about that.
        let cause = match seat.predecessor.take() {
            Some((from, heard)) if ask => AcquireReason::TakeOver { from, heard },
            None if ask => match self.probes.look(now, address) {
                Found::Unknown => return,
                Found::Nobody if self.are_expected(address) => return,
                Found::Nobody => AcquireReason::First,
                Found::Peer => return self.look_again(address, PEER_PAUSE),
                Found::Stranger(_) if self.config.conflicts == ConflictPolicy::Yield => {
                    return self.look_again(address, STRANGER_PAUSE);
                }
                Found::Stranger(_) => AcquireReason::First,
            },
            Some(_) | None => {
                let has = claimants.first().and_then(|id| self.peers.get(id));
                has.map_or(AcquireReason::First, |told| AcquireReason::HandOver {
                    from: told.name.clone(),
                })
            }
        };
        self.probes.remove(address);
        self.claims.insert(Entry::announced(address));
        self.outputs.push_back(Output::Announce { address, cause });
    }

    /// Whether some candidate still has time to be heard: it may have the address, or know who does.
    fn are_expected(&self, address: IpAddr) -> bool {
        let unknown = |id: &NodeId| self.failure_detector.view(*id) == View::Unknown;
        let seat = self.seats.get(&address);
        seat.is_some_and(|seat| seat.order.iter().any(unknown))
    }

    fn look_again(&mut self, address: IpAddr, pause: Duration) {
        self.probes.remove(address);
        let at = self.now + pause;
        if let Some(seat) = self.seats.get_mut(&address) {
            seat.not_before = Some(at);
        }
        self.deadlines.insert((at, address));
    }

    /// We may not keep the address: another has to take it in time, if there is one that can.
    fn give(&mut self, address: IpAddr, candidates: &[NodeId]) {
        if candidates.contains(&ME) {
            return;
        }
        let can_take = |id: &NodeId| matches!(self.view(*id), View::Up | View::Unknown | View::Draining);
        let can_be_taken = candidates.iter().any(can_take);
        let now = self.now;
        let Some(seat) = self.seats.get_mut(&address) else {
            return;
        };
        let until = *seat.giving.get_or_insert(now) + HAND_OVER;
        if can_be_taken && now < until {
            self.deadlines.insert((until, address));
        } else {
            self.give_up(address, ReleaseReason::NotCandidate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Api, Config, Node};
    use super::*;
    use crate::ownership::failure_detector;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn what_another_node_has_by_a_record_is_left_to_it_for_a_while_and_not_for_ever() {
        let start = Instant::now();
        let [ours, other]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let config = Config {
            me: "n1".to_owned(),
            version: String::new(),
            failure_detector: failure_detector::Config::default(),
            policy: PartitionPolicy::Availability,
            failback: false,
            conflicts: ConflictPolicy::Warn,
        };
        let mut speaker = Coordinator::new(start, 1, config);
        let node = Node {
            name: "n2",
            api: Api::Down,
            on_link: true,
        };
        speaker.set_nodes(start, [node]);
        for address in [ours, other] {
            let candidates = Candidates {
                order: &["n1"],
                declined: false,
                preferred: None,
            };
            speaker.set_candidates(address, Some(candidates));
        }
        let until = start + Duration::from_secs(30);
        speaker.leave_to_another(other, until);
        speaker.start(start);
        let mut now = start;
        while !speaker.is_mine(other) {
            now = speaker.poll_timeout().unwrap().max(now);
            speaker.handle_timeout(now, 64);
            while speaker.poll_output().is_some() {}
            assert!(
                now < until + Duration::from_secs(5),
                "who does not come is not waited for"
            );
            assert!(
                now < start + Duration::from_secs(5) || speaker.is_mine(ours),
                "others are not left alone"
            );
        }
        assert!(now >= until);
    }
}
