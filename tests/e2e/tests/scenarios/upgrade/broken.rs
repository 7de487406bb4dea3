//! Releases with a faulty speaker: each is detected, rolled back automatically, and not tried again.

use std::time::Duration;

use lb_tools::releases::{LIFETIME, Release};

use super::following::{Leader, Statuses};
use super::{Place, UPGRADE_TIMEOUT, good};

#[test]
fn faulty_release_is_rolled_back_and_not_retried() -> anyhow::Result<()> {
    let place = Place::next("broken", &good())?;
    is_rolled_back(&place, Release::Crashing, Duration::from_secs(5))?;
    is_rolled_back(&place, Release::Silent, Duration::from_secs(5))?;
    // The soak time is longer than its lifetime, so it exits in the canary, where it does no harm.
    is_rolled_back(&place, Release::Dying, LIFETIME + Duration::from_secs(15))
}

fn is_rolled_back(place: &Place, release: Release, soak: Duration) -> anyhow::Result<()> {
    let version = release.version();
    let what = format!("{release:?} {version}");
    place.with_traffic(&what, |place| {
        let past = place.past()?;
        let statuses = Statuses::follow(&place.harness)?;
        let leader = Leader::find(place)?;
        place.set(&format!(
            "{{\"version\":\"{version}\",\"upgrade\":{{\"canarySoakSeconds\":{}}}}}",
            soak.as_secs()
        ))?;
        if matches!(release, Release::Crashing) {
            // The next leader continues the rollback.
            while statuses.next(UPGRADE_TIMEOUT)?["upgrade"]["step"] != "RollingBack" {}
            leader.kill(place)?;
            let left = place.status()?["upgrade"]["step"].take();
            assert_eq!(left, "RollingBack", "it was killed in the middle");
        }
        let record = place.wait_for_completion(past)?;
        assert_eq!(record["outcome"], "RolledBack", "{record}");
        assert_eq!(record["to"], version, "{record}");
        place.runs(&good())?;
        failure_is_reported(place, release)?;
        release_is_not_retried(place, past + 1)
    })?;
    Ok(())
}

/// The condition names pod, node and reason, and the status lists the failed revision.
fn failure_is_reported(place: &Place, release: Release) -> anyhow::Result<()> {
    place
        .harness
        .admin("kubectl wait lbs default --for=condition=Degraded --timeout=30s")?;
    let (_, reason, message) = place.condition("Degraded")?;
    println!("{release:?}: {message}");
    assert_eq!(reason, "RolledBack", "{message}");
    let nodes = place.harness.lab().nodes();
    assert!(
        nodes.iter().any(|node| message.contains(&format!("node {node}"))),
        "{message}"
    );
    match release {
        Release::Silent => {
            let addresses = [place.four.to_string(), place.six.to_string()];
            assert!(addresses.iter().any(|ip| message.contains(ip)), "{message}");
        }
        Release::Crashing | Release::Dying | Release::Good => {
            assert!(message.contains("pod speaker-"), "{message}");
        }
    }
    let status = place.status()?;
    let rejected = status["failedRevisions"].as_array().cloned().unwrap_or_default();
    assert!(
        rejected
            .iter()
            .any(|rejected| rejected["version"] == release.version()),
        "{rejected:?}"
    );
    Ok(())
}

/// Only a change of the spec is a reason to try again.
fn release_is_not_retried(place: &Place, past: usize) -> anyhow::Result<()> {
    let before = place.pods()?;
    place
        .harness
        .admin("kubectl annotate lbs default looked-at=$(date +%s) --overwrite")?;
    place
        .harness
        .admin("kubectl label deployment controller -n metallb-system looked-at=now --overwrite")?;
    place.harness.admin(
        "kubectl delete pod --wait -n lb-operator-system -l app.kubernetes.io/name=lb-operator && \
         kubectl rollout status deployment/lb-operator -n lb-operator-system --timeout=60s",
    )?;
    // The test is that nothing happens, so there is no event to wait for.
    std::thread::sleep(Duration::from_secs(5));
    let status = place.status()?;
    assert!(status["upgrade"].is_null(), "{}", status["upgrade"]);
    assert_eq!(place.past()?, past);
    assert_eq!(place.pods()?, before);
    Ok(())
}
