//! Check `BGPObjects`: whether objects for BGP are left in the stack's namespace, which the stack does not serve.

use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::preflight::{Fact, Finding, unknown};

pub(in crate::preflight) fn bgp_objects(found: &Fact<Vec<String>>) -> Finding {
    match found {
        Err(error) => unknown("BGP objects", error),
        Ok(found) if found.is_empty() => Finding::passed("no BGP objects"),
        Ok(found) => Finding::warning(format!(
            "the stack announces by ARP and NDP and ignores {}; a pool that no L2Advertisement selects is not announced",
            list_first(found, LIST_LIMIT)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bgp_objects_are_a_warning_that_names_them() {
        let found = Ok(vec!["BGPPeer metallb-system/tor".to_owned()]);
        let Finding::Warning(message) = bgp_objects(&found) else {
            panic!("a warning");
        };
        assert!(message.contains("BGPPeer metallb-system/tor"), "{message}");
        assert!(matches!(bgp_objects(&Ok(Vec::new())), Finding::Passed(_)));
    }
}
