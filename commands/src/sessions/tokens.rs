//! A session as the log and the vault hold it, and the tokens that its owner receives. `refresh` rotates them;
//! `sign_out` and `ends` end sessions.

use chrono::{DateTime, Utc};
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::session::{LiveSession, SessionError, SessionState};
use fulexo_domain::snapshot::SessionSnapshot;
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use sqlx::PgPool;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::CommandOutcome;
use crate::sessions::access_token::TokenGrant;
use crate::sessions::refresh_token;
use crate::vault::Vault;
use crate::vault::crypto::equal;
use crate::write_side::WriteSide;

/// The reason for which there is no access token.
#[derive(Debug, thiserror::Error)]
#[error("an access token cannot be signed")]
struct SigningError(#[source] jsonwebtoken::errors::Error);

/// The tokens of a session. No `Debug`; wiped when dropped.
pub struct Tokens {
    /// The access token, a JWT; valid for [`Tokens::expires_in`] seconds.
    pub access_token: Zeroizing<String>,
    /// The refresh token; valid for one use.
    pub refresh_token: Zeroizing<String>,
    /// The lifetime of the access token, in seconds.
    pub expires_in: i64,
    /// The session.
    pub session: SessionId,
    /// The token that identifies this device at later logins; only after a login.
    pub device_token: Option<Zeroizing<String>>,
}

/// The content of a session's tokens.
pub(crate) struct TokenParameters {
    pub account: AccountId,
    pub session: SessionId,
    pub generation: u32,
    pub authenticated_at: DateTime<Utc>,
    pub methods: Vec<AuthenticationMethod>,
    /// `true` if the session requires a step-up before anything else.
    pub step_up_required: bool,
    pub roles: Vec<RoleName>,
    pub position: u64,
    pub session_ends_at: DateTime<Utc>,
}

/// The root of a live session's refresh tokens, from the vault.
pub(crate) struct RefreshRoot {
    pub account: AccountId,
    pub device: Uuid,
    /// The secret that its refresh tokens are derived from.
    pub secret: Zeroizing<Vec<u8>>,
}

/// A session, loaded from the log.
pub(crate) struct LoadedSession {
    /// The state; also ended if all sessions of the account were revoked.
    pub state: SessionState,
    pub version: u64,
    pub started_at: DateTime<Utc>,
    /// The position of its last event, or of the event that revoked all sessions.
    pub last_position: u64,
    /// `true` if the second factor presented in it still counts.
    pub second_factor: bool,
    /// The account's version at which, or after which, the rest was read.
    pub account_version: u64,
}

#[must_use]
pub(crate) fn csrf_token(vault: &Vault, session: SessionId) -> String {
    refresh_token::csrf_token(vault, session)
}

#[must_use]
pub(crate) fn is_csrf_token(vault: &Vault, session: SessionId, presented: &[u8]) -> bool {
    equal(csrf_token(vault, session).as_bytes(), presented)
}

/// Issues the tokens of a replayed command again, if their generation is still the current one.
pub(crate) async fn issue_again(
    side: &WriteSide,
    context: &Context,
    session: SessionId,
    generation: u32,
    device_token: Option<String>,
) -> Result<Option<CommandOutcome<Tokens>>, CommandError> {
    let Some(root) = refresh_root(&side.pool, session).await? else { return Ok(None) };
    let loaded = load_session(side, session).await?;
    let SessionState::Live(live) = &loaded.state else { return Ok(None) };
    if live.generation != generation {
        return Ok(None);
    }
    let position = loaded.last_position;
    let mut value = issue_live(side, context, session, live, &loaded, position, &root.secret).await?;
    value.device_token = device_token.map(Zeroizing::new);
    Ok(Some(CommandOutcome { value, position: Some(position) }))
}

pub(crate) async fn issue_live(
    side: &WriteSide,
    context: &Context,
    session: SessionId,
    live: &LiveSession,
    loaded: &LoadedSession,
    position: u64,
    root: &[u8],
) -> Result<Tokens, CommandError> {
    let (account, _) = side.account_state(live.account).await?;
    let live = TokenParameters {
        account: live.account,
        session,
        generation: live.generation,
        authenticated_at: loaded.started_at,
        methods: live
            .methods
            .iter()
            .copied()
            .filter(|it| *it != AuthenticationMethod::OneTime || loaded.second_factor)
            .collect(),
        step_up_required: live.step_up_required,
        roles: account.roles.into_iter().collect(),
        position,
        session_ends_at: live.expires_at,
    };
    issue(side, context, live, root, None)
}

pub(crate) fn issue(
    side: &WriteSide,
    context: &Context,
    issue: TokenParameters,
    root: &[u8],
    device_token: Option<String>,
) -> Result<Tokens, CommandError> {
    let TokenParameters {
        account,
        session,
        generation,
        authenticated_at,
        methods,
        step_up_required,
        roles,
        position,
        session_ends_at,
    } = issue;
    // No token outlives its session.
    let expires_at = (context.now + side.keys.lifetime()).min(session_ends_at);
    let epoch = side.epoch;
    let grant = TokenGrant {
        account,
        session,
        authenticated_at,
        methods,
        step_up_required,
        roles,
        position,
        epoch,
        expires_at,
    };
    let access_token = side
        .keys
        .sign(grant, context.new_id(), context.now)
        .map_err(|error| CommandError::internal(SigningError(error)))?;
    Ok(Tokens {
        access_token: Zeroizing::new(access_token),
        refresh_token: Zeroizing::new(refresh_token::refresh_token(&side.vault, root, session, generation)),
        expires_in: (expires_at - context.now).num_seconds(),
        session,
        device_token: device_token.map(Zeroizing::new),
    })
}

pub(crate) async fn refresh_root(pool: &PgPool, session: SessionId) -> Result<Option<RefreshRoot>, CommandError> {
    let row = sqlx::query!(
        "select r.account_id, r.device, r.root
         from vault.refresh_root r join access.live_session s on s.session_id = r.session_id
         where r.session_id = $1",
        session.0
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| RefreshRoot {
        account: AccountId(row.account_id),
        device: row.device,
        secret: Zeroizing::new(row.root),
    }))
}

/// Returns the device that a live session started on.
pub(crate) async fn device_of(pool: &PgPool, session: SessionId) -> Result<Uuid, CommandError> {
    Ok(refresh_root(pool, session).await?.ok_or(SessionError::Ended)?.device)
}

pub(crate) async fn load_session(side: &WriteSide, session: SessionId) -> Result<LoadedSession, CommandError> {
    let standing = sqlx::query!(
        r#"select l.session_id is not null as "is_good!", coalesce(l.second_factor, false) as "second_factor!",
                  coalesce(a.sessions_from, 0) as "sessions_from!", coalesce(v.version, 0) as "account_version!"
           from access.session s
           left join access.live_session l on l.session_id = s.session_id
           left join access.account a on a.account_id = s.account_id
           left join log.stream v on v.stream_id = s.account_id and v.category = 'account'
           where s.session_id = $1"#,
        session.0
    )
    .fetch_optional(&side.pool)
    .await?;
    let folded = side.log.snapshot::<SessionSnapshot>(session.0).await?;
    let mut loaded = LoadedSession {
        state: folded.snapshot.state,
        version: folded.version,
        started_at: folded.snapshot.started_at.unwrap_or(DateTime::UNIX_EPOCH),
        last_position: folded.last_position.unwrap_or_default(),
        second_factor: standing.as_ref().is_some_and(|standing| standing.second_factor),
        account_version: standing.as_ref().map_or(0, |standing| standing.account_version.unsigned_abs()),
    };
    // Without a row, it ended long ago.
    if let SessionState::Live(_) = loaded.state
        && !standing.as_ref().is_some_and(|standing| standing.is_good)
    {
        let taken_away = standing.map_or(0, |standing| standing.sessions_from.unsigned_abs());
        loaded.last_position = loaded.last_position.max(taken_away);
        loaded.state = SessionState::Ended;
    }
    Ok(loaded)
}
