//! Which speaker is restarted next.

use jiff::Timestamp;

use super::snapshot::{Pod, Speakers};
use super::state::seconds;

/// Seconds after it became ready for which a new speaker with addresses is watched before another one follows: other
/// nodes ask for its addresses within seven (`lb-l2`, coordinator/seat.rs), and what they find takes a second to reach
/// the API.
pub const PROOF: i64 = 10;
/// The same for a speaker without addresses: there is nothing to ask for.
const PROOF_WITHOUT_ADDRESSES: i64 = 2;

/// Whether a speaker is ready, and has been for long enough to tell.
#[must_use]
pub fn is_proven(pod: &Pod, now: Timestamp) -> bool {
    let proof = if pod.owns > 0 {
        PROOF
    } else {
        PROOF_WITHOUT_ADDRESSES
    };
    pod.ready && pod.ready_since.is_some_and(|since| seconds(since, now) >= proof)
}

/// The first speaker to be replaced: best one that is ready, announces nothing, and is not of the control plane.
#[must_use]
pub fn canary<'a>(speakers: &'a Speakers, revision: &str) -> Option<&'a Pod> {
    let old = |pod: &&Pod| pod.counts() && pod.revision != revision;
    speakers
        .pods
        .iter()
        .filter(old)
        .min_by_key(|pod| (!pod.ready, pod.control_plane, pod.owns, &pod.node))
}

/// The speakers to be replaced now so that all come to be of `revision`, with at most `max_unavailable` away at once. Those
/// that are away already come first, and as few at a time: a speaker that is not ready may well announce. `patient` waits
/// until each new one is proven, and not only ready.
#[must_use]
pub fn next<'a>(
    speakers: &'a Speakers,
    revision: &str,
    max_unavailable: i32,
    patient: bool,
    now: Timestamp,
) -> Vec<&'a Pod> {
    let is_old = |pod: &&Pod| pod.counts() && pod.revision != revision;
    let mut old: Vec<_> = speakers.pods.iter().filter(is_old).collect();
    old.sort_by_key(|pod| (pod.ready, pod.control_plane, pod.owns, &pod.node));
    let away = away(speakers, revision, patient, now);
    let idle = number(old.iter().filter(|pod| !pod.ready).count());
    let mut room = max_unavailable.saturating_sub(away);
    let mut room_for_idle = max_unavailable.saturating_sub(away.saturating_sub(idle));
    let chosen = old.into_iter().filter(|pod| {
        let room = if pod.ready { &mut room } else { &mut room_for_idle };
        *room = room.saturating_sub(1);
        *room >= 0
    });
    chosen.collect()
}

/// Speakers that are not there, or not ready, or (if `patient`) of `revision` and not proven; but for those of lost nodes.
#[must_use]
pub fn away(speakers: &Speakers, revision: &str, patient: bool, now: Timestamp) -> i32 {
    let is_away = |pod: &&Pod| {
        let unproven = patient && pod.revision == revision && !is_proven(pod, now);
        !pod.lost && (pod.terminating || !pod.ready || unproven)
    };
    let away = number(speakers.pods.iter().filter(is_away).count());
    missing(speakers).saturating_add(away)
}

/// Speakers that are to be there and are not.
#[must_use]
pub fn missing(speakers: &Speakers) -> i32 {
    speakers
        .desired
        .saturating_sub(number(speakers.pods.len()))
        .max(0)
}

/// Whether all speakers are of `revision`, but for those of lost nodes.
#[must_use]
pub fn all_of(speakers: &Speakers, revision: &str) -> bool {
    missing(speakers) == 0
        && speakers
            .pods
            .iter()
            .all(|pod| pod.lost || (!pod.terminating && pod.revision == revision))
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
