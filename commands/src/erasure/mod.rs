//! The erasure of an account: its owner asks for it and may withdraw that until it is due; an administrator carries it out at
//! once. The event destroys the person's data key, so that from then on nothing sealed of them opens; what that leaves behind
//! is deleted afterwards ([`destruction`]).

pub mod destruction;
pub mod remains;
mod status;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountEvent, AccountState, Initiator};
use fulexo_domain::event::Category;
use fulexo_domain::leaf::to_micros;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, Reason};

pub use self::status::ErasureStatus;
pub(crate) use self::status::{receipt, status};
use crate::accounts::profile;
use crate::authentication::attempts;
use crate::authorization::roles;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::idempotency::IdempotencyKey;
use crate::log::ExpectedVersion;
use crate::reason;
use crate::unit_of_work::UnitOfWork;
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

pub(crate) async fn start(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
) -> Result<CommandOutcome<DateTime<Utc>>, CommandError> {
    let idempotency = IdempotencyKey::of(&side.vault, context, "start_erasure", &[account.0.as_bytes()]);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let days = side.current_policy().await?.erasure.withdrawal_days;
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = side.account_state(account).await?;
            let due_at = to_micros(context.now + TimeDelta::days(i64::from(days)));
            let events = Account::handle_command(&state, AccountCommand::StartErasure { due_at })?;
            let mut unit = side.unit_of_work(context);
            unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
            roles::keep_an_administrator(side, &mut unit, account, &state).await?;
            unit.record(account.0, Some(account), events)?;
            Ok((unit, state.erasure_due.unwrap_or(due_at)))
        })
        .await
    })
    .await
}

pub(crate) async fn withdraw(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency = IdempotencyKey::of(&side.vault, context, "withdraw_erasure", &[account.0.as_bytes()]);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = side.account_state(account).await?;
            let events = Account::handle_command(&state, AccountCommand::WithdrawErasure)?;
            let mut unit = side.unit_of_work(context);
            unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
            unit.record(account.0, Some(account), events)?;
            Ok((unit, ()))
        })
        .await
    })
    .await
}

/// Returns the time from which on the account is erased; `None` if its owner has not asked for that.
pub(crate) async fn due(side: &WriteSide, account: AccountId) -> Result<Option<DateTime<Utc>>, CommandError> {
    Ok(side.account_state(account).await?.0.erasure_due)
}

/// Erases an account at once. The reason is sealed under the administrator's key: the person's is destroyed. Has no effect on
/// an account that was erased.
pub(crate) async fn erase(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency = reason::idempotency_key(&side.vault, context, "erase", account.0, &reason);
    let erased = execute::run_once(&side.log, idempotency.as_ref(), async {
        let sealing = reason::sealing_for_actor(&side.vault, context, &reason).await?;
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = side.account_state(account).await?;
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            if state.erased {
                let needed = Permissions::of(&[Permission::AccountsErase]);
                roles::require_granter(side, &mut unit, context, needed).await?;
                return Ok((unit, ()));
            }
            let rank = (own, Permission::AccountsErase);
            roles::require_rank_and(side, &mut unit, context, rank, account, &state).await?;
            record(side, &mut unit, account, (&state, version), Initiator::Admin).await?;
            Ok((unit, ()))
        })
        .await
    })
    .await?;
    side.queues.erasures.notify_one();
    Ok(erased)
}

/// Erases an account whose owner asked for it, if it is due.
async fn erase_if_due(side: &WriteSide, context: &Context, account: AccountId) -> Result<(), CommandError> {
    execute::decide(side, None, async || {
        let (state, version) = side.account_state(account).await?;
        let mut unit = side.unit_of_work(context);
        // Withdrawn meanwhile, or erased by another node.
        if state.erasure_due.is_some_and(|due| due <= context.now) {
            record(side, &mut unit, account, (&state, version), Initiator::Owner).await?;
        }
        Ok((unit, ()))
    })
    .await
    .map(|_| ())
}

/// Adds the erasure of an account in this state.
async fn record(
    side: &WriteSide,
    unit: &mut UnitOfWork<'_>,
    account: AccountId,
    (state, version): (&AccountState, u64),
    by: Initiator,
) -> Result<(), CommandError> {
    let events: Vec<AccountEvent> = Account::handle_command(state, AccountCommand::Erase { by })?;
    unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
    roles::keep_an_administrator(side, unit, account, state).await?;
    let profile = profile::profile(side, account).await?;
    let address_key = profile.map(|profile| attempts::address_key(&side.vault, &profile.email.normalised()));
    unit.vault(VaultWrite::Erase { account, address_key });
    unit.record(account.0, Some(account), events)
}
