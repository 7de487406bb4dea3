//! Pages of the documentation that findings refer to.

/// A page with an anchor.
pub(crate) type Page = &'static str;

pub(crate) const PENDING: Page = "docs/troubleshooting.md#a-service-stays-pending";
pub(crate) const NO_ANSWER: Page = "docs/troubleshooting.md#a-service-has-an-address-and-nothing-answers";
pub(crate) const OTHER_HOST: Page = "docs/troubleshooting.md#another-host-has-the-address";
pub(crate) const NOT_READY: Page = "docs/troubleshooting.md#the-stack-is-not-ready";
pub(crate) const SLOW_FAILOVER: Page = "docs/troubleshooting.md#failover-takes-40-seconds";
pub(crate) const INSTALL: Page = "docs/install.md#3-install-the-operator";
pub(crate) const STACK: Page = "docs/install.md#4-create-the-stack";
pub(crate) const PREFLIGHT: Page = "docs/preflight.md#the-checks";
pub(crate) const POOLS: Page = "docs/events.md#pools-and-advertisements";
pub(crate) const STACK_CONDITIONS: Page = "docs/events.md#the-stack";
pub(crate) const UPGRADE_FAILED: Page = "docs/upgrades.md#when-an-upgrade-fails";
pub(crate) const UPGRADE_WAITS: Page = "docs/upgrades.md#when-an-upgrade-waits";
pub(crate) const APPROVE: Page = "docs/upgrades.md#approve-upgrades-by-hand";
pub(crate) const INTERVENE: Page = "docs/upgrades.md#intervene-by-hand";
pub(crate) const BGP: Page = "docs/bgp.md#it-does-not-work";
pub(crate) const RIGHTS: Page = "docs/rbac.md#users";

/// Every page.
#[cfg(test)]
const ALL: [Page; 16] = [
    PENDING,
    NO_ANSWER,
    OTHER_HOST,
    NOT_READY,
    SLOW_FAILOVER,
    INSTALL,
    STACK,
    PREFLIGHT,
    POOLS,
    STACK_CONDITIONS,
    UPGRADE_FAILED,
    UPGRADE_WAITS,
    APPROVE,
    INTERVENE,
    BGP,
    RIGHTS,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The anchor of a heading as GitHub makes it.
    fn anchor(heading: &str) -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|one| one.is_alphanumeric() || " -_".contains(*one));
        kept.map(|one| if one == ' ' { '-' } else { one }).collect()
    }

    #[test]
    fn pages_and_anchors_exist() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for page in ALL {
            let (file, wanted) = page.split_once('#').unwrap();
            let text = std::fs::read_to_string(root.join(file)).expect(file);
            let mut headings = text.lines().filter(|line| line.starts_with('#'));
            assert!(headings.any(|heading| anchor(heading) == wanted), "{page}");
        }
    }
}
