//! The subject of a question: a Service or an address.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use lb_runtime::ObjectKey;

use crate::snapshot::{Snapshot, addresses, is_load_balancer};

/// A Service or an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    Service(ObjectKey),
    /// The Services with this name, of every namespace.
    Named(String),
    Address(IpAddr),
}

impl Target {
    /// Reads `web`, `shop/web`, `service/web`, `svc/web` or `192.168.50.50`.
    ///
    /// Without a namespace a name stands for the Services of all namespaces.
    pub(crate) fn parse(text: &str, namespace: Option<&str>) -> Self {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::Address(address.to_canonical());
        }
        let name = match text.split_once('/') {
            Some(("service" | "services" | "svc", name)) => name,
            Some((namespace, name)) => return Self::Service(ObjectKey::new(namespace, name)),
            None => text,
        };
        match namespace {
            Some(namespace) => Self::Service(ObjectKey::new(namespace, name)),
            None => Self::Named(name.to_owned()),
        }
    }

    /// The Services that it means.
    pub(crate) fn services<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a Service> {
        match self {
            Self::Service(key) => snapshot.service(key).into_iter().collect(),
            Self::Named(name) => {
                let services = snapshot.services.iter();
                services
                    .filter(|service| is_load_balancer(service))
                    .filter(|service| service.metadata.name.as_ref() == Some(name))
                    .collect()
            }
            Self::Address(address) => {
                let services = snapshot.services.iter();
                services
                    .filter(|service| addresses(service).contains(address))
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_kubectl_reads_them() {
        let service = |namespace, name| Target::Service(ObjectKey::new(namespace, name));
        for (text, target) in [
            ("web", service("default", "web")),
            ("svc/web", service("default", "web")),
            ("shop/web", service("shop", "web")),
            ("192.168.50.50", Target::Address([192, 168, 50, 50].into())),
        ] {
            assert_eq!(Target::parse(text, Some("default")), target, "{text}");
        }
        assert_eq!(Target::parse("svc/web", None), Target::Named("web".to_owned()));
    }
}
