//! Sends ARP requests for addresses and records the answers.
//!
//! The requests come from a MAC address of their own, so the client's kernel ignores the answers. Its neighbor table,
//! which the other probes use, learns from announcements alone, as without this probe.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lb_l2::MacAddr;
use lb_l2::wire::arp::{ArpFrame, ArpOperation, ETHERTYPE};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::bind;
use socket2::{Domain, Protocol, Socket, Type};

use super::times::Times;
use super::{Probe, Shared};
use lb_lab::Lab;

/// MAC address of the host that sends requests.
const PROBE_MAC: MacAddr = MacAddr([0x02, 0x1b, 0, 0, 0, 0xfe]);
const PROBE_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 21);
/// The client's interface on the LAN.
const INTERFACE: &str = "eth0";
/// Read timeout, after which a reader checks whether the probe has ended.
const READ_TIMEOUT: Duration = Duration::from_millis(50);
/// Interval at which a flood or a sweep sends its requests that are due.
pub(super) const SEND_INTERVAL: Duration = Duration::from_millis(1);

/// A packet socket for ARP.
pub(super) struct ArpSocket {
    socket: Socket,
}

impl ArpSocket {
    /// Opens it on the first LAN. Call it in the client's network namespace.
    pub(super) fn open() -> anyhow::Result<Self> {
        Self::open_on(INTERFACE)
    }

    fn open_on(interface: &str) -> anyhow::Result<Self> {
        let socket = packet_socket(interface, ETHERTYPE)?;
        Ok(Self { socket })
    }

    /// Broadcasts a request. A full queue loses it, as a LAN may.
    pub(super) fn send_request(&self, target: Ipv4Addr) -> anyhow::Result<()> {
        let question = ArpFrame {
            dst: MacAddr::BROADCAST,
            src: PROBE_MAC,
            operation: ArpOperation::Request,
            sender_mac: PROBE_MAC,
            sender_ip: PROBE_IP,
            target_mac: MacAddr::ZERO,
            target_ip: target,
        };
        match (&self.socket).write(&question.encode()) {
            Ok(_) => Ok(()),
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(error).context("send a request"),
        }
    }

    /// Waits for a reply: address and MAC. `None` after a timeout.
    pub(super) fn receive_reply(&self) -> anyhow::Result<Option<(Ipv4Addr, MacAddr)>> {
        let mut buffer = [0; 128];
        let start = Instant::now();
        while start.elapsed() < READ_TIMEOUT {
            let length = match (&self.socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if is_transient(&error) => break,
                Err(error) => return Err(error).context("receive a reply"),
            };
            let frame = buffer
                .get(..length)
                .and_then(|bytes| ArpFrame::decode(bytes).ok());
            match frame {
                Some(frame) if frame.operation == ArpOperation::Reply && frame.dst == PROBE_MAC => {
                    return Ok(Some((frame.sender_ip, frame.sender_mac)));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// A socket for frames of one protocol. Call it in the client's network namespace.
pub(super) fn packet_socket(interface: &str, ethertype: u16) -> anyhow::Result<Socket> {
    // In network byte order.
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("open a packet socket")?;
    socket.set_read_timeout(Some(READ_TIMEOUT))?;
    // A sweep gets hundreds of replies at once.
    socket.set_recv_buffer_size(1 << 20)?;
    let address = getifaddrs()?
        .filter(|known| known.interface_name == interface)
        .find_map(|known| known.address?.as_link_addr().copied())
        .with_context(|| format!("client has no interface {interface}"))?;
    bind(socket.as_raw_fd(), &address).with_context(|| format!("bind to {interface}"))?;
    Ok(socket)
}

pub(super) fn is_transient(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    ) || error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}

/// A host that replied.
#[derive(Clone, Copy, Debug)]
pub struct Responder {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Time of its first reply.
    pub first: Instant,
    /// Time of its last reply.
    pub last: Instant,
}

/// The replies for one address.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Times of all replies.
    pub times: Times,
    /// The hosts that replied.
    pub from: Vec<Responder>,
    /// Periods in which replies of two hosts alternated, in order.
    disputed: Vec<(Instant, Instant)>,
}

/// Replies of one host that are at most so far apart count as one stream. Several times the interval of the requests.
const STREAM_GAP: Duration = Duration::from_millis(200);

impl Answers {
    pub(super) fn push(&mut self, mac: MacAddr, when: Instant) {
        self.times.push(when);
        let others = self.from.iter().filter(|known| known.mac != mac);
        let other = others.map(|known| known.last).max();
        let before = self
            .from
            .iter()
            .find(|known| known.mac == mac)
            .map(|known| known.last);
        if let (Some(before), Some(other)) = (before, other)
            && before < other
            && when.saturating_duration_since(before) <= STREAM_GAP
        {
            match self.disputed.last_mut() {
                Some((_, end)) if before <= *end + STREAM_GAP => *end = when,
                _ => self.disputed.push((before, when)),
            }
        }
        match self.from.iter_mut().find(|known| known.mac == mac) {
            Some(known) => known.last = when,
            None => self.from.push(Responder {
                mac,
                first: when,
                last: when,
            }),
        }
    }

    /// The longest time in which two hosts replied, since `start`.
    #[must_use]
    pub fn longest_dispute(&self, start: Instant) -> Duration {
        let since = |(from, to): &(Instant, Instant)| to.saturating_duration_since((*from).max(start));
        self.disputed.iter().map(since).max().unwrap_or_default()
    }

    /// The hosts that replied at this time or later.
    #[must_use]
    pub fn since(&self, when: Instant) -> Vec<MacAddr> {
        let since = self.from.iter().filter(|from| from.last >= when);
        since.map(|from| from.mac).collect()
    }
}

/// Sends a request for an address in every period.
///
/// # Errors
/// When the client's network namespace does not exist.
pub fn probe(lab: &Lab, address: Ipv4Addr, period: Duration) -> anyhow::Result<Probe<Answers>> {
    probe_on(lab, INTERFACE, address, period)
}

/// The same on another interface of the client.
///
/// # Errors
/// As [`probe`].
pub fn probe_on(
    lab: &Lab,
    interface: &'static str,
    address: Ipv4Addr,
    period: Duration,
) -> anyhow::Result<Probe<Answers>> {
    Probe::start(lab, move |shared| {
        let socket = ArpSocket::open_on(interface)?;
        let answer = || {
            let answer = socket.receive_reply()?;
            Ok(answer.filter(|(of, _)| *of == address).map(|(_, from)| from))
        };
        probe_periodically(shared, period, || socket.send_request(address), answer)
    })
}

/// Sends a request in every period and records the replies.
pub(super) fn probe_periodically(
    shared: &Arc<Shared<Answers>>,
    period: Duration,
    ask: impl Fn() -> anyhow::Result<()>,
    answer: impl Fn() -> anyhow::Result<Option<MacAddr>> + Send + Sync,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !shared.is_over() {
                if let Some(from) = answer()? {
                    shared.observed().push(from, Instant::now());
                }
            }
            anyhow::Ok(())
        });
        let mut next = Instant::now();
        while !shared.is_over() && !reader.is_finished() {
            ask()?;
            next += period;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        match reader.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a probe's reader panicked"),
        }
    })
}

/// Sends requests for addresses in turn, at this rate per second, and returns their number.
///
/// # Errors
/// When a request cannot be sent.
pub fn flood(lab: &Lab, addresses: Vec<Ipv4Addr>, rate: u32, time: Duration) -> anyhow::Result<u32> {
    let flood = lab.on_client(move || {
        let socket = ArpSocket::open()?;
        let start = Instant::now();
        let mut asked = 0;
        let mut targets = addresses.iter().cycle();
        while start.elapsed() < time {
            while f64::from(asked) < start.elapsed().as_secs_f64() * f64::from(rate)
                && let Some(target) = targets.next()
            {
                socket.send_request(*target)?;
                asked += 1;
            }
            std::thread::sleep(SEND_INTERVAL);
        }
        Ok(asked)
    })?;
    match flood.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("the flood panicked"),
    }
}

/// Times from request to reply for some addresses, asked for in turn, each `times` times. Lost replies are left out.
///
/// # Errors
/// When a request cannot be sent.
pub fn round_trips(
    lab: &Lab,
    addresses: Vec<Ipv4Addr>,
    times: usize,
    pause: Duration,
) -> anyhow::Result<Vec<Vec<Duration>>> {
    let asking = lab.on_client(move || {
        let socket = ArpSocket::open()?;
        let mut trips = vec![Vec::new(); addresses.len()];
        for _ in 0..times {
            for (address, trips) in addresses.iter().zip(&mut trips) {
                let start = Instant::now();
                socket.send_request(*address)?;
                while let Some((of, _)) = socket.receive_reply()? {
                    // A late reply to an earlier request does not count.
                    if of == *address {
                        trips.push(start.elapsed());
                        break;
                    }
                }
                std::thread::sleep(pause);
            }
        }
        Ok(trips)
    })?;
    match asking.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("a probe panicked"),
    }
}
