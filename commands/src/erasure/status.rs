//! The progress of an erasure.

use chrono::{DateTime, Utc};
use fulexo_domain::erasure::{CopyHolders, DestroyedData};
use fulexo_domain::values::AccountId;

use crate::error::CommandError;
use crate::vault::copy_holders;
use crate::write_side::WriteSide;

/// The progress of the erasure of an account, from the destruction of its key on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureStatus {
    /// The time at which the key was destroyed.
    pub erased_at: DateTime<Utc>,
    /// The id of the wrapping key under which the destroyed key was stored.
    pub wrapping_key: Option<String>,
    /// The numbers of rows that are destroyed so far.
    pub destroyed: DestroyedData,
    /// `true` if the write-ahead log was switched to another segment since; `None` if that is still to be tried.
    pub log_switched: Option<bool>,
    /// The time at which everything was deleted.
    pub completed_at: Option<DateTime<Utc>>,
    /// Those who took copies of events that may have the person's.
    pub copies: CopyHolders,
}

pub(crate) async fn status(side: &WriteSide, account: AccountId) -> Result<Option<ErasureStatus>, CommandError> {
    let row =
        sqlx::query!("select * from vault.erasure where account_id = $1", account.0).fetch_optional(&side.pool).await?;
    let Some(row) = row else { return Ok(None) };
    let copies = copy_holders::holders(&side.pool, account).await?;
    Ok(Some(ErasureStatus {
        erased_at: row.erased_at,
        wrapping_key: row.kek_id,
        destroyed: DestroyedData {
            sealed: row.sealed.unsigned_abs(),
            addresses: row.addresses.unsigned_abs(),
            verifiers: row.verifiers.unsigned_abs(),
            recovery_codes: row.recovery_codes.unsigned_abs(),
            refresh_roots: row.refresh_roots.unsigned_abs(),
            devices: row.devices.unsigned_abs(),
            attempts: row.attempts.unsigned_abs(),
            mails: row.mails.unsigned_abs(),
            mail_tokens: row.mail_tokens.unsigned_abs(),
            outcomes: row.outcomes.unsigned_abs(),
        },
        log_switched: row.log_switched,
        completed_at: row.completed_at,
        copies,
    }))
}

/// Returns the position and the leaf of the event that completed an erasure: the last one of the account. `None` before it.
pub(crate) async fn receipt(side: &WriteSide, account: AccountId) -> Result<Option<(u64, Vec<u8>)>, CommandError> {
    let row = sqlx::query!(
        r#"select e.position as "position!", e.leaf as "leaf!" from vault.erasure d
           cross join lateral (
               select position, leaf from log.event
               where stream_id = d.account_id and category = 'account' order by version desc limit 1) e
           where d.account_id = $1 and d.completed_at is not null"#,
        account.0
    )
    .fetch_optional(&side.pool)
    .await?;
    Ok(row.map(|row| (row.position.unsigned_abs(), row.leaf)))
}
