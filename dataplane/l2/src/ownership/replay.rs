//! Replay protection: accepts datagrams that a known peer made for our present incarnation, each sequence number once.
//!
//! Sequence numbers are checked per message kind, because a heartbeat and the fragments sent after it may overtake each
//! other and are independent.
//!
//! A speaker derives its incarnation from the clock at its start. If the clock was set back since its last start, peers
//! would reject its datagrams as old; it learns that from the incarnation that they echo, and continues with a greater
//! one.

use std::collections::BTreeMap;

use crate::wire::heartbeat::{Datagram, DatagramError, Message};

/// Tracks the incarnation and the sequence numbers of each peer.
#[derive(Clone, Debug)]
pub struct ReplayGuard {
    incarnation: u64,
    peers: BTreeMap<String, Heard>,
}

/// The newest accepted datagrams of a peer.
#[derive(Clone, Debug, Default)]
struct Heard {
    incarnation: u64,
    /// The last accepted sequence number of each message kind.
    numbers: [u64; Message::KINDS],
}

impl ReplayGuard {
    /// Creates a guard without peers.
    #[must_use]
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            peers: BTreeMap::new(),
        }
    }

    /// Our incarnation; [`admit`](Self::admit) can raise it.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Replaces the set of peers; datagrams from other nodes are rejected.
    pub fn set_peers<'a>(&mut self, peers: impl IntoIterator<Item = &'a str>) {
        let mut before = std::mem::take(&mut self.peers);
        for peer in peers {
            let heard = before.remove(peer).unwrap_or_default();
            self.peers.insert(peer.to_owned(), heard);
        }
    }

    /// The `echo` value for a datagram to the peer: its last known incarnation, or 0. It is also learned from datagrams
    /// for another incarnation of ours, which is how two speakers start to communicate.
    #[must_use]
    pub fn echo(&self, peer: &str) -> u64 {
        self.peers.get(peer).map_or(0, |heard| heard.incarnation)
    }

    /// Accepts an authentic datagram once.
    ///
    /// # Errors
    /// The sender is unknown, the datagram was made for another incarnation of ours, or it is not newer than the last
    /// one.
    pub fn admit(&mut self, datagram: &Datagram) -> Result<(), DatagramError> {
        let heard = self
            .peers
            .get_mut(&datagram.node)
            .ok_or(DatagramError::UnknownSender)?;
        if datagram.echo != self.incarnation {
            // The peer knows a greater incarnation of ours: the clock was set back during our restart.
            if datagram.echo > self.incarnation {
                self.incarnation = datagram.echo.saturating_add(1);
            }
            // The datagram may be a replay: it only provides an incarnation to echo, and must not make us reject the
            // sender.
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
