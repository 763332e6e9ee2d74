//! The incidents read model, for those who respond. What was written about an incident stays sealed alongside the log; a
//! row holds the positions. The timeline of an incident is a query of the audit read model.

use std::collections::BTreeSet;
use std::fmt::Display;

use chrono::{DateTime, Utc};
use fulexo_domain::event::{Category, Event, RecordedEvent};
use fulexo_domain::incident::{IncidentEvent, IncidentLinks, IncidentPhase, IncidentSeverity};
use fulexo_domain::values::{AccountId, IncidentId};
use sqlx::{FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::page::{Page, Paging};
use crate::read_models::audit::AuditEntry;
use crate::read_models::history_table::{Column, HistoryTable, column_list, columns, write_current, write_past};
use crate::read_models::versions::{RowChanges, RowVersions, VersionedRow};
use crate::to_i64;

/// A row of an incident.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct IncidentRow {
    /// The incident's id.
    pub incident_id: Uuid,
    /// The position of the event that produced this version of the row.
    pub since: i64,
    /// The time at which it was opened.
    pub opened_at: DateTime<Utc>,
    /// The position at which its summary is sealed.
    pub opened_position: i64,
    /// The account or API key that opened it, if it was one.
    pub opened_by: Option<Uuid>,
    /// The kind of actor that opened it.
    pub opened_by_kind: String,
    /// The name of its severity.
    pub severity: String,
    /// The name of its phase.
    pub phase: String,
    /// The time at which the phase began.
    pub phase_at: DateTime<Utc>,
    /// The account that leads the response.
    pub owner: Option<Uuid>,
    /// The position at which its lessons are sealed; `None` until it is closed.
    pub closed_position: Option<i64>,
    /// The ids of the accounts concerned.
    pub accounts: Vec<String>,
    /// The positions of linked events.
    pub events: Vec<String>,
    /// The rules that findings of checks break.
    pub findings: Vec<String>,
    /// The ids of the sessions concerned.
    pub sessions: Vec<String>,
}

/// The filter of a list of incidents.
#[derive(Debug, Clone, Default)]
pub struct IncidentFilter {
    /// Only those in this phase.
    pub phase: Option<IncidentPhase>,
    /// Only those of this severity.
    pub severity: Option<IncidentSeverity>,
    /// Only those of this owner.
    pub owner: Option<AccountId>,
}

/// The incident with this id.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn get(pool: &PgPool, incident: IncidentId) -> Result<Option<IncidentRow>, sqlx::Error> {
    sqlx::query_as!(IncidentRow, "select * from read.incident where incident_id = $1", incident.0)
        .fetch_optional(pool)
        .await
}

/// A page of incidents, current or as of a position, in the order of their opening.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn list(
    pool: &PgPool,
    filter: &IncidentFilter,
    paging: &Paging<Uuid>,
    position: Option<i64>,
) -> Result<Page<IncidentRow, Uuid>, sqlx::Error> {
    let rows = statement(filter, paging, position).build_query_as().fetch_all(pool).await?;
    Ok(Page::from_rows(rows, paging.limit, |row: &IncidentRow| row.incident_id))
}

/// Builds the statement of a list from its filters.
#[must_use]
pub fn statement(filter: &IncidentFilter, paging: &Paging<Uuid>, position: Option<i64>) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new("select * from (");
    push_versions(&mut sql, "read.incident", filter, paging);
    if let Some(position) = position {
        sql.push(" and since <= ").push_bind(position);
    }
    push_order(&mut sql, paging);
    if let Some(position) = position {
        sql.push(" union all ");
        push_versions(&mut sql, "read.incident_past", filter, paging);
        sql.push(" and since <= ").push_bind(position).push(" and until > ").push_bind(position);
        push_order(&mut sql, paging);
    }
    sql.push(") i order by incident_id ").push(paging.order.sql()).push(" limit ").push(paging.fetch_limit());
    sql
}

fn push_versions(
    sql: &mut QueryBuilder<Postgres>,
    table: &'static str,
    filter: &IncidentFilter,
    paging: &Paging<Uuid>,
) {
    sql.push("(select ").push(column_list::<IncidentRow>("")).push(" from ").push(table).push(" where true");
    if let Some(phase) = filter.phase {
        sql.push(" and phase = ").push_bind(phase.as_str());
    }
    if let Some(severity) = filter.severity {
        sql.push(" and severity = ").push_bind(severity.as_str());
    }
    if let Some(owner) = filter.owner {
        sql.push(" and owner = ").push_bind(owner.0);
    }
    if let Some(after) = paging.after {
        sql.push(" and incident_id").push(paging.order.after_operator()).push_bind(after);
    }
}

fn push_order(sql: &mut QueryBuilder<Postgres>, paging: &Paging<Uuid>) {
    sql.push(" order by incident_id ").push(paging.order.sql()).push(" limit ").push(paging.fetch_limit()).push(")");
}

/// A page of the timeline of an incident: its own events, those linked to it, and those that the requests of its
/// containments caused.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn timeline(
    pool: &PgPool,
    incident: &IncidentRow,
    paging: &Paging<i64>,
) -> Result<Page<AuditEntry, i64>, sqlx::Error> {
    let linked: Vec<i64> = incident.events.iter().filter_map(|position| position.parse().ok()).collect();
    let (order, beyond) = (paging.order.sql(), paging.order.after_operator());
    let mut sql = QueryBuilder::<Postgres>::new(
        "select p.position, e.leaf, e.leaf_hash from (select position from (
             select position from log.event where stream_id = ",
    );
    sql.push_bind(incident.incident_id).push(" and category = ").push_bind(Category::Incident.as_str());
    sql.push(" union select position from read.audit where position = any(").push_bind(linked);
    sql.push(
        ") union select a.position from read.audit a where a.correlation_id in (
             select s.correlation_id from read.audit s join log.event o on o.position = s.position
             where o.category = 'incident' and o.stream_id = ",
    );
    sql.push_bind(incident.incident_id).push(")) u where true");
    if let Some(after) = paging.after {
        sql.push(" and position").push(beyond).push_bind(after);
    }
    sql.push(" order by position ").push(order).push(" limit ").push(paging.fetch_limit());
    sql.push(") p join log.event e on e.position = p.position order by p.position ").push(order);
    let entries: Vec<AuditEntry> = sql.build_query_as().fetch_all(pool).await?;
    Ok(Page::from_rows(entries, paging.limit, |entry| entry.position))
}

/// Reads the rows that the batch touches, folds the batch over them, and writes them back with every superseded version.
pub(crate) async fn apply(connection: &mut PgConnection, events: &[RecordedEvent]) -> Result<(), sqlx::Error> {
    let events = || events.iter().filter_map(|recorded| incident_event(recorded).map(|event| (recorded, event)));
    let touched: BTreeSet<Uuid> = events().map(|(recorded, _)| recorded.stream.id).collect();
    if touched.is_empty() {
        return Ok(());
    }
    let touched: Vec<Uuid> = touched.into_iter().collect();
    let known = sqlx::query_as!(IncidentRow, "select * from incident where incident_id = any($1)", &touched)
        .fetch_all(&mut *connection)
        .await?;
    let mut rows = RowVersions::default();
    rows.extend(known);
    for (recorded, event) in events() {
        fold(&mut rows, recorded, event);
    }
    let RowChanges { current, past, .. } = rows.finish();
    write_current(connection, &current).await?;
    write_past(connection, &past).await
}

impl HistoryTable for IncidentRow {
    const NAME: &str = "incident";
    const KEY: &[&str] = &["incident_id"];
    const COLUMNS: &[Column<Self>] = columns!(IncidentRow {
        incident_id,
        since,
        opened_at,
        opened_position,
        opened_by,
        opened_by_kind,
        severity,
        phase,
        phase_at,
        owner,
        closed_position,
        accounts,
        events,
        findings,
        sessions,
    });
}

impl VersionedRow for IncidentRow {
    type Key = Uuid;

    fn key(&self) -> Uuid {
        self.incident_id
    }

    fn since(&mut self) -> &mut i64 {
        &mut self.since
    }
}

const fn incident_event(recorded: &RecordedEvent) -> Option<&IncidentEvent> {
    match &recorded.event {
        Event::Incident(event) => Some(event),
        Event::Account(_)
        | Event::Authentication(_)
        | Event::Session(_)
        | Event::Role(_)
        | Event::Policy(_)
        | Event::ApiKey(_)
        | Event::RateLimit(_)
        | Event::Lockdown(_)
        | Event::Checkpoint(_)
        | Event::Audit(_)
        | Event::Key(_)
        | Event::Backup(_) => None,
    }
}

fn fold(rows: &mut RowVersions<IncidentRow>, recorded: &RecordedEvent, event: &IncidentEvent) {
    let (key, position, at) = (recorded.stream.id, recorded.position, recorded.recorded_at);
    let mut enter = |phase: IncidentPhase, closed_position: Option<i64>| {
        rows.change(&key, position, |row| {
            phase.as_str().clone_into(&mut row.phase);
            (row.phase_at, row.closed_position) = (at, closed_position);
        });
    };
    match event {
        IncidentEvent::Opened { links, owner, severity } => {
            let mut row = IncidentRow {
                incident_id: key,
                since: to_i64(position),
                opened_at: at,
                opened_position: to_i64(position),
                opened_by: recorded.actor.id(),
                opened_by_kind: recorded.actor.kind().to_owned(),
                severity: severity.as_str().to_owned(),
                phase: IncidentPhase::Identified.as_str().to_owned(),
                phase_at: at,
                owner: owner.map(|owner| owner.0),
                closed_position: None,
                accounts: Vec::new(),
                events: Vec::new(),
                findings: Vec::new(),
                sessions: Vec::new(),
            };
            row.link(links);
            rows.insert(row);
        }
        IncidentEvent::ContainmentStarted { measures: _ } => {}
        IncidentEvent::Contained { measures: _ } => enter(IncidentPhase::Contained, None),
        IncidentEvent::Eradicated {} => enter(IncidentPhase::Eradicated, None),
        IncidentEvent::Recovered {} => enter(IncidentPhase::Recovered, None),
        IncidentEvent::Closed {} => enter(IncidentPhase::Closed, Some(to_i64(position))),
        IncidentEvent::Noted { links } => rows.change(&key, position, |row| row.link(links)),
        IncidentEvent::Triaged { owner, severity } => rows.change(&key, position, |row| {
            row.owner = owner.map(|owner| owner.0);
            severity.as_str().clone_into(&mut row.severity);
        }),
    }
}

impl IncidentRow {
    /// Adds evidence that is not there yet.
    fn link(&mut self, links: &IncidentLinks) {
        let IncidentLinks { accounts, events, findings, sessions } = links;
        add(&mut self.accounts, accounts);
        add(&mut self.events, events);
        add(&mut self.findings, findings.iter().map(fulexo_domain::values::FindingRule::as_str));
        add(&mut self.sessions, sessions);
    }
}

fn add(list: &mut Vec<String>, more: impl IntoIterator<Item = impl Display>) {
    for item in more {
        let item = item.to_string();
        if !list.contains(&item) {
            list.push(item);
        }
    }
}
