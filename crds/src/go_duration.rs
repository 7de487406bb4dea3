//! Durations as Go writes them, such as `1m30s`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a duration: use numbers with a unit (h, m, s, ms), such as 90s or 1m30s")]
pub struct DurationError(String);

/// The units, with their lengths in nanoseconds.
const UNITS: [(&str, u64); 7] = [
    ("h", 3_600_000_000_000),
    ("ms", 1_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];

/// Parses a duration that is not negative.
///
/// # Errors
/// If the text is not a duration, or one of more than 584 years.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(error());
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let (unit, length) = UNITS
            .into_iter()
            .find(|(unit, _)| tail.starts_with(unit))
            .ok_or_else(error)?;
        total = nanoseconds(number, length)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(error)?;
        rest = tail.get(unit.len()..).unwrap_or_default();
    }
    Ok(Duration::from_nanos(total))
}

/// A number with an optional fraction, times the length of its unit.
fn nanoseconds(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanoseconds = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        nanoseconds = nanoseconds.checked_add(place.checked_mul(digit.to_digit(10)?.into())?)?;
    }
    Some(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go_are_parsed() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("90s", 90_000),
            ("9m0s", 540_000),
            ("1h0m0.5s", 3_600_500),
            ("1.5s", 1500),
            ("300ms", 300),
            ("+3s", 3000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "90", "-1s", "s", ".s", "1x", "1.2.3s", "1s ", "99999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
