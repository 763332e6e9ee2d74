//! The tables' state at a past position, by the ranges of their rows, equals a replay of the log up to it.

use chrono::DateTime;
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Actor, Category, RecordedEvent, Stream};
use fulexo_domain::leaf::EventDraft;
use fulexo_domain::values::RoleName;
use fulexo_projections::feed::LogReader;
use fulexo_projections::replay::{Checksum, ReadModelTable, ScratchTables, live_checksum};
use fulexo_tests::{Database, Dice, Node, operator};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::rebuilt::{mixed_load, start};
use crate::{log_size, superuser};

#[tokio::test(flavor = "multi_thread")]
async fn the_past_by_ranges_is_the_past_by_replay_at_every_position() {
    let (node, mailbox) = start().await;
    mixed_load(&node, &mailbox, 1).await;
    let events = log(&node).await;
    let mut live = application(&node.database).await;
    let mut replayed = scratch(&node.database).await;
    let mut different = std::collections::BTreeSet::new();
    // One event at a time, so that each position was the end of the log once.
    for event in &events {
        replayed.apply(std::slice::from_ref(event)).await.unwrap();
        let position = i64::try_from(event.position).unwrap();
        for table in ReadModelTable::ALL {
            let by_replay = replayed.checksum(table, i64::MAX).await.unwrap();
            let by_ranges = live_checksum(&mut live, table, position).await.unwrap();
            assert_eq!(by_ranges, by_replay, "{table:?} as of {position}, after {}", event.event_type);
            different.insert(by_ranges.digest);
        }
    }
    assert!(different.len() > events.len(), "the histories are to have something in them: {}", different.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_the_same_however_the_log_is_cut_into_batches() {
    let (node, mailbox) = start().await;
    mixed_load(&node, &mailbox, 1).await;
    let events = log(&node).await;
    let mut live = application(&node.database).await;
    let last = i64::try_from(events.len() - 1).unwrap();
    let mut dice = Dice(7);
    let positions: Vec<i64> = (0..12).map(|_| dice.between(0, last)).chain([-1, 0, last]).collect();
    for size in [1, 7, 1_000] {
        let mut replayed = scratch(&node.database).await;
        for batch in events.chunks(size) {
            replayed.apply(batch).await.unwrap();
        }
        for position in positions.iter().copied() {
            for table in ReadModelTable::ALL {
                let by_replay = replayed.checksum(table, position).await.unwrap();
                let by_ranges = live_checksum(&mut live, table, position).await.unwrap();
                assert_eq!(by_ranges, by_replay, "{table:?} as of {position}, replayed by {size}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rows_at_once_are_written_as_few_are() {
    // From 10,000 rows on, COPY writes them, and their earlier versions.
    let accounts: Vec<Uuid> = (0..10_001).map(|_| operator().new_id()).collect();
    let (registered, suspended) = (AccountEvent::Registered {}, AccountEvent::Suspended {});
    let role = RoleName::parse("admin").unwrap();
    let granted = AccountEvent::RoleGranted { role };
    let events: Vec<RecordedEvent> = [(1, registered), (2, granted), (3, suspended)]
        .iter()
        .flat_map(|(version, event)| accounts.iter().map(move |id| (*version, *id, event.clone())))
        .zip(0..)
        .map(|((version, id, event), position)| recorded(position, version, id, event))
        .collect();
    let database = Database::create().await;
    let (mut at_once, mut few) = (scratch(&database).await, scratch(&database).await);
    at_once.apply(&events).await.unwrap();
    for batch in events.chunks(5_000) {
        few.apply(batch).await.unwrap();
    }
    let last = i64::try_from(events.len() - 1).unwrap();
    for table in ReadModelTable::ALL {
        let (by_copy, by_arrays) =
            (at_once.checksum(table, last).await.unwrap(), few.checksum(table, last).await.unwrap());
        assert_eq!(by_copy, by_arrays, "{table:?}");
    }
    let past = at_once.checksum(ReadModelTable::AccountPast, last).await.unwrap();
    assert_eq!(past.rows, 20_002);
}

fn recorded(position: u64, version: u64, id: Uuid, event: AccountEvent) -> RecordedEvent {
    let draft = EventDraft {
        id: Uuid::from_u128(position.into()),
        stream: Stream { category: Category::Account, id },
        subject: Some(id),
        actor: Actor::System,
        correlation: id,
        causation: None,
        policy_version: 1,
        event: event.into(),
        sealed: Vec::new(),
    };
    let minute = DateTime::from_timestamp(1_793_000_040, 0).unwrap();
    draft.encode().unwrap().recorded_event(position, minute, version)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_that_was_altered_is_found_out() {
    let (node, mailbox) = start().await;
    mixed_load(&node, &mailbox, 1).await;
    let events = log(&node).await;
    let mut replayed = scratch(&node.database).await;
    replayed.apply(&events).await.unwrap();
    let position = i64::try_from(events.len() - 1).unwrap();
    for (table, alteration) in [
        (ReadModelTable::Account, "update read.account set suspended = true where profile_position = 0"),
        (ReadModelTable::AccountPast, "update read.account_past set until = until + 1 where since = 0"),
        (ReadModelTable::AccountCount, "update read.account_count set suspended = suspended + 1 where position = 0"),
        (
            ReadModelTable::Session,
            "update read.session set methods = methods || array['otp'] where started_position < 5",
        ),
        (
            ReadModelTable::SessionPast,
            "delete from read.session_past where since = (select min(since) from read.session_past)",
        ),
        (
            ReadModelTable::SessionCount,
            "insert into read.session_count values ('minute', timestamptz '2020-01-01 00:00Z', 1, 0)",
        ),
        (ReadModelTable::Role, "update read.role set retired = false"),
        (
            ReadModelTable::RolePast,
            "update read.role_past set permissions = '{}' where permissions = '{accounts.read}'",
        ),
        (ReadModelTable::RoleGrant, "update read.role_grant set role = 'auditor' where since = 1"),
        (ReadModelTable::RoleGrantPast, "delete from read.role_grant_past"),
        (ReadModelTable::HolderCount, "update read.holder_count set holders = holders + 1 where position = 1"),
        (ReadModelTable::Metric, "update read.metric set events = events + 1 where first_position = 0"),
        (ReadModelTable::Audit, "update read.audit set actor_id = subject_id where position = 0"),
        (ReadModelTable::Incident, "update read.incident set severity = 'low'"),
        (ReadModelTable::IncidentPast, "delete from read.incident_past where phase = 'identified'"),
    ] {
        let mut live = application(&node.database).await;
        let before = live_checksum(&mut live, table, position).await.unwrap();
        assert_eq!(before, replayed.checksum(table, position).await.unwrap(), "{table:?}");
        let altered = sqlx::query(alteration).execute(&mut superuser(&node.database).await).await.unwrap();
        assert!(altered.rows_affected() > 0, "{table:?}");
        let Checksum { rows: _, digest } = live_checksum(&mut live, table, position).await.unwrap();
        assert_ne!(digest, before.digest, "{table:?}");
    }
}

/// Returns everything that was recorded.
async fn log(node: &Node) -> Vec<RecordedEvent> {
    let mut replay = LogReader::over(&node.database.pool().await, 0..log_size(node).await);
    let mut events = Vec::new();
    while let Some(batch) = replay.next().await.unwrap() {
        events.extend(batch);
    }
    events
}

async fn application(database: &Database) -> PgConnection {
    PgConnection::connect(&database.url()).await.unwrap()
}

pub async fn scratch(database: &Database) -> ScratchTables {
    ScratchTables::create(application(database).await).await.unwrap()
}
