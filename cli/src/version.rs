//! Versions: of this program, the operator and the stack.

use semver::Version;
use serde::Serialize;

use crate::report::Report;
use crate::snapshot::Snapshot;
use crate::snapshot::Unread;

/// The version of this program.
pub(crate) const CLIENT: &str = env!("CARGO_PKG_VERSION");

/// The versions.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<String>,
}

/// The version of this program only.
pub(crate) fn client() -> Versions {
    Versions {
        client: CLIENT,
        operator: None,
        stack: None,
    }
}

/// All versions.
pub(crate) fn versions(snapshot: &Snapshot) -> Versions {
    let status = snapshot.stack().and_then(|stack| stack.status.as_ref());
    Versions {
        client: CLIENT,
        operator: status.and_then(|status| status.operator_version.clone()),
        stack: status.and_then(|status| status.version.clone()),
    }
}

/// A warning if operator and program are of different minor versions.
pub(crate) fn skew(snapshot: &Snapshot) -> Option<String> {
    let operator = versions(snapshot).operator?;
    let (own, other) = (Version::parse(CLIENT).ok()?, Version::parse(&operator).ok()?);
    let differ = (own.major, own.minor) != (other.major, other.minor);
    differ.then(|| {
        format!(
            "warning: kubectl-lb {CLIENT} and operator {operator} differ: answers may be wrong; use the kubectl-lb of \
             the operator's version"
        )
    })
}

impl Report for Versions {
    fn text(&self, _wide: bool) -> String {
        let mut text = format!("kubectl-lb  {}\n", self.client);
        for (name, version) in [("operator", &self.operator), ("stack", &self.stack)] {
            if let Some(version) = version {
                text.push_str(&format!("{name:<10}  {version}\n"));
            }
        }
        text
    }

    fn has_problems(&self) -> bool {
        false
    }

    fn unread(&self) -> &[Unread] {
        &[]
    }
}
