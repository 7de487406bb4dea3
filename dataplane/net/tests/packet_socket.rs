//! The packet socket and its filter in a real kernel. Needs root and `arping`.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_l2::responder::FrameOutcome;
use lb_l2::wire::arp::{ArpFrame, ArpOperation, gratuitous};
use lb_l2::{ArpResponder, MacAddr};
use lb_net::packet_socket::{FRAME_BUFFER_LEN, Fit};
use lb_net::{Link, PacketSocket, SocketError};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use support::{INTERFACE, Segment, interface, run, within};

const OWNED: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 200);

/// Waits for a frame without blocking the runtime.
async fn recv(socket: &PacketSocket, buffer: &mut [u8]) -> Result<usize, SocketError> {
    loop {
        match socket.recv(buffer)? {
            Some(len) => return Ok(len),
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// A minimal speaker on one interface.
struct Speaker {
    link: Link,
    mac: MacAddr,
    socket: PacketSocket,
    responder: RefCell<ArpResponder>,
    received: Cell<u32>,
}

impl Speaker {
    async fn new(owned: impl IntoIterator<Item = Ipv4Addr>) -> Result<Self> {
        let link = interface().await?;
        let mac = link.mac.unwrap();
        let socket = PacketSocket::arp(link.index)?;
        let speaker = Self {
            link,
            mac,
            socket,
            responder: RefCell::default(),
            received: Cell::new(0),
        };
        speaker.own(owned)?;
        Ok(speaker)
    }

    fn own(&self, owned: impl IntoIterator<Item = Ipv4Addr>) -> Result<Fit> {
        let mut responder = self.responder.borrow_mut();
        *responder = ArpResponder::new();
        for address in owned {
            responder.insert(address);
        }
        Ok(self.socket.set_addresses(responder.addresses(), [])?)
    }

    /// Answers the requests that are still queued.
    async fn drain(&self) -> Result<()> {
        let pause = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(())
        };
        self.during(pause).await
    }

    /// Answers requests while `work` runs.
    async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = async {
            let mut buffer = [0; FRAME_BUFFER_LEN];
            loop {
                let len = recv(&self.socket, &mut buffer).await?;
                self.received.set(self.received.get() + 1);
                if let FrameOutcome::Reply { frame, .. } =
                    self.responder.borrow().handle(self.mac, &buffer[..len])
                {
                    self.socket.send(&frame)?;
                }
            }
        };
        tokio::select! {
            result = work => result,
            result = answer => result,
        }
    }
}

/// Runs `arping` on the client without blocking the runtime. Returns whether it succeeded, and its output.
async fn arping(segment: &Segment, options: &str, address: Ipv4Addr) -> Result<(bool, String)> {
    let command = format!(
        "netns exec {} arping -I {INTERFACE} {options} {address}",
        segment.client
    );
    let output = blocking(move || run(&command)).await?;
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    ))
}

/// Runs `work` on another thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Sends a request from the client for each of `targets`, about 5,000 per second.
async fn send_requests(client: &str, targets: Vec<Ipv4Addr>) -> Result<()> {
    let client = client.to_owned();
    let send = async move || {
        let link = interface().await?;
        let mac = link.mac.unwrap();
        let socket = PacketSocket::arp(link.index)?;
        for batch in targets.chunks(50) {
            for target_ip in batch {
                let request = ArpFrame {
                    dst: MacAddr::BROADCAST,
                    src: mac,
                    operation: ArpOperation::Request,
                    sender_mac: mac,
                    sender_ip: Ipv4Addr::new(192, 168, 50, 10),
                    target_mac: MacAddr::ZERO,
                    target_ip: *target_ip,
                };
                socket.send(&request.encode())?;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    blocking(move || within(&client, send)).await
}

/// `count` addresses at distance `step`.
fn scattered(count: u32, step: u32) -> Vec<Ipv4Addr> {
    (0..count)
        .map(|n| Ipv4Addr::from(0xc0a8_6400 + n * step))
        .collect()
}

#[test]
fn answers_with_the_mac_of_the_interface() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED]).await?;
        let (answered, text) = speaker.during(arping(&segment, "-c 1 -w 3", OWNED)).await?;
        ensure!(
            answered && text.contains(&speaker.mac.to_string().to_uppercase()),
            "{text}"
        );
        // A probe: arping -D reports by its exit status that the address is in use.
        let (free, text) = speaker.during(arping(&segment, "-D -c 1 -w 3", OWNED)).await?;
        ensure!(!free && text.contains("Received 1 response"), "{text}");
        Ok(())
    })
}

#[test]
fn requests_for_other_addresses_stay_in_the_kernel() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED]).await?;
        let others: Vec<_> = (0..5000_u32)
            .map(|n| Ipv4Addr::from(0xc0a8_3200 + n))
            .filter(|address| *address != OWNED)
            .collect();
        speaker.during(send_requests(&segment.client, others)).await?;
        assert_eq!(speaker.received.get(), 0);
        let (answered, text) = speaker.during(arping(&segment, "-c 1 -w 3", OWNED)).await?;
        ensure!(answered && speaker.received.get() == 1, "{text}");
        Ok(())
    })
}

#[test]
fn stops_answering_for_withdrawn_addresses_only() -> Result<()> {
    let segment = Segment::new()?;
    let stays = Ipv4Addr::new(192, 168, 50, 201);
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED, stays]).await?;
        speaker.own([stays])?;
        let (answered, text) = speaker.during(arping(&segment, "-c 1 -w 1", OWNED)).await?;
        ensure!(!answered && speaker.received.get() == 0, "{text}");
        let (answered, text) = speaker.during(arping(&segment, "-c 1 -w 3", stays)).await?;
        ensure!(answered, "{text}");
        Ok(())
    })
}

#[test]
fn replacing_the_filter_loses_no_request() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED]).await?;
        let replace = async {
            for n in 0_u32.. {
                speaker.own(scattered(n % 50, 2).into_iter().chain([OWNED]))?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        speaker
            .during(async {
                tokio::select! {
                    result = replace => result,
                    result = send_requests(&segment.client, vec![OWNED; 2000]) => result,
                }
            })
            .await?;
        speaker.drain().await?;
        assert_eq!(speaker.received.get(), 2000);
        Ok(())
    })
}

#[test]
fn kernel_accepts_a_thousand_separate_addresses() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let owned = scattered(1000, 2);
        let speaker = Speaker::new([]).await?;
        assert_eq!(speaker.own(owned.iter().copied())?, Fit::Exact);
        let between = owned
            .iter()
            .map(|address| Ipv4Addr::from(u32::from(*address) + 1))
            .collect();
        speaker.during(send_requests(&segment.client, between)).await?;
        assert_eq!(speaker.received.get(), 0);
        speaker.during(send_requests(&segment.client, owned)).await?;
        speaker.drain().await?;
        assert_eq!(speaker.received.get(), 1000);
        Ok(())
    })
}

#[test]
fn small_optmem_gets_a_coarser_filter() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        // The default before Linux 6.8. The file belongs to the network namespace of the writing thread.
        std::fs::write("/proc/sys/net/core/optmem_max", "20480")?;
        let owned = scattered(1000, 2);
        let speaker = Speaker::new([]).await?;
        // Twice, because the second filter needs memory besides the first.
        for _ in 0..2 {
            let fit = speaker.own(owned.iter().copied())?;
            ensure!(
                matches!(fit, Fit::Coarse { instructions } if instructions > 100),
                "{fit:?}"
            );
        }
        speaker.during(send_requests(&segment.client, owned)).await?;
        speaker.drain().await?;
        assert_eq!(speaker.received.get(), 1000);
        Ok(())
    })
}

/// Drops all capabilities of the calling thread except `CAP_NET_RAW`, as in the speaker's container.
fn keep_only_net_raw() -> Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::NET_RAW,
        permitted: CapabilitySet::NET_RAW,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

#[test]
fn needs_only_net_raw() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        keep_only_net_raw()?;
        let speaker = Speaker::new([OWNED]).await?;
        speaker.own(scattered(1000, 2).into_iter().chain([OWNED]))?;
        let (answered, text) = speaker.during(arping(&segment, "-c 1 -w 3", OWNED)).await?;
        ensure!(answered, "{text}");
        Ok(())
    })
}

#[test]
fn gratuitous_arp_updates_the_cache_of_a_client() -> Result<()> {
    let segment = Segment::new()?;
    segment.client_ip(&format!(
        "neighbour add {OWNED} lladdr 02:00:00:00:00:99 dev {INTERFACE} nud stale"
    ))?;
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED]).await?;
        for frame in gratuitous(speaker.mac, OWNED) {
            speaker.socket.send(&frame)?;
        }
        let (client, mac) = (segment.client.clone(), speaker.mac);
        let seen = blocking(move || {
            for _ in 0..50 {
                let output = std::process::Command::new("ip")
                    .args(["-n", &client, "neighbour", "show", &OWNED.to_string()])
                    .output()?;
                if String::from_utf8_lossy(&output.stdout).contains(&mac.to_string()) {
                    return Ok(true);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(false)
        });
        ensure!(seen.await?, "the client still has the MAC of the previous owner");
        Ok(())
    })
}

#[test]
fn interface_down_is_reported_once_and_recovers() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED]).await?;
        segment.node_ip(&format!("link set {INTERFACE} down"))?;
        let mut buffer = [0; FRAME_BUFFER_LEN];
        let error = recv(&speaker.socket, &mut buffer).await;
        ensure!(matches!(error, Err(SocketError::InterfaceDown(_))), "{error:?}");
        let error = speaker.socket.send(&gratuitous(speaker.mac, OWNED)[0]);
        ensure!(matches!(error, Err(SocketError::InterfaceDown(_))), "{error:?}");
        let again =
            tokio::time::timeout(Duration::from_millis(100), recv(&speaker.socket, &mut buffer)).await;
        ensure!(
            again.is_err(),
            "an interface that stays down must not report further errors: {again:?}"
        );
        segment.node_ip(&format!("link set {INTERFACE} up"))?;
        interface().await?;
        let (answered, text) = speaker.during(arping(&segment, "-c 3 -f -w 5", OWNED)).await?;
        ensure!(answered, "{text}");
        Ok(())
    })
}

#[test]
fn deleted_interface_is_reported_by_send_and_open() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED]).await?;
        segment.node_ip(&format!("link delete {INTERFACE}"))?;
        let error = recv(&speaker.socket, &mut [0; FRAME_BUFFER_LEN]).await;
        ensure!(matches!(error, Err(SocketError::InterfaceDown(_))), "{error:?}");
        let error = speaker.socket.send(&gratuitous(speaker.mac, OWNED)[0]);
        ensure!(matches!(error, Err(SocketError::InterfaceGone(_))), "{error:?}");
        for index in [speaker.link.index, 0, u32::MAX] {
            let error = PacketSocket::arp(index).map(drop);
            ensure!(
                matches!(error, Err(SocketError::InterfaceGone(_))),
                "{index}: {error:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn accepts_addresses_as_slice_or_set() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let socket = PacketSocket::arp(interface().await?.index)?;
        socket.set_addresses(&[OWNED], [])?;
        socket.set_addresses(&BTreeSet::from([OWNED]), [])?;
        Ok(())
    })
}
