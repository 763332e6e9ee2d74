//! The times of leaves, as they are written.

use chrono::{DateTime, NaiveDate, Utc};

/// Reads a time in the form of leaves, for a tenth of the cost of a general parser. Almost every time has this form.
pub(super) fn parse_time(text: &[u8]) -> Option<DateTime<Utc>> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', i1, i2, b':', s1, s2, b'.', us @ .., b'Z'] =
        text
    else {
        return None;
    };
    let us: &[u8; 6] = us.try_into().ok()?;
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
    };
    let year = number(&[*y1, *y2, *y3, *y4])?.try_into().ok()?;
    let date = NaiveDate::from_ymd_opt(year, number(&[*m1, *m2])?, number(&[*d1, *d2])?)?;
    let (hour, minute, second) = (number(&[*h1, *h2])?, number(&[*i1, *i2])?, number(&[*s1, *s2])?);
    Some(date.and_hms_micro_opt(hour, minute, second, number(us)?)?.and_utc())
}
