//! The sessions read model: devices, for their owners and for administrators. From where somebody came stays sealed
//! beside the log; the row knows where.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use fulexo_domain::event::{Event, Recorded};
use fulexo_domain::session::{RevokedBy, SessionEvent};
use fulexo_domain::values::{AccountId, SessionId};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::page::Page;
use crate::to_i64;

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub session_id: Uuid,
    /// Whose it is.
    pub account_id: Uuid,
    /// When its owner logged in.
    pub started_at: DateTime<Utc>,
    /// Where address, user agent and device are sealed.
    pub started_position: i64,
    /// What was presented (RFC 8176).
    pub methods: Vec<String>,
    /// When its tokens were last refreshed.
    pub last_seen_at: DateTime<Utc>,
    /// How often they were, counted from 1.
    pub generation: i32,
    /// Unused until then, it ends.
    pub idle_expires_at: DateTime<Utc>,
    /// It ends then in any case.
    pub expires_at: DateTime<Utc>,
    /// When it was ended, or found past its end.
    pub ended_at: Option<DateTime<Utc>>,
    /// By whom or what; `fulexo_domain::session::RevokedBy`, or `expiry`.
    pub ended_by: Option<String>,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only sessions of this account.
    pub account: Option<AccountId>,
    /// Only sessions that are in use, or that are not.
    pub live: Option<bool>,
}

/// One session, if it is known.
///
/// # Errors
/// The database.
pub async fn get(pool: &PgPool, session: SessionId) -> Result<Option<Session>, sqlx::Error> {
    sqlx::query_as!(Session, "select * from read.session where session_id = $1", session.0).fetch_optional(pool).await
}

/// Sessions in the order of their start.
///
/// # Errors
/// The database.
pub async fn list(
    pool: &PgPool,
    filter: Filter,
    after: Option<Uuid>,
    limit: u16,
    now: DateTime<Utc>,
) -> Result<Page<Session>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Session,
        "select * from read.session
         where ($1::uuid is null or session_id > $1)
           and ($2::uuid is null or account_id = $2)
           and ($3::bool is null or (ended_at is null and idle_expires_at > $4 and expires_at > $4) = $3)
         order by session_id limit $5",
        after,
        filter.account.map(|account| account.0),
        filter.live,
        now,
        Page::<Session>::fetch(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(Page::of(rows, limit, |session| session.session_id.to_string()))
}

/// Reads the rows that the batch touches, folds the batch over them, writes them back: two statements a batch.
pub(crate) async fn apply(connection: &mut PgConnection, events: &[Recorded]) -> Result<(), sqlx::Error> {
    let touched: BTreeSet<Uuid> = events
        .iter()
        .filter(|recorded| matches!(recorded.event, Event::Session(_)))
        .map(|recorded| recorded.stream.id)
        .collect();
    if touched.is_empty() {
        return Ok(());
    }
    let touched: Vec<Uuid> = touched.into_iter().collect();
    let rows = sqlx::query_as!(Session, "select * from session where session_id = any($1)", &touched)
        .fetch_all(&mut *connection)
        .await?;
    let mut sessions: HashMap<Uuid, Session> = rows.into_iter().map(|row| (row.session_id, row)).collect();
    for recorded in events {
        if let Event::Session(event) = &recorded.event {
            fold(&mut sessions, recorded, event);
        }
    }
    let rows: Vec<Session> = sessions.into_values().collect();
    sqlx::query!(
        "insert into session
         select u.id, u.account_id, u.started_at, u.started_position, string_to_array(u.methods, ' '), u.last_seen_at,
                u.generation, u.idle_expires_at, u.expires_at, u.ended_at, u.ended_by
         from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::text[], $6::timestamptz[],
                     $7::integer[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::text[])
             u (id, account_id, started_at, started_position, methods, last_seen_at, generation, idle_expires_at,
                expires_at, ended_at, ended_by)
         on conflict on constraint session_pkey do update set
             methods = excluded.methods, last_seen_at = excluded.last_seen_at, generation = excluded.generation,
             idle_expires_at = excluded.idle_expires_at, ended_at = excluded.ended_at, ended_by = excluded.ended_by",
        &rows.iter().map(|row| row.session_id).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.account_id).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.started_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.started_position).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.methods.join(" ")).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.last_seen_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.generation).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.idle_expires_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.expires_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.ended_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &rows.iter().map(|row| row.ended_by.clone()).collect::<Vec<_>>() as &[Option<String>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn fold(sessions: &mut HashMap<Uuid, Session>, recorded: &Recorded, event: &SessionEvent) {
    let id = recorded.stream.id;
    if let SessionEvent::Started { account, methods, fingerprint: _, idle_expires_at, expires_at } = event {
        let session = Session {
            session_id: id,
            account_id: account.0,
            started_at: recorded.recorded_at,
            started_position: to_i64(recorded.position),
            methods: methods.iter().map(|method| method.as_str().to_owned()).collect(),
            last_seen_at: recorded.recorded_at,
            generation: 1,
            idle_expires_at: *idle_expires_at,
            expires_at: *expires_at,
            ended_at: None,
            ended_by: None,
        };
        sessions.insert(id, session);
        return;
    }
    let Some(session) = sessions.get_mut(&id) else { return };
    let mut end = |by: &str| {
        session.ended_at.get_or_insert(recorded.recorded_at);
        session.ended_by.get_or_insert_with(|| by.to_owned());
    };
    match event {
        SessionEvent::Revoked { by } => end(match by {
            RevokedBy::Owner => "owner",
            RevokedBy::Admin => "admin",
            RevokedBy::Reuse => "reuse",
            RevokedBy::PasswordChange => "password_change",
            RevokedBy::Suspension => "suspension",
            RevokedBy::SecondFactorReset => "second_factor_reset",
            RevokedBy::PasswordExpired => "password_expired",
            RevokedBy::Fingerprint => "fingerprint",
        }),
        SessionEvent::Expired {} => end("expiry"),
        SessionEvent::Refreshed { generation, grace_until: _, idle_expires_at } => {
            session.last_seen_at = recorded.recorded_at;
            session.generation = i32::try_from(*generation).unwrap_or(i32::MAX);
            session.idle_expires_at = *idle_expires_at;
        }
        SessionEvent::Elevated { methods, .. } => {
            let presented = methods.iter().map(|method| method.as_str().to_owned());
            let new: Vec<String> = presented.filter(|method| !session.methods.contains(method)).collect();
            session.methods.extend(new);
        }
        SessionEvent::Started { .. }
        | SessionEvent::RefreshReused { .. }
        | SessionEvent::FingerprintMismatched { .. } => {}
    }
}
