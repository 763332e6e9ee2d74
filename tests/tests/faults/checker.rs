//! The rules that hold after any fault: nobody was let in after the acknowledgement, nothing acknowledged is lost,
//! nothing is recorded twice, and every view is what the log says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::session::SessionEvent;
use fulexo_projections::feed;
use fulexo_projections::read_models::Projection;
use fulexo_projections::rebuild::{RebuildOptions, rebuild};
use fulexo_tests::{eventually, stored_messages};
use sqlx::PgPool;
use uuid::Uuid;

use crate::ground::Ground;
use crate::load::{Decision, Record, Right};

/// Returns the number of requests that were made with a right that was gone, at each node.
pub fn nobody_was_let_in_after_the_acknowledgement(record: &Record) -> BTreeMap<usize, usize> {
    let rights = record.rights.lock().unwrap();
    let gone: Vec<Gone> = rights.iter().map(|right| right.gone()).collect();
    let decisions = record.decisions.lock().unwrap();
    let wrong: Vec<String> = let_in_too_late(&gone, &decisions)
        .map(|decision| {
            let late = gone[decision.right].map(|(since, _)| decision.sent - since);
            format!("node {}, {}, sent {late:?} after the acknowledgement", decision.node, rights[decision.right].path)
        })
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    let mut refused = BTreeMap::new();
    for decision in decisions.iter().filter(|decision| is_too_late(gone[decision.right], decision)) {
        *refused.entry(decision.node).or_default() += 1;
    }
    refused
}

/// The time since which a right is gone, and the time until which it is.
type Gone = Option<(Instant, Option<Instant>)>;

/// `true` if a request was sent after the right's end was acknowledged, and answered before anybody asked for it again.
fn is_too_late(gone: Gone, decision: &Decision) -> bool {
    gone.is_some_and(|(since, until)| decision.sent > since && until.is_none_or(|until| decision.answered < until))
}

fn let_in_too_late<'a>(gone: &[Gone], decisions: &'a [Decision]) -> impl Iterator<Item = &'a Decision> {
    decisions.iter().filter(move |decision| decision.status == 200 && is_too_late(gone[decision.right], decision))
}

/// Panics if anything fails that holds in every run. These sessions began in addition to those of the record.
pub async fn all_is_there_once_and_every_view_agrees(ground: &Ground, record: &Record, others: &[Uuid]) {
    ground.settle().await;
    let pool = ground.pool().await;
    let events = log(&pool).await;
    let (mut started, mut ended) = (BTreeSet::new(), BTreeSet::new());
    let (mut ids, mut roles_taken) = (BTreeSet::new(), 0);
    for event in &events {
        match &event.event {
            Event::Session(SessionEvent::Started { .. }) => {
                assert!(started.insert(event.stream.id), "{} began twice", event.stream.id);
            }
            Event::Session(SessionEvent::Revoked { .. }) => {
                assert!(ended.insert(event.stream.id), "{} ended twice", event.stream.id);
            }
            Event::Account(AccountEvent::RoleRevoked { .. }) => roles_taken += 1,
            _ => {}
        }
        assert!(ids.insert(event.id), "{} stands there twice", event.id);
    }
    let rights: Vec<Right> = record.rights.lock().unwrap().clone();
    let wanted: BTreeSet<Uuid> = rights.iter().map(|right| right.session).chain(others.iter().copied()).collect();
    assert_eq!(started, wanted, "a session that was acknowledged is lost, or a login was carried out twice");
    let (roles, sessions): (Vec<&Right>, Vec<&Right>) = rights.iter().partition(|right| right.is_a_role());
    assert_eq!(roles_taken, roles.iter().filter(|right| right.is_taken()).count(), "roles that were taken away");
    for right in sessions.into_iter().filter(|right| right.is_taken()) {
        assert!(ended.contains(&right.session), "the end of a session was acknowledged and is lost: {}", right.session);
    }
    for position in rights.iter().filter_map(Right::acknowledged) {
        assert!((position as usize) < events.len(), "position {position} was acknowledged and is lost");
    }
    let options = RebuildOptions { program: "the tests".to_owned(), restart: false };
    let outcomes = rebuild(&pool, &Projection::ALL, &options, |_, _| {}).await.unwrap();
    assert_eq!(outcomes.len(), Projection::ALL.len());
    for (projection, rebuilt) in outcomes {
        let rebuilt = rebuilt.unwrap();
        assert!(rebuilt.comparison.is_same() && rebuilt.comparison.position > 0, "{projection:?}: {rebuilt:?}");
    }
    the_copy_is_the_log(ground, &events).await;
    pool.close().await;
}

async fn log(pool: &PgPool) -> Vec<RecordedEvent> {
    let size = feed::size(&mut pool.acquire().await.unwrap()).await.unwrap();
    let mut replay = feed::LogReader::over(pool, 0..size);
    let mut events = Vec::new();
    while let Some(batch) = replay.next().await.unwrap() {
        events.extend(batch);
    }
    events
}

/// Waits until JetStream holds every event of the log, each once and in its place.
async fn the_copy_is_the_log(ground: &Ground, events: &[RecordedEvent]) {
    let jetstream = ground.nats.jetstream().await;
    let wanted = events.len() as u64;
    let mut stream = None;
    eventually("the log is copied", async || {
        let Ok(name) = jetstream.stream_by_subject("log.>").await else { return false };
        let Ok(found) = jetstream.get_stream(&name).await else { return false };
        let is_whole = found.cached_info().state.last_sequence == wanted;
        stream = Some(found);
        is_whole
    })
    .await;
    let stream = stream.unwrap();
    assert_eq!(stream.cached_info().state.messages, wanted);
    let copied: Vec<(u64, String)> = stored_messages(&stream)
        .await
        .iter()
        .map(|message| {
            let id = message.headers.as_ref().unwrap().get("Nats-Msg-Id").unwrap();
            (message.info().unwrap().stream_sequence - 1, id.to_string())
        })
        .collect();
    let expected: Vec<(u64, String)> = events.iter().map(|event| (event.position, event.id.to_string())).collect();
    assert_eq!(copied, expected);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_checker_finds_a_request_that_was_let_in_a_moment_too_late() {
        let gone = Instant::now();
        let decision = |after_ms: u64, status| Decision {
            right: 0,
            node: 0,
            sent: gone + Duration::from_millis(after_ms),
            answered: gone + Duration::from_millis(after_ms + 1),
            status,
        };
        let decisions = [decision(0, 200), decision(1, 401), decision(1, 200), decision(2, 503)];
        assert_eq!(let_in_too_late(&[Some((gone, None))], &decisions).count(), 1);
        let until = |after_ms| Some((gone, Some(gone + Duration::from_millis(after_ms))));
        assert_eq!(let_in_too_late(&[until(3)], &decisions).count(), 1);
        assert_eq!(let_in_too_late(&[until(2)], &decisions).count(), 0, "it may have been given again");
        assert_eq!(let_in_too_late(&[None], &decisions).count(), 0);
    }
}
