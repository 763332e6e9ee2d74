//! Known devices: their attempts have their own counter, and their owner is not warned of their logins. A device is
//! known if its token is authentic, its row exists, and its first login is recent enough.
//!
//! Rows change with the event that causes the change (`vault/write.rs`): a login, the owner's request, or a change of
//! the account's credentials (`UnitOfWork::record`).

use chrono::{DateTime, Utc};
use fulexo_domain::authentication::{AuthenticationEvent, DEVICE_LIFETIME, MAX_KNOWN_DEVICES};
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::{AccountId, SessionId};
use sqlx::PgPool;
use uuid::Uuid;

use crate::authentication::attempts::{self, interval};
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome};
use crate::idempotency::IdempotencyKey;
use crate::sessions::refresh_token::device_of_token;
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

/// A known device, as its owner sees it. Personal data: no `Debug`.
pub struct KnownDevice {
    /// The device's id.
    pub device: Uuid,
    /// `true` if the caller's session started on it.
    pub current: bool,
    /// The time of its first login.
    pub first_used_at: DateTime<Utc>,
    /// The time of its latest login.
    pub last_used_at: DateTime<Utc>,
    /// The time at which it ceases to be known.
    pub expires_at: DateTime<Utc>,
    /// The client's address at its latest login.
    pub ip: Option<String>,
    /// The client's `User-Agent` at its latest login.
    pub user_agent: Option<String>,
}

/// Returns the device of a token, if this account knows it.
pub(crate) async fn known_device(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    token: &str,
) -> Result<Option<Uuid>, CommandError> {
    let Some(device) = device_of_token(&side.vault, account, token) else { return Ok(None) };
    Ok(knows_device(&side.pool, context, account, device).await?.then_some(device))
}

/// Returns `true` if an account knows a device, by this node's clock and by the database's.
pub(crate) async fn knows_device(
    pool: &PgPool,
    context: &Context,
    account: AccountId,
    device: Uuid,
) -> Result<bool, CommandError> {
    let known = sqlx::query_scalar!(
        r#"select exists (select from vault.known_device
                          where account_id = $1 and device = $2
                              and first_used_at > greatest(now(), $3) - $4::interval) as "known!""#,
        account.0,
        device,
        context.now,
        interval(DEVICE_LIFETIME)
    );
    Ok(known.fetch_one(pool).await?)
}

/// Returns the devices that an account knows, the one used last first.
pub(crate) async fn known_device_ids(
    pool: &PgPool,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>, CommandError> {
    let devices = sqlx::query_scalar!(
        "select device from vault.known_device
         where account_id = $1 and first_used_at > greatest(now(), $2) - $3::interval
         order by used desc limit $4",
        account.0,
        now,
        interval(DEVICE_LIFETIME),
        MAX_KNOWN_DEVICES
    );
    Ok(devices.fetch_all(pool).await?)
}

pub(crate) async fn known_devices(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    session: SessionId,
) -> Result<Vec<KnownDevice>, CommandError> {
    let rows = sqlx::query!(
        r#"select d.device, d.first_used_at, d.last_used_at, coalesce(r.device = d.device, false) as "current!",
                  s.started_position as "position?"
           from vault.known_device d
           left join vault.refresh_root r on r.session_id = $2
           left join access.session s on s.session_id = d.last_session
           where d.account_id = $1 and d.first_used_at > greatest(now(), $3) - $4::interval
           order by d.used desc"#,
        account.0,
        session.0,
        context.now,
        interval(DEVICE_LIFETIME)
    )
    .fetch_all(&side.pool)
    .await?;
    let positions: Vec<i64> = rows.iter().filter_map(|row| row.position).collect();
    let facts = side.vault.open_personal(&positions).await?;
    let devices = rows.into_iter().map(|row| {
        let facts = row.position.and_then(|position| facts.get(&position));
        let fact = |field| facts.and_then(|facts| facts.get(field)).map(str::to_owned);
        KnownDevice {
            device: row.device,
            current: row.current,
            first_used_at: row.first_used_at,
            last_used_at: row.last_used_at,
            expires_at: row.first_used_at + DEVICE_LIFETIME,
            ip: fact(SealedField::Ip),
            user_agent: fact(SealedField::UserAgent),
        }
    });
    Ok(devices.collect())
}

pub(crate) async fn forget_device(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    device: Uuid,
) -> Result<CommandOutcome<()>, CommandError> {
    let content = [account.0.as_bytes().as_slice(), device.as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "forget_device", &content);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        if !knows_device(&side.pool, context, account, device).await? {
            let refused = execute::stored_outcome_or(&side.log, idempotency.as_ref(), CommandError::NoSuchDevice);
            return refused.await.map(CommitOutcome::Replayed);
        }
        let mut unit = side.unit_of_work(context);
        unit.vault(VaultWrite::ForgetDevice { account, device });
        let forgotten =
            AuthenticationEvent::DeviceForgotten { device: attempts::device_name(&side.vault, account, device) };
        unit.record(account.0, Some(account), [forgotten])?;
        execute::commit(side, unit, idempotency.as_ref(), ()).await
    })
    .await
}
