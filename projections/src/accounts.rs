//! The accounts read model: what administrators list and filter. Who somebody is stays sealed beside the log; the
//! row knows where.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use fulexo_domain::account::{AccountEvent, PasswordChange};
use fulexo_domain::authentication::{AuthenticationEvent, Factor};
use fulexo_domain::event::{Event, Recorded};
use fulexo_domain::values::AccountId;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::page::Page;
use crate::to_i64;

/// One account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub account_id: Uuid,
    /// When it was registered.
    pub registered_at: DateTime<Utc>,
    /// Where e-mail and display name are sealed.
    pub profile_position: i64,
    /// Names, in order.
    pub roles: Vec<String>,
    /// When the password was set or last changed.
    pub password_changed_at: DateTime<Utc>,
    /// When somebody last logged in.
    pub last_login_at: Option<DateTime<Utc>>,
    /// When the last lock lifts, or lifted.
    pub locked_until: Option<DateTime<Utc>>,
    /// When the last lock of its second factor lifts, or lifted.
    pub second_factor_locked_until: Option<DateTime<Utc>>,
    /// Whether an administrator has stopped all use of it.
    pub suspended: bool,
    /// Whether the password must be changed before anything else.
    pub password_expired: bool,
    /// Whether a login asks for a second factor.
    pub second_factor: bool,
    /// Recovery codes left.
    pub recovery_codes: i32,
    /// Whether mail to its address reached its owner.
    pub email_verified: bool,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this account.
    pub account: Option<AccountId>,
    /// Only accounts that hold this role.
    pub role: Option<String>,
    /// Only accounts that are locked now, or that are not.
    pub locked: Option<bool>,
    /// Only accounts that are suspended, or that are not.
    pub suspended: Option<bool>,
    /// Only accounts with a second factor, or without.
    pub second_factor: Option<bool>,
}

/// One account, if it is known.
///
/// # Errors
/// The database.
pub async fn get(pool: &PgPool, account: AccountId) -> Result<Option<Account>, sqlx::Error> {
    sqlx::query_as!(Account, "select * from read.account where account_id = $1", account.0).fetch_optional(pool).await
}

/// Accounts in the order of their registration.
///
/// # Errors
/// The database.
pub async fn list(
    pool: &PgPool,
    filter: Filter,
    after: Option<Uuid>,
    limit: u16,
    now: DateTime<Utc>,
) -> Result<Page<Account>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Account,
        "select * from read.account
         where ($1::uuid is null or account_id > $1)
           and ($2::uuid is null or account_id = $2)
           and ($3::text is null or roles @> array[$3::text])
           and ($4::bool is null or
                coalesce(greatest(locked_until, second_factor_locked_until) > $5, false) = $4)
           and ($6::bool is null or suspended = $6)
           and ($7::bool is null or second_factor = $7)
         order by account_id limit $8",
        after,
        filter.account.map(|account| account.0),
        filter.role,
        filter.locked,
        now,
        filter.suspended,
        filter.second_factor,
        Page::<Account>::fetch(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(Page::of(rows, limit, |account| account.account_id.to_string()))
}

/// Reads the rows that the batch touches, folds the batch over them, writes them back: two statements a batch.
pub(crate) async fn apply(connection: &mut PgConnection, events: &[Recorded]) -> Result<(), sqlx::Error> {
    let touched: BTreeSet<Uuid> = events.iter().filter(|recorded| concerns(recorded)).map(|r| r.stream.id).collect();
    if touched.is_empty() {
        return Ok(());
    }
    let touched: Vec<Uuid> = touched.into_iter().collect();
    let rows = sqlx::query_as!(Account, "select * from account where account_id = any($1)", &touched)
        .fetch_all(&mut *connection)
        .await?;
    let mut accounts: HashMap<Uuid, Account> = rows.into_iter().map(|row| (row.account_id, row)).collect();
    for recorded in events {
        fold(&mut accounts, recorded);
    }
    let rows: Vec<Account> = accounts.into_values().collect();
    sqlx::query!(
        "insert into account
         select u.id, u.registered_at, u.profile_position, string_to_array(u.roles, ' '), u.password_changed_at,
                u.last_login_at, u.locked_until, u.second_factor_locked_until, u.suspended, u.password_expired,
                u.second_factor, u.recovery_codes, u.email_verified
         from unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                     $7::timestamptz[], $8::timestamptz[], $9::boolean[], $10::boolean[], $11::boolean[], $12::integer[], $13::boolean[])
             u (id, registered_at, profile_position, roles, password_changed_at, last_login_at, locked_until,
                second_factor_locked_until, suspended, password_expired, second_factor, recovery_codes, email_verified)
         on conflict on constraint account_pkey do update set
             profile_position = excluded.profile_position, roles = excluded.roles,
             password_changed_at = excluded.password_changed_at,
             last_login_at = excluded.last_login_at, locked_until = excluded.locked_until,
             second_factor_locked_until = excluded.second_factor_locked_until, suspended = excluded.suspended,
             password_expired = excluded.password_expired, second_factor = excluded.second_factor,
             recovery_codes = excluded.recovery_codes, email_verified = excluded.email_verified",
        &rows.iter().map(|row| row.account_id).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.registered_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.profile_position).collect::<Vec<_>>(),
        // Role names hold no spaces.
        &rows.iter().map(|row| row.roles.join(" ")).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.password_changed_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.last_login_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &rows.iter().map(|row| row.locked_until).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &rows.iter().map(|row| row.second_factor_locked_until).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &rows.iter().map(|row| row.suspended).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.password_expired).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.second_factor).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.recovery_codes).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.email_verified).collect::<Vec<_>>()
    )
    .execute(connection)
    .await?;
    Ok(())
}

const fn concerns(recorded: &Recorded) -> bool {
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
            | AuthenticationEvent::NewDeviceSeen { .. } => false,
        },
        Event::Session(_)
        | Event::Role(_)
        | Event::Policy(_)
        | Event::ApiKey(_)
        | Event::RateLimit(_)
        | Event::Lockdown(_) => false,
    }
}

fn fold(accounts: &mut HashMap<Uuid, Account>, recorded: &Recorded) {
    let id = recorded.stream.id;
    if let Event::Account(AccountEvent::Registered {}) = &recorded.event {
        let account = Account {
            account_id: id,
            registered_at: recorded.recorded_at,
            profile_position: to_i64(recorded.position),
            roles: Vec::new(),
            password_changed_at: recorded.recorded_at,
            last_login_at: None,
            locked_until: None,
            second_factor_locked_until: None,
            suspended: false,
            password_expired: false,
            second_factor: false,
            recovery_codes: 0,
            email_verified: false,
        };
        accounts.insert(id, account);
        return;
    }
    // The nil stream, of attempts on addresses that nobody registered, has no account.
    let Some(account) = accounts.get_mut(&id) else { return };
    match &recorded.event {
        Event::Account(AccountEvent::RoleGranted { role }) => {
            account.roles.push(role.as_str().to_owned());
            account.roles.sort_unstable();
            account.roles.dedup();
        }
        Event::Account(AccountEvent::RoleRevoked { role }) => account.roles.retain(|held| held != role.as_str()),
        Event::Account(AccountEvent::ProfileChanged {}) => account.profile_position = to_i64(recorded.position),
        Event::Account(AccountEvent::Suspended {}) => account.suspended = true,
        Event::Account(AccountEvent::Reinstated {}) => account.suspended = false,
        Event::Account(AccountEvent::PasswordExpired {}) => account.password_expired = true,
        Event::Account(AccountEvent::PasswordChanged { how: PasswordChange::Rehash }) => {}
        Event::Account(AccountEvent::PasswordChanged { .. }) => {
            account.password_changed_at = recorded.recorded_at;
            account.password_expired = false;
        }
        Event::Account(AccountEvent::EmailVerified {}) => account.email_verified = true,
        Event::Account(AccountEvent::SecondFactorEnabled {}) => account.second_factor = true,
        Event::Account(AccountEvent::SecondFactorDisabled { .. }) => {
            account.second_factor = false;
            account.recovery_codes = 0;
            account.second_factor_locked_until = None;
        }
        Event::Account(
            AccountEvent::RecoveryCodesIssued { count: left } | AccountEvent::RecoveryCodeUsed { remaining: left },
        ) => account.recovery_codes = i32::try_from(*left).unwrap_or(i32::MAX),
        // The lock of one device is not the account's.
        Event::Authentication(AuthenticationEvent::LockedOut { factor, until, device: None, .. }) => {
            *locked(account, *factor) = Some(*until);
        }
        Event::Authentication(AuthenticationEvent::LockLifted { factor, device: None, .. }) => {
            *locked(account, *factor) = None;
        }
        Event::Authentication(AuthenticationEvent::Succeeded { .. }) => {
            account.last_login_at = Some(recorded.recorded_at);
        }
        Event::Account(AccountEvent::Registered {} | AccountEvent::SecondFactorEnrolmentStarted {})
        | Event::Authentication(_)
        | Event::Session(_)
        | Event::Role(_)
        | Event::Policy(_)
        | Event::ApiKey(_)
        | Event::RateLimit(_)
        | Event::Lockdown(_) => {}
    }
}

const fn locked(account: &mut Account, factor: Factor) -> &mut Option<DateTime<Utc>> {
    match factor {
        Factor::Password => &mut account.locked_until,
        Factor::SecondFactor => &mut account.second_factor_locked_until,
    }
}
