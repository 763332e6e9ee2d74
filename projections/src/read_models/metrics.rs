//! The metrics read model: the number of events of each type per minute.

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use fulexo_domain::event::RecordedEvent;
use sqlx::{PgConnection, PgPool};

use crate::as_of::Moment;
use crate::read_models::counts;
use crate::read_models::versions::column;
use crate::to_i64;

/// The number of events of one type in one step of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCountRow {
    /// The step, from 0.
    pub step: i64,
    /// The type of the events.
    pub event_type: String,
    /// The number of events.
    pub events: i64,
}

/// The gauges at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauges {
    /// Accounts.
    pub accounts: u64,
    /// Suspended accounts.
    pub suspended: u64,
    /// Locked accounts.
    pub locked: u64,
    /// Accounts with a second factor.
    pub second_factor: u64,
    /// Live sessions.
    pub live_sessions: u64,
}

/// The number of events of each type in each step, from `from`, which must be the start of a minute, up to the moment.
/// It is exact within a minute, too: the minute of the moment is recounted from the audit trail up to the moment.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn events(
    pool: &PgPool,
    from: DateTime<Utc>,
    step: TimeDelta,
    moment: Moment,
) -> Result<Vec<EventCountRow>, sqlx::Error> {
    sqlx::query_as!(
        EventCountRow,
        r#"select step as "step!", event_type as "event_type!", sum(events)::bigint as "events!" from (
               select extract(epoch from minute - $1)::bigint / $2 as step, event_type, events from read.metric
               where minute >= $1 and minute <= $3 and last_position <= $4
               union all
               select extract(epoch from minute - $1)::bigint / $2, event_type,
                      (select count(*) from read.audit a
                       where a.event_type = m.event_type and a.position between m.first_position and $4)
               from read.metric m
               where minute >= $1 and minute <= $3 and first_position <= $4 and $4 < last_position
           ) c group by 1, 2 order by 1, 2"#,
        from,
        step.num_seconds(),
        moment.time,
        moment.position
    )
    .fetch_all(pool)
    .await
}

/// The gauges at a moment.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn gauges(pool: &PgPool, moment: Moment) -> Result<Gauges, sqlx::Error> {
    let [accounts, suspended, second_factor] = counts::accounts(pool, moment).await?;
    Ok(Gauges {
        accounts,
        suspended,
        locked: counts::locked(pool, moment).await?,
        second_factor,
        live_sessions: counts::live_sessions(pool, moment).await?,
    })
}

/// The number of events of one type in one minute.
struct MinuteCount<'a> {
    minute: DateTime<Utc>,
    event_type: &'a str,
    events: i64,
    first: i64,
    last: i64,
}

/// Applies a batch with one statement.
pub(crate) async fn apply(connection: &mut PgConnection, events: &[RecordedEvent]) -> Result<(), sqlx::Error> {
    let mut counts: BTreeMap<(DateTime<Utc>, &str), MinuteCount<'_>> = BTreeMap::new();
    for recorded in events {
        let (minute, event_type) = (minute_of(recorded.recorded_at), &*recorded.event_type);
        let position = to_i64(recorded.position);
        let count = counts.entry((minute, event_type)).or_insert(MinuteCount {
            minute,
            event_type,
            events: 0,
            first: position,
            last: position,
        });
        count.events += 1;
        count.last = position;
    }
    let counts: Vec<MinuteCount<'_>> = counts.into_values().collect();
    sqlx::query!(
        "insert into metric
         select * from unnest($1::timestamptz[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
         on conflict (minute, event_type) do update set
             events = metric.events + excluded.events, last_position = excluded.last_position",
        &column(&counts, |count| count.minute),
        &column(&counts, |count| count.event_type) as &[&str],
        &column(&counts, |count| count.events),
        &column(&counts, |count| count.first),
        &column(&counts, |count| count.last)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The start of the minute, in UTC, that contains a time.
fn minute_of(time: DateTime<Utc>) -> DateTime<Utc> {
    // Fails only centuries from now, where there are no minutes to count.
    time.duration_trunc(TimeDelta::minutes(1)).unwrap_or(time)
}
