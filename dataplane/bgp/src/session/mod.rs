//! One session with a router (RFC 4271 section 8), which this node always opens.
//!
//! ```text
//! Idle ──start──► Connect ──connected──► OpenSent ──OPEN──► OpenConfirm ──KEEPALIVE──► Established
//!  ▲                ▲ │                      │                   │                         │
//!  └──stop, always  │ └─────failed───────────┴───────────────────┴─────────────────────────┘
//!                   └──retry timer── Active ◄──┘
//! ```
//!
//! [`Session`] is a sans-I/O state machine: inputs and the time are arguments. After each input take the outputs with
//! [`poll_output`](Session::poll_output), and call [`handle_timeout`](Session::handle_timeout) at
//! [`poll_timeout`](Session::poll_timeout). Inputs of a connection that is not the present one are ignored.

mod config;
mod counters;
mod routes;
mod timers;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use ipnet::IpNet;

pub use config::{Negotiated, RemoteAsn, SessionConfig};
pub use counters::{Counters, MessageCounts};
use routes::RouteSender;
pub use routes::{NextHops, RoutePolicy, SkipReason};
use timers::{Backoff, Timer, Timers};

use crate::wire::{Family, MAX_MESSAGE_LEN, Message, Notification, NotificationCode, Open, Received};

/// How long a connection may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the router may take for its OPEN and the KEEPALIVE after it, where no hold time is shorter.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// The shortest send hold time (RFC 9687 section 3.2).
const MIN_SEND_HOLD_TIME: Duration = Duration::from_secs(8 * 60);
/// A session that lasted this long starts over with short pauses.
const STABLE_TIME: Duration = Duration::from_secs(30);
/// Pause after the router has refused more prefixes than it allows.
const MAXIMUM_PREFIXES_PAUSE: Duration = Duration::from_secs(300);
/// Upper bound of the octets that wait for the connection.
const MAX_QUEUED: usize = 256 * 1024;

/// Distinguishes the connections of one session.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(pub u64);

/// The states of RFC 4271 section 8.2.2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Stopped.
    Idle,
    /// Connecting.
    Connect,
    /// Waiting for the next attempt.
    Active,
    /// Waiting for the router's OPEN.
    OpenSent,
    /// Waiting for the router's KEEPALIVE.
    OpenConfirm,
    /// Announcing.
    Established,
}

impl State {
    /// The word in MetalLB's BGPSessionState.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

/// Why a connection could not be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DialError {
    /// The router refuses connections to its port.
    Refused,
    /// No route, or no answer in time.
    Unreachable,
    /// This node does not have the source address.
    NoSource,
    /// Anything else.
    Other,
}

/// Why a session is not established.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DownReason {
    /// It has not been tried yet.
    NotStarted,
    /// There is no connection.
    Dial(DialError),
    /// The router closed the connection.
    Closed,
    /// The router has another AS number than expected.
    WrongAsn(u32),
    /// We ended it.
    Sent(Notification),
    /// The router ended it.
    Received(Notification),
    /// The router accepts no data.
    SendBlocked,
    /// It was stopped.
    Stopped,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => f.write_str("not started"),
            Self::Dial(DialError::Refused) => f.write_str("connection refused"),
            Self::Dial(DialError::Unreachable) => f.write_str("router unreachable"),
            Self::Dial(DialError::NoSource) => f.write_str("this node does not have the source address"),
            Self::Dial(DialError::Other) => f.write_str("connection failed"),
            Self::Closed => f.write_str("router closed the connection"),
            Self::WrongAsn(asn) => write!(f, "router has AS {asn}"),
            Self::Sent(notification) => write!(f, "ended by this node: {notification}"),
            Self::Received(notification) => write!(f, "ended by the router: {notification}"),
            Self::SendBlocked => f.write_str("router accepts no data"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// How a session is stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stop {
    /// With a NOTIFICATION: the router drops the routes.
    Notify(Notification),
    /// The connection is closed without a word: a router that supports graceful restart keeps the routes.
    Silently,
}

/// An action for the driver.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Connect to the router, and report the result.
    Dial(ConnectionId),
    /// Send these octets.
    Send(ConnectionId, Vec<u8>),
    /// Send what is left, and close the connection.
    Close(ConnectionId),
    /// The state changed.
    Changed(State),
    /// These prefixes of a family are not announced to the router, and are withdrawn where it knows them.
    Skipped(Family, SkipReason, Vec<IpNet>),
}

/// The state machine of one session.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    state: State,
    connection: ConnectionId,
    timers: Timers,
    retry: Backoff,
    after_error: Backoff,
    /// Octets that have arrived and are no whole message yet.
    received: Vec<u8>,
    /// Octets that the driver has not sent yet.
    queued: usize,
    negotiated: Option<Negotiated>,
    established_since: Option<Instant>,
    down_reason: DownReason,
    /// After BFD has ended the session: the earliest time of the next attempt, when BFD reports that it may succeed.
    bfd_retry_at: Option<Instant>,
    /// No session has been established since this program started.
    restarted: bool,
    routes: RouteSender,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Session {
    /// Creates a stopped session. `seed` spreads the attempts of several nodes.
    #[must_use]
    pub fn new(config: SessionConfig, seed: u64) -> Self {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let retry = Backoff::new(second, config.connect_time, (75, 100), seed);
        Self {
            config,
            state: State::Idle,
            connection: ConnectionId::default(),
            timers: Timers::new(seed),
            retry,
            // At most one attempt in five seconds, for as long as the error lasts.
            after_error: Backoff::new(5 * second, minute, (100, 125), seed),
            received: Vec::new(),
            queued: 0,
            negotiated: None,
            established_since: None,
            down_reason: DownReason::NotStarted,
            bfd_retry_at: None,
            restarted: true,
            routes: RouteSender::default(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The values that both sides agree on, once the router's OPEN has been accepted.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// Why the session is not established, or was not before.
    #[must_use]
    pub const fn down_reason(&self) -> &DownReason {
        &self.down_reason
    }

    /// The messages since the last call.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    /// Sets the longest pause between two attempts to connect; a pause that has begun is not changed.
    pub fn set_connect_time(&mut self, connect_time: Duration) {
        self.config.connect_time = connect_time;
        self.retry.set_max(connect_time);
    }

    /// Connects, if the session is stopped.
    pub fn start(&mut self, now: Instant) {
        match self.state {
            State::Idle => self.dial(now),
            State::Connect | State::Active | State::OpenSent | State::OpenConfirm | State::Established => {}
        }
    }

    /// Ends the session and does not connect again until [`start`](Self::start).
    pub fn stop(&mut self, how: Stop) {
        match (self.state, how) {
            (State::OpenSent | State::OpenConfirm | State::Established, Stop::Notify(notification)) => {
                self.send(None, &Message::Notification(notification));
                self.close();
            }
            (State::OpenSent | State::OpenConfirm | State::Established, Stop::Silently)
            | (State::Connect, Stop::Notify(_) | Stop::Silently) => self.close(),
            (State::Idle | State::Active, Stop::Notify(_) | Stop::Silently) => {}
        }
        self.timers.clear();
        self.down_reason = DownReason::Stopped;
        self.enter(State::Idle);
    }

    /// The connection was made, or could not be made.
    pub fn handle_dialed(&mut self, now: Instant, connection: ConnectionId, outcome: Result<(), DialError>) {
        if connection != self.connection || self.state != State::Connect {
            return;
        }
        match outcome {
            Ok(()) => {
                self.timers.clear();
                let open = Message::Open(self.config.open(self.restarted));
                self.send(Some(now), &open);
                self.timers.set(Timer::Hold, now + OPEN_TIMEOUT);
                self.enter(State::OpenSent);
            }
            Err(error) => self.retry_later(now, DownReason::Dial(error)),
        }
    }

    /// Octets have arrived.
    pub fn handle_received(&mut self, now: Instant, connection: ConnectionId, octets: &[u8]) {
        if !self.has_connection(connection) {
            return;
        }
        self.received.extend_from_slice(octets);
        let mut used = 0;
        // A message may end the session.
        while self.has_connection(connection) {
            match Received::decode(self.received.get(used..).unwrap_or_default()) {
                Ok(Some((message, len))) => {
                    used += len;
                    self.handle_message(now, message);
                }
                Ok(None) => break,
                Err(notification) => self.refuse(now, notification),
            }
        }
        self.received.drain(..used.min(self.received.len()));
        debug_assert!(
            self.received.len() <= MAX_MESSAGE_LEN,
            "less than one message is left"
        );
    }

    /// The router has closed the connection, or it broke.
    pub fn handle_closed(&mut self, now: Instant, connection: ConnectionId) {
        if self.has_connection(connection) {
            self.retry_later(now, DownReason::Closed);
        }
    }

    /// The connection has taken over this many octets.
    pub fn handle_written(&mut self, now: Instant, connection: ConnectionId, octets: usize) {
        if !self.has_connection(connection) {
            return;
        }
        self.queued = self.queued.saturating_sub(octets);
        self.timers.clear_one(Timer::SendHold);
        if self.queued > 0 {
            self.watch_sending(now);
        }
    }

    /// BFD reports that the router cannot be reached. The next attempt is made when BFD reports the opposite, otherwise
    /// after the connect time: a path on which only BFD fails does not keep the session down.
    pub fn handle_bfd_down(&mut self, now: Instant) {
        match self.state {
            State::OpenSent | State::OpenConfirm | State::Established => {
                let notification = Notification::new(NotificationCode::BfdDown);
                self.send(None, &Message::Notification(notification.clone()));
                let was_stable = self.is_stable(now);
                self.fail(
                    now,
                    DownReason::Sent(notification),
                    Timer::Retry,
                    self.config.connect_time,
                );
                let pause = if was_stable {
                    Duration::ZERO
                } else {
                    self.retry.next()
                };
                self.bfd_retry_at = Some(now + pause);
            }
            State::Idle | State::Connect | State::Active => {}
        }
    }

    /// BFD reports that the router can be reached: a pending attempt is made at once, or after a pause if the last session
    /// was short.
    pub fn handle_bfd_up(&mut self, now: Instant) {
        match self.state {
            State::Active if self.timers.is_set(Timer::Retry) => match self.bfd_retry_at.take() {
                Some(at) if now < at => self.timers.set(Timer::Retry, at),
                Some(_) | None => self.dial(now),
            },
            State::Active
            | State::Idle
            | State::Connect
            | State::OpenSent
            | State::OpenConfirm
            | State::Established => {}
        }
    }

    /// Handles expired timers.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_expired(now) {
            match timer {
                Timer::Retry | Timer::ErrorHold => self.dial(now),
                Timer::Dial => self.retry_later(now, DownReason::Dial(DialError::Unreachable)),
                Timer::Hold => self.refuse(now, Notification::new(NotificationCode::HoldTimerExpired)),
                Timer::SendHold => self.retry_later(now, DownReason::SendBlocked),
                Timer::Keepalive => {
                    self.send(Some(now), &Message::Keepalive);
                    self.schedule_keepalive(now);
                }
            }
        }
    }

    /// When the next timer expires.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.poll_timeout()
    }

    /// The next action.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether the connection is there and waits for nothing.
    fn has_connection(&self, connection: ConnectionId) -> bool {
        connection == self.connection
            && matches!(
                self.state,
                State::OpenSent | State::OpenConfirm | State::Established
            )
    }

    fn handle_message(&mut self, now: Instant, message: Received) {
        self.counters.received.add(&message);
        match (self.state, message) {
            (State::OpenSent, Received::Open(open)) => self.handle_open(now, &open),
            (State::OpenConfirm, Received::Keepalive) => {
                self.established_since = Some(now);
                self.restarted = false;
                self.routes.restart();
                self.hold(now);
                self.enter(State::Established);
            }
            (State::Established, Received::Keepalive | Received::Update) => self.hold(now),
            (State::Established, Received::RouteRefresh(family)) => {
                self.hold(now);
                if let Some(family) = family {
                    self.routes.refresh(family);
                }
            }
            (State::OpenSent | State::OpenConfirm | State::Established, Received::Notification(received)) => {
                self.handle_notification(now, received);
            }
            (State::OpenSent, Received::Keepalive | Received::Update | Received::RouteRefresh(_))
            | (State::OpenConfirm, Received::Open(_) | Received::Update | Received::RouteRefresh(_))
            | (State::Established, Received::Open(_)) => {
                self.refuse(now, Notification::new(NotificationCode::UnexpectedMessage));
            }
            // Without a connection nothing arrives.
            (State::Idle | State::Connect | State::Active, _) => {}
        }
    }

    fn handle_open(&mut self, now: Instant, open: &Open) {
        match self.config.negotiate(open) {
            Ok(negotiated) => {
                self.negotiated = Some(negotiated);
                self.send(Some(now), &Message::Keepalive);
                self.schedule_keepalive(now);
                self.timers.set(Timer::Hold, now + OPEN_TIMEOUT);
                self.enter(State::OpenConfirm);
            }
            Err(notification) => {
                let code = notification.code;
                self.refuse(now, notification);
                if code == NotificationCode::BadPeerAs {
                    self.down_reason = DownReason::WrongAsn(open.asn);
                }
            }
        }
    }

    fn handle_notification(&mut self, now: Instant, received: Notification) {
        let pause = match received.code {
            NotificationCode::MaximumPrefixes => MAXIMUM_PREFIXES_PAUSE,
            _ => self.after_error.next(),
        };
        self.fail(now, DownReason::Received(received), Timer::ErrorHold, pause);
    }

    /// Ends the session because of an error, and waits longer than after a failed connection.
    fn refuse(&mut self, now: Instant, notification: Notification) {
        self.send(None, &Message::Notification(notification.clone()));
        let pause = self.after_error.next();
        self.fail(now, DownReason::Sent(notification), Timer::ErrorHold, pause);
    }

    fn retry_later(&mut self, now: Instant, reason: DownReason) {
        let pause = self.retry.next();
        self.fail(now, reason, Timer::Retry, pause);
    }

    fn fail(&mut self, now: Instant, reason: DownReason, timer: Timer, pause: Duration) {
        if self.is_stable(now) {
            self.retry.reset();
            self.after_error.reset();
        }
        self.close();
        self.timers.clear();
        self.timers.set(timer, now + pause);
        self.down_reason = reason;
        self.enter(State::Active);
    }

    fn is_stable(&self, now: Instant) -> bool {
        self.established_since
            .is_some_and(|since| since + STABLE_TIME <= now)
    }

    fn dial(&mut self, now: Instant) {
        self.connection.0 += 1;
        self.timers.clear();
        self.timers.set(Timer::Dial, now + DIAL_TIMEOUT);
        self.outputs.push_back(Output::Dial(self.connection));
        self.enter(State::Connect);
    }

    fn close(&mut self) {
        self.outputs.push_back(Output::Close(self.connection));
        self.received.clear();
        self.queued = 0;
        self.negotiated = None;
        self.established_since = None;
    }

    fn enter(&mut self, state: State) {
        if std::mem::replace(&mut self.state, state) != state {
            self.outputs.push_back(Output::Changed(state));
        }
    }

    /// Restarts the hold timer (RFC 4271 section 6.5).
    fn hold(&mut self, now: Instant) {
        let hold_time = self
            .negotiated
            .as_ref()
            .map_or(Duration::ZERO, |agreed| agreed.hold_time);
        self.timers.clear_one(Timer::Hold);
        if !hold_time.is_zero() {
            self.timers.set(Timer::Hold, now + hold_time);
        }
    }

    fn schedule_keepalive(&mut self, now: Instant) {
        let agreed = self.negotiated.as_ref();
        let interval = agreed.map_or(Duration::ZERO, |agreed| agreed.keepalive_time);
        if !interval.is_zero() {
            self.timers.set_jittered(Timer::Keepalive, now, interval);
        }
    }

    /// `now` is `None` for the last message of a connection.
    fn send(&mut self, now: Option<Instant>, message: &Message) {
        let mut octets = Vec::new();
        message.encode(&mut octets);
        self.send_octets(now, octets);
    }

    fn send_octets(&mut self, now: Option<Instant>, octets: Vec<u8>) {
        self.queued += octets.len();
        self.counters.sent.add_encoded(&octets);
        self.outputs.push_back(Output::Send(self.connection, octets));
        if let Some(now) = now
            && !self.timers.is_set(Timer::SendHold)
        {
            self.watch_sending(now);
        }
    }

    /// The router must accept data within the send hold time (RFC 9687 section 3).
    fn watch_sending(&mut self, now: Instant) {
        let hold_time = self
            .negotiated
            .as_ref()
            .map_or(Duration::ZERO, |agreed| agreed.hold_time);
        self.timers
            .set(Timer::SendHold, now + MIN_SEND_HOLD_TIME.max(2 * hold_time));
    }

    /// Whether routes of the family are exchanged.
    #[must_use]
    pub fn announces(&self, family: Family) -> bool {
        let agreed = self.negotiated.as_ref();
        self.state == State::Established && agreed.is_some_and(|agreed| agreed.families.contains(&family))
    }
}
