//! Connections that stay open and exchange something all the time: each counts, and has its numbers sent back.

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

/// Between one exchange and the next.
const PAUSE: Duration = Duration::from_millis(100);
/// A connection that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Port of the address.
const PORT: u16 = 80;

/// What has become of them.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// How many were opened.
    pub opened: usize,
    /// Of these, the ones that broke: when, and of what.
    pub broken: Vec<(Timestamp, io::ErrorKind)>,
    /// How many could not be opened.
    pub refused: usize,
    /// The longest that one waited for an answer, of those that got it.
    pub stall: Duration,
}

impl Held {
    fn waited(&mut self, time: Duration) {
        self.stall = self.stall.max(time);
    }
}

/// Opens so many connections and holds them.
///
/// # Errors
/// When the client's network is not there.
pub fn hold(lab: &Lab, address: impl Into<IpAddr>, count: usize) -> anyhow::Result<Probe<Held>> {
    let target = SocketAddr::new(address.into(), PORT);
    Probe::start(lab, move |shared: &Arc<Shared<Held>>| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(async {
            let mut held = tokio::task::JoinSet::new();
            for _ in 0..count {
                let shared = Arc::clone(shared);
                held.spawn(async move {
                    let Ok(Ok(stream)) = timeout(PATIENCE, TcpStream::connect(target)).await else {
                        shared.seen().refused += 1;
                        return;
                    };
                    shared.seen().opened += 1;
                    if let Err(error) = exchange(stream, &shared).await {
                        shared.seen().broken.push((Timestamp::now(), error.kind()));
                    }
                });
            }
            held.join_all().await;
        });
        Ok(())
    })
}

async fn exchange(mut stream: TcpStream, shared: &Shared<Held>) -> io::Result<()> {
    let mut buffer = [0; 1024];
    for number in 1_u32.. {
        if shared.is_over() {
            break;
        }
        let start = Instant::now();
        let question = format!("GET /echo?msg={number} HTTP/1.1\r\nHost: bench\r\n\r\n");
        let answer = async {
            stream.write_all(question.as_bytes()).await?;
            // It is short and comes in one piece.
            stream.read(&mut buffer).await
        };
        let length = match timeout(PATIENCE, answer).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(length)) => length,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let expected = format!("\r\n\r\n{number}");
        if !buffer[..length].ends_with(expected.as_bytes()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        shared.seen().waited(start.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
