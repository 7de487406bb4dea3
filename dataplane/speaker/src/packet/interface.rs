//! One interface that we announce on, with a voice for each protocol.
//!
//! What happens on one interface stays there: an error ends at most the tasks of its voices, never those of another.

use std::net::IpAddr;
use std::sync::Arc;

use lb_l2::MacAddr;
use lb_l2::{Arp, Ndp};
use lb_net::SocketError;

use lb_runtime::error::chain;

use crate::metrics::Metrics;
use crate::packet::responder_thread::{ObservedReplies, ResponderThread};

/// An open interface. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Interface {
    index: u32,
    name: Arc<str>,
    mac: MacAddr,
    metrics: Metrics,
    sightings: ObservedReplies,
    arp: ResponderThread<Arp>,
    /// Open from the first IPv6 address on: all IPv6 packets of the node pass its filter.
    ndp: Option<ResponderThread<Ndp>>,
    /// Whether the interface can take part in IPv6: it joins groups.
    deaf: bool,
}

impl Interface {
    /// Opens the interface; nothing is answered yet. To be called within a tokio runtime.
    pub(crate) fn open(
        index: u32,
        name: String,
        mac: MacAddr,
        metrics: Metrics,
        sightings: ObservedReplies,
    ) -> Result<Self, SocketError> {
        Ok(Self {
            arp: ResponderThread::open(index, &name, mac, metrics.clone(), sightings.clone())?,
            ndp: None,
            deaf: false,
            sightings,
            index,
            name: name.into(),
            mac,
            metrics,
        })
    }

    /// Name of the interface.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Takes the name and the MAC that the interface has now; returns whether either is new.
    pub(crate) fn rename(&mut self, name: &str, mac: MacAddr) -> bool {
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

    /// Whether we answer for the address here.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.arp.has(v4),
            IpAddr::V6(v6) => self.ndp.as_ref().is_some_and(|ndp| ndp.has(v6)),
        }
    }

    /// The hardware address of the interface.
    pub(crate) fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Starts answering for the address, as soon as the filter is applied. Returns whether it is new here.
    pub(crate) fn insert(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.arp.insert(v4),
            IpAddr::V6(v6) => self.ndp().is_some_and(|ndp| ndp.insert(v6)),
        }
    }

    /// Starts answering for the address with the hardware address of its owner.
    pub(crate) fn stand_in(&mut self, address: IpAddr, owner: MacAddr) {
        match address {
            IpAddr::V4(v4) => self.arp.stand_in(v4, owner),
            IpAddr::V6(v6) => {
                if let Some(ndp) = self.ndp() {
                    ndp.stand_in(v6, owner);
                }
            }
        }
    }

    /// Stops answering for the address if we only stand in.
    pub(crate) fn stand_down(&mut self, address: IpAddr) {
        match (address, &mut self.ndp) {
            (IpAddr::V4(v4), _) => self.arp.stand_down(v4),
            (IpAddr::V6(v6), Some(ndp)) => ndp.stand_down(v6),
            (IpAddr::V6(_), None) => {}
        }
    }

    /// Stops answering for the address at once, also requests that the kernel has queued already.
    pub(crate) fn remove(&mut self, address: IpAddr) {
        match (address, &mut self.ndp) {
            (IpAddr::V4(v4), _) => self.arp.remove(v4),
            (IpAddr::V6(v6), Some(ndp)) => ndp.remove(v6),
            (IpAddr::V6(_), None) => {}
        }
    }

    /// Asks who has the address, once the filter is applied.
    pub(crate) fn ask(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.arp.ask(v4),
            IpAddr::V6(v6) => {
                if let Some(ndp) = self.ndp() {
                    ndp.ask(v6);
                }
            }
        }
    }

    /// Nobody waits for answers about the address any more.
    pub(crate) fn unwatch(&mut self, address: IpAddr) {
        match (address, &mut self.ndp) {
            (IpAddr::V4(v4), _) => self.arp.unwatch(v4),
            (IpAddr::V6(v6), Some(ndp)) => ndp.unwatch(v6),
            (IpAddr::V6(_), None) => {}
        }
    }

    /// Brings the kernel's filters up to date, and sends the questions that waited for it. Returns whether they are.
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

    /// Takes in what has arrived and was not looked at yet.
    pub(crate) fn listen(&self) {
        self.arp.listen(&self.name);
        if let Some(ndp) = &self.ndp {
            ndp.listen(&self.name);
        }
    }

    /// Sends one burst of gratuitous ARP, or an unsolicited advertisement.
    pub(crate) fn burst(&self, address: IpAddr) {
        match (address, &self.ndp) {
            (IpAddr::V4(v4), _) => self.arp.burst(&self.name, v4),
            (IpAddr::V6(v6), Some(ndp)) => ndp.burst(&self.name, v6),
            (IpAddr::V6(_), None) => {}
        }
    }

    /// The voice for IPv6, opened when it is needed first; none while it cannot be opened.
    fn ndp(&mut self) -> Option<&mut ResponderThread<Ndp>> {
        if self.ndp.is_none() {
            match ResponderThread::open(
                self.index,
                &self.name,
                self.mac,
                self.metrics.clone(),
                self.sightings.clone(),
            ) {
                Ok(ndp) => {
                    self.ndp = Some(ndp);
                    self.deaf = false;
                }
                // It went away meanwhile: the next snapshot says so.
                Err(SocketError::InterfaceDown(_) | SocketError::InterfaceGone(_)) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.deaf, true) {
                        tracing::warn!(
                            interface = %self.name,
                            error = chain(&error),
                            "cannot speak NDP"
                        );
                    }
                }
            }
        }
        self.ndp.as_mut()
    }
}
