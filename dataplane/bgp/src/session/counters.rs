//! Counts the messages of a session.

use crate::wire::{HEADER_LEN, Received};

/// Messages of one direction, by type.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MessageCounts {
    /// OPEN.
    pub opens: u64,
    /// UPDATE.
    pub updates: u64,
    /// NOTIFICATION.
    pub notifications: u64,
    /// KEEPALIVE.
    pub keepalives: u64,
    /// ROUTE-REFRESH.
    pub route_refreshes: u64,
}

/// Messages of a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// From this node.
    pub sent: MessageCounts,
    /// From the router, without malformed ones.
    pub received: MessageCounts,
}

impl MessageCounts {
    /// All messages.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.opens + self.updates + self.notifications + self.keepalives + self.route_refreshes
    }

    /// Counts whole messages.
    pub(super) fn add_encoded(&mut self, mut octets: &[u8]) {
        while let Some((header, _)) = octets.split_first_chunk::<HEADER_LEN>() {
            match header[18] {
                1 => self.opens += 1,
                2 => self.updates += 1,
                3 => self.notifications += 1,
                4 => self.keepalives += 1,
                _ => self.route_refreshes += 1,
            }
            let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
            octets = octets.get(len.max(HEADER_LEN)..).unwrap_or_default();
        }
    }

    pub(super) fn add(&mut self, message: &Received) {
        match message {
            Received::Open(_) => self.opens += 1,
            Received::Update => self.updates += 1,
            Received::Notification(_) => self.notifications += 1,
            Received::Keepalive => self.keepalives += 1,
            Received::RouteRefresh(_) => self.route_refreshes += 1,
        }
    }
}
