//! Outcomes that hand out tokens or secrets, and until when they are handed out again.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::authentication::credentials;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome};
use crate::idempotency::{self, IdempotencyKey};
use crate::write_side::WriteSide;

/// An outcome whose answer hands out tokens or secrets, as the log remembers it. The same idempotency key gets them again
/// for minutes, and only while the factors of whoever earned it are the same.
#[derive(Serialize, Deserialize)]
pub(crate) struct DisclosedOutcome<O> {
    pub outcome: O,
    /// A digest of the factors; none where no account asked.
    factors: Option<[u8; 32]>,
}

/// An outcome that hands out secrets, earned by the account that acts.
pub(crate) async fn disclosing<O>(
    side: &WriteSide,
    context: &Context,
    outcome: O,
) -> Result<DisclosedOutcome<O>, CommandError> {
    Ok(DisclosedOutcome { outcome, factors: acting_factors(side, context).await? })
}

/// The same, where the account's second factor is another one from this very append on.
pub(crate) async fn disclosing_with_seed<O>(
    side: &WriteSide,
    context: &Context,
    outcome: O,
    sealed: &[u8],
) -> Result<DisclosedOutcome<O>, CommandError> {
    let found = match context.account() {
        Some(account) => credentials::find(side, account).await?,
        None => None,
    };
    Ok(DisclosedOutcome {
        outcome,
        factors: found.map(|found| credentials::factors(&side.vault, &found.verifier, Some(sealed))),
    })
}

/// The outcome of this very command before, as long as what it handed out is handed out again.
///
/// # Errors
/// [`CommandError::OutcomeExpired`].
pub(crate) async fn disclosed_before<O: DeserializeOwned>(
    side: &WriteSide,
    context: &Context,
    idempotency: Option<&IdempotencyKey>,
) -> Result<Option<O>, CommandError> {
    let before = idempotency::before_with_age::<DisclosedOutcome<O>>(&side.log, idempotency).await?;
    let Some((disclosing, is_recent)) = before else { return Ok(None) };
    if !is_recent {
        return Err(CommandError::OutcomeExpired);
    }
    Ok(Some(disclose(side, context, disclosing).await?))
}

async fn disclose<O>(side: &WriteSide, context: &Context, disclosing: DisclosedOutcome<O>) -> Result<O, CommandError> {
    if disclosing.factors != acting_factors(side, context).await? {
        return Err(CommandError::OutcomeExpired);
    }
    Ok(disclosing.outcome)
}

/// A digest of the factors of the account that acts, where one does.
async fn acting_factors(side: &WriteSide, context: &Context) -> Result<Option<[u8; 32]>, CommandError> {
    let Some(account) = context.account() else { return Ok(None) };
    Ok(credentials::find(side, account).await?.map(|found| credentials::factors_of(&side.vault, &found)))
}

/// The answer to what was committed now, or a moment ago under the same idempotency key.
pub(crate) async fn done_disclosing<O>(
    side: &WriteSide,
    context: &Context,
    committed: CommitOutcome<DisclosedOutcome<O>>,
) -> Result<CommandOutcome<O>, CommandError> {
    match committed {
        CommitOutcome::New(DisclosedOutcome { outcome, .. }, receipt) => {
            Ok(CommandOutcome { value: outcome, position: receipt.position })
        }
        CommitOutcome::Replayed(disclosing) => {
            execute::done_before(&side.log, disclose(side, context, disclosing).await?).await
        }
    }
}
