//! Connections to routers, over loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lb_net::tcp::{ConnectError, MAX_MD5_KEY_LEN, TcpOptions, connect, set_md5_key};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Enough for two repetitions of a SYN.
const SILENCE: Duration = Duration::from_millis(1500);

/// A router, with a key for this host and the TTL of its packets.
fn listen(address: IpAddr, key: Option<&[u8]>, ttl: u32) -> TcpListener {
    let local = SocketAddr::new(address, 0);
    let socket = Socket::new(
        Domain::for_address(local),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )
    .unwrap();
    if let Some(key) = key {
        set_md5_key(&socket, address, key).unwrap();
    }
    match address {
        IpAddr::V4(_) => socket.set_ttl_v4(ttl).unwrap(),
        IpAddr::V6(_) => socket.set_unicast_hops_v6(ttl).unwrap(),
    }
    socket.bind(&local.into()).unwrap();
    socket.listen(4).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

fn with_key(key: &[u8]) -> TcpOptions {
    TcpOptions {
        md5_key: Some(key.to_vec()),
        ..TcpOptions::default()
    }
}

#[tokio::test]
async fn connection_has_the_source_the_ttl_and_the_class() {
    for address in LOOPBACKS {
        let router = listen(address, None, 255);
        let options = TcpOptions {
            source: Some(address),
            device: Some("lo".to_owned()),
            ttl_security: true,
            user_timeout: Some(Duration::from_secs(90)),
            ..TcpOptions::default()
        };
        let mut stream = connect(router.local_addr().unwrap(), &options).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), address);
        let (mut accepted, _) = router.accept().await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut octets = [0; 5];
        accepted.read_exact(&mut octets).await.unwrap();
        assert_eq!(&octets, b"hello");
        let socket = socket2::SockRef::from(&stream);
        let ttl = match address {
            IpAddr::V4(_) => socket.ttl_v4().unwrap(),
            IpAddr::V6(_) => socket.unicast_hops_v6().unwrap(),
        };
        assert_eq!(ttl, 255);
        // A packet that was forwarded once.
        let far = listen(address, None, 254);
        let attempt = connect(far.local_addr().unwrap(), &options);
        assert!(tokio::time::timeout(SILENCE, attempt).await.is_err());
    }
}

#[tokio::test]
async fn only_equal_keys_connect() {
    for address in LOOPBACKS {
        let router = listen(address, Some(b"secret"), 64);
        let to = router.local_addr().unwrap();
        connect(to, &with_key(b"secret")).await.expect("the same key");
        for options in [with_key(b"Secret"), TcpOptions::default()] {
            let attempt = tokio::time::timeout(SILENCE, connect(to, &options)).await;
            assert!(attempt.is_err(), "{options:?} gets no answer");
        }
    }
}

#[tokio::test]
async fn errors_are_told_apart() {
    let router = listen(LOOPBACKS[0], None, 64);
    let to = router.local_addr().unwrap();
    drop(router);
    let refused = connect(to, &TcpOptions::default()).await;
    assert!(matches!(refused, Err(ConnectError::Refused(_))), "{refused:?}");
    for options in [
        TcpOptions {
            // TEST-NET-1 (RFC 5737).
            source: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
            ..TcpOptions::default()
        },
        TcpOptions {
            device: Some("no-such-device".to_owned()),
            ..TcpOptions::default()
        },
    ] {
        let outcome = connect(to, &options).await;
        assert!(matches!(outcome, Err(ConnectError::NoSource(_))), "{outcome:?}");
    }
    for key in [&[][..], &[0; MAX_MD5_KEY_LEN + 1]] {
        let outcome = connect(to, &with_key(key)).await;
        assert!(matches!(outcome, Err(ConnectError::InvalidKey)), "{outcome:?}");
    }
}
