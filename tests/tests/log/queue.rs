//! The queues between a caller and the sequencer: what waits, what goes first, what is turned away.

use fulexo_commands::log::{AppendError, AppendOutcome, AppendRequest, EventLog};
use fulexo_domain::event::Event;
use fulexo_tests::Database;
use futures_util::FutureExt;
use uuid::Uuid;

use crate::audit::audit;
use crate::writing::{change, drain, hooks, ids, new_id, observation, one, refresh_root};

/// The number of appends that may wait in each queue.
const QUEUE: usize = 4_096;

/// Hands an append over and leaves; returns the answer, if there was one at once.
fn abandon(log: &EventLog, request: AppendRequest) -> Option<Result<AppendOutcome, AppendError>> {
    log.append(request).now_or_never()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_caller_has_gone_away_is_made() {
    let database = Database::create().await;
    let (log, sequencer) = EventLog::new(database.pool().await, hooks());
    let request = one(new_id(), change());
    let wanted = ids(&request);
    assert_eq!(abandon(&log, request), None);
    drain(sequencer).await;
    let found: Vec<Uuid> = audit(&database).await.iter().map(|event| event.id).collect();
    assert_eq!(found, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_turns_callers_away_at_once() {
    let database = Database::create().await;
    let (log, sequencer) = EventLog::new(database.pool().await, hooks());
    for _ in 0..QUEUE {
        assert_eq!(abandon(&log, one(Uuid::nil(), observation())), None);
    }
    assert_eq!(abandon(&log, one(Uuid::nil(), observation())), Some(Err(AppendError::Overloaded)));
    drain(sequencer).await;
    assert_eq!(audit(&database).await.len(), QUEUE, "whoever was let in is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_observations_leaves_room_for_state_changes() {
    let database = Database::create().await;
    let (log, _sequencer) = EventLog::new(database.pool().await, hooks());
    while abandon(&log, one(Uuid::nil(), observation())).is_none() {}
    assert_eq!(abandon(&log, one(new_id(), change())), None, "it waits in the queue for changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_changes_overtake_observations_that_wait() {
    let database = Database::create().await;
    let (log, sequencer) = EventLog::new(database.pool().await, hooks());
    // These are enough for two batches: the changes, which come last, are in the first.
    for _ in 0..700 {
        assert_eq!(abandon(&log, one(Uuid::nil(), observation())), None);
    }
    // An observation that changes the vault, such as one that locks an account, is a change.
    let session = new_id();
    let locks = AppendRequest { vault: vec![refresh_root(session, session)], ..one(session, observation()) };
    assert_eq!(abandon(&log, locks), None);
    for _ in 0..100 {
        assert_eq!(abandon(&log, one(new_id(), change())), None);
    }
    drain(sequencer).await;
    let events = audit(&database).await;
    assert_eq!(events.len(), 801);
    assert_eq!(events[0].stream.id, session);
    assert!(events[1..=100].iter().all(|event| matches!(event.event, Event::Account(_))));
    assert!(events[101..].iter().all(|event| matches!(event.event, Event::Authentication(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequencer_that_is_stopped_commits_what_waits_and_takes_no_more() {
    let database = Database::create().await;
    let (log, sequencer) = EventLog::new(database.pool().await, hooks());
    let mut wanted = Vec::new();
    for number in 0..1_500 {
        let request = one(new_id(), if number % 2 == 0 { observation() } else { change() });
        wanted.extend(ids(&request));
        assert_eq!(abandon(&log, request), None);
    }
    drain(sequencer).await;
    assert_eq!(abandon(&log, one(new_id(), change())), Some(Err(AppendError::Unavailable)));
    let mut found: Vec<Uuid> = audit(&database).await.iter().map(|event| event.id).collect();
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
}
