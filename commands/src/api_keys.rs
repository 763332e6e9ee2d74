//! API keys: services act by themselves, within permissions and until a time. A key's secret is derived from its id with
//! a key that the database does not hold, so nothing that could be presented is stored, not even hashed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::api_key::{ApiKey, ApiKeyCommand, ApiKeyState};
use fulexo_domain::event::{Category, Stream};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{ApiKeyId, KeyName, Reason};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, Idempotency, TRIES};
use crate::log::Expected;
use crate::vault::Vault;
use crate::vault::crypto::equal;
use crate::{Commands, Done};

/// Longest life of a key.
pub const LONGEST_LIFE: TimeDelta = TimeDelta::days(366);
/// Most keys in use at once.
pub const MOST: i64 = 1_000;
/// What every key begins with, so that scanners of source code find it.
const PREFIX: &str = "fxk_";

/// A new API key. No `Debug`; wiped when dropped.
pub struct NewApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// What the service is to present; shown once.
    pub secret: Zeroizing<String>,
}

impl Commands {
    /// Makes an API key. `own` is what its maker may do: nobody gives what they do not hold.
    ///
    /// # Errors
    /// [`CommandError::GrantExceedsOwn`]; [`CommandError::ApiKeyLife`] for an end in the past or too far away;
    /// [`CommandError::TooMany`].
    pub async fn create_api_key(
        &self,
        context: &Context,
        own: Permissions,
        name: KeyName,
        permissions: Permissions,
        expires_at: DateTime<Utc>,
    ) -> Result<Done<NewApiKey>, CommandError> {
        let names: Vec<&str> = permissions.iter().map(Permission::as_str).collect();
        let (listed, ends) = (names.join(" "), expires_at.timestamp_micros().to_be_bytes());
        let content = [name.as_str().as_bytes(), listed.as_bytes(), &ends];
        let idempotency = Idempotency::of(&self.vault, context, "create_api_key", &content);
        if let Some(id) = self.disclosed_before(context, idempotency.as_ref()).await? {
            return self.done_before(self.new_api_key(id)).await;
        }
        if expires_at <= context.now || expires_at > context.now + LONGEST_LIFE {
            return Err(CommandError::ApiKeyLife);
        }
        if !own.covers(permissions) {
            return Err(CommandError::GrantExceedsOwn);
        }
        let decided = self.decide(idempotency.as_ref(), async || {
            let live = sqlx::query_scalar!(
                r#"select count(*) as "count!" from access.api_key where revoked_at is null and expires_at > $1"#,
                context.now
            )
            .fetch_one(&self.pool)
            .await?;
            if live >= MOST {
                return Err(CommandError::TooMany);
            }
            let id = ApiKeyId(context.new_id());
            let command = ApiKeyCommand::Create { name: name.clone(), permissions, expires_at };
            let events = ApiKey::handle_command(&ApiKeyState::None, command)?;
            let mut unit = self.unit(context);
            let needed = permissions.union(Permissions::of(&[Permission::ApiKeysManage]));
            self.rest_on_granter(&mut unit, context, needed).await?;
            unit.expect(Category::ApiKey, id.0, Expected::New);
            unit.record(id.0, context.account(), events)?;
            Ok((unit, self.disclosing(context, id).await?))
        });
        Ok(self.done_disclosing(context, decided.await?).await?.map(|id| self.new_api_key(id)))
    }

    /// Revokes an API key; revoking it again is no error.
    ///
    /// # Errors
    /// [`CommandError::ApiKey`] when there is no such key.
    pub async fn revoke_api_key(
        &self,
        context: &Context,
        key: ApiKeyId,
        reason: Option<Reason>,
    ) -> Result<Done<()>, CommandError> {
        let sealing = match &reason {
            Some(reason) => self.own_sealing(context, reason).await?,
            None => None,
        };
        for _ in 0..TRIES {
            let events = self.log.load(Stream { category: Category::ApiKey, id: key.0 }).await?;
            let (version, last) = events.last().map_or((0, None), |event| (event.version, Some(event.position)));
            let maker = events.first().and_then(|event| event.subject).map(fulexo_domain::values::AccountId);
            let events = events.into_iter().filter_map(|recorded| recorded.event.try_into().ok());
            let state = events.fold(ApiKeyState::None, ApiKey::apply_event);
            let events = ApiKey::handle_command(&state, ApiKeyCommand::Revoke)?;
            if events.is_empty() {
                return Ok(Done { value: (), position: last });
            }
            let mut unit = self.unit(context).sealing(sealing.clone());
            self.rest_on_granter(&mut unit, context, Permissions::of(&[Permission::ApiKeysManage])).await?;
            unit.expect(Category::ApiKey, key.0, Expected::Exact(version));
            unit.record(key.0, maker, events)?;
            match self.commit(unit, None, ()).await {
                Ok(Committed::New((), receipt)) => return Ok(Done { value: (), position: receipt.position }),
                Ok(Committed::Before(())) => return self.done_before(()).await,
                Err(CommandError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended)
    }

    /// The key that an authentic secret belongs to; whether it is in use is the access gate's to say.
    #[must_use]
    pub fn api_key(&self, secret: &str) -> Option<ApiKeyId> {
        // 16 + 32 bytes are 64 characters of base64url.
        let encoded = secret.strip_prefix(PREFIX).filter(|encoded| encoded.len() == 64)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).ok()?);
        let (id, mark) = bytes.split_first_chunk::<16>()?;
        let id = ApiKeyId(Uuid::from_bytes(*id));
        equal(mark, &mark_of(&self.vault, id)).then_some(id)
    }

    fn new_api_key(&self, id: ApiKeyId) -> NewApiKey {
        let bytes = Zeroizing::new([id.0.as_bytes().as_slice(), &mark_of(&self.vault, id)].concat());
        let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes));
        NewApiKey { id, secret: Zeroizing::new(format!("{PREFIX}{}", *encoded)) }
    }
}

fn mark_of(vault: &Vault, id: ApiKeyId) -> [u8; 32] {
    vault.digest("api-key", &[id.0.as_bytes()])
}
