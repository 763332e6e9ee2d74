//! Reasons of administrators, sealed for the person whom the act concerns.

use fulexo_domain::event::Field;
use fulexo_domain::values::{AccountId, Reason};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::idempotency::IdempotencyKey;
use crate::vault::{DataKey, PersonalData, Vault};

pub(crate) fn bound(
    vault: &Vault,
    context: &Context,
    operation: &str,
    id: Uuid,
    reason: &Reason,
) -> Option<IdempotencyKey> {
    IdempotencyKey::of(vault, context, operation, &[id.as_bytes(), reason.as_str().as_bytes()])
}

/// The key of the person whom the reason is about; nobody's reason is kept where nobody can be found.
pub(crate) async fn sealing(
    vault: &Vault,
    account: AccountId,
    reason: &Reason,
) -> Result<Option<(DataKey, PersonalData)>, CommandError> {
    let personal = PersonalData::default().with(Field::Reason, Some(reason.as_str()));
    Ok(vault.subject_key(account).await?.map(|key| (key, personal)))
}

/// A reason that is about nobody is sealed under the key of whoever gives it.
pub(crate) async fn own_sealing(
    vault: &Vault,
    context: &Context,
    reason: &Reason,
) -> Result<Option<(DataKey, PersonalData)>, CommandError> {
    let key = match context.account() {
        Some(account) => vault.subject_key(account).await?,
        None => Some(vault.period_key(context.now).await?),
    };
    Ok(key.map(|key| (key, PersonalData::default().with(Field::Reason, Some(reason.as_str())))))
}
