//! The ARP socket and its filter in a real kernel. Needs root and `arping`.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_l2::ArpResponder;
use lb_l2::MacAddr;
use lb_l2::responder::FrameOutcome;
use lb_l2::wire::arp::{ArpFrame, ArpOperation, gratuitous};
use lb_net::socket::{FRAME_BUFFER, Fit};
use lb_net::{Link, PacketSocket, SocketError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use support::{INTERFACE, Segment, interface, run, within};

const OWNED: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 200);

/// Waits for a frame, beside other work of the runtime.
async fn recv(socket: &PacketSocket, buffer: &mut [u8]) -> Result<usize, SocketError> {
    let interest = Interest::READABLE | Interest::ERROR;
    // SAFETY: the descriptor is borrowed for longer than it is registered.
    let polled = unsafe { AsyncFd::register_with_interest(socket.as_fd(), interest) }.unwrap();
    loop {
        let mut guard = polled.ready(interest).await.unwrap();
        match socket.recv(buffer)? {
            Some(len) => return Ok(len),
            None => guard.clear_ready(),
        }
    }
}

/// A speaker cut down to one interface.
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

    /// Answers what is still queued.
    async fn settle(&self) -> Result<()> {
        let pause = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(())
        };
        self.during(pause).await
    }

    /// Answers while `work` goes on.
    async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = async {
            let mut buffer = [0; FRAME_BUFFER];
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

/// `arping` from the client, without blocking the runtime: whether it was content, and what it printed.
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

/// Requests from the client for each of `targets`, at about 5,000 a second.
async fn ask(client: &str, targets: Vec<Ipv4Addr>) -> Result<()> {
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

/// Every `step`th address, so that no two are neighbours.
fn scattered(count: u32, step: u32) -> Vec<Ipv4Addr> {
    (0..count)
        .map(|n| Ipv4Addr::from(0xc0a8_6400 + n * step))
        .collect()
}

#[test]
fn a_client_is_answered_with_the_mac_of_the_interface() -> Result<()> {
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
fn requests_for_other_addresses_never_reach_user_space() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED]).await?;
        let others: Vec<_> = (0..5000_u32)
            .map(|n| Ipv4Addr::from(0xc0a8_3200 + n))
            .filter(|address| *address != OWNED)
            .collect();
        speaker.during(ask(&segment.client, others)).await?;
        assert_eq!(speaker.received.get(), 0);
        let (answered, text) = speaker.during(arping(&segment, "-c 1 -w 3", OWNED)).await?;
        ensure!(answered && speaker.received.get() == 1, "{text}");
        Ok(())
    })
}

#[test]
fn a_withdrawn_address_is_not_answered_and_those_that_stay_are() -> Result<()> {
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
fn no_answer_is_lost_while_the_filter_is_replaced() -> Result<()> {
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
                    result = ask(&segment.client, vec![OWNED; 2000]) => result,
                }
            })
            .await?;
        speaker.settle().await?;
        assert_eq!(speaker.received.get(), 2000);
        Ok(())
    })
}

#[test]
fn the_kernel_takes_a_filter_of_a_thousand_separate_addresses() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let owned = scattered(1000, 2);
        let speaker = Speaker::new([]).await?;
        assert_eq!(speaker.own(owned.iter().copied())?, Fit::Exact);
        let between = owned
            .iter()
            .map(|address| Ipv4Addr::from(u32::from(*address) + 1))
            .collect();
        speaker.during(ask(&segment.client, between)).await?;
        assert_eq!(speaker.received.get(), 0);
        speaker.during(ask(&segment.client, owned)).await?;
        speaker.settle().await?;
        assert_eq!(speaker.received.get(), 1000);
        Ok(())
    })
}

#[test]
fn a_kernel_with_little_memory_for_filters_gets_a_coarser_one_that_loses_no_address() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        // What kernels before 6.8 have. The file is that of the writing thread's namespace.
        std::fs::write("/proc/sys/net/core/optmem_max", "20480")?;
        let owned = scattered(1000, 2);
        let speaker = Speaker::new([]).await?;
        // Twice: the second must find room beside the first.
        for _ in 0..2 {
            let fit = speaker.own(owned.iter().copied())?;
            ensure!(
                matches!(fit, Fit::Coarse { instructions } if instructions > 100),
                "{fit:?}"
            );
        }
        speaker.during(ask(&segment.client, owned)).await?;
        speaker.settle().await?;
        assert_eq!(speaker.received.get(), 1000);
        Ok(())
    })
}

/// Leaves the calling thread with `CAP_NET_RAW` and nothing else, as the speaker's container has it.
fn keep_only_net_raw() -> Result<()> {
    // linux/capability.h: version 3 has 64 bits, in two data records.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    const NET_RAW: u32 = 1 << 13;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let low = Data {
        effective: NET_RAW,
        permitted: NET_RAW,
        inheritable: 0,
    };
    let data = [
        low,
        Data {
            effective: 0,
            permitted: 0,
            inheritable: 0,
        },
    ];
    // SAFETY: both point to live records laid out as capset(2) reads them; it changes this thread's capabilities only.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    ensure!(result == 0, "capset: {}", std::io::Error::last_os_error());
    Ok(())
}

#[test]
fn the_capability_net_raw_is_enough() -> Result<()> {
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
fn gratuitous_arp_moves_the_entry_of_a_client() -> Result<()> {
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
        ensure!(seen.await?, "the client still believes the old owner");
        Ok(())
    })
}

#[test]
fn an_interface_that_goes_down_says_so_once_and_serves_again_when_up() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED]).await?;
        segment.node_ip(&format!("link set {INTERFACE} down"))?;
        let mut buffer = [0; FRAME_BUFFER];
        let error = recv(&speaker.socket, &mut buffer).await;
        ensure!(matches!(error, Err(SocketError::InterfaceDown(_))), "{error:?}");
        let error = speaker.socket.send(&gratuitous(speaker.mac, OWNED)[0]);
        ensure!(matches!(error, Err(SocketError::InterfaceDown(_))), "{error:?}");
        let again =
            tokio::time::timeout(Duration::from_millis(100), recv(&speaker.socket, &mut buffer)).await;
        ensure!(
            again.is_err(),
            "an interface that stays down must not keep the process busy: {again:?}"
        );
        segment.node_ip(&format!("link set {INTERFACE} up"))?;
        interface().await?;
        let (answered, text) = speaker.during(arping(&segment, "-c 3 -f -w 5", OWNED)).await?;
        ensure!(answered, "{text}");
        Ok(())
    })
}

#[test]
fn a_deleted_interface_ends_in_an_error_of_its_own_when_sent_to_or_opened() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let speaker = Speaker::new([OWNED]).await?;
        segment.node_ip(&format!("link delete {INTERFACE}"))?;
        let error = recv(&speaker.socket, &mut [0; FRAME_BUFFER]).await;
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
fn addresses_may_be_given_as_slice_or_set() -> Result<()> {
    let segment = Segment::new()?;
    within(&segment.node, async || {
        let socket = PacketSocket::arp(interface().await?.index)?;
        socket.set_addresses(&[OWNED], [])?;
        socket.set_addresses(&BTreeSet::from([OWNED]), [])?;
        Ok(())
    })
}
