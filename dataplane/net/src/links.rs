//! The network interfaces of this host and their changes, read from rtnetlink(7).
//!
//! [`LinkWatcher`] returns complete snapshots. It subscribes before it lists, so no change is missed, and lists
//! again when the kernel has dropped notifications. It needs no capability.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::Poll;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{Stream, StreamExt, TryStreamExt};
use lb_l2::MacAddr;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;

/// All interfaces by index.
pub type Snapshot = BTreeMap<u32, Link>;

/// An interface address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkAddress {
    /// The address of this host.
    pub address: IpAddr,
    /// Length of the network prefix, in bits.
    pub prefix_len: u8,
    /// Duplicate address detection for it is under way or has failed, so it must not be the source of packets
    /// (`IFA_F_TENTATIVE`, `IFA_F_DADFAILED`).
    pub tentative: bool,
}

impl LinkAddress {
    /// Whether `address` is in the network of this address.
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
    /// Interface index; never reused for a new interface of the same name.
    pub index: u32,
    /// Interface name, such as `eth0`.
    pub name: String,
    /// MAC; `None` on links without a 6-byte address.
    pub mac: Option<MacAddr>,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// The link has carrier, and so has its lower link if it is stacked (`IFF_LOWER_UP`, and the operational state of
    /// RFC 2863 is not down).
    pub carrier: bool,
    /// The loopback interface (`IFF_LOOPBACK`).
    pub loopback: bool,
    /// Supports broadcast, which ARP requires (`IFF_BROADCAST`).
    pub broadcast: bool,
    /// ARP is disabled (`IFF_NOARP`).
    pub noarp: bool,
    /// A port of a bond, bridge or VRF, on which traffic is handled instead.
    pub enslaved: bool,
    /// The IP addresses.
    pub addresses: BTreeSet<LinkAddress>,
}

/// An error of [`LinkWatcher`].
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The netlink socket could not be opened or subscribed.
    #[error("cannot subscribe to changes of network interfaces")]
    Subscribe(#[source] io::Error),
    /// Listing links or addresses failed.
    #[error("cannot list {what}")]
    List {
        /// The listed objects.
        what: &'static str,
        /// The error of netlink.
        #[source]
        source: rtnetlink::Error,
    },
    /// The netlink connection has closed; the next call opens a new one.
    #[error("netlink connection closed")]
    Closed,
}

/// A subscription to link and address changes.
#[derive(Debug)]
pub struct LinkWatcher {
    connection: Connection,
    table: Table,
    /// The table is incomplete and must be listed again.
    stale: bool,
    /// The snapshot that the last call returned.
    returned: Option<Snapshot>,
}

impl LinkWatcher {
    /// Subscribes in the network namespace of the calling thread. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the netlink socket cannot be opened.
    pub fn new() -> Result<Self, LinkError> {
        Ok(Self {
            connection: Connection::open()?,
            table: Table::default(),
            stale: true,
            returned: None,
        })
    }

    /// Waits until the interfaces differ from the last returned snapshot; the first call returns at once. Combines
    /// changes that occurred since. Cancel safe.
    ///
    /// # Errors
    /// If listing fails or the netlink connection closes. Call again after a delay.
    pub async fn next(&mut self) -> Result<Snapshot, LinkError> {
        loop {
            if self.connection.closed {
                self.connection = Connection::open()?;
                self.stale = true;
            }
            if self.stale {
                self.table = list_all(&self.connection.handle).await?;
                self.stale = false;
            } else {
                let notification = self.connection.notifications.next().await;
                self.handle(notification)?;
            }
            while !self.stale
                && let Some(notification) = ready(&mut self.connection.notifications).await
            {
                self.handle(notification)?;
            }
            if self.stale {
                continue;
            }
            let snapshot = self.table.snapshot();
            if self.returned.as_ref() != Some(&snapshot) {
                self.returned = Some(snapshot.clone());
                return Ok(snapshot);
            }
        }
    }

    fn handle(&mut self, notification: Option<Notification>) -> Result<(), LinkError> {
        let Some((message, _)) = notification else {
            self.connection.closed = true;
            return Err(LinkError::Closed);
        };
        match message.payload {
            NetlinkPayload::InnerMessage(message) => self.table.apply(message),
            NetlinkPayload::Overrun(_) => {
                tracing::debug!("netlink receive buffer overflowed; listing all links again");
                self.stale = true;
            }
            // Acknowledgements, ends of lists and errors are replies to requests.
            _ => {}
        }
        Ok(())
    }
}

type Notification = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// The next item if one is available now; `Some(None)` is the end of the stream.
async fn ready<S: Stream + Unpin>(stream: &mut S) -> Option<Option<S::Item>> {
    poll_fn(|context| match stream.poll_next_unpin(context) {
        Poll::Ready(item) => Poll::Ready(Some(item)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// A netlink socket and the task that drives it.
#[derive(Debug)]
struct Connection {
    handle: Handle,
    notifications: UnboundedReceiver<Notification>,
    task: JoinHandle<()>,
    closed: bool,
}

impl Connection {
    fn open() -> Result<Self, LinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, notifications) =
            rtnetlink::new_multicast_connection(&groups).map_err(LinkError::Subscribe)?;
        Ok(Self {
            handle,
            notifications,
            task: tokio::spawn(connection),
            closed: false,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn list_all(handle: &Handle) -> Result<Table, LinkError> {
    let failed = |what| move |source| LinkError::List { what, source };
    let mut table = Table::default();
    let mut links = std::pin::pin!(handle.link().get().execute());
    while let Some(link) = links.try_next().await.map_err(failed("network interfaces"))? {
        table.insert_link(&link);
    }
    let mut addresses = std::pin::pin!(handle.address().get().execute());
    while let Some(address) = addresses.try_next().await.map_err(failed("addresses"))? {
        table.set_address(&address, true);
    }
    Ok(table)
}

/// Links and addresses, which the kernel reports separately.
#[derive(Debug, Default)]
struct Table {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<u32, BTreeSet<LinkAddress>>,
}

impl Table {
    fn apply(&mut self, message: RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.insert_link(&link),
            // A port that leaves its bridge is reported as deleted too, but in the family AF_BRIDGE.
            RouteNetlinkMessage::DelLink(link) if is_device(&link) => {
                self.links.remove(&link.header.index);
                self.addresses.remove(&link.header.index);
            }
            RouteNetlinkMessage::NewAddress(address) => self.set_address(&address, true),
            RouteNetlinkMessage::DelAddress(address) => self.set_address(&address, false),
            // The subscribed groups send no other messages.
            _ => {}
        }
    }

    fn insert_link(&mut self, message: &LinkMessage) {
        if is_device(message)
            && let Some(link) = to_link(message)
        {
            self.links.insert(link.index, link);
        }
    }

    fn set_address(&mut self, message: &AddressMessage, present: bool) {
        let Some(address) = to_address(message) else {
            return;
        };
        let addresses = self.addresses.entry(message.header.index).or_default();
        addresses.retain(|other| (other.address, other.prefix_len) != (address.address, address.prefix_len));
        if present {
            addresses.insert(address);
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

/// Whether a link message describes the device itself; those of other families describe a protocol's view of it.
fn is_device(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

/// Converts a link message; `None` for a partial one, as wireless drivers send with little more than the name.
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
    // Drivers without operational state, such as dummy and tun, report "unknown"; then only the flag counts.
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
    // On a point-to-point link, IFA_ADDRESS is the peer's address and IFA_LOCAL ours; IPv6 usually has IFA_ADDRESS
    // only.
    Some(LinkAddress {
        address: local.or(any)?,
        prefix_len: message.header.prefix_len,
        tentative: message
            .header
            .flags
            .intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed),
    })
}
