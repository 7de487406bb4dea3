//! Two sessions under a virtual clock, over a path that loses and delays packets.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_bfd::session::{Output, Resume, Session, SessionConfig};
use lb_bfd::wire::{Diagnostic, Packet, State};
use proptest::prelude::*;

#[allow(clippy::disallowed_methods, reason = "where time begins")]
fn epoch() -> Instant {
    Instant::now()
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const FAST: SessionConfig = SessionConfig {
    transmit_interval: ms(50),
    receive_interval: ms(50),
    echo_interval: ms(50),
    multiplier: 3,
    passive: false,
};

/// An earlier process may have left the session up for this long.
fn within(within: Duration) -> Resume {
    Resume {
        within,
        ..Resume::default()
    }
}

/// Our node is end 0, the router end 1.
struct Path {
    start: Instant,
    now: Instant,
    ends: [Option<Session>; 2],
    in_flight: BTreeMap<(Instant, u64), (usize, Packet)>,
    count: u64,
    /// Lost packets per thousand, by their destination.
    loss: [u64; 2],
    random: u64,
    /// News of each end, with its time.
    news: [Vec<(Duration, Output)>; 2],
    sent: [usize; 2],
}

impl Path {
    fn new(seed: u64, configs: [SessionConfig; 2]) -> Self {
        let now = epoch();
        let session = |end: usize| {
            let discriminator = u32::try_from(end).unwrap() + 1;
            Some(Session::new(now, configs[end], discriminator, Resume::default()))
        };
        Self {
            start: now,
            now,
            ends: [session(0), session(1)],
            in_flight: BTreeMap::new(),
            count: 0,
            loss: [0, 0],
            random: seed.wrapping_add(0x9e37_79b9),
            news: [Vec::new(), Vec::new()],
            sent: [0, 0],
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.random >> 33) % limit
    }

    fn take_outputs(&mut self, end: usize) {
        while let Some(output) = self.ends[end].as_mut().and_then(Session::poll_output) {
            let Output::Send(octets) = output else {
                self.news[end].push((self.now - self.start, output));
                continue;
            };
            self.sent[end] += 1;
            let to = 1 - end;
            if self.below(1000) >= self.loss[to] {
                self.count += 1;
                let delay = Duration::from_micros(50 + self.below(2000));
                let packet = Packet::decode(&octets).unwrap();
                self.in_flight
                    .insert((self.now + delay, self.count), (to, packet));
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.take_outputs(0);
            self.take_outputs(1);
            let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
            let timers = self.ends.iter().flatten().filter_map(Session::poll_timeout);
            let next = timers.chain(arrival).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            // A packet that has arrived is handed in before time is said to have passed.
            while let Some(entry) = self.in_flight.first_entry()
                && entry.key().0 <= self.now
            {
                let (to, packet) = entry.remove();
                if let Some(session) = &mut self.ends[to] {
                    session.handle_packet(self.now, &packet);
                }
                self.take_outputs(to);
            }
            for end in self.ends.iter_mut().flatten() {
                end.handle_timeout(self.now);
            }
        }
        self.now = until;
    }

    fn states(&self) -> [Option<State>; 2] {
        [0, 1].map(|end| self.ends[end].as_ref().map(Session::state))
    }

    /// News of an end other than Up.
    fn bad_news(&self, end: usize) -> Vec<Output> {
        let news = self.news[end].iter().map(|(_, output)| *output);
        news.filter(|output| *output != Output::Up).collect()
    }
}

fn up(seed: u64) -> Path {
    let mut path = Path::new(seed, [FAST, FAST]);
    path.run(ms(5000));
    assert_eq!(path.states(), [Some(State::Up); 2]);
    path.news = Default::default();
    path
}

#[test]
fn session_comes_up_and_sends_at_its_interval() {
    let mut path = up(1);
    path.sent = [0, 0];
    path.run(ms(10_000));
    for sent in path.sent {
        // 50 ms less up to a quarter.
        assert!((200..=267).contains(&sent), "{sent}");
    }
    assert_eq!(path.news, [vec![], vec![]]);
}

#[test]
fn slower_side_decides_the_rate() {
    let slow = SessionConfig {
        receive_interval: ms(500),
        ..FAST
    };
    let mut path = Path::new(2, [FAST, slow]);
    path.run(ms(5000));
    path.sent = [0, 0];
    path.run(ms(10_000));
    assert!((20..=28).contains(&path.sent[0]), "{:?}", path.sent);
    assert!((200..=267).contains(&path.sent[1]), "{:?}", path.sent);
}

#[test]
fn lost_path_is_detected_within_three_intervals() {
    for seed in 0..50 {
        let mut path = up(seed);
        let cut = path.now - path.start;
        path.loss = [1000, 1000];
        path.run(ms(1000));
        for news in &path.news {
            let [(at, Output::Down(Diagnostic::DetectionTimeExpired))] = news[..] else {
                panic!("{news:?}");
            };
            assert!(at - cut <= ms(153), "{:?}", at - cut);
        }
        path.loss = [0, 0];
        path.run(ms(5000));
        assert_eq!(path.states(), [Some(State::Up); 2]);
    }
}

/// Packets that pass in one direction only are no path: the side that hears nothing says so to the other.
#[test]
fn one_way_path_is_down_on_both_sides() {
    for seed in 0..50 {
        let mut path = up(seed);
        path.loss = [1000, 0];
        path.run(ms(1000));
        assert_eq!(path.bad_news(0), [Output::Down(Diagnostic::DetectionTimeExpired)]);
        assert_eq!(path.bad_news(1), [Output::Down(Diagnostic::NeighborDown)]);
        path.run(ms(10_000));
        assert!(path.states().iter().all(|state| *state != Some(State::Up)));
    }
}

/// The router never sees the session down, although nobody was there for two seconds.
#[test]
fn restart_after_slowing_down_is_not_noticed() {
    for seed in 0..200 {
        let mut path = up(seed);
        let budget = ms(10_000);
        assert!(path.ends[0].as_mut().unwrap().slow_down(path.now, budget));
        path.run(ms(100));
        assert_eq!(path.bad_news(0), [Output::SlowedDown], "seed {seed}");
        path.ends[0] = None;
        path.run(ms(2000));
        path.news = Default::default();
        path.ends[0] = Some(Session::new(path.now, FAST, 1, within(budget)));
        path.run(ms(20_000));
        assert_eq!(path.bad_news(1), [], "seed {seed}");
        assert_eq!(path.states(), [Some(State::Up); 2]);
        // At the old rate again.
        path.sent = [0, 0];
        path.run(ms(10_000));
        assert!(path.sent[0] >= 200, "{:?}", path.sent);
    }
}

/// Without a router that has the session up, a resumed session is an ordinary one: it is never up by itself.
#[test]
fn resumption_needs_a_router_that_is_up() {
    let mut path = Path::new(3, [FAST, FAST]);
    path.ends[1] = None;
    path.ends[0] = Some(Session::new(path.now, FAST, 1, within(ms(10_000))));
    path.run(ms(9_999));
    assert_eq!(path.sent[0], 0);
    path.run(ms(5000));
    assert!(path.sent[0] > 0);
    assert_eq!(path.states()[0], Some(State::Down));
    path.ends[1] = Some(Session::new(path.now, FAST, 2, Resume::default()));
    path.run(ms(5000));
    assert_eq!(path.states(), [Some(State::Up); 2]);
}

#[test]
fn resumption_ignores_another_session() {
    let now = epoch();
    let mut session = Session::new(now, FAST, 7, within(ms(10_000)));
    let mut packet = Packet {
        diagnostic: Diagnostic::None,
        state: State::Up,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 8,
        desired_min_tx: 50_000,
        required_min_rx: 50_000,
        required_min_echo_rx: 0,
    };
    session.handle_packet(now, &packet);
    assert_eq!((session.state(), session.poll_output()), (State::Down, None));
    packet.your_discriminator = 7;
    session.handle_packet(now, &packet);
    assert_eq!(
        (session.state(), session.poll_output()),
        (State::Up, Some(Output::Up))
    );
}

#[test]
fn administrator_of_the_router_is_no_failure() {
    let mut path = up(4);
    let down = Packet {
        diagnostic: Diagnostic::AdminDown,
        state: State::AdminDown,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 2,
        your_discriminator: 1,
        desired_min_tx: 1_000_000,
        required_min_rx: 50_000,
        required_min_echo_rx: 0,
    };
    path.ends[1] = None;
    path.ends[0].as_mut().unwrap().handle_packet(path.now, &down);
    path.run(ms(10));
    assert_eq!(path.bad_news(0), [Output::RemoteAdminDown]);
}

#[test]
fn settings_change_without_interruption() {
    for (interval, seed) in [(10, 1), (20, 2), (300, 3), (1000, 4)] {
        let mut path = up(seed);
        let config = SessionConfig {
            transmit_interval: ms(interval),
            receive_interval: ms(interval),
            ..FAST
        };
        for end in [0, 1] {
            path.ends[end].as_mut().unwrap().set_config(path.now, config);
            path.run(ms(3000));
        }
        assert_eq!(path.news, [vec![], vec![]], "{interval} ms");
        path.loss = [1000, 1000];
        let cut = path.now - path.start;
        path.run(ms(interval * 4));
        let (at, _) = path.news[0][0];
        assert!(at - cut <= ms(interval * 3 + 3), "{interval} ms: {:?}", at - cut);
    }
}

#[test]
fn passive_session_waits_for_the_router() {
    let passive = SessionConfig {
        passive: true,
        ..FAST
    };
    let mut path = Path::new(5, [passive, passive]);
    path.run(ms(5000));
    assert_eq!(path.sent, [0, 0]);
    let mut path = Path::new(5, [passive, FAST]);
    path.run(ms(5000));
    assert_eq!(path.states(), [Some(State::Up); 2]);
}

proptest! {
    /// Loss of less than one packet in ten does not end a session of multiplier 5, and it always comes up again.
    #[test]
    fn lost_packets_do_not_end_a_session(seed in any::<u64>(), loss in 0..60_u64) {
        let config = SessionConfig { multiplier: 5, ..FAST };
        let mut path = Path::new(seed, [config, config]);
        path.loss = [loss, loss];
        path.run(ms(30_000));
        prop_assert_eq!(path.states(), [Some(State::Up); 2]);
    }

    /// Whatever a router sends, the session answers with at most one packet per packet, and never panics.
    #[test]
    fn any_packets_are_answered_within_bounds(
        packets in proptest::collection::vec((0..500_u64, proptest::collection::vec(any::<u8>(), 24..=24)), 0..60),
    ) {
        let mut now = epoch();
        let mut session = Session::new(now, FAST, 1, Resume::default());
        for (after, mut octets) in packets {
            now += ms(after);
            (octets[0], octets[3]) = (0x20 | octets[0] & 0x1f, 24);
            let yours = [0, 0, 0, octets[8] & 1];
            octets[8..12].copy_from_slice(&yours);
            session.handle_timeout(now);
            while session.poll_output().is_some() {}
            if let Ok(packet) = Packet::decode(&octets) {
                session.handle_packet(now, &packet);
                let sent = std::iter::from_fn(|| session.poll_output());
                prop_assert!(sent.filter(|output| matches!(output, Output::Send(_))).count() <= 1);
            }
        }
    }
}
