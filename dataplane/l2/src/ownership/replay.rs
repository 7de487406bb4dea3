//! Which datagrams are news: from peers, made for this incarnation of ours, and newer than all of their kind before.
//!
//! Of their kind, because two that are sent together, such as a heartbeat and the claims that it tells of, may overtake each
//! other, and each means the same without the other.
//!
//! A speaker makes up its incarnation when it starts, from the clock. Should the clock have been set back since its last
//! start, the others would take all it says for old; it learns so from what they echo, and goes beyond it.

use std::collections::BTreeMap;

use crate::wire::heartbeat::{Datagram, DatagramError, Message};

/// Which datagrams are news: from peers, made for this incarnation of ours, and newer than all of their kind before.
#[derive(Clone, Debug)]
pub struct ReplayGuard {
    /// Our own incarnation.
    incarnation: u64,
    peers: BTreeMap<String, Heard>,
}

/// What was heard of a peer.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// Its last incarnation.
    incarnation: u64,
    /// The last number that was believed, of each kind of message.
    numbers: [u64; Message::KINDS],
}

impl ReplayGuard {
    /// A guard that knows no peers.
    #[must_use]
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            peers: BTreeMap::new(),
        }
    }

    /// Our own incarnation; it can rise by what is [admitted](Self::admit).
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// These are the peers: the others are forgotten, and not listened to.
    pub fn set_peers<'a>(&mut self, peers: impl IntoIterator<Item = &'a str>) {
        let mut before = std::mem::take(&mut self.peers);
        for peer in peers {
            let heard = before.remove(peer).unwrap_or_default();
            self.peers.insert(peer.to_owned(), heard);
        }
    }

    /// What to tell a peer as `echo`: its incarnation as heard last, or 0. It is heard also from datagrams that are made
    /// for another incarnation of ours: that is how two speakers get to know each other.
    #[must_use]
    pub fn echo(&self, peer: &str) -> u64 {
        self.peers.get(peer).map_or(0, |heard| heard.incarnation)
    }

    /// Takes in an authentic datagram. Whether it is to be believed:
    ///
    /// # Errors
    /// When it is from a stranger, recorded earlier, or made before the sender knew us.
    pub fn admit(&mut self, datagram: &Datagram) -> Result<(), DatagramError> {
        let heard = self
            .peers
            .get_mut(&datagram.node)
            .ok_or(DatagramError::UnknownSender)?;
        if datagram.echo != self.incarnation {
            // They heard a greater incarnation of ours before: the clock was set back over our restart.
            if datagram.echo > self.incarnation {
                self.incarnation = datagram.echo.saturating_add(1);
            }
            // It may be a recording: it must not make us deaf to the sender, only show us an incarnation to echo.
            if heard.numbers == <[u64; Message::KINDS]>::default() {
                heard.incarnation = datagram.incarnation;
            }
            return Err(DatagramError::Echo);
        }
        if datagram.incarnation > heard.incarnation {
            *heard = Heard {
                incarnation: datagram.incarnation,
                ..Heard::default()
            };
        }
        let last = heard.numbers.get_mut(datagram.message.kind());
        match last.filter(|last| datagram.incarnation == heard.incarnation && datagram.sequence > **last) {
            Some(last) => *last = datagram.sequence,
            None => return Err(DatagramError::Replayed),
        }
        Ok(())
    }
}
