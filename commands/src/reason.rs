//! The reasons that administrators give, sealed for the person whom the act concerns.

use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::values::{AccountId, Reason};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::idempotency::IdempotencyKey;
use crate::vault::{DataKey, PersonalData, Vault};

pub(crate) fn idempotency_key(
    vault: &Vault,
    context: &Context,
    operation: &str,
    id: Uuid,
    reason: &Reason,
) -> Option<IdempotencyKey> {
    IdempotencyKey::of(vault, context, operation, &[id.as_bytes(), reason.as_str().as_bytes()])
}

/// Returns the key of the account that the reason concerns, and the reason to seal under it. `None` if that key was
/// destroyed: the reason is then not stored.
pub(crate) async fn sealing_for_account(
    vault: &Vault,
    account: AccountId,
    reason: &Reason,
) -> Result<Option<(DataKey, PersonalData)>, CommandError> {
    let personal = PersonalData::default().with(SealedField::Reason, Some(reason.as_str()));
    Ok(vault.subject_key(account).await?.map(|key| (key, personal)))
}

/// Returns the key of the actor and the reason to seal under it, for acts that do not concern one person. Actors
/// without an account use the key of the month.
pub(crate) async fn sealing_for_actor(
    vault: &Vault,
    context: &Context,
    reason: &Reason,
) -> Result<Option<(DataKey, PersonalData)>, CommandError> {
    text_of_actor(vault, context, SealedField::Reason, reason.as_str()).await
}

/// Does the same for another text that the actor wrote.
pub(crate) async fn text_of_actor(
    vault: &Vault,
    context: &Context,
    field: SealedField,
    text: &str,
) -> Result<Option<(DataKey, PersonalData)>, CommandError> {
    let key = match context.account() {
        Some(account) => vault.subject_key(account).await?,
        None => Some(vault.period_key(context.now).await?),
    };
    Ok(key.map(|key| (key, PersonalData::default().with(field, Some(text)))))
}
