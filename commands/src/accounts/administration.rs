//! The acts of administrators on the accounts and sessions of others, each with its reason: suspend, reinstate, unlock,
//! require a password change, end sessions.

use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountEvent};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, UnlockCause};
use fulexo_domain::event::Category;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::session::{RevocationCause, SessionError, SessionEvent, SessionState};
use fulexo_domain::values::{AccountId, Reason, SessionId};

use crate::accounts::profile;
use crate::authentication::attempts;
use crate::authorization::roles;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome, TRIES};
use crate::log::ExpectedVersion;
use crate::reason;
use crate::sessions::{sign_out, tokens};
use crate::write_side::WriteSide;

pub(crate) async fn suspend(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    // A concurrent login has either started its session before, which this ends, or conflicts with the account's new
    // version.
    change_suspension(side, context, own, account, AccountCommand::Suspend, "suspend", &reason).await
}

pub(crate) async fn reinstate(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    change_suspension(side, context, own, account, AccountCommand::Reinstate, "reinstate", &reason).await
}

async fn change_suspension(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    command: AccountCommand,
    operation: &str,
    reason: &Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency = reason::idempotency_key(&side.vault, context, operation, account.0, reason);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let sealing = reason::sealing_for_account(&side.vault, account, reason).await?;
        execute::decide(side, idempotency.as_ref(), || async {
            let (state, version) = side.account_state(account).await?;
            let events = Account::handle_command(&state, command.clone())?;
            let suspends = events.contains(&AccountEvent::Suspended {});
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            roles::require_rank(side, &mut unit, context, own, account, &state).await?;
            unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
            if suspends {
                sign_out::revoke_sessions(&side.pool, &mut unit, account, &state, None, RevocationCause::Suspension)
                    .await?;
            }
            unit.record(account.0, Some(account), events)?;
            if suspends {
                roles::keep_an_administrator(side, &mut unit, account, &state).await?;
            }
            Ok((unit, ()))
        })
        .await
    })
    .await
}

pub(crate) async fn unlock(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency = reason::idempotency_key(&side.vault, context, "unlock", account.0, &reason);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let unknown = fulexo_domain::account::AccountError::NotFound;
        let profile = profile::profile(side, account).await?.ok_or(unknown)?;
        let sealing = reason::sealing_for_account(&side.vault, account, &reason).await?;
        let address = profile.email.normalised();
        execute::decide(side, idempotency.as_ref(), || async {
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            roles::require_granter(side, &mut unit, context, Permissions::of(&[Permission::AccountsManage])).await?;
            let mut factors = attempts::counted_factors(side, account, &address).await?;
            if factors.is_empty() {
                // The counters may have expired. The log records the act and its reason in any case.
                factors.push(Factor::Password);
            }
            unit.vault(attempts::forget_all(&side.vault, account, &address));
            let by = UnlockCause::Admin;
            let lifted = |factor| AuthenticationEvent::LockLifted { factor, by, device: None, scope: None };
            unit.record(account.0, Some(account), factors.into_iter().map(lifted))?;
            Ok((unit, ()))
        })
        .await
    })
    .await
}

pub(crate) async fn expire_password(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency = reason::idempotency_key(&side.vault, context, "expire_password", account.0, &reason);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let sealing = reason::sealing_for_account(&side.vault, account, &reason).await?;
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = side.account_state(account).await?;
            let events = Account::handle_command(&state, AccountCommand::ExpirePassword)?;
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            roles::require_rank(side, &mut unit, context, own, account, &state).await?;
            unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
            // An account whose password has already expired has no session left.
            if !events.is_empty() {
                unit.record(account.0, Some(account), events)?;
                sign_out::revoke_sessions(
                    &side.pool,
                    &mut unit,
                    account,
                    &state,
                    None,
                    RevocationCause::PasswordExpired,
                )
                .await?;
            }
            Ok((unit, ()))
        })
        .await
    })
    .await
}

pub(crate) async fn end_session(
    side: &WriteSide,
    context: &Context,
    session: SessionId,
    reason: Option<Reason>,
) -> Result<CommandOutcome<()>, CommandError> {
    for _ in 0..TRIES {
        let loaded = tokens::load_session(side, session).await?;
        let live = match &loaded.state {
            SessionState::Live(live) => live,
            SessionState::Ended => return Ok(CommandOutcome { value: (), position: Some(loaded.last_position) }),
            SessionState::None => return Err(SessionError::Ended.into()),
        };
        let sealing = match &reason {
            Some(reason) => reason::sealing_for_account(&side.vault, live.account, reason).await?,
            None => None,
        };
        let mut unit = side.unit_of_work(context).sealing(sealing.clone());
        unit.expect(Category::Session, session.0, ExpectedVersion::Exact(loaded.version));
        unit.record(session.0, Some(live.account), [SessionEvent::Revoked { by: RevocationCause::Admin }])?;
        match execute::commit(side, unit, None, ()).await {
            Ok(CommitOutcome::New((), receipt)) => return Ok(CommandOutcome { value: (), position: receipt.position }),
            Ok(CommitOutcome::Replayed(())) => return execute::replayed(&side.log, ()).await,
            Err(CommandError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Err(CommandError::Conflict)
}

pub(crate) async fn end_all_sessions(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
) -> Result<CommandOutcome<usize>, CommandError> {
    sign_out::revoke_all(side, context, "end_all_sessions", account, None, RevocationCause::Admin).await
}
