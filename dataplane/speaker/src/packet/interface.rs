//! One interface that addresses are announced on, with a responder thread for each protocol. Errors stay with their interface.

use std::net::IpAddr;
use std::sync::Arc;

use lb_l2::{Arp, MacAddr, Ndp};
use lb_net::SocketError;
use lb_runtime::error::chain;

use super::responder_thread::{ReplySender, ResponderThread};
use crate::metrics::Metrics;

/// An open interface. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Interface {
    index: u32,
    name: Arc<str>,
    mac: MacAddr,
    metrics: Metrics,
    replies: ReplySender,
    arp: ResponderThread<Arp>,
    /// Opened for the first IPv6 address only, because all ICMPv6 packets of the node pass its filter.
    ndp: Option<ResponderThread<Ndp>>,
    /// Whether opening `ndp` failed, so that it is logged once.
    ndp_unavailable: bool,
}

impl Interface {
    /// Opens the interface without any address. Call within a Tokio runtime.
    pub(crate) fn open(
        index: u32,
        name: String,
        mac: MacAddr,
        metrics: Metrics,
        replies: ReplySender,
    ) -> Result<Self, SocketError> {
        Ok(Self {
            arp: ResponderThread::open(index, &name, mac, metrics.clone(), replies.clone())?,
            ndp: None,
            ndp_unavailable: false,
            replies,
            index,
            name: name.into(),
            mac,
            metrics,
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Sets the present name and MAC. Returns whether either changed.
    pub(crate) fn update(&mut self, name: &str, mac: MacAddr) -> bool {
        if *self.name == *name && self.mac == mac {
            return false;
        }
        self.mac = mac;
        self.arp.set_mac(mac);
        if let Some(ndp) = &self.ndp {
            ndp.set_mac(mac);
        }
        self.name = name.into();
        true
    }

    /// Whether the address is announced here.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.arp.has(v4),
            IpAddr::V6(v6) => self.ndp.as_ref().is_some_and(|ndp| ndp.has(v6)),
        }
    }

    /// Whether any address is announced here.
    pub(crate) fn has_any(&self) -> bool {
        self.arp.has_any() || self.ndp.as_ref().is_some_and(ResponderThread::has_any)
    }

    pub(crate) fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Starts answering for the address once the filter is applied. Returns whether it is new here.
    pub(crate) fn insert(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.arp.insert(v4),
            IpAddr::V6(v6) => self.ndp().is_some_and(|ndp| ndp.insert(v6)),
        }
    }

    /// Starts proxy replies for the address with the hardware address of its owner.
    pub(crate) fn start_proxy(&mut self, address: IpAddr, owner: MacAddr) {
        match address {
            IpAddr::V4(v4) => self.arp.start_proxy(v4, owner),
            IpAddr::V6(v6) => {
                if let Some(ndp) = self.ndp() {
                    ndp.start_proxy(v6, owner);
                }
            }
        }
    }

    /// Stops proxy replies for the address.
    pub(crate) fn stop_proxy(&mut self, address: IpAddr) {
        match (address, &mut self.ndp) {
            (IpAddr::V4(v4), _) => self.arp.stop_proxy(v4),
            (IpAddr::V6(v6), Some(ndp)) => ndp.stop_proxy(v6),
            (IpAddr::V6(_), None) => {}
        }
    }

    /// Stops answering for the address at once, including requests that the kernel has queued.
    pub(crate) fn remove(&mut self, address: IpAddr) {
        match (address, &mut self.ndp) {
            (IpAddr::V4(v4), _) => self.arp.remove(v4),
            (IpAddr::V6(v6), Some(ndp)) => ndp.remove(v6),
            (IpAddr::V6(_), None) => {}
        }
    }

    /// Sends a probe for the address once the filter is applied.
    pub(crate) fn probe(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.arp.probe(v4),
            IpAddr::V6(v6) => {
                if let Some(ndp) = self.ndp() {
                    ndp.probe(v6);
                }
            }
        }
    }

    /// Sends an ordinary request for the address from our address `source`, unicast to `to` or else multicast, once the
    /// filter is applied.
    pub(crate) fn query(&mut self, source: IpAddr, to: Option<MacAddr>, address: IpAddr) {
        match (source, address) {
            (IpAddr::V4(source), IpAddr::V4(v4)) => self.arp.query(source, to, v4),
            (IpAddr::V6(source), IpAddr::V6(v6)) => {
                if let Some(ndp) = self.ndp() {
                    ndp.query(source, to, v6);
                }
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
    }

    /// Stops receiving replies to questions about the address.
    pub(crate) fn stop_watching(&mut self, address: IpAddr) {
        match (address, &mut self.ndp) {
            (IpAddr::V4(v4), _) => self.arp.stop_watching(v4),
            (IpAddr::V6(v6), Some(ndp)) => ndp.stop_watching(v6),
            (IpAddr::V6(_), None) => {}
        }
    }

    /// Updates the kernel filters and sends the questions that waited for them. Returns whether both filters are up to date.
    pub(crate) fn apply_filter(&mut self) -> bool {
        let arp = self.arp.apply_filter(&self.name);
        self.arp.send_questions(&self.name);
        let ndp = match &mut self.ndp {
            Some(ndp) => {
                let applied = ndp.apply_filter(&self.name);
                ndp.send_questions(&self.name);
                applied
            }
            None => true,
        };
        arp && ndp
    }

    /// Handles frames that have arrived and that the threads have not read yet.
    pub(crate) fn read_pending(&self) {
        self.arp.read_pending(&self.name);
        if let Some(ndp) = &self.ndp {
            ndp.read_pending(&self.name);
        }
    }

    /// Sends one gratuitous ARP burst or unsolicited neighbor advertisement.
    pub(crate) fn send_gratuitous(&self, address: IpAddr) {
        match (address, &self.ndp) {
            (IpAddr::V4(v4), _) => self.arp.send_gratuitous(&self.name, v4),
            (IpAddr::V6(v6), Some(ndp)) => ndp.send_gratuitous(&self.name, v6),
            (IpAddr::V6(_), None) => {}
        }
    }

    /// The NDP thread, opened on first use; `None` while it cannot be opened.
    fn ndp(&mut self) -> Option<&mut ResponderThread<Ndp>> {
        if self.ndp.is_none() {
            match ResponderThread::open(
                self.index,
                &self.name,
                self.mac,
                self.metrics.clone(),
                self.replies.clone(),
            ) {
                Ok(ndp) => {
                    self.ndp = Some(ndp);
                    self.ndp_unavailable = false;
                }
                // The next snapshot of the links shows it.
                Err(SocketError::InterfaceDown(_) | SocketError::InterfaceGone(_)) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.ndp_unavailable, true) {
                        tracing::warn!(
                            interface = %self.name,
                            error = chain(&error),
                            "failed to open the NDP socket; not announcing IPv6 addresses here"
                        );
                    }
                }
            }
        }
        self.ndp.as_mut()
    }
}
