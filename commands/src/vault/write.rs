//! Secrets that change in the transaction of the event they belong to: written by the sequencer, in the order of
//! the batch.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::authentication::KNOWN_DEVICES;
use fulexo_domain::values::{AccountId, SessionId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::subject::WrappedKey;

/// One change of the vault.
pub enum VaultWrite {
    /// A new person's data key.
    SubjectKey(WrappedKey),
    /// A new password verifier; the old one goes to the history, of which `keep` remain.
    Password {
        /// Whose.
        account: AccountId,
        /// Sealed under the person's key.
        verifier: Vec<u8>,
        /// How many previous ones are kept.
        keep: i64,
    },
    /// The same password, hashed anew: the history does not move.
    Rehash {
        /// Whose.
        account: AccountId,
        /// Sealed under the person's key.
        verifier: Vec<u8>,
    },
    /// The root of a new session's refresh tokens.
    RefreshRoot {
        /// The session.
        session: SessionId,
        /// Whose.
        account: AccountId,
        /// Where they logged in.
        device: Uuid,
        /// Random.
        root: [u8; 32],
        /// When the session ends in any case.
        expires_at: DateTime<Utc>,
    },
    /// A session ended: its refresh tokens are worth nothing from here on.
    ForgetRefreshRoot {
        /// The session.
        session: SessionId,
    },
    /// A lock that an event announces.
    Lock {
        /// HMAC of what was typed in.
        key_hash: [u8; 32],
        /// The factor's name.
        factor: &'static str,
        /// When it lifts.
        until: DateTime<Utc>,
        /// Which in a row.
        nth: u32,
    },
    /// A right attempt: what its counter holds no longer counts, nor does itself over all devices of the account.
    RightAttempt {
        /// HMAC of what was typed in, or of the device.
        key_hash: [u8; 32],
        /// HMAC that the counter over all devices has.
        account_key: [u8; 32],
        /// The factor's name.
        factor: &'static str,
        /// When it was counted.
        at: DateTime<Utc>,
    },
    /// An attempt that was evaluated and counts: nobody waits for it any more.
    WrongAttempt {
        /// HMAC of what was typed in, or of the device.
        key_hash: [u8; 32],
        /// HMAC that the counter over all devices has.
        account_key: [u8; 32],
        /// The factor's name.
        factor: &'static str,
        /// When it was counted.
        at: DateTime<Utc>,
    },
    /// What was counted under this key no longer counts.
    ClearAttempts {
        /// HMAC of what was typed in.
        key_hash: [u8; 32],
        /// The factor's name.
        factor: &'static str,
    },
    /// All that was counted against an account, on any device, no longer counts.
    ForgetAttempts {
        /// Whose.
        account: AccountId,
        /// HMAC of the account's address.
        key_hash: [u8; 32],
        /// The factor's name; none: both.
        factor: Option<&'static str>,
    },
    /// A login: its device is known from here on, in place of the least recently used one where there are enough; or, if
    /// it was known before, and still is, it is used again.
    UseDevice {
        /// Whose.
        account: AccountId,
        /// The device; new ones are drawn for the very login, so that one which was forgotten never comes back.
        device: Uuid,
        /// Whether it was known before.
        known: bool,
        /// The session that it began.
        session: SessionId,
        /// When.
        at: DateTime<Utc>,
    },
    /// A device is not known any more.
    ForgetDevice {
        /// Whose.
        account: AccountId,
        /// The device.
        device: Uuid,
    },
    /// No device of an account is known any more.
    ForgetDevices {
        /// Whose.
        account: AccountId,
    },
    /// Tokens of these purposes are worth nothing from here on.
    ForgetMailTokens {
        /// Whose.
        account: AccountId,
        /// What they are for.
        purposes: &'static [&'static str],
    },
    /// A mail to be sent, with the token that its link holds; neither, where there were enough of its kind.
    Mail {
        /// Its id.
        id: Uuid,
        /// To whom.
        account: AccountId,
        /// What it is about.
        kind: &'static str,
        /// Most of this kind in an hour.
        most: i64,
        /// HMAC of the token and its purpose.
        token: [u8; 32],
        /// What the token is for.
        purpose: &'static str,
        /// When the token ends.
        expires_at: DateTime<Utc>,
        /// What it says, sealed under the person's key.
        sealed: Vec<u8>,
        /// When.
        at: DateTime<Utc>,
    },
    /// The seed of a second factor that is being set up.
    PendingSeed {
        /// Whose.
        account: AccountId,
        /// Sealed under the person's key.
        seed: Vec<u8>,
    },
    /// The pending seed is the one in use from now on.
    ConfirmSeed {
        /// Whose.
        account: AccountId,
    },
    /// A new set of recovery codes, in place of any other.
    RecoveryCodes {
        /// Whose.
        account: AccountId,
        /// HMACs.
        hashes: Vec<Vec<u8>>,
    },
    /// A recovery code that was used.
    SpendRecoveryCode {
        /// Whose.
        account: AccountId,
        /// HMAC.
        hash: [u8; 32],
    },
    /// No second factor any more: seeds and recovery codes go, and what was counted against its codes.
    ForgetSecondFactor {
        /// Whose.
        account: AccountId,
    },
}

pub(crate) async fn write(connection: &mut PgConnection, writes: &[&VaultWrite]) -> Result<(), sqlx::Error> {
    for write in writes {
        match write {
            VaultWrite::SubjectKey(key) => {
                sqlx::query!(
                    "insert into vault.subject_key (subject_id, wrapped, kek_id) values ($1, $2, $3)",
                    key.subject_id,
                    key.wrapped,
                    key.kek_id
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::Password { account, verifier, keep } => {
                replace_password(connection, *account, verifier, *keep).await?;
            }
            VaultWrite::Rehash { account, verifier } => {
                sqlx::query!(
                    "update vault.credential set verifier = $2 where account_id = $1 and kind = 'password'",
                    account.0,
                    verifier
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::RefreshRoot { session, account, device, root, expires_at } => {
                sqlx::query!(
                    "insert into vault.refresh_root (session_id, account_id, device, root, expires_at)
                     values ($1, $2, $3, $4, $5)",
                    session.0,
                    account.0,
                    device,
                    root,
                    expires_at
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::ForgetRefreshRoot { session } => {
                sqlx::query!("delete from vault.refresh_root where session_id = $1", session.0)
                    .execute(&mut *connection)
                    .await?;
            }
            VaultWrite::Lock { key_hash, factor, until, nth } => {
                sqlx::query!(
                    "update vault.attempt
                     set recent = array[]::timestamptz[], pending = array[]::timestamptz[], locked_until = $3, locks = $4
                     where key_hash = $1 and factor = $2",
                    key_hash,
                    factor,
                    until,
                    i32::try_from(*nth).unwrap_or(i32::MAX)
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::ForgetAttempts { account, key_hash, factor } => {
                sqlx::query!(
                    "delete from vault.attempt
                     where (key_hash = $1 or account_id = $2) and ($3::text is null or factor = $3)",
                    key_hash,
                    account.0,
                    *factor
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::ForgetMailTokens { account, purposes } => {
                let purposes: Vec<String> = purposes.iter().map(|&purpose| purpose.to_owned()).collect();
                sqlx::query!(
                    "delete from vault.mail_token where account_id = $1 and purpose = any($2)",
                    account.0,
                    &purposes
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::Mail { id, account, kind, most, token, purpose, expires_at, sealed, at } => {
                let queued = sqlx::query!(
                    "insert into vault.mail (mail_id, account_id, kind, token_hash, sealed, created_at, due_at)
                     select $1, $2, $3, $4, $5, $6, $6
                     where (select count(*) from vault.mail
                            where account_id = $2 and kind = $3 and created_at > $8) < $7",
                    id,
                    account.0,
                    kind,
                    token,
                    sealed,
                    at,
                    most,
                    *at - COUNTED_FOR
                )
                .execute(&mut *connection)
                .await?;
                if queued.rows_affected() == 1 {
                    keep_mail_token(connection, token, *account, purpose, *expires_at).await?;
                }
            }
            VaultWrite::PendingSeed { account, seed } => {
                sqlx::query!(
                    "insert into vault.credential (account_id, kind, verifier) values ($1, 'totp_pending', $2)
                     on conflict on constraint credential_pkey do update
                     set verifier = excluded.verifier, last_step = null",
                    account.0,
                    seed
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::ConfirmSeed { account } => {
                sqlx::query!(
                    "with pending as (
                         delete from vault.credential where account_id = $1 and kind = 'totp_pending'
                         returning verifier, last_step)
                     insert into vault.credential (account_id, kind, verifier, last_step)
                     select $1, 'totp', verifier, last_step from pending
                     on conflict on constraint credential_pkey do update
                     set verifier = excluded.verifier, last_step = excluded.last_step",
                    account.0
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::RecoveryCodes { account, hashes } => {
                sqlx::query!("delete from vault.recovery_code where account_id = $1", account.0)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query!(
                    "insert into vault.recovery_code (account_id, code_hash) select $1, unnest($2::bytea[])",
                    account.0,
                    hashes
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::SpendRecoveryCode { account, hash } => {
                sqlx::query!(
                    "delete from vault.recovery_code where account_id = $1 and code_hash = $2",
                    account.0,
                    hash
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::ForgetSecondFactor { account } => forget_second_factor(connection, *account).await?,
            VaultWrite::RightAttempt { key_hash, account_key, factor, at } => {
                sqlx::query!(
                    "with own as (delete from vault.attempt where key_hash = $1 and factor = $3)
                     update vault.attempt
                     set recent = vault.without(recent, $4), pending = vault.without(pending, $4)
                     where key_hash = $2 and factor = $3 and array_position(recent, $4) is not null",
                    key_hash,
                    account_key,
                    factor,
                    at
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::WrongAttempt { key_hash, account_key, factor, at } => {
                sqlx::query!(
                    "update vault.attempt set pending = vault.without(pending, $4)
                     where key_hash in ($1, $2) and factor = $3 and array_position(pending, $4) is not null",
                    key_hash,
                    account_key,
                    factor,
                    at
                )
                .execute(&mut *connection)
                .await?;
            }
            VaultWrite::UseDevice { account, device, known, session, at } => {
                use_device(connection, *account, *device, *known, *session, *at).await?;
            }
            VaultWrite::ForgetDevice { account, device } => {
                sqlx::query!("delete from vault.known_device where account_id = $1 and device = $2", account.0, device)
                    .execute(&mut *connection)
                    .await?;
            }
            VaultWrite::ForgetDevices { account } => {
                sqlx::query!("delete from vault.known_device where account_id = $1", account.0)
                    .execute(&mut *connection)
                    .await?;
            }
            VaultWrite::ClearAttempts { key_hash, factor } => {
                sqlx::query!("delete from vault.attempt where key_hash = $1 and factor = $2", key_hash, factor)
                    .execute(&mut *connection)
                    .await?;
            }
        }
    }
    Ok(())
}

/// How long a mail counts.
pub(crate) const COUNTED_FOR: TimeDelta = TimeDelta::hours(1);
/// Most devices that are known beside a new one.
const MOST_DEVICES: i64 = KNOWN_DEVICES - 1;
/// Most tokens of one purpose that an account has at a time; the oldest go.
const MOST_TOKENS: i64 = 500;

async fn keep_mail_token(
    connection: &mut PgConnection,
    token: &[u8; 32],
    account: AccountId,
    purpose: &str,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from vault.mail_token where token_hash in (
             select token_hash from vault.mail_token
             where account_id = $1 and purpose = $2 order by expires_at desc offset $3)",
        account.0,
        purpose,
        MOST_TOKENS - 1
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into vault.mail_token (token_hash, account_id, purpose, expires_at) values ($1, $2, $3, $4)",
        token,
        account.0,
        purpose,
        expires_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Under the log's lock, so that the order of use is the order of the log.
async fn use_device(
    connection: &mut PgConnection,
    account: AccountId,
    device: Uuid,
    known: bool,
    session: SessionId,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if known {
        sqlx::query!(
            "update vault.known_device
             set last_used_at = greatest(last_used_at, least($4, now())), last_session = $3,
                 used = (select max(used) + 1 from vault.known_device where account_id = $1)
             where account_id = $1 and device = $2",
            account.0,
            device,
            session.0,
            at
        )
        .execute(connection)
        .await?;
    } else {
        // A node whose clock is ahead makes no device known for longer.
        sqlx::query!(
            "with others as (select device, used from vault.known_device where account_id = $1),
             forgotten as (
                 delete from vault.known_device where account_id = $1 and device in (
                     select device from others order by used desc offset $5))
             insert into vault.known_device (account_id, device, first_used_at, last_used_at, last_session, used)
             select $1, $2, least($4, now()), least($4, now()), $3, coalesce(max(used), 0) + 1 from others",
            account.0,
            device,
            session.0,
            at,
            MOST_DEVICES
        )
        .execute(connection)
        .await?;
    }
    Ok(())
}

async fn forget_second_factor(connection: &mut PgConnection, account: AccountId) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from vault.credential where account_id = $1 and kind in ('totp', 'totp_pending')", account.0)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("delete from vault.recovery_code where account_id = $1", account.0).execute(&mut *connection).await?;
    sqlx::query!("delete from vault.attempt where account_id = $1 and factor = 'second_factor'", account.0)
        .execute(connection)
        .await?;
    Ok(())
}

async fn replace_password(
    connection: &mut PgConnection,
    account: AccountId,
    verifier: &[u8],
    keep: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with old as (select verifier from vault.credential where account_id = $1 and kind = 'password')
         insert into vault.password_history (account_id, verifier) select $1, verifier from old",
        account.0
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "delete from vault.password_history where account_id = $1 and ordinal not in (
             select ordinal from vault.password_history where account_id = $1 order by ordinal desc limit $2)",
        account.0,
        keep
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into vault.credential (account_id, kind, verifier) values ($1, 'password', $2)
         on conflict on constraint credential_pkey do update set verifier = excluded.verifier",
        account.0,
        verifier
    )
    .execute(connection)
    .await?;
    Ok(())
}
