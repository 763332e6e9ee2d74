//! Idempotency keys, and the outcomes stored under them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::log::{CommandRecord, EventLog};
use crate::vault::Vault;

/// A client's idempotency key, bound to the caller, the operation and the content.
#[derive(Clone)]
pub(crate) struct IdempotencyKey {
    id: [u8; 32],
    request_hash: [u8; 32],
    account: Option<Uuid>,
}

/// The time during which a replay discloses tokens and secrets again, in seconds.
const DISCLOSED_FOR: i64 = 600;

impl IdempotencyKey {
    /// Binds the key of a request, or returns `None` if there is none. All digests are keyed: an attacker could guess
    /// passwords against a plain digest of a request.
    pub fn of(vault: &Vault, context: &Context, operation: &str, content: &[&[u8]]) -> Option<Self> {
        let key = context.idempotency_key.as_deref()?;
        let caller = context.actor.id().map(|id| id.to_string()).unwrap_or_default();
        let id = vault.digest("idempotency/id", &[caller.as_bytes(), operation.as_bytes(), key.as_bytes()]);
        let account = context.account().map(|account| account.0);
        Some(Self { id, request_hash: vault.digest("idempotency/content", content), account })
    }

    /// Returns the record that the log stores for the command.
    pub fn record<O: Serialize>(&self, outcome: &O) -> Result<CommandRecord, CommandError> {
        let Self { id, request_hash, account } = *self;
        Ok(CommandRecord { id, request_hash, result: serde_json::to_string(outcome)?, account })
    }
}

/// Returns the stored outcome of this command, or `None` if it is new.
pub(crate) async fn stored_outcome<O: DeserializeOwned>(
    log: &EventLog,
    idempotency: Option<&IdempotencyKey>,
) -> Result<Option<O>, CommandError> {
    Ok(stored_outcome_with_age(log, idempotency).await?.map(|(outcome, _)| outcome))
}

/// Returns the stored outcome, and `true` if it is recent enough to disclose its secrets again.
pub(crate) async fn stored_outcome_with_age<O: DeserializeOwned>(
    log: &EventLog,
    idempotency: Option<&IdempotencyKey>,
) -> Result<Option<(O, bool)>, CommandError> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    let Some(stored) = log.outcome(&idempotency.id).await? else { return Ok(None) };
    if stored.request_hash != idempotency.request_hash {
        return Err(CommandError::IdempotencyKeyReused);
    }
    Ok(Some((serde_json::from_str(&stored.result)?, stored.age < DISCLOSED_FOR)))
}
