//! One interface that we announce on, with a voice for each protocol.
//!
//! What happens on one interface stays there: an error ends at most the tasks of its voices, never those of another.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use lb_net::SocketError;
use lb_proto::MacAddr;
use lb_proto::neighbour::NeighbourResponder;
use lb_proto::responder::Responder;

use crate::metrics::Metrics;
use crate::voice::Voice;

/// An open interface. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Port {
    index: u32,
    name: String,
    mac: MacAddr,
    metrics: Metrics,
    arp: Voice<Responder>,
    /// Open from the first IPv6 address on: all IPv6 packets of the node pass its filter.
    ndp: Option<Voice<NeighbourResponder>>,
    /// IPv6 addresses that wait for it to be open.
    waiting: BTreeSet<Ipv6Addr>,
}

impl Port {
    /// Opens the interface; nothing is answered yet. To be called within a tokio runtime.
    pub(crate) fn open(
        index: u32,
        name: String,
        mac: MacAddr,
        metrics: Metrics,
    ) -> Result<Self, SocketError> {
        Ok(Self {
            arp: Voice::open(index, &name, mac, metrics.clone())?,
            ndp: None,
            waiting: BTreeSet::new(),
            index,
            name,
            mac,
            metrics,
        })
    }

    /// Name of the interface.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes the name and the MAC that the interface has now; returns whether either is new.
    pub(crate) fn rename(&mut self, name: &str, mac: MacAddr) -> bool {
        if self.name == name && self.mac == mac {
            return false;
        }
        self.mac = mac;
        self.arp.set_mac(mac);
        if let Some(ndp) = &self.ndp {
            ndp.set_mac(mac);
        }
        name.clone_into(&mut self.name);
        true
    }

    /// Whether we answer for the address here.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.arp.has(v4),
            IpAddr::V6(v6) => self.ndp.as_ref().is_some_and(|ndp| ndp.has(v6)),
        }
    }

    /// Starts answering for the address, as soon as the filter is applied. Returns whether it is new here.
    pub(crate) fn insert(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.arp.insert(v4),
            IpAddr::V6(v6) => match &mut self.ndp {
                Some(ndp) => ndp.insert(v6),
                None => self.waiting.insert(v6),
            },
        }
    }

    /// Stops answering for the address at once, also requests that the kernel has queued already.
    pub(crate) fn remove(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.arp.remove(v4),
            IpAddr::V6(v6) => {
                self.waiting.remove(&v6);
                if let Some(ndp) = &mut self.ndp {
                    ndp.remove(v6);
                }
            }
        }
    }

    /// Brings the kernel's filters up to date. Returns whether they are.
    pub(crate) fn apply_filter(&mut self) -> bool {
        if !self.waiting.is_empty() {
            self.speak_ndp();
        }
        let arp = self.arp.apply_filter(&self.name);
        let ndp = match &mut self.ndp {
            Some(ndp) => ndp.apply_filter(&self.name),
            None => self.waiting.is_empty(),
        };
        arp && ndp
    }

    /// Sends one burst of gratuitous ARP, or an unsolicited advertisement.
    pub(crate) fn burst(&self, address: IpAddr) {
        match (address, &self.ndp) {
            (IpAddr::V4(v4), _) => self.arp.burst(&self.name, v4),
            (IpAddr::V6(v6), Some(ndp)) => ndp.burst(&self.name, v6),
            (IpAddr::V6(_), None) => {}
        }
    }

    /// Opens the voice for IPv6, with the addresses that wait for it, if it can be opened now.
    fn speak_ndp(&mut self) {
        match Voice::open(self.index, &self.name, self.mac, self.metrics.clone()) {
            Ok(mut ndp) => {
                for address in std::mem::take(&mut self.waiting) {
                    ndp.insert(address);
                }
                self.ndp = Some(ndp);
            }
            // It went away meanwhile: the next snapshot says so.
            Err(SocketError::InterfaceDown(_) | SocketError::InterfaceGone(_)) => {}
            Err(error) => tracing::warn!(
                interface = self.name,
                error = crate::chain(&error),
                "cannot speak NDP: trying again"
            ),
        }
    }
}
