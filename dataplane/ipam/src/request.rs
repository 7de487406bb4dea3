//! The address request of a Service: families, pool, addresses. Parsed once, when the Service changes.

use std::net::IpAddr;

use crate::addresses::Addresses;
use crate::assignment::Assignment;
use crate::families::{Families, IpFamilyPolicy};
use crate::range::Family;
use crate::rejection::{Rejection, excerpt};
use crate::sharing::{Sharing, SharingMode};

impl Families {
    /// The families of a Service, from its cluster IPs: those are what Kubernetes decided, whatever the spec leaves open.
    ///
    /// # Errors
    /// If there is no cluster IP, or only one where two families are required.
    pub fn of_cluster_ips(cluster_ips: &[String], policy: IpFamilyPolicy) -> Result<Self, Rejection> {
        let first = cluster_ips.first().map(|text| text.parse::<IpAddr>());
        let Some(Ok(first)) = first else {
            return Err(Rejection::NoClusterIp);
        };
        let two = cluster_ips.len() > 1;
        match policy {
            IpFamilyPolicy::RequireDualStack if two => Ok(Self::RequireDualStack),
            IpFamilyPolicy::RequireDualStack => Err(Rejection::NotEnoughClusterIps(cluster_ips.join(" "))),
            IpFamilyPolicy::PreferDualStack if two => Ok(Self::PreferDualStack),
            IpFamilyPolicy::PreferDualStack | IpFamilyPolicy::SingleStack => {
                Ok(Self::Single(Family::of(first)))
            }
        }
    }
}

/// Which address is requested.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AddressRequest {
    /// Any address of a pool with `autoAssign`.
    Any,
    /// Any address of this pool.
    Pool(String),
    /// Exactly these addresses.
    Addresses {
        /// The addresses.
        addresses: Addresses,
        /// The pool that must contain them, if the Service names one too.
        pool: Option<String>,
    },
}

/// The request of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Requested families.
    pub families: Families,
    /// Requested pool or addresses.
    pub address: AddressRequest,
    /// Exclusive or shared; never [`SharingMode::Draining`].
    pub sharing_mode: SharingMode,
}

/// The fields and annotations of a Service that make up a request.
#[derive(Clone, Debug)]
pub struct RawRequest<'a> {
    /// Key and value of the annotation that lists addresses.
    pub addresses: Option<(&'static str, &'a str)>,
    /// `spec.loadBalancerIP`; empty if absent.
    pub load_balancer_ip: &'a str,
    /// Value of the annotation that names a pool.
    pub pool: Option<&'a str>,
    /// Set if the Service has a sharing key.
    pub sharing: Option<Sharing>,
}

impl Request {
    /// Parses a request.
    ///
    /// # Errors
    /// If fields and annotations contradict each other, or an address is invalid.
    pub fn parse(families: Families, raw: RawRequest<'_>) -> Result<Self, Rejection> {
        let addresses = match (raw.addresses, raw.load_balancer_ip) {
            (None, "") => None,
            (Some((key, _)), ip) if !ip.is_empty() => return Err(Rejection::DuplicateRequest { key }),
            (Some((key, list)), _) => Some(parse_list(key, list)?),
            (None, ip) => {
                let address = ip.trim().parse::<IpAddr>();
                let address = address.map_err(|_| Rejection::InvalidLoadBalancerIp(excerpt(ip)))?;
                Some(Addresses::from(address.to_canonical()))
            }
        };
        let pool = raw.pool.map(str::to_owned);
        let address = match (addresses, pool) {
            (Some(addresses), _) if !families.accepts(&addresses) => {
                return Err(Rejection::FamilyMismatch { addresses, families });
            }
            (Some(addresses), pool) => AddressRequest::Addresses { addresses, pool },
            (None, Some(pool)) => AddressRequest::Pool(pool),
            (None, None) => AddressRequest::Any,
        };
        let sharing_mode = raw.sharing.map_or(SharingMode::Exclusive, |sharing| {
            SharingMode::Shared(Box::new(sharing))
        });
        Ok(Self {
            families,
            address,
            sharing_mode,
        })
    }

    /// Whether the addresses that a Service has are all that it requests, or a part of it.
    #[must_use]
    pub fn permits(&self, has: &Assignment) -> bool {
        let addresses = has.addresses();
        let from = |pool: &String| {
            has.parts()
                .all(|(_, origin)| origin.name() == Some(pool.as_str()))
        };
        let as_requested = match &self.address {
            AddressRequest::Any => true,
            AddressRequest::Pool(pool) => from(pool),
            AddressRequest::Addresses {
                addresses: requested,
                pool,
            } => *requested == addresses && pool.as_ref().is_none_or(from),
        };
        as_requested && !addresses.is_empty() && self.families.restrict(&addresses) == addresses
    }

    /// The family of which the Service still requests an address. A request for certain addresses never lacks one.
    #[must_use]
    pub fn missing_family(&self, has: &Assignment) -> Option<Family> {
        match (&self.address, self.families) {
            (AddressRequest::Addresses { .. }, _) | (_, Families::Single(_)) => None,
            (
                AddressRequest::Any | AddressRequest::Pool(_),
                Families::PreferDualStack | Families::RequireDualStack,
            ) => [Family::V4, Family::V6]
                .into_iter()
                .find(|family| has.origin(*family).is_none()),
        }
    }
}

fn parse_list(key: &'static str, list: &str) -> Result<Addresses, Rejection> {
    let mut addresses = Addresses::default();
    let mut count = 0;
    for text in list.split(',') {
        let address = text
            .trim()
            .parse::<IpAddr>()
            .map_err(|_| Rejection::InvalidAddressList {
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
            return Err(Rejection::DuplicateFamily(first, address));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(ips: &[&str], policy: IpFamilyPolicy) -> Result<Families, Rejection> {
        let ips: Vec<_> = ips.iter().map(|ip| (*ip).to_owned()).collect();
        Families::of_cluster_ips(&ips, policy)
    }

    fn read(list: Option<&str>, ip: &str, pool: Option<&str>) -> Result<AddressRequest, String> {
        let raw = RawRequest {
            addresses: list.map(|list| ("metallb.io/loadBalancerIPs", list)),
            load_balancer_ip: ip,
            pool,
            sharing: None,
        };
        match Request::parse(Families::Single(Family::V4), raw) {
            Ok(request) => Ok(request.address),
            Err(rejection) => Err(rejection.to_string()),
        }
    }

    #[test]
    fn families_follow_cluster_ips() {
        assert_eq!(
            families(&["10.96.0.9"], IpFamilyPolicy::SingleStack),
            Ok(Families::Single(Family::V4))
        );
        assert_eq!(
            families(&["fd00::9"], IpFamilyPolicy::PreferDualStack),
            Ok(Families::Single(Family::V6))
        );
        assert_eq!(
            families(&["fd00::9", "10.96.0.9"], IpFamilyPolicy::PreferDualStack),
            Ok(Families::PreferDualStack)
        );
        assert_eq!(
            families(&["10.96.0.9", "fd00::9"], IpFamilyPolicy::RequireDualStack),
            Ok(Families::RequireDualStack)
        );
        assert_eq!(
            families(&[], IpFamilyPolicy::SingleStack),
            Err(Rejection::NoClusterIp)
        );
        assert_eq!(
            families(&["None"], IpFamilyPolicy::SingleStack),
            Err(Rejection::NoClusterIp)
        );
        assert!(families(&["10.96.0.9"], IpFamilyPolicy::RequireDualStack).is_err());
    }

    #[test]
    fn addresses_in_annotation_and_spec_are_rejected() {
        let error = read(Some("192.168.50.50"), "192.168.50.50", None).unwrap_err();
        assert!(
            error
                .contains("service can not have both metallb.io/loadBalancerIPs and svc.Spec.LoadBalancerIP")
        );
    }

    #[test]
    fn invalid_addresses_are_quoted() {
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
    fn long_input_is_truncated_in_messages() {
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
    fn pool_and_address_can_be_requested_together() {
        let addresses = Addresses::from("192.168.50.7".parse::<IpAddr>().unwrap());
        let request = read(Some(" 192.168.50.7 "), "", Some("lan")).unwrap();
        assert_eq!(
            request,
            AddressRequest::Addresses {
                addresses,
                pool: Some("lan".to_owned())
            }
        );
        assert_eq!(
            read(None, "", Some("lan")),
            Ok(AddressRequest::Pool("lan".to_owned()))
        );
        assert_eq!(read(None, "", None), Ok(AddressRequest::Any));
    }
}
