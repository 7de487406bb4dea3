//! Selection of the next speaker to replace.

use jiff::Timestamp;

use super::snapshot::{PodSnapshot, SpeakerSnapshot};
use super::state::seconds;

/// Seconds that a new speaker with addresses has to be ready before the next one is replaced. Other nodes verify its
/// addresses within seven seconds (`ownership::MAX_VERIFICATION_DELAY` of `lb-l2`), and their result takes about a
/// second to reach the API. The test `upgrade_waits_longer_than_a_verification_takes` compares the two.
pub const VERIFICATION_SECONDS: i64 = 10;
/// The same for a speaker without addresses, for which there is nothing to verify.
const SETTLE_SECONDS: i64 = 2;

/// Whether a speaker has been ready for long enough.
#[must_use]
pub fn is_verified(pod: &PodSnapshot, now: Timestamp) -> bool {
    let wait = if pod.announced_services > 0 {
        VERIFICATION_SECONDS
    } else {
        SETTLE_SECONDS
    };
    pod.ready && pod.ready_since.is_some_and(|since| seconds(since, now) >= wait)
}

/// The canary: preferably a ready speaker that announces nothing, not on the control plane.
#[must_use]
pub fn canary<'a>(speakers: &'a SpeakerSnapshot, revision: &str) -> Option<&'a PodSnapshot> {
    let old = |pod: &&PodSnapshot| pod.is_active() && pod.revision != revision;
    speakers
        .pods
        .iter()
        .filter(old)
        .min_by_key(|pod| (!pod.ready, pod.control_plane, pod.announced_services, &pod.node))
}

/// The speakers to replace now, with at most `max_unavailable` unavailable at the same time. Speakers that are not
/// ready come first, but as few at a time, because they may still announce. With `verified`, new speakers count as
/// unavailable until they are verified.
#[must_use]
pub fn next<'a>(
    speakers: &'a SpeakerSnapshot,
    revision: &str,
    max_unavailable: i32,
    verified: bool,
    now: Timestamp,
) -> Vec<&'a PodSnapshot> {
    let is_old = |pod: &&PodSnapshot| pod.is_active() && pod.revision != revision;
    let mut old: Vec<_> = speakers.pods.iter().filter(is_old).collect();
    old.sort_by_key(|pod| (pod.ready, pod.control_plane, pod.announced_services, &pod.node));
    let away = away(speakers, revision, verified, now);
    let idle = count_i32(old.iter().filter(|pod| !pod.ready).count());
    let mut room = max_unavailable.saturating_sub(away);
    let mut room_for_idle = max_unavailable.saturating_sub(away.saturating_sub(idle));
    let chosen = old.into_iter().filter(|pod| {
        let room = if pod.ready { &mut room } else { &mut room_for_idle };
        *room = room.saturating_sub(1);
        *room >= 0
    });
    chosen.collect()
}

/// Speakers that are missing or not ready, or with `verified` of `revision` and not verified yet; without unreachable
/// nodes.
#[must_use]
pub fn away(speakers: &SpeakerSnapshot, revision: &str, verified: bool, now: Timestamp) -> i32 {
    let is_away = |pod: &&PodSnapshot| {
        let unproven = verified && pod.revision == revision && !is_verified(pod, now);
        !pod.lost && (pod.terminating || !pod.ready || unproven)
    };
    let away = count_i32(speakers.pods.iter().filter(is_away).count());
    missing(speakers).saturating_add(away)
}

/// Speakers that do not exist yet.
#[must_use]
pub fn missing(speakers: &SpeakerSnapshot) -> i32 {
    speakers
        .desired
        .saturating_sub(count_i32(speakers.pods.len()))
        .max(0)
}

/// Whether all speakers have `revision`, except on unreachable nodes.
#[must_use]
pub fn all_of(speakers: &SpeakerSnapshot, revision: &str) -> bool {
    missing(speakers) == 0
        && speakers
            .pods
            .iter()
            .all(|pod| pod.lost || (!pod.terminating && pod.revision == revision))
}

fn count_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
