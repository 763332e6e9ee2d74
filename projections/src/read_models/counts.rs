//! Counts that are maintained as events arrive, so that a gauge costs the same at any size. The counts of accounts and
//! of a role's holders are running totals: each event that changes them adds a row, and the last row up to a position
//! has the totals at that position.
//!
//! Sessions also end by time, and that time is known in advance. Their counts are kept by minute and by day: the number
//! of sessions that begin in it, and the number that end in it as far as known. An event changes nothing in minutes
//! before its own, so those are settled. The number of live sessions is the sum over the settled minutes; for the rest
//! of the time the rows themselves are counted.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};

use crate::as_of::Moment;
use crate::read_models::versions::column;

/// An account's contribution to the counts: one account, suspended or not, with a second factor or not.
pub(crate) type AccountContribution = [i64; 3];

/// The contribution of an account that does not exist.
pub(crate) const NO_CONTRIBUTION: AccountContribution = [0; 3];

/// A value before and after an event. The fields have names because two values of one type are easily swapped.
pub(crate) struct Transition<T> {
    pub before: T,
    pub after: T,
}

/// Unwritten changes to the counts of accounts, by position.
#[derive(Default)]
pub(crate) struct AccountCountChanges(Vec<(i64, AccountContribution)>);

impl AccountCountChanges {
    /// Records that the event at a position changed an account's contribution.
    pub fn change(&mut self, position: i64, Transition { before, after }: Transition<AccountContribution>) {
        if before != after {
            let [accounts, suspended, second_factor] = after;
            let change = [accounts - before[0], suspended - before[1], second_factor - before[2]];
            self.0.push((position, change));
        }
    }

    /// Writes the totals after each change: one statement, or none.
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

/// Unwritten changes to the number of a role's holders, by position.
#[derive(Default)]
pub(crate) struct HolderCountChanges(Vec<(i64, String, i64)>);

impl HolderCountChanges {
    /// Records that the event at a position granted or revoked a role.
    pub fn change(&mut self, position: i64, role: &str, change: i64) {
        self.0.push((position, role.to_owned(), change));
    }

    /// Writes the totals after each change: one statement, or none.
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

/// A period in which sessions are counted, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum CountPeriod {
    Minute,
    Day,
}

impl CountPeriod {
    const ALL: [Self; 2] = [Self::Minute, Self::Day];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Day => "day",
        }
    }

    /// The start of the period that contains a time.
    fn start_of(self, time: DateTime<Utc>) -> DateTime<Utc> {
        let length = match self {
            Self::Minute => TimeDelta::minutes(1),
            Self::Day => TimeDelta::days(1),
        };
        // This fails only centuries from now.
        time.duration_trunc(length).unwrap_or(time)
    }
}

/// The number of sessions that begin in a period, and of those that end in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct SessionTurnover {
    begun: i64,
    ended: i64,
}

/// Unwritten changes to the counts of sessions.
#[derive(Default)]
pub(crate) struct SessionCountChanges(HashMap<(CountPeriod, DateTime<Utc>), SessionTurnover>);

impl SessionCountChanges {
    /// Records the start of a session and its expected end.
    pub fn begin(&mut self, at: DateTime<Utc>, ends_at: DateTime<Utc>) {
        self.add(at, SessionTurnover { begun: 1, ended: 0 });
        self.add(ends_at.max(at), SessionTurnover { begun: 0, ended: 1 });
    }

    /// Records that an event moved the end of a session. If the session had ended by then and has not any more, it was
    /// refreshed in time and recorded late: it is counted as starting again, and the earlier counts stay.
    pub fn change(&mut self, at: DateTime<Utc>, Transition { before, after }: Transition<DateTime<Utc>>) {
        if before <= at {
            if after > at {
                self.begin(at, after);
            }
        } else if before != after {
            self.add(before, SessionTurnover { begun: 0, ended: -1 });
            self.add(after.max(at), SessionTurnover { begun: 0, ended: 1 });
        }
    }

    fn add(&mut self, at: DateTime<Utc>, change: SessionTurnover) {
        for unit in CountPeriod::ALL {
            let turnover = self.0.entry((unit, unit.start_of(at))).or_default();
            turnover.begun += change.begun;
            turnover.ended += change.ended;
        }
    }

    /// Adds the changes to the table with at most two statements. Rows that reach zero are deleted, so the table does
    /// not depend on the division of the log into batches.
    pub async fn write(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let changes = self.0.into_iter().filter(|(_, change)| *change != SessionTurnover::default());
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

/// The number of accounts, of suspended ones, and of those with a second factor.
///
/// # Errors
/// [`sqlx::Error`].
pub(crate) async fn accounts(pool: &PgPool, moment: Moment) -> Result<[u64; 3], sqlx::Error> {
    let row = sqlx::query!(
        "select accounts, suspended, second_factor from read.account_count
         where position <= $1 order by position desc limit 1",
        moment.position
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok([0; 3]) };
    Ok([non_negative(row.accounts)?, non_negative(row.suspended)?, non_negative(row.second_factor)?])
}

/// The number of locked accounts.
///
/// # Errors
/// [`sqlx::Error`].
pub(crate) async fn locked(pool: &PgPool, moment: Moment) -> Result<u64, sqlx::Error> {
    // A lock in force at the moment ends within the longest lock from then on.
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
    non_negative(locked)
}

/// The number of live sessions.
///
/// # Errors
/// [`sqlx::Error`].
pub(crate) async fn live_sessions(pool: &PgPool, moment: Moment) -> Result<u64, sqlx::Error> {
    // The settled minutes are those before the minute of the moment. If the next event has an earlier time than the
    // moment, because a node's clock was behind or the event was in transit, they are those before the minute of that
    // event.
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
    non_negative(live)
}

/// The number of accounts that held each role. Roles without holders are missing.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn holders(pool: &PgPool, position: i64) -> Result<BTreeMap<String, u64>, sqlx::Error> {
    // The index yields one role after another, and the last count of each.
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
    rows.into_iter().map(|row| Ok((row.role, non_negative(row.holders)?))).collect()
}

/// A count from the database. A negative one, which no history produces, is an error.
fn non_negative(count: i64) -> Result<u64, sqlx::Error> {
    u64::try_from(count).map_err(|negative| sqlx::Error::Decode(negative.into()))
}

/// The longest lock that a policy allows (`fulexo_domain::policy`), plus a day.
const LONGEST_LOCK: TimeDelta = TimeDelta::days(8);
