//! Discriminators of BFD sessions: the same after a restart of this program, and unknown to other hosts.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::bgp::bfd::Target;

/// The keys of heartbeats, the present one first, and the node. Debug text shows no key.
#[derive(Clone, Default, Eq, PartialEq)]
pub(crate) struct DiscriminatorKeys {
    keys: Vec<Vec<u8>>,
    node_uid: String,
}

impl fmt::Debug for DiscriminatorKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscriminatorKeys")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// The discriminators of one session; none is 0.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Discriminators {
    pub(super) own: u32,
    /// Those that an earlier process may have used; `None` if it cannot have had the same.
    pub(super) earlier: Option<Vec<u32>>,
}

impl DiscriminatorKeys {
    pub(crate) fn new(keys: Vec<Vec<u8>>, node_uid: String) -> Self {
        Self { keys, node_uid }
    }

    /// The first 32 bits of HMAC-SHA-256 over node and path. Without a key they are random.
    pub(super) fn derive(&self, local: IpAddr, target: &Target) -> Discriminators {
        let path = format!(
            "{}\0{local}\0{}\0{}\0{}",
            self.node_uid,
            target.router,
            target.vrf.as_deref().unwrap_or_default(),
            target.hops.port()
        );
        let mut derived = self.keys.iter().filter_map(|key| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
            mac.update(path.as_bytes());
            let (first, _) = mac
                .finalize()
                .into_bytes()
                .split_first_chunk::<4>()
                .map(|(first, rest)| (*first, rest.len()))?;
            Some(u32::from_be_bytes(first).max(1))
        });
        match derived.next() {
            Some(own) => Discriminators {
                own,
                earlier: Some(derived.collect()),
            },
            None => {
                let random = RandomState::new().hash_one(path);
                Discriminators {
                    own: u32::try_from(random >> 32).unwrap_or_default().max(1),
                    earlier: None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_net::bfd::Hops;

    use super::*;

    fn target() -> Target {
        Target {
            router: "192.0.2.1".parse().unwrap(),
            source: None,
            vrf: None,
            hops: Hops::Single,
        }
    }

    fn keys(keys: &[&str], uid: &str) -> DiscriminatorKeys {
        DiscriminatorKeys::new(
            keys.iter().map(|key| key.as_bytes().to_vec()).collect(),
            uid.to_owned(),
        )
    }

    #[test]
    fn discriminator_depends_on_key_node_and_path_only() {
        let local: IpAddr = "192.0.2.2".parse().unwrap();
        let own = |keys: &DiscriminatorKeys, local, target: &Target| keys.derive(local, target).own;
        let first = own(&keys(&["one"], "uid"), local, &target());
        assert_eq!(first, own(&keys(&["one", "two"], "uid"), local, &target()));
        let vrf = Target {
            vrf: Some("red".to_owned()),
            ..target()
        };
        let multi = Target {
            hops: Hops::Multi,
            ..target()
        };
        for other in [
            own(&keys(&["two"], "uid"), local, &target()),
            own(&keys(&["one"], "other"), local, &target()),
            own(&keys(&["one"], "uid"), "192.0.2.3".parse().unwrap(), &target()),
            own(&keys(&["one"], "uid"), local, &vrf),
            own(&keys(&["one"], "uid"), local, &multi),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn session_is_known_by_every_key_after_a_rotation() {
        let local: IpAddr = "192.0.2.2".parse().unwrap();
        let before = keys(&["one", "two"], "uid").derive(local, &target());
        let after = keys(&["two", "one"], "uid").derive(local, &target());
        assert_eq!(after.earlier, Some(vec![before.own]));
        let without = keys(&[], "uid");
        assert_eq!(without.derive(local, &target()).earlier, None);
        assert_ne!(
            without.derive(local, &target()),
            without.derive(local, &target()),
            "random"
        );
        assert!(
            !format!("{:?}", keys(&["secret"], "uid")).contains("115"),
            "no key in debug text"
        );
    }
}
