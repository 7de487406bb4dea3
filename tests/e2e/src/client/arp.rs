//! Who has an address, asked by ARP.
//!
//! The questions come from a host of their own, which no interface has: the client's kernel takes no notice of the answers.
//! So its table of neighbours, which leads the other probes, learns from announcements alone, as without this probe.

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

/// The host that asks.
const HARDWARE: MacAddr = MacAddr([0x02, 0x1b, 0, 0, 0, 0xfe]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 21);
/// The client's interface on the LAN.
const INTERFACE: &str = "eth0";
/// How long a reader waits before it looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);
/// A flood, and a sweep, send what is due so often.
pub(super) const BEAT: Duration = Duration::from_millis(1);

/// The client's end of the wire.
pub(super) struct Wire {
    socket: Socket,
}

impl Wire {
    /// Opens it, in the client's network.
    pub(super) fn open() -> anyhow::Result<Self> {
        Self::open_on(INTERFACE)
    }

    /// Opens it on an interface, in the client's network.
    fn open_on(interface: &str) -> anyhow::Result<Self> {
        let socket = packet_socket(interface, ETHERTYPE)?;
        Ok(Self { socket })
    }

    /// Asks everybody. A full queue loses the question, as a wire may.
    pub(super) fn ask(&self, target: Ipv4Addr) -> anyhow::Result<()> {
        let question = ArpFrame {
            dst: MacAddr::BROADCAST,
            src: HARDWARE,
            operation: ArpOperation::Request,
            sender_mac: HARDWARE,
            sender_ip: ADDRESS,
            target_mac: MacAddr::ZERO,
            target_ip: target,
        };
        match (&self.socket).write(&question.encode()) {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error).context("ask who has an address"),
        }
    }

    /// Waits for an answer: who has which address. None when there is none for a while.
    pub(super) fn answer(&self) -> anyhow::Result<Option<(Ipv4Addr, MacAddr)>> {
        let mut buffer = [0; 128];
        let start = Instant::now();
        while start.elapsed() < LOOK {
            let length = match (&self.socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if is_passing(&error) => break,
                Err(error) => return Err(error).context("wait for an answer"),
            };
            let frame = buffer
                .get(..length)
                .and_then(|bytes| ArpFrame::decode(bytes).ok());
            match frame {
                Some(frame) if frame.operation == ArpOperation::Reply && frame.dst == HARDWARE => {
                    return Ok(Some((frame.sender_ip, frame.sender_mac)));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// A socket for frames of one protocol on an interface of the client's, in whose network this is called.
pub(super) fn packet_socket(interface: &str, ethertype: u16) -> anyhow::Result<Socket> {
    // A protocol is given in the order of the wire.
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("open a packet socket")?;
    socket.set_read_timeout(Some(LOOK))?;
    // As much as the kernel gives: a sweep is answered by the hundred.
    socket.set_recv_buffer_size(1 << 20)?;
    let address = getifaddrs()?
        .filter(|known| known.interface_name == interface)
        .find_map(|known| known.address?.as_link_addr().copied())
        .with_context(|| format!("the client has no interface {interface}"))?;
    bind(socket.as_raw_fd(), &address).with_context(|| format!("bind to {interface}"))?;
    Ok(socket)
}

pub(super) fn is_passing(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    ) || error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}

/// Who answered.
#[derive(Clone, Copy, Debug)]
pub struct Answerer {
    /// The hardware address.
    pub mac: MacAddr,
    /// When it answered first.
    pub first: Instant,
    /// When it answered last.
    pub last: Instant,
}

/// What asking for one address has come to.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// When it was answered.
    pub times: Times,
    /// Who answered.
    pub from: Vec<Answerer>,
}

impl Answers {
    pub(super) fn push(&mut self, mac: MacAddr, when: Instant) {
        self.times.push(when);
        match self.from.iter_mut().find(|known| known.mac == mac) {
            Some(known) => known.last = when,
            None => self.from.push(Answerer {
                mac,
                first: when,
                last: when,
            }),
        }
    }

    /// Who has answered since then.
    #[must_use]
    pub fn since(&self, when: Instant) -> Vec<MacAddr> {
        let since = self.from.iter().filter(|from| from.last >= when);
        since.map(|from| from.mac).collect()
    }
}

/// Asks for an address again and again.
///
/// # Errors
/// When the client's network is not there.
pub fn probe(lab: &Lab, address: Ipv4Addr, period: Duration) -> anyhow::Result<Probe<Answers>> {
    probe_on(lab, INTERFACE, address, period)
}

/// The same on another interface of the client's.
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
        let wire = Wire::open_on(interface)?;
        let answer = || {
            let answer = wire.answer()?;
            Ok(answer.filter(|(of, _)| *of == address).map(|(_, from)| from))
        };
        again_and_again(shared, period, || wire.ask(address), answer)
    })
}

/// Asks in every period, and notes who answers.
pub(super) fn again_and_again(
    shared: &Arc<Shared<Answers>>,
    period: Duration,
    ask: impl Fn() -> anyhow::Result<()>,
    answer: impl Fn() -> anyhow::Result<Option<MacAddr>> + Send + Sync,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !shared.is_over() {
                if let Some(from) = answer()? {
                    shared.seen().push(from, Instant::now());
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

/// Asks for addresses in turn, so many times a second, for so long. Returns how often it did.
///
/// # Errors
/// When it cannot ask.
pub fn flood(lab: &Lab, addresses: Vec<Ipv4Addr>, rate: u32, time: Duration) -> anyhow::Result<u32> {
    let flood = lab.on_client(move || {
        let wire = Wire::open()?;
        let start = Instant::now();
        let mut asked = 0;
        let mut targets = addresses.iter().cycle();
        while start.elapsed() < time {
            while f64::from(asked) < start.elapsed().as_secs_f64() * f64::from(rate)
                && let Some(target) = targets.next()
            {
                wire.ask(*target)?;
                asked += 1;
            }
            std::thread::sleep(BEAT);
        }
        Ok(asked)
    })?;
    match flood.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("the flood panicked"),
    }
}

/// How long answers for some addresses took, asked for in turn, each so many times. One that is not answered is left out.
///
/// # Errors
/// When it cannot ask.
pub fn round_trips(
    lab: &Lab,
    addresses: Vec<Ipv4Addr>,
    times: usize,
    pause: Duration,
) -> anyhow::Result<Vec<Vec<Duration>>> {
    let asking = lab.on_client(move || {
        let wire = Wire::open()?;
        let mut trips = vec![Vec::new(); addresses.len()];
        for _ in 0..times {
            for (address, trips) in addresses.iter().zip(&mut trips) {
                let start = Instant::now();
                wire.ask(*address)?;
                while let Some((of, _)) = wire.answer()? {
                    // A late one to an earlier question does not count.
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
        Err(_) => bail!("who asked panicked"),
    }
}
