//! The whole log, held against itself: every table that repeats what the leaves say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::leaf;
use fulexo_domain::session::SessionEvent;
use fulexo_tests::Database;
use sqlx::PgPool;
use uuid::Uuid;

type Row = (i64, Uuid, String, i64, Vec<u8>, Vec<u8>);

/// Returns every event. Panics if positions, versions, times, hashes, columns, `log.stream`, `log.head`, the sealed
/// rows or the access tables disagree with the leaves.
pub async fn audit(database: &Database) -> Vec<RecordedEvent> {
    audit_from(database, 0).await
}

/// Does the same for a log that was made to begin at this position.
pub async fn audit_from(database: &Database, first: u64) -> Vec<RecordedEvent> {
    let pool = database.pool().await;
    let rows: Vec<Row> = sqlx::query_as(
        "select position, stream_id, category, version, leaf, leaf_hash from log.event order by position",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let events: Vec<RecordedEvent> = (first..).zip(&rows).map(|(position, row)| verified(position, row)).collect();
    each_event_stands_once(&events);
    times_do_not_go_back(&events);
    streams_agree(&pool, &events).await;
    head_agrees(&pool, &events, first).await;
    sealed_rows_agree(&pool, &events).await;
    access_agrees(&pool, &events).await;
    pool.close().await;
    events
}

fn verified(position: u64, (at, stream, category, version, leaf, hash): &Row) -> RecordedEvent {
    assert_eq!(at.unsigned_abs(), position, "positions have no gap");
    let computed = digest(&SHA256, &[&[0], leaf.as_slice()].concat());
    assert_eq!(computed.as_ref(), hash.as_slice(), "the hash at {position} is that of its leaf (RFC 6962)");
    let recorded = leaf::decode(position, leaf).unwrap();
    assert_eq!(
        (*stream, category.as_str(), version.unsigned_abs()),
        (recorded.stream.id, recorded.stream.category.as_str(), recorded.version),
        "the columns at {position} say what its leaf says"
    );
    recorded
}

fn each_event_stands_once(events: &[RecordedEvent]) {
    let ids: BTreeSet<Uuid> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), events.len(), "an event stands in the log twice");
}

fn times_do_not_go_back(events: &[RecordedEvent]) {
    for pair in events.windows(2) {
        assert!(pair[0].recorded_at <= pair[1].recorded_at, "time goes back at {}", pair[1].position);
    }
}

async fn streams_agree(pool: &PgPool, events: &[RecordedEvent]) {
    let mut streams: HashMap<(String, Uuid), (i64, i64)> = HashMap::new();
    for event in events {
        let name = (event.stream.category.as_str().to_owned(), event.stream.id);
        let (version, last) = streams.entry(name).or_default();
        *version += 1;
        assert_eq!(*version, i64::try_from(event.version).unwrap(), "versions of {:?} have no gap", event.stream);
        *last = i64::try_from(event.position).unwrap();
    }
    let rows: Vec<(String, Uuid, i64, i64)> =
        sqlx::query_as("select category, stream_id, version, last_position from log.stream")
            .fetch_all(pool)
            .await
            .unwrap();
    let known = rows.into_iter().map(|(category, id, version, last)| ((category, id), (version, last))).collect();
    assert_eq!(streams, known, "log.stream says what log.event says");
}

async fn head_agrees(pool: &PgPool, events: &[RecordedEvent], first: u64) {
    let (position, time): (i64, DateTime<Utc>) =
        sqlx::query_as("select position, recorded_at from log.head").fetch_one(pool).await.unwrap();
    assert_eq!(position.unsigned_abs(), first + events.len() as u64, "log.head counts the events");
    if let Some(last) = events.last() {
        assert_eq!(time, last.recorded_at, "log.head has the time of the last event");
    }
}

/// Panics if the sealed rows disagree with the events. Nothing may have been forgotten.
async fn sealed_rows_agree(pool: &PgPool, events: &[RecordedEvent]) {
    let rows: Vec<(i64, Vec<u8>, Vec<u8>)> =
        sqlx::query_as("select position, nonce, ciphertext from log.sealed").fetch_all(pool).await.unwrap();
    let digest_of = |nonce: &[u8], ciphertext: &[u8]| digest(&SHA256, &[nonce, ciphertext].concat());
    let there: BTreeSet<(u64, String)> = rows
        .iter()
        .map(|(position, nonce, ciphertext)| {
            (position.unsigned_abs(), URL_SAFE_NO_PAD.encode(digest_of(nonce, ciphertext)))
        })
        .collect();
    let said =
        events.iter().flat_map(|event| event.sealed.iter().map(|sealed| (event.position, sealed.digest.clone())));
    assert_eq!(there, said.collect(), "each leaf says which rows are sealed beside it");
}

/// `true` if it is suspended; the position from which on sessions are valid, and the one other valid session; the same
/// of a second factor.
type Standing = (bool, i64, Option<Uuid>, i64, Option<Uuid>);
type AccessRow = (Uuid, bool, i64, Option<Uuid>, i64, Option<Uuid>);

async fn access_agrees(pool: &PgPool, events: &[RecordedEvent]) {
    let mut sessions: BTreeMap<Uuid, (Uuid, i64, Option<i64>)> = BTreeMap::new();
    let mut grants: BTreeMap<(Uuid, String), i64> = BTreeMap::new();
    let mut accounts: BTreeMap<Uuid, Standing> = BTreeMap::new();
    for event in events {
        let (stream, position) = (event.stream.id, i64::try_from(event.position).unwrap());
        match &event.event {
            Event::Session(SessionEvent::Started { account, .. }) => {
                sessions.insert(stream, (account.0, position, None));
            }
            Event::Session(SessionEvent::Revoked { .. } | SessionEvent::Expired {}) => {
                if let Some((.., ended)) = sessions.get_mut(&stream) {
                    ended.get_or_insert(position);
                }
            }
            Event::Account(AccountEvent::RoleGranted { role }) => {
                grants.entry((stream, role.to_string())).or_insert(position);
            }
            Event::Account(AccountEvent::RoleRevoked { role }) => {
                grants.remove(&(stream, role.to_string()));
            }
            Event::Account(AccountEvent::Registered {}) => {
                accounts.insert(stream, (false, 0, None, 0, None));
            }
            Event::Account(event) => {
                let Some((suspended, from, kept, factor_from, factor_kept)) = accounts.get_mut(&stream) else {
                    continue;
                };
                match event {
                    AccountEvent::Suspended {} => *suspended = true,
                    AccountEvent::Reinstated {} => *suspended = false,
                    AccountEvent::SessionsRevoked { except_session: session, .. } => {
                        (*from, *kept) = (position, session.map(|session| session.0));
                    }
                    AccountEvent::SecondFactorEnabled { session } => {
                        (*factor_from, *factor_kept) = (position, session.map(|session| session.0));
                    }
                    AccountEvent::SecondFactorDisabled { .. } => (*factor_from, *factor_kept) = (position, None),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let rows: Vec<AccessRow> = sqlx::query_as(
        "select account_id, suspended, sessions_from, except_session, second_factor_from, second_factor_session
         from access.account",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let known = rows.into_iter().map(|(account, a, b, c, d, e)| (account, (a, b, c, d, e))).collect();
    assert_eq!(accounts, known, "access.account says what log.event says");
    let rows: Vec<(Uuid, Uuid, i64, Option<i64>)> =
        sqlx::query_as("select session_id, account_id, started_position, ended_position from access.session")
            .fetch_all(pool)
            .await
            .unwrap();
    let known =
        rows.into_iter().map(|(session, account, started, ended)| (session, (account, started, ended))).collect();
    assert_eq!(sessions, known, "access.session says what log.event says");
    let rows: Vec<(Uuid, String, i64)> =
        sqlx::query_as("select account_id, role, position from access.role_grant").fetch_all(pool).await.unwrap();
    let known = rows.into_iter().map(|(account, role, position)| ((account, role), position)).collect();
    assert_eq!(grants, known, "access.role_grant says what log.event says");
}
