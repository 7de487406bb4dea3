//! Check `BGPObjects`: whether a BGPPeer in the stack's namespace has a field that the speakers do not support yet.

use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::preflight::{Fact, Finding, unknown};

pub(in crate::preflight) fn bgp_objects(found: &Fact<Vec<String>>) -> Finding {
    match found {
        Err(error) => unknown("BGP objects", error),
        Ok(found) if found.is_empty() => Finding::passed("no BGPPeer has an unsupported field"),
        Ok(found) => Finding::warning(format!(
            "the speakers do not support {} yet: these peers have no session",
            list_first(found, LIST_LIMIT)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_fields_are_a_warning_that_names_them() {
        let found = Ok(vec!["interface of BGPPeer metallb-system/tor".to_owned()]);
        let Finding::Warning(message) = bgp_objects(&found) else {
            panic!("a warning");
        };
        assert!(
            message.contains("interface of BGPPeer metallb-system/tor"),
            "{message}"
        );
        assert!(matches!(bgp_objects(&Ok(Vec::new())), Finding::Passed(_)));
    }
}
