use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use prometheus::{IntCounter, IntGaugeVec, Opts};

use super::*;

/// A server, its address, and what it shows.
fn server() -> (SocketAddr, Health, Registry) {
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let (health, registry) = (Health::default(), Registry::new());
    spawn(listener, health.clone(), registry.clone()).unwrap();
    (address, health, registry)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(CONNECTION_TIMEOUT * 3)).unwrap();
    stream
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = connect(address);
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    let body = response.split_once("\r\n\r\n").unwrap().1;
    (status, body.to_owned())
}

#[test]
fn endpoints_show_health_and_metrics() {
    let (address, health, registry) = server();
    assert_eq!(get(address, "/healthz"), (200, "ok\n".to_owned()));
    let gate = health.gate("services");
    assert_eq!(
        get(address, "/readyz"),
        (503, "waiting for: services\n".to_owned())
    );
    gate.open();
    assert_eq!(get(address, "/readyz"), (200, "ok\n".to_owned()));
    let counter = IntCounter::new("things_total", "Things").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    counter.inc();
    let (status, body) = get(address, "/metrics");
    assert!(status == 200 && body.ends_with("things_total 1\n"), "{body}");
    assert_eq!(get(address, "/other").0, 404);
}

/// A caller that blocks its own runtime is served all the same.
#[tokio::test]
async fn a_busy_main_loop_does_not_delay_responses() {
    let (address, _, _) = server();
    let answer = std::thread::spawn(move || get(address, "/healthz"))
        .join()
        .unwrap();
    assert_eq!(answer.0, 200);
}

#[test]
fn connections_that_send_nothing_do_not_keep_others_out() {
    let (address, _, _) = server();
    let mut idle: Vec<_> = (0..4 * MAX_CONNECTIONS).map(|_| connect(address)).collect();
    for _ in 0..10 {
        assert_eq!(get(address, "/healthz").0, 200);
    }
    // The oldest were closed to make room.
    for stream in &mut idle[..2 * MAX_CONNECTIONS] {
        let ended = match stream.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(ended);
    }
}

#[test]
fn connection_that_does_not_read_or_write_ends() {
    let (address, _, registry) = server();
    let series = IntGaugeVec::new(Opts::new("series", "More than the send buffers hold"), &["ip"]).unwrap();
    registry.register(Box::new(series.clone())).unwrap();
    for number in 0..200_000 {
        series
            .with_label_values(&[&format!("address-{number}-{}", "x".repeat(40))])
            .set(1);
    }
    let mut slow = connect(address);
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut partial = connect(address);
    partial.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").unwrap();
    let start = Instant::now();
    // The end of the connection, which is the event to wait for.
    let ended = partial.read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0)) || ended.is_err());
    assert!(start.elapsed() < CONNECTION_TIMEOUT * 2);
    // What the kernel had taken already arrives, and then the end, before the whole text.
    let mut received = Vec::new();
    let _ = slow.read_to_end(&mut received);
    assert!(received.len() < 200_000 * 60, "{}", received.len());
}

#[test]
fn metrics_are_built_once_for_concurrent_responses() {
    let endpoints = Endpoints {
        health: Health::default(),
        registry: Registry::new(),
        metrics: Mutex::default(),
    };
    let counter = IntCounter::new("things_total", "Things").unwrap();
    endpoints.registry.register(Box::new(counter)).unwrap();
    let (first, second) = (endpoints.metrics().unwrap(), endpoints.metrics().unwrap());
    assert_eq!(first.as_ptr(), second.as_ptr());
}
