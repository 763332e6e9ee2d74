//! A moment of the past in terms of the log: a position, or a time and the last event recorded until then. The read
//! models keep every version of their rows with the range of positions in which it was current, so a query about the
//! past replays nothing.
//!
//! ```text
//! as of position P:  table       since <= P
//!                    table_past  since <= P < until
//! ```

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::values::parse_timestamp;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::feed::{self, FeedError};
use crate::to_i64;

/// A moment as a client requests it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// The state after the event at this position.
    Position(u64),
    /// The state after the last event recorded at or before this time, or the present if the time is in the future.
    Time(DateTime<Utc>),
}

/// The text is neither a position nor a time. The message describes both, which is more than the cause says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a position, or a time such as 2026-11-01T12:00:00Z (RFC 3339)")]
pub struct InvalidAsOf;

impl FromStr for AsOf {
    type Err = InvalidAsOf;

    /// Parses digits as a position and everything else as a time (RFC 3339) whose seconds may be missing.
    fn from_str(text: &str) -> Result<Self, InvalidAsOf> {
        // The longest time has nine digits after the second.
        if text.len() > 40 {
            return Err(InvalidAsOf);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Position).map_err(|_| InvalidAsOf);
        }
        let time = parse_timestamp(text).ok().or_else(|| {
            let (minute, zone) = text.split_at_checked(16)?;
            parse_timestamp(&format!("{minute}:00{zone}")).ok()
        });
        time.map(Self::Time).ok_or(InvalidAsOf)
    }
}

/// A state of the log, and the time from which it is judged: whether an account is locked or a session live depends on
/// both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The position of the last event that counts; -1 before the first.
    pub position: i64,
    /// The requested time, or that of the event.
    pub time: DateTime<Utc>,
}

/// The reason why a requested moment cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum AsOfError {
    /// The log does not have the position yet.
    #[error("is beyond the end of the log, which has {0} events")]
    BeyondEnd(u64),
    /// The log cannot be read.
    #[error(transparent)]
    Feed(#[from] FeedError),
}

impl From<sqlx::Error> for AsOfError {
    fn from(error: sqlx::Error) -> Self {
        Self::Feed(error.into())
    }
}

impl Moment {
    /// The position of the last event that counts, if there is one.
    #[must_use]
    pub const fn last(self) -> Option<u64> {
        if self.position < 0 { None } else { Some(self.position.unsigned_abs()) }
    }

    /// An id above all those drawn by then. Ids of version 7 begin with their time (RFC 9562, section 5.7), and no
    /// node's clock is wrong by a day. It spares a list the rows that were added later.
    pub(crate) fn latest_id(self) -> Uuid {
        Uuid::from_u128(earliest_id(self.time + TimeDelta::days(1)).as_u128() | ((1 << 80) - 1))
    }
}

/// The longest session that a policy allows (`fulexo_domain::policy`), plus a day.
pub(crate) const LONGEST_SESSION: TimeDelta = TimeDelta::days(366);

/// The lowest id of version 7 that can be drawn at a time.
pub(crate) fn earliest_id(time: DateTime<Utc>) -> Uuid {
    let millis = u128::from(time.timestamp_millis().max(0).unsigned_abs());
    Uuid::from_u128((millis & 0xffff_ffff_ffff) << 80)
}

impl AsOf {
    /// Resolves the moment. A time in the future means the present: all events in the log, regardless of the clock of the
    /// node that recorded them.
    ///
    /// # Errors
    /// [`AsOfError`].
    pub async fn resolve(self, pool: &PgPool, now: DateTime<Utc>) -> Result<Moment, AsOfError> {
        match self {
            Self::Position(position) => {
                let mut connection = pool.acquire().await?;
                let size = feed::size(&mut connection).await?;
                if position >= size {
                    return Err(AsOfError::BeyondEnd(size));
                }
                let event = feed::read(&mut connection, position, 1).await?;
                let event = event.first().ok_or(FeedError::Gap { position })?;
                Ok(Moment { position: to_i64(position), time: event.recorded_at })
            }
            Self::Time(time) if time >= now => {
                let mut connection = pool.acquire().await?;
                let size = feed::size(&mut connection).await?;
                let Some(position) = size.checked_sub(1) else { return Ok(Moment { position: -1, time: now }) };
                let event = feed::read(&mut connection, position, 1).await?;
                let event = event.first().ok_or(FeedError::Gap { position })?;
                Ok(Moment { position: to_i64(position), time: event.recorded_at.clamp(now, time) })
            }
            Self::Time(time) => {
                let after = first_position(pool, |recorded_at| recorded_at > time).await?;
                Ok(Moment { position: to_i64(after) - 1, time })
            }
        }
    }
}

/// The first position whose time satisfies the predicate, which all later ones must satisfy too; the size of the log if
/// there is none. Times in the log never decrease, so a binary search finds it; each leaf it reads is checked against
/// its hash.
pub(crate) async fn first_position(pool: &PgPool, is_wanted: impl Fn(DateTime<Utc>) -> bool) -> Result<u64, FeedError> {
    first_position_in(&mut *pool.acquire().await?, is_wanted).await
}

/// The same, as this connection sees the log.
pub(crate) async fn first_position_in(
    connection: &mut PgConnection,
    is_wanted: impl Fn(DateTime<Utc>) -> bool,
) -> Result<u64, FeedError> {
    let (mut least, mut most) = (0, feed::size(connection).await?);
    while least < most {
        let middle = u64::midpoint(least, most);
        let event = feed::read(connection, middle, 1).await?;
        let event = event.first().ok_or(FeedError::Gap { position: middle })?;
        if is_wanted(event.recorded_at) { most = middle } else { least = middle + 1 }
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> AsOf {
        AsOf::Time(DateTime::parse_from_rfc3339(text).unwrap().to_utc())
    }

    #[test]
    fn digits_are_a_position_and_the_rest_is_a_time() {
        assert_eq!("0".parse(), Ok(AsOf::Position(0)));
        assert_eq!("18446744073709551615".parse(), Ok(AsOf::Position(u64::MAX)));
        assert_eq!("2026-11-01T12:00Z".parse(), Ok(time("2026-11-01T12:00:00Z")));
        assert_eq!("2026-11-01T12:00+01:00".parse(), Ok(time("2026-11-01T11:00:00Z")));
        assert_eq!("2026-11-01T12:00:00.000001Z".parse(), Ok(time("2026-11-01T12:00:00.000001Z")));
    }

    #[test]
    fn everything_else_is_neither() {
        for text in [
            "",
            "-1",
            "+1",
            "1.5",
            " 1",
            "18446744073709551616",
            "2026-11-01",
            "2026-11-01T12:00",
            "2026-11-01T12:00:00 01:00",
            "2026-13-01T12:00Z",
            "yesterday",
            "٣",
            "2026-11-01T12:0ö:00Z",
            "2026-11-01T12:00:00.0000000000000000000000000001Z",
        ] {
            assert_eq!(text.parse::<AsOf>(), Err(InvalidAsOf), "{text}");
        }
    }
}
