//! API keys: services act on their own, within permissions and until an expiry. A key's secret is derived from its id
//! with a key that the database does not hold. No form of it is stored, not even a hash.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::api_key::{ApiKey, ApiKeyCommand, ApiKeyState};
use fulexo_domain::event::{Category, Stream};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{ApiKeyId, ApiKeyName, Reason};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::authorization::roles;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome, TRIES};
use crate::idempotency::IdempotencyKey;
use crate::log::ExpectedVersion;
use crate::vault::Vault;
use crate::vault::crypto::equal;
use crate::write_side::WriteSide;
use crate::{disclosure, reason};

/// The maximum lifetime of a key.
pub const MAX_LIFETIME: TimeDelta = TimeDelta::days(366);
/// The maximum number of live keys.
pub const MAX_LIVE_KEYS: i64 = 1_000;
/// The prefix of every key. Secret scanners recognise it in source code.
const PREFIX: &str = "fxk_";

/// A new API key. No `Debug`; wiped when dropped.
pub struct NewApiKey {
    /// The key's id.
    pub id: ApiKeyId,
    /// The secret that the service presents; shown once.
    pub secret: Zeroizing<String>,
}

fn mac_of(vault: &Vault, id: ApiKeyId) -> [u8; 32] {
    vault.digest("api-key", &[id.0.as_bytes()])
}

pub(crate) async fn create_api_key(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    name: ApiKeyName,
    permissions: Permissions,
    expires_at: DateTime<Utc>,
) -> Result<CommandOutcome<NewApiKey>, CommandError> {
    let names: Vec<&str> = permissions.iter().map(Permission::as_str).collect();
    let (listed, ends) = (names.join(" "), expires_at.timestamp_micros().to_be_bytes());
    let content = [name.as_str().as_bytes(), listed.as_bytes(), &ends];
    let idempotency = IdempotencyKey::of(&side.vault, context, "create_api_key", &content);
    let created = disclosure::run_once(side, context, idempotency.as_ref(), async {
        if expires_at <= context.now || expires_at > context.now + MAX_LIFETIME {
            return Err(CommandError::ApiKeyExpiry);
        }
        if !own.covers(permissions) {
            return Err(CommandError::GrantExceedsOwn);
        }
        execute::decide(side, idempotency.as_ref(), async || {
            let live = sqlx::query_scalar!(
                r#"select count(*) as "count!" from access.api_key where revoked_at is null and expires_at > $1"#,
                context.now
            )
            .fetch_one(&side.pool)
            .await?;
            if live >= MAX_LIVE_KEYS {
                return Err(CommandError::LimitReached);
            }
            let id = ApiKeyId(context.new_id());
            let command = ApiKeyCommand::Create { name: name.clone(), permissions, expires_at };
            let events = ApiKey::handle_command(&ApiKeyState::None, command)?;
            let mut unit = side.unit_of_work(context);
            let needed = permissions.union(Permissions::of(&[Permission::ApiKeysManage]));
            roles::require_granter(side, &mut unit, context, needed).await?;
            unit.expect(Category::ApiKey, id.0, ExpectedVersion::New);
            unit.record(id.0, context.account(), events)?;
            Ok((unit, disclosure::bind_to_factors(side, context, id).await?))
        })
        .await
    });
    Ok(created.await?.map(|id| new_api_key(&side.vault, id)))
}

pub(crate) async fn revoke_api_key(
    side: &WriteSide,
    context: &Context,
    key: ApiKeyId,
    reason: Option<Reason>,
) -> Result<CommandOutcome<()>, CommandError> {
    let sealing = match &reason {
        Some(reason) => reason::sealing_for_actor(&side.vault, context, reason).await?,
        None => None,
    };
    for _ in 0..TRIES {
        let events = side.log.load(Stream { category: Category::ApiKey, id: key.0 }).await?;
        let (version, last) = events.last().map_or((0, None), |event| (event.version, Some(event.position)));
        let maker = events.first().and_then(|event| event.subject).map(fulexo_domain::values::AccountId);
        // All events of the stream are of this category.
        let events = events.into_iter().filter_map(|recorded| recorded.event.try_into().ok());
        let state = events.fold(ApiKeyState::None, ApiKey::apply_event);
        let events = ApiKey::handle_command(&state, ApiKeyCommand::Revoke)?;
        if events.is_empty() {
            return Ok(CommandOutcome { value: (), position: last });
        }
        let mut unit = side.unit_of_work(context).sealing(sealing.clone());
        roles::require_granter(side, &mut unit, context, Permissions::of(&[Permission::ApiKeysManage])).await?;
        unit.expect(Category::ApiKey, key.0, ExpectedVersion::Exact(version));
        unit.record(key.0, maker, events)?;
        match execute::commit(side, unit, None, ()).await {
            Ok(CommitOutcome::New((), receipt)) => return Ok(CommandOutcome { value: (), position: receipt.position }),
            Ok(CommitOutcome::Replayed(())) => return execute::replayed(&side.log, ()).await,
            Err(CommandError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Err(CommandError::Conflict)
}

#[must_use]
pub(crate) fn api_key(vault: &Vault, secret: &str) -> Option<ApiKeyId> {
    // 16 + 32 bytes are 64 characters of base64url.
    let encoded = secret.strip_prefix(PREFIX).filter(|encoded| encoded.len() == 64)?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).ok()?);
    let (id, mac) = bytes.split_first_chunk::<16>()?;
    let id = ApiKeyId(Uuid::from_bytes(*id));
    equal(mac, &mac_of(vault, id)).then_some(id)
}

fn new_api_key(vault: &Vault, id: ApiKeyId) -> NewApiKey {
    let bytes = Zeroizing::new([id.0.as_bytes().as_slice(), &mac_of(vault, id)].concat());
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes));
    NewApiKey { id, secret: Zeroizing::new(format!("{PREFIX}{}", *encoded)) }
}
