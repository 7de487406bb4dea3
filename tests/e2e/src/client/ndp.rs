//! Who has an IPv6 address, asked by neighbour discovery.
//!
//! The questions are probes for duplicates, from nobody: the answers go to all nodes, so a client that knows the address
//! already may learn from them. Where its table of neighbours is what is looked at, it is not to be asked for like this.

use std::io::{Read as _, Write as _};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::Context;
use lb_l2::MacAddr;
use lb_l2::wire::ndp::{ETHERTYPE, NdpFrame, NdpMessage, probe};

use super::Probe;
use super::arp::{Answers, again_and_again, is_passing, packet_socket};
use lb_lab::Lab;

/// The host that asks.
const HARDWARE: MacAddr = MacAddr([0x02, 0x1b, 0, 0, 0, 0xfe]);
/// How long an answer is waited for before the reader looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// Asks for an address again and again, on an interface of the client's.
///
/// # Errors
/// When the client's network is not there.
pub fn probe_on(
    lab: &Lab,
    interface: &'static str,
    address: Ipv6Addr,
    period: Duration,
) -> anyhow::Result<Probe<Answers>> {
    Probe::start(lab, move |shared| {
        let socket = packet_socket(interface, ETHERTYPE)?;
        let ask = || match (&socket).write(&probe(HARDWARE, address)) {
            Err(error) if !is_passing(&error) => Err(error).context("ask who has an address"),
            _ => Ok(()),
        };
        let answer = || {
            let mut buffer = [0; 256];
            let start = Instant::now();
            while start.elapsed() < LOOK {
                let length = match (&socket).read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if is_passing(&error) => break,
                    Err(error) => return Err(error).context("wait for an answer"),
                };
                let frame = buffer
                    .get(..length)
                    .and_then(|bytes| NdpFrame::decode(bytes).ok());
                if let Some(frame) = frame
                    && frame.target == address
                    && matches!(frame.message, NdpMessage::Advertisement { .. })
                {
                    return Ok(Some(frame.src));
                }
            }
            Ok(None)
        };
        again_and_again(shared, period, ask, answer)
    })
}
