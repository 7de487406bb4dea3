//! Connections that stay open and exchange data all the time: each sends numbers and expects them back.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Probe, Shared};
use lb_lab::Lab;

/// Pause between two exchanges.
const EXCHANGE_INTERVAL: Duration = Duration::from_millis(100);
/// A connection without an answer for this time is broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const PORT: u16 = 80;

/// The state of the connections.
#[derive(Clone, Debug, Default)]
pub struct HeldConnections {
    /// Connections that were opened.
    pub opened: usize,
    /// Times and causes of opened connections that broke.
    pub broken: Vec<(Timestamp, io::ErrorKind)>,
    /// Connections that could not be opened.
    pub refused: usize,
    /// The longest wait for an answer that came.
    pub stall: Duration,
}

impl HeldConnections {
    fn waited(&mut self, time: Duration) {
        self.stall = self.stall.max(time);
    }
}

/// Opens `count` connections and holds them.
///
/// # Errors
/// When the client's network namespace does not exist.
pub fn hold(lab: &Lab, address: impl Into<IpAddr>, count: usize) -> anyhow::Result<Probe<HeldConnections>> {
    let target = SocketAddr::new(address.into(), PORT);
    Probe::start(lab, move |shared: &Arc<Shared<HeldConnections>>| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(async {
            let mut held = tokio::task::JoinSet::new();
            for _ in 0..count {
                let shared = Arc::clone(shared);
                held.spawn(async move {
                    let Ok(Ok(stream)) = timeout(ANSWER_TIMEOUT, TcpStream::connect(target)).await else {
                        shared.observed().refused += 1;
                        return;
                    };
                    shared.observed().opened += 1;
                    if let Err(error) = exchange(stream, &shared).await {
                        shared.observed().broken.push((Timestamp::now(), error.kind()));
                    }
                });
            }
            held.join_all().await;
        });
        Ok(())
    })
}

async fn exchange(mut stream: TcpStream, shared: &Shared<HeldConnections>) -> io::Result<()> {
    let mut buffer = [0; 1024];
    for number in 1_u32.. {
        if shared.is_over() {
            break;
        }
        let start = Instant::now();
        let question = format!("GET /echo?msg={number} HTTP/1.1\r\nHost: bench\r\n\r\n");
        let answer = async {
            stream.write_all(question.as_bytes()).await?;
            // The answer is short and arrives in one segment.
            stream.read(&mut buffer).await
        };
        let length = match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(length)) => length,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let expected = format!("\r\n\r\n{number}");
        if !buffer[..length].ends_with(expected.as_bytes()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        shared.observed().waited(start.elapsed());
        tokio::time::sleep(EXCHANGE_INTERVAL).await;
    }
    Ok(())
}
