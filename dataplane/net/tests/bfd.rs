//! BFD sockets in a real kernel. Needs root.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[allow(dead_code, reason = "a part is used")]
mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_net::bfd::{BfdReceiver, BfdSender, Hops, Neighbor, Waker, wait};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use support::{Segment, within};

const NODE: [&str; 2] = ["192.168.50.21", "fd00:50::21"];
const ROUTER: [&str; 2] = ["192.168.50.10", "fd00:50::10"];
const OURS: u32 = 0x0102_0304;

fn segment() -> Result<Segment> {
    let segment = Segment::new()?;
    segment.node_ip("address add fd00:50::21/64 dev lan0 nodad")?;
    segment.client_ip("address add fd00:50::10/64 dev lan0 nodad")?;
    segment.client_ip("address add 192.168.50.11/24 dev lan0")?;
    segment.client_ip("address add fd00:50::11/64 dev lan0 nodad")?;
    Ok(segment)
}

/// A packet in state Down.
fn packet(your_discriminator: u32) -> [u8; 24] {
    let mut packet = [0; 24];
    (packet[0], packet[1], packet[3]) = (0x20, 0x40, 24);
    packet[8..12].copy_from_slice(&your_discriminator.to_be_bytes());
    packet
}

/// A socket of the router with this TTL.
fn router(address: &str, ttl: u32) -> UdpSocket {
    let address: IpAddr = address.parse().unwrap();
    let socket = UdpSocket::bind(SocketAddr::new(address, 0)).unwrap();
    let options = socket2::SockRef::from(&socket);
    match address {
        IpAddr::V4(_) => options.set_ttl_v4(ttl).unwrap(),
        IpAddr::V6(_) => options.set_unicast_hops_v6(ttl).unwrap(),
    }
    socket
}

fn received(receiver: &BfdReceiver) -> Vec<(IpAddr, usize)> {
    let mut buffer = [0; 64];
    std::iter::from_fn(|| receiver.receive(&mut buffer).unwrap()).collect()
}

#[test]
fn only_packets_of_neighbors_with_ttl_and_discriminator_arrive() -> Result<()> {
    for (hops, min_ttl) in [(Hops::Single, 255), (Hops::Multi, 250)] {
        for family in [0, 1] {
            let segment = segment()?;
            let (node, client) = (segment.node.clone(), segment.client.clone());
            let local: IpAddr = NODE[family].parse()?;
            let to = SocketAddr::new(local, hops.port());
            let receiver = within(&node, async || Ok(BfdReceiver::bind(local, Some("lan0"), hops)?))?;
            let send = |from: String, ttl: u32, octets: Vec<u8>| {
                within(&client, async || {
                    Ok(router(&from, ttl).send_to(&octets, to).map(drop)?)
                })
            };
            let address = ROUTER[family].to_owned();
            let other = address.replace("10", "11");
            send(address.clone(), 255, packet(OURS).to_vec())?;
            ensure!(
                received(&receiver).is_empty(),
                "nothing before the neighbors are known"
            );
            let neighbor = |address: &str| Neighbor {
                address: address.parse().unwrap(),
                min_ttl,
                discriminators: vec![7, OURS],
            };
            let farther = if family == 0 {
                "192.168.50.12"
            } else {
                "fd00:50::12"
            };
            receiver.set_neighbors(&[neighbor(farther), neighbor(&address)])?;
            for (from, ttl, octets) in [
                (&address, u32::from(min_ttl) - 1, packet(OURS).to_vec()),
                (&address, 64, packet(OURS).to_vec()),
                (&address, 255, packet(OURS + 1).to_vec()),
                (&address, 255, packet(OURS)[..11].to_vec()),
                (
                    &address,
                    255,
                    [0x40].iter().chain(&packet(OURS)[1..]).copied().collect(),
                ),
                (
                    &address,
                    255,
                    [0x20, 0x40, 3, 23]
                        .iter()
                        .chain(&packet(OURS)[4..])
                        .copied()
                        .collect(),
                ),
                // Up, but without a discriminator.
                (
                    &address,
                    255,
                    [0x20, 0xc0].iter().chain(&packet(0)[2..]).copied().collect(),
                ),
                (&address, 255, Vec::new()),
                (&other, 255, packet(OURS).to_vec()),
            ] {
                send(from.clone(), ttl, octets)?;
            }
            // Local delivery over a veth is immediate.
            ensure!(received(&receiver).is_empty(), "{hops:?} {address}");
            for discriminator in [0, 7, OURS] {
                send(address.clone(), min_ttl.into(), packet(discriminator).to_vec())?;
            }
            let from = address.parse()?;
            ensure!(received(&receiver) == [(from, 24); 3], "{hops:?} {address}");
            // Another program on the host would have the port already.
            let second = within(&node, async || {
                Ok(BfdReceiver::bind(local, Some("lan0"), hops).is_err())
            })?;
            ensure!(second, "the port is in use");
        }
    }
    Ok(())
}

#[test]
fn filter_for_very_many_neighbors_checks_the_ttl() -> Result<()> {
    let segment = segment()?;
    let (node, client) = (segment.node.clone(), segment.client.clone());
    let local: IpAddr = NODE[1].parse()?;
    let receiver = within(&node, async || {
        Ok(BfdReceiver::bind(local, Some("lan0"), Hops::Single)?)
    })?;
    let neighbors: Vec<_> = (0..1000_u16)
        .map(|number| Neighbor {
            address: format!("fd00:50::1:{number:x}").parse().unwrap(),
            min_ttl: 255,
            discriminators: vec![OURS],
        })
        .collect();
    receiver.set_neighbors(&neighbors)?;
    within(&client, async || {
        for ttl in [254, 255] {
            router(ROUTER[1], ttl).send_to(&packet(1), SocketAddr::new(local, 3784))?;
        }
        Ok(())
    })?;
    ensure!(received(&receiver).len() == 1);
    Ok(())
}

#[test]
fn packets_leave_with_the_ttl_and_ports_of_the_standard() -> Result<()> {
    for family in [0, 1] {
        let segment = segment()?;
        let (node, client) = (segment.node.clone(), segment.client.clone());
        let (local, remote): (IpAddr, IpAddr) = (NODE[family].parse()?, ROUTER[family].parse()?);
        // The router accepts TTL 255 only.
        let receiver = within(&client, async || {
            Ok(BfdReceiver::bind(remote, Some("lan0"), Hops::Single)?)
        })?;
        receiver.set_neighbors(&[Neighbor {
            address: local,
            min_ttl: 255,
            discriminators: vec![OURS],
        }])?;
        for source in [None, Some(local)] {
            let sender = within(&node, async || {
                // As in a pod without any capability.
                set_capabilities(
                    None,
                    CapabilitySets {
                        effective: CapabilitySet::empty(),
                        permitted: CapabilitySet::empty(),
                        inheritable: CapabilitySet::empty(),
                    },
                )?;
                Ok(BfdSender::connect(remote, source, Some("lan0"), Hops::Single)?)
            })?;
            ensure!(sender.local() == local);
            sender.send(&packet(OURS))?;
            ensure!(received(&receiver) == [(local, 24)]);
        }
        let missing = within(&node, async || {
            let source = Some("192.0.2.1".parse()?);
            Ok(BfdSender::connect("192.168.50.10".parse()?, source, None, Hops::Single).is_err())
        })?;
        ensure!(missing, "the host does not have the source address");
    }
    Ok(())
}

#[test]
fn wait_ends_at_packets_calls_and_its_timeout() -> Result<()> {
    let local: IpAddr = "127.0.0.1".parse()?;
    let segment = segment()?;
    within(&segment.node, async || {
        let receiver = BfdReceiver::bind(local, None, Hops::Multi)?;
        receiver.set_neighbors(&[Neighbor {
            address: local,
            min_ttl: 255,
            discriminators: Vec::new(),
        }])?;
        let waker = Waker::new()?;
        let begin = Instant::now();
        wait([&receiver], &waker, Some(Duration::from_millis(20)))?;
        let waited = begin.elapsed();
        ensure!(waited >= Duration::from_millis(20) && waited < Duration::from_secs(5));
        waker.wake();
        wait([&receiver], &waker, None)?;
        let sender = BfdSender::connect(local, None, None, Hops::Multi)?;
        sender.send(&packet(0))?;
        wait([&receiver], &waker, None)?;
        ensure!(received(&receiver).len() == 1);
        Ok(())
    })
}
