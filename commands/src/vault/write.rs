//! Secrets that change in the transaction of their event. The sequencer writes them, in the order of the batch.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::authentication::MAX_KNOWN_DEVICES;
use fulexo_domain::event::{Actor, RecordedEvent};
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use fulexo_domain::values::{AccountId, SessionId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::subject::WrappedKey;
use super::{copy_holders, key_epochs};

/// A change of the vault.
pub enum VaultWrite {
    /// The data key of a new person.
    SubjectKey(WrappedKey),
    /// A new password verifier. The old one moves to the history, of which `keep` entries remain.
    Password {
        /// The account.
        account: AccountId,
        /// Sealed under the account's key.
        verifier: Vec<u8>,
        /// The number of earlier verifiers to keep.
        keep: i64,
    },
    /// A new verifier of the same password. The history does not change.
    Rehash {
        /// The account.
        account: AccountId,
        /// Sealed under the account's key.
        verifier: Vec<u8>,
    },
    /// The root of a new session's refresh tokens.
    RefreshRoot {
        /// The session.
        session: SessionId,
        /// The account.
        account: AccountId,
        /// The device of the login.
        device: Uuid,
        /// The random root.
        root: [u8; 32],
        /// The absolute expiry of the session.
        expires_at: DateTime<Utc>,
    },
    /// The end of a session: its refresh tokens become invalid.
    ForgetRefreshRoot {
        /// The session.
        session: SessionId,
    },
    /// A lockout that an event records.
    Lock {
        /// The HMAC of the counter's key.
        key_hash: [u8; 32],
        /// The factor's name.
        factor: &'static str,
        /// The end of the lockout.
        until: DateTime<Utc>,
        /// The number of consecutive lockouts.
        nth: u32,
        /// The event that records it, in the same append.
        event: Uuid,
    },
    /// A successful attempt: resets its own counter, and takes the attempt back from the account's counter over all
    /// devices.
    SuccessfulAttempt {
        /// The HMAC of the key of the attempt's own counter: an address, an account or a device.
        key_hash: [u8; 32],
        /// The HMAC of the key of the counter over all devices.
        account_key: [u8; 32],
        /// The factor's name.
        factor: &'static str,
        /// The time at which it was counted.
        at: DateTime<Utc>,
    },
    /// A failed attempt: it counts, and is no longer pending.
    FailedAttempt {
        /// The HMAC of the key of the attempt's own counter: an address, an account or a device.
        key_hash: [u8; 32],
        /// The HMAC of the key of the counter over all devices.
        account_key: [u8; 32],
        /// The factor's name.
        factor: &'static str,
        /// The time at which it was counted.
        at: DateTime<Utc>,
    },
    /// Resets one counter.
    ClearAttempts {
        /// The HMAC of the counter's key.
        key_hash: [u8; 32],
        /// The factor's name.
        factor: &'static str,
    },
    /// Resets every counter of an account, on all devices.
    ForgetAttempts {
        /// The account.
        account: AccountId,
        /// The HMAC of the key of the address's counter.
        key_hash: [u8; 32],
        /// The factor's name; `None` for both.
        factor: Option<&'static str>,
    },
    /// A login on a device. A new device becomes known, in place of the least recently used one if the account knows
    /// the maximum. A known device that is still known is marked as used.
    UseDevice {
        /// The account.
        account: AccountId,
        /// The device. The login itself draws the id of a new one, so that a forgotten device never returns.
        device: Uuid,
        /// `true` if the device was known before.
        known: bool,
        /// The session that it started.
        session: SessionId,
        /// The time.
        at: DateTime<Utc>,
    },
    /// Forgets a device.
    ForgetDevice {
        /// The account.
        account: AccountId,
        /// The device.
        device: Uuid,
    },
    /// Forgets every device of an account.
    ForgetDevices {
        /// The account.
        account: AccountId,
    },
    /// Revokes the mailed tokens of these purposes.
    ForgetMailTokens {
        /// The account.
        account: AccountId,
        /// The purposes.
        purposes: &'static [&'static str],
    },
    /// A mail to send, with the token in its link. Not written if the hourly limit of its kind is reached.
    Mail {
        /// The mail's id.
        id: Uuid,
        /// The recipient's account.
        account: AccountId,
        /// The name of its kind.
        kind: &'static str,
        /// The hourly limit of this kind.
        hourly_limit: i64,
        /// The HMAC of the token and its purpose.
        token: [u8; 32],
        /// The purpose of the token.
        purpose: &'static str,
        /// The expiry of the token.
        expires_at: DateTime<Utc>,
        /// Its content, sealed under the account's key.
        sealed: Vec<u8>,
        /// The time.
        at: DateTime<Utc>,
    },
    /// The seed of a pending second factor.
    PendingSeed {
        /// The account.
        account: AccountId,
        /// Sealed under the account's key.
        seed: Vec<u8>,
    },
    /// Puts the pending seed in use.
    ConfirmSeed {
        /// The account.
        account: AccountId,
    },
    /// A new set of recovery codes, which replaces the old one.
    RecoveryCodes {
        /// The account.
        account: AccountId,
        /// The HMACs of the codes.
        hashes: Vec<Vec<u8>>,
    },
    /// Deletes a used recovery code.
    SpendRecoveryCode {
        /// The account.
        account: AccountId,
        /// The HMAC of the code.
        hash: [u8; 32],
    },
    /// Deletes the second factor: its seeds, its recovery codes, and the counters of its attempts.
    ForgetSecondFactor {
        /// The account.
        account: AccountId,
    },
    /// Destroys the data key of a person, and deletes all that the vault has of them. What is sealed alongside the log is
    /// deleted afterwards, in batches: without the key nothing opens it.
    Erase {
        /// The account.
        account: AccountId,
        /// The HMAC of the key of the address's counter, if the address is known.
        address_key: Option<[u8; 32]>,
    },
    /// Marks an erasure as completed.
    CompleteErasure {
        /// The account.
        account: AccountId,
    },
    /// Counts a copy of events that its holder has begun to take.
    CountCopy {
        /// The holder.
        by: Actor,
        /// The position of the last event of the copy; `None` if it goes on.
        last: Option<u64>,
        /// The time of the copy.
        at: DateTime<Utc>,
    },
    /// A key takes the place of another.
    ReplaceKey {
        /// The purpose of both.
        kind: KeyPurpose,
        /// The key before.
        from: KeyLabel,
        /// The key from now on.
        to: KeyLabel,
    },
    /// A key was destroyed.
    DestroyKey {
        /// The purpose.
        kind: KeyPurpose,
        /// The key.
        id: KeyLabel,
    },
}

/// Writes the secrets of a batch, whose events were recorded just before.
pub(crate) async fn write(
    connection: &mut PgConnection,
    writes: &[&VaultWrite],
    recorded: &[Arc<RecordedEvent>],
) -> Result<(), sqlx::Error> {
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
            VaultWrite::Lock { key_hash, factor, until, nth, event } => {
                let position = recorded.iter().find(|recorded| recorded.id == *event).map(|recorded| recorded.position);
                sqlx::query!(
                    "update vault.attempt
                     set recent = array[]::timestamptz[], pending = array[]::timestamptz[], locked_until = $3, locks = $4,
                         locked_by = $5
                     where key_hash = $1 and factor = $2",
                    key_hash,
                    factor,
                    until,
                    i32::try_from(*nth).unwrap_or(i32::MAX),
                    position.and_then(|position| i64::try_from(position).ok())
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
            VaultWrite::Mail { id, account, kind, hourly_limit, token, purpose, expires_at, sealed, at } => {
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
                    hourly_limit,
                    *at - MAIL_LIMIT_PERIOD
                )
                .execute(&mut *connection)
                .await?;
                if queued.rows_affected() == 1 {
                    store_mail_token(connection, token, *account, purpose, *expires_at).await?;
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
            VaultWrite::ReplaceKey { kind, from, to } => key_epochs::replace(connection, *kind, from, to).await?,
            VaultWrite::DestroyKey { kind, id } => key_epochs::destroy(connection, *kind, id).await?,
            VaultWrite::ForgetSecondFactor { account } => forget_second_factor(connection, *account).await?,
            VaultWrite::Erase { account, address_key } => erase(connection, *account, *address_key).await?,
            VaultWrite::CompleteErasure { account } => {
                sqlx::query!("update vault.erasure set completed_at = now() where account_id = $1", account.0)
                    .execute(&mut *connection)
                    .await?;
            }
            VaultWrite::CountCopy { by, last, at } => copy_holders::count(connection, *by, *last, *at).await?,
            VaultWrite::SuccessfulAttempt { key_hash, account_key, factor, at } => {
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
            VaultWrite::FailedAttempt { key_hash, account_key, factor, at } => {
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

/// The period of the limits on mail.
pub(crate) const MAIL_LIMIT_PERIOD: TimeDelta = TimeDelta::hours(1);
/// The maximum number of devices that stay known when a new one is added.
const MAX_OTHER_DEVICES: i64 = MAX_KNOWN_DEVICES - 1;
/// The maximum number of tokens per account and purpose. The oldest are deleted.
const MAX_TOKENS: i64 = 500;

async fn store_mail_token(
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
        MAX_TOKENS - 1
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

/// Runs under the log's lock, so that the order of use is the order of the log.
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
        // The database's clock bounds the time, so that a node whose clock is ahead does not extend it.
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
            MAX_OTHER_DEVICES
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

async fn erase(
    connection: &mut PgConnection,
    account: AccountId,
    address_key: Option<[u8; 32]>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with key as (
             update vault.subject_key set wrapped = null, shredded_at = now()
             where subject_id = $1 and wrapped is not null returning kek_id),
         addresses as (select log.release_keys($1) as released),
         credentials as (delete from vault.credential where account_id = $1 returning 1),
         earlier as (delete from vault.password_history where account_id = $1 returning 1),
         codes as (delete from vault.recovery_code where account_id = $1 returning 1),
         roots as (delete from vault.refresh_root where account_id = $1 returning 1),
         devices as (delete from vault.known_device where account_id = $1 returning 1),
         attempts as (delete from vault.attempt where account_id = $1 or key_hash = $2 returning 1),
         -- One that is being sent is deleted afterwards: nothing waits for a mail server here.
         mails as (
             delete from vault.mail where mail_id in (
                 select mail_id from vault.mail where account_id = $1 for update skip locked)
             returning 1),
         tokens as (delete from vault.mail_token where account_id = $1 returning 1),
         outcomes as (delete from log.command where account_id = $1 returning 1)
         insert into vault.erasure
             (account_id, erased_at, kek_id, addresses, verifiers, recovery_codes, refresh_roots, devices, attempts, mails,
              mail_tokens, outcomes)
         values ($1, now(), (select kek_id from key), (select released from addresses),
                 (select count(*) from credentials) + (select count(*) from earlier), (select count(*) from codes),
                 (select count(*) from roots), (select count(*) from devices), (select count(*) from attempts),
                 (select count(*) from mails), (select count(*) from tokens), (select count(*) from outcomes))
         -- A restored log may not know of an erasure that the vault knows of.
         on conflict on constraint erasure_pkey do update
         set erased_at = excluded.erased_at, kek_id = coalesce(excluded.kek_id, erasure.kek_id), purged_at = null,
             rewritten_at = null, log_switched = null, completed_at = null",
        account.0,
        address_key.as_ref().map(<[u8; 32]>::as_slice)
    )
    .execute(connection)
    .await?;
    Ok(())
}
