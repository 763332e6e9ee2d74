//! Carries out erasures that are due, and deletes what an erasure leaves behind. Any node does, in steps that another node, or
//! the next one to start, continues after a crash:
//!
//! | step | what it does | where it is recorded |
//! |---|---|---|
//! | 1 | ends the account, destroys the data key, deletes everything in the vault | `account.erased`, `vault.erasure` |
//! | 2 | deletes what is sealed alongside the log, in batches | `purged_at` |
//! | 3 | writes the table of keys anew, for all erasures so far | `rewritten_at` |
//! | 4 | begins another segment of the write-ahead log | `log_switched` |
//! | 5 | records the receipt | `account.erasure_completed`, `completed_at` |

use std::time::Duration;

use fulexo_database::chain;
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand};
use fulexo_domain::event::Category;
use fulexo_domain::values::AccountId;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::erase_if_due;
use super::status::status;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute;
use crate::log::ExpectedVersion;
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

/// The maximum number of accounts per step and round.
const ACCOUNTS: i64 = 100;
/// The maximum number of sealed rows per transaction.
const BATCH: i64 = 1_000;
/// The interval between looks for erasures that are due, or that a crashed node left behind.
const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// The share of the time for which the table of keys may be locked, as its reciprocal: a large table takes longer to write, and
/// waits longer until it is written again.
const REST: u32 = 20;
/// The least time after which the table of keys is tried again when it, or what it had before, was in use.
const IN_USE: Duration = Duration::from_secs(30);

pub(crate) async fn destroy_what_is_due(side: &WriteSide, context: impl Fn() -> Context + Send) {
    let mut rewriter = Rewriter { not_before: Instant::now() };
    let mut reported = String::new();
    loop {
        match round(side, &context, &mut rewriter).await {
            Ok(()) => reported.clear(),
            Err(error) => {
                let because = chain(&error).to_string();
                // Once, and not in each round.
                if because != reported {
                    tracing::warn!(error = because, "an erasure could not be carried out; trying again");
                    reported = because;
                }
            }
        }
        tokio::select! {
            () = side.queues.erasures.notified() => {}
            () = sleep(POLL_INTERVAL) => {}
        }
    }
}

async fn round(
    side: &WriteSide,
    context: &(impl Fn() -> Context + Send),
    rewriter: &mut Rewriter,
) -> Result<(), CommandError> {
    let mut failure = None;
    for account in due(side, &context()).await? {
        // One that cannot be erased, such as the last administrator, does not keep the others.
        if let Err(error) = erase_if_due(side, &context(), account).await {
            failure = Some(error);
        }
    }
    for account in unfinished(side, ErasureStep::Purge).await? {
        purge(side, account).await?;
    }
    delete_late_rows(side).await?;
    rewriter.rewrite(side).await?;
    for account in unfinished(side, ErasureStep::Complete).await? {
        complete(side, &context(), account).await?;
    }
    failure.map_or(Ok(()), Err)
}

async fn due(side: &WriteSide, context: &Context) -> Result<Vec<AccountId>, CommandError> {
    // By the database's clock as well: a node whose clock is ahead takes nobody's time to withdraw.
    let due = sqlx::query_scalar!(
        "select account_id from access.account where erasure_due <= least($1, now()) order by erasure_due limit $2",
        context.now,
        ACCOUNTS
    )
    .fetch_all(&side.pool)
    .await?;
    Ok(due.into_iter().map(AccountId).collect())
}

/// A step for which erasures wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ErasureStep {
    Purge,
    Complete,
}

async fn unfinished(side: &WriteSide, step: ErasureStep) -> Result<Vec<Uuid>, CommandError> {
    let found = sqlx::query_scalar!(
        "select account_id from vault.erasure
         where completed_at is null and (purged_at is null) = $1 and ($1 or log_switched is not null)
         order by erased_at limit $2",
        step == ErasureStep::Purge,
        ACCOUNTS
    )
    .fetch_all(&side.pool)
    .await?;
    Ok(found)
}

/// Deletes what is sealed under the destroyed key, and the mail that was being sent. The counts move with the rows, so that they
/// are right whoever continues.
async fn purge(side: &WriteSide, account: Uuid) -> Result<(), CommandError> {
    loop {
        let deleted = sqlx::query_scalar!(
            r#"with deleted as (
                   delete from log.sealed where (position, ordinal) in (
                       select position, ordinal from log.sealed where subject_id = $1 order by position limit $2)
                   returning 1),
                 counted as (
                   update vault.erasure set sealed = sealed + (select count(*) from deleted) where account_id = $1)
               select count(*) as "deleted!" from deleted"#,
            account,
            BATCH
        )
        .fetch_one(&side.pool)
        .await?;
        if deleted == 0 {
            break;
        }
    }
    sqlx::query!(
        "with deleted as (delete from vault.mail where account_id = $1 returning 1)
         update vault.erasure set mails = mails + (select count(*) from deleted), purged_at = now()
         where account_id = $1 and purged_at is null",
        account
    )
    .execute(&side.pool)
    .await?;
    Ok(())
}

/// Deletes what commands that were under way still wrote about persons who were erased within the last hour. Nothing opens it.
async fn delete_late_rows(side: &WriteSide) -> Result<(), CommandError> {
    let erased = sqlx::query_scalar!(
        "select account_id from vault.erasure where completed_at > now() - interval '1 hour' order by completed_at desc
         limit $1",
        10 * ACCOUNTS
    )
    .fetch_all(&side.pool)
    .await?;
    if erased.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "with sealed as (delete from log.sealed where subject_id = any($1)),
         outcomes as (delete from log.command where account_id = any($1)),
         mails as (delete from vault.mail where account_id = any($1)),
         tokens as (delete from vault.mail_token where account_id = any($1)),
         devices as (delete from vault.known_device where account_id = any($1))
         delete from vault.attempt where account_id = any($1)",
        &erased
    )
    .execute(&side.pool)
    .await?;
    Ok(())
}

/// Takes destroyed keys out of the file of their table.
struct Rewriter {
    /// The table is left alone until then.
    not_before: Instant,
}

impl Rewriter {
    /// Writes the table anew, for all erasures that are purged, and begins another segment of the write-ahead log. A table in
    /// use, or that a transaction may read as it was before, is left for later.
    async fn rewrite(&mut self, side: &WriteSide) -> Result<(), CommandError> {
        // Before the table is written: an erasure that follows has to wait for the next time.
        let waiting = sqlx::query_scalar!(
            "select account_id from vault.erasure where purged_at is not null and rewritten_at is null limit $1",
            ACCOUNTS
        )
        .fetch_all(&side.pool)
        .await?;
        let began = Instant::now();
        if !waiting.is_empty() && began >= self.not_before {
            let is_written =
                sqlx::query_scalar!(r#"select vault.rewrite_keys() as "done!""#).fetch_one(&side.pool).await?;
            let rest = began.elapsed() * REST;
            self.not_before = Instant::now() + if is_written { rest } else { rest.max(IN_USE) };
            if is_written {
                sqlx::query!("select vault.refresh_statistics()").execute(&side.pool).await?;
                sqlx::query!("update vault.erasure set rewritten_at = now() where account_id = any($1)", &waiting)
                    .execute(&side.pool)
                    .await?;
            }
        }
        let waiting = sqlx::query_scalar!(
            "select account_id from vault.erasure where rewritten_at is not null and log_switched is null limit $1",
            ACCOUNTS
        )
        .fetch_all(&side.pool)
        .await?;
        if !waiting.is_empty() {
            let switched =
                sqlx::query_scalar!(r#"select vault.switch_log() as "switched!""#).fetch_one(&side.pool).await?;
            sqlx::query!("update vault.erasure set log_switched = $2 where account_id = any($1)", &waiting, switched)
                .execute(&side.pool)
                .await?;
        }
        Ok(())
    }
}

async fn complete(side: &WriteSide, context: &Context, account: Uuid) -> Result<(), CommandError> {
    let account = AccountId(account);
    let Some(found) = status(side, account).await? else { return Ok(()) };
    let command = AccountCommand::CompleteErasure {
        destroyed: found.destroyed,
        wrapping_key: found.wrapping_key,
        log_switched: found.log_switched.unwrap_or_default(),
        copies: found.copies,
    };
    execute::decide(side, None, async || {
        let (state, version) = side.account_state(account).await?;
        let events = Account::handle_command(&state, command.clone())?;
        let mut unit = side.unit_of_work(context);
        unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
        unit.record(account.0, Some(account), events)?;
        unit.vault(VaultWrite::CompleteErasure { account });
        Ok((unit, ()))
    })
    .await
    .map(|_| ())
}
