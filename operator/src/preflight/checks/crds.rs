//! Whether the metallb.io kinds are there, or can be, and whether somebody else may take them away.
//!
//! Kinds that MetalLB has left are no obstacle: this is a drop-in, and the pools in them are wanted. What is dangerous is
//! an owner that removes them later, and every pool with them.

use crate::preflight::{Definition, Finding, Known, few, unknown};

/// The version of every metallb.io kind that controller and speakers use.
const VERSION: &str = "v1beta1";
/// The kinds.
pub(in crate::preflight) const NAMES: [&str; 4] = [
    "ipaddresspools.metallb.io",
    "l2advertisements.metallb.io",
    "servicel2statuses.metallb.io",
    "configurationstates.metallb.io",
];

/// `manages`: whether the operator installs the kinds.
pub(in crate::preflight) fn owned(manages: bool, found: &Known<Vec<Definition>>) -> Finding {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unknown("the metallb.io kinds", error),
    };
    if let Some(finding) = if manages { lost(found) } else { missing(found) } {
        return finding;
    }
    let list = |chosen: &dyn Fn(&&Definition) -> bool| -> Vec<String> {
        found
            .iter()
            .filter(chosen)
            .map(|kind| kind.name.clone())
            .collect()
    };
    let removable = found
        .iter()
        .find_map(|kind| Some((kind, kind.release.as_ref().filter(|_| !kind.is_kept)?)));
    if let Some((_, release)) = removable {
        let same = list(&|kind| kind.release.as_ref() == Some(release) && !kind.is_kept);
        return Finding::warning(format!(
            "{} belong to the Helm release {release}: its removal would delete them and every pool. Before it, run kubectl \
             annotate crd {} helm.sh/resource-policy=keep",
            few(&same),
            same.join(" ")
        ));
    }
    let olms = list(&|kind| kind.is_olms);
    if manages && !olms.is_empty() {
        return Finding::warning(format!(
            "{} were installed by the Operator Lifecycle Manager, and this operator installs them too: start it with \
             --manage-crds=false",
            few(&olms)
        ));
    }
    let strange = list(&|kind| !kind.is_ours);
    if manages && !strange.is_empty() {
        let mut managers: Vec<_> = found
            .iter()
            .filter(|kind| !kind.is_ours)
            .flat_map(|kind| kind.managers.clone())
            .collect();
        managers.sort();
        managers.dedup();
        return Finding::warning(format!(
            "{} are there already, written by {}: they are taken over, and what is in them stays",
            few(&strange),
            few(&managers)
        ));
    }
    Finding::passed("the metallb.io kinds are the operator's, or free")
}

/// Somebody else installs the kinds, and they are not there.
fn missing(found: &[Definition]) -> Option<Finding> {
    let serves = |name: &str| {
        found
            .iter()
            .any(|kind| kind.name == name && kind.served.iter().any(|version| version == VERSION))
    };
    let missing: Vec<_> = NAMES
        .into_iter()
        .filter(|name| !serves(name))
        .map(str::to_owned)
        .collect();
    (!missing.is_empty()).then(|| {
        Finding::failed(format!(
            "the cluster does not serve {} in version {VERSION}, and this operator was told to leave the kinds to somebody \
             else: install them, or start it with --manage-crds=true",
            few(&missing)
        ))
    })
}

/// The operator installs the kinds, and would make objects unreadable.
fn lost(found: &[Definition]) -> Option<Finding> {
    let (name, version) = found.iter().find_map(|kind| {
        let version = kind.stored.iter().find(|version| *version != VERSION)?;
        Some((&kind.name, version))
    })?;
    Some(Finding::failed(format!(
        "objects of {name} may be stored in version {version}, which this operator does not know: migrate them to {VERSION}, and \
         remove {version} from the kind's status.storedVersions"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(name: &str) -> Definition {
        Definition {
            name: name.to_owned(),
            served: vec![VERSION.to_owned()],
            stored: vec![VERSION.to_owned()],
            managers: vec!["kubectl".to_owned()],
            ..Definition::default()
        }
    }

    /// All four kinds, each changed by `edit`.
    fn all(edit: impl Fn(&mut Definition)) -> Known<Vec<Definition>> {
        Ok(NAMES
            .into_iter()
            .map(|name| {
                let mut kind = mk(name);
                edit(&mut kind);
                kind
            })
            .collect())
    }

    #[test]
    fn who_owns_the_kinds_decides_what_is_said() {
        let helm = |kind: &mut Definition| kind.release = Some("metallb-system/metallb".to_owned());
        let cases: [(&str, bool, Known<Vec<Definition>>, &str); 9] = [
            ("none yet", true, Ok(Vec::new()), "Passed"),
            ("ours", true, all(|kind| kind.is_ours = true), "Passed"),
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
                "Warning: ipaddresspools.metallb.io",
            ),
            (
                "a release's, kept",
                true,
                all(|kind| {
                    helm(kind);
                    kind.is_kept = true;
                    kind.is_ours = true;
                }),
                "Passed",
            ),
            (
                "OLM's, and ours",
                true,
                all(|kind| kind.is_olms = true),
                "Warning: ipaddresspools.metallb.io",
            ),
            ("OLM's alone", false, all(|kind| kind.is_olms = true), "Passed"),
            (
                "nobody's, and not ours to install",
                false,
                Ok(Vec::new()),
                "Failed: the cluster does not serve",
            ),
            (
                "stored in another version",
                true,
                all(|kind| kind.stored.push("v1alpha1".to_owned())),
                "Failed: objects of ipaddresspools.metallb.io may be stored in version v1alpha1",
            ),
        ];
        for (what, manages, found, wanted) in cases {
            let finding = match owned(manages, &found) {
                Finding::Passed(_) => "Passed".to_owned(),
                Finding::Warning(message) => format!("Warning: {message}"),
                Finding::Failed(message) => format!("Failed: {message}"),
            };
            assert!(finding.starts_with(wanted), "{what}: {finding}");
        }
    }

    #[test]
    fn the_kinds_are_those_that_the_operator_installs() {
        let mut ours: Vec<_> = lb_crds::metallb_crds()
            .into_iter()
            .filter_map(|kind| kind.metadata.name)
            .collect();
        ours.sort();
        let mut names = NAMES.map(str::to_owned);
        names.sort();
        assert_eq!(ours, names);
        for kind in lb_crds::metallb_crds() {
            assert!(kind.spec.versions.iter().all(|version| version.name == VERSION));
        }
    }
}
