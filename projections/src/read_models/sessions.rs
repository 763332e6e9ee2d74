//! The sessions read model: devices, for their owners and for administrators. From where somebody came stays sealed
//! beside the log; the row knows where.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Event, Recorded};
use fulexo_domain::session::{RevokedBy, SessionEvent};
use fulexo_domain::values::{AccountId, SessionId};
use sqlx::{FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::as_of::{LONGEST_SESSION, Moment, earliest_id};
use crate::page::{Page, Paging, WALK_SQL};
use crate::read_models::bulk::{Table, Tuple};
use crate::read_models::counts::{Change, SessionCounts};
use crate::read_models::versions::{Row, Superseded, Versions, column};
use crate::to_i64;

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Session {
    /// Its id.
    pub session_id: Uuid,
    /// Whose it is.
    pub account_id: Uuid,
    /// The event that made it what it is here.
    pub since: i64,
    /// When its owner logged in.
    pub started_at: DateTime<Utc>,
    /// Where address, user agent and device are sealed.
    pub started_position: i64,
    /// When its tokens were last refreshed.
    pub last_seen_at: DateTime<Utc>,
    /// Where address and user agent of then are sealed.
    pub last_seen_position: i64,
    /// Unused until then, it ends.
    pub idle_expires_at: DateTime<Utc>,
    /// It ends then in any case.
    pub expires_at: DateTime<Utc>,
    /// When it was ended, or found past its end.
    pub ended_at: Option<DateTime<Utc>>,
    /// By whom or what; `fulexo_domain::session::RevokedBy`, or `expiry`.
    pub ended_by: Option<String>,
    /// What was presented (RFC 8176), and in step-ups since.
    #[sqlx(try_from = "Vec<String>")]
    pub methods: Arc<[String]>,
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
    filter: &Filter,
    paging: &Paging<Uuid>,
    now: DateTime<Utc>,
) -> Result<Page<Session, Uuid>, sqlx::Error> {
    let rows = statement(filter, paging, None, now).build_query_as().fetch_all(pool).await?;
    Ok(Page::of_walk(rows, paging.limit, |session: &Session| session.session_id))
}

/// Sessions as they were, in the order of their start.
///
/// # Errors
/// The database.
pub async fn list_as_of(
    pool: &PgPool,
    filter: &Filter,
    paging: &Paging<Uuid>,
    moment: Moment,
) -> Result<Page<Session, Uuid>, sqlx::Error> {
    let rows = statement(filter, paging, Some(moment), moment.time).build_query_as().fetch_all(pool).await?;
    Ok(Page::of_walk(rows, paging.limit, |session: &Session| session.session_id))
}

/// The statement of a list, made from the filters that are given: candidates by an index, those of an account or those that
/// nothing has ended, and of them the ones that are as wanted, 1,000 candidates at most.
#[must_use]
pub fn statement(
    filter: &Filter,
    paging: &Paging<Uuid>,
    moment: Option<Moment>,
    now: DateTime<Utc>,
) -> QueryBuilder<Postgres> {
    let order = paging.order.sql();
    let current = COLUMNS.split(", ").map(|column| format!("s.{column}")).collect::<Vec<_>>().join(", ");
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
        sql.push(" and s.session_id").push(paging.order.beyond()).push_bind(after);
    }
    if filter.live == Some(true) {
        // What is live began within the longest life of a session.
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
    sql.push(if filter.live.is_some() { WALK_SQL } else { paging.fetch() });
    sql.push(") c cross join lateral (select * from read.session r where r.session_id = c.session_id offset 0) s");
    sql.push(" cross join lateral (select ").push(&current);
    // A row never goes away: one that has changed since has the version before in its past.
    if let Some(moment) = moment {
        sql.push(" where s.since <= ").push_bind(moment.position);
        sql.push(" union all (select ").push(COLUMNS);
        sql.push(" from read.session_past p where s.since > ").push_bind(moment.position);
        sql.push(" and p.session_id = s.session_id and p.since <= ").push_bind(moment.position);
        sql.push(" order by p.since desc limit 1)");
    }
    sql.push(") v) w where matches or nth = ").push(WALK_SQL);
    sql.push(" order by key ").push(order).push(" limit ").push(paging.fetch());
    sql
}

/// The columns of a version, in the order of the table's.
const COLUMNS: &str = "session_id, account_id, since, started_at, started_position, last_seen_at, last_seen_position, \
                       idle_expires_at, expires_at, ended_at, ended_by, methods";

/// Sessions that were begun and are in no table yet, by their accounts.
#[derive(Default)]
pub(crate) struct Begun(HashMap<Uuid, Vec<Uuid>>);

impl Begun {
    /// They are being written: whoever reads the table from here on finds them there.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// What an event says of sessions.
enum About<'a> {
    /// Of one.
    One(&'a SessionEvent),
    /// That all of an account that began before it are over, but one.
    All(RevokedBy, Option<SessionId>),
}

/// Reads the rows that the batch touches, unless they are kept, and folds the batch over them: at most two statements, on the
/// connection that is asked for then.
pub(crate) async fn fold<'c, E: From<sqlx::Error>>(
    connection: impl AsyncFnOnce() -> Result<&'c mut PgConnection, E>,
    rows: &mut Versions<Session>,
    begun: &mut Begun,
    counts: &mut SessionCounts,
    events: &[Recorded],
) -> Result<(), E> {
    let events = || events.iter().filter_map(|recorded| about(recorded).map(|event| (recorded, event)));
    let touched = events().filter_map(|(recorded, event)| match event {
        About::One(event) => Some((recorded.stream.id, matches!(event, SessionEvent::Started { .. }))),
        About::All(..) => None,
    });
    let unknown = rows.missing(touched);
    let signed_out: BTreeSet<Uuid> = events()
        .filter_map(|(recorded, event)| matches!(event, About::All(..)).then_some(recorded.stream.id))
        .collect();
    let mut left: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    if !unknown.is_empty() || !signed_out.is_empty() {
        let connection = connection().await?;
        if !unknown.is_empty() {
            let known = sqlx::query_as!(Session, "select * from session where session_id = any($1)", &unknown)
                .fetch_all(&mut *connection)
                .await?;
            rows.extend(known);
        }
        if !signed_out.is_empty() {
            let accounts: Vec<Uuid> = signed_out.into_iter().collect();
            let known = sqlx::query_as!(
                Session,
                "select * from session where account_id = any($1) and ended_at is null",
                &accounts
            )
            .fetch_all(&mut *connection)
            .await?;
            for session in known {
                left.entry(session.account_id).or_default().push(session.session_id);
                // What the table says may be behind what is held back from it.
                rows.add_unless_known(session);
            }
        }
    }
    for (recorded, event) in events() {
        match event {
            About::One(event) => fold_one(rows, begun, counts, recorded, event),
            About::All(by, kept) => {
                let (account, position) = (recorded.stream.id, to_i64(recorded.position));
                let sessions = [left.get(&account), begun.0.get(&account)].into_iter().flatten().flatten();
                for id in sessions.filter(|id| kept != Some(SessionId(**id))) {
                    rows.change(id, recorded.position, |session| {
                        if session.started_position < position {
                            counted(session, counts, recorded, |session| {
                                end(session, recorded.recorded_at, by.as_str())
                            });
                        }
                    });
                }
            }
        }
    }
    Ok(())
}

impl Table for Session {
    const COPY: &str = "copy session from stdin (format binary)";
    const COPY_PAST: &str = "copy session_past from stdin (format binary)";
    const COLUMNS: i16 = 12;

    fn columns(&self, tuple: &mut Tuple) -> Result<(), sqlx::Error> {
        tuple.push(&self.session_id)?;
        tuple.push(&self.account_id)?;
        tuple.push(&self.since)?;
        tuple.push(&self.started_at)?;
        tuple.push(&self.started_position)?;
        tuple.push(&self.last_seen_at)?;
        tuple.push(&self.last_seen_position)?;
        tuple.push(&self.idle_expires_at)?;
        tuple.push(&self.expires_at)?;
        tuple.push(&self.ended_at)?;
        tuple.push(&self.ended_by)?;
        tuple.push(&&*self.methods)
    }

    async fn write_current(connection: &mut PgConnection, rows: &[Self]) -> Result<(), sqlx::Error> {
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into session
             select u.id, u.account_id, u.since, u.started_at, u.started_position, u.last_seen_at, u.last_seen_position,
                    u.idle_expires_at, u.expires_at, u.ended_at, u.ended_by, string_to_array(u.methods, ' ')
             from (select unnest($1::uuid[]) as id, unnest($2::uuid[]) as account_id, unnest($3::bigint[]) as since,
                          unnest($4::timestamptz[]) as started_at, unnest($5::bigint[]) as started_position,
                          unnest($6::timestamptz[]) as last_seen_at, unnest($7::bigint[]) as last_seen_position,
                          unnest($8::timestamptz[]) as idle_expires_at, unnest($9::timestamptz[]) as expires_at,
                          unnest($10::timestamptz[]) as ended_at, unnest($11::text[]) as ended_by,
                          unnest($12::text[]) as methods) u
             on conflict (session_id) do update set
                 since = excluded.since, last_seen_at = excluded.last_seen_at,
                 last_seen_position = excluded.last_seen_position, idle_expires_at = excluded.idle_expires_at,
                 ended_at = excluded.ended_at, ended_by = excluded.ended_by, methods = excluded.methods",
            &column(rows, |row| row.session_id),
            &column(rows, |row| row.account_id),
            &column(rows, |row| row.since),
            &column(rows, |row| row.started_at),
            &column(rows, |row| row.started_position),
            &column(rows, |row| row.last_seen_at),
            &column(rows, |row| row.last_seen_position),
            &column(rows, |row| row.idle_expires_at),
            &column(rows, |row| row.expires_at),
            &column(rows, |row| row.ended_at) as &[Option<DateTime<Utc>>],
            &column(rows, |row| row.ended_by.clone()) as &[Option<String>],
            &column(rows, |row| row.methods.join(" "))
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn write_past(connection: &mut PgConnection, rows: &[Superseded<Self>]) -> Result<(), sqlx::Error> {
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into session_past
             select u.id, u.account_id, u.since, u.started_at, u.started_position, u.last_seen_at, u.last_seen_position,
                    u.idle_expires_at, u.expires_at, u.ended_at, u.ended_by, string_to_array(u.methods, ' '), u.until
             from (select unnest($1::uuid[]) as id, unnest($2::uuid[]) as account_id, unnest($3::bigint[]) as since,
                          unnest($4::timestamptz[]) as started_at, unnest($5::bigint[]) as started_position,
                          unnest($6::timestamptz[]) as last_seen_at, unnest($7::bigint[]) as last_seen_position,
                          unnest($8::timestamptz[]) as idle_expires_at, unnest($9::timestamptz[]) as expires_at,
                          unnest($10::timestamptz[]) as ended_at, unnest($11::text[]) as ended_by,
                          unnest($12::text[]) as methods, unnest($13::bigint[]) as until) u",
            &column(rows, |past| past.row.session_id),
            &column(rows, |past| past.row.account_id),
            &column(rows, |past| past.row.since),
            &column(rows, |past| past.row.started_at),
            &column(rows, |past| past.row.started_position),
            &column(rows, |past| past.row.last_seen_at),
            &column(rows, |past| past.row.last_seen_position),
            &column(rows, |past| past.row.idle_expires_at),
            &column(rows, |past| past.row.expires_at),
            &column(rows, |past| past.row.ended_at) as &[Option<DateTime<Utc>>],
            &column(rows, |past| past.row.ended_by.clone()) as &[Option<String>],
            &column(rows, |past| past.row.methods.join(" ")),
            &column(rows, |past| past.until)
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Row for Session {
    type Key = Uuid;

    fn key(&self) -> Uuid {
        self.session_id
    }

    fn since(&mut self) -> &mut i64 {
        &mut self.since
    }
}

const fn about(recorded: &Recorded) -> Option<About<'_>> {
    match &recorded.event {
        Event::Session(event) => Some(About::One(event)),
        Event::Account(AccountEvent::SessionsRevoked { by, kept }) => Some(About::All(*by, *kept)),
        Event::Account(_)
        | Event::Authentication(_)
        | Event::Role(_)
        | Event::Policy(_)
        | Event::ApiKey(_)
        | Event::RateLimit(_)
        | Event::Lockdown(_) => None,
    }
}

fn fold_one(
    rows: &mut Versions<Session>,
    begun: &mut Begun,
    counts: &mut SessionCounts,
    recorded: &Recorded,
    event: &SessionEvent,
) {
    let id = recorded.stream.id;
    if let SessionEvent::Started { account, methods, fingerprint: _, idle_expires_at, expires_at } = event {
        begun.0.entry(account.0).or_default().push(id);
        let session = Session {
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
        rows.begin(session);
    } else {
        rows.change(&id, recorded.position, |session| {
            counted(session, counts, recorded, |session| change(session, recorded, event));
        });
    }
}

/// Changes a session, and counts when it ends then.
fn counted(session: &mut Session, counts: &mut SessionCounts, recorded: &Recorded, change: impl FnOnce(&mut Session)) {
    let before = ends_at(session);
    change(session);
    counts.change(recorded.recorded_at, Change { before, after: ends_at(session) });
}

/// It ends once: what says it again, later, changes nothing.
fn end(session: &mut Session, at: DateTime<Utc>, by: &str) {
    if session.ended_at.is_none() {
        session.ended_at = Some(at);
        session.ended_by = Some(by.to_owned());
    }
}

fn change(session: &mut Session, recorded: &Recorded, event: &SessionEvent) {
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

/// The end of a session, by what is known of it.
fn ends_at(session: &Session) -> DateTime<Utc> {
    let end = session.idle_expires_at.min(session.expires_at);
    session.ended_at.map_or(end, |ended| ended.min(end))
}
