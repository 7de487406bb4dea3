use std::os::unix::fs::symlink;

use lb_l2::wire::heartbeat::{Heartbeat, Message, SpeakerState};
use prometheus::Registry;

use std::net::Ipv4Addr;

use tokio::net::UdpSocket;

use super::*;

const WAIT: Duration = Duration::from_secs(5);

/// An entry of a Secret.
type Entry<'a> = (&'a str, &'a [u8]);

/// A directory as the kubelet mounts a Secret; it is removed when this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("lb-speaker-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    /// Publishes another version of the Secret as the kubelet does: all files at once, by replacing a link.
    fn publish(&self, version: &str, keys: &[Entry]) {
        let files = self.0.join(version);
        std::fs::create_dir(&files).unwrap();
        for (name, key) in keys {
            std::fs::write(files.join(name), key).unwrap();
        }
        let before = self.0.join(DATA_LINK).read_link().ok();
        symlink(version, self.0.join("..data_tmp")).unwrap();
        std::fs::rename(self.0.join("..data_tmp"), self.0.join(DATA_LINK)).unwrap();
        for (name, _) in keys {
            let _ = symlink(format!("{DATA_LINK}/{name}"), self.0.join(name));
        }
        if let Some(before) = before {
            std::fs::remove_dir_all(self.0.join(before)).unwrap();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mk_datagram() -> Datagram {
    Datagram {
        node: "n2".to_owned(),
        incarnation: 1,
        sequence: 1,
        echo: 0,
        message: Message::Heartbeat(Heartbeat {
            state: SpeakerState::Up,
            reply_requested: false,
            hears_receiver: true,
            was_cut_off: false,
            interval: Duration::from_millis(100),
            version: String::new(),
            api_version: 7,
            announced_digest: 0,
            known_digest: 0,
            macs: Vec::new(),
        }),
    }
}

fn mk_speaker(mount: &Mount) -> (HeartbeatTransport, Registry, SocketAddr) {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry, "n1").unwrap();
    let transport = HeartbeatTransport::open(0, &mount.0, metrics).unwrap();
    let port = transport.socket.port().unwrap();
    (transport, registry, (Ipv4Addr::LOCALHOST, port).into())
}

/// The metric with these labels as the exposition shows it; 0 when it is not there.
fn metric(registry: &Registry, name: &str) -> u64 {
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or(0)
}

/// Sends a datagram authenticated by a key. Returns whether it is accepted.
async fn accepted(transport: &mut HeartbeatTransport, to: SocketAddr, key: &[u8]) -> bool {
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let sealed = HeartbeatKeys::new([key]).unwrap().seal(&mk_datagram());
    sender.send_to(&sealed, to).await.unwrap();
    tokio::time::timeout(WAIT, transport.readable()).await.unwrap();
    !transport.receive(Instant::now(), 0, 1).is_empty()
}

#[test]
fn current_key_is_first_and_invalid_keys_are_ignored() {
    let mount = Mount::new("order");
    let write = |name: &str, key: &[u8]| std::fs::write(mount.0.join(name), key).unwrap();
    write("next", &[1; 32]);
    assert!(read_keys(&mount.0).is_err(), "without a current key");
    write(CURRENT_KEY, &[2; 32]);
    write("previous", &[3; 15]);
    write(".hidden", &[4; 32]);
    let keys = read_keys(&mount.0).unwrap();
    assert_eq!(keys, [[2; 32], [1; 32]]);
    write(CURRENT_KEY, &[2; 15]);
    assert!(read_keys(&mount.0).is_err());
}

#[tokio::test]
async fn rotated_keys_are_used_without_restart_or_polling() {
    let (a, b) = ([1; 32], [2; 32]);
    let mount = Mount::new("rotation");
    mount.publish("..1", &[(CURRENT_KEY, &a)]);
    let (mut transport, registry, address) = mk_speaker(&mount);
    assert!(transport.watches_keys());
    assert!(accepted(&mut transport, address, &a).await);
    assert!(!accepted(&mut transport, address, &b).await);
    // Each version of a rotation: the key that authenticates, and whether the old one is accepted.
    let versions: [(&str, &[Entry], [u8; 32], bool); 3] = [
        ("..2", &[(CURRENT_KEY, &a), ("next", &b)], a, true),
        ("..3", &[(CURRENT_KEY, &b), ("previous", &a)], b, true),
        ("..4", &[(CURRENT_KEY, &b)], b, false),
    ];
    for (version, keys, makes, old_accepted) in versions {
        mount.publish(version, keys);
        while transport.read.len() != keys.len() || transport.read[0] != makes {
            let result = tokio::time::timeout(WAIT, transport.keys_changed())
                .await
                .unwrap();
            transport.handle_key_change(result);
        }
        assert_eq!(
            accepted(&mut transport, address, &a).await,
            old_accepted,
            "{version}"
        );
        assert!(accepted(&mut transport, address, &b).await, "{version}");
        assert_eq!(metric(&registry, "lb_speaker_heartbeat_keys"), keys.len() as u64);
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        transport.port = other.local_addr().unwrap().port();
        transport.send(&[Ipv4Addr::LOCALHOST.into()], &mk_datagram());
        let mut buffer = [0; MAX_DATAGRAM_LEN];
        let received = tokio::time::timeout(WAIT, other.recv(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(
            HeartbeatKeys::new([&makes[..]])
                .unwrap()
                .open(&buffer[..received])
                .is_ok(),
            "{version}"
        );
    }
}

#[tokio::test]
async fn without_a_key_nothing_is_sent_or_accepted() {
    let key = [1; 32];
    let mount = Mount::new("without");
    for (version, keys) in [("..1", &[][..]), ("..2", &[(CURRENT_KEY, &[7; 8][..])][..])] {
        mount.publish(version, keys);
        let (mut transport, registry, address) = mk_speaker(&mount);
        assert!(!accepted(&mut transport, address, &key).await, "{version}");
        assert_eq!(
            metric(
                &registry,
                "lb_speaker_heartbeats_refused_total{reason=\"authentication\"}"
            ),
            1
        );
        assert_eq!(metric(&registry, "lb_speaker_heartbeat_keys"), 0);
        transport.port = address.port();
        transport.send(&[Ipv4Addr::LOCALHOST.into()], &mk_datagram());
        assert_eq!(metric(&registry, "lb_speaker_heartbeats_sent_total"), 0);
    }
    let (mut transport, _, address) = mk_speaker(&mount);
    mount.publish("..3", &[(CURRENT_KEY, &key)]);
    while transport.keys.is_none() {
        let result = tokio::time::timeout(WAIT, transport.keys_changed())
            .await
            .unwrap();
        transport.handle_key_change(result);
    }
    assert!(accepted(&mut transport, address, &key).await);
    // A lost key stays in use: the other speakers still have it.
    mount.publish("..4", &[]);
    transport.read_keys();
    assert!(accepted(&mut transport, address, &key).await);
}

#[tokio::test]
async fn flood_costs_a_bounded_number_of_verifications() {
    let mount = Mount::new("flood");
    mount.publish("..1", &[(CURRENT_KEY, &[1; 32])]);
    let (mut transport, registry, address) = mk_speaker(&mount);
    let sender = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let forged = HeartbeatKeys::new([&[9; 32][..]]).unwrap().seal(&mk_datagram());
    let now = Instant::now();
    let (ours, excess) = (77, 100);
    for _ in 0..(MAX_FIRST_CONTACTS + excess).div_ceil(50) {
        for _ in 0..50 {
            sender.send_to(&forged, address).unwrap();
        }
        transport.readable().await;
        assert!(transport.receive(now, ours, 50).is_empty());
    }
    let refused = |reason| {
        metric(
            &registry,
            &format!("lb_speaker_heartbeats_refused_total{{reason={reason:?}}}"),
        )
    };
    assert_eq!(refused("authentication"), u64::from(MAX_FIRST_CONTACTS));
    assert_eq!(refused("echo"), u64::from(excess));
    // A datagram of a peer that knows us is read all the same.
    let mut known = mk_datagram();
    known.echo = ours;
    let sealed = HeartbeatKeys::new([&[1; 32][..]]).unwrap().seal(&known);
    sender.send_to(&sealed, address).unwrap();
    transport.readable().await;
    assert_eq!(transport.receive(now, ours, 50), [known]);
    // The next second has a budget of its own.
    sender.send_to(&forged, address).unwrap();
    transport.readable().await;
    transport.receive(now + FIRST_CONTACT_WINDOW, ours, 50);
    assert_eq!(refused("authentication"), u64::from(MAX_FIRST_CONTACTS) + 1);
}

#[tokio::test]
async fn flood_does_not_keep_other_tasks_from_running() {
    let mount = Mount::new("yield");
    mount.publish("..1", &[(CURRENT_KEY, &[1; 32])]);
    let (mut transport, _, address) = mk_speaker(&mount);
    let sender = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let turns = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let rounds = 100;
    for _ in 0..rounds {
        // The socket is readable each time.
        for _ in 0..DATAGRAMS_PER_YIELD {
            sender.send_to(&[0; 16], address).unwrap();
        }
        transport.readable().await;
        transport.receive(Instant::now(), 0, DATAGRAMS_PER_YIELD);
    }
    assert!(turns.load(std::sync::atomic::Ordering::Relaxed) >= rounds - 1);
    other.abort();
}
