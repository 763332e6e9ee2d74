//! Gauges are kept as events come: at any moment they are what counting the rows gives.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use fulexo_projections::as_of::{AsOf, Moment};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::counts;
use fulexo_projections::read_models::metrics::{Gauges, gauges};
use fulexo_tests::{Database, Dice, history};
use sqlx::PgPool;

use crate::rebuilt;

const EVENTS: u64 = 20_000;

/// Counts gauges and holders of roles from the versions of all rows.
async fn counted(pool: &PgPool, moment: Moment) -> (Gauges, BTreeMap<String, u64>) {
    let [accounts, suspended, locked, second_factor]: [i64; 4] = sqlx::query_as::<_, (i64, i64, i64, i64)>(
        "select count(*), count(*) filter (where suspended),
                count(*) filter (where greatest(locked_until, second_factor_locked_until) > $2),
                count(*) filter (where second_factor)
         from (select suspended, locked_until, second_factor_locked_until, second_factor from read.account where since <= $1
               union all
               select suspended, locked_until, second_factor_locked_until, second_factor
               from read.account_past where since <= $1 and $1 < until) a",
    )
    .bind(moment.position)
    .bind(moment.time)
    .fetch_one(pool)
    .await
    .unwrap()
    .into();
    let live_sessions: i64 = sqlx::query_scalar(
        "select count(*)
         from (select ended_at, idle_expires_at, expires_at from read.session where since <= $1
               union all
               select ended_at, idle_expires_at, expires_at from read.session_past where since <= $1 and $1 < until) s
         where ended_at is null and idle_expires_at > $2 and expires_at > $2",
    )
    .bind(moment.position)
    .bind(moment.time)
    .fetch_one(pool)
    .await
    .unwrap();
    let holders: Vec<(String, i64)> = sqlx::query_as(
        "select role, count(*)
         from (select role from read.role_grant where since <= $1
               union all
               select role from read.role_grant_past where since <= $1 and $1 < until) g group by role",
    )
    .bind(moment.position)
    .fetch_all(pool)
    .await
    .unwrap();
    let gauges = Gauges {
        accounts: accounts.unsigned_abs(),
        suspended: suspended.unsigned_abs(),
        locked: locked.unsigned_abs(),
        second_factor: second_factor.unsigned_abs(),
        live_sessions: live_sessions.unsigned_abs(),
    };
    (gauges, holders.into_iter().map(|(role, holders)| (role, holders.unsigned_abs())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gauge_is_at_any_moment_what_the_rows_come_to() {
    let database = Database::create().await;
    history::fill(&database, usize::try_from(EVENTS).unwrap()).await;
    for projection in Projection::ALL {
        rebuilt(&database, projection).await.unwrap();
    }
    let pool = database.pool().await;
    let (first, last): (DateTime<Utc>, DateTime<Utc>) =
        sqlx::query_as("select min(recorded_at), max(recorded_at) from read.audit").fetch_one(&pool).await.unwrap();
    let span = (last - first).num_milliseconds();
    let mut dice = Dice(11);
    let mut asked = vec![AsOf::Position(0), AsOf::Position(EVENTS - 1), AsOf::Time(first - TimeDelta::days(1))];
    for _ in 0..40 {
        asked.push(AsOf::Position(dice.roll(EVENTS)));
        // This also asks long after the last event, when sessions expire one by one.
        asked.push(AsOf::Time(first + TimeDelta::milliseconds(dice.between(0, span + 40 * 60_000))));
        asked.push(AsOf::Time(last + TimeDelta::hours(dice.between(0, 24 * 40))));
    }
    let mut most = [0; 5];
    for as_of in asked {
        let moment = as_of.resolve(&pool, last + TimeDelta::days(50)).await.unwrap();
        let (expected, holders) = counted(&pool, moment).await;
        let found = gauges(&pool, moment).await.unwrap();
        assert_eq!(found, expected, "{as_of:?}, {moment:?}");
        assert_eq!(counts::holders(&pool, moment.position).await.unwrap(), holders, "{as_of:?}");
        let Gauges { accounts, suspended, locked, second_factor, live_sessions } = found;
        for (most, found) in most.iter_mut().zip([accounts, suspended, locked, second_factor, live_sessions]) {
            *most = found.max(*most);
        }
    }
    assert!(most.iter().all(|most| *most > 0), "each was something once: {most:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gauge_keeps_to_its_position_where_the_table_is_ahead() {
    let database = Database::create().await;
    history::fill(&database, 3_000).await;
    for projection in Projection::ALL {
        rebuilt(&database, projection).await.unwrap();
    }
    let pool = database.pool().await;
    let mut minutes = 0;
    for position in (100..2_900).step_by(3) {
        let Moment { position, time } = AsOf::Position(position).resolve(&pool, DateTime::UNIX_EPOCH).await.unwrap();
        // A query finds this if it looked at the end of the log before an event that a node had begun to record was
        // there: the next events are older than its time, whose minute has begun meanwhile.
        let moment = Moment { position, time: time + TimeDelta::seconds(2) };
        if time.minute() != moment.time.minute() {
            let (expected, _) = counted(&pool, moment).await;
            assert_eq!(gauges(&pool, moment).await.unwrap(), expected, "{moment:?}");
            minutes += 1;
        }
    }
    assert!(minutes > 10, "only {minutes}");
}
