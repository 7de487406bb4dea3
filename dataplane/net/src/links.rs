//! The network interfaces of this host, and every change of them.
//!
//! Reads rtnetlink (links, IPv4 and IPv6 addresses), writes complete snapshots of [`Link`]s. Subscribed
//! before the first reading, so no change falls between; when the kernel had to drop notices because they
//! came too fast, everything is read again. Needs no capability.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::Poll;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{Stream, StreamExt, TryStreamExt};
use lb_l2::MacAddr;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;

/// All interfaces by index.
pub type Snapshot = BTreeMap<u32, Link>;

/// An address of an interface with the length of its network prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkAddress {
    /// The host's own address.
    pub address: IpAddr,
    /// Bits of the network prefix.
    pub prefix_len: u8,
}

impl LinkAddress {
    /// Whether an address is in the network of this one.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let len = u32::from(self.prefix_len);
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                len > 0 && differ.checked_shr(32 - len.min(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                len > 0 && differ.checked_shr(128 - len.min(128)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Number of the interface; a new one each time it is made.
    pub index: u32,
    /// Name, such as `eth0`.
    pub name: String,
    /// Ethernet address; none on links that have no six-byte one.
    pub mac: Option<MacAddr>,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// Cable plugged in and, for a link made of others, its lower link up too (`IFF_LOWER_UP`, and
    /// operational state not down).
    pub carrier: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// Can broadcast, so ARP can work (`IFF_BROADCAST`).
    pub broadcast: bool,
    /// ARP is switched off (`IFF_NOARP`).
    pub noarp: bool,
    /// Part of a bond, bridge or VRF, which speaks in its place.
    pub enslaved: bool,
    /// Its addresses.
    pub addresses: BTreeSet<LinkAddress>,
}

/// What failed in watching links.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No netlink socket, or it could not be subscribed.
    #[error("cannot subscribe to changes of network interfaces")]
    Subscribe(#[source] io::Error),
    /// The kernel refused to list.
    #[error("cannot list {what}")]
    List {
        /// Links, or addresses.
        what: &'static str,
        /// What it said.
        #[source]
        source: rtnetlink::Error,
    },
    /// The netlink connection ended. The next call opens a new one.
    #[error("the netlink connection ended")]
    Closed,
}

/// The subscription. [`next`](Self::next) gives the state at once, and then after each change.
#[derive(Debug)]
pub struct LinkWatcher {
    connection: Connection,
    table: Table,
    /// Everything must be read (again).
    stale: bool,
    /// What the caller was given last.
    given: Option<Snapshot>,
}

impl LinkWatcher {
    /// Subscribes in the network namespace of the calling thread. To be called within a tokio runtime.
    pub fn new() -> Result<Self, LinkError> {
        Ok(Self {
            connection: Connection::open()?,
            table: Table::default(),
            stale: true,
            given: None,
        })
    }

    /// Waits until the interfaces differ from what the last call gave; the first call does not wait. Changes
    /// that came in the meantime come as one. May be cancelled without loss. After an error call again, after
    /// a pause.
    pub async fn next(&mut self) -> Result<Snapshot, LinkError> {
        loop {
            if self.connection.ended {
                self.connection = Connection::open()?;
                self.stale = true;
            }
            if self.stale {
                self.table = read_all(&self.connection.handle).await?;
                self.stale = false;
            } else {
                let notice = self.connection.notices.next().await;
                self.take(notice)?;
            }
            while !self.stale
                && let Some(notice) = ready(&mut self.connection.notices).await
            {
                self.take(notice)?;
            }
            if self.stale {
                continue;
            }
            let snapshot = self.table.snapshot();
            if self.given.as_ref() != Some(&snapshot) {
                self.given = Some(snapshot.clone());
                return Ok(snapshot);
            }
        }
    }

    fn take(&mut self, notice: Option<Notice>) -> Result<(), LinkError> {
        let Some((message, _)) = notice else {
            self.connection.ended = true;
            return Err(LinkError::Closed);
        };
        match message.payload {
            NetlinkPayload::InnerMessage(message) => self.table.apply(message),
            NetlinkPayload::Overrun(_) => {
                tracing::debug!("notices of link changes were lost: reading all links again");
                self.stale = true;
            }
            // Acknowledgements, ends of lists and errors answer requests; none of them is a notice.
            _ => {}
        }
        Ok(())
    }
}

type Notice = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// The next item if there is one at this moment; `Some(None)` is the end of the stream.
async fn ready<S: Stream + Unpin>(stream: &mut S) -> Option<Option<S::Item>> {
    poll_fn(|context| match stream.poll_next_unpin(context) {
        Poll::Ready(item) => Poll::Ready(Some(item)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// A netlink socket and the task that serves it.
#[derive(Debug)]
struct Connection {
    handle: Handle,
    notices: UnboundedReceiver<Notice>,
    task: JoinHandle<()>,
    ended: bool,
}

impl Connection {
    fn open() -> Result<Self, LinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, notices) =
            rtnetlink::new_multicast_connection(&groups).map_err(LinkError::Subscribe)?;
        Ok(Self {
            handle,
            notices,
            task: tokio::spawn(connection),
            ended: false,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_all(handle: &Handle) -> Result<Table, LinkError> {
    let failed = |what| move |source| LinkError::List { what, source };
    let mut table = Table::default();
    let mut links = std::pin::pin!(handle.link().get().execute());
    while let Some(link) = links.try_next().await.map_err(failed("network interfaces"))? {
        table.link(&link);
    }
    let mut addresses = std::pin::pin!(handle.address().get().execute());
    while let Some(address) = addresses.try_next().await.map_err(failed("addresses"))? {
        table.address(&address, true);
    }
    Ok(table)
}

/// Links and addresses apart, since notices of them come apart.
#[derive(Debug, Default)]
struct Table {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<u32, BTreeSet<LinkAddress>>,
}

impl Table {
    fn apply(&mut self, message: RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.link(&link),
            // A port that leaves its bridge is announced as deleted too, but in the bridge's family.
            RouteNetlinkMessage::DelLink(link) if is_device(&link) => {
                self.links.remove(&link.header.index);
                self.addresses.remove(&link.header.index);
            }
            RouteNetlinkMessage::NewAddress(address) => self.address(&address, true),
            RouteNetlinkMessage::DelAddress(address) => self.address(&address, false),
            // The subscription is for these four.
            _ => {}
        }
    }

    fn link(&mut self, message: &LinkMessage) {
        if is_device(message)
            && let Some(link) = to_link(message)
        {
            self.links.insert(link.index, link);
        }
    }

    fn address(&mut self, message: &AddressMessage, present: bool) {
        let Some(address) = to_address(message) else {
            return;
        };
        let addresses = self.addresses.entry(message.header.index).or_default();
        if present {
            addresses.insert(address);
        } else {
            addresses.remove(&address);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let with_addresses = |(index, link): (&u32, &Link)| {
            let addresses = self.addresses.get(index).cloned().unwrap_or_default();
            (
                *index,
                Link {
                    addresses,
                    ..link.clone()
                },
            )
        };
        self.links.iter().map(with_addresses).collect()
    }
}

/// Whether a link message is about the device itself; other families report only what a protocol thinks of
/// it.
fn is_device(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

/// The link, or nothing for a partial notice: wireless drivers send some with the name and little else.
fn to_link(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let (mut name, mut mac, mut state, mut enslaved) = (None, None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr),
            LinkAttribute::OperState(value) => state = Some(*value),
            LinkAttribute::Controller(index) => enslaved = *index != 0,
            _ => {}
        }
    }
    // "Unknown" is what drivers without the notion say, such as dummy and tun: then only the flag counts.
    let operational = !matches!(
        state?,
        State::Down | State::LowerLayerDown | State::NotPresent | State::Dormant
    );
    Some(Link {
        index: message.header.index,
        name: name?,
        mac,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp) && operational,
        loopback: flags.contains(LinkFlags::Loopback),
        broadcast: flags.contains(LinkFlags::Broadcast),
        noarp: flags.contains(LinkFlags::Noarp),
        enslaved,
        addresses: BTreeSet::new(),
    })
}

fn to_address(message: &AddressMessage) -> Option<LinkAddress> {
    let (mut local, mut any) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => any = Some(*address),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end, and IFA_LOCAL ours; IPv6 usually has the first
    // alone.
    Some(LinkAddress {
        address: local.or(any)?,
        prefix_len: message.header.prefix_len,
    })
}
