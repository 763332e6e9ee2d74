//! The metrics read model: how many events of each type there were, minute by minute.

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use fulexo_domain::event::Recorded;
use sqlx::PgConnection;

use crate::to_i64;
use crate::versions::column;

/// Events of one type in one minute.
struct Count<'a> {
    minute: DateTime<Utc>,
    event_type: &'a str,
    events: i64,
    first: i64,
    last: i64,
}

/// One statement a batch.
pub(crate) async fn apply(connection: &mut PgConnection, events: &[Recorded]) -> Result<(), sqlx::Error> {
    let mut counts: BTreeMap<(DateTime<Utc>, &str), Count<'_>> = BTreeMap::new();
    for recorded in events {
        let (minute, event_type) = (minute_of(recorded.recorded_at), &*recorded.event_type);
        let position = to_i64(recorded.position);
        let count = counts.entry((minute, event_type)).or_insert(Count {
            minute,
            event_type,
            events: 0,
            first: position,
            last: position,
        });
        count.events += 1;
        count.last = position;
    }
    let counts: Vec<Count<'_>> = counts.into_values().collect();
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

/// The minute of UTC that a time is in.
fn minute_of(time: DateTime<Utc>) -> DateTime<Utc> {
    // Fails only centuries from now, where there are no minutes to count.
    time.duration_trunc(TimeDelta::minutes(1)).unwrap_or(time)
}
