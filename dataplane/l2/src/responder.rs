//! Answers address resolution requests: the part that ARP and NDP have in common.
//!
//! [`Responder::handle`] reads one received frame and returns the reply to send on the same interface, the
//! IP-to-MAC binding that another host shows, or the reason why the frame gets no reply. One responder serves one
//! interface, or several that announce the same addresses. The interface's MAC is an argument of each call: bonds
//! and bridges change their MAC at run time, and a reply with the old MAC black-holes the traffic.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use crate::MacAddr;

/// A protocol that resolves IP addresses to MAC addresses: [`Arp`](crate::Arp) or [`Ndp`](crate::Ndp).
pub trait AddressResolution: Clone + Copy + Debug + Default + Eq + Send + 'static {
    /// The IP address family.
    type Address: Copy + Debug + Eq + Ord + Into<IpAddr> + Send + 'static;
    /// A frame ready to send.
    type Frame: AsRef<[u8]> + Clone + Debug + Eq;
    /// Why a frame does not decode.
    type Error: Copy + Debug + Eq;

    /// The name in logs.
    const NAME: &'static str;

    /// Decodes one frame received on an interface that has `interface_mac`.
    ///
    /// # Errors
    /// If the frame is malformed.
    fn classify(interface_mac: MacAddr, frame: &[u8]) -> Result<Classified<Self>, Self::Error>;

    /// The reply to `request` that gives `owner_mac` as the MAC of the requested address.
    fn reply(interface_mac: MacAddr, owner_mac: MacAddr, request: &Request<Self>) -> Self::Frame;

    /// The frames of one unsolicited announcement.
    fn announcement(mac: MacAddr, address: Self::Address) -> impl IntoIterator<Item = Self::Frame>;

    /// An ordinary request for `target`, unicast to `to` or else multicast. `from` is the MAC and an address of the
    /// interface.
    fn request(from: (MacAddr, Self::Address), to: Option<MacAddr>, target: Self::Address) -> Self::Frame;

    /// A duplicate address probe for `address`, which tells all hosts that we are about to claim it.
    fn probe(mac: MacAddr, address: Self::Address) -> impl AsRef<[u8]>;

    /// A short constant name of a decoding error, for a metric label.
    fn error_label(error: Self::Error) -> &'static str;
}

/// A well-formed frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Classified<P: AddressResolution> {
    /// A request that may be answered.
    Request(Request<P>),
    /// A reply or an announcement.
    Binding {
        /// The IP address.
        address: P::Address,
        /// The MAC that the frame gives for it.
        mac: MacAddr,
    },
    /// A frame that never gets a reply.
    Ignore(IgnoreReason),
}

/// A request and the requester's addresses, to which the reply goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request<P: AddressResolution> {
    /// The requested address.
    pub target: P::Address,
    /// The requester's address; unspecified in a probe.
    pub sender: P::Address,
    /// The requester's MAC, always unicast.
    pub sender_mac: MacAddr,
}

/// Why a well-formed frame gets no reply.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum IgnoreReason {
    /// The Ethernet destination is not one that a request to us can have: a promiscuous interface shows frames
    /// for other hosts.
    OtherDestination,
    /// The interface sent the frame itself: this host's own stack requests an address that we announce.
    OwnFrame,
    /// We do not answer for the requested address.
    NotOwned,
}

impl IgnoreReason {
    /// All variants, so that a metric can start every label at zero.
    pub const ALL: [Self; 3] = [Self::OtherDestination, Self::OwnFrame, Self::NotOwned];

    /// A short constant name, for a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OtherDestination => "other_destination",
            Self::OwnFrame => "own_frame",
            Self::NotOwned => "not_owned",
        }
    }
}

/// The result of [`Responder::handle`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameOutcome<P: AddressResolution> {
    /// Send `frame` on the interface that received the request.
    Reply {
        /// The reply with its Ethernet header.
        frame: P::Frame,
        /// The address that was requested.
        address: P::Address,
    },
    /// Another host claims `address`, by a reply or an announcement (RFC 5227 section 2.4, RFC 4861 section 7.2.5).
    ReplySeen {
        /// The claimed address.
        address: P::Address,
        /// The MAC of the host.
        mac: MacAddr,
    },
    /// The frame gets no reply.
    Ignore(IgnoreReason),
    /// The frame does not decode.
    Malformed(P::Error),
}

/// The addresses that one interface answers for.
#[derive(Clone, Debug)]
pub struct Responder<P: AddressResolution> {
    /// The value is the owner's MAC for a proxy reply, or `None` for an address of our own.
    addresses: BTreeMap<P::Address, Option<MacAddr>>,
}

impl<P: AddressResolution> Default for Responder<P> {
    fn default() -> Self {
        Self {
            addresses: BTreeMap::new(),
        }
    }
}

impl<P: AddressResolution> Responder<P> {
    /// Creates a responder without addresses, which replies to nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an address of our own. Returns whether it was absent.
    pub fn insert(&mut self, address: P::Address) -> bool {
        self.addresses.insert(address, None).is_none()
    }

    /// Adds an address for proxy replies: answered with `owner_mac` while its owner restarts. Has no effect on an
    /// address of our own. Returns whether the address was absent.
    pub fn insert_proxy(&mut self, address: P::Address, owner_mac: MacAddr) -> bool {
        match self.addresses.get(&address) {
            Some(None) => false,
            Some(Some(_)) | None => self.addresses.insert(address, Some(owner_mac)).is_none(),
        }
    }

    /// Removes an address; the next request gets no reply. Returns whether it was present.
    pub fn remove(&mut self, address: &P::Address) -> bool {
        self.addresses.remove(address).is_some()
    }

    /// All addresses that are answered for, in order.
    pub fn addresses(&self) -> impl Iterator<Item = &P::Address> {
        self.addresses.keys()
    }

    /// Handles one frame received on an interface that has `interface_mac`.
    pub fn handle(&self, interface_mac: MacAddr, frame: &[u8]) -> FrameOutcome<P> {
        match P::classify(interface_mac, frame) {
            Ok(Classified::Request(request)) => match self.addresses.get(&request.target) {
                Some(owner_mac) => FrameOutcome::Reply {
                    frame: P::reply(interface_mac, owner_mac.unwrap_or(interface_mac), &request),
                    address: request.target,
                },
                None => FrameOutcome::Ignore(IgnoreReason::NotOwned),
            },
            Ok(Classified::Binding { address, mac }) => FrameOutcome::ReplySeen { address, mac },
            Ok(Classified::Ignore(reason)) => FrameOutcome::Ignore(reason),
            Err(error) => FrameOutcome::Malformed(error),
        }
    }
}
