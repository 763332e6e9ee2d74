//! A preview of weeks: the history is older than the node.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_database::begin;
use fulexo_domain::authentication::{AuthenticationEvent, AuthenticationMethod, Factor, FailureReason, UnlockCause};
use fulexo_domain::leaf;
use fulexo_domain::lockout::{AttemptCounter, AttemptReservation};
use fulexo_domain::policy::Policy;
use fulexo_domain::values::SessionId;
use fulexo_tests::{Database, Dice, Node, draft, eventually, log_size, operator};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::{PREVIEW, accounts, failed, lockout, time};

/// Writes events of these accounts at these times into an empty log.
async fn write_history(database: &Database, events: &[(DateTime<Utc>, Uuid, AuthenticationEvent)]) {
    let superuser = PgPool::connect(&database.superuser_url()).await.unwrap();
    let mut transaction = begin(&superuser).await.unwrap();
    sqlx::query("alter table log.event_0 disable trigger append_only").execute(&mut *transaction).await.unwrap();
    let mut versions: BTreeMap<Uuid, u64> = BTreeMap::new();
    for (position, (at, account, event)) in events.iter().enumerate() {
        let version = versions.entry(*account).and_modify(|version| *version += 1).or_insert(1);
        let draft = draft(event.clone(), *account);
        let leaf = draft.encode().unwrap().leaf(*at, *version);
        let statement = "insert into log.event_0 (position, stream_id, category, version, leaf, leaf_hash)
                         values ($1, $2, 'authentication', $3, $4, $5)";
        let insert = sqlx::query(statement)
            .bind(i64::try_from(position).unwrap())
            .bind(account)
            .bind(i64::try_from(*version).unwrap())
            .bind(leaf.clone())
            .bind(leaf::hash(&leaf).to_vec());
        insert.execute(&mut *transaction).await.unwrap();
    }
    sqlx::query("alter table log.event_0 enable always trigger append_only").execute(&mut *transaction).await.unwrap();
    sqlx::query("update log.head set position = $1, recorded_at = $2")
        .bind(i64::try_from(events.len()).unwrap())
        .bind(events.last().unwrap().0)
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
}

fn succeeded(device: Option<String>) -> AuthenticationEvent {
    AuthenticationEvent::Succeeded {
        methods: vec![AuthenticationMethod::Password],
        session: SessionId(operator().new_id()),
        device,
        trusted_device: None,
    }
}

/// Returns what the service records of guesses and logins over eighty days.
fn weeks(dice: &mut Dice) -> Vec<(DateTime<Utc>, Uuid, AuthenticationEvent)> {
    let policy = Policy::default().lockout;
    let accounts = [1, 2, 3].map(|_| operator().new_id());
    let mut counters: BTreeMap<(Uuid, Option<String>), AttemptCounter> = BTreeMap::new();
    let (mut now, mut events) = (operator().now - TimeDelta::days(80), Vec::new());
    while now < operator().now - TimeDelta::days(1) {
        now += match dice.roll(40) {
            0 => TimeDelta::minutes(i64::try_from(dice.roll(2_000)).unwrap()),
            1..=9 => TimeDelta::seconds(i64::try_from(dice.roll(1_200)).unwrap()),
            _ => TimeDelta::milliseconds(i64::try_from(dice.roll(40_000)).unwrap()),
        };
        let account = accounts[dice.index(3)];
        let device = (dice.roll(4) == 0).then(|| format!("device-{}", dice.roll(2)));
        let right = dice.roll(12) == 0;
        let counter = counters.entry((account, device.clone())).or_default();
        let mut record = |event| events.push((now, account, event));
        let AttemptReservation::Granted { number, lock_expired } = counter.reserve(now, &policy) else {
            record(failed(FailureReason::Locked, device));
            continue;
        };
        let factor = Factor::Password;
        if lock_expired {
            record(AuthenticationEvent::LockLifted {
                factor,
                by: UnlockCause::Expired,
                device: device.clone(),
                scope: None,
            });
        }
        if right {
            *counter = AttemptCounter::default();
            record(succeeded(device));
            continue;
        }
        record(failed(FailureReason::WrongPassword, device.clone()));
        if let Some(lock) = counter.record_failure(number, now, &policy) {
            let (nth, until) = (lock.nth, lock.until);
            record(AuthenticationEvent::LockedOut { factor, failures: number, nth, until, device, scope: None });
        }
    }
    events
}

/// Returns the preview of a policy over everything that the log of a node holds.
async fn preview_of(node: &Node, lockout: Value, days: u32) -> Value {
    let auditor = node.auditor().await;
    let body = json!({"lockout": lockout, "days": days});
    let seen = auditor.seeing(log_size(node).await - 1);
    // Views catch up with all the history first.
    eventually("the index has caught up", async || seen.get("/v1/audit/events?limit=1").await.status == 200).await;
    let answer = seen.post(PREVIEW, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}

#[tokio::test(flavor = "multi_thread")]
async fn weeks_of_guesses_come_to_the_same_under_the_same_policy() {
    for seed in [1, 2] {
        let database = Arc::new(Database::create().await);
        let history = weeks(&mut Dice(seed));
        write_history(&database, &history).await;
        let node = Node::join(&database).await;
        let preview = preview_of(&node, lockout(5), 90).await;
        assert_eq!(preview["proposed"], preview["recorded"], "{preview:#}");
        let mut locks = BTreeMap::<_, Vec<_>>::new();
        for (at, account, event) in &history {
            if let AuthenticationEvent::LockedOut { device, until, nth, .. } = event {
                locks.entry((*account, device.clone().unwrap_or_default())).or_default().push((*at, *until, *nth));
            }
        }
        assert!(locks.values().map(Vec::len).sum::<usize>() > 20, "{preview:#}");
        assert_eq!(preview["accounts"].as_array().unwrap().len(), locks.len());
        for ((account, device), locks) in locks {
            let item = &accounts(&preview, account)[&device];
            assert_eq!((&item["locks_proposed"], &item["correct_refused"]), (&json!(locks.len()), &json!(0)));
            let listed = item["locks"].as_array().unwrap().iter();
            let listed: Vec<_> =
                listed.map(|lock| (time(&lock["at"]), time(&lock["until"]), lock["nth"].as_u64().unwrap())).collect();
            // The preview lists the first twenty.
            let first: Vec<_> = locks.iter().take(20).map(|(at, until, nth)| (*at, *until, u64::from(*nth))).collect();
            assert_eq!(listed, first, "{account} {device:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_goes_back_as_many_days_as_it_is_asked_to() {
    let database = Arc::new(Database::create().await);
    let (now, account) = (operator().now, operator().new_id());
    // There is one guess a day, at noon of its day counted from now.
    let guesses: Vec<_> = (1..=85)
        .rev()
        .map(|days| {
            let at = now - TimeDelta::days(days) + TimeDelta::hours(12);
            (at, account, failed(FailureReason::WrongPassword, None))
        })
        .collect();
    write_history(&database, &guesses).await;
    let node = Node::join(&database).await;
    for (days, attempts) in [(1, 1), (2, 2), (30, 30), (84, 84), (85, 85), (90, 85)] {
        let preview = preview_of(&node, lockout(1), days).await;
        let item = &accounts(&preview, account)[""];
        assert_eq!(item["locks_proposed"], json!(attempts), "{days} days: {preview:#}");
        assert_eq!(item["locks"].as_array().unwrap().len(), attempts.min(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_ends_with_an_hour_of_quiet_or_a_right_password() {
    let database = Arc::new(Database::create().await);
    let (start, account) = (operator().now - TimeDelta::days(2), operator().new_id());
    let mut history = Vec::new();
    let mut guesses = |from: i64, to: i64, reason: FailureReason| {
        history.extend((from..to).map(|minute| (start + TimeDelta::minutes(minute), account, failed(reason, None))));
    };
    guesses(0, 12, FailureReason::WrongPassword);
    guesses(70, 81, FailureReason::Locked);
    guesses(140, 149, FailureReason::WrongPassword);
    history.push((start + TimeDelta::minutes(300), account, succeeded(None)));
    history.extend(
        (0..10).map(|minute| {
            (start + TimeDelta::minutes(301 + minute), account, failed(FailureReason::WrongPassword, None))
        }),
    );
    write_history(&database, &history).await;
    let node = Node::join(&database).await;
    let preview = preview_of(&node, lockout(100), 30).await;
    // 11 and 70 are 59 minutes apart: one attack. 80 and 140 are an hour apart: nine more are none.
    let attacks: Vec<_> = preview["attacks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attack| ((time(&attack["started_at"]) - start).num_minutes(), attack["attempts"].as_u64().unwrap()))
        .collect();
    assert_eq!(attacks, [(0, 23), (301, 10)], "the longest first: {preview:#}");
    let first = &preview["attacks"][0];
    assert_eq!((&first["evaluated_recorded"], &first["evaluated_proposed"]), (&json!(12), &json!(23)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_forgets_locks_in_a_row_when_the_service_does() {
    let database = Arc::new(Database::create().await);
    let (start, account) = (operator().now - TimeDelta::days(20), operator().new_id());
    let mut history = Vec::new();
    for days in [0, 3, 6, 9] {
        let at = |seconds| start + TimeDelta::days(days) + TimeDelta::seconds(seconds);
        history.extend((0..5).map(|second| (at(second), account, failed(FailureReason::WrongPassword, None))));
        // After a day of rest the service has swept the counter away: each lock is the first.
        let (factor, until) = (Factor::Password, at(4) + TimeDelta::minutes(15));
        let locked = AuthenticationEvent::LockedOut { factor, failures: 5, nth: 1, until, device: None, scope: None };
        history.push((at(4), account, locked));
        if days == 9 {
            history.push((at(1_200), account, succeeded(None)));
        }
    }
    write_history(&database, &history).await;
    let node = Node::join(&database).await;
    let preview = preview_of(&node, lockout(5), 30).await;
    assert_eq!(preview["proposed"], preview["recorded"], "{preview:#}");
    let item = &accounts(&preview, account)[""];
    assert_eq!((&item["correct_refused"], &item["locks"][3]["nth"]), (&json!(0), &json!(1)), "{item:#}");
}
