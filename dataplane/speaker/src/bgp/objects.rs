//! The parts of BGPPeers, BGPAdvertisements, BFDProfiles and Communities that sessions and decisions need.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_bfd::session::SessionConfig;
use lb_bgp::session::RemoteAsn;
use lb_crds::selector::{any_matches, validate};
use lb_crds::{BFDProfile, BGPAdvertisement, BGPPeer, BGPPeerSpec, Community, go_duration};
use lb_net::tcp::MAX_MD5_KEY_LEN;

use crate::bgp::bfd::BfdProfile;
use crate::k8s::objects::{Node, Pool, Service};

const DEFAULT_PORT: u16 = 179;
const DEFAULT_HOLD_TIME: Duration = Duration::from_secs(90);
const DEFAULT_CONNECT_TIME: Duration = Duration::from_secs(10);
const MIN_HOLD_TIME: Duration = Duration::from_secs(3);
/// The longest hold time that fits into its field.
const MAX_HOLD_TIME: Duration = Duration::from_secs(u16::MAX as u64);

/// A BGPPeer.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// The settings whose changes need a new session.
    pub settings: PeerSettings,
    /// The longest pause between two attempts to connect.
    pub connect_time: Duration,
    /// The name of the BFDProfile, if BFD watches the path.
    pub bfd_profile: Option<String>,
    node_selectors: Vec<LabelSelector>,
}

/// The settings of the session with a router.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerSettings {
    /// Address and port of the router.
    pub router: SocketAddr,
    /// The source address.
    pub source: Option<IpAddr>,
    /// The VRF device.
    pub vrf: Option<String>,
    /// The AS number that the router sees.
    pub local_asn: u32,
    /// The AS numbers that the router may have.
    pub remote_asn: RemoteAsn,
    /// Time without a message after which the session ends; zero for never.
    pub hold_time: Duration,
    /// Time between two messages.
    pub keepalive_time: Duration,
    /// The BGP identifier of the node, if it is set.
    pub router_id: Option<Ipv4Addr>,
    /// The key of TCP MD5 signatures.
    pub key: Option<Key>,
    /// Whether the router keeps the routes during a restart.
    pub graceful_restart: bool,
    /// Whether other routers are in between.
    pub multi_hop: bool,
    /// Whether both families are announced.
    pub dual_stack: bool,
}

/// The key of TCP MD5 signatures, which no log shows.
#[derive(Clone, Eq, PartialEq)]
pub struct Key(String);

impl Key {
    /// The octets of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Peer {
    /// Reads a BGPPeer.
    ///
    /// # Errors
    /// The first invalid or unsupported field: the peer has no session.
    pub fn read(object: BGPPeer) -> Result<Self, String> {
        let spec = object.spec;
        if !spec.interface.is_empty() {
            return Err("spec.interface: sessions without addresses are not supported yet".to_owned());
        }
        if !spec.password_secret.name.is_empty() {
            return Err("spec.passwordSecret is not supported yet: use spec.password".to_owned());
        }
        if spec.my_asn == 0 {
            return Err("missing local ASN: set spec.myASN".to_owned());
        }
        if spec.password.len() > MAX_MD5_KEY_LEN {
            return Err(format!(
                "spec.password: the key has more than {MAX_MD5_KEY_LEN} octets"
            ));
        }
        check_selectors("nodeSelectors", &spec.node_selectors)?;
        let router: IpAddr = address("peerAddress", &spec.peer_address)?
            .ok_or("peer has no Address or Interface specified: set spec.peerAddress")?;
        let (hold_time, keepalive_time) = timers(&spec)?;
        let connect_time = duration("connectTime", spec.connect_time.as_deref())?;
        let router_id = match address("routerID", &spec.router_id)? {
            None => None,
            Some(IpAddr::V4(id)) if !id.is_unspecified() => Some(id),
            Some(id) => {
                return Err(format!(
                    "spec.routerID: {id} is not a router ID: set an IPv4 address"
                ));
            }
        };
        let port = if spec.peer_port == 0 {
            DEFAULT_PORT
        } else {
            spec.peer_port
        };
        let remote_asn = remote_asn(&spec)?;
        Ok(Self {
            settings: PeerSettings {
                router: SocketAddr::new(router, port),
                source: address("sourceAddress", &spec.source_address)?,
                vrf: Some(spec.vrf).filter(|vrf| !vrf.is_empty()),
                local_asn: spec.local_asn.unwrap_or(spec.my_asn),
                remote_asn,
                hold_time,
                keepalive_time,
                router_id,
                key: Some(spec.password).filter(|key| !key.is_empty()).map(Key),
                graceful_restart: spec.enable_graceful_restart,
                multi_hop: spec.ebgp_multi_hop,
                dual_stack: spec.dual_stack_address_family,
            },
            connect_time: connect_time
                .unwrap_or(DEFAULT_CONNECT_TIME)
                .max(Duration::from_secs(1)),
            bfd_profile: Some(spec.bfd_profile).filter(|name| !name.is_empty()),
            node_selectors: spec.node_selectors,
        })
    }

    /// Whether the node has a session with the router.
    #[must_use]
    pub fn selects_node(&self, node: &Node) -> bool {
        any_matches(&self.node_selectors, &node.labels)
    }
}

fn remote_asn(spec: &BGPPeerSpec) -> Result<RemoteAsn, String> {
    match (spec.peer_asn, spec.dynamic_asn.as_str()) {
        (0, "internal") => Ok(RemoteAsn::Internal),
        (0, "external") => Ok(RemoteAsn::External),
        (0, "") => Err("missing peer ASN and dynamicASN: set spec.peerASN".to_owned()),
        (0, other) => Err(format!(
            "spec.dynamicASN: {other:?} is neither internal nor external"
        )),
        (asn, "") => Ok(RemoteAsn::Is(asn)),
        (_, _) => Err("both peer ASN and dynamicASN specified: remove one of them".to_owned()),
    }
}

/// Hold time and keepalive time; one follows from the other.
fn timers(spec: &BGPPeerSpec) -> Result<(Duration, Duration), String> {
    let hold = duration("holdTime", spec.hold_time.as_deref())?;
    let keepalive = duration("keepaliveTime", spec.keepalive_time.as_deref())?;
    let hold = hold.unwrap_or_else(|| keepalive.map_or(DEFAULT_HOLD_TIME, |keepalive| keepalive * 3));
    let hold = Duration::from_secs(hold.as_secs());
    if !hold.is_zero() && hold < MIN_HOLD_TIME || hold > MAX_HOLD_TIME {
        return Err(format!(
            "invalid hold time {hold:?}: must be 0 or >=3s, and at most 65535s"
        ));
    }
    // Without any message, the router would end the session.
    let keepalive = keepalive
        .filter(|keepalive| !keepalive.is_zero())
        .unwrap_or(hold / 3);
    if keepalive > hold && !hold.is_zero() {
        return Err("invalid keepaliveTime: must be lower than holdTime".to_owned());
    }
    Ok((hold, keepalive))
}

fn duration(field: &str, text: Option<&str>) -> Result<Option<Duration>, String> {
    text.map(go_duration::parse)
        .transpose()
        .map_err(|error| format!("spec.{field}: {error}"))
}

fn address(field: &str, text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("spec.{field}: {text:?} is not an IP address"))?;
    Ok(Some(address.to_canonical()))
}

fn check_selectors(field: &str, selectors: &[LabelSelector]) -> Result<(), String> {
    for (index, selector) in selectors.iter().enumerate() {
        validate(selector).map_err(|error| format!("spec.{field}[{index}]: {error}"))?;
    }
    Ok(())
}

/// A BGPAdvertisement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advertisement {
    /// Length of the announced IPv4 prefixes.
    pub ipv4_length: u8,
    /// Length of the announced IPv6 prefixes.
    pub ipv6_length: u8,
    /// The local preference, if it is set.
    pub local_pref: Option<u32>,
    /// How many times more the AS number is in the path.
    pub as_path_prepend: u8,
    /// Names or values of communities.
    pub communities: Vec<String>,
    /// Names of BGPPeers; empty for all.
    pub peers: Vec<String>,
    pools: Vec<String>,
    pool_selectors: Vec<LabelSelector>,
    node_selectors: Vec<LabelSelector>,
    service_selectors: Vec<LabelSelector>,
}

impl Advertisement {
    /// Reads a BGPAdvertisement.
    ///
    /// # Errors
    /// The first invalid field: the advertisement announces nothing.
    pub fn read(object: BGPAdvertisement) -> Result<Self, String> {
        let spec = object.spec;
        for (field, selectors) in [
            ("ipAddressPoolSelectors", &spec.ip_address_pool_selectors),
            ("nodeSelectors", &spec.node_selectors),
            ("serviceSelectors", &spec.service_selectors),
        ] {
            check_selectors(field, selectors)?;
        }
        let length = |field: &str, length: i32, max: u8| {
            let valid = u8::try_from(length)
                .ok()
                .filter(|length| (1..=max).contains(length));
            valid.ok_or_else(|| format!("spec.{field}: {length} is not a prefix length from 1 to {max}"))
        };
        let ipv4_length = length("aggregationLength", spec.aggregation_length, 32)?;
        let ipv6_length = length("aggregationLengthV6", spec.aggregation_length_v6, 128)?;
        if !spec.service_selectors.is_empty() && (ipv4_length != 32 || ipv6_length != 128) {
            return Err(
                "spec.serviceSelectors and aggregationLength are mutually exclusive: remove one of them"
                    .to_owned(),
            );
        }
        Ok(Self {
            ipv4_length,
            ipv6_length,
            local_pref: (spec.local_pref != 0).then_some(spec.local_pref),
            as_path_prepend: spec.as_path_prepend.min(10),
            communities: spec.communities,
            peers: spec.peers,
            pools: spec.ip_address_pools,
            pool_selectors: spec.ip_address_pool_selectors,
            node_selectors: spec.node_selectors,
            service_selectors: spec.service_selectors,
        })
    }

    /// The part that decides which prefixes it announces.
    pub(crate) fn selection(&self) -> Self {
        Self {
            local_pref: None,
            as_path_prepend: 0,
            communities: Vec::new(),
            peers: Vec::new(),
            ..self.clone()
        }
    }

    /// Whether it selects the pool: by name or by label, and without either every pool.
    #[must_use]
    pub fn selects_pool(&self, name: &str, pool: &Pool) -> bool {
        pool.is_selected(name, &self.pools, &self.pool_selectors)
    }

    /// Whether it selects the node.
    #[must_use]
    pub fn selects_node(&self, node: &Node) -> bool {
        any_matches(&self.node_selectors, &node.labels)
    }

    /// Whether it selects the Service.
    #[must_use]
    pub fn selects_service(&self, service: &Service) -> bool {
        any_matches(&self.service_selectors, &service.labels)
    }
}

/// The names and values of a Community.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Aliases(pub Vec<(String, String)>);

impl Aliases {
    /// Reads a Community.
    #[must_use]
    pub fn read(object: Community) -> Self {
        let aliases = object.spec.communities.into_iter();
        Self(aliases.map(|alias| (alias.name, alias.value)).collect())
    }
}

impl BfdProfile {
    /// Reads a BFDProfile, with the defaults of FRR.
    #[must_use]
    pub fn read(object: BFDProfile) -> Self {
        let spec = object.spec;
        // As in the schema.
        let interval = |millis: Option<u32>, default: u64| {
            millis.map_or(Duration::from_millis(default), |millis| {
                Duration::from_millis(millis.clamp(10, 60_000).into())
            })
        };
        let octet = |number: Option<u32>, min: u32, default: u8, max: u32| {
            number.map_or(default, |number| {
                u8::try_from(number.clamp(min, max)).unwrap_or(default)
            })
        };
        Self {
            config: SessionConfig {
                transmit_interval: interval(spec.transmit_interval, 300),
                receive_interval: interval(spec.receive_interval, 300),
                echo_interval: interval(spec.echo_interval, 50),
                multiplier: octet(spec.detect_multiplier, 2, 3, 255),
                passive: spec.passive_mode.unwrap_or_default(),
            },
            min_ttl: octet(spec.minimum_ttl, 1, 254, 254),
        }
    }
}
