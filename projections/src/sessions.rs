//! The sessions read model: devices, for their owners and for administrators. From where somebody came stays sealed
//! beside the log; the row knows where.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Event, Recorded};
use fulexo_domain::session::{RevokedBy, SessionEvent};
use fulexo_domain::values::{AccountId, SessionId};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::as_of::Moment;
use crate::bulk::{Table, Tuple};
use crate::page::Page;
use crate::to_i64;
use crate::versions::{Row, Superseded, Versions, column};

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Unused until then, it ends.
    pub idle_expires_at: DateTime<Utc>,
    /// It ends then in any case.
    pub expires_at: DateTime<Utc>,
    /// When it was ended, or found past its end.
    pub ended_at: Option<DateTime<Utc>>,
    /// By whom or what; `fulexo_domain::session::RevokedBy`, or `expiry`.
    pub ended_by: Option<String>,
    /// What was presented (RFC 8176), and in step-ups since.
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

/// Sessions as they were, in the order of their start.
///
/// # Errors
/// The database.
pub async fn list_as_of(
    pool: &PgPool,
    filter: Filter,
    after: Option<Uuid>,
    limit: u16,
    moment: Moment,
) -> Result<Page<Session>, sqlx::Error> {
    // A row never goes away: one that has changed since has the version before in its past.
    let rows = sqlx::query_as!(
        Session,
        r#"select v.session_id as "session_id!", v.account_id as "account_id!", v.since as "since!",
                  v.started_at as "started_at!", v.started_position as "started_position!",
                  v.last_seen_at as "last_seen_at!", v.idle_expires_at as "idle_expires_at!",
                  v.expires_at as "expires_at!", v.ended_at as "ended_at?", v.ended_by as "ended_by?",
                  v.methods as "methods!"
           from read.session s cross join lateral (
               select s.* where s.since <= $1
               union all
               (select p.session_id, p.account_id, p.since, p.started_at, p.started_position, p.last_seen_at,
                       p.idle_expires_at, p.expires_at, p.ended_at, p.ended_by, p.methods
                from read.session_past p where s.since > $1 and p.session_id = s.session_id and p.since <= $1
                order by p.since desc limit 1)
           ) v
           where s.started_position <= $1
             and ($3::uuid is null or s.session_id > $3)
             and ($4::uuid is null or s.account_id = $4)
             and ($5::bool is null or (v.ended_at is null and v.idle_expires_at > $2 and v.expires_at > $2) = $5)
           order by s.session_id limit $6"#,
        moment.position,
        moment.time,
        after,
        filter.account.map(|account| account.0),
        filter.live,
        Page::<Session>::fetch(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(Page::of(rows, limit, |session| session.session_id.to_string()))
}

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
            About::One(event) => fold_one(rows, begun, recorded, event),
            About::All(by, kept) => {
                let (account, position) = (recorded.stream.id, to_i64(recorded.position));
                let sessions = [left.get(&account), begun.0.get(&account)].into_iter().flatten().flatten();
                for id in sessions.filter(|id| kept != Some(SessionId(**id))) {
                    rows.change(id, recorded.position, |session| {
                        if session.started_position < position {
                            end(session, recorded.recorded_at, by.as_str());
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
    const COLUMNS: i16 = 11;

    fn columns(&self, tuple: &mut Tuple) -> Result<(), sqlx::Error> {
        tuple.push(&self.session_id)?;
        tuple.push(&self.account_id)?;
        tuple.push(&self.since)?;
        tuple.push(&self.started_at)?;
        tuple.push(&self.started_position)?;
        tuple.push(&self.last_seen_at)?;
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
             select u.id, u.account_id, u.since, u.started_at, u.started_position, u.last_seen_at, u.idle_expires_at,
                    u.expires_at, u.ended_at, u.ended_by, string_to_array(u.methods, ' ')
             from (select unnest($1::uuid[]) as id, unnest($2::uuid[]) as account_id, unnest($3::bigint[]) as since,
                          unnest($4::timestamptz[]) as started_at, unnest($5::bigint[]) as started_position,
                          unnest($6::timestamptz[]) as last_seen_at, unnest($7::timestamptz[]) as idle_expires_at,
                          unnest($8::timestamptz[]) as expires_at, unnest($9::timestamptz[]) as ended_at,
                          unnest($10::text[]) as ended_by, unnest($11::text[]) as methods) u
             on conflict (session_id) do update set
                 since = excluded.since, last_seen_at = excluded.last_seen_at, idle_expires_at = excluded.idle_expires_at,
                 ended_at = excluded.ended_at, ended_by = excluded.ended_by, methods = excluded.methods",
            &column(rows, |row| row.session_id),
            &column(rows, |row| row.account_id),
            &column(rows, |row| row.since),
            &column(rows, |row| row.started_at),
            &column(rows, |row| row.started_position),
            &column(rows, |row| row.last_seen_at),
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
             select u.id, u.account_id, u.since, u.started_at, u.started_position, u.last_seen_at, u.idle_expires_at,
                    u.expires_at, u.ended_at, u.ended_by, string_to_array(u.methods, ' '), u.until
             from (select unnest($1::uuid[]) as id, unnest($2::uuid[]) as account_id, unnest($3::bigint[]) as since,
                          unnest($4::timestamptz[]) as started_at, unnest($5::bigint[]) as started_position,
                          unnest($6::timestamptz[]) as last_seen_at, unnest($7::timestamptz[]) as idle_expires_at,
                          unnest($8::timestamptz[]) as expires_at, unnest($9::timestamptz[]) as ended_at,
                          unnest($10::text[]) as ended_by, unnest($11::text[]) as methods,
                          unnest($12::bigint[]) as until) u",
            &column(rows, |past| past.row.session_id),
            &column(rows, |past| past.row.account_id),
            &column(rows, |past| past.row.since),
            &column(rows, |past| past.row.started_at),
            &column(rows, |past| past.row.started_position),
            &column(rows, |past| past.row.last_seen_at),
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

fn fold_one(rows: &mut Versions<Session>, begun: &mut Begun, recorded: &Recorded, event: &SessionEvent) {
    let id = recorded.stream.id;
    if let SessionEvent::Started { account, methods, fingerprint: _, idle_expires_at, expires_at } = event {
        begun.0.entry(account.0).or_default().push(id);
        rows.begin(Session {
            session_id: id,
            account_id: account.0,
            since: to_i64(recorded.position),
            started_at: recorded.recorded_at,
            started_position: to_i64(recorded.position),
            last_seen_at: recorded.recorded_at,
            idle_expires_at: *idle_expires_at,
            expires_at: *expires_at,
            ended_at: None,
            ended_by: None,
            methods: methods.iter().map(|method| method.as_str().to_owned()).collect(),
        });
    } else {
        rows.change(&id, recorded.position, |session| change(session, recorded, event));
    }
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
