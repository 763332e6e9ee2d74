//! Refresh: rotation of refresh tokens, and detection of copies. The tokens are issued in `tokens`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_domain::Aggregate;
use fulexo_domain::event::Category;
use fulexo_domain::policy::FingerprintPolicy;
use fulexo_domain::rate_limit::RouteGroup;
use fulexo_domain::session::{LiveSession, Session, SessionCommand, SessionError, SessionState};
use fulexo_domain::values::{AccountId, SessionId};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::authentication::devices;
use crate::authorization::lockdown;
use crate::context::{Context, network_facts};
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome, TRIES};
use crate::idempotency::{self, IdempotencyKey};
use crate::log::ExpectedVersion;
use crate::quotas::QuotaHolder;
use crate::rate_limit;
use crate::sessions::refresh_token::{RefreshToken, device_of_token};
use crate::sessions::tokens::{self, Tokens};
use crate::vault::Vault;
use crate::write_side::WriteSide;

/// The outcome of a refresh, as the log stores it under the idempotency key.
#[derive(Serialize, Deserialize)]
enum RefreshOutcome {
    Refused,
    /// The generation of the new token.
    Refreshed(u32),
}

/// The visible characteristics of the client that refreshes.
struct ClientFingerprint {
    fingerprint: String,
    /// The session's device, if the client presented its token.
    device: Option<Uuid>,
}

/// Returns the product that a user agent names, without its version: an updated browser is still the same browser.
fn user_agent_family(user_agent: &str) -> &str {
    const FAMILIES: [&str; 5] = ["Edg", "OPR", "Firefox", "Chrome", "Safari"];
    FAMILIES
        .into_iter()
        .find(|family| user_agent.contains(family))
        .unwrap_or_else(|| user_agent.split(['/', ' ']).next().unwrap_or_default())
}

#[must_use]
pub(crate) fn named_session(refresh_token: &str) -> Option<SessionId> {
    RefreshToken::parse(refresh_token).map(|presented| presented.session)
}

pub(crate) async fn session_of(
    side: &WriteSide,
    refresh_token: &str,
) -> Result<Option<(AccountId, SessionId)>, CommandError> {
    let Some(presented) = RefreshToken::parse(refresh_token) else { return Ok(None) };
    let Some(root) = tokens::refresh_root(&side.pool, presented.session).await? else { return Ok(None) };
    let is_authentic = presented.is_authentic(&side.vault, &root.secret);
    Ok(is_authentic.then_some((root.account, presented.session)))
}

pub(crate) async fn refresh(
    side: &WriteSide,
    context: &Context,
    token: &str,
    device: Option<&str>,
) -> Result<CommandOutcome<Tokens>, CommandError> {
    let presented = RefreshToken::parse(token).ok_or(CommandError::InvalidCredentials)?;
    let session = presented.session;
    let root = tokens::refresh_root(&side.pool, session).await?.ok_or(CommandError::InvalidCredentials)?;
    if !presented.is_authentic(&side.vault, &root.secret) {
        return Err(CommandError::InvalidCredentials);
    }
    rate_limit::spend(side, RouteGroup::AccountRefresh, QuotaHolder::Account(root.account), 1)?;
    // A client that presents a device token must be the one that logged in, even if the account no longer knows the
    // device.
    let device = device.map(|token| device_of_token(&side.vault, root.account, token).unwrap_or_default());
    let fingerprint = fingerprint(&side.vault, context, device.unwrap_or(root.device));
    let client = ClientFingerprint { fingerprint, device: device.filter(|device| *device == root.device) };
    let idempotency = IdempotencyKey::of(&side.vault, context, "refresh", &[token.as_bytes()]);
    match idempotency::stored_outcome_with_age(&side.log, idempotency.as_ref()).await? {
        // Too long ago: treated as any used token.
        Some((RefreshOutcome::Refreshed(_), false)) | None => {}
        Some((RefreshOutcome::Refreshed(generation), true)) => {
            // After a later refresh, or from a client that looks different, this is treated as any used token, despite
            // its idempotency key.
            if !lockdown::admission_of(side, root.account).await?.admitted {
                return Err(CommandError::LockedDown);
            }
            if may_replay(side, context, session, &client).await?
                && let Some(done) = tokens::issue_again(side, context, session, generation, None).await?
            {
                return Ok(done);
            }
        }
        Some((RefreshOutcome::Refused, _)) => return Err(CommandError::InvalidCredentials),
    }

    let policy = side.current_policy().await?;
    for _ in 0..TRIES {
        let loaded = tokens::load_session(side, session).await?;
        let SessionState::Live(live) = &loaded.state else { return Err(CommandError::InvalidCredentials) };
        let matches_client = matches_client(&side.pool, context, live, &client).await?;
        let command = SessionCommand::Refresh {
            generation: presented.generation,
            fingerprint: if matches_client { live.fingerprint.clone() } else { client.fingerprint.clone() },
            at: context.now,
            policy: policy.sessions.clone(),
        };
        let events = match Session::handle_command(&loaded.state, command) {
            Ok(events) => events,
            Err(SessionError::Ended | SessionError::AlreadyStarted) => {
                return Err(CommandError::InvalidCredentials);
            }
        };
        let after = events.iter().cloned().fold(loaded.state.clone(), Session::apply_event);
        let refreshed = match &after {
            SessionState::Live(live) => Some(live),
            SessionState::None | SessionState::Ended => None,
        };
        let admission = lockdown::admission_of(side, live.account).await?;
        if refreshed.is_some() && !admission.admitted {
            return Err(CommandError::LockedDown);
        }
        if events.is_empty() {
            let position = loaded.last_position;
            let value = tokens::issue_live(side, context, session, live, &loaded, position, &root.secret).await?;
            return Ok(CommandOutcome { value, position: Some(position) });
        }

        let acting = context.acting_as(live.account);
        let sealing = side.vault.subject_key(live.account).await?.map(|key| (key, network_facts(context)));
        let mut unit = side.unit_of_work(&acting).sealing(sealing);
        unit.expect(Category::Session, session.0, ExpectedVersion::Exact(loaded.version));
        if refreshed.is_some() {
            admission.expect_unchanged(&mut unit);
            // The session is live at this version of the account: revoking all sessions changes the account.
            unit.expect(Category::Account, live.account.0, ExpectedVersion::Exact(loaded.account_version));
        }
        unit.record(session.0, Some(live.account), events)?;
        let outcome = refreshed.map_or(RefreshOutcome::Refused, |live| RefreshOutcome::Refreshed(live.generation));
        // A used token with a known key is decided again, and that outcome is not stored.
        let is_rotated = refreshed.is_some_and(|refreshed| refreshed.generation != live.generation);
        let remembered = idempotency.as_ref().filter(|_| is_rotated);
        match execute::commit(side, unit, remembered, outcome).await {
            Ok(CommitOutcome::New(RefreshOutcome::Refreshed(_), receipt)) => {
                let position = receipt.position.unwrap_or_default();
                let live = refreshed.ok_or(CommandError::InvalidCredentials)?;
                let value = tokens::issue_live(side, context, session, live, &loaded, position, &root.secret).await?;
                return Ok(CommandOutcome { value, position: Some(position) });
            }
            // The same token was presented with the same key a moment ago.
            Ok(CommitOutcome::Replayed(RefreshOutcome::Refreshed(_)))
                if !may_replay(side, context, session, &client).await? => {}
            Ok(CommitOutcome::Replayed(RefreshOutcome::Refreshed(generation))) => {
                let again = tokens::issue_again(side, context, session, generation, None).await?;
                return again.ok_or(CommandError::InvalidCredentials);
            }
            Ok(CommitOutcome::New(RefreshOutcome::Refused, _) | CommitOutcome::Replayed(RefreshOutcome::Refused)) => {
                return Err(CommandError::InvalidCredentials);
            }
            // Another tab was faster. Its outcome decides this one.
            Err(CommandError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Err(CommandError::Conflict)
}

/// Returns `true` if a stored outcome may be replayed to this client.
async fn may_replay(
    side: &WriteSide,
    context: &Context,
    session: SessionId,
    client: &ClientFingerprint,
) -> Result<bool, CommandError> {
    if side.current_policy().await?.sessions.fingerprint == FingerprintPolicy::Record {
        return Ok(true);
    }
    match &tokens::load_session(side, session).await?.state {
        SessionState::Live(live) => matches_client(&side.pool, context, live, client).await,
        SessionState::None | SessionState::Ended => Ok(false),
    }
}

/// Returns `true` for the same browser family on the same device. The token of a known device outweighs the browser's
/// own claims.
async fn matches_client(
    pool: &PgPool,
    context: &Context,
    live: &LiveSession,
    client: &ClientFingerprint,
) -> Result<bool, CommandError> {
    if live.fingerprint == client.fingerprint {
        return Ok(true);
    }
    match client.device {
        Some(device) => devices::knows_device(pool, context, live.account, device).await,
        None => Ok(false),
    }
}

/// Returns the client's fingerprint: a keyed digest of the browser family and the device, which identifies nobody. It
/// excludes languages, because they are preferences that a browser may vary or withhold (RFC 9110, section 12.5.4).
pub(crate) fn fingerprint(vault: &Vault, context: &Context, device: Uuid) -> String {
    let family = user_agent_family(context.origin.user_agent.as_deref().unwrap_or_default());
    let digest = vault.digest("fingerprint", &[family.as_bytes(), device.as_bytes()]);
    URL_SAFE_NO_PAD.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_of_the_browser_is_not_another_browser() {
        let chrome = |version| {
            format!("Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version} Safari/537.36")
        };
        assert_eq!(user_agent_family(&chrome("120.0")), user_agent_family(&chrome("121.0")));
        assert_eq!(user_agent_family("curl/8.1"), "curl");
        assert_eq!(user_agent_family(""), "");
    }
}
