//! The roles read model: the roles that administrators defined, and the grants of each role. `access` gates requests;
//! this read model has a history.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::permission::Permission;
use fulexo_domain::role::RoleEvent;
use fulexo_domain::values::AccountId;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::page::{Page, Paging};
use crate::read_models::accounts;
use crate::read_models::counts::HolderCountChanges;
use crate::read_models::history_table::{
    Column, HistoryTable, column_list, columns, versions_as_of, write_current, write_past,
};
use crate::read_models::versions::{RowChanges, RowVersions, VersionedRow, column};
use crate::to_i64;

/// A row of a role that administrators defined.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RoleRow {
    /// The role's name.
    pub role: String,
    /// The position of the event that produced this version of the row.
    pub since: i64,
    /// `true` if the role is retired and grants nothing.
    pub retired: bool,
    /// The names of the permissions that it grants.
    pub permissions: Vec<String>,
}

/// A row of a granted role.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct GrantRow {
    /// The account that holds it.
    pub account_id: Uuid,
    /// The role's name.
    pub role: String,
    /// The position of the event that granted it.
    pub since: i64,
    /// The time of that event.
    pub granted_at: DateTime<Utc>,
    /// The account or API key that granted it, if it was one.
    pub granted_by: Option<Uuid>,
    /// The kind of actor that granted it.
    pub granted_by_kind: String,
}

/// A grant, and the permissions of its role at that time.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct GrantWithPermissions {
    /// The grant.
    #[sqlx(flatten)]
    pub grant: GrantRow,
    /// The permissions that administrators gave the role; `None` for a built-in role.
    pub permissions: Option<Vec<String>>,
}

/// The filter of a list of grants.
#[derive(Debug, Clone, Default)]
pub struct GrantFilter {
    /// Only grants to this account.
    pub account: Option<AccountId>,
    /// Only grants of this role.
    pub role: Option<String>,
}

/// A page of grants, current or as of a position, by account and then by role.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn grants(
    pool: &PgPool,
    filter: &GrantFilter,
    paging: &Paging<(Uuid, String)>,
    position: Option<i64>,
) -> Result<Page<GrantWithPermissions, (Uuid, String)>, sqlx::Error> {
    let rows: Vec<GrantWithPermissions> = statement(filter, paging, position).build_query_as().fetch_all(pool).await?;
    Ok(Page::from_rows(rows, paging.limit, |held| held.grant.key()))
}

/// Builds the statement of a list from its filters. Each has an index in the order of the list.
#[must_use]
pub fn statement(
    filter: &GrantFilter,
    paging: &Paging<(Uuid, String)>,
    position: Option<i64>,
) -> QueryBuilder<Postgres> {
    let order = paging.order.sql();
    let mut sql = QueryBuilder::new(format!("select {}, d.permissions from (", column_list::<GrantRow>("g.")));
    push_grants(&mut sql, "read.role_grant", filter, paging);
    if let Some(position) = position {
        sql.push(" and since <= ").push_bind(position);
    }
    push_order(&mut sql, filter, paging);
    if let Some(position) = position {
        sql.push(" union all ");
        push_grants(&mut sql, "read.role_grant_past", filter, paging);
        sql.push(" and since <= ").push_bind(position).push(" and until > ").push_bind(position);
        push_order(&mut sql, filter, paging);
    }
    sql.push(") g left join lateral (");
    match position {
        None => {
            sql.push("select permissions from read.role r where r.role = g.role");
        }
        Some(position) => {
            sql.push("select permissions from read.role r where r.role = g.role and r.since <= ").push_bind(position);
            sql.push(" union all select permissions from read.role_past r where r.role = g.role and r.since <= ");
            sql.push_bind(position).push(" and r.until > ").push_bind(position);
        }
    }
    sql.push(") d on true order by g.account_id ").push(order).push(", g.role ").push(order);
    sql.push(" limit ").push(paging.fetch_limit());
    sql
}

fn push_grants(
    sql: &mut QueryBuilder<Postgres>,
    table: &'static str,
    filter: &GrantFilter,
    paging: &Paging<(Uuid, String)>,
) {
    sql.push("(select ").push(column_list::<GrantRow>("")).push(" from ").push(table);
    sql.push(" where true");
    if let Some(account) = filter.account {
        sql.push(" and account_id = ").push_bind(account.0);
    }
    if let Some(role) = &filter.role {
        sql.push(" and role = ").push_bind(role.clone());
    }
    if let Some((account, role)) = &paging.after {
        let beyond = paging.order.after_operator();
        sql.push(" and (account_id, role)").push(beyond).push("(").push_bind(*account).push(", ");
        sql.push_bind(role.clone()).push(")");
    }
}

/// Pushes the order: by account, then by role. With a role given, its index needs only the account.
fn push_order(sql: &mut QueryBuilder<Postgres>, filter: &GrantFilter, paging: &Paging<(Uuid, String)>) {
    let order = paging.order.sql();
    sql.push(" order by account_id ").push(order);
    if filter.role.is_none() {
        sql.push(", role ").push(order);
    }
    sql.push(" limit ").push(paging.fetch_limit()).push(")");
}

/// The roles that administrators had defined as of a position, by name.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn defined(pool: &PgPool, position: i64) -> Result<Vec<RoleRow>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(format!("{} order by role", versions_as_of::<RoleRow>("read."))))
        .bind(position)
        .fetch_all(pool)
        .await
}

/// Reads the rows that the batch touches, folds the batch over them, and writes them back with every superseded
/// version. It runs at most eight statements.
pub(crate) async fn apply(connection: &mut PgConnection, events: &[RecordedEvent]) -> Result<(), sqlx::Error> {
    apply_roles(connection, events).await?;
    apply_grants(connection, events).await
}

async fn apply_roles(connection: &mut PgConnection, events: &[RecordedEvent]) -> Result<(), sqlx::Error> {
    let events = || events.iter().filter_map(|recorded| role_event(recorded).map(|event| (recorded, event)));
    let touched: BTreeSet<&str> = events().map(|(_, event)| role_of(event)).collect();
    if touched.is_empty() {
        return Ok(());
    }
    let touched: Vec<&str> = touched.into_iter().collect();
    let known = sqlx::query_as!(RoleRow, "select * from role where role = any($1)", &touched as &[&str])
        .fetch_all(&mut *connection)
        .await?;
    let mut rows = RowVersions::default();
    rows.extend(known);
    for (recorded, event) in events() {
        fold_role(&mut rows, recorded, event);
    }
    let RowChanges { current, past, .. } = rows.finish();
    write_current(connection, &current).await?;
    write_past(connection, &past).await
}

async fn apply_grants(connection: &mut PgConnection, all: &[RecordedEvent]) -> Result<(), sqlx::Error> {
    let events = || all.iter().filter_map(|recorded| grant_change(recorded).map(|act| (recorded, act)));
    let touched: BTreeSet<(Uuid, &str)> = events().map(|(recorded, act)| (recorded.stream.id, act.role())).collect();
    if touched.is_empty() {
        return Ok(());
    }
    // An account that is registered in this batch held no role before it.
    let new: HashSet<Uuid> = all.iter().filter(|recorded| accounts::is_first(recorded)).map(|r| r.stream.id).collect();
    let known: Vec<_> = touched.into_iter().filter(|(account, _)| !new.contains(account)).collect();
    let mut rows: RowVersions<GrantRow> = RowVersions::default();
    if !known.is_empty() {
        let known = sqlx::query_as!(
            GrantRow,
            "select g.* from role_grant g join unnest($1::uuid[], $2::text[]) u (account_id, role)
             on g.account_id = u.account_id and g.role = u.role",
            &column(&known, |(account, _)| *account),
            &column(&known, |(_, role)| *role) as &[&str]
        )
        .fetch_all(&mut *connection)
        .await?;
        rows.extend(known);
    }
    let mut counts = HolderCountChanges::default();
    for (recorded, act) in events() {
        fold_grant(&mut rows, &mut counts, recorded, &act);
    }
    counts.write(connection).await?;
    let RowChanges { current, ended, past, .. } = rows.finish();
    if !ended.is_empty() {
        sqlx::query!(
            "delete from role_grant g using unnest($1::uuid[], $2::text[]) u (account_id, role)
             where g.account_id = u.account_id and g.role = u.role",
            &column(&ended, |(account, _)| *account),
            &column(&ended, |(_, role)| role.clone())
        )
        .execute(&mut *connection)
        .await?;
        write_past(connection, &past).await?;
    }
    write_current(connection, &current).await
}

impl HistoryTable for RoleRow {
    const NAME: &str = "role";
    const KEY: &[&str] = &["role"];
    const COLUMNS: &[Column<Self>] = columns!(RoleRow { role, since, retired, permissions });
}

impl HistoryTable for GrantRow {
    const NAME: &str = "role_grant";
    const KEY: &[&str] = &["account_id", "role"];
    const COLUMNS: &[Column<Self>] =
        columns!(GrantRow { account_id, role, since, granted_at, granted_by, granted_by_kind });
}

impl VersionedRow for RoleRow {
    type Key = String;

    fn key(&self) -> String {
        self.role.clone()
    }

    fn since(&mut self) -> &mut i64 {
        &mut self.since
    }
}

impl VersionedRow for GrantRow {
    type Key = (Uuid, String);

    fn key(&self) -> (Uuid, String) {
        (self.account_id, self.role.clone())
    }

    fn since(&mut self) -> &mut i64 {
        &mut self.since
    }
}

const fn role_event(recorded: &RecordedEvent) -> Option<&RoleEvent> {
    match &recorded.event {
        Event::Role(event) => Some(event),
        Event::Account(_)
        | Event::Authentication(_)
        | Event::Session(_)
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

fn role_of(event: &RoleEvent) -> &str {
    match event {
        RoleEvent::Defined { role, .. } | RoleEvent::PermissionsChanged { role, .. } | RoleEvent::Retired { role } => {
            role.as_str()
        }
    }
}

fn fold_role(rows: &mut RowVersions<RoleRow>, recorded: &RecordedEvent, event: &RoleEvent) {
    let names = |permissions: &[Permission]| permissions.iter().map(|it| it.as_str().to_owned()).collect::<Vec<_>>();
    match event {
        RoleEvent::Defined { role, permissions } => rows.insert(RoleRow {
            role: role.as_str().to_owned(),
            since: to_i64(recorded.position),
            retired: false,
            permissions: names(permissions),
        }),
        RoleEvent::PermissionsChanged { role, before: _, after } => {
            rows.change(&role.as_str().to_owned(), recorded.position, |row| row.permissions = names(after));
        }
        RoleEvent::Retired { role } => rows.change(&role.as_str().to_owned(), recorded.position, |row| {
            row.retired = true;
            row.permissions.clear();
        }),
    }
}

/// A change to a grant.
enum GrantChange<'a> {
    Granted(&'a str),
    Revoked(&'a str),
}

impl<'a> GrantChange<'a> {
    const fn role(&self) -> &'a str {
        match self {
            Self::Granted(role) | Self::Revoked(role) => role,
        }
    }
}

fn grant_change(recorded: &RecordedEvent) -> Option<GrantChange<'_>> {
    match &recorded.event {
        Event::Account(AccountEvent::RoleGranted { role }) => Some(GrantChange::Granted(role.as_str())),
        Event::Account(AccountEvent::RoleRevoked { role }) => Some(GrantChange::Revoked(role.as_str())),
        Event::Account(
            AccountEvent::Registered {}
            | AccountEvent::ProfileChanged {}
            | AccountEvent::PasswordChanged { .. }
            | AccountEvent::PasswordExpired {}
            | AccountEvent::SecondFactorEnrolmentStarted {}
            | AccountEvent::SecondFactorEnabled { .. }
            | AccountEvent::SecondFactorDisabled { .. }
            | AccountEvent::RecoveryCodesIssued { .. }
            | AccountEvent::RecoveryCodeUsed { .. }
            | AccountEvent::EmailVerified {}
            | AccountEvent::Suspended {}
            | AccountEvent::Reinstated {}
            | AccountEvent::SessionsRevoked { .. }
            | AccountEvent::ErasureStarted { .. }
            | AccountEvent::ErasureWithdrawn {}
            | AccountEvent::Erased { .. }
            | AccountEvent::ErasureCompleted { .. },
        )
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
        | Event::Backup(_)
        | Event::Incident(_) => None,
    }
}

fn fold_grant(
    rows: &mut RowVersions<GrantRow>,
    counts: &mut HolderCountChanges,
    recorded: &RecordedEvent,
    act: &GrantChange<'_>,
) {
    let (key, position) = ((recorded.stream.id, act.role().to_owned()), to_i64(recorded.position));
    match (act, rows.contains(&key)) {
        // A role that is granted twice is held since the first grant.
        (GrantChange::Granted(_), true) | (GrantChange::Revoked(_), false) => {}
        (GrantChange::Granted(role), false) => {
            rows.insert(GrantRow {
                account_id: key.0,
                role: key.1,
                since: position,
                granted_at: recorded.recorded_at,
                granted_by: recorded.actor.id(),
                granted_by_kind: recorded.actor.kind().to_owned(),
            });
            counts.change(position, role, 1);
        }
        (GrantChange::Revoked(role), true) => {
            rows.remove(&key, recorded.position);
            counts.change(position, role, -1);
        }
    }
}
