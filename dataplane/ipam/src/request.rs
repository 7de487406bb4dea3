//! What a Service asks for: families, a pool, addresses. Made from the words in the Service, once, when it changes.

use std::net::IpAddr;

use crate::addresses::Addresses;
use crate::assignment::Assignment;
use crate::range::Family;
use crate::reason::{Rejection, excerpt};
use crate::sharing::{Sharing, Tenancy};

/// A Service's `ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DualStack {
    /// One family.
    No,
    /// Two where possible.
    Preferred,
    /// Two or nothing.
    Required,
}

/// The families that a Service wants addresses of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Families {
    /// One address of this family.
    One(Family),
    /// An address of each family, or else of one.
    Prefer,
    /// An address of each family.
    Both,
}

impl Families {
    /// The families of a Service, from its cluster IPs: they are what Kubernetes decided, whatever the spec leaves open.
    ///
    /// # Errors
    /// When there is no cluster IP, or only one where two families are required.
    pub fn of_cluster_ips(cluster_ips: &[String], policy: DualStack) -> Result<Self, Rejection> {
        let first = cluster_ips.first().map(|text| text.parse::<IpAddr>());
        let Some(Ok(first)) = first else {
            return Err(Rejection::NoClusterIp);
        };
        let two = cluster_ips.len() > 1;
        match policy {
            DualStack::Required if two => Ok(Self::Both),
            DualStack::Required => Err(Rejection::NotEnoughClusterIps(cluster_ips.join(" "))),
            DualStack::Preferred if two => Ok(Self::Prefer),
            DualStack::Preferred | DualStack::No => Ok(Self::One(Family::of(first))),
        }
    }

    /// Whether these addresses are all that a Service with an explicit wish may ask for.
    #[must_use]
    pub fn accept(self, addresses: &Addresses) -> bool {
        let has = |family| addresses.get(family).is_some();
        match self {
            Self::One(family) => has(family) && !has(family.other()),
            Self::Prefer => !addresses.is_empty(),
            Self::Both => has(Family::V4) && has(Family::V6),
        }
    }

    /// Of these addresses, those of wanted families.
    #[must_use]
    pub fn among(self, addresses: &Addresses) -> Addresses {
        match self {
            Self::One(family) => addresses.only(family),
            Self::Prefer | Self::Both => *addresses,
        }
    }
}

impl std::fmt::Display for Families {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(family) => family.fmt(f),
            Self::Prefer | Self::Both => f.write_str("dual"),
        }
    }
}

/// Where the address is to come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wish {
    /// From any pool with `autoAssign`.
    Any,
    /// From this pool.
    Pool(String),
    /// These addresses, and no others.
    Addresses {
        /// The addresses.
        addresses: Addresses,
        /// The pool that they have to be of, where the Service names one too.
        pool: Option<String>,
    },
}

/// What a Service asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// The families.
    pub families: Families,
    /// Where from.
    pub wish: Wish,
    /// Alone, or with others: never [`Tenancy::Leaves`].
    pub tenancy: Tenancy,
}

/// The words in a Service that make a request.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    /// Key and value of the annotation that lists addresses.
    pub addresses: Option<(&'static str, &'a str)>,
    /// `spec.loadBalancerIP`; empty when absent.
    pub load_balancer_ip: &'a str,
    /// Value of the annotation that names a pool.
    pub pool: Option<&'a str>,
    /// With whom the address may be shared.
    pub sharing: Option<Sharing>,
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// When the words contradict each other, or an address cannot be read.
    pub fn read(families: Families, words: Words<'_>) -> Result<Self, Rejection> {
        let addresses = match (words.addresses, words.load_balancer_ip) {
            (None, "") => None,
            (Some((key, _)), ip) if !ip.is_empty() => return Err(Rejection::AskedTwice { key }),
            (Some((key, list)), _) => Some(read_list(key, list)?),
            (None, ip) => {
                let address = ip.trim().parse::<IpAddr>();
                let address = address.map_err(|_| Rejection::BadLoadBalancerIp(excerpt(ip)))?;
                Some(Addresses::from(address.to_canonical()))
            }
        };
        let pool = words.pool.map(str::to_owned);
        let wish = match (addresses, pool) {
            (Some(addresses), _) if !families.accept(&addresses) => {
                return Err(Rejection::WrongFamily { addresses, families });
            }
            (Some(addresses), pool) => Wish::Addresses { addresses, pool },
            (None, Some(pool)) => Wish::Pool(pool),
            (None, None) => Wish::Any,
        };
        let tenancy = words
            .sharing
            .map_or(Tenancy::Alone, |sharing| Tenancy::Shares(Box::new(sharing)));
        Ok(Self {
            families,
            wish,
            tenancy,
        })
    }

    /// Whether what a Service has is all it asks for, or a part of it.
    #[must_use]
    pub fn allows(&self, has: &Assignment) -> bool {
        let addresses = has.addresses();
        let from = |pool: &String| {
            has.parts()
                .all(|(_, origin)| origin.name() == Some(pool.as_str()))
        };
        let wish = match &self.wish {
            Wish::Any => true,
            Wish::Pool(pool) => from(pool),
            Wish::Addresses {
                addresses: asked,
                pool,
            } => *asked == addresses && pool.as_ref().is_none_or(from),
        };
        wish && !addresses.is_empty() && self.families.among(&addresses) == addresses
    }

    /// The family that a Service wants an address of beside what it has. Who names addresses wants no others.
    #[must_use]
    pub fn missing(&self, has: &Assignment) -> Option<Family> {
        match (&self.wish, self.families) {
            (Wish::Addresses { .. }, _) | (_, Families::One(_)) => None,
            (Wish::Any | Wish::Pool(_), Families::Prefer | Families::Both) => [Family::V4, Family::V6]
                .into_iter()
                .find(|family| has.origin(*family).is_none()),
        }
    }
}

fn read_list(key: &'static str, list: &str) -> Result<Addresses, Rejection> {
    let mut addresses = Addresses::default();
    let mut count = 0;
    for text in list.split(',') {
        let address = text
            .trim()
            .parse::<IpAddr>()
            .map_err(|_| Rejection::BadAddressList {
                key,
                value: excerpt(list),
            })?;
        count += 1;
        if count > 2 {
            return Err(Rejection::TooManyAddresses(excerpt(list)));
        }
        let address = address.to_canonical();
        if !addresses.add(address) {
            let first = addresses.get(Family::of(address)).unwrap_or(address);
            return Err(Rejection::SameFamily(first, address));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(ips: &[&str], policy: DualStack) -> Result<Families, Rejection> {
        let ips: Vec<_> = ips.iter().map(|ip| (*ip).to_owned()).collect();
        Families::of_cluster_ips(&ips, policy)
    }

    fn read(list: Option<&str>, ip: &str, pool: Option<&str>) -> Result<Wish, String> {
        let words = Words {
            addresses: list.map(|list| ("metallb.io/loadBalancerIPs", list)),
            load_balancer_ip: ip,
            pool,
            sharing: None,
        };
        match Request::read(Families::One(Family::V4), words) {
            Ok(request) => Ok(request.wish),
            Err(rejection) => Err(rejection.to_string()),
        }
    }

    #[test]
    fn the_family_comes_from_the_cluster_ips() {
        assert_eq!(
            families(&["10.96.0.9"], DualStack::No),
            Ok(Families::One(Family::V4))
        );
        assert_eq!(
            families(&["fd00::9"], DualStack::Preferred),
            Ok(Families::One(Family::V6))
        );
        assert_eq!(
            families(&["fd00::9", "10.96.0.9"], DualStack::Preferred),
            Ok(Families::Prefer)
        );
        assert_eq!(
            families(&["10.96.0.9", "fd00::9"], DualStack::Required),
            Ok(Families::Both)
        );
        assert_eq!(families(&[], DualStack::No), Err(Rejection::NoClusterIp));
        assert_eq!(families(&["None"], DualStack::No), Err(Rejection::NoClusterIp));
        assert!(families(&["10.96.0.9"], DualStack::Required).is_err());
    }

    #[test]
    fn an_address_is_asked_for_in_one_place_only() {
        let error = read(Some("192.168.50.50"), "192.168.50.50", None).unwrap_err();
        assert!(
            error
                .contains("service can not have both metallb.io/loadBalancerIPs and svc.Spec.LoadBalancerIP")
        );
    }

    #[test]
    fn addresses_that_cannot_be_read_are_named() {
        for (list, ip, part) in [
            (
                Some("nonsense"),
                "",
                "invalid metallb.io/loadBalancerIPs: \"nonsense\"",
            ),
            (
                Some("192.168.50.1,"),
                "",
                "invalid metallb.io/loadBalancerIPs: \"192.168.50.1,\"",
            ),
            (
                Some("192.168.50.1,192.168.50.2"),
                "",
                "\"192.168.50.1\" \"192.168.50.2\" has the same family",
            ),
            (Some("10.0.0.1,fd00::1,10.0.0.2"), "", "more than two addresses"),
            (
                Some("fd00::1"),
                "",
                "requested loadBalancer IP(s) [\"fd00::1\"] does not match the ipFamily",
            ),
            (
                Some("10.0.0.1,fd00::1"),
                "",
                "does not match the ipFamily of the service",
            ),
            (None, "nonsense", "invalid spec.loadBalancerIP \"nonsense\""),
        ] {
            let error = read(list, ip, None).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn of_a_long_text_the_beginning_is_repeated() {
        let long = "é".repeat(5000);
        for error in [
            read(Some(&long), "", None).unwrap_err(),
            read(None, &long, None).unwrap_err(),
            Rejection::UnknownPool(excerpt(&long)).to_string(),
        ] {
            assert!(error.len() < 300 && error.contains('…'), "{error}");
        }
    }

    #[test]
    fn a_pool_may_be_named_along_with_an_address() {
        let addresses = Addresses::from("192.168.50.7".parse::<IpAddr>().unwrap());
        let wish = read(Some(" 192.168.50.7 "), "", Some("lan")).unwrap();
        assert_eq!(
            wish,
            Wish::Addresses {
                addresses,
                pool: Some("lan".to_owned())
            }
        );
        assert_eq!(read(None, "", Some("lan")), Ok(Wish::Pool("lan".to_owned())));
        assert_eq!(read(None, "", None), Ok(Wish::Any));
    }
}
