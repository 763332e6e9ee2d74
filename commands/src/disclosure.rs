//! Outcomes that disclose tokens or secrets, and the limits on disclosing them again.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::authentication::credentials;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome};
use crate::idempotency::{self, IdempotencyKey};
use crate::write_side::WriteSide;

/// An outcome whose answer discloses tokens or secrets, as the log stores it. A replay discloses them again for a few
/// minutes, and only while the factors of the account that earned them are unchanged.
#[derive(Serialize, Deserialize)]
pub(crate) struct DisclosedOutcome<O> {
    pub outcome: O,
    /// A digest of the account's factors; `None` if no account acted.
    factors: Option<[u8; 32]>,
}

/// Binds an outcome to the current factors of the account that acts.
pub(crate) async fn bind_to_factors<O>(
    side: &WriteSide,
    context: &Context,
    outcome: O,
) -> Result<DisclosedOutcome<O>, CommandError> {
    Ok(DisclosedOutcome { outcome, factors: actor_factors(side, context).await? })
}

/// Binds an outcome to the account's factors with the seed that this append puts in use.
pub(crate) async fn bind_to_seed<O>(
    side: &WriteSide,
    context: &Context,
    outcome: O,
    sealed: &[u8],
) -> Result<DisclosedOutcome<O>, CommandError> {
    let stored = match context.account() {
        Some(account) => credentials::find(side, account).await?,
        None => None,
    };
    Ok(DisclosedOutcome {
        outcome,
        factors: stored.map(|stored| credentials::factors_digest(&side.vault, &stored.verifier, Some(sealed))),
    })
}

/// Runs [`execute::run_once`] for a command whose answer discloses secrets.
///
/// # Errors
/// [`CommandError::OutcomeExpired`] if the secrets of a stored outcome may not be disclosed again.
pub(crate) async fn run_once<O: DeserializeOwned>(
    side: &WriteSide,
    context: &Context,
    idempotency: Option<&IdempotencyKey>,
    act: impl Future<Output = Result<CommitOutcome<DisclosedOutcome<O>>, CommandError>>,
) -> Result<CommandOutcome<O>, CommandError> {
    match replay(side, context, idempotency).await? {
        Some(outcome) => execute::replayed(&side.log, outcome).await,
        None => answer(side, context, act.await?).await,
    }
}

/// Returns the stored outcome of this command, if its secrets may be disclosed again.
async fn replay<O: DeserializeOwned>(
    side: &WriteSide,
    context: &Context,
    idempotency: Option<&IdempotencyKey>,
) -> Result<Option<O>, CommandError> {
    let before = idempotency::stored_outcome_with_age::<DisclosedOutcome<O>>(&side.log, idempotency).await?;
    let Some((stored, is_recent)) = before else { return Ok(None) };
    if !is_recent {
        return Err(CommandError::OutcomeExpired);
    }
    Ok(Some(disclose(side, context, stored).await?))
}

async fn disclose<O>(side: &WriteSide, context: &Context, stored: DisclosedOutcome<O>) -> Result<O, CommandError> {
    if stored.factors != actor_factors(side, context).await? {
        return Err(CommandError::OutcomeExpired);
    }
    Ok(stored.outcome)
}

/// Returns a digest of the factors of the account that acts, if an account acts.
async fn actor_factors(side: &WriteSide, context: &Context) -> Result<Option<[u8; 32]>, CommandError> {
    let Some(account) = context.account() else { return Ok(None) };
    Ok(credentials::find(side, account).await?.map(|stored| credentials::factors_digest_of(&side.vault, &stored)))
}

/// Returns the answer to a commit, new or replayed.
async fn answer<O>(
    side: &WriteSide,
    context: &Context,
    committed: CommitOutcome<DisclosedOutcome<O>>,
) -> Result<CommandOutcome<O>, CommandError> {
    match committed {
        CommitOutcome::New(DisclosedOutcome { outcome, .. }, receipt) => {
            Ok(CommandOutcome { value: outcome, position: receipt.position })
        }
        CommitOutcome::Replayed(stored) => execute::replayed(&side.log, disclose(side, context, stored).await?).await,
    }
}
