//! One session (RFC 5880 section 6.8): whether packets pass between this node and a router in both directions.
//!
//! ```text
//!            packet: Down              packet: Init, Up
//!   Down ───────────────────► Init ────────────────────► Up
//!    │ ◄── detection time ─────┘                          │
//!    │ ────────────── packet: Init ─────────────────────► │
//!    │ ◄─── detection time; packet: Down, AdminDown ───── │
//! ```
//!
//! [`Session`] is a sans-I/O state machine: inputs and the time are arguments. After each input take the outputs with
//! [`poll_output`](Session::poll_output), and call [`handle_timeout`](Session::handle_timeout) at
//! [`poll_timeout`](Session::poll_timeout). Hand in every packet that has arrived before a timeout.
//!
//! **Restart of this program**: before it ends, [`slow_down`](Session::slow_down) tells the router to expect a packet
//! only after several seconds. The next process has the same discriminator; a packet of the router that shows the session
//! as Up is then proof that both directions work, and the session goes on as if nothing had happened.
//!
//! **Flapping**: a session that goes down soon after it came up stays down for a second, then for 2, 4, … 30 s, so a
//! router or a path that flaps causes few changes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wire::{Diagnostic, PACKET_LEN, Packet, State};

/// The shortest transmit interval while a session is not up (RFC 5880 section 6.8.3).
const SLOW_INTERVAL: Duration = Duration::from_secs(1);

/// One lost packet ends no session, whatever the router wants.
const MIN_MULTIPLIER: u8 = 2;
/// How many packets say that a session is switched off.
const LAST_PACKETS: usize = 3;
/// A session that was up for this long does not flap.
const STABLE_TIME: Duration = Duration::from_secs(10);
/// How long a session that flaps stays down.
const MAX_HOLD_DOWN: Duration = Duration::from_secs(30);

/// Settings of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionConfig {
    /// The interval at which to send while the session is up.
    pub transmit_interval: Duration,
    /// The shortest interval at which packets are to arrive.
    pub receive_interval: Duration,
    /// The same for echo packets, which the kernel returns.
    pub echo_interval: Duration,
    /// Missing packets after which the router declares the session down; not 0.
    pub multiplier: u8,
    /// Whether to wait for the router's first packet.
    pub passive: bool,
}

/// An action for the driver, or news.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Output {
    /// Send a packet.
    Send([u8; PACKET_LEN]),
    /// Packets pass in both directions.
    Up,
    /// They do not any longer.
    Down(Diagnostic),
    /// The router's administrator has switched the session off: nothing is known about the path.
    RemoteAdminDown,
    /// The router has confirmed the interval of [`Session::slow_down`].
    SlowedDown,
}

/// A session that an earlier process may have left.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// How long its session may still be up at the router; zero if there was none.
    pub within: Duration,
    /// Other discriminators that it may have had, for example those of previous keys.
    pub discriminators: Vec<u32>,
}

/// The state machine of one session.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    /// The transmit interval that the router knows of.
    desired_min_tx: Duration,
    /// The transmit interval in use; longer than the one above only until the router has confirmed it.
    confirmed_tx: Duration,
    /// The receive interval in use; longer than the setting only until the router has confirmed that.
    confirmed_rx: Duration,
    /// A poll sequence is under way.
    polling: bool,
    /// The values changed during a poll sequence: another one has to follow (RFC 5880 section 6.5).
    poll_again: bool,
    slowing_down: bool,
    /// Until this time a packet in state Up resumes the session of an earlier process, and nothing is sent.
    resume_until: Option<Instant>,
    resume: Resume,
    /// The detection time was extended, because this process was late.
    extended: bool,
    up_since: Option<Instant>,
    /// How often the session went down soon after it had come up.
    flaps: u32,
    /// The session does not come up before.
    held_down_until: Option<Instant>,
    send_at: Option<Instant>,
    detect_at: Option<Instant>,
    random: u64,
    outputs: VecDeque<Output>,
}

/// The last packet of the router.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    state: State,
    demand: bool,
    multiplier: u8,
    desired_min_tx: Duration,
    required_min_rx: Duration,
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            discriminator: 0,
            state: State::Down,
            demand: false,
            multiplier: 1,
            desired_min_tx: Duration::ZERO,
            // RFC 5880 section 6.8.1: one microsecond, so that it limits nothing.
            required_min_rx: Duration::from_micros(1),
        }
    }
}

impl Session {
    /// Creates a session. `discriminator` identifies it on this node, is not 0, and is the same after a restart.
    #[must_use]
    pub fn new(now: Instant, config: SessionConfig, discriminator: u32, resume: Resume) -> Self {
        let slow = config.transmit_interval.max(SLOW_INTERVAL);
        let resume_until = (!resume.within.is_zero()).then(|| now + resume.within);
        Self {
            config,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: Remote::default(),
            desired_min_tx: slow,
            confirmed_tx: slow,
            confirmed_rx: config.receive_interval,
            polling: false,
            poll_again: false,
            slowing_down: false,
            resume_until,
            resume,
            extended: false,
            up_since: None,
            flaps: 0,
            held_down_until: None,
            send_at: (!config.passive && resume_until.is_none()).then_some(now),
            detect_at: None,
            random: discriminator.into(),
            outputs: VecDeque::new(),
        }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The discriminators that packets for this session may have, besides 0.
    pub fn discriminators(&self) -> impl Iterator<Item = u32> {
        let earlier = self
            .resume_until
            .map(|_| self.resume.discriminators.iter().copied());
        std::iter::once(self.discriminator).chain(earlier.into_iter().flatten())
    }

    /// Changes the settings without interrupting the session (RFC 5880 section 6.8.3).
    pub fn set_config(&mut self, now: Instant, config: SessionConfig) {
        self.config = config;
        if self.slowing_down {
            return;
        }
        if self.state == State::Up {
            self.confirmed_rx = self.confirmed_rx.max(config.receive_interval);
            self.change_interval(now, config.transmit_interval);
            self.poll(now);
        } else {
            self.slow_again();
        }
    }

    /// Takes in a packet for this session.
    pub fn handle_packet(&mut self, now: Instant, packet: &Packet) {
        let is_ours = packet.your_discriminator == 0
            || self.discriminators().any(|own| own == packet.your_discriminator);
        if !is_ours || self.state == State::AdminDown {
            return;
        }
        let micros = |value: u32| Duration::from_micros(value.into());
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            demand: packet.demand,
            multiplier: packet.multiplier,
            desired_min_tx: micros(packet.desired_min_tx),
            required_min_rx: micros(packet.required_min_rx),
        };
        if packet.is_final && self.polling {
            self.handle_final(now);
        }
        self.advance(now, packet);
        self.detect_at = Some(now + self.detection_time());
        self.extended = false;
        if packet.poll {
            self.send(now, true);
        }
        // A first packet, or a shorter interval of the router.
        let next = now + self.transmit_interval();
        let is_waiting = self.send_at.is_some_and(|at| at <= next) || self.resume_until.is_some();
        if !is_waiting && self.sends_periodically() {
            self.send_at = Some(next);
        }
    }

    /// Handles expired timers after a time in which this process did not run, for example because its machine was stopped:
    /// packets that arrived meanwhile may be lost, so the router gets this much more time, once per packet.
    pub fn handle_late_timeout(&mut self, now: Instant, late: Duration) {
        if let Some(at) = &mut self.detect_at
            && *at <= now
            && !std::mem::replace(&mut self.extended, true)
        {
            *at = now + late;
        }
        self.handle_timeout(now);
    }

    /// Handles expired timers.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.resume_until.is_some_and(|until| until <= now) {
            self.resume_until = None;
            self.send_at = (!self.config.passive).then_some(now);
        }
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detect_at = None;
            // A silent router has to start again (RFC 5880 section 6.8.1).
            self.remote = Remote::default();
            match self.state {
                State::Init | State::Up => self.leave(now, Diagnostic::DetectionTimeExpired),
                State::Down | State::AdminDown => {}
            }
            if self.config.passive {
                self.send_at = None;
            }
        }
        if self.send_at.is_some_and(|at| at <= now) {
            self.send(now, false);
        }
    }

    /// Whether the router is declared unreachable by [`handle_timeout`](Self::handle_timeout) at this time.
    #[must_use]
    pub fn is_silent(&self, now: Instant) -> bool {
        self.detect_at.is_some_and(|at| at <= now)
    }

    /// When the next timer expires.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.send_at, self.detect_at, self.resume_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next action.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Switches the session off, and tells the router so: it stops watching, and does not report a failure.
    pub fn switch_off(&mut self, now: Instant) {
        (self.state, self.diagnostic) = (State::AdminDown, Diagnostic::AdminDown);
        self.slow_again();
        // Nothing repeats it later.
        for _ in 0..LAST_PACKETS {
            self.send(now, false);
        }
        (self.send_at, self.detect_at, self.resume_until) = (None, None, None);
    }

    /// Tells the router to wait `budget` for our next packet, before this process ends. [`Output::SlowedDown`] reports
    /// its confirmation. Returns whether there is anything to wait for.
    pub fn slow_down(&mut self, now: Instant, budget: Duration) -> bool {
        if self.state != State::Up {
            return false;
        }
        self.slowing_down = true;
        self.change_interval(now, budget / u32::from(self.config.multiplier.max(1)));
        self.poll(now);
        true
    }

    /// The state machine of RFC 5880 section 6.8.6.
    fn advance(&mut self, now: Instant, packet: &Packet) {
        if self.resume_until.is_some() {
            let resumes = packet.state == State::Up;
            if packet.your_discriminator != 0 {
                self.discriminator = packet.your_discriminator;
            }
            self.resume_until = None;
            if resumes {
                self.enter_up(now);
                // The router knows the interval of the earlier process until it has confirmed ours.
                self.confirmed_rx = self.confirmed_rx.max(self.resume.within);
                return;
            }
        }
        let is_held_down = self.held_down_until.is_some_and(|until| now < until);
        match (self.state, packet.state) {
            (State::Down, State::Down | State::Init) if is_held_down => {}
            (State::Down, State::Down) => {
                self.state = State::Init;
                self.diagnostic = Diagnostic::None;
                self.send_at = Some(now);
            }
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => self.enter_up(now),
            (State::Up, State::Down) => self.leave(now, Diagnostic::NeighborDown),
            (State::Init | State::Up, State::AdminDown) => {
                if self.state == State::Up {
                    self.outputs.push_back(Output::RemoteAdminDown);
                }
                self.go_down(now, Diagnostic::NeighborDown);
            }
            (State::Down, State::Up | State::AdminDown)
            | (State::Init, State::Down)
            | (State::Up, State::Init | State::Up)
            | (State::AdminDown, _) => {}
        }
    }

    fn enter_up(&mut self, now: Instant) {
        (self.state, self.diagnostic) = (State::Up, Diagnostic::None);
        self.up_since = Some(now);
        self.outputs.push_back(Output::Up);
        self.change_interval(now, self.config.transmit_interval);
        self.poll(now);
    }

    fn leave(&mut self, now: Instant, diagnostic: Diagnostic) {
        if self.state == State::Up {
            self.outputs.push_back(Output::Down(diagnostic));
        }
        self.go_down(now, diagnostic);
    }

    fn go_down(&mut self, now: Instant, diagnostic: Diagnostic) {
        (self.state, self.diagnostic) = (State::Down, diagnostic);
        self.slow_again();
        self.send_at = Some(now);
        let Some(up_since) = self.up_since.take() else {
            return;
        };
        if up_since + STABLE_TIME <= now {
            (self.flaps, self.held_down_until) = (0, None);
        } else {
            let hold_down = Duration::from_secs(1 << self.flaps.min(5)).min(MAX_HOLD_DOWN);
            (self.flaps, self.held_down_until) = (self.flaps + 1, Some(now + hold_down));
        }
    }

    fn slow_again(&mut self) {
        let slow = self.config.transmit_interval.max(SLOW_INTERVAL);
        (self.desired_min_tx, self.confirmed_tx) = (slow, slow);
        self.confirmed_rx = self.config.receive_interval;
        (self.polling, self.poll_again, self.slowing_down) = (false, false, false);
    }

    /// Changes the transmit interval: a shorter one at once, a longer one when the router has confirmed it.
    fn change_interval(&mut self, now: Instant, interval: Duration) {
        self.desired_min_tx = interval;
        if interval < self.confirmed_tx {
            self.confirmed_tx = interval;
            self.send_at = Some(now);
        }
    }

    fn poll(&mut self, now: Instant) {
        self.poll_again = std::mem::replace(&mut self.polling, true);
        self.send_at = Some(now);
    }

    /// The router has confirmed our values.
    fn handle_final(&mut self, now: Instant) {
        if std::mem::take(&mut self.poll_again) {
            self.send_at = Some(now);
            return;
        }
        self.polling = false;
        (self.confirmed_tx, self.confirmed_rx) = (self.desired_min_tx, self.config.receive_interval);
        if self.slowing_down {
            self.outputs.push_back(Output::SlowedDown);
        }
    }

    /// The time without a packet after which the session is down (RFC 5880 section 6.8.4).
    fn detection_time(&self) -> Duration {
        let interval = self.confirmed_rx.max(self.remote.desired_min_tx);
        interval * u32::from(self.remote.multiplier.max(MIN_MULTIPLIER))
    }

    /// The time until the next packet, without jitter (RFC 5880 section 6.8.2).
    fn transmit_interval(&self) -> Duration {
        self.confirmed_tx.max(self.remote.required_min_rx)
    }

    fn send(&mut self, now: Instant, is_final: bool) {
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            // A packet is either one or the other (RFC 5880 section 6.5).
            poll: self.polling && !is_final,
            is_final,
            demand: false,
            multiplier: self.config.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: micros(self.desired_min_tx),
            required_min_rx: micros(self.config.receive_interval),
            required_min_echo_rx: micros(self.config.echo_interval),
        };
        self.outputs.push_back(Output::Send(packet.encode()));
        if is_final {
            return;
        }
        let interval = self.transmit_interval();
        self.send_at = (self.sends_periodically() || self.polling).then(|| now + self.jittered(interval));
    }

    /// No periodic packets go to a router that wants none (RFC 5880 section 6.8.7).
    fn sends_periodically(&self) -> bool {
        let in_demand_mode = self.remote.demand && self.state == State::Up && self.remote.state == State::Up;
        !self.remote.required_min_rx.is_zero() && !in_demand_mode
    }

    /// 75 to 100 % of the interval; at most 90 % where one missing packet ends the session (RFC 5880 section 6.8.7).
    fn jittered(&mut self, interval: Duration) -> Duration {
        // A linear congruential generator (Knuth, MMIX).
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let range = if self.config.multiplier == 1 { 150 } else { 250 };
        let thousandths = u32::try_from((self.random >> 33) % (range + 1)).unwrap_or_default();
        interval * (750 + thousandths) / 1000
    }
}
