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

    /// Brings another version of the Secret, in the kubelet's way: all its files at once, by replacing a link.
    fn bring(&self, version: &str, keys: &[Entry]) {
        let files = self.0.join(version);
        std::fs::create_dir(&files).unwrap();
        for (name, key) in keys {
            std::fs::write(files.join(name), key).unwrap();
        }
        let before = self.0.join(DATA).read_link().ok();
        symlink(version, self.0.join("..data_tmp")).unwrap();
        std::fs::rename(self.0.join("..data_tmp"), self.0.join(DATA)).unwrap();
        for (name, _) in keys {
            let _ = symlink(format!("{DATA}/{name}"), self.0.join(name));
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
            interval: Duration::from_millis(100),
            version: String::new(),
            announced_digest: 0,
            known_digest: 0,
            macs: Vec::new(),
        }),
    }
}

fn mk_speaker(mount: &Mount) -> (HeartbeatTransport, Registry, SocketAddr) {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry, "n1").unwrap();
    let heartbeats = HeartbeatTransport::open(0, &mount.0, metrics).unwrap();
    let port = heartbeats.socket.port().unwrap();
    (heartbeats, registry, (Ipv4Addr::LOCALHOST, port).into())
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

/// Somebody sends what a key has made; returns whether it is believed.
async fn believed(heartbeats: &HeartbeatTransport, to: SocketAddr, key: &[u8]) -> bool {
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let sealed = HeartbeatKeys::new([key]).unwrap().seal(&mk_datagram());
    sender.send_to(&sealed, to).await.unwrap();
    tokio::time::timeout(WAIT, heartbeats.readable()).await.unwrap();
    !heartbeats.receive(1).is_empty()
}

#[test]
fn the_current_key_comes_first_and_one_that_cannot_be_used_is_left_out() {
    let mount = Mount::new("order");
    let write = |name: &str, key: &[u8]| std::fs::write(mount.0.join(name), key).unwrap();
    write("next", &[1; 32]);
    assert!(read(&mount.0).is_err(), "there is no current one");
    write(CURRENT, &[2; 32]);
    write("previous", &[3; 15]);
    write(".hidden", &[4; 32]);
    let keys = read(&mount.0).unwrap();
    assert_eq!(keys, [[2; 32], [1; 32]]);
    write(CURRENT, &[2; 15]);
    assert!(read(&mount.0).is_err());
}

#[tokio::test]
async fn keys_that_the_kubelet_brings_are_used_without_a_restart_and_without_looking() {
    let (a, b) = ([1; 32], [2; 32]);
    let mount = Mount::new("rotation");
    mount.bring("..1", &[(CURRENT, &a)]);
    let (mut heartbeats, registry, address) = mk_speaker(&mount);
    assert!(heartbeats.is_told());
    assert!(believed(&heartbeats, address, &a).await);
    assert!(!believed(&heartbeats, address, &b).await);
    // Each version of a rotation: which key makes datagrams, and which are believed.
    let versions: [(&str, &[Entry], [u8; 32], bool); 3] = [
        ("..2", &[(CURRENT, &a), ("next", &b)], a, true),
        ("..3", &[(CURRENT, &b), ("previous", &a)], b, true),
        ("..4", &[(CURRENT, &b)], b, false),
    ];
    for (version, keys, makes, old_believed) in versions {
        mount.bring(version, keys);
        while heartbeats.read.len() != keys.len() || heartbeats.read[0] != makes {
            let told = tokio::time::timeout(WAIT, heartbeats.changed()).await.unwrap();
            heartbeats.told(told);
        }
        assert_eq!(
            believed(&heartbeats, address, &a).await,
            old_believed,
            "{version}"
        );
        assert!(believed(&heartbeats, address, &b).await, "{version}");
        assert_eq!(metric(&registry, "lb_speaker_heartbeat_keys"), keys.len() as u64);
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        heartbeats.port = other.local_addr().unwrap().port();
        heartbeats.send(&[Ipv4Addr::LOCALHOST.into()], &mk_datagram());
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
async fn without_a_key_nothing_is_sent_and_nothing_is_believed_until_there_is_one() {
    let key = [1; 32];
    let mount = Mount::new("without");
    for (version, keys) in [("..1", &[][..]), ("..2", &[(CURRENT, &[7; 8][..])][..])] {
        mount.bring(version, keys);
        let (mut heartbeats, registry, address) = mk_speaker(&mount);
        assert!(!believed(&heartbeats, address, &key).await, "{version}");
        assert_eq!(
            metric(
                &registry,
                "lb_speaker_heartbeats_refused_total{reason=\"authentication\"}"
            ),
            1
        );
        assert_eq!(metric(&registry, "lb_speaker_heartbeat_keys"), 0);
        heartbeats.port = address.port();
        heartbeats.send(&[Ipv4Addr::LOCALHOST.into()], &mk_datagram());
        assert_eq!(metric(&registry, "lb_speaker_heartbeats_sent_total"), 0);
    }
    let (mut heartbeats, _, address) = mk_speaker(&mount);
    mount.bring("..3", &[(CURRENT, &key)]);
    while heartbeats.keys.is_none() {
        let told = tokio::time::timeout(WAIT, heartbeats.changed()).await.unwrap();
        heartbeats.told(told);
    }
    assert!(believed(&heartbeats, address, &key).await);
    // One that is lost stays in force: the other speakers still have it.
    mount.bring("..4", &[]);
    heartbeats.look();
    assert!(believed(&heartbeats, address, &key).await);
}
