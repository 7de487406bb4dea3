//! A connection to a router: a task that carries octets. It decides nothing.
//!
//! The task ends when its [`Connection`] is dropped: it sends what is left and closes the connection. A router that sends
//! much is read slowly, and one that reads nothing is limited by the queue of its session.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_bgp::session::{ConnectionId, DialError};
use lb_net::tcp::{ConnectError, TcpOptions, connect};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Octets read at once.
const READ_LEN: usize = 16 * 1024;
/// Octets that are read per second: more than a router has to say, and little to check.
const READ_RATE: u32 = 4 * 1024 * 1024;
/// How far reading may be ahead of its rate.
const READ_BURST: Duration = Duration::from_millis(100);
/// How long the last octets of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Identifies a connection among those of all sessions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ConnectionKey {
    /// Distinguishes the sessions.
    pub(crate) session: u64,
    /// Distinguishes the connections of a session.
    pub(crate) connection: ConnectionId,
}

/// A report of a connection.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    /// It was made from this address, or could not be made.
    Dialed(Result<IpAddr, DialError>),
    /// Octets have arrived.
    Received(Vec<u8>),
    /// The kernel has taken over this many octets.
    Written(usize),
    /// The router has closed it, or it broke.
    Closed,
}

/// The sink of the reports of all connections.
pub(crate) type ConnectionEvents = mpsc::Sender<(ConnectionKey, ConnectionEvent)>;

/// A connection, also one that is not made yet. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: UnboundedSender<Vec<u8>>,
}

impl Connection {
    /// Connects to a router.
    pub(crate) fn open(
        tasks: &mut JoinSet<()>,
        key: ConnectionKey,
        router: SocketAddr,
        options: TcpOptions,
        events: ConnectionEvents,
    ) -> Self {
        let (sender, octets) = mpsc::unbounded_channel();
        tasks.spawn(async move {
            // An error means that the process ends.
            let _ = run(key, router, options, octets, &events).await;
        });
        Self { sender }
    }

    /// Queues octets.
    pub(crate) fn send(&self, octets: Vec<u8>) {
        // An error means that the task has reported the end of the connection.
        let _ = self.sender.send(octets);
    }
}

/// The receiver of the reports is gone.
struct Ended;

impl<T> From<mpsc::error::SendError<T>> for Ended {
    fn from(_: mpsc::error::SendError<T>) -> Self {
        Self
    }
}

async fn run(
    key: ConnectionKey,
    router: SocketAddr,
    options: TcpOptions,
    mut octets: UnboundedReceiver<Vec<u8>>,
    events: &ConnectionEvents,
) -> Result<(), Ended> {
    let dialed = tokio::select! {
        dialed = connect(router, &options) => dialed,
        // Nothing is sent before the connection is made: it was dropped.
        _ = octets.recv() => return Ok(()),
    };
    let local = dialed.and_then(|stream| {
        let local = stream.local_addr().map_err(ConnectError::from)?;
        Ok((stream, local.ip().to_canonical()))
    });
    match local {
        Ok((stream, local)) => {
            events.send((key, ConnectionEvent::Dialed(Ok(local)))).await?;
            carry(key, stream, octets, events).await
        }
        Err(error) => {
            tracing::debug!(%router, ?error, "cannot connect to router");
            let event = ConnectionEvent::Dialed(Err(dial_error(&error)));
            Ok(events.send((key, event)).await?)
        }
    }
}

async fn carry(
    key: ConnectionKey,
    mut stream: TcpStream,
    mut octets: UnboundedReceiver<Vec<u8>>,
    events: &ConnectionEvents,
) -> Result<(), Ended> {
    let mut pending: VecDeque<Vec<u8>> = VecDeque::new();
    let mut written = 0;
    let mut closing: Option<Instant> = None;
    let mut read_credit = Instant::now();
    loop {
        if closing.is_some() && pending.is_empty() {
            break;
        }
        let may_read_at = read_credit.checked_sub(READ_BURST).unwrap_or(read_credit);
        tokio::select! {
            queued = octets.recv(), if closing.is_none() => match queued {
                Some(octets) => pending.push_back(octets),
                None => closing = Some(Instant::now() + CLOSE_TIMEOUT),
            },
            () = at(closing) => break,
            result = stream.writable(), if !pending.is_empty() => {
                let front = pending.front().and_then(|octets| octets.get(written..)).unwrap_or_default();
                match result.and_then(|()| stream.try_write(front)) {
                    Ok(count) => {
                        written += count;
                        if pending.front().is_some_and(|octets| octets.len() <= written) {
                            pending.pop_front();
                            written = 0;
                        }
                        events.send((key, ConnectionEvent::Written(count))).await?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Ok(events.send((key, ConnectionEvent::Closed)).await?),
                }
            }
            result = readable(&stream, may_read_at), if closing.is_none() => {
                let mut buffer = vec![0; READ_LEN];
                match result.and_then(|()| stream.try_read(&mut buffer)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => return Ok(events.send((key, ConnectionEvent::Closed)).await?),
                    Ok(count) => {
                        buffer.truncate(count);
                        let cost = Duration::from_secs(1) * u32::try_from(count).unwrap_or(u32::MAX) / READ_RATE;
                        read_credit = read_credit.max(Instant::now()) + cost;
                        events.send((key, ConnectionEvent::Received(buffer))).await?;
                    }
                }
            }
        }
    }
    // The router sees the end of the stream after the last message.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
    Ok(())
}

/// Waits for octets, not before a time.
async fn readable(stream: &TcpStream, not_before: Instant) -> io::Result<()> {
    tokio::time::sleep_until(not_before).await;
    stream.readable().await
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

const fn dial_error(error: &ConnectError) -> DialError {
    match error {
        ConnectError::NoSource(_) => DialError::NoSource,
        ConnectError::Refused(_) => DialError::Refused,
        ConnectError::Unreachable(_) => DialError::Unreachable,
        ConnectError::InvalidKey | ConnectError::Failed(_) => DialError::Other,
    }
}
