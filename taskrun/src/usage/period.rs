//! The ends of a period, of `usage` and `logs`, as users write them.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// What is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Write a time (2026-11-24T08:00:00Z), a day (2026-11-24, from its start in UTC), or how long ago (24h, 7d)")]
pub struct NotATime;

/// A smaller number is no time that anybody means, but a duration that lacks its unit.
const FIRST_SECOND: i64 = 100_000_000;

/// Reads a time: RFC 3339, a date (its start in UTC), seconds since 1970, or a duration before `now`.
///
/// # Errors
/// [`NotATime`].
pub fn time(text: &str, now: Timestamp) -> Result<Timestamp, NotATime> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = Date::strptime("%Y-%m-%d", text) {
        return date.to_zoned(TimeZone::UTC).map(|start| start.timestamp()).map_err(|_| NotATime);
    }
    if let Some(seconds) = text.parse().ok().filter(|seconds| *seconds >= FIRST_SECOND) {
        return Timestamp::from_second(seconds).map_err(|_| NotATime);
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| SignedDuration::try_from(ago).ok());
    now.checked_sub(ago.ok_or(NotATime)?).map_err(|_| NotATime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_a_day_and_a_duration_are_understood() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-23T08:30:00Z", "2026-11-23T08:30:00Z"),
            ("2026-11-23T08:30:00.5+02:00", "2026-11-23T06:30:00.5Z"),
            ("2026-11-23", "2026-11-23T00:00:00Z"),
            ("1795507200", "2026-11-24T08:00:00Z"),
            ("24h", "2026-11-23T12:00:00Z"),
            ("1h 30m", "2026-11-24T10:30:00Z"),
            (" 7days ", "2026-11-17T12:00:00Z"),
            ("0s", "2026-11-24T12:00:00Z"),
        ] {
            assert_eq!(time(text, now), Ok(expected.parse().unwrap()), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "24", "-1h", "2026-11-23T08:30", "999999999y", "9999999999999"] {
            assert_eq!(time(text, now), Err(NotATime), "{text}");
        }
    }
}
