//! Replaces names and addresses by placeholders, the same one everywhere, so that a report can be read and names nobody.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::snapshot::Snapshot;

/// Namespaces that every cluster has.
const COMMON: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Placeholders by text.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    names: BTreeMap<String, String>,
    addresses: BTreeMap<IpAddr, usize>,
    macs: BTreeMap<String, usize>,
}

impl Redactor {
    /// Names of Services, namespaces and nodes get placeholders.
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let name = |meta: &kube::core::ObjectMeta| meta.name.clone().unwrap_or_default();
        let ours = snapshot.namespace().to_owned();
        let mut names = BTreeMap::new();
        let mut add = |kind: &str, name: String| {
            let number = names.len() + 1;
            if !name.is_empty() && !COMMON.contains(&name.as_str()) && name != ours {
                names.entry(name).or_insert_with(|| format!("{kind}-{number}"));
            }
        };
        for node in &snapshot.nodes {
            add("node", name(&node.metadata));
        }
        for namespace in &snapshot.namespaces {
            add("namespace", name(&namespace.metadata));
        }
        for service in &snapshot.services {
            add(
                "namespace",
                service.metadata.namespace.clone().unwrap_or_default(),
            );
            add("service", name(&service.metadata));
        }
        Self {
            names,
            ..Self::default()
        }
    }

    /// The text with placeholders.
    pub(super) fn apply(&mut self, text: &str) -> String {
        let mut redacted = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|one: char| !is_word(one)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            redacted.push_str(&self.word(word));
            let separators = after.find(is_word).unwrap_or(after.len());
            let (between, next) = after.split_at(separators);
            redacted.push_str(between);
            rest = next;
        }
        redacted
    }

    fn word(&mut self, word: &str) -> String {
        if word.is_empty() {
            return String::new();
        }
        if let Some(placeholder) = self.placeholder(word) {
            return placeholder;
        }
        // `address:port`, `first-last`, `name-of-a-pod`, and names with a colon or a dot behind them.
        for separator in [':', '-', '.'] {
            if let Some(at) = word.rfind(separator) {
                let (head, tail) = (word.get(..at).unwrap_or(""), word.get(at + 1..).unwrap_or(""));
                return format!("{}{separator}{}", self.word(head), self.word(tail));
            }
        }
        word.to_owned()
    }

    fn placeholder(&mut self, word: &str) -> Option<String> {
        if let Some(name) = self.names.get(word) {
            return Some(name.clone());
        }
        // A name with dots of its own, such as a host name, is one word; a number such as 7.5 is no address.
        if let Ok(address) = word.parse::<IpAddr>() {
            let next = self.addresses.len() + 1;
            let number = *self.addresses.entry(address).or_insert(next);
            return Some(format!("ip-{number}"));
        }
        if is_mac(word) {
            let next = self.macs.len() + 1;
            let number = *self.macs.entry(word.to_lowercase()).or_insert(next);
            return Some(format!("mac-{number}"));
        }
        None
    }
}

fn is_word(one: char) -> bool {
    one.is_alphanumeric() || matches!(one, '-' | '.' | ':')
}

fn is_mac(word: &str) -> bool {
    let mut parts = word.split(':');
    word.len() == 17 && parts.all(|part| part.len() == 2 && part.chars().all(|one| one.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture;

    #[test]
    fn names_and_addresses_get_the_same_placeholder_everywhere() {
        let mut snapshot = fixture::cluster();
        fixture::service(&mut snapshot, "shop/checkout", None, "", "");
        let mut redactor = Redactor::new(&snapshot);
        let text = "node: n1\nfield: shop/checkout at 192.168.50.50, 192.168.50.50:7947 fd00::1 from 02:00:00:00:00:05; \
                    range 10.0.0.1-10.0.0.9, pod checkout-7c9d-x2x9p in default, took 1.5 s";
        let redacted = redactor.apply(text);
        assert_eq!(
            redacted,
            "node: node-1\nfield: namespace-4/service-5 at ip-1, ip-1:7947 ip-2 from mac-1; range ip-3-ip-4, pod \
             service-5-7c9d-x2x9p in default, took 1.5 s"
        );
        assert_eq!(redactor.apply("192.168.50.50"), "ip-1", "in every file");
    }
}
