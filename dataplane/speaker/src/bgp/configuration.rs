//! BGPPeers, BGPAdvertisements, Communities and BFDProfiles: which advertisements are in force, with which attributes.
//!
//! An invalid object affects itself only. An advertisement with an unknown community announces nothing: without it, a route
//! could reach networks that it must not reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_bgp::table::AdvertisementId;
use lb_bgp::wire::LargeCommunity;
use lb_crds::CommunityValue;

use crate::bgp::bfd::BfdProfile;
use crate::bgp::objects::{Advertisement, Aliases, Peer};

/// The watched kinds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// BGPPeers.
    Peers,
    /// BGPAdvertisements.
    Advertisements,
    /// Communities.
    Communities,
    /// BFDProfiles. Sessions do not wait for their list: BGP works without BFD.
    BfdProfiles,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::Peers,
        Self::Advertisements,
        Self::Communities,
        Self::BfdProfiles,
    ];

    /// Name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peers => "bgppeers",
            Self::Advertisements => "bgpadvertisements",
            Self::Communities => "communities",
            Self::BfdProfiles => "bfdprofiles",
        }
    }
}

/// A change of a watched object; `None` when it was deleted.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A BGPPeer, or why it is invalid.
    Peer(String, Option<Result<Peer, String>>),
    /// A BGPAdvertisement, or why it is invalid.
    Advertisement(String, Option<Result<Advertisement, String>>),
    /// A Community.
    Community(String, Option<Aliases>),
    /// A BFDProfile.
    BfdProfile(String, Option<BfdProfile>),
    /// An object that cannot be decoded: the previous version is kept.
    Invalid(Kind, String, String),
    /// The initial list of the kind is complete.
    Synced(Kind),
}

/// An advertisement that is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveAdvertisement {
    /// Its name.
    pub name: String,
    /// The object.
    pub advertisement: Advertisement,
    /// Communities.
    pub communities: BTreeSet<u32>,
    /// Large communities.
    pub large_communities: BTreeSet<LargeCommunity>,
}

/// The advertisements that are in force.
pub type ActiveAdvertisements = BTreeMap<AdvertisementId, ActiveAdvertisement>;

/// The configuration of BGP.
#[derive(Debug, Default)]
pub struct Configuration {
    peers: BTreeMap<String, Peer>,
    advertisements: BTreeMap<String, (AdvertisementId, Advertisement)>,
    communities: BTreeMap<String, Aliases>,
    bfd_profiles: BTreeMap<String, BfdProfile>,
    unlisted: BTreeSet<Kind>,
    next_id: u32,
    active: Arc<ActiveAdvertisements>,
    /// Why advertisements are not in force, by name: reported once.
    inactive: BTreeMap<String, String>,
}

/// The decisions that an update affects.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// Whether peers changed.
    pub peers: bool,
    /// Whether the prefixes of all Services have to be decided again.
    pub services: bool,
    /// Advertisements whose prefixes may have other attributes.
    pub attributes: Vec<AdvertisementId>,
}

impl Configuration {
    /// A configuration of which nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self {
            unlisted: Kind::ALL.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Whether every kind was listed that sessions wait for.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.unlisted.iter().all(|kind| *kind == Kind::BfdProfiles)
    }

    /// The BFDProfile of this name.
    #[must_use]
    pub fn bfd_profile(&self, name: &str) -> Option<BfdProfile> {
        self.bfd_profiles.get(name).copied()
    }

    /// Whether nothing is configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.advertisements.is_empty()
    }

    /// The valid peers by name.
    #[must_use]
    pub fn peers(&self) -> &BTreeMap<String, Peer> {
        &self.peers
    }

    /// The advertisements that are in force.
    #[must_use]
    pub fn active(&self) -> &Arc<ActiveAdvertisements> {
        &self.active
    }

    /// Applies an update.
    pub fn update(&mut self, update: Update) -> Changes {
        match update {
            Update::Peer(name, peer) => {
                let peer = valid(Kind::Peers, &name, peer);
                let peers = match peer {
                    Some(peer) => self.peers.insert(name, peer.clone()).as_ref() != Some(&peer),
                    None => self.peers.remove(&name).is_some(),
                };
                Changes {
                    peers,
                    ..Changes::default()
                }
            }
            Update::Advertisement(name, advertisement) => {
                match valid(Kind::Advertisements, &name, advertisement) {
                    Some(advertisement) => {
                        let next = AdvertisementId(self.next_id);
                        let (id, present) = self
                            .advertisements
                            .entry(name)
                            .or_insert_with(|| (next, Advertisement::default()));
                        *present = advertisement;
                        if *id == next {
                            self.next_id += 1;
                        }
                    }
                    None => {
                        self.advertisements.remove(&name);
                    }
                }
                self.resolve()
            }
            Update::Community(name, aliases) => {
                match aliases {
                    Some(aliases) => self.communities.insert(name, aliases),
                    None => self.communities.remove(&name),
                };
                self.resolve()
            }
            Update::BfdProfile(name, profile) => {
                match profile {
                    Some(profile) => self.bfd_profiles.insert(name, profile),
                    None => self.bfd_profiles.remove(&name),
                };
                Changes {
                    peers: true,
                    ..Changes::default()
                }
            }
            Update::Invalid(kind, name, error) => {
                tracing::warn!(
                    kind = kind.as_str(),
                    name,
                    error,
                    "cannot decode object; keeping the previous version"
                );
                Changes::default()
            }
            Update::Synced(kind) => {
                self.unlisted.remove(&kind);
                if !self.is_listed() {
                    return Changes::default();
                }
                let mut changes = self.resolve();
                changes.peers = true;
                changes
            }
        }
    }

    /// Computes which advertisements are in force. Until all kinds are listed, communities may be unknown: none is.
    fn resolve(&mut self) -> Changes {
        if !self.is_listed() {
            return Changes::default();
        }
        let aliases = self.aliases();
        let (mut active, mut inactive) = (ActiveAdvertisements::new(), BTreeMap::new());
        for (name, (id, advertisement)) in &self.advertisements {
            match activate(name, advertisement, &aliases) {
                Ok(advertisement) => {
                    active.insert(*id, advertisement);
                }
                Err(error) => {
                    if self.inactive.get(name) != Some(&error) {
                        tracing::warn!(name, error, "BGPAdvertisement is not in force");
                    }
                    inactive.insert(name.clone(), error);
                }
            }
        }
        let mut changes = Changes::default();
        for (id, after) in &active {
            match self.active.get(id) {
                Some(before) if before == after => {}
                before => {
                    changes.services |= before.is_none_or(|before| {
                        before.advertisement.selection() != after.advertisement.selection()
                    });
                    changes.attributes.push(*id);
                }
            }
        }
        changes.services |= self.active.keys().any(|id| !active.contains_key(id));
        (self.active, self.inactive) = (active.into(), inactive);
        changes
    }

    /// Names with their values; `None` for a name that occurs twice.
    fn aliases(&self) -> BTreeMap<&str, Option<&str>> {
        let mut aliases = BTreeMap::new();
        for (name, value) in self.communities.values().flat_map(|aliases| &aliases.0) {
            aliases
                .entry(name.as_str())
                .and_modify(|value| *value = None)
                .or_insert(Some(value.as_str()));
        }
        aliases
    }
}

/// An advertisement with the values of its communities; a name takes precedence over a value.
fn activate(
    name: &str,
    advertisement: &Advertisement,
    aliases: &BTreeMap<&str, Option<&str>>,
) -> Result<ActiveAdvertisement, String> {
    let (mut communities, mut large_communities) = (BTreeSet::new(), BTreeSet::new());
    for community in &advertisement.communities {
        let value = match aliases.get(community.as_str()) {
            Some(Some(value)) => value,
            Some(None) => {
                return Err(format!(
                    "community {community} is defined twice: remove one definition"
                ));
            }
            None if !community.contains(':') => {
                return Err(format!(
                    "community {community} is unknown: create a Community with this name"
                ));
            }
            None => community.as_str(),
        };
        match value
            .parse::<CommunityValue>()
            .map_err(|error| error.to_string())?
        {
            CommunityValue::Standard(value) => {
                communities.insert(value);
            }
            CommunityValue::Large(global, one, two) => {
                large_communities.insert(LargeCommunity(global, one, two));
            }
        }
    }
    Ok(ActiveAdvertisement {
        name: name.to_owned(),
        advertisement: advertisement.clone(),
        communities,
        large_communities,
    })
}

/// The object, if it is valid.
fn valid<T>(kind: Kind, name: &str, object: Option<Result<T, String>>) -> Option<T> {
    object?
        .inspect_err(|error| tracing::warn!(kind = kind.as_str(), name, error, "object is not in force"))
        .ok()
}
