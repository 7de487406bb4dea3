//! Sends neighbor solicitations for an IPv6 address and records the answers.
//!
//! The solicitations are those of duplicate address detection, from the unspecified address (RFC 4862, section 5.4.2).
//! Answers go to all nodes, so a client that knows the address may learn from them: do not use this where the client's
//! neighbor table is tested.

use std::io::{Read as _, Write as _};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::Context;
use lb_l2::MacAddr;
use lb_l2::wire::ndp::{ETHERTYPE, NdpFrame, NdpMessage, probe};

use super::Probe;
use super::arp::{Answers, is_transient, packet_socket, probe_periodically};
use lb_lab::Lab;

/// MAC address of the host that sends requests.
const PROBE_MAC: MacAddr = MacAddr([0x02, 0x1b, 0, 0, 0, 0xfe]);
/// Read timeout, after which a reader checks whether the probe has ended.
const READ_TIMEOUT: Duration = Duration::from_millis(50);

/// Sends a solicitation for an address in every period, on an interface of the client.
///
/// # Errors
/// When the client's network namespace does not exist.
pub fn probe_on(
    lab: &Lab,
    interface: &'static str,
    address: Ipv6Addr,
    period: Duration,
) -> anyhow::Result<Probe<Answers>> {
    Probe::start(lab, move |shared| {
        let socket = packet_socket(interface, ETHERTYPE)?;
        let ask = || match (&socket).write(&probe(PROBE_MAC, address)) {
            Err(error) if !is_transient(&error) => Err(error).context("send a request"),
            _ => Ok(()),
        };
        let answer = || {
            let mut buffer = [0; 256];
            let start = Instant::now();
            while start.elapsed() < READ_TIMEOUT {
                let length = match (&socket).read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if is_transient(&error) => break,
                    Err(error) => return Err(error).context("receive a reply"),
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
        probe_periodically(shared, period, ask, answer)
    })
}
