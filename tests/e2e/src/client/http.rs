//! New requests by HTTP, as a client makes them: where they go is decided by its own table of neighbours.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::times::Times;
use super::{Probe, Shared};
use lb_lab::Lab;

/// A request that is not answered by then is lost to a client that is in a hurry.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Port of the address.
const PORT: u16 = 80;

/// What requests have come to.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// How many have begun.
    pub begun: usize,
    /// When answers came.
    pub answered: Times,
    /// The longest that one took which was answered.
    pub slowest: Duration,
    /// How many have ended otherwise, by what became of them.
    pub lost: BTreeMap<&'static str, usize>,
}

impl Requests {
    /// How many are lost.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.lost.values().sum()
    }
}

/// Makes a request in every period, whatever became of those before: in an outage many wait at a time. One that is not
/// answered within `patience` is lost.
///
/// # Errors
/// When the client's network is not there.
pub fn probe(
    lab: &Lab,
    address: impl Into<IpAddr>,
    period: Duration,
    patience: Duration,
) -> anyhow::Result<Probe<Requests>> {
    let target = SocketAddr::new(address.into(), PORT);
    Probe::start(lab, move |shared: &Arc<Shared<Requests>>| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(async {
            let mut turns = interval(period);
            turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut requests = tokio::task::JoinSet::new();
            while !shared.is_over() {
                turns.tick().await;
                while requests.try_join_next().is_some() {}
                shared.seen().begun += 1;
                let shared = Arc::clone(shared);
                requests.spawn(async move {
                    let begun = Instant::now();
                    let outcome = timeout(patience, request(target)).await;
                    let mut seen = shared.seen();
                    match outcome {
                        Ok(Ok(())) => {
                            seen.answered.push(Instant::now());
                            seen.slowest = seen.slowest.max(begun.elapsed());
                        }
                        Ok(Err(error)) => *seen.lost.entry(what_of(&error)).or_default() += 1,
                        Err(_) => *seen.lost.entry("timed out").or_default() += 1,
                    }
                });
            }
            requests.join_all().await;
        });
        Ok(())
    })
}

/// The server closes first, so that no port of the client's stays taken.
async fn request(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.0 200") {
        Ok(())
    } else {
        Err(ErrorKind::UnexpectedEof.into())
    }
}

fn what_of(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset => "reset",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
        _ => "broken off",
    }
}
