//! An API server on the loopback interface that falls silent: its connections stay open, and nothing comes any more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::watcher;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::watch::{Change, watch};

const LIST: &str =
    r#"{"apiVersion":"v1","kind":"ConfigMapList","metadata":{"resourceVersion":"5"},"items":[]}"#;
const EVENT: &str = r#"{"type":"ADDED","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"ns","name":"after","resourceVersion":"6"}}}"#;

#[derive(Default)]
struct Server {
    /// Whether nothing is sent.
    silent: AtomicBool,
    connections: AtomicUsize,
    lists: AtomicUsize,
    watches: AtomicUsize,
}

impl Server {
    async fn start() -> (Arc<Self>, SocketAddr) {
        let server = Arc::<Self>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = server.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(shared.clone().serve(connection));
            }
        });
        (server, address)
    }

    async fn serve(self: Arc<Self>, mut connection: TcpStream) {
        let mut received = Vec::new();
        while let Ok(length) = connection.read_buf(&mut received).await
            && length > 0
        {
            if self.silent.load(Ordering::Relaxed) || !received.ends_with(b"\r\n\r\n") {
                continue;
            }
            let request = String::from_utf8_lossy(&received).into_owned();
            received.clear();
            if request.contains("watch=true") {
                let begins = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                connection.write_all(begins.as_bytes()).await.unwrap();
                // The first watch delivers nothing; the second one has missed the event.
                if self.watches.fetch_add(1, Ordering::Relaxed) > 0 {
                    let line = format!("{:x}\r\n{EVENT}\n\r\n", EVENT.len() + 1);
                    connection.write_all(line.as_bytes()).await.unwrap();
                }
            } else {
                self.lists.fetch_add(1, Ordering::Relaxed);
                let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{LIST}", LIST.len());
                connection.write_all(response.as_bytes()).await.unwrap();
            }
        }
    }
}

fn short() -> ConnectionTimeouts {
    ConnectionTimeouts {
        response: Duration::from_millis(300),
        watch: Duration::from_millis(300),
        ..ConnectionTimeouts::default()
    }
}

fn client(address: SocketAddr, timeouts: ConnectionTimeouts) -> Client {
    let config = Config::new(format!("http://{address}").parse().unwrap());
    with_timeouts(&config, timeouts).unwrap()
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), future)
            .await
            .unwrap()
    })
}

#[test]
fn silent_watch_is_replaced_and_misses_nothing() {
    block_on(async {
        let (server, address) = Server::start().await;
        let api = Api::namespaced(client(address, short()), "ns");
        let mut changes = std::pin::pin!(watch::<ConfigMap>(api, watcher::Config::default()));
        assert!(matches!(changes.next().await, Some(Change::Listing)));
        assert!(matches!(changes.next().await, Some(Change::Synced)));
        let Some(Change::Apply(object)) = changes.next().await else {
            panic!("the second watch delivers the object");
        };
        assert_eq!(object.metadata.name.as_deref(), Some("after"));
        assert_eq!(server.lists.load(Ordering::Relaxed), 1, "no second list");
    });
}

#[test]
fn request_without_response_fails() {
    block_on(async {
        let (server, address) = Server::start().await;
        let api: Api<ConfigMap> = Api::namespaced(client(address, short()), "ns");
        api.list(&Default::default()).await.unwrap();
        server.silent.store(true, Ordering::Relaxed);
        let error = api.list(&Default::default()).await.unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.contains("no data from the API server for 0.3 s"), "{text}");
        server.silent.store(false, Ordering::Relaxed);
        api.list(&Default::default()).await.unwrap();
    });
}

/// The kernel probes the connection of a watch: `/proc/net/tcp` shows a keepalive timer.
#[test]
fn connections_are_probed() {
    block_on(async {
        let (_server, address) = Server::start().await;
        let api: Api<ConfigMap> = Api::namespaced(client(address, ConnectionTimeouts::default()), "ns");
        let mut events = std::pin::pin!(api.watch(&Default::default(), "5").await.unwrap());
        let waited = tokio::time::timeout(Duration::from_millis(200), events.next()).await;
        assert!(waited.is_err(), "the watch is idle");
        let remote = format!(":{:04X}", address.port());
        let connections = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let timers: Vec<_> = connections
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields.get(2).is_some_and(|to| to.ends_with(&remote)) && fields[3] == "01")
            .map(|fields| fields[5].to_owned())
            .collect();
        assert!(!timers.is_empty(), "{connections}");
        for timer in timers {
            let (kind, ticks) = timer.split_once(':').unwrap();
            assert_eq!(kind, "02", "a keepalive timer");
            assert!(
                i64::from_str_radix(ticks, 16).unwrap() <= 10 * 100,
                "at most ten seconds: {timer}"
            );
        }
    });
}

#[test]
fn connection_that_was_unused_for_long_is_not_used_again() {
    block_on(async {
        let (server, address) = Server::start().await;
        let timeouts = ConnectionTimeouts {
            pooled: Duration::from_millis(200),
            ..short()
        };
        let api: Api<ConfigMap> = Api::namespaced(client(address, timeouts), "ns");
        let list = async || api.list(&kube::api::ListParams::default()).await.unwrap();
        let connections = || server.connections.load(Ordering::Relaxed);
        list().await;
        list().await;
        assert_eq!(connections(), 1);
        tokio::time::sleep(Duration::from_millis(300)).await;
        list().await;
        assert_eq!(connections(), 2);
    });
}
