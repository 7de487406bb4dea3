//! HTTP endpoints for the kubelet and Prometheus: /healthz, /readyz and /metrics.
//!
//! Any host that reaches the port can send requests, so the server runs in a thread of its own and everything is bounded:
//!
//! | bound | value |
//! | --- | --- |
//! | connections | [`MAX_CONNECTIONS`]; a new one replaces the oldest, so that a flood does not keep probes out |
//! | time of a connection, from its acceptance to the last byte of the response | [`CONNECTION_TIMEOUT`] |
//! | requests of a connection | one |
//! | builds of the metrics | one per [`METRICS_MAX_AGE`]; all responses share the text |

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::Health;

const MAX_CONNECTIONS: usize = 32;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
const METRICS_MAX_AGE: Duration = Duration::from_secs(1);
/// Maximum length of the header of a request; a longer one ends the connection.
const MAX_HEADER_LEN: usize = 16 * 1024;
/// Delay after a failed accept, for example without free file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Binds the address of the endpoints. On a host without IPv6, `[::]` falls back to `0.0.0.0`.
pub(crate) fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = match TcpListener::bind(listen) {
        Err(_) if listen.ip() == Ipv6Addr::UNSPECIFIED && ipv6_is_disabled() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, listen.port()))
        }
        bound => bound,
    }?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn ipv6_is_disabled() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_err()
}

/// Serves the endpoints in a thread of their own until the process ends.
///
/// # Errors
/// If the thread cannot be started.
pub(crate) fn spawn(listener: TcpListener, health: Health, registry: Registry) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let endpoints = Arc::new(Endpoints {
        health,
        registry,
        metrics: Mutex::default(),
    });
    std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || runtime.block_on(serve(listener, endpoints)))
        .map(drop)
}

async fn serve(listener: tokio::net::TcpListener, endpoints: Arc<Endpoints>) {
    let mut connections: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "failed to accept a connection; retrying");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tokio::spawn(handle_connection(stream, endpoints.clone())));
    }
}

async fn handle_connection(stream: TcpStream, endpoints: Arc<Endpoints>) {
    let respond = service_fn(|request| {
        let response = endpoints.respond(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        // The whole connection has a timeout.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEADER_LEN)
        .serve_connection(TokioIo::new(stream), respond);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "connection failed"),
        Err(_) => tracing::trace!("connection timed out"),
    }
}

struct Endpoints {
    health: Health,
    registry: Registry,
    /// The last text of the metrics, and when it was made.
    metrics: Mutex<Option<(Instant, Bytes)>>,
}

impl Endpoints {
    fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/healthz" if self.health.is_alive(Instant::now()) => text(StatusCode::OK, "ok\n"),
            "/healthz" => text(StatusCode::SERVICE_UNAVAILABLE, "the main loop does not turn\n"),
            "/readyz" => {
                let closed = self.health.closed();
                if closed.is_empty() {
                    text(StatusCode::OK, "ok\n")
                } else {
                    let waiting = format!("waiting for: {}\n", closed.join(", "));
                    text(StatusCode::SERVICE_UNAVAILABLE, waiting)
                }
            }
            "/metrics" => match self.metrics() {
                Ok(body) => text(StatusCode::OK, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    fn metrics(&self) -> Result<Bytes, prometheus::Error> {
        let mut last = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_at, text)) = &*last
            && made_at.elapsed() < METRICS_MAX_AGE
        {
            return Ok(text.clone());
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        let text = Bytes::from(text);
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let text = header::HeaderValue::from_static(prometheus::TEXT_FORMAT);
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
