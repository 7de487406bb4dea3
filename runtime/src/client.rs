//! The client of the Kubernetes API. It notices when the API server is gone without a word: a host that lost power, or a
//! firewall that drops packets, ends no connection.
//!
//! | what hangs | noticed by | after |
//! | --- | --- | --- |
//! | connecting | connect timeout | 5 s |
//! | an idle connection, such as a watch | TCP keepalive | 20 s |
//! | a request that is not acknowledged | `TCP_USER_TIMEOUT` | 20 s |
//! | a connection that was kept for later requests | not used again after | 5 s |
//! | a request without a response, a list that stops | response timeout | 30 s |
//! | a watch whose connection is alive, but not its server | idle timeout; the API server sends bookmarks every minute | 90 s |
//!
//! kube's own client waits 295 seconds for a watch, and without limit for everything else.

use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tokio::time::{Instant, Sleep};
use tower::retry::RetryLayer;
use tower::{BoxError, Service, ServiceBuilder};

/// How long the client waits.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionTimeouts {
    /// For a TCP connection.
    pub connect: Duration,
    /// For any packet on an idle connection, before it is probed.
    pub keepalive: Duration,
    /// Between two probes.
    pub keepalive_interval: Duration,
    /// After which an unused connection is not used again: it may have died, and a request on it would wait for
    /// [`unacknowledged`](Self::unacknowledged).
    pub pooled: Duration,
    /// For the acknowledgment of data or probes.
    pub unacknowledged: Duration,
    /// For the head of a response, and between two parts of its body.
    pub response: Duration,
    /// Between two parts of the response to a watch.
    pub watch: Duration,
}

impl Default for ConnectionTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            keepalive: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(5),
            pooled: Duration::from_secs(5),
            unacknowledged: Duration::from_secs(20),
            response: Duration::from_secs(30),
            watch: Duration::from_secs(90),
        }
    }
}

/// A client with the credentials of the pod or of `KUBECONFIG`.
///
/// # Errors
/// If there are no credentials.
pub async fn connect() -> anyhow::Result<Client> {
    let config = Config::infer()
        .await
        .context("find the Kubernetes API: run in a pod, or set KUBECONFIG")?;
    with_timeouts(&config, ConnectionTimeouts::default())
}

/// A client with these credentials and timeouts.
///
/// # Errors
/// If the credentials cannot be used.
pub fn with_timeouts(config: &Config, timeouts: ConnectionTimeouts) -> anyhow::Result<Client> {
    // Dependencies may compile in several providers, so one is chosen here. This fails only if one is already
    // installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(timeouts.connect));
    tcp.set_keepalive(Some(timeouts.keepalive));
    tcp.set_keepalive_interval(Some(timeouts.keepalive_interval));
    tcp.set_tcp_user_timeout(Some(timeouts.unacknowledged));
    let tls = config
        .rustls_https_connector_with_connector(tcp)
        .context("use the certificates of the Kubernetes API")?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(timeouts.pooled)
        .build(tls);
    let stack = ServiceBuilder::new()
        // Outermost, because it also limits the repetitions.
        .layer_fn(|inner| TimedService { inner, timeouts })
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(
            config
                .auth_layer()
                .context("use the credentials of the Kubernetes API")?,
        )
        .layer(
            config
                .extra_headers_layer()
                .context("use the headers of the configuration")?,
        )
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(stack, config.default_namespace.clone()))
}

/// Limits the time of requests.
#[derive(Clone)]
struct TimedService<S> {
    inner: S,
    timeouts: ConnectionTimeouts,
}

impl<S, B> Service<Request<Body>> for TimedService<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<TimedBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, idle) = (
            self.timeouts.response,
            if is_watch(&request) {
                self.timeouts.watch
            } else {
                self.timeouts.response
            },
        );
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = tokio::time::timeout(head, response)
                .await
                .map_err(|_| silence(head))??;
            Ok(response.map(|body| TimedBody {
                inner: Box::pin(http_body_util::BodyExt::map_err(body, Into::into)),
                limit: idle,
                deadline: Box::pin(tokio::time::sleep(idle)),
                waiting: false,
            }))
        })
    }
}

/// Whether the response has no end.
fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .any(|part| matches!(part, "watch=true" | "watch=1"))
}

fn silence(limit: Duration) -> BoxError {
    let message = format!("no data from the API server for {} s", limit.as_secs_f64());
    io::Error::new(io::ErrorKind::TimedOut, message).into()
}

/// A body that fails if its next part takes too long.
struct TimedBody {
    inner: Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Whether the deadline counts: the time in which nobody asks for the next part does not.
    waiting: bool,
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = self.inner.as_mut().poll_frame(cx) {
            self.waiting = false;
            return Poll::Ready(frame);
        }
        let limit = self.limit;
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + limit);
        }
        self.deadline
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(silence(limit))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
