//! The times that clients send.

use chrono::{DateTime, Datelike, Timelike, Utc};

use super::invalid::InvalidValue;

/// The maximum length of a text, in bytes; it leaves room for a fraction of nine digits.
const MAX_BYTES: usize = 40;
/// The nanoseconds per second. chrono represents a leap second by a larger fraction.
const SECOND: u32 = 1_000_000_000;

/// The refusal of a time.
const NOT_A_TIME: InvalidValue = InvalidValue("must be a time such as 2026-11-01T12:00:00Z (RFC 3339)");
/// The refusal of a second 60 that cannot occur.
const NO_LEAP_SECOND: InvalidValue =
    InvalidValue("must not have second 60, except at the end of June or December (RFC 3339, section 5.7)");

/// Reads a `date-time` of RFC 3339, section 5.6.
///
/// A leap second is read where section 5.7 allows one: at the end of June or December, in UTC. It becomes the following
/// second, because POSIX time, and therefore every clock and table here, has no leap seconds.
///
/// # Errors
/// Any other text, and years outside 1 to 9999.
pub fn parse_timestamp(text: &str) -> Result<DateTime<Utc>, InvalidValue> {
    let has_separator = matches!(text.as_bytes().get(10), Some(b'T' | b't'));
    if text.len() > MAX_BYTES || !has_separator {
        return Err(NOT_A_TIME);
    }
    // The error is for the caller, and says what a time looks like.
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| NOT_A_TIME)?.to_utc();
    if !(1..=9999).contains(&time.year()) {
        return Err(NOT_A_TIME);
    }
    let Some(beyond) = time.nanosecond().checked_sub(SECOND) else { return Ok(time) };
    let ends_a_half_year = matches!((time.month(), time.day()), (6, 30) | (12, 31));
    if !ends_a_half_year || (time.hour(), time.minute()) != (23, 59) {
        return Err(NO_LEAP_SECOND);
    }
    let next = time.timestamp().checked_add(1).and_then(|seconds| DateTime::from_timestamp(seconds, beyond));
    next.ok_or(NOT_A_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        parse_timestamp(text).ok().map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
    }

    #[test]
    fn a_time_is_read_as_rfc_3339_writes_it() {
        for (text, time) in [
            ("2026-11-01T12:00:00Z", "2026-11-01T12:00:00Z"),
            ("2026-11-01t12:00:00z", "2026-11-01T12:00:00Z"),
            ("2026-11-01T12:00:00.123456789+05:45", "2026-11-01T06:15:00.123456789Z"),
            ("2024-02-29T00:00:00-00:00", "2024-02-29T00:00:00Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(read(text).as_deref(), Some(time), "{text}");
        }
        for text in [
            "",
            "2026-11-01",
            "2026-11-01 12:00:00Z",
            "2026-11-01T12:00:00",
            "2026-11-01T12:00:00 01:00",
            "2026-11-01T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-01T12:00:61Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "2026-11-01T12:00:00.0000000000000000000000Z",
            "+02026-11-01T12:00:00Z",
            "2026-11-01Ö12:00:00Z",
            "１２３４-11-01T12:00:00Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_leap_second_is_read_only_where_one_can_be_and_never_written() {
        assert_eq!(read("2016-12-31T23:59:60Z").as_deref(), Some("2017-01-01T00:00:00Z"));
        assert_eq!(read("1990-12-31T15:59:60.5-08:00").as_deref(), Some("1991-01-01T00:00:00.500Z"));
        assert_eq!(read("2015-06-30T23:59:60Z").as_deref(), Some("2015-07-01T00:00:00Z"));
        for text in
            ["2026-11-01T12:00:60Z", "2016-12-31T23:59:60+01:00", "2016-12-31T22:59:60Z", "2016-11-30T23:59:60Z"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
