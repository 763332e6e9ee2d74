//! The sessions read model, for the owners of sessions and for administrators. Address, user agent and device stay
//! sealed alongside the log; a row holds their positions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::session::{RevocationCause, SessionEvent};
use fulexo_domain::values::{AccountId, AddressDigest, SessionId};
use sqlx::{FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use tokio::task::coop::consume_budget;
use uuid::Uuid;

use crate::as_of::{LONGEST_SESSION, Moment, earliest_id};
use crate::page::{Page, Paging, SCAN_LIMIT_SQL};
use crate::read_models::counts::{SessionCountChanges, Transition};
use crate::read_models::history_table::{Column, HistoryTable, column_list, columns};
use crate::read_models::versions::{RowVersions, VersionedRow};
use crate::to_i64;

/// A row of a session.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SessionRow {
    /// The session's id.
    pub session_id: Uuid,
    /// The id of its account.
    pub account_id: Uuid,
    /// The position of the event that produced this version of the row.
    pub since: i64,
    /// The time of the login.
    pub started_at: DateTime<Utc>,
    /// The position at which address, user agent and device of the login are sealed.
    pub started_position: i64,
    /// The time of the last refresh of its tokens.
    pub last_seen_at: DateTime<Utc>,
    /// The position at which address and user agent of that refresh are sealed.
    pub last_seen_position: i64,
    /// The session ends at this time unless it is used before.
    pub idle_expires_at: DateTime<Utc>,
    /// The session ends at this time in any case.
    pub expires_at: DateTime<Utc>,
    /// The time at which the session was ended or found expired.
    pub ended_at: Option<DateTime<Utc>>,
    /// The cause of its end: `fulexo_domain::session::RevocationCause`, or `expiry`.
    pub ended_by: Option<String>,
    /// The authentication methods of the login and of later step-ups (RFC 8176).
    #[sqlx(try_from = "Vec<String>")]
    pub methods: Arc<[String]>,
}

/// The filter of a list of sessions.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// Only sessions of this account.
    pub account: Option<AccountId>,
    /// Only live sessions, or only those that have ended.
    pub live: Option<bool>,
}

/// The session with this id, if it is in the read model.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn get(pool: &PgPool, session: SessionId) -> Result<Option<SessionRow>, sqlx::Error> {
    sqlx::query_as!(SessionRow, "select * from read.session where session_id = $1", session.0)
        .fetch_optional(pool)
        .await
}

/// A page of sessions, in order of their start.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn list(
    pool: &PgPool,
    filter: &SessionFilter,
    paging: &Paging<Uuid>,
    now: DateTime<Utc>,
) -> Result<Page<SessionRow, Uuid>, sqlx::Error> {
    let rows = statement(filter, paging, None, now).build_query_as().fetch_all(pool).await?;
    Ok(Page::from_scan(rows, paging.limit, |session: &SessionRow| session.session_id))
}

/// A page of sessions as of a past moment, in order of their start.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn list_as_of(
    pool: &PgPool,
    filter: &SessionFilter,
    paging: &Paging<Uuid>,
    moment: Moment,
) -> Result<Page<SessionRow, Uuid>, sqlx::Error> {
    let rows = statement(filter, paging, Some(moment), moment.time).build_query_as().fetch_all(pool).await?;
    Ok(Page::from_scan(rows, paging.limit, |session: &SessionRow| session.session_id))
}

/// Builds the statement of a list from its filters. An index selects candidates, those of an account or those that have
/// not been ended, and at most 1,000 of them are checked.
#[must_use]
pub fn statement(
    filter: &SessionFilter,
    paging: &Paging<Uuid>,
    moment: Option<Moment>,
    now: DateTime<Utc>,
) -> QueryBuilder<Postgres> {
    let order = paging.order.sql();
    let current = column_list::<SessionRow>("s.");
    let mut sql = QueryBuilder::new("select * from (select v.*, c.session_id as key, c.nth, (true");
    if let Some(live) = filter.live {
        sql.push(if live { " and " } else { " and not " });
        sql.push("(v.ended_at is null and v.idle_expires_at > ").push_bind(now);
        sql.push(" and v.expires_at > ").push_bind(now).push(")");
    }
    sql.push(") as matches from (select s.session_id, row_number() over (order by s.session_id ");
    sql.push(order).push(") as nth from read.session s where true");
    if let Some(account) = filter.account {
        sql.push(" and s.account_id = ").push_bind(account.0);
    }
    if let Some(after) = paging.after {
        sql.push(" and s.session_id").push(paging.order.after_operator()).push_bind(after);
    }
    if filter.live == Some(true) {
        // A live session began within the longest life of a session.
        sql.push(" and s.session_id >= ").push_bind(earliest_id(now - LONGEST_SESSION));
        if moment.is_none() {
            sql.push(" and s.ended_at is null");
        }
    }
    if let Some(moment) = moment {
        sql.push(" and s.session_id <= ").push_bind(moment.latest_id());
        sql.push(" and s.started_position <= ").push_bind(moment.position);
    }
    sql.push(" order by s.session_id ").push(order).push(" limit ");
    sql.push(if filter.live.is_some() { SCAN_LIMIT_SQL } else { paging.fetch_limit() });
    sql.push(") c cross join lateral (select * from read.session r where r.session_id = c.session_id offset 0) s");
    sql.push(" cross join lateral (select ").push(&current);
    // A row is never deleted: if it has changed since, its past has the earlier version.
    if let Some(moment) = moment {
        sql.push(" where s.since <= ").push_bind(moment.position);
        sql.push(" union all (select ").push(column_list::<SessionRow>(""));
        sql.push(" from read.session_past p where s.since > ").push_bind(moment.position);
        sql.push(" and p.session_id = s.session_id and p.since <= ").push_bind(moment.position);
        sql.push(" order by p.since desc limit 1)");
    }
    sql.push(") v) w where matches or nth = ").push(SCAN_LIMIT_SQL);
    sql.push(" order by key ").push(order).push(" limit ").push(paging.fetch_limit());
    sql
}

/// The sessions to revoke in a containment. All given conditions must match.
#[derive(Debug, Clone, Default)]
pub struct SessionSelection {
    /// Only sessions of these accounts; `None` for those of all.
    pub accounts: Option<Vec<AccountId>>,
    /// Only sessions that began at or after this time, by the clock of the node that began them.
    pub since: Option<DateTime<Utc>>,
    /// Only sessions that began or were refreshed at the address with this digest.
    pub address: Option<AddressDigest>,
    /// Never this one: the session of whoever responds.
    pub except: Option<SessionId>,
}

/// The live sessions that a selection names, at most `limit`, the oldest first. It asks the tables that gate requests and
/// the log: unlike a read model they are never behind.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn selected(
    pool: &PgPool,
    selection: &SessionSelection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<SessionId>, sqlx::Error> {
    let SessionSelection { accounts, since, address, except } = selection;
    let accounts: Option<Vec<Uuid>> = accounts.as_ref().map(|accounts| accounts.iter().map(|it| it.0).collect());
    let found = sqlx::query_scalar!(
        r#"select s.session_id as "session_id!" from access.live_session s
           where s.idle_expires_at > $1 and s.expires_at > $1
             and ($2::uuid[] is null or s.account_id = any($2))
             and ($3::uuid is null or s.session_id >= $3)
             and ($4::bytea is null or s.session_id in (
                 select e.stream_id from log.sealed l join log.event e on e.position = l.position
                 where l.ip_digest = $4 and e.category = 'session'))
             and s.session_id is distinct from $5
           order by s.session_id limit $6"#,
        now,
        accounts.as_deref(),
        since.map(earliest_id),
        address.map(|digest| digest.0.to_vec()),
        except.map(|session| session.0),
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(found.into_iter().map(SessionId).collect())
}

/// Sessions that have started but are not written to a table yet, by account.
#[derive(Default)]
pub(crate) struct PendingSessions(HashMap<Uuid, Vec<Uuid>>);

impl PendingSessions {
    /// Forgets them: they are being written, and later reads of the table find them.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The change that an event makes to sessions.
enum SessionChange<'a> {
    /// A change to one session.
    One(&'a SessionEvent),
    /// The end of all sessions that an account began before the event, except one.
    All(RevocationCause, Option<SessionId>),
}

/// Reads the rows that the batch touches, unless they are cached, and folds the batch over them. It runs at most two
/// statements, on the connection that it then asks for.
pub(crate) async fn fold<'c, E: From<sqlx::Error>>(
    connection: impl AsyncFnOnce() -> Result<&'c mut PgConnection, E>,
    rows: &mut RowVersions<SessionRow>,
    pending: &mut PendingSessions,
    counts: &mut SessionCountChanges,
    events: &[RecordedEvent],
) -> Result<(), E> {
    let events = || events.iter().filter_map(|recorded| session_change(recorded).map(|event| (recorded, event)));
    let touched = events().filter_map(|(recorded, event)| match event {
        SessionChange::One(event) => Some((recorded.stream.id, matches!(event, SessionEvent::Started { .. }))),
        SessionChange::All(..) => None,
    });
    let unknown = rows.keys_to_read(touched);
    let signed_out: BTreeSet<Uuid> = events()
        .filter_map(|(recorded, event)| matches!(event, SessionChange::All(..)).then_some(recorded.stream.id))
        .collect();
    let mut unended: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    if !unknown.is_empty() || !signed_out.is_empty() {
        let connection = connection().await?;
        if !unknown.is_empty() {
            let known = sqlx::query_as!(SessionRow, "select * from session where session_id = any($1)", &unknown)
                .fetch_all(&mut *connection)
                .await?;
            rows.extend(known);
        }
        if !signed_out.is_empty() {
            let accounts: Vec<Uuid> = signed_out.into_iter().collect();
            let known = sqlx::query_as!(
                SessionRow,
                "select * from session where account_id = any($1) and ended_at is null",
                &accounts
            )
            .fetch_all(&mut *connection)
            .await?;
            for session in known {
                unended.entry(session.account_id).or_default().push(session.session_id);
                // The table may be behind the unwritten changes in the cache.
                rows.insert_unless_known(session);
            }
        }
    }
    for (recorded, event) in events() {
        match event {
            SessionChange::One(event) => fold_event(rows, pending, counts, recorded, event),
            SessionChange::All(by, kept) => {
                let (account, position) = (recorded.stream.id, to_i64(recorded.position));
                let sessions = [unended.get(&account), pending.0.get(&account)].into_iter().flatten().flatten();
                for id in sessions.filter(|id| kept != Some(SessionId(**id))) {
                    rows.change(id, recorded.position, |session| {
                        if session.started_position < position {
                            change_counted(session, counts, recorded, |session| {
                                end(session, recorded.recorded_at, by.as_str())
                            });
                        }
                    });
                }
            }
        }
        consume_budget().await;
    }
    Ok(())
}

impl HistoryTable for SessionRow {
    const NAME: &str = "session";
    const KEY: &[&str] = &["session_id"];
    const COLUMNS: &[Column<Self>] = columns!(SessionRow {
        session_id,
        account_id,
        since,
        started_at,
        started_position,
        last_seen_at,
        last_seen_position,
        idle_expires_at,
        expires_at,
        ended_at,
        ended_by,
        methods
    });
}

impl VersionedRow for SessionRow {
    type Key = Uuid;

    fn key(&self) -> Uuid {
        self.session_id
    }

    fn since(&mut self) -> &mut i64 {
        &mut self.since
    }
}

const fn session_change(recorded: &RecordedEvent) -> Option<SessionChange<'_>> {
    match &recorded.event {
        Event::Session(event) => Some(SessionChange::One(event)),
        Event::Account(AccountEvent::SessionsRevoked { by, except_session }) => {
            Some(SessionChange::All(*by, *except_session))
        }
        Event::Account(_)
        | Event::Authentication(_)
        | Event::Role(_)
        | Event::Policy(_)
        | Event::ApiKey(_)
        | Event::RateLimit(_)
        | Event::Lockdown(_)
        | Event::Checkpoint(_)
        | Event::Audit(_)
        | Event::Key(_)
        | Event::Backup(_)
        | Event::Incident(_) => None,
    }
}

fn fold_event(
    rows: &mut RowVersions<SessionRow>,
    pending: &mut PendingSessions,
    counts: &mut SessionCountChanges,
    recorded: &RecordedEvent,
    event: &SessionEvent,
) {
    let id = recorded.stream.id;
    if let SessionEvent::Started { account, methods, fingerprint: _, idle_expires_at, expires_at } = event {
        pending.0.entry(account.0).or_default().push(id);
        let session = SessionRow {
            session_id: id,
            account_id: account.0,
            since: to_i64(recorded.position),
            started_at: recorded.recorded_at,
            started_position: to_i64(recorded.position),
            last_seen_at: recorded.recorded_at,
            last_seen_position: to_i64(recorded.position),
            idle_expires_at: *idle_expires_at,
            expires_at: *expires_at,
            ended_at: None,
            ended_by: None,
            methods: methods.iter().map(|method| method.as_str().to_owned()).collect(),
        };
        counts.begin(session.started_at, ends_at(&session));
        rows.insert(session);
    } else {
        rows.change(&id, recorded.position, |session| {
            change_counted(session, counts, recorded, |session| change(session, recorded, event));
        });
    }
}

/// Changes a session, and counts the change of its end.
fn change_counted(
    session: &mut SessionRow,
    counts: &mut SessionCountChanges,
    recorded: &RecordedEvent,
    change: impl FnOnce(&mut SessionRow),
) {
    let before = ends_at(session);
    change(session);
    counts.change(recorded.recorded_at, Transition { before, after: ends_at(session) });
}

/// Ends a session. A later event that ends it again changes nothing.
fn end(session: &mut SessionRow, at: DateTime<Utc>, by: &str) {
    if session.ended_at.is_none() {
        session.ended_at = Some(at);
        session.ended_by = Some(by.to_owned());
    }
}

fn change(session: &mut SessionRow, recorded: &RecordedEvent, event: &SessionEvent) {
    match event {
        SessionEvent::Revoked { by } => end(session, recorded.recorded_at, by.as_str()),
        SessionEvent::Expired {} => end(session, recorded.recorded_at, "expiry"),
        SessionEvent::Refreshed { generation: _, grace_until: _, idle_expires_at } => {
            session.last_seen_at = recorded.recorded_at;
            session.last_seen_position = to_i64(recorded.position);
            session.idle_expires_at = *idle_expires_at;
        }
        SessionEvent::Elevated { methods, .. } => {
            let presented = methods.iter().map(|method| method.as_str().to_owned());
            let new: Vec<String> = presented.filter(|method| !session.methods.contains(method)).collect();
            if !new.is_empty() {
                session.methods = session.methods.iter().cloned().chain(new).collect();
            }
        }
        SessionEvent::Started { .. }
        | SessionEvent::RefreshReused { .. }
        | SessionEvent::FingerprintMismatched { .. } => {}
    }
}

/// The expected end of a session.
fn ends_at(session: &SessionRow) -> DateTime<Utc> {
    let end = session.idle_expires_at.min(session.expires_at);
    session.ended_at.map_or(end, |ended| ended.min(end))
}
