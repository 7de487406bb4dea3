//! HTTP endpoints for the kubelet and Prometheus: /healthz, /readyz and /metrics.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::Health;

/// Binds the address of the endpoints. On a host without IPv6, `[::]` falls back to `0.0.0.0`.
pub(crate) async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(listen).await {
        Err(_) if listen.ip() == Ipv6Addr::UNSPECIFIED && ipv6_is_disabled() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, listen.port())).await
        }
        bound => bound,
    }
}

fn ipv6_is_disabled() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_err()
}

/// Serves the endpoints until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, health: Health, registry: Registry) -> io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(alive).with_state(health.clone()))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(metrics).with_state(registry));
    axum::serve(listener, app).await
}

async fn alive(State(health): State<Health>) -> impl IntoResponse {
    if health.is_alive(Instant::now()) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the main loop does not turn\n")
    }
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let closed = health.closed();
    if closed.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("waiting for: {}\n", closed.join(", ")),
        )
    }
}

async fn metrics(State(registry): State<Registry>) -> impl IntoResponse {
    let encoder = TextEncoder::new();
    let mut body = Vec::new();
    match encoder.encode(&registry.gather(), &mut body) {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, encoder.format_type().to_owned())],
            body,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain".to_owned())],
            error.to_string().into_bytes(),
        ),
    }
}
