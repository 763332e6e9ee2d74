//! Deletes expired rows, a bounded number at a time: results of commands, counted attempts and requests, roots of
//! sessions, known devices, mailed tokens, and, with its key, what was sealed for nobody in particular. It never deletes from the
//! log.

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use fulexo_domain::authentication::DEVICE_LIFETIME;
use fulexo_domain::lockout::COUNTER_RETENTION;
use sqlx::PgPool;
use sqlx::postgres::PgQueryResult;

use crate::vault::write::MAIL_LIMIT_PERIOD;

/// The time during which a command's result answers its idempotency key.
const COMMAND_RETENTION: TimeDelta = TimeDelta::hours(24);
/// The maximum number of rows of one kind per sweep.
const MAX_ROWS: i64 = 5_000;

/// The sweep of expired rows.
#[derive(Clone)]
pub struct Retention {
    pool: PgPool,
    /// The time for which data is kept that is sealed for nobody in particular, from the end of its month.
    anonymous: TimeDelta,
}

/// The result of one sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepResult {
    /// The number of deleted rows.
    pub rows: u64,
    /// `true` if a limit was reached, so that more rows may be left.
    pub more: bool,
}

impl Retention {
    /// Creates the sweep over the write side's tables.
    #[must_use]
    pub const fn new(pool: PgPool, anonymous: TimeDelta) -> Self {
        Self { pool, anonymous }
    }

    /// Deletes the rows that have expired by the database's clock as well as by `now`: a node whose clock is ahead does
    /// no harm. It also creates the log's next partition long before it is needed.
    ///
    /// # Errors
    /// The database's; the next sweep deletes the rest.
    pub async fn sweep(&self, now: DateTime<Utc>) -> Result<SweepResult, sqlx::Error> {
        let made = sqlx::query_scalar!(r#"select log.extend() as "made!""#).fetch_one(&self.pool).await?;
        if made > 0 {
            tracing::info!(made, "partitions of the log were created");
        }
        let now = sqlx::query_scalar!(r#"select least($1, now()) as "now!""#, now).fetch_one(&self.pool).await?;
        let commands = sqlx::query!(
            "delete from log.command where command_id in (
                 select command_id from log.command where recorded_at < $1 order by recorded_at limit $2)",
            now - COMMAND_RETENTION,
            MAX_ROWS
        )
        .execute(&self.pool)
        .await?;
        let attempts = sqlx::query!(
            "delete from vault.attempt where (key_hash, factor) in (
                 select key_hash, factor from vault.attempt
                 where window_ends_at < $1 and (locked_until is null or locked_until < $1)
                 order by window_ends_at limit $2)",
            now - COUNTER_RETENTION,
            MAX_ROWS
        )
        .execute(&self.pool)
        .await?;
        let roots = sqlx::query!(
            "delete from vault.refresh_root where session_id in (
                 select session_id from vault.refresh_root where expires_at < $1 order by expires_at limit $2)",
            now,
            MAX_ROWS
        )
        .execute(&self.pool)
        .await?;
        let devices = sqlx::query!(
            "delete from vault.known_device where (account_id, device) in (
                 select account_id, device from vault.known_device
                 where first_used_at < $1 order by first_used_at limit $2)",
            now - DEVICE_LIFETIME,
            MAX_ROWS
        )
        .execute(&self.pool)
        .await?;
        let buckets = sqlx::query!(
            "delete from vault.rate_limit where key_hash in (
                 select key_hash from vault.rate_limit where full_at < clock_timestamp() limit $1)",
            MAX_ROWS
        )
        .execute(&self.pool)
        .await?;
        let tokens = sqlx::query!(
            "delete from vault.mail_token where token_hash in (
                 select token_hash from vault.mail_token where expires_at < $1 order by expires_at limit $2)",
            now,
            MAX_ROWS
        )
        .execute(&self.pool)
        .await?;
        let mails = sqlx::query!(
            "delete from vault.mail where mail_id in (
                 select mail_id from vault.mail where sealed is null and created_at < $1 limit $2)",
            now - MAIL_LIMIT_PERIOD,
            MAX_ROWS
        )
        .execute(&self.pool)
        .await?;
        let months = self.forget_months(now).await?;
        let swept = [commands, attempts, roots, devices, buckets, tokens, mails, months];
        let swept = swept.map(|result| result.rows_affected());
        Ok(SweepResult { rows: swept.iter().sum(), more: swept.iter().any(|rows| *rows >= MAX_ROWS.unsigned_abs()) })
    }

    /// Deletes the keys of months whose data has been kept long enough, then that data: what is left of it between two sweeps
    /// opens no more. A key that was wrapped with another one since is gone from old pages and backups, too.
    async fn forget_months(&self, now: DateTime<Utc>) -> Result<PgQueryResult, sqlx::Error> {
        let before = (now - self.anonymous).date_naive();
        // The month of this day has not ended when its time began.
        let before = before.with_day(1).unwrap_or(before);
        let keys = sqlx::query_scalar!("delete from vault.period_key where period < $1 returning period", before);
        for month in keys.fetch_all(&self.pool).await? {
            tracing::info!(%month, "the key of a month was destroyed: its data has been kept long enough");
        }
        sqlx::query!(
            "delete from log.sealed where (position, ordinal) in (
                 select position, ordinal from log.sealed where period < $1 limit $2)",
            before,
            MAX_ROWS
        )
        .execute(&self.pool)
        .await
    }
}
