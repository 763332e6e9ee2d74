//! Idempotency keys, and outcomes that were stored under them.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error::CommandError;
use crate::log::{CommandRecord, EventLog};
use crate::vault::Vault;

/// A client's idempotency key, bound to caller, operation and content.
#[derive(Clone)]
pub(crate) struct IdempotencyKey {
    id: [u8; 32],
    request_hash: [u8; 32],
}

/// How long tokens and secrets are handed out again under the same idempotency key, in seconds.
const DISCLOSED_FOR: i64 = 600;

impl IdempotencyKey {
    /// `None` without a key. Everything is keyed: a plain digest of a request that holds a password would be
    /// something to guess against.
    pub fn of(vault: &Vault, context: &Context, operation: &str, content: &[&[u8]]) -> Option<Self> {
        let key = context.idempotency_key.as_deref()?;
        let caller = context.actor.id().map(|id| id.to_string()).unwrap_or_default();
        let id = vault.digest("idempotency/id", &[caller.as_bytes(), operation.as_bytes(), key.as_bytes()]);
        Some(Self { id, request_hash: vault.digest("idempotency/content", content) })
    }

    /// What the log is to remember of the command.
    pub fn record<O: Serialize>(&self, outcome: &O) -> Result<CommandRecord, CommandError> {
        Ok(CommandRecord { id: self.id, request_hash: self.request_hash, result: serde_json::to_string(outcome)? })
    }
}

/// What this very command came to before; nothing when it is new.
pub(crate) async fn before<O: DeserializeOwned>(
    log: &EventLog,
    idempotency: Option<&IdempotencyKey>,
) -> Result<Option<O>, CommandError> {
    Ok(before_with_age(log, idempotency).await?.map(|(outcome, _)| outcome))
}

/// The same, and whether it is recent enough for what it discloses.
pub(crate) async fn before_with_age<O: DeserializeOwned>(
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
