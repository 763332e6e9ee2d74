//! A clock that is ahead: of a node by a little, or by too much; of an attacker with the application's password; of the
//! database, until it was set back.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::log::AppendError;
use fulexo_domain::leaf;
use fulexo_node::clock;
use fulexo_tests::{Database, superuser};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::audit::audit;
use crate::writing::{Running, change, is_new, new_id, observation, one, prepared};

fn half_an_hour_ahead() -> DateTime<Utc> {
    clock::now() + TimeDelta::minutes(30)
}

fn two_hours_ahead() -> DateTime<Utc> {
    clock::now() + TimeDelta::hours(2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_far_ahead_records_nothing_and_holds_up_nobody() {
    let database = Database::create().await;
    let (ahead, right) =
        (Running::with_clock(&database.url(), two_hours_ahead).await, Running::start(&database.url()).await);
    let refused = join_all((0..20).map(|_| ahead.log.append(one(new_id(), change()))));
    let appended = join_all((0..20).map(|_| right.log.append(one(new_id(), change()))));
    let (refused, appended) = tokio::join!(refused, appended);
    assert!(refused.iter().all(|answer| *answer == Err(AppendError::ClockAhead)), "{refused:?}");
    assert!(appended.iter().all(is_new), "{appended:?}");
    ahead.stop().await;
    right.stop().await;
    let events = audit(&database).await;
    assert_eq!(events.len(), 20);
    assert!(events.iter().all(|event| event.recorded_at <= clock::now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_a_little_ahead_takes_the_others_along() {
    let database = Database::create().await;
    let ahead = Running::with_clock(&database.url(), half_an_hour_ahead).await;
    let right = Running::start(&database.url()).await;
    for log in [&ahead, &right, &ahead, &right] {
        assert!(is_new(&log.log.append(one(Uuid::nil(), observation())).await));
    }
    ahead.stop().await;
    right.stop().await;
    audit(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_ahead_since_the_clock_was_set_back_goes_on() {
    let database = Database::create().await;
    let pool = superuser(&database).await;
    let head = clock::now() + TimeDelta::days(3);
    sqlx::query("update log.head set recorded_at = $1").bind(head).execute(&pool).await.unwrap();
    let log = Running::start(&database.url()).await;
    let appended = join_all((0..50).map(|_| log.log.append(one(Uuid::nil(), observation())))).await;
    assert!(appended.iter().all(is_new), "{appended:?}");
    log.stop().await;
    let events = audit(&database).await;
    assert!(events.iter().all(|event| event.recorded_at - head < TimeDelta::milliseconds(1)), "hardly any further");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_role_cannot_put_the_log_ahead() {
    let database = Database::create().await;
    let pool = database.pool().await;
    let mut outcomes = Vec::new();
    for time in [clock::now() + TimeDelta::minutes(61), clock::now() + TimeDelta::minutes(59)] {
        let id = new_id();
        let leaf = prepared(id, change()).leaf(leaf::to_micros(time), 1);
        let appended = sqlx::query(
            "select log.try_append(
                foretold_categories => '{account}', foretold_streams => array[$2], foretold_versions => '{0}',
                first_time => $1, last_time => $1, categories => '{account}', streams => array[$2],
                versions => '{1}', leaves => array[$3], leaf_hashes => array[$4],
                sealed_events => '{}', sealed_ordinals => '{}', sealed_subjects => '{}', sealed_periods => '{}',
                sealed_nonces => '{}', sealed_ciphertexts => '{}',
                sealed_ip_digests => '{}', sealed_email_digests => '{}',
                claimed_scopes => '{}', claimed_keys => '{}', claimed_by => '{}',
                new_command_ids => '{}', command_hashes => '{}', command_results => '{}',
                command_accounts => '{}')",
        )
        .bind(leaf::to_micros(time))
        .bind(id)
        .bind(&leaf)
        .bind(leaf::hash(&leaf).to_vec())
        .execute(&pool)
        .await;
        outcomes.push(appended.err().map(|error| error.as_database_error().unwrap().constraint().unwrap().to_owned()));
    }
    assert_eq!(outcomes, [Some("head_is_not_ahead".to_owned()), None]);
    assert_eq!(audit(&database).await.len(), 1);
}
