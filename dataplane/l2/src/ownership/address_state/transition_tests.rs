//! Every state of an address with every input, and the state in which the address rests afterwards.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Candidates, ConflictPolicy, PartitionPolicy};
use crate::MacAddr;
use crate::ownership::announced_set::AnnouncedSet;
use crate::ownership::failure_detector::FailureDetectorConfig;
use crate::ownership::{ApiState, Coordinator, CoordinatorConfig, NodeInfo, Output};
use crate::wire::heartbeat::{Datagram, Entry, EntryState, Heartbeat, Message, SpeakerState};

const STEP: Duration = Duration::from_millis(20);
const FOREIGN_HOST: MacAddr = MacAddr([2, 0xbb, 0, 0, 0, 1]);
const GRACE: Duration = Duration::from_secs(60);

/// Our entry for the address, which is the state that the peers know.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum State {
    /// No entry: another node owns it, or none may.
    Other,
    Owner,
    Offering,
    Leaving,
    Contesting,
    Declining,
    Withholding,
    Proxy,
}

const STATES: [State; 8] = [
    State::Other,
    State::Owner,
    State::Offering,
    State::Leaving,
    State::Contesting,
    State::Declining,
    State::Withholding,
    State::Proxy,
];

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Input {
    Nothing,
    PeerAnnounces,
    PeerWithdraws,
    PeerFails,
    PeerDrains,
    PeerRestarts,
    ForeignHost,
    NoInterface,
    Interface,
    NoCandidates,
    Excluded,
    AllCandidates,
    Drain,
    PreferPeer,
    PreferUs,
}

const INPUTS: [Input; 15] = [
    Input::Nothing,
    Input::PeerAnnounces,
    Input::PeerWithdraws,
    Input::PeerFails,
    Input::PeerDrains,
    Input::PeerRestarts,
    Input::ForeignHost,
    Input::NoInterface,
    Input::Interface,
    Input::NoCandidates,
    Input::Excluded,
    Input::AllCandidates,
    Input::Drain,
    Input::PreferPeer,
    Input::PreferUs,
];

struct Peer {
    name: &'static str,
    state: SpeakerState,
    announced: AnnouncedSet,
    is_silent: bool,
}

/// Our speaker `n1`, with the peers `n2` and `n3`.
struct Setup {
    speaker: Coordinator,
    now: Instant,
    peers: [Peer; 2],
    sequence: u64,
    has_foreign_host: bool,
    announces: bool,
}

fn address() -> IpAddr {
    [192, 0, 2, 1].into()
}

impl Setup {
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn new() -> Self {
        let now = Instant::now();
        let config = CoordinatorConfig {
            node: "n1".to_owned(),
            version: String::new(),
            failure_detector: FailureDetectorConfig::default(),
            partition_policy: PartitionPolicy::Availability,
            failback: false,
            conflict_policy: ConflictPolicy::Warn,
        };
        let mut speaker = Coordinator::new(now, 1, config);
        let node = |name| NodeInfo {
            name,
            api: ApiState::Ready,
            on_link: true,
        };
        speaker.set_nodes(now, ["n2", "n3"].map(node));
        speaker.start(now);
        let peer = |name| Peer {
            name,
            state: SpeakerState::Up,
            announced: AnnouncedSet::default(),
            is_silent: false,
        };
        let mut setup = Self {
            speaker,
            now,
            peers: ["n2", "n3"].map(peer),
            sequence: 0,
            has_foreign_host: false,
            announces: false,
        };
        // The peers remember nothing of ours.
        setup.run(1_200);
        assert!(setup.speaker.is_running());
        setup
    }

    fn set_candidates(&mut self, order: &[&str]) {
        let candidates = Candidates {
            order,
            voters: &[],
            no_interface: false,
            preferred: None,
        };
        self.speaker.set_candidates(address(), Some(candidates));
    }

    /// Advances the clock by so many milliseconds, with heartbeats of the peers.
    fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while self.now < end {
            self.now += STEP;
            for peer in self.peers.iter().filter(|peer| !peer.is_silent) {
                let known_digest = self.speaker.ctx.announced.digest();
                let heartbeat = Heartbeat {
                    state: peer.state,
                    reply_requested: false,
                    hears_receiver: true,
                    was_cut_off: false,
                    interval: STEP,
                    version: String::new(),
                    api_version: 0,
                    announced_digest: peer.announced.digest(),
                    known_digest,
                    macs: Vec::new(),
                };
                let parts = peer.announced.parts().into_iter().map(Message::Announced);
                for message in [Message::Heartbeat(heartbeat)].into_iter().chain(parts) {
                    self.sequence += 1;
                    let datagram = Datagram {
                        node: peer.name.to_owned(),
                        incarnation: 1,
                        sequence: self.sequence,
                        echo: self.speaker.incarnation(),
                        message,
                    };
                    self.speaker.handle_datagram(self.now, datagram).unwrap();
                }
            }
            if self.has_foreign_host {
                self.speaker.handle_reply(self.now, address(), FOREIGN_HOST);
            }
            // A decision may start a probe, which is sent in a second round.
            for _ in 0..2 {
                self.handle_timeout();
            }
            let due = self.speaker.poll_timeout().unwrap();
            assert!(due > self.now || !self.speaker.is_running(), "busy at rest");
        }
    }

    fn handle_timeout(&mut self) {
        self.speaker.handle_timeout(self.now, usize::MAX);
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Announce { .. } => {
                    assert!(!std::mem::replace(&mut self.announces, true), "announced twice");
                }
                Output::Withdraw { .. } => {
                    assert!(std::mem::take(&mut self.announces), "withdrawn twice");
                }
                _ => {}
            }
        }
        assert_eq!(self.announces, self.speaker.announces(address()));
    }

    fn state(&self) -> State {
        match self.speaker.ctx.announced.state(address()) {
            None => State::Other,
            Some(EntryState::Announced) => State::Owner,
            Some(EntryState::Offered { .. }) => State::Offering,
            Some(EntryState::Leaving) => State::Leaving,
            Some(EntryState::Contested { .. }) => State::Contesting,
            Some(EntryState::Declined) => State::Declining,
            Some(EntryState::Withheld) => State::Withholding,
            Some(EntryState::Proxied { .. }) => State::Proxy,
        }
    }

    fn peer_announces(&mut self, peer: usize) {
        self.peers[peer].announced.insert(Entry::announced(address()));
    }

    fn in_state(state: State) -> Self {
        let mut setup = Self::new();
        setup.has_foreign_host = state == State::Withholding;
        if matches!(state, State::Other | State::Proxy) {
            setup.peer_announces(0);
            setup.run(200);
        }
        setup.set_candidates(match state {
            State::Contesting => &["n1", "n2"],
            _ => &["n1", "n2", "n3"],
        });
        setup.run(1_500);
        match state {
            State::Other | State::Owner | State::Withholding => {}
            State::Offering => {
                setup.speaker.set_preferred(address(), Some("n2"));
                setup.run(5_200);
            }
            State::Leaving => {
                setup.set_candidates(&["n2", "n3"]);
                setup.run(100);
            }
            State::Contesting => {
                setup.peer_announces(1);
                setup.run(100);
            }
            State::Declining => {
                setup.speaker.set_no_interface(address(), true);
                setup.run(100);
            }
            State::Proxy => {
                setup.peers[0].state = SpeakerState::Restarting { grace: GRACE };
                setup.run(100);
            }
        }
        assert_eq!(setup.state(), state);
        setup
    }

    fn input(&mut self, input: Input) {
        let peer = &mut self.peers[0];
        match input {
            Input::Nothing => {}
            Input::PeerAnnounces => self.peer_announces(0),
            Input::PeerWithdraws => peer.announced = AnnouncedSet::default(),
            Input::PeerFails => peer.is_silent = true,
            Input::PeerDrains => peer.state = SpeakerState::Draining,
            Input::PeerRestarts => peer.state = SpeakerState::Restarting { grace: GRACE },
            Input::ForeignHost => self.has_foreign_host = true,
            Input::NoInterface => self.speaker.set_no_interface(address(), true),
            Input::Interface => self.speaker.set_no_interface(address(), false),
            Input::NoCandidates => self.speaker.set_candidates(address(), None),
            Input::Excluded => self.set_candidates(&["n2", "n3"]),
            Input::AllCandidates => self.set_candidates(&["n1", "n2", "n3"]),
            Input::Drain => self.speaker.set_draining(true),
            Input::PreferPeer => self.speaker.set_preferred(address(), Some("n2")),
            Input::PreferUs => self.speaker.set_preferred(address(), Some("n1")),
        }
    }
}

#[test]
fn every_state_handles_every_input() {
    let mut table = BTreeMap::new();
    for state in STATES {
        for input in INPUTS {
            let mut setup = Setup::in_state(state);
            setup.input(input);
            setup.run(12_000);
            table.insert((input, state), setup.state());
        }
    }
    let mut text = String::new();
    for input in INPUTS {
        let row = STATES.map(|state| format!("{:?}", table[&(input, state)]));
        text += &format!("{input:?}: {}\n", row.join(", "));
    }
    assert_eq!(text, TABLE, "\n{text}");
}

/// For each input, the states that follow from [`STATES`], twelve seconds later. The peers take no address that they do
/// not announce already, so an owner that drains keeps it.
const TABLE: &str = "\
Nothing: Other, Owner, Offering, Other, Contesting, Declining, Withholding, Proxy
PeerAnnounces: Other, Owner, Other, Other, Contesting, Declining, Other, Proxy
PeerWithdraws: Owner, Owner, Offering, Other, Contesting, Declining, Withholding, Owner
PeerFails: Owner, Owner, Owner, Other, Contesting, Declining, Withholding, Proxy
PeerDrains: Owner, Owner, Owner, Other, Contesting, Declining, Withholding, Owner
PeerRestarts: Proxy, Owner, Owner, Other, Contesting, Declining, Withholding, Proxy
ForeignHost: Other, Owner, Offering, Other, Contesting, Declining, Withholding, Proxy
NoInterface: Declining, Declining, Declining, Declining, Declining, Declining, Declining, Declining
Interface: Other, Owner, Offering, Other, Contesting, Owner, Withholding, Proxy
NoCandidates: Other, Other, Other, Other, Other, Other, Other, Other
Excluded: Other, Other, Other, Other, Other, Other, Other, Other
AllCandidates: Other, Owner, Owner, Owner, Owner, Owner, Withholding, Proxy
Drain: Other, Owner, Owner, Other, Contesting, Declining, Other, Other
PreferPeer: Other, Owner, Offering, Other, Contesting, Declining, Other, Proxy
PreferUs: Other, Owner, Owner, Other, Contesting, Declining, Withholding, Proxy
";
