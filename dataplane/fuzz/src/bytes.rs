//! Bytes as a source of choices. Reading beyond the end returns 0, so that any input is valid.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The unread bytes.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        for (to, from) in array.iter_mut().zip(self.take(N)) {
            *to = *from;
        }
        array
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// Usually one of a few addresses, so that they collide.
    pub(crate) fn address(&mut self) -> IpAddr {
        match self.u8() {
            255 => IpAddr::V4(Ipv4Addr::from(self.u32())),
            254 => IpAddr::V6(Ipv6Addr::from(self.array::<16>())),
            byte if byte % 2 == 0 => IpAddr::V4(Ipv4Addr::new(192, 168, 50, 100 + (byte / 2) % 8)),
            byte => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(byte / 2) % 8)),
        }
    }
}
