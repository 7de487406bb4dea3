//! New HTTP requests, as a client makes them: the client's own neighbor table decides where they go.

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

/// Timeout of a request for an impatient client.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const PORT: u16 = 80;

/// Results of the requests.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Requests that were started.
    pub begun: usize,
    /// Times of the answers.
    pub answered: Times,
    /// The longest time to an answer.
    pub slowest: Duration,
    /// Numbers of requests without an answer, by cause.
    pub lost: BTreeMap<&'static str, usize>,
}

impl Requests {
    /// Number of requests without an answer.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.lost.values().sum()
    }
}

/// Starts a request in every period, whether earlier ones have ended or not. One without an answer within `limit` is
/// lost.
///
/// # Errors
/// When the client's network namespace does not exist.
pub fn probe(
    lab: &Lab,
    address: impl Into<IpAddr>,
    period: Duration,
    limit: Duration,
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
                shared.observed().begun += 1;
                let shared = Arc::clone(shared);
                requests.spawn(async move {
                    let begun = Instant::now();
                    let outcome = timeout(limit, request(target)).await;
                    let mut observed = shared.observed();
                    match outcome {
                        Ok(Ok(())) => {
                            observed.answered.push(Instant::now());
                            observed.slowest = observed.slowest.max(begun.elapsed());
                        }
                        Ok(Err(error)) => *observed.lost.entry(cause_of(&error)).or_default() += 1,
                        Err(_) => *observed.lost.entry("timed out").or_default() += 1,
                    }
                });
            }
            requests.join_all().await;
        });
        Ok(())
    })
}

/// The server closes first, so that no port of the client stays in TIME_WAIT.
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

fn cause_of(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset => "reset",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
        _ => "broken off",
    }
}
