//! The accounts read model, which administrators list and filter. Personal data stays sealed alongside the log; a row
//! holds its position.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_domain::account::{AccountEvent, PasswordChangeCause};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, UnlockCause};
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::values::AccountId;
use sqlx::{FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use tokio::task::coop::consume_budget;
use uuid::Uuid;

use crate::as_of::Moment;
use crate::page::{Page, Paging, SCAN_LIMIT_SQL};
use crate::read_models::counts::{AccountContribution, AccountCountChanges, NO_CONTRIBUTION, Transition};
use crate::read_models::history_table::{Column, HistoryTable, column_list, columns};
use crate::read_models::versions::{RowVersions, VersionedRow};
use crate::to_i64;

/// A row of an account.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct AccountRow {
    /// The account's id.
    pub account_id: Uuid,
    /// The position of the event that produced this version of the row.
    pub since: i64,
    /// The time of registration.
    pub registered_at: DateTime<Utc>,
    /// The position at which e-mail address and display name are sealed.
    pub profile_position: i64,
    /// The time at which the password was set or last changed.
    pub password_changed_at: DateTime<Utc>,
    /// The time of the last login.
    pub last_login_at: Option<DateTime<Utc>>,
    /// The end of the last lock.
    pub locked_until: Option<DateTime<Utc>>,
    /// The end of the last lock of the second factor.
    pub second_factor_locked_until: Option<DateTime<Utc>>,
    /// The number of unused recovery codes.
    pub recovery_codes: i32,
    /// `true` if an administrator suspended the account.
    pub suspended: bool,
    /// `true` if the password must be changed at the next login.
    pub password_expired: bool,
    /// `true` if login requires a second factor.
    pub second_factor: bool,
    /// `true` if the e-mail address is verified.
    pub email_verified: bool,
    /// The time from which on the account is erased, if its owner asked for that.
    pub erasure_due_at: Option<DateTime<Utc>>,
    /// `true` if the account was erased: nothing sealed of it is left.
    pub erased: bool,
    /// The names of the account's roles, in order.
    #[sqlx(try_from = "Vec<String>")]
    pub roles: Arc<[String]>,
}

/// The filter of a list of accounts.
#[derive(Debug, Clone, Default)]
pub struct AccountFilter {
    /// Only this account.
    pub account: Option<AccountId>,
    /// Only accounts that hold this role.
    pub role: Option<String>,
    /// Only accounts that are currently locked, or only those that are not.
    pub locked: Option<bool>,
    /// Only suspended accounts, or only those that are not.
    pub suspended: Option<bool>,
    /// Only accounts with a second factor, or only those without.
    pub second_factor: Option<bool>,
}

/// The account with this id, if it is in the read model.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn get(pool: &PgPool, account: AccountId) -> Result<Option<AccountRow>, sqlx::Error> {
    sqlx::query_as!(AccountRow, "select * from read.account where account_id = $1", account.0)
        .fetch_optional(pool)
        .await
}

/// A page of accounts, in order of registration.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn list(
    pool: &PgPool,
    filter: &AccountFilter,
    paging: &Paging<Uuid>,
    now: DateTime<Utc>,
) -> Result<Page<AccountRow, Uuid>, sqlx::Error> {
    let rows = statement(filter, paging, None, now).build_query_as().fetch_all(pool).await?;
    Ok(Page::from_scan(rows, paging.limit, |account: &AccountRow| account.account_id))
}

/// The account with this id as of a past moment.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn get_as_of(pool: &PgPool, account: AccountId, moment: Moment) -> Result<Option<AccountRow>, sqlx::Error> {
    let filter = AccountFilter { account: Some(account), ..AccountFilter::default() };
    Ok(list_as_of(pool, &filter, &Paging::first(1), moment).await?.items.pop())
}

/// A page of accounts as of a past moment, in order of registration.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn list_as_of(
    pool: &PgPool,
    filter: &AccountFilter,
    paging: &Paging<Uuid>,
    moment: Moment,
) -> Result<Page<AccountRow, Uuid>, sqlx::Error> {
    let rows = statement(filter, paging, Some(moment), moment.time).build_query_as().fetch_all(pool).await?;
    Ok(Page::from_scan(rows, paging.limit, |account: &AccountRow| account.account_id))
}

/// Builds the statement of a list from its filters. The index of one filter selects candidates, and the other filters
/// are checked against the row versions of at most 1,000 candidates.
#[must_use]
pub fn statement(
    filter: &AccountFilter,
    paging: &Paging<Uuid>,
    moment: Option<Moment>,
    now: DateTime<Utc>,
) -> QueryBuilder<Postgres> {
    let order = paging.order.sql();
    let current = column_list::<AccountRow>("a.");
    let mut sql = QueryBuilder::new("select * from (select v.*, c.account_id as key, c.nth, (true");
    let is_filtered = push_conditions(&mut sql, filter, now);
    sql.push(") as matches from (select g.account_id, row_number() over (order by g.account_id ");
    sql.push(order).push(") as nth from ");
    push_candidates(&mut sql, filter, moment, now);
    if let Some(after) = paging.after {
        sql.push(" and g.account_id").push(paging.order.after_operator()).push_bind(after);
    }
    if let Some(moment) = moment {
        sql.push(" and g.account_id <= ").push_bind(moment.latest_id());
    }
    sql.push(" order by g.account_id ").push(order).push(" limit ");
    sql.push(if is_filtered { SCAN_LIMIT_SQL } else { paging.fetch_limit() });
    sql.push(") c cross join lateral (select * from read.account r where r.account_id = c.account_id offset 0) a");
    sql.push(" cross join lateral (select ").push(&current);
    // A row is never deleted: if it has changed since, its past has the earlier version.
    if let Some(moment) = moment {
        sql.push(" where a.since <= ").push_bind(moment.position);
        sql.push(" union all (select ").push(column_list::<AccountRow>(""));
        sql.push(" from read.account_past p where a.since > ").push_bind(moment.position);
        sql.push(" and p.account_id = a.account_id and p.since <= ").push_bind(moment.position);
        sql.push(" order by p.since desc limit 1)");
    }
    sql.push(") v) w where matches or nth = ").push(SCAN_LIMIT_SQL);
    sql.push(" order by key ").push(order).push(" limit ").push(paging.fetch_limit());
    sql
}

/// Pushes the conditions on a version; returns `false` if there are none.
fn push_conditions(sql: &mut QueryBuilder<Postgres>, filter: &AccountFilter, now: DateTime<Utc>) -> bool {
    // The account itself is selected as a candidate.
    let AccountFilter { account: _, role, locked, suspended, second_factor } = filter;
    if let Some(role) = role {
        sql.push(" and v.roles @> array[").push_bind(role.clone()).push("]");
    }
    if let Some(locked) = locked {
        sql.push(if *locked { " and " } else { " and not " });
        sql.push("coalesce(greatest(v.locked_until, v.second_factor_locked_until) > ").push_bind(now).push(", false)");
    }
    if let Some(suspended) = suspended {
        sql.push(if *suspended { " and v.suspended" } else { " and not v.suspended" });
    }
    if let Some(second_factor) = second_factor {
        sql.push(if *second_factor { " and v.second_factor" } else { " and not v.second_factor" });
    }
    role.is_some() || locked.is_some() || suspended.is_some() || second_factor.is_some()
}

/// Pushes the candidates as `g`, selected by the index of one filter.
fn push_candidates(
    sql: &mut QueryBuilder<Postgres>,
    filter: &AccountFilter,
    moment: Option<Moment>,
    now: DateTime<Utc>,
) {
    let AccountFilter { account, role, locked, suspended, second_factor } = filter;
    match (account, role, moment) {
        (Some(account), _, _) => {
            sql.push("read.account g where g.account_id = ").push_bind(account.0);
        }
        (None, Some(role), None) => {
            sql.push("read.role_grant g where g.role = ").push_bind(role.clone());
        }
        (None, Some(role), Some(moment)) => {
            sql.push("(select account_id from read.role_grant where role = ").push_bind(role.clone());
            sql.push(" and since <= ").push_bind(moment.position);
            sql.push(" union all select account_id from read.role_grant_past where role = ").push_bind(role.clone());
            sql.push(" and since <= ").push_bind(moment.position);
            sql.push(" and until > ").push_bind(moment.position).push(") g where true");
        }
        // Fenced: the planner cannot estimate how few of the accounts that were ever locked still are.
        (None, None, None) if *locked == Some(true) => {
            sql.push(
                "(select account_id from read.account where greatest(locked_until, second_factor_locked_until) > ",
            );
            sql.push_bind(now).push(" offset 0) g where true");
        }
        (None, None, None) => {
            sql.push(match (suspended, second_factor) {
                (Some(true), _) => "read.account g where g.suspended",
                (_, Some(true)) => "read.account g where g.second_factor",
                (_, Some(false)) => "read.account g where not g.second_factor",
                _ => "read.account g where true",
            });
        }
        // Only accounts that existed then: the scan must end at a row that has a version.
        (None, None, Some(moment)) => {
            sql.push("read.account g where g.registered_at <= ").push_bind(moment.time);
            sql.push(" and (g.since <= ").push_bind(moment.position);
            sql.push(" or (select p.since from read.account_past p where p.account_id = g.account_id");
            sql.push(" order by p.since limit 1) <= ").push_bind(moment.position).push(")");
        }
    }
}

/// Reads the rows that the batch touches, unless they are cached, and folds the batch over them. It runs at most one
/// statement, on the connection that it then asks for.
pub(crate) async fn fold<'c, E: From<sqlx::Error>>(
    connection: impl AsyncFnOnce() -> Result<&'c mut PgConnection, E>,
    rows: &mut RowVersions<AccountRow>,
    counts: &mut AccountCountChanges,
    events: &[RecordedEvent],
) -> Result<(), E> {
    let touched = events.iter().filter(|recorded| concerns(recorded));
    let known = rows.keys_to_read(touched.map(|recorded| (recorded.stream.id, is_first(recorded))));
    if !known.is_empty() {
        let known = sqlx::query_as!(AccountRow, "select * from account where account_id = any($1)", &known)
            .fetch_all(connection().await?)
            .await?;
        rows.extend(known);
    }
    for recorded in events {
        fold_event(rows, counts, recorded);
        consume_budget().await;
    }
    Ok(())
}

impl HistoryTable for AccountRow {
    const NAME: &str = "account";
    const KEY: &[&str] = &["account_id"];
    const COLUMNS: &[Column<Self>] = columns!(AccountRow {
        account_id,
        since,
        registered_at,
        profile_position,
        password_changed_at,
        last_login_at,
        locked_until,
        second_factor_locked_until,
        recovery_codes,
        suspended,
        password_expired,
        second_factor,
        email_verified,
        erasure_due_at,
        erased,
        roles
    });
}

impl VersionedRow for AccountRow {
    type Key = Uuid;

    fn key(&self) -> Uuid {
        self.account_id
    }

    fn since(&mut self) -> &mut i64 {
        &mut self.since
    }
}

/// `true` if the event is the first of an account.
pub(crate) const fn is_first(recorded: &RecordedEvent) -> bool {
    matches!(recorded.event, Event::Account(AccountEvent::Registered {}))
}

const fn concerns(recorded: &RecordedEvent) -> bool {
    match &recorded.event {
        Event::Account(_) => true,
        Event::Authentication(event) => match event {
            AuthenticationEvent::Succeeded { .. }
            | AuthenticationEvent::LockedOut { .. }
            | AuthenticationEvent::LockLifted { .. } => true,
            AuthenticationEvent::Failed { .. }
            | AuthenticationEvent::SecondFactorRequired { .. }
            | AuthenticationEvent::PasswordChangeRequired { .. }
            | AuthenticationEvent::Confirmed { .. }
            | AuthenticationEvent::PasswordResetRequested {}
            | AuthenticationEvent::PasswordResetRefused { .. }
            | AuthenticationEvent::NewDeviceSeen { .. }
            | AuthenticationEvent::DeviceForgotten { .. } => false,
        },
        Event::Session(_)
        | Event::Role(_)
        | Event::Policy(_)
        | Event::ApiKey(_)
        | Event::RateLimit(_)
        | Event::Lockdown(_)
        | Event::Checkpoint(_)
        | Event::Audit(_)
        | Event::Key(_)
        | Event::Backup(_)
        | Event::Incident(_) => false,
    }
}

fn fold_event(rows: &mut RowVersions<AccountRow>, counts: &mut AccountCountChanges, recorded: &RecordedEvent) {
    let (id, position) = (recorded.stream.id, to_i64(recorded.position));
    if is_first(recorded) {
        let account = AccountRow {
            account_id: id,
            since: position,
            registered_at: recorded.recorded_at,
            profile_position: position,
            password_changed_at: recorded.recorded_at,
            last_login_at: None,
            locked_until: None,
            second_factor_locked_until: None,
            recovery_codes: 0,
            suspended: false,
            password_expired: false,
            second_factor: false,
            email_verified: false,
            erasure_due_at: None,
            erased: false,
            roles: Arc::default(),
        };
        counts.change(position, Transition { before: NO_CONTRIBUTION, after: contribution(&account) });
        rows.insert(account);
    } else if concerns(recorded) {
        // The nil stream, of attempts on unregistered addresses, has no account.
        rows.change(&id, recorded.position, |account| {
            let before = contribution(account);
            change(account, recorded);
            counts.change(position, Transition { before, after: contribution(account) });
        });
    }
}

fn change(account: &mut AccountRow, recorded: &RecordedEvent) {
    match &recorded.event {
        Event::Account(AccountEvent::RoleGranted { role }) => {
            let roles: BTreeSet<&str> = account.roles.iter().map(String::as_str).chain([role.as_str()]).collect();
            account.roles = roles.into_iter().map(ToOwned::to_owned).collect();
        }
        Event::Account(AccountEvent::RoleRevoked { role }) => {
            account.roles = account.roles.iter().filter(|held| *held != role.as_str()).cloned().collect();
        }
        Event::Account(AccountEvent::ProfileChanged {}) => account.profile_position = to_i64(recorded.position),
        Event::Account(AccountEvent::Suspended {}) => account.suspended = true,
        Event::Account(AccountEvent::Reinstated {}) => account.suspended = false,
        Event::Account(AccountEvent::PasswordExpired {}) => account.password_expired = true,
        Event::Account(AccountEvent::PasswordChanged { how: PasswordChangeCause::Rehash }) => {}
        Event::Account(AccountEvent::PasswordChanged { .. }) => {
            account.password_changed_at = recorded.recorded_at;
            account.password_expired = false;
        }
        Event::Account(AccountEvent::EmailVerified {}) => account.email_verified = true,
        Event::Account(AccountEvent::SecondFactorEnabled { .. }) => account.second_factor = true,
        Event::Account(AccountEvent::SecondFactorDisabled { .. }) => {
            account.second_factor = false;
            account.recovery_codes = 0;
            account.second_factor_locked_until = None;
        }
        Event::Account(
            AccountEvent::RecoveryCodesIssued { count: left } | AccountEvent::RecoveryCodeUsed { remaining: left },
        ) => account.recovery_codes = i32::try_from(*left).unwrap_or(i32::MAX),
        // The lock of one device does not lock the account. A lock of all devices may exist alongside one of unknown
        // devices: the longer one counts, and it does not end with the other.
        Event::Authentication(AuthenticationEvent::LockedOut { factor, until, device: None, .. }) => {
            let lock_end = lock_end_mut(account, *factor);
            *lock_end = Some(*until).max(*lock_end);
        }
        Event::Authentication(AuthenticationEvent::LockLifted { factor, by, device: None, .. }) => {
            let lasts = |until: &DateTime<Utc>| *by == UnlockCause::Expired && *until > recorded.recorded_at;
            let lock_end = lock_end_mut(account, *factor);
            *lock_end = lock_end.filter(lasts);
        }
        Event::Authentication(AuthenticationEvent::Succeeded { .. }) => {
            account.last_login_at = Some(recorded.recorded_at);
        }
        Event::Account(AccountEvent::ErasureStarted { due_at }) => account.erasure_due_at = Some(*due_at),
        Event::Account(AccountEvent::ErasureWithdrawn {}) => account.erasure_due_at = None,
        Event::Account(AccountEvent::Erased { .. }) => {
            account.erased = true;
            account.erasure_due_at = None;
            account.suspended = false;
            account.password_expired = false;
            account.second_factor = false;
            account.email_verified = false;
            account.recovery_codes = 0;
            account.locked_until = None;
            account.second_factor_locked_until = None;
        }
        Event::Account(
            AccountEvent::Registered {}
            | AccountEvent::SecondFactorEnrolmentStarted {}
            | AccountEvent::SessionsRevoked { .. }
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
        | Event::Incident(_) => {}
    }
}

const fn lock_end_mut(account: &mut AccountRow, factor: Factor) -> &mut Option<DateTime<Utc>> {
    match factor {
        Factor::Password => &mut account.locked_until,
        Factor::SecondFactor => &mut account.second_factor_locked_until,
    }
}

/// The contribution of an account to the counts.
fn contribution(account: &AccountRow) -> AccountContribution {
    [1, i64::from(account.suspended), i64::from(account.second_factor)]
}
