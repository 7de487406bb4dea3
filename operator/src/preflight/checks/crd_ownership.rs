//! Check `CRDOwnership`: whether the metallb.io CRDs exist or can be installed, and whether another client may delete
//! them.
//!
//! Existing CRDs of MetalLB are adopted with the pools in them. An owner that deletes them later would delete every
//! pool.

use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::preflight::{CrdFacts, Fact, Finding, unknown};

pub(in crate::preflight) const CRD_NAMES: [&str; 8] = [
    "ipaddresspools.metallb.io",
    "l2advertisements.metallb.io",
    "servicel2statuses.metallb.io",
    "configurationstates.metallb.io",
    BGP_PEERS,
    "bgpadvertisements.metallb.io",
    "bfdprofiles.metallb.io",
    "communities.metallb.io",
];
const BGP_PEERS: &str = "bgppeers.metallb.io";

/// The versions of a CRD that controller and speakers can read, with the one that they use first.
fn versions(name: &str) -> &'static [&'static str] {
    if name == BGP_PEERS {
        &["v1beta2", "v1beta1"]
    } else {
        &["v1beta1"]
    }
}

/// `manages`: whether the operator installs the CRDs.
pub(in crate::preflight) fn crd_ownership(manages: bool, found: &Fact<Vec<CrdFacts>>) -> Finding {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unknown("the metallb.io CRDs", error),
    };
    if let Some(finding) = if manages {
        unknown_stored_version(found)
    } else {
        missing(found)
    } {
        return finding;
    }
    let names = |matches: &dyn Fn(&&CrdFacts) -> bool| -> Vec<&str> {
        found
            .iter()
            .filter(matches)
            .map(|crd| crd.name.as_str())
            .collect()
    };
    if let Some(release) = found.iter().find_map(|crd| crd.release.as_ref()) {
        let of_release = names(&|crd| crd.release.as_ref() == Some(release));
        return Finding::warning(format!(
            "{} belong to the Helm release {release}: helm uninstall deletes them and every pool, whatever their annotations; to \
             end the release without that, see docs/adoption.md",
            list_first(&of_release, LIST_LIMIT)
        ));
    }
    let from_olm = names(&|crd| crd.is_from_olm);
    if manages && !from_olm.is_empty() {
        return Finding::warning(format!(
            "{} were installed by the Operator Lifecycle Manager and are also installed by this operator; start the operator with \
             --manage-crds=false",
            list_first(&from_olm, LIST_LIMIT)
        ));
    }
    let foreign = names(&|crd| !crd.is_managed);
    if manages && !foreign.is_empty() {
        let mut managers: Vec<_> = found
            .iter()
            .filter(|crd| !crd.is_managed)
            .flat_map(|crd| &crd.managers)
            .collect();
        managers.sort();
        managers.dedup();
        return Finding::warning(format!(
            "{} already exist, written by {}; they are adopted and their objects are kept",
            list_first(&foreign, LIST_LIMIT),
            list_first(managers, LIST_LIMIT)
        ));
    }
    Finding::passed("the metallb.io CRDs are owned by the operator or do not exist")
}

/// Another client installs the CRDs, and some do not exist.
fn missing(found: &[CrdFacts]) -> Option<Finding> {
    let is_served = |name: &str| {
        let used = versions(name).first();
        found
            .iter()
            .any(|crd| crd.name == name && crd.served.iter().any(|version| Some(&version.as_str()) == used))
    };
    let missing = CRD_NAMES.into_iter().filter(|name| !is_served(name));
    let missing: Vec<_> = missing
        .map(|name| format!("{name}/{}", versions(name).first().unwrap_or(&"")))
        .collect();
    (!missing.is_empty()).then(|| {
        Finding::failed(format!(
            "the cluster does not serve {}, and the operator runs with --manage-crds=false; install the \
             CRDs or start the operator with --manage-crds=true",
            list_first(&missing, LIST_LIMIT)
        ))
    })
}

/// The operator installs the CRDs, and objects in another stored version would become unreadable.
fn unknown_stored_version(found: &[CrdFacts]) -> Option<Finding> {
    let (name, version) = found.iter().find_map(|crd| {
        let known = versions(&crd.name);
        let version = crd
            .stored
            .iter()
            .find(|version| !known.contains(&version.as_str()))?;
        Some((&crd.name, version))
    })?;
    let used = versions(name).first().unwrap_or(&"");
    Some(Finding::failed(format!(
        "{name} may have objects stored in version {version}, which this operator cannot read; migrate them to {used} and \
         remove {version} from status.storedVersions of the CRD"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(name: &str) -> CrdFacts {
        CrdFacts {
            name: name.to_owned(),
            served: vec![versions(name)[0].to_owned()],
            stored: vec![versions(name)[0].to_owned()],
            managers: vec!["kubectl".to_owned()],
            ..CrdFacts::default()
        }
    }

    /// All CRDs, each changed by `edit`.
    fn all(edit: impl Fn(&mut CrdFacts)) -> Fact<Vec<CrdFacts>> {
        Ok(CRD_NAMES
            .into_iter()
            .map(|name| {
                let mut kind = mk(name);
                edit(&mut kind);
                kind
            })
            .collect())
    }

    #[test]
    fn finding_depends_on_the_owner_of_the_crds() {
        let helm = |kind: &mut CrdFacts| kind.release = Some("metallb-system/metallb".to_owned());
        let cases: [(&str, bool, Fact<Vec<CrdFacts>>, &str); 8] = [
            ("no CRDs", true, Ok(Vec::new()), "Passed"),
            ("ours", true, all(|kind| kind.is_managed = true), "Passed"),
            (
                "a manifest's",
                true,
                all(|_| ()),
                "Warning: ipaddresspools.metallb.io, l2advertisements.metallb.io",
            ),
            (
                "a release's",
                true,
                all(helm),
                "Warning: ipaddresspools.metallb.io, l2advertisements.metallb.io",
            ),
            (
                "OLM's, and ours",
                true,
                all(|kind| kind.is_from_olm = true),
                "Warning: ipaddresspools.metallb.io",
            ),
            (
                "OLM's alone",
                false,
                all(|kind| kind.is_from_olm = true),
                "Passed",
            ),
            (
                "missing and not ours to install",
                false,
                Ok(Vec::new()),
                "Failed: the cluster does not serve",
            ),
            (
                "stored in another version",
                true,
                all(|kind| kind.stored.push("v1alpha1".to_owned())),
                "Failed: ipaddresspools.metallb.io may have objects stored in version v1alpha1",
            ),
        ];
        for (what, manages, found, wanted) in cases {
            let finding = match crd_ownership(manages, &found) {
                Finding::Passed(_) => "Passed".to_owned(),
                Finding::Warning(message) => format!("Warning: {message}"),
                Finding::Unknown(message) => format!("Unknown: {message}"),
                Finding::Failed(message) => format!("Failed: {message}"),
            };
            assert!(finding.starts_with(wanted), "{what}: {finding}");
        }
    }

    #[test]
    fn names_are_the_crds_that_the_operator_installs() {
        let mut ours: Vec<_> = lb_crds::metallb_crds()
            .into_iter()
            .filter_map(|kind| kind.metadata.name)
            .collect();
        ours.sort();
        let mut names = CRD_NAMES.map(str::to_owned);
        names.sort();
        assert_eq!(ours, names);
        for kind in lb_crds::metallb_crds() {
            let served = kind.spec.versions.iter().map(|version| version.name.as_str());
            let name = kind.metadata.name.as_deref().unwrap_or_default();
            assert_eq!(served.collect::<Vec<_>>(), versions(name), "{name}");
        }
    }
}
