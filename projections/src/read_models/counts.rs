//! Counts, kept as events come, so that a gauge costs the same whatever there is. Those of accounts and of a role's holders are
//! running totals: a row for each event that changes them, and the last one until a position is what there was.
//!
//! Sessions end by time, too, and when they will is known before. Theirs are kept by minute and by day: how many began in it,
//! and how many end in it, by all that is known. An event moves nothing in the minutes before its own, so those are
//! settled: what was in use is the sum over them, and for the rest of the time the rows themselves are asked.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};

use crate::as_of::Moment;
use crate::read_models::versions::column;

/// The facts of accounts that are counted: that there is one, that it is suspended, that it has a second factor.
pub(crate) type Counted = [i64; 3];

/// An account that is not there.
pub(crate) const NONE: Counted = [0; 3];

/// What an event changed, as it was and as it is. Two values side by side would be swapped in silence.
pub(crate) struct Change<T> {
    pub before: T,
    pub after: T,
}

/// Changes of the counts of accounts, by position, that are not written yet.
#[derive(Default)]
pub(crate) struct AccountCounts(Vec<(i64, Counted)>);

impl AccountCounts {
    /// The event at a position made an account another one.
    pub fn change(&mut self, position: i64, Change { before, after }: Change<Counted>) {
        if before != after {
            let [accounts, suspended, second_factor] = after;
            let change = [accounts - before[0], suspended - before[1], second_factor - before[2]];
            self.0.push((position, change));
        }
    }

    /// Writes the totals behind each change: one statement, or none.
    pub async fn write(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Self(changes) = self;
        if changes.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into account_count
             select u.position, coalesce(b.accounts, 0) + sum(u.accounts) over so_far,
                    coalesce(b.suspended, 0) + sum(u.suspended) over so_far,
                    coalesce(b.second_factor, 0) + sum(u.second_factor) over so_far
             from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
                      u (position, accounts, suspended, second_factor)
             left join lateral (select * from account_count order by position desc limit 1) b on true
             window so_far as (order by u.position)",
            &column(&changes, |(position, _)| *position),
            &column(&changes, |(_, [accounts, ..])| *accounts),
            &column(&changes, |(_, [_, suspended, _])| *suspended),
            &column(&changes, |(_, [.., second_factor])| *second_factor)
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Changes of the holders of roles, by position, that are not written yet.
#[derive(Default)]
pub(crate) struct HolderCounts(Vec<(i64, String, i64)>);

impl HolderCounts {
    /// The event at a position gave a role to somebody, or took it away.
    pub fn change(&mut self, position: i64, role: &str, change: i64) {
        self.0.push((position, role.to_owned(), change));
    }

    /// Writes the totals behind each change: one statement, or none.
    pub async fn write(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Self(changes) = self;
        if changes.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into holder_count
             select u.role, u.position, coalesce(b.holders, 0) + sum(u.holders) over so_far
             from unnest($1::text[], $2::bigint[], $3::bigint[]) u (role, position, holders)
             left join lateral (
                 select c.holders from holder_count c where c.role = u.role order by c.position desc limit 1
             ) b on true
             window so_far as (partition by u.role order by u.position)",
            &column(&changes, |(_, role, _)| role.clone()),
            &column(&changes, |(position, ..)| *position),
            &column(&changes, |(.., change)| *change)
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// A stretch of time that sessions are counted in, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Unit {
    Minute,
    Day,
}

impl Unit {
    const ALL: [Self; 2] = [Self::Minute, Self::Day];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Day => "day",
        }
    }

    /// The beginning of the one that a time is in.
    fn of(self, time: DateTime<Utc>) -> DateTime<Utc> {
        let length = match self {
            Self::Minute => TimeDelta::minutes(1),
            Self::Day => TimeDelta::days(1),
        };
        // Fails only centuries from now.
        time.duration_trunc(length).unwrap_or(time)
    }
}

/// Sessions that begin in a minute or a day, and those that end in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Turnover {
    begun: i64,
    ended: i64,
}

/// Changes of the counts of sessions that are not written yet.
#[derive(Default)]
pub(crate) struct SessionCounts(HashMap<(Unit, DateTime<Utc>), Turnover>);

impl SessionCounts {
    /// A session began, and will end.
    pub fn begin(&mut self, at: DateTime<Utc>, ends_at: DateTime<Utc>) {
        self.add(at, Turnover { begun: 1, ended: 0 });
        self.add(ends_at.max(at), Turnover { begun: 0, ended: 1 });
    }

    /// An event at a time moved the end of a session. One that was over by then, and is not any more, was refreshed in time
    /// and recorded late: it begins again, and what was counted before stays.
    pub fn change(&mut self, at: DateTime<Utc>, Change { before, after }: Change<DateTime<Utc>>) {
        if before <= at {
            if after > at {
                self.begin(at, after);
            }
        } else if before != after {
            self.add(before, Turnover { begun: 0, ended: -1 });
            self.add(after.max(at), Turnover { begun: 0, ended: 1 });
        }
    }

    fn add(&mut self, at: DateTime<Utc>, change: Turnover) {
        for unit in Unit::ALL {
            let turnover = self.0.entry((unit, unit.of(at))).or_default();
            turnover.begun += change.begun;
            turnover.ended += change.ended;
        }
    }

    /// Adds the changes up in the table: two statements at most. A row in which nothing happens any more is none, so that the
    /// table does not tell how the log was cut into batches.
    pub async fn write(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let changes = self.0.into_iter().filter(|(_, change)| *change != Turnover::default());
        let changes: Vec<_> = changes.collect::<BTreeMap<_, _>>().into_iter().collect();
        if changes.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into session_count
             select * from unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[])
             on conflict (unit, at) do update set
                 begun = session_count.begun + excluded.begun, ended = session_count.ended + excluded.ended",
            &column(&changes, |((unit, _), _)| unit.as_str()) as &[&str],
            &column(&changes, |((_, at), _)| *at),
            &column(&changes, |(_, change)| change.begun),
            &column(&changes, |(_, change)| change.ended)
        )
        .execute(&mut *connection)
        .await?;
        let left: Vec<_> = changes.into_iter().filter(|(_, change)| change.ended < 0).map(|(key, _)| key).collect();
        if !left.is_empty() {
            sqlx::query!(
                "delete from session_count c using unnest($1::text[], $2::timestamptz[]) u (unit, at)
                 where c.unit = u.unit and c.at = u.at and c.begun = 0 and c.ended = 0",
                &column(&left, |(unit, _)| unit.as_str()) as &[&str],
                &column(&left, |(_, at)| *at)
            )
            .execute(connection)
            .await?;
        }
        Ok(())
    }
}

/// Accounts, those that were suspended, and those with a second factor.
///
/// # Errors
/// The database.
pub(crate) async fn accounts(pool: &PgPool, moment: Moment) -> Result<[u64; 3], sqlx::Error> {
    let row = sqlx::query!(
        "select accounts, suspended, second_factor from read.account_count
         where position <= $1 order by position desc limit 1",
        moment.position
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok([0; 3]) };
    Ok([figure(row.accounts)?, figure(row.suspended)?, figure(row.second_factor)?])
}

/// Accounts that were locked.
///
/// # Errors
/// The database.
pub(crate) async fn locked(pool: &PgPool, moment: Moment) -> Result<u64, sqlx::Error> {
    // A lock that was there at the time ends within the longest one from then on.
    let locked = sqlx::query_scalar!(
        r#"select (select count(*) from read.account
                   where greatest(locked_until, second_factor_locked_until) > $2
                     and greatest(locked_until, second_factor_locked_until) <= $3 and since <= $1)
                + (select count(*) from read.account_past
                   where greatest(locked_until, second_factor_locked_until) > $2
                     and greatest(locked_until, second_factor_locked_until) <= $3 and since <= $1 and $1 < until)
               as "locked!""#,
        moment.position,
        moment.time,
        moment.time + LONGEST_LOCK
    )
    .fetch_one(pool)
    .await?;
    figure(locked)
}

/// Sessions in use.
///
/// # Errors
/// The database.
pub(crate) async fn live_sessions(pool: &PgPool, moment: Moment) -> Result<u64, sqlx::Error> {
    // Settled is what comes before the minute of the moment. Where the next event is of before its time, the clock of a node
    // was behind, or the event was on its way: then it is what comes before the minute of that one.
    let live = sqlx::query_scalar!(
        r#"with settled as materialized (
               select date_trunc('minute', s.time, 'UTC') as minute, date_trunc('day', s.time, 'UTC') as day
               from (select least($2, coalesce(
                         (select recorded_at from read.audit where position = $1::bigint + 1),
                         (select recorded_at from read.audit where position = $1
                          and $1::bigint + 1 < (select position from projection.checkpoint where name = 'sessions')))) as time) s
           )
           select ((select coalesce(sum(begun - ended), 0)::bigint from read.session_count
                    where unit = 'day' and at < (select day from settled))
                 + (select coalesce(sum(begun - ended), 0)::bigint from read.session_count
                    where unit = 'minute' and at >= (select day from settled) and at < (select minute from settled))
                 + (select count(*) from read.session s
                    where s.started_at >= (select minute from settled) and s.started_at <= $2
                      and s.started_position <= $1)
                 - (select count(*) from read.session s cross join lateral (
                        select s.ended_at, s.idle_expires_at where s.since <= $1
                        union all
                        (select p.ended_at, p.idle_expires_at
                         from read.session_past p where s.since > $1 and p.session_id = s.session_id and p.since <= $1
                         order by p.since desc limit 1)
                    ) v
                    where greatest(s.started_at, least(s.idle_expires_at, s.expires_at, s.ended_at))
                              between (select minute from settled) and $2
                      and s.started_position <= $1
                      and (v.ended_at is not null or v.idle_expires_at <= $2 or s.expires_at <= $2))) as "live!""#,
        moment.position,
        moment.time
    )
    .fetch_one(pool)
    .await?;
    figure(live)
}

/// The number of accounts that held each role; roles that nobody held are missing.
///
/// # Errors
/// The database.
pub async fn holders(pool: &PgPool, position: i64) -> Result<BTreeMap<String, u64>, sqlx::Error> {
    // One role after another by the index, and of each its last count.
    let rows = sqlx::query!(
        r#"with recursive known (role) as (
               select min(role) from read.holder_count
               union all
               select (select min(c.role) from read.holder_count c where c.role > k.role) from known k
               where k.role is not null
           )
           select k.role as "role!", c.holders from known k cross join lateral (
               select holders from read.holder_count c where c.role = k.role and c.position <= $1
               order by c.position desc limit 1
           ) c where c.holders > 0"#,
        position
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(|row| Ok((row.role, figure(row.holders)?))).collect()
}

/// A count from the database. A negative one, which no history gives, is an error rather than a figure.
fn figure(count: i64) -> Result<u64, sqlx::Error> {
    u64::try_from(count).map_err(|negative| sqlx::Error::Decode(negative.into()))
}

/// The longest lock that a policy may give, `fulexo_domain::policy`, and a day.
const LONGEST_LOCK: TimeDelta = TimeDelta::days(8);
